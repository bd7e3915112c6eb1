//! `Wal`: the public handle. Wires the layers together; contains no byte layout and no system call.
//! What keeps the files in order, from `rotate` to `close`, is in [`maintain`]; what removes
//! records from the end is in [`truncate`].

mod append;
mod maintain;
mod ready;
mod snapshot;
mod spares;
mod ticket;
mod truncate;

use std::fmt;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::commit::{AtRest, Commit};
use crate::dir::{Dir, DirLock};
use crate::disk::Disk;
use crate::error::{Error, Result};
use crate::fs::{Fs, Medium, OsFs};
use crate::health::Health;
use crate::lsn::Lsn;
use crate::observer::{Event, Patience};
use crate::options::{Durability, Options};
use crate::reader::{self, Cursor, Follower, Iter, Reader, Record};
use crate::recovery::{recover, refuse_other_store};
use crate::report::RecoveryReport;
use crate::stats::{Counters, Stats};
use crate::store::Store;
use crate::threads::{self, Mutex, thread};
use crate::watch::Watch;

pub use ready::Ready;
use spares::run_maintenance;
pub use ticket::Ticket;

/// A write-ahead log: an open directory of segments.
///
/// It is `Send + Sync`: share it by reference or in an [`Arc`]. Any number of threads may append,
/// read, rotate and checkpoint at the same time. Threads that append at the same time share one
/// sync. In the default mode, an open log has no thread of its own until a [`Ticket`] or a
/// [`Ready`] is polled, or a ticket gets a callback.
///
/// Dropping the log closes it, as [`close`](Wal::close) does, and blocks for a sync. A failure goes
/// to the log output only.
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("data/wal");
/// let wal = seawall::Wal::open(&path)?;
/// let lsn = wal.append(b"debit 7")?; // The record now survives a power cut.
/// for record in wal.iter() {
///     assert_eq!(record?.payload(), b"debit 7");
/// }
/// wal.checkpoint(lsn)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Wal {
    store: Arc<Store>,
    commit: Arc<Commit<Store>>,
    health: Arc<Health>,
    counters: Arc<Counters>,
    report: RecoveryReport,
    mode: Durability,
    record_bytes_max: u64,
    batch_bytes_max: u64,
    /// Held for as long as the log is open. The thread that closes the log gives it back.
    lock: Mutex<Option<DirLock>>,
    /// The process that opened the log. A forked child only forgets it.
    process_id: u32,
    timer: Mutex<Option<thread::JoinHandle<()>>>,
}

/// Where everything is that was submitted before a call.
#[derive(Debug)]
enum Settled {
    Synced,
    /// It was durable already.
    NothingToSync,
    /// `Buffered` mode: what is not written waits in memory, since the disk is full. What was
    /// written is durable.
    InMemory(Error),
}

