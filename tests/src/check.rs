//! Checkers: given what clients were told and what nodes hold, they name everything that should not be.
//!
//! They are pure, and each is tested on histories that must fail: a checker that never complains proves nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::client::Outcome;
use crate::workload::{Change, ELEMENTS, HITS, History, PAIRS, PRESENT, possible_last};

/// The value of each key; an absent key is not in it.
pub type Contents = BTreeMap<String, Value>;

/// What one node holds at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The node, as in `eu-west/1`.
    pub node: String,
    /// Highest seq applied, by origin.
    pub vector: Value,
    /// Digest of its state.
    pub digest: String,
    /// What it reads.
    pub contents: Contents,
}

/// Every way in which `contents` contradicts what clients were told. Empty when there is none.
///
/// Acknowledged elements are there, and none that nobody tried to add or that was refused, and those of pairs in both
/// sets; the counter is at least the sum of the acknowledged increments and at most that and the unknown ones; each
/// register holds its last acknowledged number, and each element of the remove-wins set is as its writer left it, or as
/// an operation of unknown outcome would leave it.
pub fn history(history: &History, contents: &Contents) -> Vec<String> {
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
        violations.push("half of a transaction is there: the two sets of pairs differ".into());
    }
    violations.extend(increments(history, contents));
    violations.extend(registers(history, contents));
    violations.extend(presences(history, contents));
    violations
}

fn registers(history: &History, contents: &Contents) -> Vec<String> {
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
        (!possible.contains(found)).then(|| format!("register {key} holds {found}, not one of {possible:?}"))
    };
    keys.into_iter().filter_map(check).collect()
}

fn presences(history: &History, contents: &Contents) -> Vec<String> {
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
        (!possible.contains(&present))
            .then(|| format!("{element} in {PRESENT}: {present}, not as its writer left it"))
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
) -> Vec<String> {
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
    let lost = acked.difference(&found).map(|e| format!("element {e} of {key} was acknowledged and is lost"));
    let strange =
        found.difference(&possible).map(|e| format!("element {e} of {key} is there and was never added"));
    lost.chain(strange).collect()
}

fn increments(history: &History, contents: &Contents) -> Option<String> {
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
    (!fine).then(|| format!("counter {HITS} holds {found}: {acked} acknowledged, {unknown} unknown"))
}

/// Every way in which nodes that have applied the same txns differ (I6 within a DC, I9 between DCs), and every node
/// that has not applied the same txns as the first. Empty when all agree.
pub fn agreement(views: &[View]) -> Vec<String> {
    let Some((first, others)) = views.split_first() else { return vec!["there are no nodes".into()] };
    let mut violations = Vec::new();
    for other in others {
        let pair = format!("{} and {}", first.node, other.node);
        if other.vector != first.vector {
            violations
                .push(format!("{pair} have applied different txns: {} and {}", first.vector, other.vector));
            continue;
        }
        if other.digest != first.digest {
            violations.push(format!("{pair} have different digests at {}", first.vector));
        }
        let keys: BTreeSet<&String> = first.contents.keys().chain(other.contents.keys()).collect();
        for key in keys {
            let (one, two) = (first.contents.get(key), other.contents.get(key));
            if one != two {
                violations.push(format!("{pair} read {key} differently: {one:?} and {two:?}"));
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
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
            assert_eq!(history(&sample(), &contents(&elements, hits, last)), Vec::<String>::new());
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
            let violations = history(&sample(), &contents(&elements, hits, last));
            assert_eq!(violations.len(), 1, "{violations:?}");
            assert!(violations[0].contains(complaint), "{violations:?}");
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
            let violations = history(&sample(), &contents);
            assert_eq!(violations.len(), complaints, "{violations:?}");
        }
        // The element, both halves of the pair, the increment, the number, the presence.
        assert_eq!(history(&sample(), &Contents::new()).len(), 6);
    }

    #[test]
    fn nodes_that_differ_at_equal_vectors_are_noticed() {
        let view = |node: &str, seq: u64, digest: &str, hits: i64| View {
            node: node.into(),
            vector: json!({"eu-west": seq}),
            digest: digest.into(),
            contents: contents(&["a"], hits, 3),
        };
        let one = view("eu-west/1", 7, "d", 1);
        assert_eq!(agreement(&[one.clone(), view("us-east/1", 7, "d", 1)]), Vec::<String>::new());
        for (other, complaint) in [
            (view("us-east/1", 6, "d", 1), "different txns"),
            (view("us-east/1", 7, "e", 1), "different digests"),
            (view("us-east/1", 7, "d", 2), "read load/hits differently"),
        ] {
            let violations = agreement(&[one.clone(), other]);
            assert!(violations.len() == 1 && violations[0].contains(complaint), "{violations:?}");
        }
        assert_eq!(agreement(&[]).len(), 1);
    }
}
