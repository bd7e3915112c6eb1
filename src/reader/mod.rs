//! Reading records: one frame at a time, across segments.

mod cursor;
mod frame;
mod record;

pub(crate) use cursor::read;
pub use cursor::{Cursor, Iter};
pub use record::{Record, RecordRef};
