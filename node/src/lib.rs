//! Meridian: an active-active, geo-replicated store with CRDT types and causal sessions.

pub mod cli;
pub mod config;
pub mod dev;
pub mod server;
pub mod txn;
