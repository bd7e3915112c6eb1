//! What the store does, through openraft's traits.

mod suite;
mod support;
mod three_nodes;
