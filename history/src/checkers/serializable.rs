//! Serializability of transactions over lists and registers: which anomaly, if any, no serial order explains.
//!
//! After Adya, Liskov and O'Neil, "Generalized isolation level definitions" (ICDE 2000) for the anomalies, and Kingsbury
//! and Alvaro, "Elle: inferring isolation anomalies from experimental observations" (VLDB 2020) for the inference: unique
//! values say who wrote what was read, and reads of lists say in which order. From these follow edges (ww, wr, rw)
//! between txns; a cycle is an anomaly, named by its worst edges: **G0** only ww, **G1c** ww and wr, **G-single** one rw, **G2**
//! several rw. Without any cycle: a **lost update** is a value that two txns read and
//! set, **G1a** a read of what was refused, **G1b** one of what its writer had not finished.
//!
//! Version orders: a list that is read says the order of its elements; a register that is read and then set in one
//! txn goes from one value to the other, and absence comes before all values. [`Demand`] adds the order of sessions or of
//! time, and then registers' values that were set one after the other are in that order too. Txns of unknown outcome
//! take part from the first read that saw them. Keys that are deleted are left out. To be used on what was asked of one
//! DC: between DCs concurrent txns merge.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::graph::{Cycle, Graph, Why};
use super::{Law, Violation};
use crate::{Action, History, Op};

/// What else a serial order must respect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// Nothing: serializability.
    Serializable,
    /// The order of each session.
    StrongSession,
    /// The order of time: what was asked after an answer comes after it.
    Strict,
}

/// Every anomaly found; none if a serial order may exist.
pub fn check(history: &History, demand: Demand) -> Vec<Violation> {
    let mut inference = Inference::of(history, demand == Demand::Strict);
    match demand {
        Demand::Serializable => {}
        Demand::StrongSession => inference.session_order(),
        Demand::Strict => inference.time_order(),
    }
    let written = Why::WW.or(Why::WR);
    let order = Why::SESSION.or(Why::TIME);
    inference.name_first(&[
        (Law::G0, Why::WW, Why::WW),
        (Law::G1c, Why::WR, written),
        (Law::GSingle, Why::RW, written),
        (Law::G2, Why::RW, written.or(Why::RW)),
        (Law::RealTime, order, written.or(Why::RW).or(order)),
    ]);
    inference.violations
}

/// What a history says of the order of its txns, and what is wrong with single ones of them.
pub(super) struct Inference<'h> {
    ops: &'h [Op],
    /// Who wrote a value of a key, and whether that was the last write of its txn to the key.
    writers: HashMap<(&'h str, i64), (usize, bool)>,
    deleted: BTreeSet<&'h str>,
    observed: BTreeSet<usize>,
    /// Which txn comes before which.
    pub(super) graph: Graph,
    /// What was found so far.
    pub(super) violations: Vec<Violation>,
}

impl<'h> Inference<'h> {
    /// What follows from reads and writes alone; with `by_time` registers' values that were set one after the other are in
    /// that order too.
    pub(super) fn of(history: &'h History, by_time: bool) -> Self {
        let mut inference = Self::new(history);
        for i in 0..history.ops.len() {
            if inference.counts(i) {
                inference.inside(i);
            }
        }
        for key in history.keys() {
            if !inference.deleted.contains(key) {
                inference.list(key);
                inference.register(key, by_time);
            }
        }
        inference
    }

    fn new(history: &'h History) -> Self {
        let (mut writers, mut deleted) = (HashMap::new(), BTreeSet::new());
        for (i, op) in history.ops.iter().enumerate() {
            let mut last = BTreeMap::new();
            for action in &op.actions {
                match action {
                    Action::Set { key, value } | Action::Append { key, value } => {
                        writers.insert((key.as_str(), *value), (i, false));
                        last.insert(key.as_str(), *value);
                    }
                    Action::Delete { key } => {
                        deleted.insert(key.as_str());
                    }
                    _ => {}
                }
            }
            for (key, value) in last {
                writers.insert((key, value), (i, true));
            }
        }
        let reads = history.ops.iter().filter(|op| op.is_ok()).flat_map(|op| &op.actions);
        let seen = reads.flat_map(|action| shown(action).into_iter().map(|value| (action.key(), value)));
        let observed = seen.filter_map(|seen| writers.get(&seen)).map(|(writer, _)| *writer).collect();
        Self {
            ops: &history.ops,
            writers,
            deleted,
            observed,
            graph: Graph::default(),
            violations: Vec::new(),
        }
    }

    /// Whether a txn surely took place: it was answered, or seen.
    fn counts(&self, i: usize) -> bool {
        self.ops[i].is_ok() || (self.ops[i].is_possible() && self.observed.contains(&i))
    }

