//! The history of a run in the words of [`crate::history`], for the checkers of [`crate::checkers`].
//!
//! A request with all its attempts is one operation. What was read without a token stands under a session of its own,
//! since it demands nothing; so does everything after a session has begun anew.

use std::collections::{BTreeMap, BTreeSet};

use meridian_crdt::{Content, ReadValue, Value};

use super::clients::key_of;
use super::facts::{Group, KeyId};
use crate::checkers::{Violation, exactly_once, resurrection, sessions};
use crate::history::{Action, History, Op, Outcome};

/// Sessions of their own have numbers from here on.
const ALONE: usize = 1 << 32;
const NS_PER_MS: u64 = 1_000_000;

/// An operation that has been asked and not answered.
#[derive(Clone, Debug)]
pub struct Asked {
    session: usize,
    dc: usize,
    /// The node of the latest attempt.
    pub node: u64,
    at_ms: u64,
}

impl Asked {
    /// The operation that it has become.
    pub fn op(self, now_ms: u64, outcome: Outcome, actions: Vec<Action>) -> Op {
        let Asked { session, dc, node, at_ms } = self;
        let dc = meridian_gossip::sim::name(dc);
        let (begin_ns, end_ns) = (at_ms * NS_PER_MS, now_ms * NS_PER_MS);
        Op { session, dc, node, begin_ns, end_ns, outcome, actions }
    }
}

/// Collects operations.
#[derive(Debug, Default)]
pub struct Record {
    history: History,
    /// Under which number each session is known since it last began anew.
    eras: BTreeMap<usize, usize>,
    alone: usize,
    by_fact: BTreeMap<usize, usize>,
}

impl Record {
    /// A session asks.
    pub fn ask(&mut self, session: usize, dc: usize, now_ms: u64) -> Asked {
        Asked { session: *self.eras.entry(session).or_insert(session), dc, node: 1, at_ms: now_ms }
    }

    /// A session forgets its token.
    pub fn begin_anew(&mut self, session: usize) {
        self.alone += 1;
        self.eras.insert(session, ALONE + self.alone);
    }

    /// An operation under way goes on without the token that its session had.
    pub fn ask_anew(&self, session: usize, asked: &mut Asked) {
        asked.session = self.eras.get(&session).copied().unwrap_or(session);
    }

    /// An operation has ended. `demands` says whether it came with a token.
    pub fn end(
        &mut self,
        mut asked: Asked,
        now_ms: u64,
        outcome: Outcome,
        demands: bool,
        actions: Vec<Action>,
    ) {
        if !demands {
            self.alone += 1;
            asked.session = ALONE + self.alone;
        }
        self.history.ops.push(asked.op(now_ms, outcome, actions));
    }

    /// The same, of a write with a number.
    pub fn end_write(
        &mut self,
        fact: Option<usize>,
        asked: Asked,
        now_ms: u64,
        outcome: Outcome,
        actions: Vec<Action>,
    ) {
        if !actions.is_empty() {
            if let Some(fact) = fact {
                self.by_fact.insert(fact, self.history.ops.len());
            }
            self.end(asked, now_ms, outcome, true, actions);
        }
    }

    /// Nobody knows any more what became of a write.
    pub fn lose(&mut self, fact: usize) {
        if let Some(op) = self.by_fact.get(&fact).and_then(|op| self.history.ops.get_mut(*op)) {
            op.outcome = Outcome::Unknown;
        }
    }

    /// The history so far.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What the checkers say, given what is read when everything is at rest.
    pub fn violations(&self, at_rest: &[Action], tail_lost: bool) -> Vec<Violation> {
        let mut violations = sessions::check(&self.history);
        violations.extend(exactly_once::check(&self.history, at_rest));
        if !tail_lost {
            // A deletion in a datacenter that has lost its tail need not have observed what was answered there.
            violations.extend(resurrection::check(&self.history, at_rest));
        }
        violations.sort_by_key(ToString::to_string);
        violations
    }
}

/// What a read of a checked key showed; nothing for carts, for whose removals the history has no word.
pub fn read_action(id: KeyId, content: Option<&Content>) -> Option<Action> {
    let key = key_of(id).key;
    let number = |value: &Value| if let Value::Int(number) = value { *number } else { -1 };
    let value = content.map(|content| &content.value);
    Some(match (id.0, value) {
        (Group::Cart, _) => return None,
        (Group::Log, value) => {
            let elements = match value {
                Some(ReadValue::Set(values)) => values.iter().map(number).collect(),
                _ => BTreeSet::new(),
            };
            Action::Members { key, elements }
        }
        (Group::List, value) => {
            let values = match value {
                Some(ReadValue::Register(Value::Array(values))) => values.iter().map(number).collect(),
                _ => Vec::new(),
            };
            Action::List { key, values }
        }
        (Group::Count, value) => {
            let value = if let Some(ReadValue::Counter(value)) = value { *value } else { 0 };
            Action::Sum { key, value }
        }
        (_, Some(ReadValue::Register(value))) => Action::Get { key, value: Some(number(value)) },
        (_, _) => Action::Get { key, value: None },
    })
}
