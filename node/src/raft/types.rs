//! openraft's types, as this project instantiates them.

use std::fmt;

use bytes::Bytes;
use openraft::entry::RaftEntry;
use openraft::vote::RaftLeaderId;
use serde::{Deserialize, Serialize};

use crate::storage::LogPosition;
use crate::txn::Reply;

/// The bytes of one log entry; their meaning is the machine's.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EntryData(pub(crate) Bytes);

impl fmt::Debug for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for EntryData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

// One leader per term: links between DCs tell an old leader from a new one by the term alone.
openraft::declare_raft_types!(
    pub(crate) TypeConfig:
        D = EntryData,
        R = Reply,
        NodeId = u64,
        Node = openraft::EmptyNode,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = super::runtime::SeamRuntime,
);

pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// The position of an entry, out of openraft's id.
pub(crate) fn position(id: &LogId) -> LogPosition {
    LogPosition { term: **id.committed_leader_id(), index: id.index }
}

/// openraft's id of a position.
pub(crate) fn log_id(at: LogPosition) -> LogId {
    let leader = openraft::impls::leader_id_std::LeaderId::<u64, u64>::new(at.term, 0);
    LogId::new(leader.to_committed(), at.index)
}

/// The position of an entry.
pub(crate) fn entry_position(entry: &Entry) -> LogPosition {
    position(&entry.log_id())
}
