//! The shard as replication between datacenters sees it.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use meridian_crdt::hlc::Clock;
use meridian_crdt::{Dot, TxnHead, Vector};
use meridian_gossip::{BoxStream, Host, HostError, OplogChunk, Remote, RemoteOutcome as GossipOutcome, View};
use tokio::sync::{mpsc, watch};

use super::proposer::{Proposer, SubmitError};
use super::published::Publisher;
use crate::peer::PeerClient;
use crate::raft::{ENTRY_BYTES_MAX, ProposeError};
use crate::seams::Seams;
use crate::storage::StateStore;
use crate::txn::oplog::{self, READ_TXNS_MAX, ReadBounds};
use crate::txn::{Item, Outcome, RemoteOutcome, ShardState};

/// What an entry takes beyond the one txn that it carries, at most.
const TXN_FRAME_BYTES: usize = 64;

/// Everything that replication asks of a node.
pub struct ShardHost {
    /// What is applied and who leads.
    pub publisher: Arc<Publisher>,
    /// The way into the Raft group.
    pub proposer: Proposer,
    /// The oplog.
    pub store: StateStore,
    /// The datacenter's clock, which follows the stamps of others within its bounds.
    pub clock: Arc<Mutex<Clock>>,
    /// How far ahead of the wall clock a foreign stamp may be before it no longer moves our clock.
    pub drift_ms_max: u64,
    /// Connections to other nodes.
    pub peers: Arc<PeerClient>,
    /// For each other datacenter the addresses of its nodes.
    pub remotes: BTreeMap<String, BTreeMap<u64, String>>,
    /// Clocks and randomness.
    pub seams: Seams,
    /// Tells the node that its datacenter has lost its tail.
    pub lost_tail: mpsc::Sender<Dot>,
    /// Whether the disk has room for txns of other datacenters.
    pub room: watch::Receiver<bool>,
}

fn host_error(error: SubmitError) -> HostError {
    match error {
        SubmitError::Propose(ProposeError::NoQuorum | ProposeError::DiskBehind) | SubmitError::Overloaded => {
            HostError::NoQuorum
        }
        SubmitError::Propose(ProposeError::Stopped) | SubmitError::Stopped => HostError::ShuttingDown,
        SubmitError::Propose(_) => HostError::NotLeading,
    }
}

/// Refuses txns of which one can never be proposed here: no origin makes any such, and waiting would not help. The
/// txns beside it are no better off, since their link stops.
fn too_large(txns: &[bytes::Bytes]) -> Option<Vec<GossipOutcome>> {
    let largest = txns.iter().map(bytes::Bytes::len).max()?;
    let why = format!("a txn of {largest} bytes does not fit into a log entry of {ENTRY_BYTES_MAX}");
    (largest > ENTRY_BYTES_MAX - TXN_FRAME_BYTES)
        .then(|| txns.iter().map(|_| GossipOutcome::Refused { why: why.clone() }).collect())
}

impl From<Outcome> for GossipOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Done | Outcome::Remote(RemoteOutcome::Applied) => GossipOutcome::Applied,
            Outcome::Remote(RemoteOutcome::Duplicate) => GossipOutcome::Duplicate,
            Outcome::Remote(RemoteOutcome::Early) => GossipOutcome::Early,
            Outcome::Remote(RemoteOutcome::Refused(why)) | Outcome::Refused(why) => {
                GossipOutcome::Refused { why }
            }
            Outcome::Client(_) => GossipOutcome::Refused { why: "a client's answer to a remote txn".into() },
        }
    }
}

impl ShardHost {
    /// Lets the clock follow the stamps that are about to be applied, so that a later local write is dated above them.
    fn observe(&self, txns: &[bytes::Bytes]) {
        let now_ms = self.seams.clock.unix_ms();
        let mut clock = self.clock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(highest) =
            txns.iter().filter_map(|txn| TxnHead::decode(txn).ok()).map(|head| head.hlc).max()
        {
            // A stamp too far ahead is applied all the same and does not move the clock; replication flags the link.
            let _ = clock.observe(highest, now_ms, self.drift_ms_max);
        }
    }

    fn read(&self, from: u64, have: &Vector, want: &Vector, bytes_max: u64) -> Result<OplogChunk, HostError> {
        let failed = |e: String| HostError::Storage(e);
        let view = self.store.view();
        let state =
            ShardState::load(&view).map_err(|e| failed(e.to_string()))?.map_err(|e| failed(e.to_string()))?;
        let bounds = ReadBounds {
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            txns_max: READ_TXNS_MAX,
        };
        let chunk =
            oplog::read(&view, &state, from, have, want, bounds).map_err(|e| failed(e.to_string()))?;
        Ok(OplogChunk { entries: chunk.entries, next: chunk.next })
    }
}

impl Host for ShardHost {
    fn view(&self) -> watch::Receiver<Arc<View>> {
        self.publisher.view()
    }

    fn read_oplog(
        &self,
        from: u64,
        lacking: Vector,
        want: Vector,
        bytes_max: u64,
    ) -> BoxFuture<'_, Result<OplogChunk, HostError>> {
        async move { self.read(from, &lacking, &want, bytes_max) }.boxed()
    }

    fn propose(&self, remote: Remote) -> BoxFuture<'_, Result<Vec<GossipOutcome>, HostError>> {
        let items: Vec<(Item, usize)> = match remote {
            // Others' txns would eat up the headroom as surely as our clients' writes; their origins keep them meanwhile.
            Remote::Txns(_) if !*self.room.borrow() => {
                let full = HostError::Storage("the disk is down to its headroom".into());
                return async move { Err(full) }.boxed();
            }
            Remote::Txns(txns) => {
                if let Some(refused) = too_large(&txns) {
                    return async move { Ok(refused) }.boxed();
                }
                self.observe(&txns);
                txns.into_iter().map(|txn| (txn.len(), txn)).map(|(n, txn)| (Item::Remote(txn), n)).collect()
            }
            Remote::Register(name) => vec![(Item::Register(name), 64)],
            Remote::Report { member, vector } => vec![(Item::Report { member, vector }, 64)],
            Remote::Admit { life, member, stable } => vec![(Item::Admit { life, member, stable }, 64)],
        };
        async move {
            let outcomes = self.proposer.submit_all(items).await.map_err(host_error)?;
            Ok(outcomes.into_iter().map(GossipOutcome::from).collect())
        }
        .boxed()
    }

    fn dial<'a>(&'a self, dc: &'a str, node: u64) -> BoxFuture<'a, io::Result<BoxStream>> {
        async move {
            let addr = self.remotes.get(dc).and_then(|nodes| nodes.get(&node)).ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, format!("no address of {dc}/{node} is configured"))
            })?;
            let stream = self.peers.dial_gossip(addr).await?;
            Ok(Box::new(stream) as BoxStream)
        }
        .boxed()
    }

    fn now_ms(&self) -> u64 {
        self.seams.clock.monotonic_ms()
    }

    fn unix_ms(&self) -> u64 {
        self.seams.clock.unix_ms()
    }

    fn jitter_seed(&self) -> u64 {
        self.seams.random.u64()
    }

    fn lost_tail(&self, lost: Dot) {
        // The channel holds one: a second report before the first is acted upon says nothing new.
        let _ = self.lost_tail.try_send(lost);
    }
}
