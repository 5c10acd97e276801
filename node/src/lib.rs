//! Meridian: an active-active, geo-replicated store with CRDT types and causal sessions.

pub mod config;
pub mod txn;
