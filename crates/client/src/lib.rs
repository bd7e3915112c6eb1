#![doc = include_str!("../README.md")]

mod error;
mod record;

mod config;
mod nodes;
mod retry;

mod lanes;

mod admin;
mod client;
mod cluster;
mod consumer;
mod producer;

pub use admin::{CursorInfo, Limits, Offsets, StreamInfo};
pub use client::{Client, Idempotence, ProduceOptions};
pub use cluster::{Member, NodeReport, ServerInfo, Status};
pub use config::{Builder, Tls};
pub use consumer::{Batch, Consistency, Consumer, ConsumerBuilder, ReadFrom, Start};
pub use error::Error;
pub use producer::{Producer, ProducerBuilder, Receipt};
pub use record::{Appended, Header, Record};

/// The result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;
