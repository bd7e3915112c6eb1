//! Compiles the `.proto` files with a compiler in Rust.

use std::path::Path;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// What clients may call.
const PUBLIC: [&str; 2] = ["log/v1/log.proto", "seawall/admin/v1/admin.proto"];

/// What nodes say to each other, and what they store.
const PRIVATE: [&str; 2] = ["seawall/raft/v1/raft.proto", "seawall/store/v1/command.proto"];

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=proto");
    let out = std::env::var("OUT_DIR")?;
    let public = protox::compile(PUBLIC, ["proto"])?;
    // For reflection. Only what clients may call is in it.
    std::fs::write(Path::new(&out).join("public.bin"), prost::Message::encode_to_vec(&public))?;
    let all = protox::compile(PUBLIC.iter().chain(&PRIVATE), ["proto"])?;
    tonic_prost_build::configure().build_transport(false).bytes(".").compile_fds(all)?;
    Ok(())
}
