//! Read committed, read atomic and causal consistency of transactions over registers.
//!
//! After Biswas and Enea, "On the complexity of checking transactional consistency" (OOPSLA 2019). A history fulfils a level
//! if a total *commit order* of its txns exists that contains the order of sessions and "was read by", and in which,
//! whenever t3 read key x from t1 and another t2 that wrote x is *visible* to t3, t2 comes before t1. Visible means:
//!
//! - read committed: t3 read something of t2 before it read x;
//! - read atomic: t3 read something of t2, or follows it in its session;
//! - causal: t2 is before t3 by any chain of reads and session steps.
//!
//! None of the three asks for the commit order itself, so that one pass forces all edges that there are to force, and the
//! level holds exactly if they have no cycle. Long fork passes, also under causal; two orders of the same concurrent
//! writes, each seen by somebody who knew both, do not.
//!
//! An absent register was read from an initial txn before all others. Txns of unknown outcome take part from the first
//! read that saw them; what their session did afterwards need not follow them. Keys that are ever deleted are left out.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::bits::Bits;
use super::graph::{Graph, Why};
use super::{Law, Violation};
use crate::{Action, History, Op};

/// How much a txn must see of what came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Later reads of a txn show nothing older than what its earlier reads saw.
    ReadCommitted,
    /// Txns are seen as a whole, and a session sees its own.
    ReadAtomic,
    /// What is seen comes with all that it could have been made from.
    Causal,
}

/// Every proof that the level does not hold; none if it does.
pub fn check(history: &History, level: Level) -> Vec<Violation> {
    let mut saturation = Saturation::new(history);
    if !saturation.violations.is_empty() {
        return saturation.violations;
    }
    saturation.base();
    let law = match level {
        Level::ReadCommitted => Law::ReadCommitted,
        Level::ReadAtomic => Law::ReadAtomic,
        Level::Causal => Law::Causal,
    };
    let base = Why::WR.or(Why::SESSION);
    if saturation.graph.cycles(base, base).is_empty() {
        saturation.force(level);
    }
    let all = base.or(Why::WW);
    let graph = saturation.graph;
    let told = |i: usize| if i == history.ops.len() { "[initial]".into() } else { tell(&history.ops[i]) };
    let cycles = graph.cycles(all, all);
    cycles.iter().map(|cycle| Violation::new(law, graph.tell(cycle, told))).collect()
}

/// A read of a txn: the key, and the txn that wrote what it saw.
type Read<'h> = (&'h str, usize);

struct Saturation<'h> {
    ops: &'h [Op],
    /// The txns that take part, the initial one not among them.
    txns: Vec<usize>,
    initial: usize,
    reads: BTreeMap<usize, Vec<Read<'h>>>,
    writers: BTreeMap<&'h str, BTreeSet<usize>>,
    graph: Graph,
    violations: Vec<Violation>,
}

impl<'h> Saturation<'h> {
    fn new(history: &'h History) -> Self {
        let mut by_value = HashMap::new();
        let mut deleted = BTreeSet::new();
        for (i, op) in history.ops.iter().enumerate() {
            for action in &op.actions {
                match action {
                    Action::Set { key, value } => {
                        by_value.insert((key.as_str(), *value), i);
                    }
                    Action::Delete { key } => {
                        deleted.insert(key.as_str());
                    }
                    _ => {}
                }
            }
        }
        let mut saturation = Self {
            ops: &history.ops,
            txns: Vec::new(),
            initial: history.ops.len(),
            reads: BTreeMap::new(),
            writers: BTreeMap::new(),
            graph: Graph::default(),
            violations: Vec::new(),
        };
        let mut seen = BTreeSet::new();
        for (i, op) in history.ops.iter().enumerate().filter(|(_, op)| op.is_ok()) {
            seen.insert(i);
            let reads = saturation.reads_of(i, op, &by_value, &deleted);
            seen.extend(reads.iter().map(|(_, writer)| *writer).filter(|writer| *writer < history.ops.len()));
            saturation.reads.insert(i, reads);
        }
        for i in seen {
            for action in &history.ops[i].actions {
                if let Action::Set { key, .. } = action
                    && !deleted.contains(key.as_str())
                {
                    saturation.writers.entry(key.as_str()).or_default().insert(i);
                }
            }
            saturation.txns.push(i);
        }
        saturation
    }

