//! What the bounded writers of [`crate::workload`] were told holds: nothing acknowledged is lost, nothing refused or never
//! asked is there, nothing is there twice, and txns are there as a whole.
//!
//! The final-state half of Jepsen's set and counter tests (Kingsbury), extended to registers and remove-wins elements of one
//! writer each, whose last state is known up to operations of unknown outcome.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::checkers::convergence::Contents;
use crate::checkers::{Law, Violation};
use crate::client::Outcome;
use crate::workload::{Change, ELEMENTS, HITS, History, PAIRS, PRESENT, possible_last};

/// Every way in which `contents` contradicts what clients were told. Empty when there is none.
///
/// Acknowledged elements are there, and none that nobody tried to add or that was refused, and those of pairs in both
/// sets; the counter is at least the sum of the acknowledged increments and at most that and the unknown ones; each
/// register holds its last acknowledged number, and each element of the remove-wins set is as its writer left it, or as
/// an operation of unknown outcome would leave it.
pub fn check(history: &History, contents: &Contents) -> Vec<Violation> {
    let element = |change: &Change| match change {
        Change::Element(element) => Some(element.clone()),
        _ => None,
    };
    let pair = |change: &Change| match change {
        Change::Pair(element) => Some(element.clone()),
        _ => None,
    };
    let mut violations = elements(history, contents, ELEMENTS, element);
    for key in PAIRS {
        violations.extend(elements(history, contents, key, pair));
    }
    if contents.get(PAIRS[0]) != contents.get(PAIRS[1]) {
        let story = "half of a transaction is there: the two sets of pairs differ";
        violations.push(Violation::new(Law::ReadAtomic, story));
    }
    violations.extend(increments(history, contents));
    violations.extend(registers(history, contents));
    violations.extend(presences(history, contents));
    violations
}

fn registers(history: &History, contents: &Contents) -> Vec<Violation> {
    let keys: BTreeSet<&String> = history
        .operations
        .iter()
        .filter_map(|op| match &op.change {
            Change::Number(key, _) => Some(key),
            _ => None,
        })
        .collect();
    let check = |key: &String| {
        let possible = possible_last(history, Value::Null, |change| match change {
            Change::Number(k, number) if k == key => Some((*number).into()),
            _ => None,
        });
        let found = contents.get(key).unwrap_or(&Value::Null);
        let story = || format!("register {key} holds {found}, not one of {possible:?}");
        (!possible.contains(found)).then(|| Violation::new(Law::Lost, story()))
    };
    keys.into_iter().filter_map(check).collect()
}

fn presences(history: &History, contents: &Contents) -> Vec<Violation> {
    let found = texts(contents, PRESENT);
    let mut elements: BTreeSet<&str> = found.clone();
    elements.extend(history.operations.iter().filter_map(|op| match &op.change {
        Change::Presence(element, _) => Some(element.as_str()),
        _ => None,
    }));
    let check = |element: &str| {
        let possible = possible_last(history, false, |change| match change {
            Change::Presence(e, present) if e == element => Some(*present),
            _ => None,
        });
        let present = found.contains(element);
        let story = || format!("{element} in {PRESENT}: {present}, not as its writer left it");
        (!possible.contains(&present)).then(|| Violation::new(Law::Lost, story()))
    };
    elements.into_iter().filter_map(check).collect()
}

/// The texts in a set.
fn texts<'c>(contents: &'c Contents, key: &str) -> BTreeSet<&'c str> {
    contents.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn elements(
    history: &History,
    contents: &Contents,
    key: &str,
    element: impl Fn(&Change) -> Option<String>,
) -> Vec<Violation> {
    let found: BTreeSet<String> = texts(contents, key).into_iter().map(str::to_string).collect();
    let (mut acked, mut possible) = (BTreeSet::new(), BTreeSet::new());
    for op in &history.operations {
        let Some(element) = element(&op.change) else { continue };
        if !matches!(op.outcome, Outcome::NotDone(_)) {
            possible.insert(element.clone());
        }
        if op.outcome == Outcome::Acked {
            acked.insert(element);
        }
    }
    let lost = acked
        .difference(&found)
        .map(|e| Violation::new(Law::Lost, format!("element {e} of {key} was acknowledged and is lost")));
    let strange = found
        .difference(&possible)
        .map(|e| Violation::new(Law::Origin, format!("element {e} of {key} is there and was never added")));
    lost.chain(strange).collect()
}

