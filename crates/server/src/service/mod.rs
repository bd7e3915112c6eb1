//! The gRPC services: requests are checked here, and answered by the parts of the node.

pub(crate) mod admin;
pub(crate) mod consume;
pub(crate) mod log;
pub(crate) mod peer;
pub(crate) mod status;

use crate::streams::DEFAULT_STREAM;

/// The stream that a request names.
fn stream_name(name: String) -> String {
    if name.is_empty() { DEFAULT_STREAM.to_owned() } else { name }
}
