//! What other programs do to the log's files.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use seawall::fs::Fs;
use seawall::sim::SimFs;
use seawall::{Error, Options};
use seawall_testkit::{Kind, Violation, disk};

use crate::ledger::Survived;

use super::{DIR, MOVED, Machine, SECTOR_BYTES, home};

impl Machine {
    /// Moves the log's directory, and begins another log at its path. The next time, removes that
    /// log and moves the directory back. Syncs the names after each change, as `mv` and `sync` do.
    pub(super) fn replace(&mut self) -> Result<(), Violation> {
        let sync =
            |disk: &SimFs| disk.open_dir(Path::new("/")).and_then(|root| root.sync()).is_ok();
        if home(&self.disk) == Path::new(MOVED) {
            self.ledger.judge_surroundings(&self.disk, Survived::Kill)?;
            self.ledger.note_stranger(None);
            // If the disk had no space for the other log, a power cut may have lost it.
            drop(self.disk.remove_dir(DIR));
            if sync(&self.disk) {
                self.disk.move_dir(MOVED, DIR).expect("the name is free");
                sync(&self.disk);
            }
            return Ok(());
        }
        self.disk.move_dir(DIR, MOVED).expect("no other log is there");
        if !sync(&self.disk) {
            return Ok(());
        }
        // The planned faults are for the log under test.
        let begun = Options::new().preallocate(self.setup.preallocate);
        let begun = begun.open_on(Arc::new(self.disk.clone()), DIR).and_then(|other| {
            other.append("a stranger")?;
            other.close()
        });
        match begun {
            _ if self.disk.has_crashed() => {}
            Ok(()) => {
                let mut files = disk::contents(&self.disk);
                // LOCK is never synced. It only names a process.
                files.retain(|path, _| path.starts_with(DIR) && !path.ends_with("LOCK"));
                self.ledger.note_stranger(Some(files));
            }
            // The two logs share the space.
            Err(Error::StorageFull { .. }) if self.faults => {}
            Err(error) => {
                let what = format!("no other log can be created at the log's old path: {error}");
                return Err(Violation::new(Kind::Broken, what));
            }
        }
        Ok(())
    }

    /// The log's segments, oldest first.
    fn segments(&self) -> Vec<PathBuf> {
        let home = home(&self.disk);
        let mut segments = self.disk.files();
        segments.retain(|path| {
            path.starts_with(home) && path.extension().is_some_and(|ending| ending == "log")
        });
        segments.sort();
        segments
    }

    /// Makes a sector of a segment unreadable.
    pub(super) fn lose_sector(&mut self, segment: u64, sector: u64) {
        let segments = self.segments();
        let from_end = |number: u64, count: u64| count - 1 - number % count;
        let Some(count) = NonZeroU64::new(segments.len() as u64) else { return };
        let path = &segments[usize::try_from(from_end(segment, count.get())).expect("an index")];
        // Zeros after the frames are no sectors that matter.
        let bytes = self.disk.bytes(path).expect("it is there");
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64 + 1;
        let start = from_end(sector, used.div_ceil(SECTOR_BYTES)) * SECTOR_BYTES;
        self.watched.lose_sector(path, start..start + SECTOR_BYTES);
    }

    /// Gives the newest segment's file a second name.
    pub(super) fn link(&mut self) {
        let files = self.disk.files();
        let segments = self.segments();
        let Some(tail) = segments.last() else { return };
        let mut names = (0..).map(|number| PathBuf::from(format!("/backup-{number}")));
        let backup =
            names.find(|path| !files.contains(path)).expect("there are infinitely many names");
        self.disk.link(tail, &backup).expect("the name is free");
        // On a full disk, the log may undo writes that no sync has covered.
        if !self.faults {
            let bytes = self.disk.bytes(tail).expect("the tail is there");
            self.ledger.note_backup(backup, bytes);
        }
    }
}
