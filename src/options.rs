//! `Options`: every knob of a log, with its unit, default and range; validated once, when the log
//! is opened.

use std::time::Duration;

use crate::error::{Error, Result};

/// When an append is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Durability {
    /// `append` returns when its record survives a power cut. The default.
    #[default]
    Sync,
    /// `append` returns when its record survives the death of the process; it survives a power cut
    /// at most this long and two syncs later. A thread of the log's own syncs, and sleeps while
    /// there is nothing to sync. Must be above zero.
    Interval(Duration),
    /// `append` returns when its record is in the log's memory. It is handed to the system every
    /// 256 KiB (or half a segment, if that is less), and survives a power cut after the next `sync`
    /// that returned `Ok`.
    Buffered,
}

/// How much of the older segments is verified when a log is opened; the newest is always verified
/// in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Verify {
    /// Every byte that is live, on all processors. The default.
    #[default]
    Full,
    /// Their headers and last frames only: opening costs the same whatever they hold, and damage in
    /// them is reported when they are read.
    Tail,
}

/// What an append does when more than `pending_bytes_max` waits to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Backpressure {
    /// Waits its turn. The default.
    #[default]
    Wait,
    /// Fails with [`Error::QueueFull`].
    Fail,
}

/// Whether space in the tail is preallocated: filled with zeros before records need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Preallocate {
    /// Where it pays: in file systems that overwrite in place, except with
    /// [`Durability::Buffered`]. A sync that changes no file size is 1.3 to 2.4 times faster there.
    /// The default.
    #[default]
    Auto,
    /// Never: the files are no longer than their records.
    Off,
}

/// How to open a log; the defaults are [`Wal::open`](crate::Wal::open)'s.
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
    pub(crate) create_if_missing: bool,
}

/// The largest body of a batch, unless a single record may be larger.
const BATCH_BYTES: u64 = 64 << 20;

impl Options {
    /// The defaults.
    pub fn new() -> Options {
        Options {
            segment_bytes: 64 << 20,
            record_bytes_max: 16 << 20,
            pending_bytes_max: 8 << 20,
            backpressure: Backpressure::default(),
            preallocate: Preallocate::default(),
            durability: Durability::default(),
            verify: Verify::default(),
            create_if_missing: true,
        }
    }

    /// Size at which a segment is sealed, in bytes. Default 64 MiB, at least 16 KiB. A group of
    /// records that would pass it starts a new segment, and a group larger than this has one of its
    /// own. Smaller frees space sooner; larger seals less often.
    pub fn segment_bytes(mut self, bytes: u64) -> Options {
        self.segment_bytes = bytes;
        self
    }

    /// Largest payload of one record, in bytes. Default 16 MiB, at most 1 GiB. The body of a batch
    /// may have this much or 64 MiB, whichever is more. What is on disk is read whatever this says.
    pub fn record_bytes_max(mut self, bytes: u64) -> Options {
        self.record_bytes_max = bytes;
        self
    }

    /// Bytes that may wait to be written before appends wait as well, see [`Backpressure`]. Default
    /// 8 MiB, at least 4 KiB. An entry that is larger is let in alone. Twice this is about what the
    /// log keeps in memory at most.
    pub fn pending_bytes_max(mut self, bytes: u64) -> Options {
        self.pending_bytes_max = bytes;
        self
    }

    /// What an append does above `pending_bytes_max`. Default [`Backpressure::Wait`].
    pub fn backpressure(mut self, backpressure: Backpressure) -> Options {
        self.backpressure = backpressure;
        self
    }

    /// Sets whether space in the tail is preallocated. Default [`Preallocate::Auto`].
    pub fn preallocate(mut self, preallocate: Preallocate) -> Options {
        self.preallocate = preallocate;
        self
    }

    /// When an append is on disk. Default [`Durability::Sync`].
    pub fn durability(mut self, durability: Durability) -> Options {
        self.durability = durability;
        self
    }

    /// How much is verified at open. Default [`Verify::Full`].
    pub fn verify(mut self, verify: Verify) -> Options {
        self.verify = verify;
        self
    }

    /// Whether a directory without a log gets a new one. Default `true`; with `false` it is
    /// [`Error::NotFound`].
    pub fn create_if_missing(mut self, create: bool) -> Options {
        self.create_if_missing = create;
        self
    }

    /// The largest body of a batch, in bytes.
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
