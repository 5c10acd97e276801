//! Replication between datacenters (DCs).
//!
//! Each DC's leader keeps one link to each other DC's leader, streams the txns of its oplog over it, holds what arrives
//! at a gate until its deps are applied, and proposes it through its own Raft group.
//!
//! * [`proto`] is the pure protocol machine: events and the time go in, outputs come out. It knows no clock, no random
//!   numbers, no sockets and no storage, so a seeded simulation can run it through years of faults.
//! * [`net`] drives that machine over WebSockets on streams that the node has authenticated, and over a [`Host`]: the
//!   node's storage and Raft group.
//! * `sim` (feature `sim`) runs the machines of whole clusters over a virtual network with a virtual clock, from a seed.
//!
//! What this crate must not know: how state is stored, what an effect does, how Raft works.

pub mod config;
pub mod net;
pub mod proto;
#[cfg(feature = "sim")]
pub mod sim;

pub use config::{GossipConfig, Identity};
pub use net::{BoxStream, GossipHandle, Host, HostError, Stream, start};
pub use proto::seam::{OplogChunk, Remote, RemoteOutcome, Reported, View};
pub use proto::status::{GossipStatus, LinkStatus, OriginLag};
