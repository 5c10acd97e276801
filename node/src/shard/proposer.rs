//! Group commit: everything that waits goes into one log entry, and a few entries are under way at a time.
//!
//! Bounds: the queue (`limits.in_flight_max`; full answers `overloaded`), the bytes of clients' writes in it
//! (`limits.writing_max`), the bytes and items of an entry, the entries in flight. What waits while all entries are in
//! flight becomes the next entry, so groups grow with the load; where threads are busy, an entry waits for others before
//! (`shard::gather`).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::poll;
use meridian_crdt::hlc::Clock;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::gather::Gather;
use super::write_room::Taken;
use crate::raft::{ProposeError, RaftGroup};
use crate::seams::{self, Seams};
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
    /// Items for which an entry waits while threads are busy and others are under way.
    pub entry_items_gathered: usize,
    /// Entries proposed and not yet applied.
    pub entries_in_flight_max: usize,
}

struct Waiting {
    item: Item,
    bytes: usize,
    asker: Asker,
}

/// Who waits for an outcome, and the room that the item takes until it is there.
struct Asker {
    reply: oneshot::Sender<Result<Outcome, ProposeError>>,
    room: Option<Taken>,
}

impl Asker {
    fn new(room: Option<Taken>) -> (Self, Settling) {
        let (reply, outcome) = oneshot::channel();
        (Self { reply, room }, outcome)
    }

    fn answer(self, outcome: Result<Outcome, ProposeError>) {
        drop(self.room);
        // Whoever asked may have given up waiting; the outcome stands all the same.
        let _ = self.reply.send(outcome);
    }
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
    pub fn start(
        raft: Arc<RaftGroup>,
        seams: &Seams,
        clock: Arc<Mutex<Clock>>,
        bounds: ProposerBounds,
    ) -> Self {
        let (queue, waiting) = mpsc::channel(bounds.queue_max);
        let gather = Gather::new(seams.clock.clone(), seams.load.clone(), bounds.entry_items_gathered);
        let packer = Packer {
            bounds,
            gather,
            in_flight: Arc::new(Semaphore::new(bounds.entries_in_flight_max)),
            items_under_way: Arc::default(),
            waiting,
            held_over: None,
        };
        tokio::spawn(run(raft, seams.clock.clone(), clock, packer));
        Self { queue }
    }

    /// Proposes `item`, which takes about `bytes`; what is returned waits until it is applied. The Raft group bounds the
    /// wait. A full queue refuses at once. An item keeps the `room` that it takes until it has an outcome, whether anybody
    /// waits for that or not.
    //
    // Not an async function, so that who waits does not carry along the room that the item had.
    pub fn submit(
        &self,
        item: Item,
        bytes: usize,
        room: Option<Taken>,
    ) -> impl Future<Output = Result<Outcome, SubmitError>> + use<> {
        let queued = self.enqueue(item, bytes, room);
        async move { settled(queued?).await }
    }

    fn enqueue(&self, item: Item, bytes: usize, room: Option<Taken>) -> Result<Settling, SubmitError> {
        let (asker, outcome) = Asker::new(room);
        match self.queue.try_send(Waiting { item, bytes, asker }) {
            Ok(()) => Ok(outcome),
            Err(mpsc::error::TrySendError::Full(_)) => Err(SubmitError::Overloaded),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(SubmitError::Stopped),
        }
    }

    /// Proposes `items` in their order and waits until all are applied. It waits for room in the queue: what comes
    /// from other datacenters is bounded by their credits already.
    pub async fn submit_all(&self, items: Vec<(Item, usize)>) -> Result<Vec<Outcome>, SubmitError> {
        let mut outcomes = Vec::with_capacity(items.len());
        for (item, bytes) in items {
            let (asker, outcome) = Asker::new(None);
            self.queue.send(Waiting { item, bytes, asker }).await.map_err(|_| SubmitError::Stopped)?;
            outcomes.push(outcome);
        }
        let mut applied = Vec::with_capacity(outcomes.len());
        for outcome in outcomes {
            applied.push(settled(outcome).await?);
        }
        Ok(applied)
    }
}

/// What brings the outcome.
type Settling = oneshot::Receiver<Result<Outcome, ProposeError>>;

