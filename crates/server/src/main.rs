//! `seawalld`.
fn main() {}
