//! Client of seawalld.
