//! openraft's own suite for log stores.

use std::path::PathBuf;
use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use seawall::fs::{Fs, OsFs};
use seawall::sim::SimFs;
use seawall_openraft::Options;

use crate::support::machine::{Machine, Store, Types};
use crate::support::watchdog;

/// Makes a new store for each test of the suite.
struct Builder {
    disk: Disk,
    cache_bytes_max: u64,
}

enum Disk {
    Real,
    Simulated,
}

impl StoreBuilder<Types, Store, Machine, Option<tempfile::TempDir>> for Builder {
    async fn build(
        &self,
    ) -> Result<(Option<tempfile::TempDir>, Store, Machine), StorageError<u64>> {
        let (guard, fs, dir): (_, Arc<dyn Fs>, PathBuf) = match self.disk {
            Disk::Real => {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("log");
                (Some(dir), Arc::new(OsFs::new()), path)
            }
            Disk::Simulated => (None, Arc::new(SimFs::new(1)), "/log".into()),
        };
        let options = Options::new().cache_bytes_max(self.cache_bytes_max);
        Ok((guard, options.open_on(fs, dir).unwrap(), Machine::default()))
    }
}

fn run(disk: Disk, cache_bytes_max: u64) {
    watchdog(120, move || {
        Suite::test_all(Builder { disk, cache_bytes_max }).unwrap();
    });
}

#[test]
fn it_passes_on_a_real_disk_with_reads_from_the_cache() {
    run(Disk::Real, 16 << 20);
}

#[test]
fn it_passes_on_a_real_disk_with_reads_from_the_files() {
    run(Disk::Real, 0);
}

#[test]
fn it_passes_on_a_simulated_disk_with_reads_from_the_cache() {
    run(Disk::Simulated, 16 << 20);
}

#[test]
fn it_passes_on_a_simulated_disk_with_reads_from_the_files() {
    run(Disk::Simulated, 0);
}