    fn writer(&self, key: &str, value: i64) -> Option<usize> {
        self.writers.get(&(key, value)).map(|(writer, _)| *writer).filter(|writer| self.counts(*writer))
    }

    fn report(&mut self, law: Law, i: usize, story: &str) {
        let told = tell(&self.ops[i]);
        self.violations.push(Violation::new(law, format!("{story}: {told}")));
    }

    /// What can be said of one txn: it reads what exists, and agrees with itself.
    fn inside(&mut self, i: usize) {
        let op = &self.ops[i];
        if !op.is_ok() {
            return;
        }
        let mut own = BTreeMap::<&str, Vec<i64>>::new();
        let mut base = BTreeMap::<&str, Vec<i64>>::new();
        for action in &op.actions {
            let key = action.key();
            match action {
                Action::Append { value, .. } => own.entry(key).or_default().push(*value),
                Action::Set { value, .. } => {
                    own.insert(key, vec![*value]);
                }
                Action::List { values, .. } => {
                    let mine = own.get(key).map_or(&[][..], Vec::as_slice);
                    let Some(rest) = values.strip_suffix(mine) else {
                        self.report(
                            Law::Internal,
                            i,
                            &format!("its read of {key} does not end with its appends"),
                        );
                        continue;
                    };
                    if base.entry(key).or_insert_with(|| rest.to_vec()) != rest {
                        self.report(Law::Internal, i, &format!("{key} changes under it"));
                    }
                    self.foreign(i, key, rest);
                }
                Action::Get { value, .. } => match own.get(key) {
                    Some(mine) if mine.last() != value.as_ref() => {
                        self.report(Law::Internal, i, &format!("its read of {key} is not what it set"));
                    }
                    Some(_) => {}
                    None => {
                        let seen: Vec<i64> = value.iter().copied().collect();
                        if *base.entry(key).or_insert_with(|| seen.clone()) != seen {
                            self.report(Law::Internal, i, &format!("{key} changes under it"));
                        }
                        self.foreign(i, key, &seen);
                    }
                },
                _ => {}
            }
        }
    }

    /// What others wrote: the last of it must be the last that its writer did to the key.
    fn foreign(&mut self, i: usize, key: &str, values: &[i64]) {
        for (at, value) in values.iter().enumerate() {
            match self.writers.get(&(key, *value)).copied() {
                None => self.report(Law::Origin, i, &format!("nobody wrote {value} to {key}")),
                Some((writer, _)) if !self.ops[writer].is_possible() => {
                    self.report(Law::G1a, i, &format!("{value} of {key} was refused, and is read"));
                }
                Some((writer, false)) if writer != i && at + 1 == values.len() => {
                    self.report(Law::G1b, i, &format!("{value} of {key} is not the last of its writer"));
                }
                Some(_) => {}
            }
        }
    }

    fn reads_of(&self, key: &str) -> Vec<(usize, &'h Action)> {
        let ops = self.ops.iter().enumerate().filter(|(_, op)| op.is_ok());
        ops.flat_map(|(i, op)| op.actions.iter().map(move |action| (i, action)))
            .filter(|(_, action)| action.key() == key)
            .collect()
    }

    /// Edges from a list that is appended to.
    fn list(&mut self, key: &str) {
        let reads: Vec<(usize, &Vec<i64>)> = self
            .reads_of(key)
            .into_iter()
            .filter_map(|(i, action)| match action {
                Action::List { values, .. } => Some((i, values)),
                _ => None,
            })
            .collect();
        let Some((longest_at, order)) = reads.iter().max_by_key(|(_, values)| values.len()).copied() else {
            return;
        };
        if order.iter().collect::<BTreeSet<_>>().len() != order.len() {
            self.report(Law::Twice, longest_at, &format!("an element is in {key} more than once"));
        }
        for pair in order.windows(2) {
            if let (Some(one), Some(two)) = (self.writer(key, pair[0]), self.writer(key, pair[1])) {
                self.graph.add(one, two, Why::WW);
            }
        }
        for (i, values) in reads {
            if !order.starts_with(values) {
                self.report(Law::VersionOrder, i, &format!("its {key} is no beginning of {order:?}"));
                continue;
            }
            if let Some(writer) = values.last().and_then(|last| self.writer(key, *last)) {
                self.graph.add(writer, i, Why::WR);
            }
            if let Some(next) = order.get(values.len()).and_then(|next| self.writer(key, *next)) {
                self.graph.add(i, next, Why::RW);
            }
        }
    }

