//! What nodes hold when everything has come to rest, as reads that follow a history.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::kind::{Kind, seen};
use crate::{Action, History, Op, Outcome};

/// What one node holds when everything has come to rest.
#[derive(Clone, Debug)]
pub struct Rest {
    /// The node, as in `eu-west/1`.
    pub node: String,
    /// The value of each key; an absent key is not in it.
    pub contents: BTreeMap<String, Value>,
}

/// The reads at rest of one node.
fn reads(kinds: &BTreeMap<String, Kind>, rest: &Rest) -> Vec<Action> {
    kinds.iter().map(|(key, kind)| seen(key, *kind, rest.contents.get(key))).collect()
}

/// The reads at rest, each different set of them once: at most one, unless nodes differ.
pub fn different(kinds: &BTreeMap<String, Kind>, rest: &[Rest]) -> Vec<Vec<Action>> {
    let mut different: Vec<Vec<Action>> = Vec::new();
    for rest in rest {
        let reads = reads(kinds, rest);
        if !different.contains(&reads) {
            different.push(reads);
        }
    }
    different
}

/// The history, and after it a look at everything at one node of each DC, as one operation of a session of its own.
pub fn with_rest(history: &History, kinds: &BTreeMap<String, Kind>, rest: &[Rest]) -> History {
    let mut with = history.clone();
    let last_ns = history.ops.iter().map(|op| op.end_ns).max().unwrap_or(0);
    let mut dcs = BTreeSet::new();
    for (i, rest) in rest.iter().enumerate() {
        let Some((dc, node)) = rest.node.split_once('/') else { continue };
        if dcs.insert(dc.to_string()) {
            with.ops.push(Op {
                session: usize::MAX - i,
                dc: dc.into(),
                node: node.parse().unwrap_or_default(),
                begin_ns: last_ns + 1,
                end_ns: last_ns + 2,
                outcome: Outcome::Ok,
                actions: reads(kinds, rest),
            });
        }
    }
    with
}
