//! Tests of the server from outside: over gRPC, and as a process.

mod book;
mod cluster;
mod cluster_client;
mod cluster_page;
mod common;
mod consume;
mod daemon;
mod dev;
mod documents;
mod floods;
mod full_disk;
mod hostile;
mod idle;
mod kills;
mod operator;
mod packaging;
mod page;
mod pki;
mod poison;
mod process;
mod produce;
mod restart;
mod retention;
mod rolling;
mod secured;
mod security;
#[cfg(feature = "otlp")]
mod spans;
mod tool;
