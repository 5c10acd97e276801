//! stable <= acked <= every member's vector, and neither falls (I5).
//!
//! Causal stability: what is stable was seen by all, so that nothing concurrent with it can still arrive (Baquero, Almeida and
//! Shoker, "Making operation-based CRDTs operation-based", DAIS 2014); metadata is dropped on its word, so that a stability that
//! is claimed too early loses data for ever. Checked on what nodes say while they run: within a DC along the indexes of its log,
//! where a restart is no fall, and at the end against what every member has.

use std::collections::BTreeMap;

use super::observed::{Observed, Seqs, covers};
use super::{Law, Violation};

/// Every way in which what was `seen` breaks I5; `rest` is what all nodes had applied once the cluster was at rest.
pub fn check(seen: &[Observed], rest: &[(String, Seqs)]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for now in seen {
        if !covers(&now.acked, &now.stable) || !covers(&now.vector, &now.acked) {
            violations.push(told(format!("{} is out of order: {now:?}", now.node)));
        }
        for (node, vector) in rest.iter().filter(|(_, vector)| !covers(vector, &now.acked)) {
            violations
                .push(told(format!("{} took {:?} for acked, {node} has {vector:?}", now.node, now.acked)));
        }
    }
    let mut by_dc: BTreeMap<&str, Vec<&Observed>> = BTreeMap::new();
    for now in seen {
        by_dc.entry(&now.dc).or_default().push(now);
    }
    for of_dc in by_dc.values_mut() {
        of_dc.sort_by_key(|now| now.index);
        for pair in of_dc.windows(2) {
            let (before, after) = (pair[0], pair[1]);
            let fell = !covers(&after.stable, &before.stable)
                || !covers(&after.acked, &before.acked)
                || !covers(&after.vector, &before.vector);
            if fell {
                violations.push(told(format!("something fell from {before:?} to {after:?}")));
            }
        }
    }
    violations
}

fn told(story: String) -> Violation {
    Violation::new(Law::Stability, story)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seqs(own: u64) -> Seqs {
        if own == 0 { Seqs::new() } else { [("a".to_string(), own)].into() }
    }

    fn at(index: u64, stable: u64, acked: u64, vector: u64) -> Observed {
        let (stable, acked, vector) = (seqs(stable), seqs(acked), seqs(vector));
        Observed { dc: "a".into(), node: "a/1".into(), index, stable, acked, vector, digest: String::new() }
    }

    fn rest(has: u64) -> Vec<(String, Seqs)> {
        vec![("b/1".into(), seqs(has))]
    }

    #[test]
    fn stable_above_acked_and_acked_above_applied_are_told() {
        assert_eq!(check(&[at(1, 3, 2, 4)], &rest(9)).len(), 1);
        assert_eq!(check(&[at(1, 1, 5, 4)], &rest(9)).len(), 1);
    }

    #[test]
    fn what_was_acked_and_is_not_with_a_member_in_the_end_is_told() {
        assert_eq!(check(&[at(1, 1, 3, 4)], &rest(2)).len(), 1);
    }

    #[test]
    fn a_fall_along_the_log_is_told_whoever_shows_it() {
        assert_eq!(check(&[at(7, 1, 2, 4), at(5, 2, 2, 4)], &rest(9)).len(), 1);
        assert_eq!(check(&[at(7, 1, 1, 4), at(5, 1, 2, 4)], &rest(9)).len(), 1);
    }

    #[test]
    fn a_restarted_node_that_shows_an_earlier_index_again_is_no_fall() {
        assert_eq!(
            check(&[at(5, 1, 2, 3), at(7, 2, 3, 4), at(5, 1, 2, 3), at(8, 2, 3, 4)], &rest(9)),
            vec![]
        );
    }
}
