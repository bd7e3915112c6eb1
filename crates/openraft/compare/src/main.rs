//! As the example `proposals`, with one more log: RocksDB, which syncs each append.
//!
//! ```text
//! cargo run --release --manifest-path crates/openraft/compare/Cargo.toml
//! ```

#[path = "../../examples/cluster/mod.rs"]
mod cluster;
#[path = "../../examples/proposals/measure.rs"]
mod measure;
#[path = "../../examples/proposals/memory.rs"]
mod memory;
mod rocks;

use clap::Parser as _;

use measure::Log;

const ROCKS: Log = Log {
    name: "rocksdb",
    measure: |arguments, case, dir| {
        measure::measure(arguments, case, |id| {
            Ok((rocks::Rocks::open(&dir.join(format!("node-{id}")))?, None))
        })
    },
};

fn main() -> cluster::Result<()> {
    let logs = [measure::MEMORY, measure::SEAWALL, ROCKS];
    measure::run(&measure::Arguments::parse(), &logs)
}
