//! Short ways to write down histories in the checkers' own tests.

use super::{Law, Violation};
use crate::{Action, History, Op, Outcome};

/// An answered operation of a session from `begin` to `end`.
pub(crate) fn ok(session: usize, begin: u64, end: u64, actions: Vec<Action>) -> Op {
    op(session, begin, end, Outcome::Ok, actions)
}

/// An operation of a session from `begin` to `end`.
pub(crate) fn op(session: usize, begin: u64, end: u64, outcome: Outcome, actions: Vec<Action>) -> Op {
    Op { session, dc: "eu-west".into(), node: 1, begin_ns: begin, end_ns: end, outcome, actions }
}

/// Answered operations one after the other, each ended before the next begins.
pub(crate) fn serial(ops: Vec<(usize, Vec<Action>)>) -> History {
    let at = |i: usize| u64::try_from(i).expect("short") * 10;
    let ops = ops.into_iter().enumerate();
    History { ops: ops.map(|(i, (session, actions))| ok(session, at(i), at(i) + 5, actions)).collect() }
}

pub(crate) fn set(key: &str, value: i64) -> Action {
    Action::Set { key: key.into(), value }
}

pub(crate) fn get(key: &str, value: impl Into<Option<i64>>) -> Action {
    Action::Get { key: key.into(), value: value.into() }
}

pub(crate) fn delete(key: &str) -> Action {
    Action::Delete { key: key.into() }
}

pub(crate) fn insert(key: &str, element: i64) -> Action {
    Action::Insert { key: key.into(), element }
}

pub(crate) fn members(key: &str, elements: &[i64]) -> Action {
    Action::Members { key: key.into(), elements: elements.iter().copied().collect() }
}

pub(crate) fn add(key: &str, by: i64) -> Action {
    Action::Add { key: key.into(), by }
}

pub(crate) fn sum(key: &str, value: i64) -> Action {
    Action::Sum { key: key.into(), value }
}

/// The laws that were broken, each once, in order.
pub(crate) fn laws(violations: &[Violation]) -> Vec<Law> {
    super::tally(violations).into_keys().collect()
}
