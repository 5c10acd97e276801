//! One simulated node: its rows and the production apply over them, its checkpoint, its clocks, and what it believes
//! about the leader.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use meridian::seams::Clock as _;
use meridian::shard::clock::SteadyClock;
use meridian::shard::open::{Submitted, TransactionBounds, Transactions};
use meridian::shard::published::view_of;
use meridian::txn::bounds::Kept;
use meridian::txn::{Entry, Item, Reply, ShardState, apply_entry, state_fingerprint};
use meridian::watch::recent::Recent;
use meridian_crdt::hlc::Clock;
use meridian_crdt::{MemCells, Vector};
use meridian_gossip::View;
use meridian_gossip::sim::At;
use xxhash_rust::xxh3::xxh3_128;

use super::clock::{SimClock, Time};
use super::request::Request;

/// How far clocks may differ, as in the default configuration.
pub const DRIFT_MS_MAX: u64 = 5_000;

/// Who waits for the outcome of an item.
#[derive(Clone, Debug)]
pub enum Ticket {
    /// A client's request.
    Client(Box<Request>),
    /// Item `part` of a proposal of the protocol machine.
    Gossip {
        /// The proposal.
        ticket: u64,
        /// Which of its items.
        part: usize,
    },
    /// Nobody.
    Nobody,
}

/// An item that waits to be proposed.
#[derive(Clone, Debug)]
pub struct Queued {
    /// What.
    pub item: Item,
    /// For whom.
    pub ticket: Ticket,
}

/// What a node that believes to lead knows.
#[derive(Clone, Debug)]
pub struct Reign {
    /// Its term.
    pub term: u64,
    /// The index of the first entry of its term.
    pub first: u64,
    /// Whether that entry is applied: before, a leader says nothing.
    pub speaks: bool,
    /// What waits to be proposed.
    pub queue: VecDeque<Queued>,
    /// What was proposed and is not applied: the index in the log, and who waits.
    pub in_flight: VecDeque<(u64, Vec<Ticket>)>,
}

/// A request that waits until the node has applied enough.
#[derive(Clone, Debug)]
pub struct Waiting {
    /// The request.
    pub request: Box<Request>,
    /// The log index that it needs.
    pub index: u64,
    /// The dots that it needs.
    pub dots: Vector,
    /// When it gives up.
    pub until_ms: u64,
}

/// One node.
pub struct Node {
    /// Which.
    pub at: At,
    /// Whether its process runs.
    pub up: bool,
    /// How often it has started.
    pub life: u64,
    /// Its rows.
    pub rows: MemCells,
    /// The decoded copy of its state row.
    pub state: ShardState,
    /// The last entry that it has applied.
    pub applied: u64,
    /// The last entry that it knows to be committed.
    pub heard: u64,
    /// The rows of its last durable checkpoint, and up to which entry they go.
    pub checkpoint: (u64, MemCells),
    /// Whom it follows.
    pub leader: Option<u64>,
    /// What it knows as a leader.
    pub reign: Option<Reign>,
    /// Whether it has recovered what was committed when it started.
    pub ready: bool,
    /// Until then it hears nothing from the others of its datacenter.
    pub deaf_until_ms: u64,
    /// The machine's clock.
    pub clock: Arc<SimClock>,
    /// What the node makes of it.
    pub steady: SteadyClock,
    /// The clock that stamps.
    pub hlc: Clock,
    /// Whether the clock agrees with the others'.
    pub clock_safe: bool,
    /// Requests that wait.
    pub waiting: Vec<Waiting>,
    /// The interactive transactions that are open on it.
    pub open: Transactions<MemCells>,
    /// Commits of such transactions whose write is under way: who asked, and what waits for the outcome.
    pub commits: BTreeMap<u64, (Box<Request>, Submitted<MemCells>)>,
    /// What its watches share.
    pub recent: Recent,
    kept: Kept,
    open_bounds: TransactionBounds,
}