async fn settled(outcome: Settling) -> Result<Outcome, SubmitError> {
    // A proposer that stops drops what waits; whether it was proposed is not known then.
    Ok(outcome.await.map_err(|_| SubmitError::Propose(ProposeError::Unknown))??)
}

/// Makes entries of what waits.
struct Packer {
    bounds: ProposerBounds,
    gather: Gather,
    in_flight: Arc<Semaphore>,
    /// Items of the entries that are in flight.
    items_under_way: Arc<AtomicUsize>,
    waiting: mpsc::Receiver<Waiting>,
    /// What was too large for the entry before.
    held_over: Option<Waiting>,
}

/// What becomes an entry: its items, and who waits for each.
type Packed = (Vec<Item>, Vec<Asker>);

impl Packer {
    /// The next entry, which waits for an item at least; nothing once nobody can ask any more. The caller has a place in flight.
    async fn next_entry(&mut self) -> Option<Packed> {
        let first = match self.held_over.take() {
            Some(first) => first,
            None => {
                let first = self.waiting.recv().await?;
                // Whoever asked has woken this task, and the runtime runs what was woken last first: others who are about
                // to ask have their turn before, or each would have an entry of its own.
                tokio::task::yield_now().await;
                first
            }
        };
        let (mut items, mut askers, mut bytes) = (Vec::new(), Vec::new(), 0);
        let mut next = Some(first);
        while let Some(one) = next.take() {
            if !items.is_empty() && bytes + one.bytes > self.bounds.entry_bytes_max {
                self.held_over = Some(one);
                break;
            }
            bytes += one.bytes;
            items.push(one.item);
            askers.push(one.asker);
            if items.len() < self.bounds.entry_items_max {
                next = self.another(items.len()).await;
            }
        }
        Some((items, askers))
    }

    /// Another item for an entry that has `here`, if one waits or is worth waiting for.
    async fn another(&mut self, here: usize) -> Option<Waiting> {
        let at_once = self.waiting.try_recv().ok();
        if at_once.is_some() || !self.gather.waits(here, self.items_under_way.load(Ordering::Relaxed)) {
            return at_once;
        }
        // All places but the one that this entry has: they are free once no other entry is in flight.
        let others = u32::try_from(self.bounds.entries_in_flight_max.saturating_sub(1)).unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            more = self.waiting.recv() => more,
            _ = self.in_flight.acquire_many(others) => None,
        }
    }
}

async fn run(
    raft: Arc<RaftGroup>,
    wall: Arc<dyn seams::Clock>,
    clock: Arc<Mutex<Clock>>,
    mut packer: Packer,
) {
    loop {
        let Ok(permit) = packer.in_flight.clone().acquire_owned().await else { return };
        let Some((mut items, askers)) = packer.next_entry().await else { return };
        let now_ms = wall.unix_ms();
        stamp(&clock, now_ms, &mut items);
        let (raft, items_under_way, count) = (raft.clone(), packer.items_under_way.clone(), items.len());
        items_under_way.fetch_add(count, Ordering::Relaxed);
        let mut proposing = Box::pin(async move {
            propose(&raft, Entry { now_ms, items }, askers).await;
            items_under_way.fetch_sub(count, Ordering::Relaxed);
            drop(permit);
        });
        // It is handed to Raft here and now. Tasks begin in any order, the runtime runs what was spawned last first, and txns of
        // other datacenters that come before those that they follow have to be sent once more.
        if poll!(&mut proposing).is_pending() {
            tokio::spawn(proposing);
        }
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

async fn propose(raft: &RaftGroup, entry: Entry, askers: Vec<Asker>) {
    let result = match entry.encode() {
        Ok(bytes) => raft.propose(bytes).await,
        Err(e) => {
            tracing::error!(error = %e, "an entry could not be encoded");
            Err(ProposeError::Stopped)
        }
    };
    match result {
        Ok(reply) => {
            askers.into_iter().zip(reply.outcomes).for_each(|(asker, outcome)| asker.answer(Ok(outcome)));
        }
        Err(error) => askers.into_iter().for_each(|asker| asker.answer(Err(error.clone()))),
    }
}
