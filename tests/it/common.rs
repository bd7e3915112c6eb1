//! What many tests need: a watchdog, records whose bytes follow from a number, and seeded chance.

use std::sync::mpsc;
use std::time::{Duration, SystemTime};
use std::{env, panic, process, thread};

use seawall::{Entry, Iter, Lsn, Options, Record, Result, Wal};

/// Runs `body`, and ends the whole test run if it takes longer: a lost wake-up is a failure, never
/// a hang.
pub(crate) fn watchdog<T: Send>(seconds: u64, body: impl FnOnce() -> T + Send) -> T {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let (done, finished) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let worker = thread::Builder::new().name(name.clone()).spawn_scoped(scope, move || {
            let outcome = body();
            drop(done); // A panic drops it as well: the watchdog only guards against silence.
            outcome
        });
        let worker = worker.expect("a thread can be started");
        if finished.recv_timeout(Duration::from_secs(seconds))
            == Err(mpsc::RecvTimeoutError::Timeout)
        {
            eprintln!(
                "\nWATCHDOG: {name} is not done after {seconds} s: somebody waits for ever\n"
            );
            process::abort();
        }
        worker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// Options with the smallest segments, so that a short history has many of them.
pub(crate) fn small_segments() -> Options {
    Options::new().segment_bytes(16 << 10)
}

/// A record as the caller knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) payload: Vec<u8>,
    pub(crate) meta: Vec<u8>,
    pub(crate) kind: u16,
}

impl Stored {
    /// Makes record `number`, of `payload_bytes`: a pure function of both, and no two numbers give
    /// the same bytes (but for empty payloads).
    pub(crate) fn numbered(number: u64, payload_bytes: usize) -> Stored {
        let mut rng = Rng::new(number);
        let meta_bytes = if number % 3 == 0 { rng.below(40) } else { 0 };
        let kind = u16::try_from(number % 5).expect("below 5");
        Stored { payload: rng.bytes(payload_bytes), meta: rng.bytes(meta_bytes), kind }
    }

    /// Makes record `number`, of a size that follows from it: mostly small, some empty, some
    /// several KiB.
    pub(crate) fn mixed(number: u64) -> Stored {
        let sizes = [0, 1, 7, 8, 24, 100, 333, 512, 1000, 3000];
        let pick = Rng::new(!number).below(sizes.len());
        Stored::numbered(number, sizes[pick])
    }

    pub(crate) fn entry(&self) -> Entry<'_> {
        Entry::new(&self.payload).with_meta(&self.meta).with_kind(self.kind)
    }

    pub(crate) fn is(&self, record: &Record) -> bool {
        (self.payload.as_slice(), self.meta.as_slice(), self.kind)
            == (record.payload(), record.meta(), record.kind())
    }
}

impl From<&Record> for Stored {
    fn from(record: &Record) -> Stored {
        Stored {
            payload: record.payload().to_vec(),
            meta: record.meta().to_vec(),
            kind: record.kind(),
        }
    }
}

/// Collects what an iterator yields, and checks on the way that the LSNs are dense. Also returns
/// the first of them.
pub(crate) fn collect(iter: Iter) -> Result<(Option<Lsn>, Vec<Stored>)> {
    let (mut first, mut next, mut records) = (None, None, Vec::new());
    for record in iter {
        let record = record?;
        assert!(
            next.is_none_or(|next| next == record.lsn()),
            "LSNs are dense: {next:?}, {}",
            record.lsn()
        );
        first = first.or(Some(record.lsn()));
        next = Some(record.lsn().next());
        records.push(Stored::from(&record));
    }
    Ok((first, records))
}

/// Replays a log that has never seen a checkpoint.
pub(crate) fn replay(wal: &Wal) -> Vec<Stored> {
    let (first, records) = collect(wal.iter()).expect("a sound log is replayed without errors");
    assert!(
        first.is_none_or(|first| first == Lsn::FIRST),
        "nothing was checkpointed, and yet it starts at {first:?}"
    );
    records
}

/// Returns the seed of a random test: `SEAWALL_SEED` if that is set, else one from the clock.
/// Prints it, for a second run.
pub(crate) fn seed() -> u64 {
    let given =
        env::var("SEAWALL_SEED").ok().map(|seed| seed.parse().expect("SEAWALL_SEED is a number"));
    let seed = given.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        u64::from(now.expect("it is after 1970").subsec_nanos())
    });
    println!("to run it again: SEAWALL_SEED={seed}");
    seed
}

/// Chance that can be repeated: splitmix64.
#[derive(Debug, Clone)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("below a usize")
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }
}
