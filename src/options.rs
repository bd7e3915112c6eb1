//! `Options`: each option of a log, with its unit, default and range. They are validated once, when
//! the log is opened.

use std::sync::Arc;
use std::time::Duration;

use crate::archive::Archive;
use crate::codec::{Codec, Codecs, Given};
use crate::error::{Error, Result};
use crate::observer::Observer;

/// When an append is on disk.
///
/// The [crate page](crate#how-to-choose-a-durability) says how to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// `append` returns when its record survives a power cut. The default.
    ///
    /// Readers see a record once it is synced, so they see it when `append` has returned.
    #[default]
    Sync,
    /// `append` returns when its record survives a killed process. The record survives a power cut
    /// after at most this time plus two syncs. The time must be above zero.
    ///
    /// The log starts one thread, which syncs. It sleeps while nothing is unsynced. Readers see a
    /// record once it is synced, so they may see it only some time after `append` has returned.
    Interval(Duration),
    /// `append` returns when its record is in the log's memory. Records are handed to the system
    /// every 256 KiB, or earlier if half a segment or `pending_bytes_max` is less than that. They
    /// survive a power cut after the next `sync` that has returned `Ok`.
    ///
    /// Each segment is synced when it is full. If several threads append, one append syncs earlier:
    /// when 16 MiB are written and not synced, or half a segment if that is less. It returns after
    /// this sync. The other threads append meanwhile.
    ///
    /// Readers see a record once it is synced: after `append` has returned an LSN, `read` of this
    /// LSN returns `None` until the next sync.
    Buffered,
}

/// How much of the older segments is verified when a log is opened. The newest segment is always
/// verified in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Verify {
    /// Each live byte, on all processors. The default.
    #[default]
    Full,
    /// Their headers and last frames only. The cost of opening does not depend on what the segments
    /// hold. Damage in them is reported when they are read.
    Tail,
}

/// Which records readers see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Visibility {
    /// Records that survive a power cut. The default.
    #[default]
    Durable,
    /// Also records whose group has been handed to the operating system as a whole. They survive a
    /// killed process. A power cut may remove a record that a reader has seen.
    ///
    /// With [`Durability::Sync`], this is the same: a group counts as written once it is synced.
    /// With [`Durability::Interval`], readers see a record when `append` has returned. A
    /// [`ReadOnlyWal`](crate::ReadOnlyWal) shows what it finds in the files.
    Appended,
}

/// What an append does when more than [`pending_bytes_max`](Options::pending_bytes_max) waits to be
/// written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Backpressure {
    /// It waits for its turn. The default.
    #[default]
    Wait,
    /// It fails with [`Error::QueueFull`].
    Fail,
}

impl Visibility {
    pub(crate) fn is_durable(self) -> bool {
        self == Visibility::Durable
    }
}

/// Whether space in the tail is preallocated: filled with zeros before records need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Preallocate {
    /// Yes, in file systems that overwrite in place, except with [`Durability::Buffered`]. A sync
    /// that changes no file size is 1.3 to 2.4 times faster there. The default.
    #[default]
    Auto,
    /// No: the files are no longer than their records.
    Off,
}

/// How to open a log. The defaults are those of [`Wal::open`](crate::Wal::open).
///
/// # Examples
/// ```
/// # let dir = tempfile::tempdir()?;
/// use std::time::Duration;
/// use seawall::{Durability, Options};
/// let wal = Options::new()
///     .segment_bytes(8 << 20)
///     .durability(Durability::Interval(Duration::from_millis(50)))
///     .open(dir.path())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Options {
    pub(crate) segment_bytes: u64,
    pub(crate) record_bytes_max: u64,
    pub(crate) pending_bytes_max: u64,
    pub(crate) backpressure: Backpressure,
    pub(crate) preallocate: Preallocate,
    pub(crate) durability: Durability,
    pub(crate) verify: Verify,
    pub(crate) visibility: Visibility,
    pub(crate) read_only_patience: Duration,
    pub(crate) create_if_missing: bool,
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) archive: Option<Arc<dyn Archive>>,
    pub(crate) codec: Option<Given>,
    reading_codecs: Vec<Given>,
}

