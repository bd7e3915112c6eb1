#![doc = include_str!("../README.md")]

/// The log: produce and consume.
pub mod log {
    /// Version 1.
    pub mod v1 {
        #![allow(missing_docs)] // The comments of the `.proto` files are all there is to say.
        #![allow(clippy::all)]
        tonic::include_proto!("log.v1");
    }
}

/// Streams, cursors, and the state of the server.
pub mod admin {
    /// Version 1.
    pub mod v1 {
        #![allow(missing_docs)] // As above.
        #![allow(clippy::all)]
        tonic::include_proto!("seawall.admin.v1");
    }
}

/// What the nodes of a group say to each other. Only the server needs it.
#[doc(hidden)]
pub mod raft {
    pub mod v1 {
        #![allow(missing_docs)] // As above.
        #![allow(clippy::all)]
        tonic::include_proto!("seawall.raft.v1");
    }
}

/// What the server's log stores. Only the server needs it.
#[doc(hidden)]
pub mod store {
    pub mod v1 {
        #![allow(missing_docs)] // As above.
        #![allow(clippy::all)]
        tonic::include_proto!("seawall.store.v1");
    }
}

/// The descriptors of the public interface, for gRPC reflection: an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public.bin"));
