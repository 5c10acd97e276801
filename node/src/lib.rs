//! Meridian: an active-active, geo-replicated store with CRDT types and causal sessions.
//!
//! The library behind the `meridian` program. ARCHITECTURE.md has the map.

pub mod access;
pub mod api;
pub mod cli;
pub mod config;
pub mod count;
pub mod dev;
pub mod docs;
pub mod embedded;
pub mod peer;
pub mod raft;
pub mod seams;
pub mod server;
pub mod shard;
pub mod storage;
pub mod txn;
pub mod watch;
