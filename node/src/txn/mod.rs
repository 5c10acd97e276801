//! The pure heart of a shard: what the Raft log carries and what applying it means.
//!
//! Apply is a function of (state, entry) and nothing else (I6): no clock, no randomness, no IO beyond the rows it is
//! given, no limit that could differ between nodes. It is total: whatever an entry holds, it answers and never panics;
//! its only error is a failing storage, which stops the node. Mutations, not effects, come in through the log, so
//! that conditions are decided once, in the log's order, on every node alike.

pub mod apply;
pub mod block;
pub mod bounds;
pub mod clients;
pub mod compaction;
pub mod entry;
pub mod interactive;
pub mod oplog;
pub mod peers;
pub mod reads;
pub mod recovery;
pub mod remote;
pub mod requests;
pub mod state;

#[cfg(test)]
mod anomaly_tests;
#[cfg(test)]
mod client_tests;
#[cfg(test)]
mod compaction_tests;
#[cfg(test)]
mod interactive_property_tests;
#[cfg(test)]
mod interactive_tests;
#[cfg(test)]
mod life_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod request_tests;
#[cfg(test)]
mod stability_tests;
#[cfg(test)]
mod watch_tests;
#[cfg(test)]
mod world_tests;

pub use apply::apply_entry;
pub use entry::{
    Answer, ClientTxn, ENTRY_BYTES_MAX, Entry, EntryError, Item, Numbered, OpResult, Outcome, RemoteOutcome,
    Reply, RequestId, StagedPart,
};
pub use interactive::{Commit, Interactive, InteractiveBounds, InteractiveError, Isolation};
pub use reads::ReadCheck;
pub use state::{ShardState, state_fingerprint, tables};
