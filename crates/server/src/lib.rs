#![doc = include_str!("../README.md")]

pub mod checkpoint;
mod coalesce;
pub mod config;
mod error;
mod guard;
mod health;
mod http;
mod identity;
mod metrics;
mod node;
mod observe;
#[cfg(feature = "otlp")]
pub mod otlp;
mod raft;
mod read;
mod retention;
mod server;
mod service;
mod space;
pub mod streams;
mod watchers;

pub use config::{Config, ConfigError};
pub use identity::IdentityError;
pub use node::NodeError;
pub use raft::OpenError;
pub use server::{Server, ServerError};
