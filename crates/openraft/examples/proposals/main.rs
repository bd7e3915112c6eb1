//! How many proposals a cluster of three nodes in one process takes, beside two limits: the same
//! cluster with its log in memory, and a plain loop of write and fdatasync.
//!
//! ```text
//! cargo run --release -p seawall-openraft --example proposals
//! ```
#![allow(clippy::print_stdout)] // It is a program: this is its output.

#[path = "../cluster/mod.rs"]
mod cluster;
mod measure;
mod memory;

use clap::Parser as _;

fn main() -> cluster::Result<()> {
    measure::run(&measure::Arguments::parse(), &[measure::MEMORY, measure::SEAWALL])
}
