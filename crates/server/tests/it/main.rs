//! The tests of the server's security, on real sockets.

mod pki;
mod security;
