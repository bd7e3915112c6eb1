//! What the store keeps beside the entries: the vote and the purged log id in the log's small
//! state, the committed log id in the `meta` of each entry.

use openraft::{LogId, NodeId, Vote};

use crate::codec::CodecError;

/// How the small state begins. The last byte is the version.
const HEADER: &[u8] = b"raft\x01";

/// What the log's small state holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SmallState<N: NodeId> {
    pub(crate) vote: Option<Vote<N>>,
    /// The last log id that was purged. If there is one, the log's first entry has the next index.
    pub(crate) purged: Option<LogId<N>>,
}

impl<N: NodeId> SmallState<N> {
    pub(crate) fn new() -> SmallState<N> {
        SmallState { vote: None, purged: None }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let mut bytes = HEADER.to_vec();
        postcard::to_io(&(&self.vote, &self.purged), &mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<SmallState<N>, CodecError> {
        let body = bytes.strip_prefix(HEADER).ok_or("its state is not that of version 1")?;
        let (vote, purged) = postcard::from_bytes(body)?;
        Ok(SmallState { vote, purged })
    }
}

/// Returns the `meta` of an entry that is appended while `committed` is the committed log id.
pub(crate) fn encode_committed<N: NodeId>(
    committed: Option<&LogId<N>>,
) -> Result<Vec<u8>, CodecError> {
    committed.map_or(Ok(Vec::new()), |id| Ok(postcard::to_stdvec(id)?))
}

pub(crate) fn decode_committed<N: NodeId>(meta: &[u8]) -> Result<Option<LogId<N>>, CodecError> {
    Ok(if meta.is_empty() { None } else { Some(postcard::from_bytes(meta)?) })
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    #[test]
    fn the_small_state_is_read_as_it_was_written() {
        let id = LogId::new(CommittedLeaderId::new(3, 7_u64), u64::MAX);
        for vote in [None, Some(Vote::new(9, 1)), Some(Vote::new_committed(u64::MAX, 2))] {
            for purged in [None, Some(id)] {
                let state = SmallState { vote, purged };
                assert_eq!(SmallState::decode(&state.encode().unwrap()).unwrap(), state);
            }
        }
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let whole = SmallState { vote: Some(Vote::new(9, 1_u64)), purged: None }.encode().unwrap();
        for end in 0..whole.len() {
            assert!(SmallState::<u64>::decode(&whole[..end]).is_err(), "{end}");
        }
        assert!(SmallState::<u64>::decode(b"raft\x02\x00\x00").is_err());
        assert!(SmallState::<u64>::decode(b"my own state").is_err());
    }

    #[test]
    fn the_committed_id_is_read_as_it_was_written() {
        let id = LogId::new(CommittedLeaderId::new(3, 7_u64), 12);
        assert_eq!(decode_committed(&encode_committed(Some(&id)).unwrap()).unwrap(), Some(id));
        assert_eq!(decode_committed::<u64>(&encode_committed::<u64>(None).unwrap()).unwrap(), None);
        assert!(decode_committed::<u64>(&[0xff]).is_err());
    }
}
