//! Nodes that have applied the same txns hold the same.
//!
//! Strong eventual consistency (Shapiro, Preguiça, Baquero and Zawirski, "Conflict-free replicated data types", SSS 2011), and in this
//! project's own terms: within a DC equal logs give equal state (I6), and two DCs with equal vectors read equal contents and
//! have equal digests (I9). Checked at rest, when all vectors must have become equal.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Law, Violation};

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

/// Every way in which nodes that have applied the same txns differ (I6 within a DC, I9 between DCs), and every node
/// that has not applied the same txns as the first. Empty when all agree.
pub fn check(views: &[View]) -> Vec<Violation> {
    let Some((first, others)) = views.split_first() else { return vec![told("there are no nodes".into())] };
    let mut violations = Vec::new();
    for other in others {
        let pair = format!("{} and {}", first.node, other.node);
        if other.vector != first.vector {
            let vectors = format!("{} and {}", first.vector, other.vector);
            violations.push(told(format!("{pair} have applied different txns: {vectors}")));
            continue;
        }
        if other.digest != first.digest {
            violations.push(told(format!("{pair} have different digests at {}", first.vector)));
        }
        let keys: BTreeSet<&String> = first.contents.keys().chain(other.contents.keys()).collect();
        for key in keys {
            let (one, two) = (first.contents.get(key), other.contents.get(key));
            if one != two {
                violations.push(told(format!("{pair} read {key} differently: {one:?} and {two:?}")));
            }
        }
    }
    violations
}

fn told(story: String) -> Violation {
    Violation::new(Law::Convergence, story)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_that_differ_at_equal_vectors_are_noticed() {
        let view = |node: &str, seq: u64, digest: &str, hits: i64| View {
            node: node.into(),
            vector: json!({"eu-west": seq}),
            digest: digest.into(),
            contents: BTreeMap::from([("hits".into(), json!(hits))]),
        };
        let one = view("eu-west/1", 7, "d", 1);
        assert_eq!(check(&[one.clone(), view("us-east/1", 7, "d", 1)]), []);
        for (other, complaint) in [
            (view("us-east/1", 6, "d", 1), "different txns"),
            (view("us-east/1", 7, "e", 1), "different digests"),
            (view("us-east/1", 7, "d", 2), "read hits differently"),
        ] {
            let violations = check(&[one.clone(), other]);
            assert!(violations.len() == 1 && violations[0].story.contains(complaint), "{violations:?}");
        }
        assert_eq!(check(&[]).len(), 1);
    }
}
