//! A crash-safe, multi-segment write-ahead log: by default, `Ok` means that the record is on disk.
//! The log stays truthful after every error, and it never mistakes damage for a crash.
//!
//! ```
//! # let scratch = tempfile::tempdir()?;
//! # let dir = scratch.path().join("data/wal");
//! use seawall::Wal;
//!
//! let wal = Wal::open(&dir)?;           // Creates the log, or recovers it.
//! let debit = wal.append("debit 7")?;   // On disk: it survives a power cut.
//! for record in wal.iter() {            // Replays, in order.
//!     assert_eq!(record?.payload(), b"debit 7");
//! }
//! wal.checkpoint(debit)?;               // Never replays it again.
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Overview
//!
//! The primary type is [`Wal`], an open log. It is `Send + Sync`: share it by reference or in an
//! [`Arc`](std::sync::Arc). Any number of threads append, read and checkpoint at the same time.
//!
//! * A **record** is what you append. An [`Entry`] has the bytes of one record: its payload, and
//!   optionally some meta bytes and a kind. The log looks into none of them. A [`Record`] was read
//!   and owns its bytes; a [`RecordRef`] borrows them.
//! * A **log sequence number** ([`Lsn`]) is the number of a record. LSNs count 1, 2, 3 and so on,
//!   without a gap. [`Lsn::ZERO`] is before the first record. An [`LsnRange`] is what a batch gets.
//! * A **segment** is one file of records. The **tail** is the newest segment, and appends go
//!   there. [`Options::segment_bytes`] sets the size at which a new segment starts.
//! * A record is **durable** after a sync has covered it. [`Wal::durable_lsn`] is the last durable
//!   record. Readers see durable records only.
//! * A **submission** ([`Wal::submit`]) has its LSN at once and becomes durable later. Its
//!   [`Ticket`] tells when, by a wait, a callback, or as a future on any executor. An event loop
//!   awaits [`Wal::ready`] before, and then never blocks.
//! * A **truncation** ([`Wal::truncate_after`]) removes records from the end, and a **reset**
//!   ([`Wal::reset`]) removes all of them. Their LSNs are assigned again.
//! * An **observer** ([`Options::observer`]) is told what happens in the log: where records are,
//!   how far it is durable, what was removed. The example `key_index` in the source uses one to
//!   keep an index of the log.
//! * A **checkpoint** names the last record that you no longer need. [`Wal::checkpoint`] makes it
//!   the log's **floor**: records at or below the floor are never replayed again, and segments that
//!   hold nothing else are removed.
//! * The **small state** is up to 64 KiB of your own bytes, stored with the log and replaced as a
//!   whole: see [`Wal::set_state`].
//! * **Recovery** is what [`Wal::open`] does after a crash. [`Wal::recovery`] reports what it found
//!   and did.
//!
//! The rest of this page has these parts:
//!
//! * [How to choose a durability](#how-to-choose-a-durability)
//! * [What to do after a failure](#what-to-do-after-a-failure)
//! * [Cookbook](#cookbook): programs for common tasks
//! * [Crate features](#crate-features)
//!
//! The module [`guide`] has the longer texts:
//!
//! * [`guide::durability`]: what each call promises, what the promises
//!   rest on, and what to do about damage
//! * [`guide::reading`]: which reader to choose, when it ends, and what it costs
//! * [`guide::backup`]: snapshots, the archive, restore, and copies by other tools
//! * [`guide::moving`]: the calls for users of walogs, seglog, rewal, okaywal and raft-engine
//! * [`guide::faq`]: moving, backup, containers, full disks, fork, and other
//!   questions
//! * [`guide::format`]: every byte on disk
//! * [`guide::evidence`]: what was tested, and with which result
//!
//! # How to choose a durability
//!
//! [`Options::durability`] decides what `Ok` from [`Wal::append`] means. Ask what a lost record
//! costs:
//!
//! * **You told another party that a request is done.** Use [`Durability::Sync`], the default. The
//!   record survives a power cut when `append` returns. Threads that append at the same time share
//!   a sync, so more threads append more records a second.
//! * **You can lose the last moments, but only in a power cut.** Use [`Durability::Interval`]. The
//!   record survives a killed process when `append` returns. It survives a power cut after at most
//!   the interval plus two syncs. The log starts one thread, which syncs.
//! * **You can get the records again from their source.** Use [`Durability::Buffered`], and call
//!   [`Wal::sync`] at the points to which you can return. The record survives nothing before that.
//!
//! In each mode, [`Wal::sync`], [`Wal::set_state`], [`Wal::checkpoint`], [`Wal::truncate_after`]
//! and [`Wal::close`] return only after their effect survives a power cut. In each mode, readers
//! see a record only after it is synced.
//!
//! # What to do after a failure
//!
//! The documentation of each variant of [`Error`] says what to do. In short:
//!
//! * [`StorageFull`](Error::StorageFull): nothing of the call is in the log, and the log stays
//!   usable. Free space, or call [`Wal::checkpoint`], and repeat the call.
//! * [`QueueFull`](Error::QueueFull): nothing of the call is in the log. Repeat the call later.
//! * [`LsnMismatch`](Error::LsnMismatch): nothing of the call is in the log, because another thread
//!   has appended. Look at what is in the log.
//! * [`Io`](Error::Io): the log stays usable, unless the next call returns `Poisoned`. Mend the
//!   cause and repeat the call.
//! * [`Truncated`](Error::Truncated): a truncation removed what the reader was to return next. Make
//!   a new reader.
//! * [`Poisoned`](Error::Poisoned): the log acknowledges nothing more, and it still reads durable
//!   records. Close it and open it again, in the same process if you like.
//! * [`Corrupt`](Error::Corrupt) and [`MissingSegment`](Error::MissingSegment): no file was
//!   changed. Follow [the steps for damage](crate::guide::durability#damage-what-to-do).
//! * [`Locked`](Error::Locked): another handle has the log open. Close it there.
//! * [`UnsupportedVersion`](Error::UnsupportedVersion): the files are sound, and none was changed.
//!   Upgrade the program, or give the log the codec that the error names.
//!
//! After `Poisoned`, the outcome of the failed call is not known. Its record may be in the log
//! after the log is opened again. Look before you append it a second time:
//!
//! ```
//! use std::path::Path;
//! use seawall::{Error, Lsn, Wal};
//!
//! /// Appends a record, and opens the log again if a write or a sync fails.
//! /// No other thread appends, and no two records are equal.
//! fn append(wal: &mut Wal, dir: &Path, record: &[u8]) -> seawall::Result<Lsn> {
//!     let durable = match wal.append(record) {
//!         Err(Error::Poisoned { durable, .. }) => durable,
//!         outcome => return outcome,
//!     };
//!     // Closing a poisoned log writes nothing. It gives the lock back.
//!     let _ = wal.close();
//!     *wal = Wal::open(dir)?;
//!     for found in wal.iter_after(durable) {
//!         let found = found?;
//!         if found.payload() == record {
//!             return Ok(found.lsn());
//!         }
//!     }
//!     wal.append(record)
//! }
//! ```
//!
//! # Cookbook
//!
//! * [A durable queue with one consumer](#a-durable-queue-with-one-consumer)
//! * [A state machine with a snapshot](#a-state-machine-with-a-snapshot)
//! * [A Raft vote and log](#a-raft-vote-and-log)
//! * [A crash test of your own code](#a-crash-test-of-your-own-code)
//!
//! ### A durable queue with one consumer
//!
//! The records are the jobs. The small state holds the consumer's position: the LSN of the last job
//! that is done. A crash between a job and its `set_state` repeats that job, so each job is done at
//! least once. The checkpoint frees the space of the jobs that are done.
//!
//! ```
//! use std::path::Path;
//! use seawall::{Lsn, Record, Wal};
//!
//! struct Queue {
//!     wal: Wal,
//! }
//!
//! impl Queue {
//!     fn open(dir: &Path) -> seawall::Result<Queue> {
//!         Ok(Queue { wal: Wal::open(dir)? })
//!     }
//!
//!     /// Returns the last job that is done. A new log has an empty state.
//!     fn position(&self) -> Lsn {
//!         let bytes: [u8; 8] = self.wal.state().try_into().unwrap_or_default();
//!         Lsn::new(u64::from_le_bytes(bytes))
//!     }
//!
//!     fn push(&self, job: &str) -> seawall::Result<Lsn> {
//!         self.wal.append(job)
//!     }
//!
//!     /// Does every job that waits.
//!     fn work(&self, mut run: impl FnMut(&Record)) -> seawall::Result<()> {
//!         for record in self.wal.iter_after(self.position()) {
//!             let record = record?;
//!             run(&record);
//!             self.wal.set_state(&u64::from(record.lsn()).to_le_bytes())?;
//!         }
//!         self.wal.checkpoint(self.position())
//!     }
//! }
//!
//! # let scratch = tempfile::tempdir()?;
//! # let dir = scratch.path();
//! let queue = Queue::open(dir)?;
//! queue.push("send mail 1")?;
//! queue.push("send mail 2")?;
//! drop(queue);
//!
//! let queue = Queue::open(dir)?;
//! let mut done = Vec::new();
//! queue.work(|job| done.push(job.payload().to_vec()))?;
//! assert_eq!(done, [b"send mail 1", b"send mail 2"]);
//! queue.work(|_| panic!("no job is done twice"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ### A state machine with a snapshot
//!
//! A change is appended first and applied second. A snapshot holds the state, and the LSN of the
//! last change in it. This snapshot is small, so it is the small state, and
//! [`Wal::checkpoint_with`] stores it and forgets the changes in one step.
//!
//! A larger snapshot is a file of its own, and then the order of the steps matters: the snapshot
//! must be durable before the checkpoint lets the log forget the changes. A crash between the two
//! leaves changes that the snapshot already has, so `open` must pass over them. The example `kv` in
//! the source does this, and shows how to replace such a file in one step.
//!
//! ```
//! use std::path::Path;
//! use seawall::{Lsn, Wal};
//!
//! type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
//!
//! struct Account {
//!     wal: Wal,
//!     balance: i64,
//!     applied: Lsn,
//! }
//!
//! impl Account {
//!     fn open(dir: &Path) -> Result<Account> {
//!         let mut account = Account { wal: Wal::open(dir)?, balance: 0, applied: Lsn::ZERO };
//!         let snapshot = String::from_utf8(account.wal.state())?;
//!         if let Some((applied, balance)) = snapshot.split_once(' ') {
//!             account.applied = Lsn::new(applied.parse::<u64>()?);
//!             account.balance = balance.parse()?;
//!         }
//!         for record in account.wal.iter_after(account.applied) {
//!             let record = record?;
//!             account.balance += std::str::from_utf8(record.payload())?.parse::<i64>()?;
//!             account.applied = record.lsn();
//!         }
//!         Ok(account)
//!     }
//!
//!     fn add(&mut self, amount: i64) -> Result<()> {
//!         self.applied = self.wal.append(&amount.to_string())?; // Durable first,
//!         self.balance += amount; // visible second.
//!         Ok(())
//!     }
//!
//!     fn snapshot(&self) -> Result<()> {
//!         let snapshot = format!("{} {}", self.applied, self.balance);
//!         Ok(self.wal.checkpoint_with(self.applied, snapshot.as_bytes())?)
//!     }
//! }
//!
//! # let scratch = tempfile::tempdir()?;
//! # let dir = scratch.path();
//! let mut account = Account::open(dir)?;
//! account.add(10)?;
//! account.snapshot()?;
//! account.add(-3)?;
//! drop(account);
//! assert_eq!(Account::open(dir)?.balance, 7);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ### A Raft vote and log
//!
//! The Raft index of an entry is its LSN. The term is in the record's meta bytes. The vote is the
//! small state: it is durable when `set_state` returns, in every mode. Compaction is a checkpoint.
//! A follower that has entries of an older leader truncates the log. A follower that is given a
//! snapshot resets it.
//!
//! ```
//! use seawall::{Entry, Lsn, Wal};
//!
//! struct RaftLog {
//!     wal: Wal,
//! }
//!
//! impl RaftLog {
//!     fn save_vote(&self, term: u64, node: u64) -> seawall::Result<()> {
//!         self.wal.set_state(&[term.to_le_bytes(), node.to_le_bytes()].concat())
//!     }
//!
//!     fn vote(&self) -> Option<(u64, u64)> {
//!         let state = self.wal.state();
//!         let (term, node) = state.split_first_chunk()?;
//!         Some((u64::from_le_bytes(*term), u64::from_le_bytes(node.try_into().ok()?)))
//!     }
//!
//!     /// Appends entries of one term. `Ok` means that all of them are durable.
//!     fn append(&self, term: u64, entries: &[&str]) -> seawall::Result<Lsn> {
//!         let term = term.to_le_bytes();
//!         let entries = entries.iter().map(|entry| Entry::new(*entry).with_meta(&term));
//!         Ok(self.wal.append_batch(entries)?.last())
//!     }
//!
//!     fn term_of(&self, index: Lsn) -> seawall::Result<Option<u64>> {
//!         let record = self.wal.read(index)?;
//!         let term = record.and_then(|record| record.meta().try_into().ok());
//!         Ok(term.map(u64::from_le_bytes))
//!     }
//!
//!     /// Takes entries from the leader. From `first` on, they differ from those that are there.
//!     fn follow(&self, first: Lsn, term: u64, entries: &[&str]) -> seawall::Result<Lsn> {
//!         if first <= self.wal.last_lsn() {
//!             self.wal.truncate_after(first.previous())?;
//!         }
//!         self.append(term, entries)
//!     }
//!
//!     /// Forgets the entries that a snapshot has.
//!     fn compact(&self, snapshot: Lsn) -> seawall::Result<()> {
//!         self.wal.checkpoint(snapshot)
//!     }
//!
//!     /// Continues after a snapshot from the leader.
//!     fn install(&self, snapshot: Lsn) -> seawall::Result<()> {
//!         self.wal.reset(snapshot.next())
//!     }
//! }
//!
//! # let scratch = tempfile::tempdir()?;
//! # let dir = scratch.path();
//! let raft = RaftLog { wal: Wal::open(dir)? };
//! raft.save_vote(4, 2)?;
//! let last = raft.append(4, &["x = 1", "y = 2"])?;
//! raft.compact(last.previous())?;
//! let last = raft.follow(last, 5, &["y = 3", "z = 4"])?;
//! drop(raft);
//!
//! let raft = RaftLog { wal: Wal::open(dir)? };
//! assert_eq!(raft.vote(), Some((4, 2)));
//! assert_eq!(raft.term_of(last)?, Some(5));
//! raft.install(Lsn::new(70))?;
//! assert_eq!(raft.append(6, &["x = 9"])?, Lsn::new(71));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ### A crash test of your own code
//!
//! The feature `sim` has the simulated disk of our own crash tests: see the module [`sim`][sim].
//! Your code opens its log with [`Options::open_on`]. The test stops the machine at each call in
//! turn, cuts the power, and opens the log on what the disk may hold then.
//!
//! ```
//! use std::sync::Arc;
//! use seawall::sim::SimFs;
//! use seawall::{Options, Wal};
//!
//! /// Your code: each visitor is one record.
//! fn count_visitors(disk: &SimFs) -> seawall::Result<(Wal, u64)> {
//!     let wal = Options::new().open_on(Arc::new(disk.clone()), "/visitors")?;
//!     let count = wal.iter().try_fold(0, |count, record| record.map(|_| count + 1))?;
//!     Ok((wal, count))
//! }
//!
//! for call in 0.. {
//!     let disk = SimFs::new(7);
//!     disk.crash_at(call);
//!     let mut acknowledged = 0;
//!     if let Ok((wal, _)) = count_visitors(&disk) {
//!         while acknowledged < 3 && wal.append("a visitor").is_ok() {
//!             acknowledged += 1;
//!         }
//!     }
//!     if !disk.has_crashed() {
//!         break; // The whole history took fewer calls.
//!     }
//!     for seed in 0..10 {
//!         let after_the_cut = disk.power_cuts().random(seed);
//!         let (_, count) = count_visitors(&after_the_cut)?;
//!         // No acknowledged visitor is lost. One more may be there: its append did not return.
//!         assert!(count == acknowledged || count == acknowledged + 1);
//!     }
//! }
//! # Ok::<(), seawall::Error>(())
//! ```
//!
//! # Crate features
//!
//! All are off by default.
//!
//! * **`lz4`**: the codec `Lz4` in the module [`codec`], which compresses fast. It adds the crate
//!   `lz4_flex`, without unsafe code.
//! * **`zstd`**: the codec `Zstd` in the module [`codec`], which compresses well. It adds the crate
//!   `zstd`, and compiles its library in C.
//! * **`sim`**: the module [`sim`][sim], a simulated disk that crashes. It adds no dependency.
//!
//! The crate root has the names that each program needs. The rest is in [`archive`], [`backup`],
//! [`codec`], [`mod@fs`], [`inspect`], [`observer`], [`options`], [`report`], [`sim`][sim] and
//! [`stats`].
//!
#![cfg_attr(feature = "sim", doc = "[sim]: crate::sim")]
#![cfg_attr(not(feature = "sim"), doc = "[sim]: #crate-features")]

