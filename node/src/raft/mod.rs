//! One replicated shard of a DC: a log that a majority of its nodes holds, applied in the same order on each.
//!
//! openraft does the consensus and stays in here: the rest of the node proposes bytes through [`RaftGroup`] and
//! applies them through [`Machine`]. Invariants: a reply means that a majority has the entry on disk and this node has
//! applied it; the log is purged only behind a durable checkpoint of the state; nobody waits for ever.

mod apply;
mod bootstrap;
mod codec;
mod group;
mod known_peers;
mod leadership;
mod log_adapter;
mod network;
mod runtime;
mod snapshot;
mod types;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod conformance_tests;
#[cfg(test)]
mod test_machine;

use std::time::Duration;

use thiserror::Error;

use crate::storage::{LogPosition, StateView, StateWrite, StorageError};
use crate::txn::Reply;

pub use crate::txn::ENTRY_BYTES_MAX;
pub use group::{Parts, RaftGroup};
pub use known_peers::KnownPeers;
pub use leadership::{Leadership, RaftStatus, Role};
pub use network::understands;

/// What the entries of the log mean. Only one thread at a time calls it.
pub trait Machine: Send + 'static {
    /// Applies one entry inside the given write transaction: a function of rows and entry, and nothing else. An error
    /// is a failure of storage and stops the node.
    fn apply(&mut self, rows: &mut StateWrite, at: LogPosition, entry: &[u8]) -> Result<Reply, StorageError>;

    /// The entries up to `last` have become visible to views; replies go out when this returns.
    fn committed(&mut self, last: LogPosition);

    /// Called at start and after a snapshot has replaced the rows: forget what was cached and read it anew.
    fn reset(&mut self, rows: &StateView) -> Result<(), StorageError>;
}

/// How a shard runs. All nodes of a DC should have the same.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// How often a leader shows that it lives (default 150 ms). Shorter finds failures faster and costs packets.
    pub heartbeat: Duration,
    /// The shortest time that a node draws: it stands for election after a silence of [`election_max`](Self::election_max) and
    /// what it drew (default 600 ms).
    pub election_min: Duration,
    /// The longest time that it draws (default 1200 ms). Also the lease: how long followers that hear nothing leave their leader
    /// in peace, and how long a leader that hears from no majority counts as having one.
    pub election_max: Duration,
    /// How long a proposal may take before its outcome is reported as unknown (default 10 s).
    pub propose_limit: Duration,
    /// Bytes of entries that may wait for this node's own disk before nothing more is proposed here (default 64 MiB).
    pub log_backlog_max: u64,
    /// Log entries between two Raft snapshots, each a durable checkpoint after which the log is purged (default
    /// 20,000). It is the first checkpoint that covers as many.
    pub snapshot_entries: u64,
    /// Entries kept in the log behind a snapshot, so that a follower that was away briefly gets entries and not a
    /// whole snapshot (default 10,000).
    pub keep_entries: u64,
    /// The longest time between durable checkpoints while there is something to make durable (default 60 s). Shorter
    /// means less to replay after a crash, and more writing.
    pub checkpoint_interval: Duration,
    /// Bytes of entries after which a checkpoint is made earlier, or twice what the last one wrote if that is more
    /// (default 16 MiB).
    pub checkpoint_log_bytes: u64,
    /// How long a snapshot transfer may stand still before it is given up (default 10 s).
    pub snapshot_stall: Duration,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(150),
            election_min: Duration::from_millis(600),
            election_max: Duration::from_millis(1200),
            propose_limit: Duration::from_secs(10),
            log_backlog_max: 64 << 20,
            snapshot_entries: 20_000,
            keep_entries: 10_000,
            checkpoint_interval: Duration::from_secs(60),
            checkpoint_log_bytes: 16 << 20,
            snapshot_stall: Duration::from_secs(10),
        }
    }
}

/// Why a shard did not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// Storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The configuration makes no sense.
    #[error("the Raft configuration is invalid: {0}")]
    Config(String),
    /// The Raft core did not start.
    #[error("the Raft core did not start: {0}")]
    Core(String),
}

/// Why a proposal has no reply.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProposeError {
    /// This node does not lead; nothing was proposed. Ask the leader.
    #[error("this node does not lead")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<u64>,
    },
    /// This node leads, but no majority is there; nothing was proposed.
    #[error("no majority of the datacenter's nodes is reachable")]
    NoQuorum,
    /// This node leads, but its own disk has not caught up in time; nothing was proposed.
    #[error("the leader's disk has not caught up")]
    DiskBehind,
    /// The entry is larger than [`ENTRY_BYTES_MAX`]; nothing was proposed.
    #[error("the entry is larger than an entry may be")]
    TooLarge,
    /// The entry may be applied, now or later, or never. Repeat only with the same request id.
    #[error("the outcome of the proposal is unknown")]
    Unknown,
    /// The shard is stopping; nothing was proposed.
    #[error("the shard is stopping")]
    Stopped,
}
