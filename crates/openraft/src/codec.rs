//! `EntryCodec`: how an entry becomes bytes.

use openraft::RaftTypeConfig;

/// What a codec says when it fails.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;

/// Turns entries into bytes and back. The log keeps the bytes and the kind, and verifies them when
/// it reads.
///
/// [`Postcard`] works for every entry. With the feature `prost`, `Prost` stores the application's
/// data as prost messages.
pub trait EntryCodec<C: RaftTypeConfig>: Send + Sync + 'static {
    /// Appends the bytes of `entry` to `bytes`, and returns the kind of the record. The kind is
    /// the codec's own: the store only keeps it.
    ///
    /// # Errors
    /// The entry cannot be encoded. openraft stops the node.
    fn encode(&self, entry: &C::Entry, bytes: &mut Vec<u8>) -> Result<u16, CodecError>;

    /// Returns the entry of which `encode` made these bytes and this kind. The log knows the
    /// entry's `index`, so a codec need not store it.
    ///
    /// # Errors
    /// The bytes are not those of an entry.
    fn decode(&self, index: u64, kind: u16, bytes: &[u8]) -> Result<C::Entry, CodecError>;
}

/// Stores the whole entry by its serde implementation, in the format of the crate `postcard`. The
/// kind is 0.
///
/// Postcard does not name fields. A type that has stored entries may get new enum variants at its
/// end, and no other change.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Postcard;

impl<C: RaftTypeConfig> EntryCodec<C> for Postcard {
    fn encode(&self, entry: &C::Entry, bytes: &mut Vec<u8>) -> Result<u16, CodecError> {
        postcard::to_io(entry, bytes)?;
        Ok(0)
    }

    fn decode(&self, _index: u64, kind: u16, bytes: &[u8]) -> Result<C::Entry, CodecError> {
        if kind != 0 {
            return Err(format!("kind {kind} is unknown").into());
        }
        let (entry, rest) = postcard::take_from_bytes(bytes)?;
        if !rest.is_empty() {
            return Err(format!("{} bytes follow the entry", rest.len()).into());
        }
        Ok(entry)
    }
}

#[cfg(feature = "prost")]
pub use with_prost::Prost;

#[cfg(feature = "prost")]
mod with_prost {
    use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, RaftTypeConfig};

    use super::{CodecError, EntryCodec};

    const BLANK: u16 = 0;
    const NORMAL: u16 = 1;
    const MEMBERSHIP: u16 = 2;

    /// Stores the application's data as a prost message, so that its fields may change as prost
    /// allows. The leader's id stands before the message, and a membership in its place, both in
    /// the format of `postcard`. The kind is 0 for a blank entry, 1 for data, 2 for a membership.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct Prost;

    impl<C> EntryCodec<C> for Prost
    where
        C: RaftTypeConfig<Entry = Entry<C>>,
        C::D: prost::Message + Default,
    {
        fn encode(&self, entry: &Entry<C>, bytes: &mut Vec<u8>) -> Result<u16, CodecError> {
            postcard::to_io(&entry.log_id.leader_id, &mut *bytes)?;
            match &entry.payload {
                EntryPayload::Blank => Ok(BLANK),
                EntryPayload::Normal(data) => {
                    prost::Message::encode(data, bytes)?;
                    Ok(NORMAL)
                }
                EntryPayload::Membership(membership) => {
                    postcard::to_io(membership, bytes)?;
                    Ok(MEMBERSHIP)
                }
            }
        }

        fn decode(&self, index: u64, kind: u16, bytes: &[u8]) -> Result<Entry<C>, CodecError> {
            let (leader_id, rest): (CommittedLeaderId<C::NodeId>, &[u8]) =
                postcard::take_from_bytes(bytes)?;
            let payload = match kind {
                BLANK if rest.is_empty() => EntryPayload::Blank,
                NORMAL => EntryPayload::Normal(prost::Message::decode(rest)?),
                MEMBERSHIP => EntryPayload::Membership(postcard::from_bytes(rest)?),
                _ => return Err(format!("kind {kind} with {} bytes is unknown", rest.len()).into()),
            };
            Ok(Entry { log_id: LogId::new(leader_id, index), payload })
        }
    }
}
