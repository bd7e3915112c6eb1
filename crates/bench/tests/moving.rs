//! The mappings of `docs/moving.md`: for each other log two functions side by side, theirs and ours.
//! Each makes a log, appends, reads one record, opens the log again and replays it. Both see the same
//! records.
//!
//! The other logs are compiled only with the features of their names, or with `peers`.

#![cfg(any(
    feature = "okaywal",
    feature = "raft-engine",
    feature = "rewal",
    feature = "seglog",
    feature = "walogs"
))]

use std::path::Path;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The payloads that a replay sees.
type Payloads = Vec<Vec<u8>>;

const RECORDS: [&str; 4] = ["debit 7", "credit 3", "credit 4", ""];

/// Runs both functions, each in a directory of its own, and compares what they return with what was
/// appended.
fn compare(theirs: fn(&Path) -> Result<Payloads>, ours: fn(&Path) -> Result<Payloads>) {
    for run in [theirs, ours] {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let seen = run(dir.path()).expect("no call fails");
        assert_eq!(seen, RECORDS.map(|record| record.as_bytes().to_vec()));
    }
}

#[cfg(any(feature = "okaywal", feature = "raft-engine", feature = "walogs"))]
fn payloads(records: seawall::Iter) -> Result<Payloads> {
    let payloads = records.map(|record| record.map(seawall::Record::into_payload));
    Ok(payloads.collect::<seawall::Result<_>>()?)
}

#[cfg(feature = "walogs")]
mod walogs {
    use super::*;

    fn theirs(dir: &Path) -> Result<Payloads> {
        let mut wal = ::walogs::Wal::open(dir)?;
        for record in RECORDS {
            let lsn = wal.append(record.as_bytes())?;
            assert_eq!(wal.next_lsn().0, lsn.0 + 1);
        }
        drop(wal);
        let wal = ::walogs::Wal::open(dir)?;
        assert_eq!(wal.tail_state(), ::walogs::TailState::Clean);
        let mut seen = Payloads::new();
        for entry in wal.iter() {
            let (_lsn, payload) = entry?;
            seen.push(payload);
        }
        Ok(seen)
    }

    fn ours(dir: &Path) -> Result<Payloads> {
        let wal = seawall::Wal::open(dir)?;
        for record in RECORDS {
            let lsn = wal.append(record)?;
            assert_eq!(wal.next_lsn(), lsn.next());
        }
        wal.close()?;
        let wal = seawall::Wal::open(dir)?;
        assert_eq!(wal.recovery().dropped_bytes, 0);
        payloads(wal.iter())
    }

    #[test]
    fn both_replay_the_same_records() {
        compare(theirs, ours);
    }

    #[test]
    fn a_checkpoint_of_theirs_is_forgotten_and_one_of_ours_is_not() -> Result<()> {
        // Method: declare every record done, open again, and append one more record.
        let dir = tempfile::tempdir()?;
        let mut theirs = ::walogs::Wal::open(dir.path())?;
        let lsn = theirs.append(b"a")?;
        assert_eq!(theirs.checkpoint(lsn)?, 0);
        assert_eq!(theirs.iter().count(), 1, "it is replayed again");
        theirs.rotate()?;
        assert_eq!(theirs.checkpoint(lsn)?, 1);
        drop(theirs);
        let mut theirs = ::walogs::Wal::open(dir.path())?;
        assert_eq!(theirs.append(b"b")?, lsn, "the number is given again");

        let dir = tempfile::tempdir()?;
        let ours = seawall::Wal::open(dir.path())?;
        let lsn = ours.append("a")?;
        ours.checkpoint(lsn)?;
        assert_eq!(ours.iter().count(), 0);
        ours.close()?;
        let ours = seawall::Wal::open(dir.path())?;
        assert_eq!(ours.append("b")?, lsn.next());
        Ok(())
    }
}

#[cfg(feature = "seglog")]
mod seglog {
    use ::seglog::read::{ReadHint, Reader};
    use ::seglog::write::Writer;

