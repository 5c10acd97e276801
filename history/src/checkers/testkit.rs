//! Short ways to write down histories in tests of checkers and of loads.

use super::{Law, Violation};
use crate::{Action, History, Op, Outcome};

/// An answered operation of a session from `begin` to `end`.
pub fn ok(session: usize, begin: u64, end: u64, actions: Vec<Action>) -> Op {
    op(session, begin, end, Outcome::Ok, actions)
}

/// An operation of a session from `begin` to `end`.
pub fn op(session: usize, begin: u64, end: u64, outcome: Outcome, actions: Vec<Action>) -> Op {
    Op { session, dc: "eu-west".into(), node: 1, begin_ns: begin, end_ns: end, outcome, actions }
}

/// Answered operations one after the other, each ended before the next begins.
pub fn serial(ops: Vec<(usize, Vec<Action>)>) -> History {
    let at = |i: usize| u64::try_from(i).expect("short") * 10;
    let ops = ops.into_iter().enumerate();
    History { ops: ops.map(|(i, (session, actions))| ok(session, at(i), at(i) + 5, actions)).collect() }
}

/// A register is set.
pub fn set(key: &str, value: i64) -> Action {
    Action::Set { key: key.into(), value }
}

/// A register is read.
pub fn get(key: &str, value: impl Into<Option<i64>>) -> Action {
    Action::Get { key: key.into(), value: value.into() }
}

/// A key is deleted.
pub fn delete(key: &str) -> Action {
    Action::Delete { key: key.into() }
}

/// An element is added to a set.
pub fn insert(key: &str, element: i64) -> Action {
    Action::Insert { key: key.into(), element }
}

/// A set is read.
pub fn members(key: &str, elements: &[i64]) -> Action {
    Action::Members { key: key.into(), elements: elements.iter().copied().collect() }
}

/// A counter is added to.
pub fn add(key: &str, by: i64) -> Action {
    Action::Add { key: key.into(), by }
}

/// A counter is read.
pub fn sum(key: &str, value: i64) -> Action {
    Action::Sum { key: key.into(), value }
}

/// The laws that were broken, each once, in order.
pub fn laws(violations: &[Violation]) -> Vec<Law> {
    super::tally(violations).into_keys().collect()
}
