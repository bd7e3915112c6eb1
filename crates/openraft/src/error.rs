//! `Error`: what can fail, and what the caller should do about it.

use std::path::Path;
use std::sync::Arc;

use openraft::{AnyError, NodeId, StorageError, StorageIOError};

use crate::codec::CodecError;

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What failed. openraft gets it as a [`StorageError`], and stops the node.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The log failed. Its error says what to do.
    #[error(transparent)]
    Wal(#[from] seawall::Error),

    /// The codec refused an entry or a log id. Nothing was changed.
    #[error("entry {index} cannot be encoded: {source}; correct the entry or the codec")]
    #[non_exhaustive]
    Encode {
        /// The entry's index.
        index: u64,
        /// What the codec said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The codec cannot read an entry. The log's checksums have verified the bytes, so another
    /// codec or another version of a type wrote them.
    #[error(
        "entry {index} cannot be decoded: {source}; open the store with the codec that wrote it"
    )]
    #[non_exhaustive]
    Decode {
        /// The entry's index.
        index: u64,
        /// What the codec said.
        source: Arc<dyn std::error::Error + Send + Sync>,
    },

    /// The entries to be appended do not continue the log. Nothing was changed.
    #[error(
        "the log continues at index {expected}, and the entry has index {found}; nothing was appended"
    )]
    #[non_exhaustive]
    NotConsecutive {
        /// The index that the entry must have.
        expected: u64,
        /// The index that it has.
        found: u64,
    },

    /// Entries were asked for that are not in the log: they are purged, or not appended yet.
    #[error(
        "entries from index {start} were asked for, and the log has those from {first} to before {next}"
    )]
    #[non_exhaustive]
    Missing {
        /// The first index that was asked for.
        start: u64,
        /// The index of the log's first entry.
        first: u64,
        /// The index that the next entry gets.
        next: u64,
    },

    /// The directory holds a log that this crate did not write, or one that contradicts itself.
    ///
    /// Choose another directory. If the store was there before, restore the directory from a copy.
    #[error("the log in {} is not a sound Raft log: {reason}; choose another directory, or restore this one from a copy", path.display())]
    #[non_exhaustive]
    NotAStore {
        /// The directory.
        path: Arc<Path>,
        /// What contradicts it.
        reason: String,
    },

    /// The disk is full, and the system has no thread that could wait for space.
    #[error(
        "the disk is full, and no thread could be started to wait for space: {0}; free space, and open the store again"
    )]
    NoThread(Arc<std::io::Error>),

    /// The runtime ended while the store worked on its threads.
    #[error("the runtime ended; open the store again in another one")]
    RuntimeEnded,
}

impl Error {
    pub(crate) fn encode(index: u64, source: CodecError) -> Error {
        Error::Encode { index, source: source.into() }
    }

    pub(crate) fn decode(index: u64, source: CodecError) -> Error {
        Error::Decode { index, source: source.into() }
    }

    /// Whether there was no space. The log is as it was, and the call may be repeated.
    pub(crate) fn is_storage_full(&self) -> bool {
        matches!(self, Error::Wal(seawall::Error::StorageFull { .. }))
    }

    pub(crate) fn read<N: NodeId>(self) -> StorageError<N> {
        StorageIOError::read_logs(AnyError::new(&self)).into()
    }

    pub(crate) fn write<N: NodeId>(self) -> StorageError<N> {
        StorageIOError::write_logs(AnyError::new(&self)).into()
    }

    pub(crate) fn write_vote<N: NodeId>(self) -> StorageError<N> {
        StorageIOError::write_vote(AnyError::new(&self)).into()
    }
}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> std::io::Error {
        std::io::Error::other(error)
    }
}
