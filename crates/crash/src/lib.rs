//! Crash tests of seawall on its simulated disk: histories of calls and faults, stopped anywhere;
//! every image that a crash may leave, recovered, and held against a ledger of what was promised.

pub mod classify;
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
pub use history::{Entries, History, Loss, Operation, Setup, Spare};
pub use ledger::{Ledger, Seen, Stored, Survived};
pub use machine::{Outcome, run};
pub use shrink::check;
pub use trial::{Failure, Stop};
