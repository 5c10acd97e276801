//! What simulated clients ask of nodes, and what these answer.

use meridian_client::wire::headers::Consistency;
use meridian_client::wire::{ApiError, Token};
use meridian_crdt::{Condition, Content, Dot, Key, Mutation, Vector, Version};
use meridian_gossip::sim::At;

use meridian::shard::WriteRequest;
use meridian::txn::{Isolation, RequestId};

/// The cluster that tokens are scoped to.
pub const CLUSTER: u32 = 7;

/// What is asked.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Some keys, in one snapshot.
    Read {
        /// Which.
        keys: Vec<Key>,
        /// How fresh.
        level: Consistency,
    },
    /// The keys with a prefix.
    List {
        /// The prefix.
        prefix: &'static str,
        /// How fresh.
        level: Consistency,
    },
    /// A transaction.
    Write {
        /// The request id.
        id: Option<String>,
        /// What must hold before.
        conditions: Vec<(Key, Condition)>,
        /// What is done.
        ops: Vec<(Key, Mutation)>,
    },
    /// An interactive transaction over a snapshot of the node that is asked.
    Begin {
        /// What it is protected from.
        isolation: Isolation,
        /// How fresh the snapshot must be.
        level: Consistency,
    },
    /// Something in an open transaction of the node that is asked.
    InTxn {
        /// The transaction.
        txn: u64,
        /// What.
        step: Step,
    },
    /// The end of a transaction, at any node of its datacenter.
    Commit {
        /// The transaction.
        txn: u64,
        /// The last operations.
        ops: Vec<(Key, Mutation)>,
        /// The request id.
        id: Option<RequestId>,
    },
    /// What the commit at `home` has to be written: the node asks its leader, and not a session its node.
    Relayed {
        /// What.
        write: Box<WriteRequest>,
        /// The node that waits for the outcome.
        home: At,
        /// In which life.
        life: u64,
        /// Under which number.
        commit: u64,
    },
}

/// What is asked in an open transaction.
#[derive(Clone, Debug)]
pub enum Step {
    /// Some keys.
    Read(Vec<Key>),
    /// The keys with a prefix.
    Scan(&'static str),
    /// Operations that only this transaction sees until it commits.
    Write(Vec<(Key, Mutation)>),
    /// The end, with nothing done.
    Abort,
}

/// One attempt of a session.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asks.
    pub session: usize,
    /// The number of the attempt; answers to earlier ones are ignored.
    pub attempt: u64,
    /// The session's token as text.
    pub token: String,
    /// How long it may wait for the node to catch up.
    pub wait_ms: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What comes back.
#[derive(Clone, Debug)]
pub enum Said {
    /// The keys, in the order in which they were asked for.
    Values(Vec<Option<Content>>),
    /// The keys of a listing.
    Keys(Vec<String>),
    /// A transaction has begun.
    Begun {
        /// Its id.
        txn: u64,
        /// The vector of its snapshot. No node tells it; the simulation does, to check what is promised of it.
        snapshot: Vector,
    },
    /// Operations were added to an open transaction, or it was ended.
    Noted,
    /// A transaction is done.
    Done {
        /// The txn that it became.
        dot: Option<Dot>,
        /// The version of each operation's key.
        versions: Vec<Version>,
    },
    /// The transaction was decided and refused.
    Refused(ApiError),
    /// Nothing was done; another attempt may fare better.
    NotDone(ApiError),
    /// Nobody knows.
    Unknown,
}

/// An answer with the session's new token.
#[derive(Clone, Debug)]
pub struct Answered {
    /// What.
    pub said: Said,
    /// The token; none if the answer tells nothing.
    pub token: Option<Token>,
}
