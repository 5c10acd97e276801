//! The seam to the node: its storage, its Raft group, its network and its clocks.
//!
//! What it must not know: WebSockets and the protocol.

use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use meridian_crdt::{Dot, Vector};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::proto::seam::{OplogChunk, Remote, RemoteOutcome, View};

/// A byte stream to a peer that has proved that it knows the cluster's secret.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An owned authenticated stream.
pub type BoxStream = Box<dyn Stream>;

/// Why the node could not do what replication asked. Replication pauses and tries again; what a failed proposal did
/// is unknown, and asking again is safe because apply drops duplicates.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HostError {
    /// This node does not lead its DC, or lost the lead while it waited. The outcome is unknown.
    #[error("this node does not lead its datacenter")]
    NotLeading,
    /// No majority answered in time. The outcome is unknown.
    #[error("no majority answered in time")]
    NoQuorum,
    /// Storage failed; nothing was read.
    #[error("storage failed: {0}")]
    Storage(String),
    /// The node is going down.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// The node, as replication sees it.
///
/// Axioms:
/// * A [`View`] names only what a majority of the DC holds and this node has applied. Within one term its vector never
///   falls.
/// * The view that shows the effect of a proposal is published before [`Host::propose`] answers.
/// * [`Host::read_oplog`] never returns what is not applied.
/// * Clocks are the host's; delays are waited for with `tokio::time` only.
pub trait Host: Send + Sync + 'static {
    /// The view, published after each apply and each change of leadership.
    fn view(&self) -> watch::Receiver<Arc<View>>;

    /// Reads wanted txns from position `from` on: the `(origin, seq)` with `lacking[origin] < seq <= want[origin]`.
    ///
    /// `from` 0 asks the host to find the first position by itself, which an index of dots makes a lookup; otherwise
    /// nothing wanted stands before `from`. The answer holds at most `bytes_max` bytes of txns, but at least one
    /// wanted txn if there is one, however large.
    fn read_oplog(
        &self,
        from: u64,
        lacking: Vector,
        want: Vector,
        bytes_max: u64,
    ) -> BoxFuture<'_, Result<OplogChunk, HostError>>;

    /// Puts `remote` through the DC's Raft group and answers when it is applied: one outcome per txn, or one for the
    /// other kinds. At most one proposal of txns is under way at a time, so their order is that of the calls.
    fn propose(&self, remote: Remote) -> BoxFuture<'_, Result<Vec<RemoteOutcome>, HostError>>;

    /// Opens an authenticated stream to a node of another DC. Replication bounds how long it waits.
    fn dial<'a>(&'a self, dc: &'a str, node: u64) -> BoxFuture<'a, io::Result<BoxStream>>;

    /// Milliseconds of a clock that never goes backwards.
    fn now_ms(&self) -> u64;

    /// Milliseconds since the Unix epoch, as the wall clock has it.
    fn unix_ms(&self) -> u64;

    /// A number to draw the jitter of delays from; another one for each process.
    fn jitter_seed(&self) -> u64;

    /// A peer knows that this DC has had `lost`, and this node lacks it: the DC lost its tail, or this node was deposed and
    /// does not know it. The node confirms its lead with its majority before it believes the former. Called as often as
    /// a peer says so; nothing is sent until the view covers it or shows another own origin.
    fn lost_tail(&self, lost: Dot);
}
