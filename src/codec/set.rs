//! The codecs that a log knows: those of this crate, and those that its owner gave it.

use std::sync::Arc;

#[cfg(feature = "lz4")]
use super::lz4::{self, Lz4};
#[cfg(feature = "zstd")]
use super::zstd::{self, Zstd};
use super::{Codec, CodecId};

/// A codec that was given to `Options`.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) id: CodecId,
    pub(crate) codec: Arc<dyn Codec>,
    /// Whether the number and the codec belong together.
    pub(crate) is_allowed: bool,
}

impl Given {
    pub(crate) fn new<C: Codec + 'static>(codec: C) -> Given {
        let id = CodecId(codec.id());
        let is_allowed = id.is_own() || is_ours::<C>();
        Given { id, codec: Arc::new(codec), is_allowed }
    }
}

/// Whether the type is a codec of this crate. Only those may have their numbers.
fn is_ours<C: 'static>() -> bool {
    let ours = [
        #[cfg(feature = "lz4")]
        std::any::TypeId::of::<Lz4>(),
        #[cfg(feature = "zstd")]
        std::any::TypeId::of::<Zstd>(),
    ];
    ours.contains(&std::any::TypeId::of::<C>())
}

/// The codecs that a log can read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Codecs(Vec<Given>);

impl Codecs {
    /// The codecs of this crate, and those that were given.
    pub(crate) fn new<'a>(given: impl IntoIterator<Item = &'a Given>) -> Codecs {
        let ours = [
            #[cfg(feature = "lz4")]
            Given::new(Lz4),
            #[cfg(feature = "zstd")]
            Given::new(Zstd::default()),
        ];
        Codecs(given.into_iter().cloned().chain(ours).collect())
    }

    pub(crate) fn find(&self, id: CodecId) -> Option<&dyn Codec> {
        self.0.iter().find(|given| given.id == id).map(|given| &*given.codec)
    }
}

/// Returns the most bytes that compressed bytes can stand for, so that a false size allocates
/// little. It is not known of a codec of the caller's.
pub(crate) fn plain_bytes_max(id: CodecId, compressed: &[u8]) -> u64 {
    match id {
        #[cfg(feature = "lz4")]
        CodecId::LZ4 => lz4::plain_bytes_max(compressed),
        #[cfg(feature = "zstd")]
        CodecId::ZSTD => zstd::plain_bytes_max(compressed),
        _ => {
            let _ = compressed;
            u64::MAX
        }
    }
}
