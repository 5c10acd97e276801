//! One link: all that is known about one remote DC, and its one live connection.
//!
//! It must not know the other links.

use meridian_crdt::{Origin, Vector};

use super::event::ConnId;
use super::inbox::Inbox;
use super::reconnect::Dial;
use super::sender::Sender;
use super::status::LinkStatus;

/// A connection over which both sides have said `Hello`.
#[derive(Clone, Debug)]
pub(super) struct Live {
    pub conn: ConnId,
    pub since_ms: u64,
    /// Our dial, or the peer's.
    pub ours: bool,
    /// The number of the dial at whoever dialed.
    pub dial: u64,
    /// The term in which the peer leads its DC.
    pub term: u64,
    pub node: u64,
    pub origin: Origin,
    pub sender: Sender,
    pub inbox: Inbox,
    pub ack: Acks,
    /// How many of our origins the peer was told of.
    pub origins_told: usize,
    /// Whether the peer was told that its life is logged here.
    pub admitted: bool,
}

/// What was acknowledged to the peer, and when the next acknowledgement is due.
#[derive(Clone, Debug)]
pub(super) struct Acks {
    pub sent: Vector,
    pub sent_ms: u64,
    /// When the last acknowledgement of something new was sent.
    pub changed_ms: u64,
}

/// Since when we are behind what a peer has told of.
#[derive(Clone, Debug, Default)]
pub(super) struct Behind {
    mark: Option<(Vector, u64)>,
}

impl Behind {
    /// The peer has `theirs`, we have `applied`.
    pub fn update(&mut self, theirs: &Vector, applied: &Vector, now_ms: u64) {
        if self.mark.as_ref().is_some_and(|(mark, _)| applied.covers_all(mark)) {
            self.mark = None;
        }
        if self.mark.is_none() && !applied.covers_all(theirs) {
            self.mark = Some((theirs.clone(), now_ms));
        }
    }

    /// For how long something of the peer's is lacking; of `origin` only, if one is given.
    pub fn ms(&self, origin: Option<Origin>, applied: &Vector, now_ms: u64) -> u64 {
        let Some((mark, since_ms)) = &self.mark else { return 0 };
        let lacking = match origin {
            None => !applied.covers_all(mark),
            Some(origin) => mark.get(origin) > applied.get(origin),
        };
        if lacking { now_ms.saturating_sub(*since_ms) } else { 0 }
    }
}

/// All that is known about one remote DC.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub dc: String,
    pub dial: Dial,
    pub live: Option<Live>,
    /// When a message of this peer last arrived.
    pub heard_ms: u64,
    /// What the peer has applied, as far as it told in this reign.
    pub peer_vector: Vector,
    pub behind: Behind,
    /// Until then nobody is dialed: a refusal or a bad txn.
    pub stopped_until_ms: u64,
    /// The life of the peer that sent what was bad; until then it is not listened to either.
    pub stopped_life: Option<Origin>,
    /// What was last given to the Raft group as the peer's vector, under which origin.
    pub reported: Option<(Origin, Vector)>,
    pub report_under_way: bool,
    pub report_next_ms: u64,
    /// The life of ours that the peer has said to have logged, with what it held for stable.
    pub admits: Option<(Origin, Vector)>,
    /// The counters and texts of the status; the rest of it is filled in when it is asked for.
    pub stats: LinkStatus,
}

impl Link {
    pub fn new(dc: String, dial: Dial) -> Self {
        let stats = LinkStatus { dc: dc.clone(), ..LinkStatus::default() };
        Self {
            dc,
            dial,
            live: None,
            heard_ms: 0,
            peer_vector: Vector::new(),
            behind: Behind::default(),
            stopped_until_ms: 0,
            stopped_life: None,
            reported: None,
            report_under_way: false,
            report_next_ms: 0,
            admits: None,
            stats,
        }
    }

    /// Forgets all but the counters: this node's reign over its DC begins or ends.
    pub fn reset(&mut self, now_ms: u64, dial_ms: u64) {
        self.dial.restart(dial_ms);
        self.live = None;
        self.heard_ms = now_ms;
        self.peer_vector = Vector::new();
        self.behind = Behind::default();
        self.stopped_until_ms = 0;
        self.stopped_life = None;
        self.reported = None;
        self.report_under_way = false;
        self.report_next_ms = 0;
        self.admits = None;
        self.stats.refusal = None;
    }
}
