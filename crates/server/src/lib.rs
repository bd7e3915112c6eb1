//! The security of the server: TLS, who may do what, and the listener.

pub mod authz;
pub mod certs;
pub mod connect;
pub mod guard;
pub mod listen;
pub mod socket;
pub mod tls;