    /// What a txn read of others: not what it reads after it has set the key itself.
    fn reads_of(
        &mut self,
        i: usize,
        op: &'h Op,
        by_value: &HashMap<(&str, i64), usize>,
        deleted: &BTreeSet<&str>,
    ) -> Vec<Read<'h>> {
        let (mut reads, mut own) = (Vec::new(), BTreeMap::new());
        for action in op.actions.iter().filter(|action| !deleted.contains(action.key())) {
            match action {
                Action::Set { key, value } => {
                    own.insert(key.as_str(), *value);
                }
                Action::Get { key, value } => {
                    let problem = match (own.get(key.as_str()), value) {
                        (Some(mine), value) if Some(mine) == value.as_ref() => continue,
                        (Some(_), _) => Some(Law::Internal),
                        (None, None) => {
                            reads.push((key.as_str(), self.initial));
                            None
                        }
                        (None, Some(value)) => match by_value.get(&(key.as_str(), *value)) {
                            None => Some(Law::Origin),
                            Some(writer) if !self.ops[*writer].is_possible() => Some(Law::G1a),
                            Some(writer) if *writer != i && !is_last(&self.ops[*writer], key, *value) => {
                                Some(Law::G1b)
                            }
                            Some(writer) => {
                                reads.push((key.as_str(), *writer));
                                None
                            }
                        },
                    };
                    if let Some(law) = problem {
                        self.violations.push(Violation::new(law, format!("{key} in {}", tell(op))));
                    }
                }
                _ => {}
            }
        }
        reads
    }

    /// The order of sessions, and "was read by".
    fn base(&mut self) {
        let mut last = BTreeMap::new();
        for i in &self.txns {
            let before = last.get(&self.ops[*i].session).copied().unwrap_or(self.initial);
            self.graph.add(before, *i, Why::SESSION);
            if self.ops[*i].is_ok() {
                last.insert(self.ops[*i].session, *i);
            }
        }
        for (reader, reads) in &self.reads {
            for (_, writer) in reads {
                self.graph.add(*writer, *reader, Why::WR);
            }
        }
    }

    /// Adds what the level forces: a visible writer comes before the one that was read.
    fn force(&mut self, level: Level) {
        let pasts = if level == Level::Causal { self.pasts() } else { BTreeMap::new() };
        let mut forced = Vec::new();
        for (reader, reads) in &self.reads {
            for (at, (key, from)) in reads.iter().enumerate() {
                for other in self.writers.get(key).into_iter().flatten() {
                    if other == from || other == reader {
                        continue;
                    }
                    let read = |reads: &[Read]| reads.iter().any(|(_, writer)| writer == other);
                    let (before, after) = (&self.ops[*other], &self.ops[*reader]);
                    let session = before.session == after.session && before.is_ok() && other < reader;
                    let visible = match level {
                        Level::ReadCommitted => read(&reads[..at]),
                        Level::ReadAtomic => read(reads) || session,
                        Level::Causal => pasts.get(reader).is_some_and(|past| past.contains(*other)),
                    };
                    if visible {
                        forced.push((*other, *from));
                    }
                }
            }
        }
        for (before, after) in forced {
            self.graph.add(before, after, Why::WW);
        }
    }

    /// For each txn all that is before it by reads and sessions. Only called when these have no cycle.
    fn pasts(&self) -> BTreeMap<usize, Bits> {
        let mut before = BTreeMap::<usize, Vec<usize>>::new();
        let mut last = BTreeMap::new();
        for i in &self.txns {
            let known = before.entry(*i).or_default();
            known.extend(last.get(&self.ops[*i].session));
            known.extend(self.reads.get(i).into_iter().flatten().map(|(_, writer)| *writer));
            if self.ops[*i].is_ok() {
                last.insert(self.ops[*i].session, *i);
            }
        }
        let mut pasts = BTreeMap::<usize, Bits>::new();
        for i in self.graph.sorted(&self.txns).unwrap_or_default() {
            let mut past = Bits::default();
            for earlier in before.get(&i).into_iter().flatten().filter(|earlier| **earlier != i) {
                past.insert(*earlier);
                if let Some(more) = pasts.get(earlier) {
                    past.union(more);
                }
            }
            pasts.insert(i, past);
        }
        pasts
    }
}

