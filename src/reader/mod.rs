//! Reading records: one frame at a time, across segments, in both directions.

mod backward;
mod cursor;
mod follow;
mod frame;
mod handle;
mod iter;
mod look_up;
mod record;

pub use cursor::Cursor;
pub use follow::Follower;
pub use handle::Reader;
pub use iter::Iter;
pub(crate) use look_up::read;
pub use record::{Record, RecordRef};
