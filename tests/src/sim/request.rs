//! What simulated clients ask of nodes, and what these answer.

use meridian_client::wire::headers::Consistency;
use meridian_client::wire::{ApiError, Token};
use meridian_crdt::{Condition, Content, Dot, Key, Mutation, Version};

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
