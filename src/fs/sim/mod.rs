//! A simulated disk that crashes, for tests of code that uses a log. It is deterministic, and has
//! no threads and no clock of its own.
//!
//! [`SimFs`] implements [`Fs`](crate::fs::Fs), so a log opens on it with
//! [`Options::open_on`](crate::Options::open_on). Of each file it keeps what reads see, what is
//! durable, and what is in between; names likewise, by themselves. [`crash_at`](SimFs::crash_at)
//! stops the machine at any call. [`process_kill`](SimFs::process_kill) then returns the state that
//! is left if only the process died. [`power_cuts`](SimFs::power_cuts) returns all states that
//! POSIX allows the disk to be in after a power cut:
//!
//! - a sector of 512 bytes that was written and not synced holds any of its versions, each sector
//!   by itself, or is torn between two of them;
//! - a file has any of the sizes that it had since its last sync, whatever its sectors hold;
//! - any of the creations, renames and removals since the directory's last sync have taken place,
//!   or not;
//! - `sync_data` makes a file's bytes and size durable, and no name;
//! - a sync that fails leaves everything visible and nothing durable, and the next one says ok, as
//!   Linux does.
//!
//! # Examples
//! A crash test of a store: each number that it acknowledged must be there after a crash at any
//! call.
//! ```
//! use std::sync::Arc;
//! use seawall::{Options, Wal, sim::SimFs};
//!
//! /// A toy store: a log of numbers, and their sum.
//! struct Sum { wal: Wal, sum: u64 }
//!
//! impl Sum {
//!     fn open(disk: &SimFs) -> seawall::Result<Sum> {
//!         let wal = Options::new().open_on(Arc::new(disk.clone()), "/sum")?;
//!         let mut sum = 0;
//!         for record in wal.iter() {
//!             sum += u64::from(record?.payload()[0]);
//!         }
//!         Ok(Sum { wal, sum })
//!     }
//!     fn add(&mut self, number: u8) -> seawall::Result<()> {
//!         self.wal.append(&[number])?;
//!         self.sum += u64::from(number);
//!         Ok(())
//!     }
//! }
//!
//! for call in 0.. {
//!     let disk = SimFs::new(7);
//!     disk.crash_at(call);
//!     let mut acknowledged = 0;
//!     if let Ok(mut store) = Sum::open(&disk) {
//!         while acknowledged < 6 && store.add(2).is_ok() {
//!             acknowledged += 2;
//!         }
//!     }
//!     if !disk.has_crashed() {
//!         break; // The whole history took fewer calls.
//!     }
//!     for seed in 0..20 {
//!         let sum = Sum::open(&disk.power_cuts().random(seed)).expect("a crash is no damage").sum;
//!         assert!(sum == acknowledged || sum == acknowledged + 2, "{sum} after {acknowledged} at call {call}");
//!     }
//! }
//! ```

#[doc(hidden)]
pub mod apart;
mod cut;
mod disk;
mod files;
mod machine;

pub use cut::PowerCuts;
pub use machine::{Call, Fault, SimFs};

#[cfg(test)]
mod tests;
