//! Free space: the mark below which records are refused, and the ballast that is given up on a full
//! disk.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use seawall_openraft::Health;
use tokio::sync::watch;

use crate::config;
use crate::raft::Group;
use crate::watchers::stopped;

const LOOK: Duration = Duration::from_secs(1);

/// Whether records are taken. Requests ask it.
#[derive(Debug)]
pub(crate) struct Space {
    dir: PathBuf,
    options: config::Space,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Default)]
struct State {
    /// Why records are refused.
    refusal: Option<String>,
    free_bytes: u64,
}

impl Space {
    pub(crate) fn new(dir: &Path, options: &config::Space) -> Space {
        Space { dir: dir.into(), options: options.clone(), state: Mutex::default() }
    }

    /// Returns why records are refused, if they are.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.state().refusal.clone()
    }

    /// Returns how much space was free at the last look.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.state().free_bytes
    }

    /// Looks at the disk. Makes the ballast if there is room for it. Blocks.
    pub(crate) fn look(&self, health: &Health) {
        let refusal = match self.examine(health) {
            Ok(refusal) => refusal,
            Err(error) => {
                Some(format!("{}: the free space is unknown: {error}", self.dir.display()))
            }
        };
        let mut state = self.state();
        if state.refusal != refusal {
            match &refusal {
                Some(reason) => tracing::warn!("records are refused: {reason}"),
                None => tracing::info!("records are taken again"),
            }
            state.refusal = refusal;
        }
    }

    fn examine(&self, health: &Health) -> io::Result<Option<String>> {
        if matches!(health, Health::StorageFull { .. }) {
            let _given_up = self.give_up_ballast();
            return Ok(Some(format!("{}: the disk is full", self.dir.display())));
        }
        let free = fs2::available_space(&self.dir)?;
        self.state().free_bytes = free;
        let mark = self.mark(fs2::total_space(&self.dir)?);
        if free < mark {
            let dir = self.dir.display();
            return Ok(Some(format!("{dir}: {free} bytes are free, fewer than {mark}")));
        }
        if let Err(error) = self.make_ballast() {
            let ballast = self.ballast();
            return Ok(Some(format!("{}: cannot be made: {error}", ballast.display())));
        }
        Ok(None)
    }

    fn mark(&self, total_bytes: u64) -> u64 {
        let share = total_bytes / 100 * u64::from(self.options.free_percent);
        share.max(self.options.free_bytes.as_u64())
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }

    /// Frees the space of the ballast, so that the log can go on and be purged. Returns whether
    /// there was one.
    pub(crate) fn give_up_ballast(&self) -> bool {
        let path = self.ballast();
        match fs::remove_file(&path) {
            Ok(()) => {
                tracing::warn!("{}: given up, because the disk is full", path.display());
                return true;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::error!("{}: cannot be given up: {error}", path.display()),
        }
        false
    }

    /// Makes the ballast if it is not there, with its space allocated.
    fn make_ballast(&self) -> io::Result<()> {
        let bytes = self.options.ballast_bytes.as_u64();
        let path = self.ballast();
        if bytes == 0 {
            // No system allocates nothing.
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() == bytes => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = File::create(&path)?;
        // The error of `allocate` names another reason: it takes the thread's last one.
        let full = |_| io::Error::new(io::ErrorKind::StorageFull, "there is no space for it");
        let made =
            fs2::FileExt::allocate(&file, bytes).map_err(full).and_then(|()| file.sync_all());
        if made.is_err() {
            // Half a ballast would take space that the log needs.
            fs::remove_file(&path)?;
        }
        made
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at the disk each second, and at once when the log finds it full. Ends with `stop`.
pub(crate) async fn watch_space(
    space: std::sync::Arc<Space>,
    group: Group,
    mut stop: watch::Receiver<bool>,
) {
    let mut health = group.watch_health();
    loop {
        let own = space.clone();
        let seen = health.borrow_and_update().clone();
        // A panic in it shows in the log, and the next look tries again.
        let _ended = tokio::task::spawn_blocking(move || own.look(&seen)).await;
        tokio::select! {
            () = stopped(&mut stop) => return,
            changed = health.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytesize::ByteSize;

    use super::*;

    #[test]
    fn the_ballast_goes_on_a_full_disk_and_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let options = config::Space {
            free_bytes: ByteSize::b(0),
            free_percent: 0,
            ballast_bytes: ByteSize::kib(64),
            ..config::Space::default()
        };
        let space = Space::new(dir.path(), &options);
        let ballast = dir.path().join("ballast");
        space.look(&Health::Ready);
        assert_eq!(space.refusal(), None);
        assert_eq!(fs::metadata(&ballast).unwrap().len(), 64 << 10);

        space.look(&Health::StorageFull { since: Instant::now() });
        assert!(space.refusal().unwrap().contains("the disk is full"));
        assert!(!ballast.exists());

        space.look(&Health::Ready);
        assert_eq!(space.refusal(), None);
        assert!(ballast.exists());
    }

    #[test]
    fn no_ballast_is_wanted_and_records_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = config::Space {
            free_bytes: ByteSize::b(0),
            free_percent: 0,
            ballast_bytes: ByteSize::kib(64),
            ..config::Space::default()
        };
        Space::new(dir.path(), &options).look(&Health::Ready);
        assert!(dir.path().join("ballast").exists());
        options.ballast_bytes = ByteSize::b(0);
        let space = Space::new(dir.path(), &options);
        space.look(&Health::Ready);
        assert_eq!(space.refusal(), None);
        assert!(!dir.path().join("ballast").exists());
    }

    #[test]
    fn records_are_refused_below_the_mark() {
        let dir = tempfile::tempdir().unwrap();
        let total = fs2::total_space(dir.path()).unwrap();
        let options = config::Space {
            free_bytes: ByteSize::b(total + 1),
            ballast_bytes: ByteSize::b(0),
            ..config::Space::default()
        };
        let space = Space::new(dir.path(), &options);
        space.look(&Health::Ready);
        assert!(space.refusal().unwrap().contains("fewer than"));
        assert!(!dir.path().join("ballast").exists(), "no ballast where space is short");
    }
}
