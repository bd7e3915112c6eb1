//! Test code that two or more of these share: `crates/crash`, `crates/powercut`, `fuzz` and
//! `tests/it`. Code that only one of them uses stays there.

pub mod disk;
pub mod hooks;
pub mod ledger;
mod random;
mod violation;

pub use hooks::HookFs;
pub use random::Dice;
pub use violation::{Kind, Violation};
