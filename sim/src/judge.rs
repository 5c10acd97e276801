//! Which checkers the history of a run must pass.
//!
//! They know nothing of the ledger that is kept while the run goes on, nor it of them: what one of the two does not
//! notice, the other may.

use meridian_history::History;
use meridian_history::checkers::linearizable::{self, Register, Verdict};
use meridian_history::checkers::{Violation, counters, exactly_once, isolation, sessions, set_full};
use meridian_history::kind::{Kind, kinds};
use meridian_history::rest::{Rest, different, with_rest};

use crate::ledger::LINEAR;

/// Every way in which what clients were told, and what all nodes hold at rest, break a law.
pub(crate) fn judge(history: &History, rest: &[Rest]) -> Vec<Violation> {
    let kinds = kinds(history);
    let rested = with_rest(history, &kinds, rest);
    let mut violations = sessions::check(history);
    violations.extend(isolation::check(history, isolation::Level::Causal));
    for at_rest in different(&kinds, rest) {
        violations.extend(exactly_once::check(history, &at_rest));
    }
    for (key, kind) in &kinds {
        match kind {
            Kind::Set => {
                violations.extend(set_full::check(&rested, key, set_full::Demand::Eventual).violations);
            }
            Kind::Counter => violations.extend(counters::check(&rested, key, counters::Demand::Eventual)),
            Kind::Register if key.starts_with(LINEAR) => {
                // What is not decided within the checker's bound counts neither way.
                if let Verdict::Violated(violation) = linearizable::check::<Register>(history, key) {
                    violations.push(violation);
                }
            }
            Kind::Register | Kind::List => {}
        }
    }
    violations.sort_by_key(ToString::to_string);
    violations
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use meridian_history::Action;
    use meridian_history::checkers::Law;
    use meridian_history::kind::seen;

    use super::*;
    use crate::ledger::SETS;
    use crate::{Options, run};

    /// The history of a short run without faults.
    fn history() -> History {
        let mut options = Options::default();
        (options.dcs, options.nodes) = (Some(1), Some(1));
        (options.load_ms, options.faults) = (3000, 0);
        let report = run(70, &options);
        assert!(report.violations.is_empty(), "{report}");
        report.history
    }

    /// What is found where those reads that `is_read` picks had been told something else.
    fn falsified(good: &History, is_read: fn(&Action) -> bool, told: fn(&str) -> Action) -> BTreeSet<Law> {
        let mut wrong = good.clone();
        for read in wrong.ops.iter_mut().flat_map(|op| &mut op.actions).filter(|action| is_read(action)) {
            *read = told(read.key());
        }
        judge(&wrong, &[]).into_iter().map(|violation| violation.law).collect()
    }

    #[test]
    fn what_a_simulated_client_was_told_passes_until_somebody_falsifies_it() {
        let good = history();
        assert_eq!(judge(&good, &[]), []);
        let empty_sets =
            falsified(&good, |a| matches!(a, Action::Members { .. }), |key| seen(key, Kind::Set, None));
        assert!(empty_sets.contains(&Law::ReadYourWrites), "{empty_sets:?}");
        let is_linear = |a: &Action| matches!(a, Action::Get { .. }) && a.key().starts_with(LINEAR);
        let absent_registers = falsified(&good, is_linear, |key| seen(key, Kind::Register, None));
        assert!(absent_registers.contains(&Law::Linearizable), "{absent_registers:?}");
        let too_much = |key: &str| Action::Sum { key: key.into(), value: 1_000_000 };
        let high_counters = falsified(&good, |a| matches!(a, Action::Sum { .. }), too_much);
        assert!(high_counters.contains(&Law::CounterBounds), "{high_counters:?}");
    }

    #[test]
    fn a_node_that_holds_nothing_at_the_end_has_lost_what_was_acknowledged() {
        let good = history();
        let empty = Rest { node: "eu-west/1".into(), contents: BTreeMap::new() };
        let found = judge(&good, &[empty]);
        let lost = |set: &str| found.iter().any(|v| v.law == Law::Lost && v.story.contains(set));
        assert!(SETS.into_iter().all(lost), "{found:?}");
    }
}
