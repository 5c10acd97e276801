//! Linearizability of a register or a counter.
//!
//! After Herlihy and Wing, "Linearizability: a correctness condition for concurrent objects" (TOPLAS 1990): there is an order
//! of all operations that agrees with time and with the object's sequential behaviour. Searched for as by Wing and Gong
//! (JPDC 1993), with Lowe's memory of what was tried ("Testing for linearizability", 2017): a set of operations that are done
//! and the state they lead to are visited once. Each key is searched by itself, which the property allows.
//!
//! An operation of unknown outcome may take effect at any time after its call, or never. The search is bounded: what is not
//! decided within the bound is said to be so, and counts neither as passed nor as failed.

use std::collections::HashSet;
use std::hash::Hash;

use super::bits::Bits;
use super::{Law, Violation};
use crate::{Action, History, Op};

/// Most pairs of (operations done, state) that are visited for one key.
const VISITS_MAX: usize = 2_000_000;

/// What the search found for a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none.
    Violated(Violation),
    /// The bound was reached first.
    Undecided,
}

/// How an object behaves when asked one thing after the other.
pub trait Model {
    /// Its state.
    type State: Clone + Eq + Hash + Default;

    /// The state after an action, if the action fits the state.
    fn step(state: &Self::State, action: &Action) -> Option<Self::State>;
}

/// A register that is set, deleted and read.
#[derive(Clone, Copy, Debug)]
pub struct Register;

impl Model for Register {
    type State = Option<i64>;

    fn step(state: &Self::State, action: &Action) -> Option<Self::State> {
        match action {
            Action::Set { value, .. } => Some(Some(*value)),
            Action::Delete { .. } => Some(None),
            Action::Get { value, .. } => (value == state).then_some(*state),
            _ => None,
        }
    }
}

/// A counter that is added to, deleted and read.
#[derive(Clone, Copy, Debug)]
pub struct Counter;

impl Model for Counter {
    type State = i64;

    fn step(state: &Self::State, action: &Action) -> Option<Self::State> {
        match action {
            Action::Add { by, .. } => Some(state.wrapping_add(*by)),
            Action::Delete { .. } => Some(0),
            Action::Sum { value, .. } => (value == state).then_some(*state),
            _ => None,
        }
    }
}

/// Searches for an order of all that was done to one key.
pub fn check<M: Model>(history: &History, key: &str) -> Verdict {
    let mut ops = history.of_key(key).ops;
    // A read without an answer says nothing; a write that was refused took no effect.
    ops.retain(|op| op.is_ok() || (op.is_possible() && op.actions.iter().any(Action::is_write)));
    ops.sort_by_key(|op| op.begin_ns);
    let mut visited = HashSet::from([(Bits::default(), M::State::default())]);
    let mut open = vec![(Bits::default(), M::State::default())];
    let (mut best, mut stuck) = (0, None);
    while let Some((done, state)) = open.pop() {
        let mut next = Vec::new();
        let (candidates, left) = candidates(&ops, &done);
        if left == 0 {
            return Verdict::Linearizable;
        }
        for i in candidates {
            if let Some(state) =
                ops[i].actions.iter().try_fold(state.clone(), |s, action| M::step(&s, action))
            {
                let mut done = done.clone();
                done.insert(i);
                next.push((done, state));
            }
        }
        if ops.len() - left >= best && next.is_empty() {
            best = ops.len() - left;
            stuck = ops.iter().enumerate().find(|(i, op)| op.is_ok() && !done.contains(*i)).map(|(_, op)| op);
        }
        for step in next {
            if visited.insert(step.clone()) {
                open.push(step);
            }
        }
        if visited.len() > VISITS_MAX {
            return Verdict::Undecided;
        }
    }
    let story =
        format!("no order of the operations on {key} explains all; the longest ends before {stuck:?}");
    Verdict::Violated(Violation::new(Law::Linearizable, story))
}