    use super::*;

    const FILE_BYTES: usize = 1 << 20;

    fn theirs(dir: &Path) -> Result<Payloads> {
        let path = dir.join("000000");
        let mut writer = Writer::<0>::create(&path, FILE_BYTES, 0)?;
        let (offset, _) = writer.append_data(RECORDS[0].as_bytes())?;
        writer.commit(1)?;
        let batch = RECORDS[1..].iter().map(|record| (&[], record.as_bytes()));
        writer.append_batch(&batch.collect::<Vec<(&[u8; 0], &[u8])>>(), 4)?;
        let mut reader = Reader::<0>::open_read_only(&path, Some(writer.flushed_offset()))?;
        assert_eq!(&*reader.read_record(offset, ReadHint::Random)?.data, RECORDS[0].as_bytes());
        writer.close()?;
        let writer = Writer::<0>::open(&path, FILE_BYTES, 0)?;
        assert_eq!(writer.last_committed_position(), Some(4));
        let mut reader = Reader::<0>::open_read_only(&path, Some(writer.flushed_offset()))?;
        let mut records = reader.iter(0);
        let mut seen = Payloads::new();
        while let Some(record) = records.next_record()? {
            seen.push(record.data.to_vec());
        }
        Ok(seen)
    }

    fn ours(dir: &Path) -> Result<Payloads> {
        let wal = seawall::Wal::open(dir)?;
        let lsn = wal.append(RECORDS[0])?;
        wal.append_batch(RECORDS[1..].iter().copied())?;
        let record = wal.read(lsn)?.expect("it is durable");
        assert_eq!(record.payload(), RECORDS[0].as_bytes());
        wal.close()?;
        let wal = seawall::Wal::open(dir)?;
        assert_eq!(wal.last_lsn().get(), 4);
        let mut cursor = wal.cursor(wal.first_lsn());
        let mut seen = Payloads::new();
        while let Some(record) = cursor.next()? {
            seen.push(record.payload().to_vec());
        }
        Ok(seen)
    }

    #[test]
    fn both_replay_the_same_records() {
        compare(theirs, ours);
    }

    #[test]
    fn uncommitted_records_of_theirs_and_unsynced_ones_of_ours_are_not_shown() -> Result<()> {
        // Method: append without a commit or a sync, and read.
        let dir = tempfile::tempdir()?;
        let mut writer = Writer::<0>::create(dir.path().join("000000"), FILE_BYTES, 0)?;
        writer.append_data(b"a")?;
        writer.flush_writer()?;
        drop(writer);
        let writer = Writer::<0>::open(dir.path().join("000000"), FILE_BYTES, 0)?;
        assert_eq!(writer.last_committed_position(), None);

        let dir = tempfile::tempdir()?;
        let buffered = seawall::Options::new().durability(seawall::Durability::Buffered);
        let wal = buffered.open(dir.path())?;
        wal.append("a")?;
        assert_eq!(wal.iter().count(), 0);
        wal.sync()?;
        assert_eq!(wal.iter().count(), 1);
        Ok(())
    }
}

#[cfg(feature = "rewal")]
mod rewal {
    use std::time::Duration;

    use super::*;

    fn theirs(dir: &Path) -> Result<Payloads> {
        let path = dir.join("log");
        let wal = ::rewal::Wal::open(&path).sync_mode(::rewal::SyncMode::Never).build()?;
        wal.append_with_meta(RECORDS[0], "user 1")?;
        let mut batch = ::rewal::Batch::with_capacity(3);
        RECORDS[1..].iter().for_each(|record| batch.add(*record));
        let last = wal.append_batch(batch)?;
        wal.flush()?;
        wal.sync()?;
        assert_eq!((last, wal.last_lsn()), (4, 4));
        wal.shutdown(Duration::from_secs(60))?;
        drop(wal); // The file stays locked until then.
        let wal = ::rewal::Wal::open(&path).build()?;
        let mut records = wal.iterator(0)?;
        let mut seen = Payloads::new();
        while let Some(record) = records.next_borrowed()? {
            assert_eq!(record.meta.is_some(), record.lsn == 1);
            seen.push(record.payload.to_vec());
        }
        Ok(seen)
    }

