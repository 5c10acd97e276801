//! What interactive transactions promise to those of one datacenter, about the keys that only these write: a serial
//! order, and that nothing which a transaction depends on was changed between its snapshot and its commit.
//!
//! The first is for the checker of [`crate::checkers::serializable`] to say, from what clients were told alone. The second
//! is checked by the txns' own numbers: what an own txn of the datacenter changed after the snapshot and before the commit.

use std::collections::BTreeMap;

use meridian::txn::Isolation;
use meridian_crdt::{Dot, Vector};

use super::clients::key_of;
use super::facts::{KeyId, Ledger};
use super::interactive::{home_of, isolation_of};
use crate::checkers::serializable::{self, Demand};
use crate::checkers::{Law, Violation};
use crate::history::{Action, History, Op};

/// A transaction that has committed.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its fact.
    pub fact: usize,
    /// The txn that it became.
    pub dot: Dot,
    /// The vector of its snapshot.
    pub snapshot: Vector,
    /// The keys that nobody may have changed since: those that it has read, or under `snapshot` those that it wrote.
    pub keys: Vec<KeyId>,
    /// The prefixes that it has listed, under `serializable`.
    pub listed: Vec<&'static str>,
}

/// The transactions of all datacenters.
#[derive(Debug, Default)]
pub struct Serial {
    /// By datacenter and isolation; with each operation whether time orders it too.
    histories: BTreeMap<(usize, bool), Vec<(Op, bool)>>,
    committed: Vec<Committed>,
}

impl Serial {
    /// A transaction has ended. `ordered` says whether the order of time binds it: its snapshot was current when it began, or
    /// it was validated when it committed.
    pub fn end(&mut self, dc: usize, isolation: Isolation, op: &Op, ordered: bool) {
        let own = |action: &&Action| {
            let ids = super::interactive::own_keys(dc, isolation);
            ids.into_iter().any(|id| key_of(id).key == action.key())
        };
        let actions: Vec<Action> = op.actions.iter().filter(own).cloned().collect();
        if !actions.is_empty() {
            let history = self.histories.entry((dc, isolation == Isolation::Snapshot)).or_default();
            history.push((Op { actions, ..op.clone() }, ordered));
        }
    }

    /// A transaction has committed.
    pub fn committed(&mut self, committed: Committed) {
        self.committed.push(committed);
    }

    /// Everything in one datacenter that no serial order explains, given what each key holds there at rest.
    pub fn violations(&self, dc: usize, ledger: &Ledger, at_rest: &[(KeyId, Action)]) -> Vec<Violation> {
        let mut violations = if dc == 0 { self.changed_meanwhile(ledger) } else { Vec::new() };
        for ((_, weak), history) in self.histories.range((dc, false)..=(dc, true)) {
            let mine = |(id, _): &&(KeyId, Action)| {
                home_of(*id) == Some(dc) && (isolation_of(*id) == Isolation::Snapshot) == *weak
            };
            let last: Vec<Action> = at_rest.iter().filter(mine).map(|(_, action)| action.clone()).collect();
            let of = |ordered_only: bool| {
                let ops = history.iter().filter(|(_, ordered)| *ordered || !ordered_only);
                with_rest(ops.map(|(op, _)| op.clone()).collect(), last.clone())
            };
            if *weak {
                let found = serializable::check(&of(false), Demand::Serializable);
                // Write skew is allowed, and all of G2 that first-committer-wins lets through.
                violations.extend(found.into_iter().filter(|found| found.law != Law::G2));
            } else {
                violations.extend(serializable::check(&of(false), Demand::StrongSession));
                violations.extend(serializable::check(&of(true), Demand::Strict));
            }
        }
        violations
    }

    /// First committer wins, by the numbers of own txns.
    fn changed_meanwhile(&self, ledger: &Ledger) -> Vec<Violation> {
        let mut violations = Vec::new();
        for txn in &self.committed {
            let since = txn.snapshot.get(txn.dot.origin);
            for (number, fact) in ledger.facts.iter().enumerate() {
                let between = fact.dot.is_some_and(|dot| {
                    dot.origin == txn.dot.origin && since < dot.seq && dot.seq < txn.dot.seq
                });
                let touches = |id: &&KeyId| {
                    txn.keys.contains(id)
                        || txn.listed.iter().any(|prefix| key_of(**id).key.starts_with(prefix))
                };
                if let Some(id) = fact.keys.iter().find(touches).filter(|_| between) {
                    let story = format!(
                        "{number} changed {id:?} after the snapshot of {}, at {since}, and before its commit as {}",
                        txn.fact, txn.dot
                    );
                    violations.push(Violation::new(Law::LostUpdate, story));
                }
            }
        }
        violations
    }
}

/// The operations, and after them a look at what is left.
fn with_rest(mut ops: Vec<Op>, actions: Vec<Action>) -> History {
    ops.push(Op::at_rest(&ops, actions));
    History { ops }
}
