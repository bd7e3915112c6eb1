//! Crash tests of seawall on its simulated disk. Histories of calls and faults are stopped at any
//! call. Every image that the crash may leave is recovered and compared with a ledger of the
//! promises.

pub mod classify;
mod content;
mod examine;
pub mod exhaustive;
mod explore;
mod history;
mod ledger;
mod machine;
pub mod patches;
pub mod random;
mod recovered;
mod shrink;
mod trial;
mod watch;

pub use examine::{Examiner, Tally};
pub use history::{Entries, History, Loss, Next, Operation, Place, Setup, Spare};
pub use ledger::{Ledger, Seen, Stored, Survived};
pub use machine::{Outcome, run};
pub use shrink::check;
pub use trial::{Failure, Stop};
