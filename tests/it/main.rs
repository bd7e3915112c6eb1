//! What the log promises its users, tested from outside: one module per property.

// Seeds and coverage summaries are printed; `cargo test` shows them when a test fails.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod append_read;
mod backup;
mod close;
mod codec;
mod concurrency;
mod corruption;
mod damage;
mod disk_full;
mod documents;
mod exchange;
mod faults;
mod follow;
mod format;
#[cfg(windows)]
mod held_files;
mod inspect;
mod kill;
mod kv;
mod manifests;
mod model;
#[cfg(unix)]
mod moved_world;
mod observer;
mod progress;
mod read_only;
mod reading;
mod ready;
mod recovery;
mod removal;
mod salvage;
mod support;
mod tickets;
mod tidy;
mod truncate;
