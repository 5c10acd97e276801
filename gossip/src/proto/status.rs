//! What an operator is shown of replication.

use std::collections::BTreeMap;

use meridian_crdt::{Dot, Origin, Vector};

/// Replication as this node's machine sees it; links stand on the leader only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GossipStatus {
    /// Whether this node leads its DC and so keeps the links.
    pub leading: bool,
    /// One per other DC, in the order of names; empty when not leading.
    pub links: Vec<LinkStatus>,
    /// How far this DC is behind each origin, as far as its peers have told.
    pub origins: BTreeMap<Origin, OriginLag>,
    /// What inbound peers were refused for last, by the DC name that they gave.
    pub refusals: BTreeMap<String, String>,
    /// Own txns that a peer has and this DC lost: the highest seq seen. Nothing is sent while this stands.
    pub lost_tail: Option<Dot>,
    /// Bytes of all txns at the gate.
    pub gate_bytes: u64,
}

/// How far behind one origin this DC is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OriginLag {
    /// Txns that some peer has applied and this DC has not.
    pub lag_txns: u64,
    /// For how long the oldest of them has been known or dated; 0 when none.
    pub lag_ms: u64,
}

/// One link: all that is known about one remote DC.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// The other DC.
    pub dc: String,
    /// Whether `Hello`s were exchanged and the peer was heard of within the silence limit.
    pub connected: bool,
    /// The peer's node at the other end.
    pub node: Option<u64>,
    /// Txns that the peer has applied and this DC has not.
    pub lag_txns: u64,
    /// For how long this DC may have been behind the peer: 0 when it has all that the peer told of and the link is
    /// up; since the last word of the peer when the link is down.
    pub lag_ms: u64,
    /// Txns applied here that the peer has not acknowledged.
    pub unacked_txns: u64,
    /// What the peer has acknowledged; empty before its first `Hello`.
    pub acked: Vector,
    /// Why the link stands still: a refusal by us or by the peer, or a txn that apply refused.
    pub refusal: Option<String>,
    /// Why the last connection or dial ended.
    pub last_error: Option<String>,
    /// The peer lacks txns that this DC's oplog no longer has.
    pub behind_oplog: bool,
    /// The peer's configuration names other DCs than ours.
    pub members_differ: bool,
    /// How far the newest txn from this link was dated ahead of our clock, when that is above the drift limit.
    pub clock_ahead_ms: u64,
    /// Txns sent over this link since the process started, repeats included.
    pub sent_txns: u64,
    /// Bytes of these.
    pub sent_bytes: u64,
    /// Txns received over this link, duplicates included.
    pub received_txns: u64,
    /// Received txns that were here already.
    pub duplicate_txns: u64,
    /// Received txns that a full gate dropped.
    pub dropped_txns: u64,
    /// Requests for missing txns sent to the peer.
    pub wants_sent: u64,
    /// Connections that were established.
    pub connects: u64,
    /// Bytes of txns from this link at the gate.
    pub gate_bytes: u64,
    /// Bytes sent and not acknowledged.
    pub in_flight_bytes: u64,
}
