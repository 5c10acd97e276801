//! Meridian: an active-active, geo-replicated store with CRDT types and causal sessions.

pub mod peer;
pub mod raft;
pub mod seams;
pub mod storage;
pub mod txn;
