//! What a group reports when something fails.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;

/// Why a group cannot be opened or closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The log of the group.
    #[error(transparent)]
    Log(#[from] seawall_openraft::Error),
    /// A checkpoint of the index.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log lacks entries that were committed: another directory's log, or an old copy.
    #[error(
        "{}: the index has a checkpoint at entry {checkpoint}, and the log ends at {}: the log has \
         lost entries. Restore the directory that fits, or let the node join again under a new id",
        dir.display(), last.map_or("its start".to_owned(), |last| format!("entry {last}"))
    )]
    LogTooShort {
        /// The directory of the index.
        dir: PathBuf,
        /// The entry of the newest checkpoint.
        checkpoint: u64,
        /// The last entry of the log.
        last: Option<u64>,
    },
    /// Entries are purged, and no checkpoint that can be used stands for them.
    #[error(
        "{}: the log is purged up to entry {}, and no checkpoint from there on can be used. Restore \
         the directory from a copy, or let the node join again under a new id",
        dir.display(), purged.unwrap_or(0)
    )]
    CheckpointMissing {
        /// The directory of the index.
        dir: PathBuf,
        /// The last entry that is purged.
        purged: Option<u64>,
    },
    /// A limit was changed, and entries must be judged again, by the limits that they had met.
    #[error(
        "{}: limits.streams, limits.producers or limits.cursors differ from those of the last run, \
         which did not end in order: start once with the old limits, stop, and change them then",
        dir.display()
    )]
    LimitsChanged {
        /// The directory of the index.
        dir: PathBuf,
    },
    /// The Raft engine.
    #[error("the Raft engine reports: {reason}")]
    Engine {
        /// What it reports.
        reason: String,
    },
}

impl OpenError {
    pub(crate) fn engine(error: impl std::fmt::Display) -> OpenError {
        OpenError::Engine { reason: error.to_string() }
    }

    /// Whether there was no space.
    pub(crate) fn is_storage_full(&self) -> bool {
        use seawall_openraft::Error::Wal;
        match self {
            OpenError::Log(Wal(seawall::Error::StorageFull { .. })) => true,
            OpenError::Checkpoint(CheckpointError::Io { source, .. }) => {
                source.kind() == std::io::ErrorKind::StorageFull
            }
            _ => false,
        }
    }

    pub(crate) fn encode(error: postcard::Error) -> OpenError {
        OpenError::Engine { reason: format!("a checkpoint cannot be encoded: {error}") }
    }
}

/// Why a proposal or a linearizable read has no outcome.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ProposeError {
    /// Another node leads.
    #[error("this node does not lead the group")]
    NotLeader { leader: Option<String> },
    /// This node led the group when it took the proposal, and does not any more. Another leader may
    /// have the entry.
    #[error("this node has lost the lead of the group")]
    LeaderLost,
    /// This node has not caught up within so long.
    #[error("the node did not catch up within {} s", .0.as_secs())]
    Late(std::time::Duration),
    /// The group has failed, or is stopping. A proposal may have been appended.
    #[error("{0}")]
    Failed(String),
}

impl ProposeError {
    pub(crate) fn engine(error: impl std::fmt::Display) -> ProposeError {
        ProposeError::Failed(error.to_string())
    }
}

/// Why entries cannot be read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ReadError(String);

impl ReadError {
    pub(crate) fn log(error: openraft::StorageError<u64>) -> ReadError {
        ReadError(error.to_string())
    }

    pub(crate) fn decode(error: prost::DecodeError) -> ReadError {
        ReadError(format!("an entry holds no command: {error}"))
    }
}