    fn ours(dir: &Path) -> Result<Payloads> {
        let buffered = seawall::Options::new().durability(seawall::Durability::Buffered);
        let wal = buffered.open(dir)?;
        wal.append(seawall::Entry::new(RECORDS[0]).with_meta("user 1"))?;
        let last = wal.append_batch(RECORDS[1..].iter().copied())?.last();
        assert_eq!((wal.sync()?, wal.durable_lsn()), (last, last));
        wal.close_timeout(Duration::from_secs(60))?;
        let wal = buffered.open(dir)?;
        let mut cursor = wal.cursor(wal.first_lsn());
        let mut seen = Payloads::new();
        while let Some(record) = cursor.next()? {
            assert_eq!(record.meta().is_empty(), record.lsn().get() != 1);
            seen.push(record.payload().to_vec());
        }
        Ok(seen)
    }

    #[test]
    fn both_replay_the_same_records() {
        compare(theirs, ours);
    }
}

#[cfg(feature = "okaywal")]
mod okaywal {
    use std::io::{self, Read as _};
    use std::sync::{Arc, Mutex};

    use ::okaywal::{Entry, EntryId, LogManager, SegmentReader, WriteAheadLog};

    use super::*;

    /// Keeps the chunks of each whole entry.
    #[derive(Debug, Default)]
    struct Replay(Arc<Mutex<Payloads>>);

    impl LogManager for Replay {
        fn recover(&mut self, entry: &mut Entry<'_>) -> io::Result<()> {
            if let Some(chunks) = entry.read_all_chunks()? {
                self.0.lock().expect("no thread panics").extend(chunks);
            }
            Ok(())
        }

        fn checkpoint_to(
            &mut self,
            _last: EntryId,
            _entries: &mut SegmentReader,
            _log: &WriteAheadLog,
        ) -> io::Result<()> {
            Ok(()) // Here the caller makes its own copy durable.
        }
    }

    fn theirs(dir: &Path) -> Result<Payloads> {
        let log = WriteAheadLog::recover(dir, Replay::default())?;
        let mut entry = log.begin_entry()?;
        let chunk = entry.write_chunk(RECORDS[0].as_bytes())?;
        entry.commit()?;
        let mut entry = log.begin_entry()?;
        for record in &RECORDS[1..] {
            entry.write_chunk(record.as_bytes())?;
        }
        entry.commit()?;
        let mut read = Vec::new();
        log.read_at(chunk.position)?.read_to_end(&mut read)?;
        assert_eq!(read, RECORDS[0].as_bytes());
        log.shutdown()?;
        let replay = Replay::default();
        let seen = replay.0.clone();
        WriteAheadLog::recover(dir, replay)?.shutdown()?;
        let seen = seen.lock().expect("no thread panics").clone();
        Ok(seen)
    }

    fn ours(dir: &Path) -> Result<Payloads> {
        let wal = seawall::Wal::open(dir)?;
        let lsn = wal.append(RECORDS[0])?;
        wal.append_batch(RECORDS[1..].iter().copied())?;
        assert_eq!(wal.read(lsn)?.expect("it is durable").payload(), RECORDS[0].as_bytes());
        wal.close()?;
        let wal = seawall::Wal::open(dir)?;
        payloads(wal.iter())
    }

    #[test]
    fn both_replay_the_same_records() {
        compare(theirs, ours);
    }
}

#[cfg(feature = "raft-engine")]
mod raft_engine {
    use ::raft_engine::{Command, Config, Engine, LogBatch, MessageExt};
    use protobuf::descriptor::UninterpretedOption;
    use seawall::{Error, Lsn};

    use super::*;

    const GROUP: u64 = 1;