pub mod archive;
mod backlog;
pub mod backup;
mod catalog;
pub mod codec;
mod commit;
mod current;
mod dir;
mod disk;
mod entry;
mod error;
mod frame;
pub mod fs;
#[doc(hidden)]
#[cfg(fuzzing)]
pub mod fuzzing;
mod health;
pub mod inspect;
mod lsn;
mod maintenance;
mod new_segment;
pub mod observer;
pub mod options;
mod read_only;
mod reader;
mod recovery;
mod removal;
pub mod report;
mod segment;
pub mod stats;
mod store;
mod threads;
mod waiters;
mod wal;
mod watch;

pub use entry::{Entry, EntryBytes};
pub use error::{Damage, Error, Feature, NamedBy, Result};
#[cfg(feature = "sim")]
#[doc(inline)]
pub use fs::sim;
pub use lsn::{Lsn, LsnRange, LsnRangeIter};
pub use options::{Durability, Options};
pub use read_only::{ReadOnlyWal, Refreshed};
pub use reader::{Cursor, Follower, Iter, Reader, Record, RecordRef};
pub use wal::{Ready, Ticket, Wal};

/// The longer documents.
///
/// Each module here is one document of the folder `docs/`, and holds no code.
#[cfg(doc)]
pub mod guide {
    // A link in a document names its target, such as `[format]`. In the document's last lines, the
    // names lead to files. In these lines they lead to modules, and the first definition counts.

