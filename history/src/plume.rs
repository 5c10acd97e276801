//! Histories of registers as text, as the checkers of weak isolation read them: Plume, PolySI, and AWDIT (`--format plume`),
//! which converts to the binary format of dbcop.
//!
//! One line for each read and write, `r(key,value,session,txn)`, all of them whole numbers; the value 0 is the initial one,
//! which an absent register is read as; the txn -1 is one that did not take place. A txn of unknown outcome is written as
//! a session of its own, after which nothing comes, if some read saw it, and left out otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::{Action, History, Outcome, narrow};

/// Sets and reads of registers. Keys, and values per key, are numbered as they come.
pub fn registers(history: &History) -> String {
    let history = narrow(history, |action| matches!(action, Action::Set { .. } | Action::Get { .. }));
    let mut seen = BTreeSet::new();
    for action in history.ops.iter().filter(|op| op.is_ok()).flat_map(|op| &op.actions) {
        if let Action::Get { key, value: Some(value) } = action {
            seen.insert((key.as_str(), *value));
        }
    }
    let mut numbers = Numbers::default();
    let mut apart = history.ops.iter().map(|op| op.session + 1).max().unwrap_or(0);
    let mut text = String::new();
    for (txn, op) in history.ops.iter().enumerate() {
        let observed = |action: &Action| match action {
            Action::Set { key, value } => seen.contains(&(key.as_str(), *value)),
            _ => false,
        };
        let (session, number) = match op.outcome {
            Outcome::Ok => (op.session, txn.to_string()),
            Outcome::Failed => (op.session, "-1".into()),
            Outcome::Unknown if op.actions.iter().any(observed) => {
                apart += 1;
                (apart - 1, txn.to_string())
            }
            Outcome::Unknown => continue,
        };
        for action in &op.actions {
            let (kind, value) = match action {
                Action::Set { value, .. } => ("w", Some(*value)),
                Action::Get { value, .. } if op.is_ok() => ("r", *value),
                _ => continue,
            };
            let (key, value) = numbers.of(action.key(), value);
            writeln!(text, "{kind}({key},{value},{session},{number})").expect("text grows");
        }
    }
    text
}

#[derive(Default)]
struct Numbers<'h> {
    keys: BTreeMap<&'h str, usize>,
    values: BTreeMap<(usize, i64), usize>,
}

impl<'h> Numbers<'h> {
    fn of(&mut self, key: &'h str, value: Option<i64>) -> (usize, usize) {
        let next = self.keys.len();
        let key = *self.keys.entry(key).or_insert(next);
        let next = self.values.len() + 1;
        (key, value.map_or(0, |value| *self.values.entry((key, value)).or_insert(next)))
    }
}