impl Wal {
    /// Opens the log in `dir` with default [`Options`]. Creates it if there is none, and recovers
    /// it if it was not closed.
    ///
    /// Creates the directory, and those above it, if they are not there. Recovery is complete when
    /// this returns; [`recovery`](Wal::recovery) reports what it found and did. Blocks until each
    /// sealed segment is read and verified; [`Options::verify`] can shorten this.
    ///
    /// # Errors
    /// [`Error::Locked`], at once, if the log is open elsewhere. [`Error::Corrupt`],
    /// [`Error::MissingSegment`], [`Error::UnsupportedVersion`] and [`Error::NotALog`] change no
    /// file. After [`Error::StorageFull`] and [`Error::Io`], nothing is lost: mend the cause and
    /// open the log again.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("data/wal");
    /// let wal = seawall::Wal::open(&path)?;
    /// assert!(wal.recovery().is_clean());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(dir: impl AsRef<Path>) -> Result<Wal> {
        Options::new().open(dir)
    }

    fn open_with(options: &Options, fs: Arc<dyn Fs>, dir: &Path) -> Result<Wal> {
        options.validate()?;
        let dir = Arc::new(if options.create_if_missing {
            Dir::open_or_create(fs, dir)?
        } else {
            Dir::open_log(fs, dir)?
        });
        refuse_other_store(&dir)?;
        let lock = dir.lock()?;
        let path = dir.path().display();
        match dir.medium() {
            Medium::Network => {
                log::warn!("{path} is on a network: locks and syncs are another machine's word");
            }
            Medium::Memory => {
                log::warn!("{path} is in memory: nothing in it survives a power cut or a restart");
            }
            Medium::Volatile => {
                log::warn!(
                    "{path} is mounted so that syncs do nothing: a power cut may lose records; \
                     mount it without `volatile` and `nobarrier`"
                );
            }
            Medium::InPlace | Medium::CopyOnWrite => {}
        }
        let process_id = dir.process_id();
        let watch = Arc::new(Watch::new(Lsn::ZERO));
        let health = Arc::new(Health::new(watch.clone()));
        let recovered = recover(&dir, &health, options)?;
        let next = recovered.next;
        let report = recovered.report.clone();
        let counters = Arc::new(Counters::default());
        let (store, writer) =
            Store::new(dir, options, counters.clone(), health.clone(), watch.clone(), recovered);
        let store = Arc::new(store);
        watch.set_all(next.previous(), next.previous());
        let at_rest = AtRest {
            next,
            tail_end: store.tail_end(&writer),
            state: writer.written().state.clone(),
            file: store.file(&writer).clone(),
            writer,
            health: health.clone(),
            watch,
            events: store.events.clone(),
        };
        let commit = Arc::new(Commit::new(store.clone(), counters.clone(), options, at_rest));
        let wal = Wal {
            store,
            commit,
            health,
            counters,
            report,
            mode: options.durability,
            record_bytes_max: options.record_bytes_max,
            batch_bytes_max: options.batch_bytes_max(),
            lock: Mutex::new(Some(lock)),
            process_id,
            timer: Mutex::new(None),
        };
        if let Durability::Interval(interval) = options.durability {
            let commit = wal.commit.clone();
            let builder = thread::Builder::new().name("seawall-sync".into());
            let timer = builder.spawn(move || commit.run_timer(interval));
            *threads::lock(&wal.timer) =
                Some(timer.map_err(|error| {
                    Error::io("start the timer of", wal.store.dir.path(), error)
                })?);
        }
        wal.store.events.push(|| Event::Recovered(Box::new(wal.report.clone())));
        wal.store.events.deliver(Patience::Room);
        Ok(wal)
    }

    /// Makes all that was appended before this call durable, in each mode. Returns the durable LSN.
    ///
    /// With nothing to sync, it returns at once. At most every 100 ms, it first writes into CURRENT
    /// how far the log is durable.
    ///
    /// # Errors
    /// [`Error::StorageFull`], only with [`Durability::Buffered`]: what was written is durable, and
    /// the rest waits in memory. [`Error::Truncated`], only then too: another thread has truncated
    /// what waited. [`Error::Poisoned`], [`Error::Closed`].
    pub fn sync(&self) -> Result<Lsn> {
        let _delivery = self.store.events.delivery(Patience::Room);
        match self.settle()? {
            Settled::Synced => run_maintenance(&self.commit),
            Settled::NothingToSync => self.mark_if_old()?,
            Settled::InMemory(full) => return Err(full),
        }
        Ok(self.durable_lsn())
    }

    /// Brings everything that was submitted before the call to its outcome. A group that a full
    /// disk revoked has its own, which its callers are told: it is no longer in the log.
    fn settle(&self) -> Result<Settled> {
        self.settle_until(None)
    }

    /// As [`settle`](Wal::settle). Gives up when the log's clock shows `deadline`.
    fn settle_until(&self, deadline: Option<Duration>) -> Result<Settled> {
        match self.commit.sync_until(deadline) {
            Ok(Some(_)) => Ok(Settled::Synced),
            Ok(None) => Ok(Settled::NothingToSync),
            Err(full @ Error::StorageFull { .. }) => {
                // What is written is no worse off for what is not.
                drop(self.commit.quiesce_until(deadline)?);
                let waits = self.mode == Durability::Buffered;
                Ok(if waits { Settled::InMemory(full) } else { Settled::Synced })
            }
            Err(error) => Err(error),
        }
    }

    /// Hands all that was appended before this call to the operating system. It then survives a
    /// killed process. Only a sync makes it survive a power cut.
    ///
    /// # Errors
    /// As [`sync`](Wal::sync).
    pub fn flush(&self) -> Result<()> {
        let _delivery = self.store.events.delivery(Patience::Room);
        self.commit.flush()?;
        run_maintenance(&self.commit);
        Ok(())
    }

    /// Iterates the records above the checkpoint, in order, up to the durable LSN as of this call.
    ///
    /// Records that become durable later are not seen. With [`Durability::Sync`], the iterator sees
    /// each record that was acknowledged before this call.
    #[must_use]
    pub fn iter(&self) -> Iter {
        Iter::new(&self.store.segments, None)
    }

    /// Iterates the records from `lsn` on, up to the durable LSN as of this call.
    ///
    /// If `lsn` is at or below the checkpoint, the first item is [`Error::Removed`]. For
    /// [`Lsn::ZERO`], it is [`Error::OutOfRange`]. If `lsn` is above the durable LSN, there is no
    /// item.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// let lsns = wal.append_batch(["a", "b", "c"])?;
    /// assert_eq!(wal.iter_from(lsns.first().next()).count(), 2);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn iter_from(&self, lsn: Lsn) -> Iter {
        Iter::new(&self.store.segments, Some(lsn))
    }

    /// Iterates the records after `lsn`, up to the durable LSN as of this call. A consumer that has
    /// handled `lsn` goes on with them.
    ///
    /// If `lsn` is below the checkpoint, the first item is [`Error::Removed`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// wal.append_batch(["a", "b", "c"])?;
    /// let mut handled = seawall::Lsn::ZERO;
    /// for record in wal.iter_after(handled) {
    ///     handled = record?.lsn();
    /// }
    /// assert_eq!(wal.iter_after(handled).count(), 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn iter_after(&self, lsn: Lsn) -> Iter {
        self.iter_from(lsn.next())
    }

    /// Iterates the records in `lsns`, up to the durable LSN as of this call. Without a lower
    /// bound, it begins above the checkpoint.
    ///
    /// If the range begins at or below the checkpoint, the first item is [`Error::Removed`]. An
    /// empty range has no item.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// let lsns = wal.append_batch(["a", "b", "c", "d"])?;
    /// assert_eq!(wal.range(lsns.first()..lsns.last()).count(), 3);
    /// let newest_two = wal.range(..).rev().take(2);
    /// assert_eq!(newest_two.last().expect("there are two")?.payload(), b"c");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn range(&self, lsns: impl RangeBounds<Lsn>) -> Iter {
        Iter::range(&self.store.segments, &lsns)
    }

    /// Yields each durable record after `after` once, in order, and waits for more: the type
    /// [`Follower`] says how, and how it ends.
    ///
    /// If `after` is below the checkpoint, the first item is [`Error::Removed`]. If it is above the
    /// durable LSN, the follower waits until the record after it is durable.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// let mut follower = wal.follow(wal.durable_lsn());
    /// let lsn = wal.append("debit 7")?;
    /// assert_eq!(follower.next().expect("the log is open")?.lsn(), lsn);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn follow(&self, after: Lsn) -> Follower {
        Follower::new(&self.store.segments, after)
    }

    /// Returns a handle with all reading calls, for other threads.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(&self.store.segments)
    }

    /// Reads the records from `lsn` on as [`iter_from`](Wal::iter_from) does, but lends them
    /// instead of copying them.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// wal.append("debit 7")?;
    /// let mut cursor = wal.cursor(wal.first_lsn());
    /// while let Some(record) = cursor.next()? {
    ///     assert_eq!(record.payload(), b"debit 7");
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn cursor(&self, lsn: Lsn) -> Cursor {
        Cursor::new(&self.store.segments, Some(lsn))
    }

    /// Reads one record. Returns `None` above the durable LSN.
    ///
    /// # Errors
    /// [`Error::Removed`] at or below the checkpoint, also while the bytes are still there.
    /// [`Error::OutOfRange`] for [`Lsn::ZERO`]. [`Error::MissingSegment`] if the file vanished.
    /// [`Error::Corrupt`], [`Error::Io`], [`Error::Closed`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let wal = seawall::Wal::open(dir.path())?;
    /// let lsn = wal.append("debit 7")?;
    /// assert_eq!(wal.read(lsn)?.expect("it is durable").payload(), b"debit 7");
    /// assert_eq!(wal.read(lsn.next())?, None);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(&self, lsn: Lsn) -> Result<Option<Record>> {
        reader::read(&self.store.segments, lsn)
    }

    /// Returns the newest durable state. It is empty if none was set.
    #[must_use]
    pub fn state(&self) -> Vec<u8> {
        self.commit.state().to_vec()
    }

    /// Returns the directory of the log: its absolute path at the time of the open, without links.
    /// On Unix, a log that is moved while it is open continues where it is, and this stays as it
    /// was.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.store.dir.path()
    }

    /// Returns the first LSN above the checkpoint. This is the LSN of the first record that is
    /// replayed or, if there is none, of the next record.
    #[must_use]
    pub fn first_lsn(&self) -> Lsn {
        self.store.segments.catalog().floor.next()
    }

    /// Returns the LSN that the next record will have. Decreases in
    /// [`truncate_after`](Wal::truncate_after), in [`reset`](Wal::reset), and if a write is undone
    /// because the disk is full.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        self.commit.next_lsn()
    }

    /// Returns the LSN of the last record appended, durable or not. It is [`Lsn::ZERO`] before the
    /// first record.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.next_lsn().previous()
    }

    /// Returns the LSN of the last record that survives a power cut. Decreases only in
    /// [`truncate_after`](Wal::truncate_after) and in [`reset`](Wal::reset).
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.commit.durable_lsn()
    }

    /// Returns whether an earlier write or sync failed, so that nothing more is acknowledged.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.health.is_poisoned()
    }

    /// Returns what opening the log found and did.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// Returns what the log has done since it was opened, and what is live in it.
    ///
    /// Each count is exact. Together they may be from slightly different moments. The call looks at
    /// each live segment, and appends do not wait for it.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let mut stats = self.counters.snapshot();
        let catalog = self.store.segments.catalog();
        let durable = self.commit.durable_end();
        for entry in catalog.entries() {
            stats.live_segments += 1;
            let end_of_tail = if entry.segment.number == durable.tail.number {
                durable.tail.end
            } else {
                0 // A new tail that the counts do not know yet.
            };
            stats.live_bytes += entry.seal.as_ref().map_or(end_of_tail, |seal| seal.end);
        }
        (stats.unarchived_segments, stats.unarchived_bytes) = self.store.backlog.size();
        stats
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Wal")
            .field("dir", self.store.dir.path())
            .field("durable_lsn", &self.durable_lsn())
            .field("next_lsn", &self.next_lsn())
            .finish_non_exhaustive()
    }
}