    /// A message with an index and bytes, which comes with the library for protobuf.
    struct Message;

    impl MessageExt for Message {
        type Entry = UninterpretedOption;

        fn index(entry: &UninterpretedOption) -> u64 {
            entry.get_positive_int_value()
        }
    }

    fn message(index: u64, payload: &str) -> UninterpretedOption {
        let mut message = UninterpretedOption::new();
        message.set_positive_int_value(index);
        message.set_string_value(payload.as_bytes().to_vec());
        message
    }

    fn their_log(dir: &Path) -> Result<Engine> {
        let dir = dir.to_str().expect("the name is text").to_owned();
        Ok(Engine::open(Config { dir, ..Config::default() })?)
    }

    /// Appends two entries of another leader with a vote, replaces both by the first record, and
    /// appends the other records.
    fn theirs(dir: &Path) -> Result<Payloads> {
        let engine = their_log(dir)?;
        let write = |first: u64, payloads: &[&str]| {
            let entries: Vec<_> =
                (first..).zip(payloads).map(|(index, payload)| message(index, payload)).collect();
            let mut batch = LogBatch::default();
            batch.add_entries::<Message>(GROUP, &entries)?;
            batch.put(GROUP, b"vote".to_vec(), b"term 2".to_vec())?;
            engine.write(&mut batch, true)
        };
        write(1, &["of another leader", "too"])?;
        write(1, &RECORDS[..1])?; // Replaces both.
        write(2, &RECORDS[1..])?;
        drop(engine);
        let engine = their_log(dir)?;
        assert_eq!(engine.get(GROUP, b"vote").as_deref(), Some(b"term 2".as_slice()));
        let last = engine.last_index(GROUP).expect("there are entries");
        let mut entries = Vec::new();
        engine.fetch_entries_to::<Message>(GROUP, 1, last + 1, None, &mut entries)?;
        Ok(entries.iter().map(|entry| entry.get_string_value().to_vec()).collect())
    }

    fn ours(dir: &Path) -> Result<Payloads> {
        let wal = seawall::Wal::open(dir)?;
        wal.append_batch_at(Lsn::new(1), ["of another leader", "too"])?;
        wal.truncate_after(Lsn::ZERO)?;
        wal.append_at(Lsn::new(1), RECORDS[0])?;
        let vote = wal.submit_state(b"term 2")?;
        wal.append_batch_at(Lsn::new(2), RECORDS[1..].iter().copied())?;
        vote.wait()?;
        wal.close()?;
        let wal = seawall::Wal::open(dir)?;
        assert_eq!(wal.state(), b"term 2");
        payloads(wal.range(Lsn::new(1)..=wal.last_lsn()))
    }

    #[test]
    fn both_replay_the_same_records() {
        compare(theirs, ours);
    }

    #[test]
    fn their_compaction_keeps_its_index_and_our_checkpoint_gives_it_up() -> Result<()> {
        // Method: give up the first two of four entries. Theirs names the first that stays.
        let dir = tempfile::tempdir()?;
        let engine = their_log(dir.path())?;
        let mut batch = LogBatch::default();
        let entries: Vec<_> = (1..=4).map(|index| message(index, "a")).collect();
        batch.add_entries::<Message>(GROUP, &entries)?;
        batch.add_command(GROUP, Command::Compact { index: 3 });
        engine.write(&mut batch, true)?;
        assert_eq!(engine.first_index(GROUP), Some(3));
        assert!(engine.purge_expired_files()?.is_empty());
        assert!(engine.get_entry::<Message>(GROUP, 2)?.is_none());

        let dir = tempfile::tempdir()?;
        let wal = seawall::Wal::open(dir.path())?;
        wal.append_batch(["a"; 4])?;
        wal.checkpoint(Lsn::new(2))?;
        assert_eq!(wal.first_lsn(), Lsn::new(3));
        assert!(matches!(wal.read(Lsn::new(2)), Err(Error::Removed { .. })));
        Ok(())
    }
}
