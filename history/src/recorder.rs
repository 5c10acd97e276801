//! Records a history while it is made, from many sessions at once.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{Action, History, Op, Outcome};

/// Collects the operations of many sessions on one clock. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    ops: Arc<Mutex<Vec<Op>>>,
}

/// An operation that has been asked and not yet answered.
#[derive(Debug)]
#[must_use = "an operation without an end is missing from the history"]
pub struct Started {
    session: usize,
    dc: String,
    node: u64,
    begin_ns: u64,
}

impl Started {
    /// It is repeated at another node of the same DC: the one that is said to have been asked is the last.
    pub fn repeat_at(&mut self, node: u64) {
        self.node = node;
    }
}

impl Default for Recorder {
    fn default() -> Self {
        let start = Instant::now();
        Self::on(move || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("ops", &self.ops).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Records on a clock that tells the nanoseconds since the start of the history, such as one of virtual time.
    pub fn on(clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { clock: Arc::new(clock), ops: Arc::default() }
    }

    /// Notes that a session asks a node such as `eu-west/1`. To be called before the first byte is sent.
    ///
    /// # Panics
    /// When the node's name is none.
    pub fn begin(&self, session: usize, node: &str) -> Started {
        let (dc, node) = node.split_once('/').expect("a node is named DC/NUMBER");
        let node = node.parse().expect("a node has a number");
        Started { session, dc: dc.into(), node, begin_ns: (self.clock)() }
    }

    /// Notes how it ended. To be called after the last byte of the answer.
    pub fn end(&self, started: Started, outcome: Outcome, actions: Vec<Action>) {
        let Started { session, dc, node, begin_ns } = started;
        let op = Op { session, dc, node, begin_ns, end_ns: (self.clock)(), outcome, actions };
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).push(op);
    }

    /// How many operations have ended with this outcome so far.
    pub fn count(&self, outcome: Outcome) -> usize {
        let ops = self.ops.lock().unwrap_or_else(PoisonError::into_inner);
        ops.iter().filter(|op| op.outcome == outcome).count()
    }

    /// Everything that has ended so far.
    pub fn history(&self) -> History {
        History { ops: self.ops.lock().unwrap_or_else(PoisonError::into_inner).clone() }
    }
}
