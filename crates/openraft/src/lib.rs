#![doc = include_str!("../README.md")]

mod append;
mod cache;
mod change;
mod codec;
mod core;
mod error;
mod health;
mod hold;
mod options;
#[cfg(test)]
mod planted;
mod read;
mod small;
mod store;
#[cfg(test)]
mod tests;

#[cfg(feature = "prost")]
pub use codec::Prost;
pub use codec::{CodecError, EntryCodec, Postcard};
pub use error::{Error, Result};
pub use health::Health;
pub use options::Options;
pub use store::{Handle, LogReader, LogStore};