fn increments(history: &History, contents: &Contents) -> Option<Violation> {
    let (mut acked, mut unknown) = (0, 0);
    for op in &history.operations {
        if let Change::Increment(by) = op.change {
            match op.outcome {
                Outcome::Acked => acked += by,
                Outcome::Unknown(_) => unknown += by,
                Outcome::NotDone(_) => {}
            }
        }
    }
    let found = contents.get(HITS).and_then(Value::as_i64).unwrap_or(0);
    let fine = (acked..=acked + unknown).contains(&found);
    let story = || format!("counter {HITS} holds {found}: {acked} acknowledged, {unknown} unknown");
    (!fine).then(|| Violation::new(Law::CounterBounds, story()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;
    use crate::workload::Operation;

    fn told(changes: &[(Change, Outcome)]) -> History {
        let operations = changes.iter().enumerate().map(|(i, (change, outcome))| Operation {
            dc: "eu-west".into(),
            id: i.to_string(),
            change: change.clone(),
            outcome: outcome.clone(),
            attempts: 1,
            ended: Instant::now(),
            took: Duration::ZERO,
        });
        History { operations: operations.collect() }
    }

    fn sample() -> History {
        let unknown = || Outcome::Unknown("lost".into());
        let number = |n| Change::Number("load/last/w".into(), n);
        told(&[
            (Change::Element("a".into()), Outcome::Acked),
            (Change::Element("b".into()), unknown()),
            (Change::Element("c".into()), Outcome::NotDone("no_leader".into())),
            (Change::Increment(1), Outcome::Acked),
            (Change::Increment(1), unknown()),
            (number(1), Outcome::Acked),
            (number(2), unknown()),
            (number(3), Outcome::Acked),
            (Change::Presence("p".into(), true), Outcome::Acked),
            (Change::Presence("q".into(), true), Outcome::Acked),
            (Change::Presence("q".into(), false), Outcome::Acked),
            (Change::Pair("ab".into()), Outcome::Acked),
        ])
    }

    fn contents(elements: &[&str], hits: i64, last: i64) -> Contents {
        BTreeMap::from([
            (ELEMENTS.into(), json!(elements)),
            (HITS.into(), json!(hits)),
            ("load/last/w".into(), json!(last)),
            (PRESENT.into(), json!(["p"])),
            (PAIRS[0].into(), json!(["ab"])),
            (PAIRS[1].into(), json!(["ab"])),
        ])
    }

    #[test]
    fn contents_that_fit_the_history_are_accepted_with_and_without_the_unknown() {
        for (elements, hits, last) in [(vec!["a"], 1, 3), (vec!["a", "b"], 2, 2)] {
            assert_eq!(check(&sample(), &contents(&elements, hits, last)), []);
        }
    }

    #[test]
    fn lost_doubled_and_invented_writes_are_each_noticed() {
        for (elements, hits, last, complaint) in [
            (vec![], 1, 3, "element a of load/elements was acknowledged and is lost"),
            (vec!["a", "c"], 1, 3, "element c of load/elements is there"),
            (vec!["a", "x"], 1, 3, "element x of load/elements is there"),
            (vec!["a"], 0, 3, "holds 0: 1 acknowledged, 1 unknown"),
            (vec!["a"], 3, 3, "holds 3: 1 acknowledged, 1 unknown"),
            (vec!["a"], 1, 1, "register load/last/w holds 1"),
            (vec!["a"], 1, 4, "register load/last/w holds 4"),
        ] {
            let violations = check(&sample(), &contents(&elements, hits, last));
            assert_eq!(violations.len(), 1, "{violations:?}");
            assert!(violations[0].story.contains(complaint), "{violations:?}");
        }
        for (key, value, complaints) in [
            (PRESENT, json!([]), 1),
            (PRESENT, json!(["p", "q"]), 1),
            (PRESENT, json!(["p", "stranger"]), 1),
            (PAIRS[1], json!([]), 2),
            (PAIRS[0], json!(["ab", "cd"]), 2),
        ] {
            let mut contents = contents(&["a"], 1, 3);
            contents.insert(key.into(), value);
            let violations = check(&sample(), &contents);
            assert_eq!(violations.len(), complaints, "{violations:?}");
        }
        // The element, both halves of the pair, the increment, the number, the presence.
        assert_eq!(check(&sample(), &Contents::new()).len(), 6);
    }
}