impl Node {
    /// An empty node.
    pub fn new(at: At, time: &Time, kept: Kept, open_bounds: TransactionBounds) -> Node {
        let clock = Arc::new(SimClock::new(time.clone()));
        Node {
            at,
            up: true,
            life: 0,
            rows: MemCells::new(),
            state: ShardState { kept, ..ShardState::new() },
            applied: 0,
            heard: 0,
            checkpoint: (0, MemCells::new()),
            leader: None,
            reign: None,
            ready: false,
            deaf_until_ms: 0,
            steady: SteadyClock::new(clock.clone(), DRIFT_MS_MAX),
            clock,
            hlc: Clock::restore(0),
            clock_safe: true,
            waiting: Vec::new(),
            open: Transactions::new(open_bounds),
            commits: BTreeMap::new(),
            recent: Recent::default(),
            kept,
            open_bounds,
        }
    }

    /// Applies the entry after the last applied one; `None` is the empty one that begins a term.
    pub fn apply(&mut self, entry: Option<&Bytes>) -> Reply {
        self.applied += 1;
        let Some(bytes) = entry else { return Reply::default() };
        let entry =
            Entry::decode(bytes).unwrap_or_else(|e| panic!("an entry of the log does not decode: {e}"));
        apply_entry(&mut self.state, &mut self.rows, entry)
            .unwrap_or_else(|e| panic!("apply met rows that it cannot read: {e}"))
    }

    /// What the state and a reply come to, for comparing nodes.
    pub fn fingerprint(&self, reply: &Reply) -> u128 {
        let reply = rmp_serde::to_vec(reply).unwrap_or_default();
        let state = state_fingerprint(&self.rows).unwrap_or_else(|e| panic!("the rows cannot be read: {e}"));
        state.wrapping_add(xxh3_128(&reply))
    }

    /// Makes what is applied durable.
    pub fn take_checkpoint(&mut self) {
        if self.checkpoint.0 < self.applied {
            self.checkpoint = (self.applied, self.rows.clone());
        }
    }

    /// The process ends; only the checkpoint and the log remain.
    pub fn crash(&mut self) {
        self.up = false;
        self.life += 1;
        self.reign = None;
        self.leader = None;
        self.ready = false;
        self.waiting.clear();
        self.open = Transactions::new(self.open_bounds);
        self.commits.clear();
        self.recent = Recent::default();
        self.deaf_until_ms = 0;
        let (index, rows) = self.checkpoint.clone();
        self.install(index, rows);
    }

    /// The process starts from its checkpoint.
    pub fn start(&mut self) {
        self.up = true;
        self.steady = SteadyClock::new(self.clock.clone(), DRIFT_MS_MAX);
        self.hlc = Clock::restore(0);
        self.clock_safe = true;
    }

    /// Takes a leader's snapshot.
    pub fn install_snapshot(&mut self, index: u64, rows: MemCells) {
        self.install(index, rows);
        self.take_checkpoint();
    }

    fn install(&mut self, index: u64, rows: MemCells) {
        let state = ShardState::load(&rows).unwrap_or_else(|never| match never {});
        self.state = state.unwrap_or_else(|e| panic!("the state row of {} cannot be read: {e}", self.at));
        self.state.kept = self.kept;
        self.rows = rows;
        self.applied = index;
        self.heard = index;
    }

    /// What the protocol machine is shown.
    pub fn view(&self) -> View {
        let leading = self.reign.as_ref().filter(|reign| reign.speaks).map(|reign| reign.term);
        let leader_node = if self.reign.is_some() { Some(self.at.node) } else { self.leader };
        view_of(&self.state, leading, leader_node)
    }

    /// The wall clock as this node believes it.
    pub fn unix_ms(&self) -> u64 {
        self.steady.unix_ms()
    }

    /// Whether it leads and may say so.
    pub fn speaks(&self) -> bool {
        self.up && self.reign.as_ref().is_some_and(|reign| reign.speaks)
    }
}
