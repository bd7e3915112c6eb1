//! Files that hold the index.
