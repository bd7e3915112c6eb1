//! The list of the engines. Each log that is measured has its own file. `baseline` shows what the
//! disk itself can do.

pub(crate) mod baseline;
pub(crate) mod seawall;

#[cfg(feature = "fjall")]
pub(crate) mod fjall;
#[cfg(feature = "okaywal")]
pub(crate) mod okaywal;
#[cfg(feature = "open-wal")]
pub(crate) mod open_wal;
#[cfg(feature = "raft-engine")]
pub(crate) mod raft_engine;
#[cfg(feature = "rewal")]
pub(crate) mod rewal;
#[cfg(feature = "rusqlite")]
pub(crate) mod rusqlite;
#[cfg(feature = "seglog")]
pub(crate) mod seglog;
#[cfg(feature = "wal-db")]
pub(crate) mod wal_db;
#[cfg(feature = "walogs")]
pub(crate) mod walogs;

use crate::engine::{Result, Spec};

/// All engines of this build: seawall, then the baselines, then the peers by name.
pub(crate) fn all() -> Vec<Spec> {
    vec![
        seawall::spec(),
        baseline::growing(),
        baseline::fallocated(),
        baseline::zeroed(),
        baseline::zeroing(),
        baseline::buffered(),
        baseline::pread(),
        #[cfg(feature = "fjall")]
        fjall::spec(),
        #[cfg(feature = "okaywal")]
        okaywal::spec(),
        #[cfg(feature = "open-wal")]
        open_wal::spec(),
        #[cfg(feature = "raft-engine")]
        raft_engine::spec(),
        #[cfg(feature = "rewal")]
        rewal::spec(),
        #[cfg(feature = "rusqlite")]
        rusqlite::spec(),
        #[cfg(feature = "seglog")]
        seglog::spec(),
        #[cfg(feature = "wal-db")]
        wal_db::spec(),
        #[cfg(feature = "walogs")]
        walogs::spec(),
    ]
}

/// The engine of this name, if this build has it.
pub(crate) fn find(name: &str) -> Result<Spec> {
    let found = all().into_iter().find(|spec| spec.name == name);
    found.ok_or_else(|| format!("there is no engine {name} in this build").into())
}
