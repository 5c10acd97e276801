//! What was acknowledged is done exactly once, what was refused not at all, what is unknown at most once.
//!
//! The promise of request ids (a retry returns the first answer) and of replication (nothing is lost, applied twice or
//! invented), checked on what is read when everything has come to rest. For sets, lists and counters that nobody deletes
//! from, and for registers that are not deleted: those must hold a value that nothing surely later replaced, where sessions
//! carry their tokens or stay in one DC.

use std::collections::BTreeMap;

use super::{Law, Violation, counters};
use crate::{Action, History, Op, Outcome};

/// Every way in which the reads at rest contradict what clients were told.
pub fn check(history: &History, at_rest: &[Action]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let deleted = |key: &str| {
        let actions = history.ops.iter().flat_map(|op| &op.actions);
        actions.filter(|action| matches!(action, Action::Delete { .. })).any(|action| action.key() == key)
    };
    for read in at_rest.iter().filter(|read| !deleted(read.key())) {
        let key = read.key();
        match read {
            Action::List { values, .. } => elements(history, key, values, &mut violations),
            Action::Members { elements: shown, .. } => {
                elements(history, key, &shown.iter().copied().collect::<Vec<_>>(), &mut violations);
            }
            Action::Get { value, .. } => violations.extend(register(history, key, *value)),
            Action::Sum { .. } => {
                violations.extend(counters::check(&with_last(history, read), key, counters::Demand::Final))
            }
            _ => {}
        }
    }
    violations
}

fn elements(history: &History, key: &str, shown: &[i64], violations: &mut Vec<Violation>) {
    let mut times = BTreeMap::<i64, usize>::new();
    for element in shown {
        *times.entry(*element).or_default() += 1;
    }
    let mut asked = BTreeMap::new();
    for op in &history.ops {
        for action in &op.actions {
            if let Action::Insert { key: k, element: value } | Action::Append { key: k, value } = action
                && k == key
            {
                asked.insert(*value, op.outcome);
            }
        }
    }
    for (element, outcome) in &asked {
        if *outcome == Outcome::Ok && !times.contains_key(element) {
            violations
                .push(Violation::new(Law::Lost, format!("{element} of {key} was acknowledged and is lost")));
        }
    }
    for (element, times) in times {
        let possible = asked.get(&element).is_some_and(|outcome| *outcome != Outcome::Failed);
        if !possible {
            violations.push(Violation::new(Law::Origin, format!("{element} of {key} was never done")));
        }
        if times > 1 {
            violations.push(Violation::new(Law::Twice, format!("{element} is in {key} {times} times")));
        }
    }
}

/// A value may be the last if no set that is sure began after its own had ended, in the same session: between
/// sessions, and all the more between DCs, it is not for time to say which of two writes is the later.
fn register(history: &History, key: &str, value: Option<i64>) -> Option<Violation> {
    let sets = |op: &&Op| op.actions.iter().any(|a| matches!(a, Action::Set { key: k, .. } if k == key));
    let sets: Vec<&Op> = history.ops.iter().filter(sets).collect();
    let Some(value) = value else {
        let sure = sets.iter().find(|op| op.is_ok())?;
        return Some(Violation::new(Law::Lost, format!("{key} is absent, after {:?}", sure.actions)));
    };
    let holds = |op: &&&Op| {
        op.actions.iter().any(|a| matches!(a, Action::Set { key: k, value: v } if k == key && *v == value))
    };
    let Some(writer) = sets.iter().find(holds).filter(|op| op.is_possible()) else {
        return Some(Violation::new(Law::Origin, format!("{key} holds {value}, which nobody set")));
    };
    let end_ns = writer.deadline_ns()?;
    let later = sets.iter().find(|op| op.is_ok() && op.session == writer.session && op.begin_ns > end_ns)?;
    Some(Violation::new(
        Law::Lost,
        format!("{key} holds {value}, and not what {:?} set later", later.actions),
    ))
}

/// The history with this read after all of it.
fn with_last(history: &History, read: &Action) -> History {
    let last = Op::at_rest(&history.ops, vec![read.clone()]);
    let mut with = history.of_key(read.key());
    for op in &mut with.ops {
        op.actions.retain(Action::is_write);
    }
    with.ops.push(last);
    with
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testkit::{add, delete, get, insert, laws, members, ok, op, set, sum};

    fn history() -> History {
        History {
            ops: vec![
                ok(1, 0, 1, vec![insert("s", 1), Action::Append { key: "l".into(), value: 1 }]),
                op(1, 2, 3, Outcome::Unknown, vec![insert("s", 2)]),
                op(1, 4, 5, Outcome::Failed, vec![insert("s", 3)]),
                ok(1, 6, 7, vec![add("c", 5)]),
                op(1, 8, 9, Outcome::Unknown, vec![add("c", 2)]),
                ok(1, 10, 11, vec![set("r", 1)]),
                ok(1, 12, 13, vec![set("r", 2)]),
                ok(2, 12, 13, vec![set("r", 3)]),
                ok(1, 14, 15, vec![set("gone", 1)]),
                ok(1, 16, 17, vec![delete("gone")]),
            ],
        }
    }

    #[test]
    fn lost_doubled_and_invented_writes_are_each_named() {
        let list = |values: &[i64]| Action::List { key: "l".into(), values: values.to_vec() };
        for (law, read) in [
            (Law::Lost, members("s", &[2])),
            (Law::Origin, members("s", &[1, 3])),
            (Law::Origin, members("s", &[1, 9])),
            (Law::Twice, list(&[1, 1])),
            (Law::Lost, list(&[])),
            (Law::CounterBounds, sum("c", 4)),
            (Law::CounterBounds, sum("c", 10)),
            (Law::CounterBounds, sum("c", 2)),
            (Law::Lost, get("r", 1)),
            (Law::Lost, get("r", None)),
            (Law::Origin, get("r", 9)),
        ] {
            let violations = check(&history(), std::slice::from_ref(&read));
            assert_eq!(laws(&violations), [law], "{read:?}: {violations:?}");
        }
    }

    #[test]
    fn contents_that_fit_are_accepted_with_and_without_the_unknown() {
        for reads in [
            vec![members("s", &[1]), sum("c", 5), get("r", 2)],
            vec![members("s", &[1, 2]), sum("c", 7), get("r", 3), get("gone", None)],
        ] {
            assert_eq!(check(&history(), &reads), [], "{reads:?}");
        }
    }
}
