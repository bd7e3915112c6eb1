//! What the log promises its users, tested from outside: one module per property.

// Seeds and coverage summaries are printed; `cargo test` shows them when a test fails.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod append_read;
mod child;
mod common;
mod concurrency;
mod corruption;
mod disk_full;
mod fault_fs;
mod faults;
mod format;
mod hook_fs;
mod kill;
mod kv;
mod ledger;
mod mem_fs;
mod model;
mod on_disk;
mod recovery;
mod tidy;
