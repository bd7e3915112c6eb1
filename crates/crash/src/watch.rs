//! Notes at which calls a disk is synced. Between two syncs more and more becomes possible, so only
//! there is the set of possible states as large as it gets.

use std::sync::{Arc, Mutex, PoisonError};

use seawall::sim::SimFs;
use seawall_testkit::HookFs;
use seawall_testkit::hooks::{Call, Verdict};

/// A disk that is watched.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    fs: HookFs,
    syncs: Arc<Mutex<Vec<u64>>>,
}

impl Watched {
    pub(crate) fn new(disk: SimFs) -> Watched {
        let syncs: Arc<Mutex<Vec<u64>>> = Arc::default();
        let noted = syncs.clone();
        let watched = disk.clone();
        let fs = HookFs::new(disk, move |asked| {
            if matches!(asked.call, Call::Sync | Call::SyncDir) {
                noted.lock().unwrap_or_else(PoisonError::into_inner).push(watched.calls());
            }
            Verdict::Go
        });
        Watched { fs, syncs }
    }

    /// The disk that a log opens on.
    pub(crate) fn fs(&self) -> Arc<HookFs> {
        Arc::new(self.fs.clone())
    }

    /// The numbers of the calls that were syncs, of a file or a directory.
    pub(crate) fn syncs(&self) -> Vec<u64> {
        self.syncs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::time::Duration;

    use seawall::Options;
    use seawall::options::Preallocate;

    use super::*;

    #[test]
    fn what_a_full_disk_refused_does_not_come_back_after_a_power_cut() {
        // Method: four threads append at once, on a slow disk, so that three wait together for the
        // first one. No two of their records fit into a frame; the disk has room for the first
        // one's and one frame more, which is cut off again. After a power cut, in many of the
        // states that are possible, it must not be there.
        let mut refused = 0;
        for round in 0..12 {
            let disk = SimFs::new(round);
            let slow = HookFs::new(disk.clone(), |asked| {
                if asked.call == Call::Sync {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Verdict::Go
            });
            let options = Options::new().preallocate(Preallocate::Off);
            let wal = options.open_on(Arc::new(slow), "/log").unwrap();
            wal.append(&[]).unwrap(); // The first one makes the spares, which take room of their own.
            let files = disk.files();
            let used: u64 = files.iter().map(|path| disk.bytes(path).unwrap().len() as u64).sum();
            disk.set_capacity(Some(used + 90_000));
            let start = Barrier::new(4);
            let append = |thread: u8| {
                start.wait();
                wal.append([thread; 34_000].to_vec()).is_ok().then(|| vec![thread; 34_000])
            };
            let mut acknowledged: Vec<_> = std::thread::scope(|scope| {
                let append = &append;
                let threads: Vec<_> =
                    (0..4).map(|thread| scope.spawn(move || append(thread))).collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            acknowledged.push(Vec::new());
            acknowledged.sort_unstable();
            refused += usize::from(acknowledged.len() == 2);
            for seed in 0..300 {
                let image = disk.power_cuts().random(seed);
                image.set_capacity(None);
                let opened = options.open_on(Arc::new(image), "/log").unwrap();
                let mut found: Vec<_> =
                    opened.iter().map(|record| record.unwrap().payload().to_vec()).collect();
                found.sort_unstable();
                assert!(found == acknowledged, "round {round}, power cut .random({seed})");
            }
        }
        assert!(refused > 0, "no group of several frames was refused");
    }
}
