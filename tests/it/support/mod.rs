//! Code of the tests that states no property. Code that other test programs use too is in
//! `crates/testkit`.

pub(crate) mod child;
pub(crate) mod codecs;
pub(crate) mod fault_fs;
pub(crate) mod gate;
pub(crate) mod ledger;
pub(crate) mod on_disk;
pub(crate) mod open_files;
pub(crate) mod records;
pub(crate) mod run;
