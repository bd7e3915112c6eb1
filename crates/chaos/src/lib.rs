//! Faults on a cluster of `seawalld` processes, and a checker of what its clients saw.

pub mod checker;
pub mod disk;
pub mod history;
pub mod proxy;