impl Options {
    /// Opens the log in `dir`, as [`Wal::open`] does, with these options.
    ///
    /// # Errors
    /// [`Error::InvalidOption`]. [`Error::NotFound`] with `create_if_missing(false)`. Otherwise as
    /// [`Wal::open`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// let wal = seawall::Options::new().segment_bytes(1 << 20).open(dir.path())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(&self, dir: impl AsRef<Path>) -> Result<Wal> {
        self.open_on(Arc::new(OsFs::new()), dir)
    }

    /// Opens the log in `dir` of the file system `fs`, for example of a simulated disk in a test.
    ///
    /// # Errors
    /// As [`open`](Options::open).
    ///
    /// # Examples
    /// ```
    /// use std::sync::Arc;
    /// let fs = Arc::new(seawall::fs::OsFs::new()); // In a test: a `seawall::sim::SimFs`.
    /// # let dir = tempfile::tempdir()?;
    /// let wal = seawall::Options::new().open_on(fs, dir.path())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open_on(&self, fs: Arc<dyn Fs>, dir: impl AsRef<Path>) -> Result<Wal> {
        Wal::open_with(self, fs, dir.as_ref())
    }
}

fn check_bytes(what: &'static str, bytes: u64, bytes_max: u64) -> Result<()> {
    if bytes > bytes_max { Err(Error::TooLarge { what, bytes, bytes_max }) } else { Ok(()) }
}

#[cfg(all(test, shuttle))]
mod schedules;
