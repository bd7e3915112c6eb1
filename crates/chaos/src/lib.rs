//! Faults on a cluster of `seawalld` processes, and a checker of what its clients saw.
//!
//! A run makes a plan from a seed: which fault, when, for how long, on which node. It starts real
//! processes, with a proxy on each link and a simulated disk below each node. Writers and readers
//! note all that they do and see. In the end all is repaired, all is read from each node, and the
//! checker judges the history.
//!
//! The same seed gives the same plan and the same requests. When a process runs is up to the
//! system, so two runs of a seed differ in what the faults meet.

pub mod checker;
#[cfg(target_os = "linux")]
pub mod cluster;
#[cfg(target_os = "linux")]
pub mod disk;
#[cfg(target_os = "linux")]
pub mod faults;
pub mod history;
#[cfg(target_os = "linux")]
pub mod node;
pub mod plan;
pub mod proxy;
#[cfg(target_os = "linux")]
pub mod run;
#[cfg(target_os = "linux")]
pub mod settle;
#[cfg(target_os = "linux")]
pub mod workload;
