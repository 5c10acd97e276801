//! No update is lost: of two transactions that read the same value of a register and set it, one is refused.
//!
//! P4 of Berenson, Bernstein, Gray, Melton, O'Neil and O'Neil, "A critique of ANSI SQL isolation levels" (SIGMOD 1995),
//! seen from outside: values are unique, so that two committed transactions which first read the same value of a key, and
//! then set that key, have updated from one version. To be used on what was asked of one DC; between DCs both updates
//! are kept, and one wins. Unlike [`super::serializable`] it may be used on keys that other DCs write too: a value that
//! was read and replaced here does not come back, whatever arrives from elsewhere.
//!
//! What an operation of unknown outcome has read says nothing. Keys that are ever deleted are left out: absence then has
//! more than one version.

use std::collections::{BTreeMap, BTreeSet};

use super::{Law, Violation};
use crate::{Action, History, Op};

/// Every update of a version that another one had updated.
pub fn check(history: &History) -> Vec<Violation> {
    let actions = history.ops.iter().flat_map(|op| &op.actions);
    let deleted: BTreeSet<&str> =
        actions.filter(|action| matches!(action, Action::Delete { .. })).map(Action::key).collect();
    let mut updates = BTreeMap::<(&str, Option<i64>), &Op>::new();
    let mut violations = Vec::new();
    for op in history.ops.iter().filter(|op| op.is_ok()) {
        for (key, from) in updated(op).into_iter().filter(|(key, _)| !deleted.contains(key)) {
            if let Some(other) = updates.insert((key, from), op) {
                let told =
                    |op: &Op| format!("[session {} at {}/{} {:?}]", op.session, op.dc, op.node, op.actions);
                let story =
                    format!("{key} was read as {from:?} and set twice: {} and {}", told(other), told(op));
                violations.push(Violation::new(Law::LostUpdate, story));
            }
        }
    }
    violations
}

/// The registers that an operation read before it set them, and what it read.
fn updated(op: &Op) -> Vec<(&str, Option<i64>)> {
    let mut firsts = BTreeMap::new();
    let mut updated = BTreeMap::new();
    for action in &op.actions {
        match action {
            Action::Get { key, value } => {
                firsts.entry(key.as_str()).or_insert(Some(*value));
            }
            Action::Set { key, .. } => {
                if let Some(from) = firsts.entry(key.as_str()).or_insert(None) {
                    updated.insert(key.as_str(), *from);
                }
            }
            _ => {}
        }
    }
    updated.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use crate::checkers::testkit::{delete, get, laws, op, serial, set};

    #[test]
    fn two_updates_of_one_version_are_named_and_a_chain_of_updates_is_not() {
        for from in [None, Some(1)] {
            let both = vec![
                (0, vec![set("x", 1)]),
                (1, vec![get("x", from), set("x", 2)]),
                (2, vec![get("x", from), get("y", None), set("x", 3)]),
            ];
            assert_eq!(laws(&check(&serial(both))), [Law::LostUpdate], "{from:?}");
        }
        let chain = vec![
            (1, vec![get("x", None), set("x", 1), set("x", 2)]),
            (2, vec![get("x", 2), set("x", 3)]),
            (1, vec![get("x", 3), set("x", 4)]),
        ];
        assert_eq!(check(&serial(chain)), []);
    }

    #[test]
    fn blind_writes_looks_and_what_did_not_surely_commit_update_nothing() {
        let free = vec![
            (1, vec![set("x", 1)]),
            (2, vec![get("x", 1), set("x", 2)]),
            (3, vec![get("x", 1), set("y", 2)]),
            (3, vec![set("x", 3), get("x", 3), set("x", 4)]),
            (4, vec![get("gone", None), set("gone", 1)]),
            (5, vec![get("gone", None), set("gone", 2)]),
            (5, vec![delete("gone")]),
        ];
        let mut history = serial(free);
        for outcome in [Outcome::Failed, Outcome::Unknown] {
            history.ops.push(op(6, 90, 95, outcome, vec![get("x", 1), set("x", 9)]));
        }
        assert_eq!(check(&history), []);
    }
}