    /// Edges from a register.
    fn register(&mut self, key: &str, by_time: bool) {
        let writes: Vec<usize> = (0..self.ops.len())
            .filter(|i| self.counts(*i))
            .filter(|i| {
                self.ops[*i].actions.iter().any(|a| matches!(a, Action::Set { key: k, .. } if k == key))
            })
            .collect();
        let mut after = BTreeMap::<Option<usize>, BTreeSet<usize>>::new();
        after.insert(None, writes.iter().copied().collect());
        let mut updates = BTreeMap::new();
        for write in &writes {
            if by_time {
                let end_ns = self.ops[*write].deadline_ns().unwrap_or(u64::MAX);
                let later = writes.iter().copied().filter(|other| self.ops[*other].begin_ns > end_ns);
                after.entry(Some(*write)).or_default().extend(later);
            }
            let Some(from) = self.first_read(*write, key) else { continue };
            after.entry(from).or_default().insert(*write);
            if let Some(other) = updates.insert(from, *write) {
                let other = tell(&self.ops[other]);
                self.report(
                    Law::LostUpdate,
                    *write,
                    &format!("what {other} read and set was read and set again"),
                );
            }
        }
        for (first, seconds) in &after {
            for second in seconds {
                if let Some(first) = first {
                    self.graph.add(*first, *second, Why::WW);
                }
            }
        }
        for reader in 0..self.ops.len() {
            let Some(from) = self.first_read(reader, key) else { continue };
            if let Some(writer) = from {
                self.graph.add(writer, reader, Why::WR);
            }
            for next in after.get(&from).into_iter().flatten() {
                self.graph.add(reader, *next, Why::RW);
            }
        }
    }

    /// The txn from which a txn read a register before it set it: inside nothing if the register was absent.
    fn first_read(&self, i: usize, key: &str) -> Option<Option<usize>> {
        let op = &self.ops[i];
        let first = op.actions.iter().find(|action| action.key() == key).filter(|_| op.is_ok())?;
        match first {
            Action::Get { value: None, .. } => Some(None),
            Action::Get { value: Some(value), .. } => self.writer(key, *value).map(Some),
            _ => None,
        }
    }

    /// Adds the order of each session.
    pub(super) fn session_order(&mut self) {
        let mut last = BTreeMap::new();
        for i in 0..self.ops.len() {
            if !self.counts(i) {
                continue;
            }
            if let Some(before) = last.get(&self.ops[i].session) {
                self.graph.add(*before, i, Why::SESSION);
            }
            // What comes after a request of unknown outcome need not come after what it did.
            if self.ops[i].is_ok() {
                last.insert(self.ops[i].session, i);
            }
        }
    }

    fn time_order(&mut self) {
        let mut by_begin: Vec<usize> = (0..self.ops.len()).filter(|i| self.counts(*i)).collect();
        by_begin.sort_by_key(|i| self.ops[*i].begin_ns);
        for first in &by_begin {
            let Some(end_ns) = self.ops[*first].deadline_ns() else { continue };
            let from = by_begin.partition_point(|i| self.ops[*i].begin_ns <= end_ns);
            // Whatever begins after one of these has ended comes after it anyway.
            let mut enough_ns = u64::MAX;
            for second in &by_begin[from..] {
                if self.ops[*second].begin_ns > enough_ns {
                    break;
                }
                self.graph.add(*first, *second, Why::TIME);
                enough_ns = enough_ns.min(self.ops[*second].deadline_ns().unwrap_or(u64::MAX));
            }
        }
    }

    /// Looks for cycles of one kind after the other, each with an edge of the first reason and others of the second. A worse
    /// cycle is also one of the milder kinds: the first kind that is found names it. False if there is none.
    pub(super) fn name_first(&mut self, kinds: &[(Law, Why, Why)]) -> bool {
        for (law, through, others) in kinds {
            let cycles = self.graph.cycles(*through, *others);
            self.name(*law, &cycles);
            if !cycles.is_empty() {
                return true;
            }
        }
        false
    }

    /// Reports these cycles.
    pub(super) fn name(&mut self, law: Law, cycles: &[Cycle]) {
        for cycle in cycles {
            let story = self.graph.tell(cycle, |i| tell(&self.ops[i]));
            self.violations.push(Violation::new(law, story));
        }
    }
}

fn shown(action: &Action) -> Vec<i64> {
    match action {
        Action::Get { value, .. } => value.iter().copied().collect(),
        Action::List { values, .. } => values.clone(),
        _ => Vec::new(),
    }
}

