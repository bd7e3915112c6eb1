#![doc = include_str!("../README.md")]

pub mod authz;
pub mod certs;
pub mod checkpoint;
mod coalesce;
pub mod config;
pub mod connect;
mod error;
pub mod guard;
mod health;
mod http;
mod identity;
mod intake;
mod join;
pub mod listen;
mod metrics;
mod node;
mod observe;
#[cfg(feature = "otlp")]
pub mod otlp;
mod outgo;
mod own;
mod peers;
mod raft;
mod read;
mod retention;
mod server;
mod service;
pub mod socket;
mod space;
pub mod streams;
pub mod tls;
mod watchers;

pub use config::{Config, ConfigError};
pub use identity::IdentityError;
pub use join::JoinError;
pub use node::NodeError;
pub use raft::OpenError;
pub use server::{Reloader, Server, ServerError};