/// What may come next: what was called before the first answer that is still due. And how many answers are due.
fn candidates(ops: &[Op], done: &Bits) -> (Vec<usize>, usize) {
    let open = || ops.iter().enumerate().filter(|(i, _)| !done.contains(*i));
    let due = open().filter_map(|(_, op)| op.deadline_ns());
    let (first_ns, left) = due.fold((u64::MAX, 0), |(first, n), end| (first.min(end), n + 1));
    (open().filter(|(_, op)| op.begin_ns <= first_ns).map(|(i, _)| i).collect(), left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use crate::checkers::testkit::{add, delete, get, ok, op, set, sum};

    fn register(ops: Vec<Op>) -> bool {
        match check::<Register>(&History { ops }, "x") {
            Verdict::Linearizable => true,
            Verdict::Violated(violation) => {
                assert_eq!(violation.law, Law::Linearizable);
                false
            }
            Verdict::Undecided => panic!("so short a history can be decided"),
        }
    }

    #[test]
    fn a_read_of_what_was_overwritten_before_it_began_is_no_order() {
        let writes = || vec![ok(1, 0, 1, vec![set("x", 1)]), ok(1, 2, 3, vec![set("x", 2)])];
        let with = |read: Op| writes().into_iter().chain([read]).collect();
        assert!(!register(with(ok(2, 4, 5, vec![get("x", 1)]))));
        assert!(register(with(ok(2, 4, 5, vec![get("x", 2)]))));
        assert!(register(with(ok(2, 1, 5, vec![get("x", 1)]))), "it began before the second write ended");
        let deleted = vec![ok(1, 0, 1, vec![set("x", 1)]), ok(1, 2, 3, vec![delete("x")])];
        let with = |read: Op| deleted.clone().into_iter().chain([read]).collect();
        assert!(!register(with(ok(2, 4, 5, vec![get("x", 1)]))));
        assert!(register(with(ok(2, 4, 5, vec![get("x", None)]))));
    }

    #[test]
    fn two_readers_cannot_see_concurrent_writes_in_different_orders() {
        let ops = vec![
            ok(1, 0, 9, vec![set("x", 1)]),
            ok(2, 0, 9, vec![set("x", 2)]),
            ok(3, 1, 2, vec![get("x", 1)]),
            ok(3, 3, 4, vec![get("x", 2)]),
            ok(4, 5, 6, vec![get("x", 1)]),
        ];
        assert!(!register(ops.clone()));
        assert!(register(ops[..4].to_vec()));
    }

    #[test]
    fn an_unknown_write_takes_effect_late_or_never_but_not_twice() {
        let lost = op(1, 0, 1, Outcome::Unknown, vec![set("x", 1)]);
        let read = |at: u64, value: Option<i64>| ok(2, at, at + 1, vec![get("x", value)]);
        assert!(register(vec![lost.clone(), read(2, None), read(4, None)]));
        assert!(register(vec![lost.clone(), read(2, None), read(4, Some(1))]));
        assert!(!register(vec![lost, read(2, Some(1)), read(4, None)]));
        let refused = op(1, 0, 1, Outcome::Failed, vec![set("x", 1)]);
        assert!(!register(vec![refused, read(2, Some(1))]));
    }

    #[test]
    fn a_counter_shows_every_increment_that_was_answered_before() {
        let history = |value| History {
            ops: vec![
                ok(1, 0, 1, vec![add("c", 2)]),
                op(2, 0, 1, Outcome::Unknown, vec![add("c", 4)]),
                ok(3, 0, 9, vec![add("c", 8)]),
                ok(4, 2, 3, vec![sum("c", value)]),
            ],
        };
        for value in 0..16 {
            let fits = value & 2 != 0 && value & 1 == 0;
            let verdict = check::<Counter>(&history(value), "c");
            assert_eq!(verdict == Verdict::Linearizable, fits, "{value}: {verdict:?}");
        }
    }
}