/// The largest body of a batch, unless a single record may be larger.
const BATCH_BYTES: u64 = 64 << 20;

impl Options {
    /// Returns the defaults.
    pub fn new() -> Options {
        Options {
            segment_bytes: 64 << 20,
            record_bytes_max: 16 << 20,
            pending_bytes_max: 8 << 20,
            backpressure: Backpressure::default(),
            preallocate: Preallocate::default(),
            durability: Durability::default(),
            verify: Verify::default(),
            visibility: Visibility::default(),
            read_only_patience: Duration::from_secs(5),
            create_if_missing: true,
            observer: None,
            archive: None,
            codec: None,
            reading_codecs: Vec::new(),
        }
    }

    /// Sets the size at which a segment is sealed, in bytes. Default 64 MiB, at least 16 KiB, at
    /// most 1 TiB.
    ///
    /// A group of records that would exceed it starts a new segment. A group larger than this has a
    /// segment of its own. A smaller size frees space sooner; a larger size seals less often.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use seawall::Options;
    /// let wal = Options::new().segment_bytes(8 << 20).open(dir.path())?; // 8 MiB
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn segment_bytes(mut self, bytes: u64) -> Options {
        self.segment_bytes = bytes;
        self
    }

    /// Sets the largest payload of one record, in bytes. Default 16 MiB, at most 1 GiB.
    ///
    /// The body of a batch may have 64 MiB, or this size if it is larger. The option applies to
    /// appends only, not to records already stored.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use seawall::{Error, Options};
    /// let wal = Options::new().record_bytes_max(4).open(dir.path())?;
    /// assert!(matches!(wal.append("12345"), Err(Error::TooLarge { bytes: 5, .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn record_bytes_max(mut self, bytes: u64) -> Options {
        self.record_bytes_max = bytes;
        self
    }

    /// Sets how many bytes may wait to be written. Above that, an append does what
    /// [`backpressure`](Options::backpressure) says. Default 8 MiB, at least 4 KiB, at most 4 GiB.
    ///
    /// An entry that is larger is admitted alone. The log keeps about twice this size in memory at
    /// most.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use seawall::Options;
    /// let wal = Options::new().pending_bytes_max(1 << 20).open(dir.path())?; // 1 MiB
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn pending_bytes_max(mut self, bytes: u64) -> Options {
        self.pending_bytes_max = bytes;
        self
    }

    /// Sets what an append does above [`pending_bytes_max`](Options::pending_bytes_max). Default
    /// [`Backpressure::Wait`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use seawall::options::{Backpressure, Options};
    /// let wal = Options::new().backpressure(Backpressure::Fail).open(dir.path())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn backpressure(mut self, backpressure: Backpressure) -> Options {
        self.backpressure = backpressure;
        self
    }

    /// Sets whether space in the tail is preallocated. Default [`Preallocate::Auto`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use seawall::options::{Options, Preallocate};
    /// let wal = Options::new().preallocate(Preallocate::Off).open(dir.path())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn preallocate(mut self, preallocate: Preallocate) -> Options {
        self.preallocate = preallocate;
        self
    }

    /// Sets when an append is on disk. Default [`Durability::Sync`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use seawall::{Durability, Options};
    /// let wal = Options::new().durability(Durability::Buffered).open(dir.path())?;
    /// let lsn = wal.append("debit 7")?;
    /// assert_eq!(wal.read(lsn)?, None); // It is not synced yet.
    /// wal.sync()?;
    /// assert!(wal.read(lsn)?.is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn durability(mut self, durability: Durability) -> Options {
        self.durability = durability;
        self
    }

    /// Sets how much is verified when the log is opened. Default [`Verify::Full`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use seawall::options::{Options, Verify};
    /// let wal = Options::new().verify(Verify::Tail).open(dir.path())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn verify(mut self, verify: Verify) -> Options {
        self.verify = verify;
        self
    }

    /// Sets which records readers see. Default [`Visibility::Durable`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use seawall::options::{Durability, Options, Visibility};
    /// let options = Options::new().durability(Durability::Buffered);
    /// let wal = options.visibility(Visibility::Appended).open(dir.path())?;
    /// let lsn = wal.append("debit 7")?;
    /// wal.flush()?; // The record is handed to the system. It is not synced yet.
    /// assert!(wal.read(lsn)?.is_some() && wal.durable_lsn() < lsn);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn visibility(mut self, visibility: Visibility) -> Options {
        self.visibility = visibility;
        self
    }

    /// Sets how long a [`ReadOnlyWal`](crate::ReadOnlyWal) looks for a moment at which the files
    /// fit together, while a writer changes them. Default 5 s; any time is allowed. The time for
    /// verifying sealed segments does not count.
    ///
    /// A read-only open or refresh takes part of a second even beside a busy writer. The limit is
    /// for a writer that changes files faster than the reader can read them.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # drop(seawall::Wal::open(dir.path())?);
    /// use std::time::Duration;
    /// use seawall::Options;
    /// let options = Options::new().read_only_patience(Duration::from_secs(60));
    /// let wal = options.open_read_only(dir.path())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_only_patience(mut self, patience: Duration) -> Options {
        self.read_only_patience = patience;
        self
    }

    /// Sets whether a directory without a log gets a new one. Default `true`. With `false`, opening
    /// such a directory returns [`Error::NotFound`].
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use seawall::{Error, Options};
    /// let opened = Options::new().create_if_missing(false).open(dir.path());
    /// assert!(matches!(opened, Err(Error::NotFound { .. })));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn create_if_missing(mut self, create: bool) -> Options {
        self.create_if_missing = create;
        self
    }

    /// Sets what the log tells of its groups, segments, checkpoints and failures while it is open.
    /// Default: nothing. The trait [`Observer`] says when and in which thread it is called.
    ///
    /// Each log that is opened with these options, or with a clone, tells the same observer.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use seawall::observer::{Observer, Synced};
    /// use seawall::Options;
    ///
    /// struct SlowSyncs;
    ///
    /// impl Observer for SlowSyncs {
    ///     fn synced(&self, event: &Synced) {
    ///         if event.took.as_millis() > 100 {
    ///             eprintln!("a sync took {:?}", event.took);
    ///         }
    ///     }
    /// }
    ///
    /// let wal = Options::new().observer(SlowSyncs).open(dir.path())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn observer(mut self, observer: impl Observer + 'static) -> Options {
        self.observer = Some(Arc::new(observer));
        self
    }

    /// Sets what gets each sealed segment before the log removes it. Default: nothing. The trait
    /// [`Archive`] says when and in which thread it is called.
    ///
    /// A log that is opened without its archive removes the segments that still wait.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use seawall::Options;
    /// use seawall::backup::DirArchive;
    /// let archive = DirArchive::open(dir.path().join("archive"))?;
    /// let wal = Options::new().archive(archive).open(dir.path().join("wal"))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn archive(mut self, archive: impl Archive + 'static) -> Options {
        self.archive = Some(Arc::new(archive));
        self
    }

    /// Sets how frames of records are compressed. Default: not at all. A frame that does not shrink
    /// is stored as it is. The log reads frames of this codec, too.
    ///
    /// The module [`codec`](crate::codec) says when it pays. The codec needs memory besides
    /// [`pending_bytes_max`](Options::pending_bytes_max): about the size of a group, and many times
    /// that with `Zstd` of a level from 19 on. The limits of the other options count bytes before
    /// compression, except that [`segment_bytes`](Options::segment_bytes) counts what is stored.
    ///
    /// A number below 128 is refused, unless the codec is one of this crate.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// use seawall::codec::Zstd;
    /// use seawall::Options;
    /// let wal = Options::new().codec(Zstd::default()).open(dir.path())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn codec(mut self, codec: impl Codec + 'static) -> Options {
        self.codec = Some(Given::new(codec));
        self
    }

    /// Makes a further codec known for reading, for a log that was written with it before. Default:
    /// the codecs of this crate that its features switch on, and the one that
    /// [`codec`](Options::codec) sets. The call may be repeated.
    ///
    /// Without it, reading a record of such a frame returns
    /// [`Error::UnsupportedVersion`]. Two codecs of the caller's with one number are refused.
    ///
    /// # Examples
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # use seawall::codec::Lz4 as Dictionary;
    /// use seawall::codec::Zstd;
    /// use seawall::Options;
    /// // The log was written with the codec `Dictionary`, and continues with Zstandard.
    /// let options = Options::new().codec(Zstd::default()).codec_for_reading(Dictionary);
    /// let wal = options.open(dir.path())?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn codec_for_reading(mut self, codec: impl Codec + 'static) -> Options {
        self.reading_codecs.push(Given::new(codec));
        self
    }

    fn given_codecs(&self) -> impl Iterator<Item = &Given> {
        self.codec.iter().chain(&self.reading_codecs)
    }

    /// Returns the codecs that the log can read.
    pub(crate) fn codecs(&self) -> Codecs {
        Codecs::new(self.given_codecs())
    }

    /// Returns the largest body of a batch, in bytes.
    pub(crate) fn batch_bytes_max(&self) -> u64 {
        BATCH_BYTES.max(self.record_bytes_max)
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let check = |ok: bool, option, value, range| {
            if ok { Ok(()) } else { Err(Error::InvalidOption { option, value, range }) }
        };
        check(
            self.segment_bytes >= 16 << 10,
            "segment_bytes",
            self.segment_bytes,
            "at least 16384",
        )?;
        check(self.segment_bytes <= 1 << 40, "segment_bytes", self.segment_bytes, "at most 2^40")?;
        check(
            self.record_bytes_max <= 1 << 30,
            "record_bytes_max",
            self.record_bytes_max,
            "at most 2^30",
        )?;
        let pending = self.pending_bytes_max;
        check(pending >= 4 << 10, "pending_bytes_max", pending, "at least 4096")?;
        check(pending <= 1 << 32, "pending_bytes_max", pending, "at most 2^32")?;
        for (at, given) in self.given_codecs().enumerate() {
            let number = given.id.number();
            let is_twin = |other: &Given| other.id == given.id && given.id.is_own();
            let twins = self.given_codecs().take(at).any(is_twin);
            check(given.is_allowed, "codec", number.into(), "a number from 128 to 255")?;
            check(!twins, "codec_for_reading", number.into(), "the number of no other codec")?;
        }
        let above_zero = !matches!(self.durability, Durability::Interval(Duration::ZERO));
        check(above_zero, "durability", 0, "an interval above zero")
    }
}

impl Default for Options {
    fn default() -> Options {
        Options::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_outside_their_range_are_named() {
        Options::new().validate().unwrap();
        for (options, name) in [
            (Options::new().segment_bytes((16 << 10) - 1), "segment_bytes"),
            (Options::new().segment_bytes(u64::MAX), "segment_bytes"),
            (Options::new().record_bytes_max((1 << 30) + 1), "record_bytes_max"),
            (Options::new().pending_bytes_max(0), "pending_bytes_max"),
            (Options::new().pending_bytes_max(u64::MAX), "pending_bytes_max"),
            (Options::new().durability(Durability::Interval(Duration::ZERO)), "durability"),
        ] {
            let error = options.validate().unwrap_err();
            assert!(
                matches!(error, Error::InvalidOption { option, .. } if option == name),
                "{error}"
            );
        }
    }
}
