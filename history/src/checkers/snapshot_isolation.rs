//! Snapshot isolation of transactions over lists and registers.
//!
//! After Adya, "Weak consistency" (PhD thesis, MIT 1999) and Cerone and Gotsman, "Analysing snapshot isolation" (PODC 2016): a
//! history is one of snapshot isolation exactly if its dependencies have no cycle in which no two rw edges follow each
//! other. So write skew passes, whose two rw edges do; **G0**, **G1c**, **G-single** and a **lost update** do not, nor does
//! **G-nonadjacent**, a cycle of several rw edges with something that was written or read between any two. Sessions that
//! carry their token must fulfil it with the order of each session as well.
//!
//! Dependencies are inferred as for serializability ([`super::serializable`]), of which this file is the weaker demand. To
//! be used on what was asked of one DC about keys that only its transactions under snapshot isolation write.

use super::graph::Why;
use super::serializable::Inference;
use super::{Law, Violation};
use crate::History;

/// Every anomaly found; none if transactions may have run on snapshots, of which the first to commit won.
pub fn check(history: &History) -> Vec<Violation> {
    let mut inference = Inference::of(history, false);
    inference.session_order();
    let written = Why::WW.or(Why::WR);
    let found = inference.name_first(&[
        (Law::G0, Why::WW, Why::WW),
        (Law::G1c, Why::WR, written),
        (Law::GSingle, Why::RW, written),
    ]);
    if !found {
        for (law, others) in [(Law::GNonadjacent, written), (Law::RealTime, written.or(Why::SESSION))] {
            let cycles = inference.graph.cycles_with_apart(Why::RW, others);
            inference.name(law, &cycles);
            if !cycles.is_empty() {
                break;
            }
        }
    }
    inference.violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Action;
    use crate::checkers::testkit::{get, laws, serial, set};

    fn found(txns: Vec<Vec<Action>>) -> Vec<Law> {
        laws(&check(&serial(txns.into_iter().enumerate().collect())))
    }

    /// Two pairs of transactions, each pair misses what the other wrote: four edges, of which the rw ones are apart.
    fn two_observers() -> Vec<Vec<Action>> {
        vec![
            vec![set("x", 1)],
            vec![set("y", 1)],
            vec![get("x", 1), get("y", None)],
            vec![get("y", 1), get("x", None)],
        ]
    }

    #[test]
    fn each_anomaly_that_snapshots_forbid_is_named() {
        let cases = [
            // Read skew.
            (Law::GSingle, vec![vec![set("x", 1), set("y", 1)], vec![get("x", None), get("y", 1)]]),
            (Law::G1c, vec![vec![set("x", 1), get("y", 1)], vec![set("y", 1), get("x", 1)]]),
            (Law::G1b, vec![vec![set("x", 1), set("x", 2)], vec![get("x", 1)]]),
            (Law::Internal, vec![vec![get("x", None), set("y", 1), get("y", None)]]),
            // Long fork: two who look see two writes in different orders.
            (Law::GNonadjacent, two_observers()),
            (
                Law::LostUpdate,
                vec![vec![set("x", 1)], vec![get("x", 1), set("x", 2)], vec![get("x", 1), set("x", 3)]],
            ),
        ];
        for (law, txns) in cases {
            assert_eq!(found(txns.clone()), [law], "{txns:?}");
        }
    }

    #[test]
    fn write_skew_and_a_snapshot_that_is_behind_pass() {
        let skew = vec![
            vec![get("x", None), get("y", None), set("x", 1)],
            vec![get("x", None), get("y", None), set("y", 1)],
        ];
        assert_eq!(found(skew), []);
        // The anomaly of Fekete, O'Neil and O'Neil: who only looks makes it one, and its rw edges are neighbours still.
        let looked_at = vec![
            vec![get("x", None), get("y", None), set("x", 1)],
            vec![get("y", None), set("y", 1)],
            vec![get("x", None), get("y", 1)],
        ];
        assert_eq!(found(looked_at), []);
        assert_eq!(found(vec![vec![set("x", 1)], vec![get("x", None)]]), []);
    }

    #[test]
    fn a_session_sees_what_it_has_done() {
        let forgotten = serial(vec![(1, vec![set("x", 1)]), (1, vec![get("x", None)])]);
        assert_eq!(laws(&check(&forgotten)), [Law::RealTime]);
        let txns = vec![(1, vec![set("x", 1)]), (1, vec![get("y", None)]), (2, vec![set("y", 1)])];
        let others = (2, vec![get("x", None)]);
        assert_eq!(
            laws(&check(&serial([txns, vec![others]].concat()))),
            [Law::RealTime],
            "long fork of sessions"
        );
    }
}
