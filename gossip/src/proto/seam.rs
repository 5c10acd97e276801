//! What the machine sees of its DC, and what it asks of it: plain values, so that the core stays without IO.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use meridian_crdt::{Dot, Origin, OriginName, Vector};
use serde::{Deserialize, Serialize};

/// The DC as this node has applied it. Everything in it is committed by a majority, which is why it may be
/// acknowledged and sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// The Raft term in which this node leads; `None` while it does not, or has not yet applied the first entry of
    /// its own term, or has lost its quorum lease.
    pub leading: Option<u64>,
    /// The node that leads this DC, as far as this node knows.
    pub leader_node: Option<u64>,
    /// What is applied.
    pub vector: Vector,
    /// The last position of the oplog; positions are 1, 2, 3 ... in the order of application here.
    pub oplog_end: u64,
    /// For each origin the highest seq that the oplog no longer has.
    pub floor: Vector,
    /// Every origin that is registered.
    pub origins: Vec<OriginName>,
    /// This DC's own origin; `None` before its first epoch is minted.
    pub own: Option<OriginName>,
    /// What this DC's state holds for causally stable.
    pub stable: Vector,
    /// For each other DC that was met, what is logged of it.
    pub reported: BTreeMap<String, Reported>,
    /// The DCs that have not admitted this DC's present life, as far as it is logged; a life that follows a loss takes no
    /// writes before all have.
    pub unadmitted: BTreeSet<String>,
    /// A txn of a life of this DC that it had forgotten, as long as its present life has to end for that.
    pub forgotten: Option<Dot>,
}

/// What one DC's log holds of another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reported {
    /// The life under which it last reported.
    pub life: Origin,
    /// What this life has reported to have applied.
    pub acked: Vector,
}

impl View {
    /// The term and own origin under which this node leads.
    pub fn reign(&self) -> Option<(u64, &OriginName)> {
        Some((self.leading?, self.own.as_ref()?))
    }

    /// The short id of the own origin.
    pub fn own_origin(&self) -> Option<Origin> {
        self.own.as_ref().map(OriginName::origin)
    }
}

/// A piece of the oplog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OplogChunk {
    /// (position, encoded txn) of wanted txns, in the order of positions.
    pub entries: Vec<(u64, Bytes)>,
    /// Where to read on: no wanted txn before this position was left out.
    pub next: u64,
}

/// What replication puts into the DC's Raft log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    /// Encoded txns of other origins, to be applied in this order. One outcome each.
    Txns(Vec<Bytes>),
    /// An origin that a peer knows and this DC does not. One outcome.
    Register(OriginName),
    /// What a member has acknowledged to have applied. It feeds acked and stable. One outcome.
    Report {
        /// The member's own origin.
        member: Origin,
        /// What it has applied.
        vector: Vector,
    },
    /// A member has logged that `life` is this DC's present one. One outcome.
    Admit {
        /// The life of this DC.
        life: Origin,
        /// The member's own origin.
        member: Origin,
        /// What the member then held for stable.
        stable: Vector,
    },
}

/// What apply made of one item of a [`Remote`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemoteOutcome {
    /// It changed the state.
    Applied,
    /// It was there already; nothing changed.
    Duplicate,
    /// It was skipped because something that it follows is not there, or was skipped itself. It is asked for again.
    Early,
    /// It was skipped: a broken chain, or bytes that cannot be decoded. The link it came from stops.
    Refused {
        /// What was wrong with it.
        why: String,
    },
}
