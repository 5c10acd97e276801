//! Apply is a function of (state, entry): all nodes of a DC that have applied the same entries have the same state (I6).
//!
//! Deterministic state machines over one agreed log (Schneider, "Implementing fault-tolerant services using the state machine
//! approach", ACM Computing Surveys 1990). Checked on what nodes say while they run: wherever two of a DC, or one before and
//! after a restart, were seen at the same index, all that they said must be equal.

use std::collections::BTreeMap;

use super::observed::Observed;
use super::{Law, Violation};

/// Every pair of nodes of a DC that differ at the same index, and how many pairs were compared.
pub fn check(seen: &[Observed]) -> (Vec<Violation>, usize) {
    let mut first: BTreeMap<(&str, u64), &Observed> = BTreeMap::new();
    let (mut violations, mut compared) = (Vec::new(), 0);
    for now in seen {
        let known = *first.entry((&now.dc, now.index)).or_insert(now);
        if std::ptr::eq(known, now) {
            continue;
        }
        compared += 1;
        let same = (&known.vector, &known.acked, &known.stable, &known.digest)
            == (&now.vector, &now.acked, &now.stable, &now.digest);
        if !same {
            let story =
                format!("{} and {} differ at index {}: {known:?}, {now:?}", known.node, now.node, now.index);
            violations.push(Violation::new(Law::Determinism, story));
        }
    }
    (violations, compared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(dc: &str, node: u64, index: u64, digest: &str) -> Observed {
        let (dc, node) = (dc.to_string(), format!("{dc}/{node}"));
        Observed { dc, node, index, digest: digest.into(), ..Observed::default() }
    }

    #[test]
    fn nodes_that_differ_at_the_same_index_are_told() {
        let seen = [at("a", 1, 5, "x"), at("a", 2, 6, "y"), at("a", 3, 5, "z")];
        let (violations, compared) = check(&seen);
        assert_eq!((violations.len(), compared), (1, 1));
        assert!(violations[0].story.contains("a/1 and a/3"), "{violations:?}");
    }

    #[test]
    fn a_node_that_replays_its_log_to_something_else_is_told() {
        assert_eq!(check(&[at("a", 1, 5, "x"), at("a", 1, 5, "y")]).0.len(), 1);
    }

    #[test]
    fn what_lies_at_other_indexes_or_in_other_dcs_may_differ() {
        let seen = [at("a", 1, 5, "x"), at("b", 1, 5, "y"), at("a", 2, 6, "z"), at("a", 3, 6, "z")];
        assert_eq!(check(&seen), (vec![], 1));
    }
}
