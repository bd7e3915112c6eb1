//! What the log promises its users, tested from outside: one module per property.

// Seeds and coverage summaries are printed; `cargo test` shows them when a test fails.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod common;
mod corruption;
mod fault_fs;
mod faults;
mod mem_fs;
mod model;
mod tidy;
