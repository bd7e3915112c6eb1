#![doc = include_str!("../README.md")]

pub mod checkpoint;
pub mod streams;