    /// Copies of a log: snapshots, the archive, restore, and other tools.
    ///
    /// [durability]: self::durability
    /// [faq]: self::faq
    /// [follower]: self::reading#follow
    /// [format]: self::format
    /// [reading]: self::reading
    #[doc = include_str!("../docs/backup.md")]
    pub mod backup {}

    /// What each call promises, what the promises rest on, and what to do about damage.
    ///
    /// [format]: self::format
    /// [evidence]: self::evidence
    /// [faq]: self::faq
    /// [tool]: self::tool
    #[doc = include_str!("../docs/durability.md")]
    pub mod durability {}

    /// What is tested, when it was run, and with which result.
    ///
    /// [durability]: self::durability
    /// [format]: self::format
    #[doc = include_str!("../docs/evidence.md")]
    pub mod evidence {}

    /// Answers to what users of other logs ask.
    ///
    /// [backup]: self::backup
    /// [durability]: self::durability
    /// [evidence]: self::evidence
    /// [format]: self::format
    #[doc = include_str!("../docs/faq.md")]
    pub mod faq {}

    /// Which reader to choose, when it ends, and what it costs.
    ///
    /// [backup]: self::backup
    /// [damage]: self::durability#damage-what-to-do
    /// [durability]: self::durability
    /// [format]: self::format
    #[doc = include_str!("../docs/reading.md")]
    pub mod reading {}

    /// The format on disk: each file, block and frame.
    ///
    /// [durability]: self::durability
    #[doc = include_str!("../docs/format.md")]
    pub mod format {}

    /// The tool `seawall`, and four rescues with it.
    #[doc = include_str!("../docs/tool.md")]
    pub mod tool {}

    /// The calls for those who use another log today.
    ///
    /// [damage]: self::durability#damage-what-to-do
    /// [durability]: self::durability
    /// [reading]: self::reading
    #[doc = include_str!("../docs/moving.md")]
    pub mod moving {}
}

/// Compiles the program of the README as it is shown.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
