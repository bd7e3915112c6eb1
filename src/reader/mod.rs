//! Reading records: one frame at a time, across segments, in both directions.

mod backward;
mod cursor;
mod follow;
mod frame;
mod handle;
mod iter;
mod record;

pub use cursor::Cursor;
pub(crate) use cursor::read;
pub use follow::Follower;
pub use handle::Reader;
pub use iter::Iter;
pub use record::{Record, RecordRef};
