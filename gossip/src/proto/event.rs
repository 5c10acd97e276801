//! What goes into the machine and what comes out of it.

use std::sync::Arc;

use meridian_crdt::{Dot, Vector};

use super::message::Message;
use super::seam::{OplogChunk, Remote, RemoteOutcome, View};

/// The number of a connection; the driver gives each another one, rising.
pub type ConnId = u64;

/// The time of an event. Both clocks are arguments; only `ms` decides anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Milliseconds of a clock that never goes backwards.
    pub ms: u64,
    /// Milliseconds since the Unix epoch; for lag and clock differences only.
    pub unix_ms: u64,
}

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The DC moved.
    View(Arc<View>),
    /// A peer opened a connection to us.
    Accepted {
        /// The connection.
        conn: ConnId,
    },
    /// A dial succeeded.
    Dialed {
        /// Whom we dialed.
        dc: String,
        /// The number from [`Output::Dial`].
        attempt: u64,
        /// The connection.
        conn: ConnId,
    },
    /// A dial failed.
    DialFailed {
        /// Whom we dialed.
        dc: String,
        /// The number from [`Output::Dial`].
        attempt: u64,
        /// Why, for a human.
        why: String,
    },
    /// A message arrived.
    Received {
        /// Over which connection.
        conn: ConnId,
        /// What it says.
        message: Message,
    },
    /// A connection ended, or what it brought cannot be read.
    Closed {
        /// Which.
        conn: ConnId,
        /// Why, for a human.
        why: String,
    },
    /// The answer to [`Output::ReadOplog`].
    OplogRead {
        /// For which connection.
        conn: ConnId,
        /// The number of the read; a stale one is ignored.
        ticket: u64,
        /// What was read, or why not.
        result: Result<OplogChunk, String>,
    },
    /// The answer to [`Output::Propose`].
    Proposed {
        /// The number of the proposal.
        ticket: u64,
        /// One outcome per item, or why the outcome is unknown.
        result: Result<Vec<RemoteOutcome>, String>,
    },
    /// Time passed.
    Tick,
}

/// Something is to be done. Outputs are done in their order; those for one connection keep it on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a connection; answered by [`Event::Dialed`] or [`Event::DialFailed`].
    Dial {
        /// The DC.
        dc: String,
        /// The node of it.
        node: u64,
        /// The number of the attempt.
        attempt: u64,
    },
    /// Send a message.
    Send {
        /// Over which connection.
        conn: ConnId,
        /// What.
        message: Message,
    },
    /// Send what is queued, then end the connection; no event answers this.
    Close {
        /// Which.
        conn: ConnId,
        /// Why, for the log.
        why: String,
    },
    /// Read txns with `lacking[o] < seq <= want[o]`; answered by [`Event::OplogRead`].
    ReadOplog {
        /// For which connection.
        conn: ConnId,
        /// The number of the read.
        ticket: u64,
        /// The first position that may hold a wanted txn; 0 when unknown.
        from: u64,
        /// What the peer has.
        lacking: Vector,
        /// Up to where it is to be sent, by origin.
        want: Vector,
        /// At most so many bytes, but at least one txn.
        bytes_max: u64,
    },
    /// Put this through the DC's Raft group; answered by [`Event::Proposed`].
    Propose {
        /// The number of the proposal.
        ticket: u64,
        /// What.
        remote: Remote,
    },
    /// This DC has lost txns: own ones that a peer has, or others' that its present life has reported to have.
    LostTail {
        /// One that is missing; of the own ones the newest.
        lost: Dot,
    },
    /// Something that a human must hear of.
    Alarm {
        /// The DC it concerns, as far as known.
        dc: String,
        /// What happened.
        what: String,
    },
}
