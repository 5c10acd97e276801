//! The peer port: every connection among nodes, of one DC and of different ones.
//!
//! One port serves Raft RPCs, forwarded requests, snapshots, gossip and who is present. Invariants: nothing of a stranger is parsed
//! before it has proved that it knows the cluster's secret; bulk has its own connections, so it never delays a
//! heartbeat; every queue, frame and wait is bounded. This module does not know what requests mean.

mod client;
pub mod codec;
mod frames;
mod handshake;
mod hello;
mod link;
mod server;
#[cfg(test)]
mod tests;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use thiserror::Error;

use crate::seams::BoxStream;

pub use client::{PeerClient, PeerConfig, Resolver};
pub use handshake::{HandshakeError, Secret};
pub use hello::{Admission, AdmitAll, PeerIdentity, Refusal};
pub use server::{PeerServer, serve};

/// The kinds of connections, as the byte that opens them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    Raft = 1,
    Forward = 2,
    Snapshot = 3,
    Gossip = 4,
    Presence = 5,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Kind::Raft, Kind::Forward, Kind::Snapshot, Kind::Gossip, Kind::Presence]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// Answers what other nodes ask of this one.
pub trait PeerHandler: Send + Sync + 'static {
    /// Answers a request that node `from` of this DC forwards.
    fn forward(&self, from: u64, request: Bytes) -> BoxFuture<'_, Bytes>;

    /// Takes over a gossip connection of another DC.
    fn gossip(&self, stream: BoxStream, from: PeerIdentity);

    /// Answers what a node of any DC asks or tells about who is present.
    fn presence<'a>(&'a self, from: &'a PeerIdentity, request: Bytes) -> BoxFuture<'a, Bytes>;
}

/// Answers what the Raft layers of other nodes ask; the Raft group is one.
pub trait RaftHandler: Send + Sync + 'static {
    /// Answers one Raft RPC. Called in the order in which the RPCs of a connection arrive.
    fn rpc(&self, from: u64, request: Bytes) -> BoxFuture<'_, Bytes>;

    /// Receives a snapshot; returns when the connection can be closed.
    fn snapshot(&self, from: u64, stream: BoxStream) -> BoxFuture<'_, ()>;
}

/// Why a request to another node got no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// It never left this node: safe to repeat.
    #[error("the request was not sent: {0}")]
    NotSent(String),
    /// It may have been carried out. Repeat only what may happen twice, or with its request id.
    #[error("the request got no answer, its outcome is unknown: {0}")]
    Unknown(String),
}
