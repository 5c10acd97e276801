//! Bounded writers that record what they were told, so that a checker can hold a cluster to it.
//!
//! Each writer does one operation at a time: a unique element into a shared set, an increment of a shared counter, the
//! next number into a register of its own, its own element into or out of a shared remove-wins set (so that marks are
//! made and collected all the time), a pair of elements into two sets in one transaction. Every operation has a request id, so that it can be repeated exactly.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;

use crate::client::{Ask, Client, Outcome, add, add_element, outcome, set};

/// The key of the shared set.
pub const ELEMENTS: &str = "load/elements";
/// The key of the shared remove-wins set.
pub const PRESENT: &str = "load/present";
/// The keys of the two sets that get their elements in pairs.
pub const PAIRS: [&str; 2] = ["load/left", "load/right"];
/// The key of the shared counter.
pub const HITS: &str = "load/hits";
/// How long a single attempt may take: short, so that a writer whose node dies moves on to the next.
const ATTEMPT: Duration = Duration::from_secs(4);
/// Pause of a writer whose attempt failed, so that a dead DC is not asked in a tight loop.
const PAUSE: Duration = Duration::from_millis(20);

/// What an operation does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds an element, unique in the history, to [`ELEMENTS`].
    Element(String),
    /// Adds to [`HITS`].
    Increment(i64),
    /// Sets the register of this key, which has one writer, to its next number.
    Number(String, i64),
    /// Adds an element, which has one writer, to [`PRESENT`], or removes it.
    Presence(String, bool),
    /// Adds an element, unique in the history, to both [`PAIRS`] in one transaction.
    Pair(String),
}

impl Change {
    fn ask(&self, id: &str) -> Ask {
        let ask = match self {
            Self::Element(element) => Ask::mutate(ELEMENTS, &add_element(element.as_str())),
            Self::Increment(by) => Ask::mutate(HITS, &add(*by)),
            Self::Number(key, number) => Ask::mutate(key, &set(*number)),
            Self::Presence(element, present) => {
                let op = if *present { "add" } else { "remove" };
                Ask::mutate(PRESENT, &json!({"type": "rwset", "op": op, "element": element}))
            }
            Self::Pair(element) => {
                let add = |key| json!({"key": key, "type": "set", "op": "add", "element": element});
                Ask::txn(&json!({"ops": PAIRS.map(add)}))
            }
        };
        ask.id(id).within(ATTEMPT)
    }
}

/// One operation and what became of it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The DC that was asked; repeating is exact only there.
    pub dc: String,
    /// The request id.
    pub id: String,
    /// What it does.
    pub change: Change,
    /// What became of it.
    pub outcome: Outcome,
    /// How many attempts it took.
    pub attempts: usize,
    /// When it ended.
    pub ended: Instant,
    /// How long it took, all attempts included.
    pub took: Duration,
}

/// What all writers were told, each writer's operations in order.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The operations.
    pub operations: Vec<Operation>,
}

impl History {
    /// How many operations were acknowledged.
    pub fn acked(&self) -> usize {
        self.operations.iter().filter(|op| op.outcome == Outcome::Acked).count()
    }

    /// How many operations have an unknown outcome.
    pub fn unknown(&self) -> usize {
        self.operations.iter().filter(|op| matches!(op.outcome, Outcome::Unknown(_))).count()
    }

    /// The durations of what was acknowledged at the first attempt in one DC.
    pub fn latencies(&self, dc: &str) -> Vec<Duration> {
        let counts = |op: &&Operation| op.dc == dc && op.outcome == Outcome::Acked && op.attempts == 1;
        self.operations.iter().filter(counts).map(|op| op.took).collect()
    }

    /// How long after `moment` the first operation of a DC that began after it was acknowledged.
    pub fn resumed_after(&self, dc: &str, moment: Instant) -> Option<Duration> {
        let after = |op: &&Operation| op.dc == dc && op.outcome == Outcome::Acked && op.ended > moment;
        // An operation that began before may have been answered by the dead leader's last breath.
        let ended =
            self.operations.iter().filter(after).filter(|op| op.ended - op.took > moment || op.attempts > 1);
        ended.map(|op| op.ended - moment).min()
    }

    /// Adds what another run was told.
    pub fn extend(&mut self, other: History) {
        self.operations.extend(other.operations);
    }
}

/// A running workload.
#[derive(Debug)]
pub struct Workload {
    stop: Arc<AtomicBool>,
    acked: Arc<AtomicUsize>,
    writers: JoinSet<Vec<Operation>>,
}

/// What the writers of one DC do.
#[derive(Clone, Debug)]
pub struct Load {
    /// The DC's name.
    pub dc: String,
    /// Its nodes; writer `w` begins with node `w`.
    pub nodes: Vec<Client>,
    /// How many writers.
    pub writers: usize,
    /// Most operations of each.
    pub operations_max: usize,
    /// Distinguishes the elements, ids and registers of several runs against one cluster.
    pub run: String,
    /// Whether an operation is repeated, with its id and through the next node, until it is acknowledged. Without it,
    /// an operation is tried once.
    pub repeat: bool,
}

