//! Crash tests of seawall on its simulated disk.