fn tell(op: &Op) -> String {
    format!("[session {} at {}/{} {:?}]", op.session, op.dc, op.node, op.actions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use crate::checkers::testkit::{get, laws, ok, op, serial, set};

    fn append(key: &str, value: i64) -> Action {
        Action::Append { key: key.into(), value }
    }

    fn list(key: &str, values: &[i64]) -> Action {
        Action::List { key: key.into(), values: values.to_vec() }
    }

    fn found(txns: Vec<Vec<Action>>, demand: Demand) -> Vec<Law> {
        let ops = txns.into_iter().enumerate().collect();
        laws(&check(&serial(ops), demand))
    }

    #[test]
    fn each_anomaly_of_lists_is_named() {
        let cases = [
            (
                Law::G0,
                vec![
                    vec![append("x", 1), append("y", 1)],
                    vec![append("x", 2), append("y", 2)],
                    vec![list("x", &[1, 2]), list("y", &[2, 1])],
                ],
            ),
            (Law::G1c, vec![vec![append("x", 1), list("y", &[1])], vec![append("y", 1), list("x", &[1])]]),
            (
                Law::GSingle,
                vec![
                    vec![append("x", 1), append("y", 1)],
                    vec![list("x", &[1]), list("y", &[])],
                    vec![list("y", &[1])],
                ],
            ),
            (
                Law::G2,
                vec![
                    vec![list("x", &[]), append("y", 1)],
                    vec![list("y", &[]), append("x", 1)],
                    vec![list("x", &[1]), list("y", &[1])],
                ],
            ),
            (Law::G1b, vec![vec![append("x", 1), append("x", 2)], vec![list("x", &[1])]]),
            (Law::Twice, vec![vec![append("x", 1)], vec![list("x", &[1, 1])]]),
            (
                Law::VersionOrder,
                vec![
                    vec![append("x", 1)],
                    vec![append("x", 2)],
                    vec![list("x", &[1, 2])],
                    vec![list("x", &[2])],
                ],
            ),
            (Law::Internal, vec![vec![append("x", 1), list("x", &[])]]),
            (Law::Origin, vec![vec![list("x", &[7])]]),
        ];
        for (law, txns) in cases {
            assert_eq!(found(txns.clone(), Demand::Serializable), [law], "{txns:?}");
        }
    }

    #[test]
    fn each_anomaly_of_registers_is_named() {
        let cases = [
            // Read skew.
            (Law::GSingle, vec![vec![set("x", 1), set("y", 1)], vec![get("x", None), get("y", 1)]]),
            // Write skew.
            (
                Law::G2,
                vec![
                    vec![get("x", None), get("y", None), set("x", 1)],
                    vec![get("x", None), get("y", None), set("y", 1)],
                ],
            ),
            (Law::G1c, vec![vec![set("x", 1), get("y", 1)], vec![set("y", 1), get("x", 1)]]),
            (Law::G1b, vec![vec![set("x", 1), set("x", 2)], vec![get("x", 1)]]),
            (Law::Internal, vec![vec![set("x", 1), get("x", None)]]),
        ];
        for (law, txns) in cases {
            assert_eq!(found(txns.clone(), Demand::Serializable), [law], "{txns:?}");
        }
        let both_updated =
            vec![vec![set("x", 1)], vec![get("x", 1), set("x", 2)], vec![get("x", 1), set("x", 3)]];
        assert_eq!(found(both_updated, Demand::Serializable), [Law::LostUpdate, Law::G2]);
    }

    #[test]
    fn serial_histories_pass_and_what_is_only_out_of_time_fails_only_the_strict_demand() {
        let serial = vec![
            vec![append("x", 1), set("r", 1)],
            vec![list("x", &[1]), append("x", 2), get("r", 1), set("r", 2)],
            vec![list("x", &[1, 2]), get("r", 2)],
        ];
        for demand in [Demand::Serializable, Demand::StrongSession, Demand::Strict] {
            assert_eq!(found(serial.clone(), demand), [], "{demand:?}");
        }
        let late = vec![vec![append("x", 1)], vec![list("x", &[])], vec![list("x", &[1])]];
        assert_eq!(found(late.clone(), Demand::Serializable), []);
        assert_eq!(found(late, Demand::Strict), [Law::RealTime]);
        let stale = vec![vec![set("r", 1)], vec![set("r", 2)], vec![get("r", 1)]];
        assert_eq!(found(stale.clone(), Demand::StrongSession), []);
        assert_eq!(found(stale, Demand::Strict), [Law::RealTime]);
        let own = History {
            ops: vec![
                ok(1, 0, 1, vec![append("x", 1)]),
                ok(1, 2, 3, vec![list("x", &[])]),
                ok(2, 0, 9, vec![list("x", &[1])]),
            ],
        };
        assert_eq!(laws(&check(&own, Demand::StrongSession)), [Law::RealTime]);
    }

    #[test]
    fn what_was_refused_and_is_read_is_named_and_what_is_unknown_counts_once_seen() {
        let with = |outcome, seen: &[i64]| History {
            ops: vec![op(1, 0, 1, outcome, vec![append("x", 1)]), ok(2, 2, 3, vec![list("x", seen)])],
        };
        assert_eq!(laws(&check(&with(Outcome::Failed, &[1]), Demand::Strict)), [Law::G1a]);
        assert_eq!(check(&with(Outcome::Unknown, &[1]), Demand::Strict), []);
        assert_eq!(check(&with(Outcome::Unknown, &[]), Demand::Strict), []);
    }
}
