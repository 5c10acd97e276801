//! Histories: what clients asked, when, of whom, and what they were told.
//!
//! One model for all workloads and checkers, and for the formats of checkers outside this project. A history knows
//! nothing of nodes' insides: only calls, answers, and the times between which something took place. An outcome that
//! is not known is recorded as unknown and stays so. Values are numbers that are unique per key in a history, so that
//! each read says which write it saw.

pub mod checkers;
pub mod edn;
pub mod files;
pub mod kind;
pub mod plume;
pub mod porcupine;
mod recorder;
pub mod rest;

use std::collections::BTreeSet;

pub use recorder::{Recorder, Started};

/// What became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It took place, between its call and its answer, and what it read is known.
    Ok,
    /// It did not take place and never will.
    Failed,
    /// It may have taken place, or take place at any later time, or never. Its reads say nothing.
    Unknown,
}

/// One step of an operation. Values are unique per key among the writes of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets a register.
    Set {
        /// The register's key.
        key: String,
        /// The value, unique for the key.
        value: i64,
    },
    /// Reads a register.
    Get {
        /// The register's key.
        key: String,
        /// The value; nothing if the key was absent.
        value: Option<i64>,
    },
    /// Deletes a key.
    Delete {
        /// The key.
        key: String,
    },
    /// Appends to a list.
    Append {
        /// The list's key.
        key: String,
        /// The element, unique for the key.
        value: i64,
    },
    /// Reads a list.
    List {
        /// The list's key.
        key: String,
        /// Its elements, in order; none if the key was absent.
        values: Vec<i64>,
    },
    /// Adds an element to a set.
    Insert {
        /// The set's key.
        key: String,
        /// The element, unique for the key.
        element: i64,
    },
    /// Reads a set.
    Members {
        /// The set's key.
        key: String,
        /// Its elements; none if the key was absent.
        elements: BTreeSet<i64>,
    },
    /// Adds to a counter.
    Add {
        /// The counter's key.
        key: String,
        /// How much.
        by: i64,
    },
    /// Reads a counter.
    Sum {
        /// The counter's key.
        key: String,
        /// Its value; zero if the key was absent.
        value: i64,
    },
}

impl Action {
    /// The key that it is about.
    pub fn key(&self) -> &str {
        match self {
            Self::Set { key, .. }
            | Self::Get { key, .. }
            | Self::Delete { key }
            | Self::Append { key, .. }
            | Self::List { key, .. }
            | Self::Insert { key, .. }
            | Self::Members { key, .. }
            | Self::Add { key, .. }
            | Self::Sum { key, .. } => key,
        }
    }

    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        match self {
            Self::Set { .. } | Self::Delete { .. } | Self::Append { .. } => true,
            Self::Insert { .. } | Self::Add { .. } => true,
            Self::Get { .. } | Self::List { .. } | Self::Members { .. } | Self::Sum { .. } => false,
        }
    }
}

/// One request of a session: a single action, or a txn of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The session that asked. A session asks one thing at a time.
    pub session: usize,
    /// The DC that was asked.
    pub dc: String,
    /// The node that was asked.
    pub node: u64,
    /// When it was asked: nanoseconds since the start of the history.
    pub begin_ns: u64,
    /// When the answer, or the end of waiting for it, came.
    pub end_ns: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// What it did, in order. Reads carry what they saw if the outcome is [`Outcome::Ok`], and nothing otherwise.
    pub actions: Vec<Action>,
}

impl Op {
    /// A look at everything, after all of `ops`, by nobody of them.
    pub fn at_rest(ops: &[Op], actions: Vec<Action>) -> Op {
        let last_ns = ops.iter().map(|op| op.end_ns).max().unwrap_or(0);
        Op {
            session: usize::MAX,
            dc: "at rest".into(),
            node: 0,
            begin_ns: last_ns + 1,
            end_ns: last_ns + 2,
            outcome: Outcome::Ok,
            actions,
        }
    }

    /// Whether it surely took place.
    pub fn is_ok(&self) -> bool {
        self.outcome == Outcome::Ok
    }

    /// Whether it may have taken place.
    pub fn is_possible(&self) -> bool {
        self.outcome != Outcome::Failed
    }

    /// The latest moment at which it may take place: none if nobody knows.
    pub fn deadline_ns(&self) -> Option<u64> {
        self.is_ok().then_some(self.end_ns)
    }
}

/// All operations of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The operations; those of one session in the order in which it asked.
    pub ops: Vec<Op>,
}

impl History {
    /// How many operations had this outcome.
    pub fn count(&self, outcome: Outcome) -> usize {
        self.ops.iter().filter(|op| op.outcome == outcome).count()
    }

    /// The operations by session, each session's in order.
    pub fn sessions(&self) -> std::collections::BTreeMap<usize, Vec<&Op>> {
        let mut sessions = std::collections::BTreeMap::<_, Vec<&Op>>::new();
        for op in &self.ops {
            sessions.entry(op.session).or_default().push(op);
        }
        sessions
    }

    /// The operations that asked one DC.
    pub fn of_dc(&self, dc: &str) -> History {
        History { ops: self.ops.iter().filter(|op| op.dc == dc).cloned().collect() }
    }

    /// Only what was done to, or read from, one key; operations that did not touch it are left out.
    pub fn of_key(&self, key: &str) -> History {
        let narrow = |op: &Op| {
            let actions: Vec<Action> = op.actions.iter().filter(|a| a.key() == key).cloned().collect();
            (!actions.is_empty()).then(|| Op { actions, ..op.clone() })
        };
        History { ops: self.ops.iter().filter_map(narrow).collect() }
    }

    /// Every key that was touched.
    pub fn keys(&self) -> BTreeSet<&str> {
        self.ops.iter().flat_map(|op| &op.actions).map(Action::key).collect()
    }
}

/// Only the actions that a format has a word for, of keys that nobody deletes; operations without any are left out.
fn narrow(history: &History, keep: impl Fn(&Action) -> bool) -> History {
    let actions = history.ops.iter().flat_map(|op| &op.actions);
    let deleted: BTreeSet<&str> =
        actions.filter(|action| matches!(action, Action::Delete { .. })).map(Action::key).collect();
    let narrow = |op: &Op| {
        let fits = |action: &&Action| keep(action) && !deleted.contains(action.key());
        let actions: Vec<Action> = op.actions.iter().filter(fits).cloned().collect();
        (!actions.is_empty()).then(|| Op { actions, ..op.clone() })
    };
    History { ops: history.ops.iter().filter_map(narrow).collect() }
}