impl Workload {
    /// Starts the writers.
    pub fn start(loads: Vec<Load>) -> Self {
        let (stop, acked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut writers = JoinSet::new();
        for load in loads {
            for writer in 0..load.writers {
                writers.spawn(write(load.clone(), writer, stop.clone(), acked.clone()));
            }
        }
        Self { stop, acked, writers }
    }

    /// How many operations have been acknowledged so far.
    pub fn acked(&self) -> usize {
        self.acked.load(Ordering::Relaxed)
    }

    /// Waits until so many more operations have been acknowledged.
    ///
    /// # Panics
    /// When that takes longer than `limit`.
    pub async fn progress(&self, more: usize, limit: Duration) {
        let wanted = self.acked() + more;
        crate::wait::until("the workload makes progress", limit, async || {
            let now = self.acked();
            if now >= wanted { Ok(()) } else { Err(format!("{now} of {wanted} acknowledged")) }
        })
        .await;
    }

    /// Lets each writer finish its operation and returns what they were told. A writer that repeats gives an operation
    /// up as unknown when it is told to stop.
    ///
    /// # Panics
    /// When a writer panicked.
    pub async fn finish(mut self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        let mut history = History::default();
        while let Some(done) = self.writers.join_next().await {
            history.operations.extend(done.unwrap_or_else(|e| panic!("a writer failed: {e}")));
        }
        history
    }
}

async fn write(load: Load, writer: usize, stop: Arc<AtomicBool>, acked: Arc<AtomicUsize>) -> Vec<Operation> {
    let mut operations = Vec::new();
    for number in 0..load.operations_max {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("{}/{}/{writer}", load.run, load.dc);
        let change = match number % 5 {
            0 => Change::Element(format!("{name}/{number}")),
            1 => Change::Increment(1),
            2 => Change::Number(format!("load/last/{name}"), number as i64),
            3 => Change::Presence(name.clone(), number % 2 == 0),
            _ => Change::Pair(format!("{name}/{number}")),
        };
        let id = format!("{name}/{number}");
        let operation = attempt(&load, writer, change, id, &stop).await;
        if operation.outcome == Outcome::Acked {
            acked.fetch_add(1, Ordering::Relaxed);
        }
        operations.push(operation);
    }
    operations
}

async fn attempt(load: &Load, writer: usize, change: Change, id: String, stop: &AtomicBool) -> Operation {
    let start = Instant::now();
    let ask = change.ask(&id);
    let mut attempts = 0;
    // Once an attempt may have been done, a later one that surely was not says nothing about the first.
    let mut unknown = None;
    let outcome = loop {
        let node = &load.nodes[(writer + attempts) % load.nodes.len()];
        attempts += 1;
        let outcome = outcome(&node.send(&ask).await);
        if outcome == Outcome::Acked {
            break outcome;
        }
        if let Outcome::Unknown(_) = &outcome {
            unknown = Some(outcome.clone());
        }
        tokio::time::sleep(PAUSE).await;
        if !load.repeat || stop.load(Ordering::Relaxed) {
            break unknown.unwrap_or(outcome);
        }
    };
    let ended = Instant::now();
    Operation { dc: load.dc.clone(), id, change, outcome, attempts, ended, took: ended - start }
}

/// Repeats every operation of a DC that was not acknowledged, with its id, through its nodes in turn, until it is.
/// Afterwards each counts exactly once. Numbers and presences are left out: repeating one would put it after its
/// successors.
///
/// # Panics
/// When one is not acknowledged within `limit`.
pub async fn settle(history: &mut History, dc: &str, nodes: &[Client], limit: Duration) -> usize {
    let mut repeated = 0;
    let open = |op: &&mut Operation| {
        let in_order = matches!(op.change, Change::Number(..) | Change::Presence(..));
        op.dc == dc && op.outcome != Outcome::Acked && !in_order
    };
    for op in history.operations.iter_mut().filter(open) {
        let ask = op.change.ask(&op.id);
        let mut turn = 0;
        crate::wait::until("a repeated operation is acknowledged", limit, async || {
            turn += 1;
            match outcome(&nodes[turn % nodes.len()].send(&ask).await) {
                Outcome::Acked => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        op.outcome = Outcome::Acked;
        repeated += 1;
    }
    repeated
}

/// What may be the last of the operations of one writer on one thing, given what it was told, in order: the last
/// acknowledged one, or any whose outcome is unknown, since that may take place late. `initial` stands for none of them.
pub fn possible_last<T>(history: &History, initial: T, value: impl Fn(&Change) -> Option<T>) -> Vec<T> {
    let mut possible = vec![initial];
    for op in &history.operations {
        match (value(&op.change), &op.outcome) {
            (Some(value), Outcome::Acked) => possible[0] = value,
            (Some(value), Outcome::Unknown(_)) => possible.push(value),
            _ => {}
        }
    }
    possible
}
