//! Group commit: everything that waits goes into one log entry, and a few entries are under way at a time.
//!
//! Bounds: the queue (`limits.in_flight_max`; full answers `overloaded`), the bytes and items of an entry, the entries
//! in flight. What waits while all entries are in flight becomes the next entry, so groups grow with the load.

use std::sync::{Arc, Mutex};

use meridian_crdt::hlc::Clock;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::raft::{ProposeError, RaftGroup};
use crate::seams;
use crate::txn::{Entry, Item, Outcome};

/// Bounds of the proposer; from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct ProposerBounds {
    /// Items that may wait.
    pub queue_max: usize,
    /// Bytes of one entry, estimated; one item may exceed it alone.
    pub entry_bytes_max: usize,
    /// Items of one entry.
    pub entry_items_max: usize,
    /// Entries proposed and not yet applied.
    pub entries_in_flight_max: usize,
}

struct Waiting {
    item: Item,
    bytes: usize,
    reply: oneshot::Sender<Result<Outcome, ProposeError>>,
}

/// The way into the Raft group for everything that this node proposes as a leader.
#[derive(Clone)]
pub struct Proposer {
    queue: mpsc::Sender<Waiting>,
}

/// Why an item has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full; nothing was proposed.
    #[error("too many requests wait")]
    Overloaded,
    /// The proposer has stopped; nothing was proposed.
    #[error("the node is stopping")]
    Stopped,
    /// The Raft group says.
    #[error(transparent)]
    Propose(#[from] ProposeError),
}

impl Proposer {
    /// Starts the task that packs and proposes.
    pub fn start(raft: Arc<RaftGroup>, wall: Arc<dyn seams::Clock>, clock: Arc<Mutex<Clock>>, bounds: ProposerBounds) -> Self {
        let (queue, waiting) = mpsc::channel(bounds.queue_max);
        tokio::spawn(run(raft, wall, clock, bounds, waiting));
        Self { queue }
    }

    /// Proposes `item`, which takes about `bytes`, and waits until it is applied. The Raft group bounds the wait. A
    /// full queue refuses at once.
    pub async fn submit(&self, item: Item, bytes: usize) -> Result<Outcome, SubmitError> {
        let (reply, outcome) = oneshot::channel();
        self.queue.try_send(Waiting { item, bytes, reply }).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => SubmitError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopped,
        })?;
        settled(outcome).await
    }

    /// Proposes `items` in their order and waits until all are applied. It waits for room in the queue: what comes
    /// from other datacenters is bounded by their credits already.
    pub async fn submit_all(&self, items: Vec<(Item, usize)>) -> Result<Vec<Outcome>, SubmitError> {
        let mut outcomes = Vec::with_capacity(items.len());
        for (item, bytes) in items {
            let (reply, outcome) = oneshot::channel();
            self.queue.send(Waiting { item, bytes, reply }).await.map_err(|_| SubmitError::Stopped)?;
            outcomes.push(outcome);
        }
        let mut applied = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            applied.push(settled(outcome).await?);
        }
        Ok(applied)
    }
}

async fn settled(outcome: oneshot::Receiver<Result<Outcome, ProposeError>>) -> Result<Outcome, SubmitError> {
    // A proposer that stops drops what waits; whether it was proposed is not known then.
    Ok(outcome.await.map_err(|_| SubmitError::Propose(ProposeError::Unknown))??)
}

async fn run(
    raft: Arc<RaftGroup>,
    wall: Arc<dyn seams::Clock>,
    clock: Arc<Mutex<Clock>>,
    bounds: ProposerBounds,
    mut waiting: mpsc::Receiver<Waiting>,
) {
    let in_flight = Arc::new(Semaphore::new(bounds.entries_in_flight_max));
    let mut held_over: Option<Waiting> = None;
    loop {
        let Ok(permit) = in_flight.clone().acquire_owned().await else { return };
        let first = match held_over.take() {
            Some(first) => first,
            None => match waiting.recv().await {
                Some(first) => first,
                None => return,
            },
        };
        let (mut items, mut replies, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = Some(first);
        while let Some(one) = next.take() {
            if !items.is_empty() && bytes + one.bytes > bounds.entry_bytes_max {
                held_over = Some(one);
                break;
            }
            bytes += one.bytes;
            items.push(one.item);
            replies.push(one.reply);
            if items.len() < bounds.entry_items_max {
                next = waiting.try_recv().ok();
            }
        }
        let now_ms = wall.unix_ms();
        stamp(&clock, now_ms, &mut items);
        let raft = raft.clone();
        tokio::spawn(async move {
            propose(&raft, Entry { now_ms, items }, replies).await;
            drop(permit);
        });
    }
}

/// Gives each client's transaction its stamp. A clock that cannot stamp leaves 0 behind, and apply then counts on
/// from the origin's last stamp.
fn stamp(clock: &Mutex<Clock>, now_ms: u64, items: &mut [Item]) {
    let mut clock = clock.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for item in items {
        if let Item::Client(txn) = item {
            txn.hlc = clock.stamp(now_ms).unwrap_or(0);
        }
    }
}

async fn propose(
    raft: &RaftGroup,
    entry: Entry,
    replies: Vec<oneshot::Sender<Result<Outcome, ProposeError>>>,
) {
    let result = match entry.encode() {
        Ok(bytes) => raft.propose(bytes).await,
        Err(e) => {
            tracing::error!(error = %e, "an entry could not be encoded");
            Err(ProposeError::Stopped)
        }
    };
    match result {
        Ok(reply) => {
            for (waiting, outcome) in replies.into_iter().zip(reply.outcomes) {
                // Whoever asked may have given up waiting; the outcome stands all the same.
                let _ = waiting.send(Ok(outcome));
            }
        }
        Err(error) => {
            for waiting in replies {
                let _ = waiting.send(Err(error.clone()));
            }
        }
    }
}