fn is_last(op: &Op, key: &str, value: i64) -> bool {
    let last = op.actions.iter().rev().find_map(|action| match action {
        Action::Set { key: k, value } if k == key => Some(*value),
        _ => None,
    });
    last == Some(value)
}

fn tell(op: &Op) -> String {
    format!("[session {} at {}/{} {:?}]", op.session, op.dc, op.node, op.actions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use crate::checkers::testkit::{get, laws, ok, op, serial, set};

    const LEVELS: [Level; 3] = [Level::ReadCommitted, Level::ReadAtomic, Level::Causal];

    fn holds(txns: Vec<(usize, Vec<Action>)>) -> [bool; 3] {
        LEVELS.map(|level| check(&serial(txns.clone()), level).is_empty())
    }

    #[test]
    fn each_level_forbids_what_it_is_there_to_forbid() {
        // Half of a txn after the other half was seen.
        let fractured = vec![(1, vec![set("x", 1), set("y", 1)]), (2, vec![get("x", 1), get("y", None)])];
        assert_eq!(holds(fractured), [false, false, false]);
        // The same the other way round: what came first was read before the txn was seen.
        let skewed = vec![(1, vec![set("x", 1), set("y", 1)]), (2, vec![get("x", None), get("y", 1)])];
        assert_eq!(holds(skewed), [true, false, false]);
        let forgotten = vec![(1, vec![set("x", 1)]), (1, vec![get("x", None)])];
        assert_eq!(holds(forgotten), [true, false, false]);
        // A reply without its post.
        let chain = vec![
            (1, vec![set("post", 1)]),
            (2, vec![get("post", 1)]),
            (2, vec![set("reply", 1)]),
            (3, vec![get("reply", 1)]),
            (3, vec![get("post", None)]),
        ];
        assert_eq!(holds(chain), [true, true, false]);
        // Two who knew both writes saw them win in different orders.
        let orders = vec![
            (1, vec![set("x", 1)]),
            (2, vec![set("x", 2)]),
            (3, vec![get("x", 1)]),
            (3, vec![get("x", 2)]),
            (4, vec![get("x", 2)]),
            (4, vec![get("x", 1)]),
        ];
        assert_eq!(holds(orders), [true, true, false]);
    }

    #[test]
    fn what_causal_consistency_allows_passes() {
        // Long fork: two readers disagree on which of two independent writes came first.
        let fork = vec![
            (1, vec![set("x", 1)]),
            (2, vec![set("y", 1)]),
            (3, vec![get("x", 1), get("y", None)]),
            (4, vec![get("x", None), get("y", 1)]),
        ];
        assert_eq!(holds(fork), [true, true, true]);
        // Lost update, as between two DCs.
        let lost = vec![
            (0, vec![set("x", 1)]),
            (1, vec![get("x", 1), set("x", 2)]),
            (2, vec![get("x", 1), set("x", 3)]),
            (3, vec![get("x", 3)]),
        ];
        assert_eq!(holds(lost), [true, true, true]);
    }

    #[test]
    fn reads_that_nothing_explains_are_named_before_any_order_is_sought() {
        for (law, txns) in [
            (Law::Origin, vec![(1, vec![get("x", 9)])]),
            (Law::G1b, vec![(1, vec![set("x", 1), set("x", 2)]), (2, vec![get("x", 1)])]),
            (Law::Internal, vec![(1, vec![set("x", 1), get("x", None)])]),
        ] {
            assert_eq!(laws(&check(&serial(txns), Level::Causal)), [law]);
        }
        let with = |outcome| History {
            ops: vec![op(1, 0, 1, outcome, vec![set("x", 1)]), ok(2, 2, 3, vec![get("x", 1)])],
        };
        assert_eq!(laws(&check(&with(Outcome::Failed), Level::Causal)), [Law::G1a]);
        assert_eq!(check(&with(Outcome::Unknown), Level::Causal), []);
    }

    #[test]
    fn a_session_need_not_see_its_write_of_unknown_outcome() {
        let history = History {
            ops: vec![
                op(1, 0, 1, Outcome::Unknown, vec![set("x", 1)]),
                ok(1, 2, 3, vec![get("x", None)]),
                ok(2, 4, 5, vec![get("x", 1)]),
            ],
        };
        assert_eq!(check(&history, Level::Causal), []);
    }
}
