//! What a history of transactions over registers must fulfil: each part of the keys its own, all of them together what
//! holds everywhere.

use super::{Part, is_linearizable};
use crate::checkers::serializable::{self, Demand};
use crate::checkers::{Violation, isolation, lost_update, snapshot_isolation};
use crate::history::{Action, History, Op};
use crate::loads::DCS;

/// Every law that is broken. `prefix` begins the names of all keys; `history` may end with looks at everything at rest.
pub(in crate::loads) fn judge(history: &History, prefix: &str) -> Vec<Violation> {
    let mut violations = Vec::new();
    for dc in DCS {
        let serial = of_part(history, prefix, dc, Part::Serial);
        let mut found = serializable::check(&serial, Demand::StrongSession);
        let current = History { ops: history.ops.iter().filter(|op| is_current(op)).cloned().collect() };
        let current = of_part(&current, prefix, dc, Part::Serial);
        let strict = serializable::check(&current, Demand::Strict);
        found.extend(strict.into_iter().filter(|violation| !found.contains(violation)).collect::<Vec<_>>());
        violations.extend(found);
        violations.extend(snapshot_isolation::check(&of_part(history, prefix, dc, Part::Snapshot)));
        violations.extend(lost_update::check(&of_part(history, prefix, dc, Part::Shared)));
    }
    let whole = isolation::check(history, isolation::Level::ReadAtomic);
    if whole.is_empty() {
        violations.extend(isolation::check(history, isolation::Level::Causal));
    }
    violations.extend(whole);
    violations
}

/// What was asked of a DC about the keys of one part.
pub(in crate::loads) fn of_part(history: &History, prefix: &str, dc: &str, part: Part) -> History {
    let folder = format!("{prefix}/{}/", part.folder(dc));
    let mut asked = history.of_dc(dc);
    for op in &mut asked.ops {
        op.actions.retain(|action| action.key().starts_with(&folder));
    }
    asked.ops.retain(|op| !op.actions.is_empty());
    asked
}

/// Whether the order of time binds it: what it read was still so when it committed, or was current when it began. A
/// transaction that only reads is never validated; its snapshot may be that of a follower.
fn is_current(op: &Op) -> bool {
    let at_rest = op.session > usize::MAX / 2;
    op.actions.iter().any(Action::is_write) || is_linearizable(op.session) || at_rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::Law;
    use crate::checkers::testkit::{get, laws, serial, set};

    /// A session of the first DC whose snapshots may be behind, and one whose are not.
    const STALE: usize = 0;
    const CURRENT: usize = 2;

    fn found(ops: Vec<(usize, &str, Vec<Action>)>) -> Vec<Law> {
        let dcs: Vec<String> = ops.iter().map(|(_, dc, _)| dc.to_string()).collect();
        let mut history = serial(ops.into_iter().map(|(session, _, actions)| (session, actions)).collect());
        for (op, dc) in history.ops.iter_mut().zip(dcs) {
            op.dc = dc;
        }
        laws(&judge(&history, "p"))
    }

    fn skew(x: &str, y: &str) -> Vec<(usize, &'static str, Vec<Action>)> {
        vec![
            (0, "eu-west", vec![get(x, None), get(y, None), set(x, 1)]),
            (1, "eu-west", vec![get(x, None), get(y, None), set(y, 2)]),
        ]
    }

    fn update(key: &str, dcs: [&'static str; 2]) -> Vec<(usize, &'static str, Vec<Action>)> {
        vec![(0, dcs[0], vec![get(key, None), set(key, 1)]), (4, dcs[1], vec![get(key, None), set(key, 2)])]
    }

    #[test]
    fn write_skew_fails_where_transactions_are_serializable_and_passes_under_snapshot_isolation() {
        let of = |part| skew(&format!("p/eu-west/{part}/0/0"), &format!("p/eu-west/{part}/0/1"));
        assert_eq!(found(of("serial")), [Law::G2]);
        assert_eq!(found(of("snapshot")), []);
    }

    #[test]
    fn a_lost_update_fails_in_every_part_within_a_dc_and_passes_between_dcs() {
        for key in ["p/eu-west/serial/0/0", "p/eu-west/snapshot/0/0", "p/shared/0/0"] {
            let laws = found(update(key, ["eu-west", "eu-west"]));
            assert!(laws.contains(&Law::LostUpdate), "{key}: {laws:?}");
        }
        assert_eq!(found(update("p/shared/0/0", ["eu-west", "us-east"])), []);
    }

    #[test]
    fn half_of_a_transaction_fails_in_whatever_dc_and_parts_it_is_seen() {
        let (x, y) = ("p/eu-west/serial/0/0", "p/shared/0/1");
        let txn = |dc| (0, dc, vec![set(x, 1), set(y, 1)]);
        let half = vec![txn("eu-west"), (9, "us-east", vec![get(x, None), get(y, 1)])];
        assert_eq!(found(half), [Law::ReadAtomic]);
        let chain = vec![
            txn("eu-west"),
            (3, "us-east", vec![get(x, 1), set("p/us-east/serial/0/0", 2)]),
            (9, "ap-south", vec![get("p/us-east/serial/0/0", 2), get(y, None)]),
        ];
        assert_eq!(found(chain), [Law::Causal]);
    }

    #[test]
    fn an_old_snapshot_fails_only_where_it_had_to_be_current() {
        let key = "p/eu-west/serial/0/0";
        let old =
            |session| vec![(1, "eu-west", vec![set(key, 1)]), (session, "eu-west", vec![get(key, None)])];
        assert_eq!(found(old(STALE)), []);
        assert_eq!(found(old(CURRENT)), [Law::RealTime]);
    }

    #[test]
    fn what_a_refused_or_unfinished_transaction_wrote_fails_wherever_it_is_read() {
        let key = "p/eu-west/snapshot/0/0";
        let unfinished =
            vec![(0, "eu-west", vec![set(key, 1), set(key, 2)]), (9, "us-east", vec![get(key, 1)])];
        assert_eq!(found(unfinished), [Law::G1b]);
        let mut refused = serial(vec![(0, vec![set(key, 1)]), (1, vec![get(key, 1)])]);
        refused.ops[0].outcome = crate::history::Outcome::Failed;
        assert_eq!(laws(&judge(&refused, "p")), [Law::G1a]);
    }
}
