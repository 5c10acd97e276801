//! Every acknowledged element of a set is read, everywhere.
//!
//! The set-full analysis of Jepsen (Kingsbury): an element is *known* from the answer to its addition, or from the end of
//! the first read that showed it. Reads that began after that and lack it are stale; if no read shows it afterwards, and
//! some read lacks it, it is lost. An element that no read looked for since it is known was never read, which is neither.
//! Between DCs staleness is allowed to sessions that know nothing of the element; within a DC and with linearizable reads
//! it is not: [`Demand`] says which. Only for sets from which nothing is removed.

use std::collections::BTreeSet;

use super::{Law, Violation};
use crate::{Action, History, Op};

/// When an element must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// In the end.
    Eventual,
    /// In every read that begins after it is known.
    Immediate,
}

/// What became of the elements of one set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Elements that every read showed from some time on.
    pub stable: usize,
    /// Elements that a read lacked after they were known, and a later one showed.
    pub stale: BTreeSet<i64>,
    /// Elements that were known and then lacking for good.
    pub lost: BTreeSet<i64>,
    /// Elements that were known and not looked for since.
    pub never_read: BTreeSet<i64>,
    /// What breaks the demand.
    pub violations: Vec<Violation>,
}

/// Follows every element of the set `key`.
pub fn check(history: &History, key: &str, demand: Demand) -> Report {
    let mut report = Report::default();
    let reads: Vec<(&Op, &BTreeSet<i64>)> = history
        .ops
        .iter()
        .filter(|op| op.is_ok())
        .flat_map(|op| op.actions.iter().map(move |action| (op, action)))
        .filter_map(|(op, action)| match action {
            Action::Members { key: k, elements } if k == key => Some((op, elements)),
            _ => None,
        })
        .collect();
    let mut possible = BTreeSet::new();
    for op in &history.ops {
        for action in &op.actions {
            if let Action::Insert { key: k, element } = action
                && k == key
            {
                if op.is_possible() {
                    possible.insert(*element);
                }
                follow(op, *element, &reads, &mut report);
            }
        }
    }
    for (op, elements) in reads {
        for element in elements.difference(&possible) {
            let story = format!("session {} reads {element} in {key}, which nobody added", op.session);
            report.violations.push(Violation::new(Law::Origin, story));
        }
    }
    for element in &report.lost {
        let story = format!("{element} of {key} was there and is gone");
        report.violations.push(Violation::new(Law::Lost, story));
    }
    if demand == Demand::Immediate {
        for element in &report.stale {
            let story = format!("{element} of {key} was missing for a while");
            report.violations.push(Violation::new(Law::Stale, story));
        }
    }
    report
}

fn follow(added: &Op, element: i64, reads: &[(&Op, &BTreeSet<i64>)], report: &mut Report) {
    let seen_ns = reads.iter().filter(|(_, e)| e.contains(&element)).map(|(op, _)| op.end_ns).min();
    let Some(known_ns) = added.deadline_ns().into_iter().chain(seen_ns).min() else { return };
    let since = || reads.iter().filter(|(op, _)| op.begin_ns > known_ns);
    // When the last read began that showed it, and that lacked it.
    let last_shown = reads.iter().filter(|(_, e)| e.contains(&element)).map(|(op, _)| op.begin_ns).max();
    let last_lacked = since().filter(|(_, e)| !e.contains(&element)).map(|(op, _)| op.begin_ns).max();
    match last_lacked {
        None if since().next().is_none() && last_shown.is_none() => {
            report.never_read.insert(element);
        }
        None => report.stable += 1,
        Some(lacked) if last_shown.is_none_or(|shown| shown < lacked) => {
            report.lost.insert(element);
        }
        Some(_) => {
            report.stable += 1;
            report.stale.insert(element);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use crate::checkers::testkit::{insert, laws, members, ok, op, serial};

    #[test]
    fn lost_and_stale_and_never_read_elements_are_told_apart() {
        let history = serial(vec![
            (1, vec![insert("s", 1)]),
            (1, vec![insert("s", 2)]),
            (1, vec![insert("s", 3)]),
            (2, vec![members("s", &[1, 3])]),
            (2, vec![members("s", &[1, 2])]),
            (1, vec![insert("s", 4)]),
        ]);
        let report = check(&history, "s", Demand::Eventual);
        assert_eq!((report.stable, report.lost), (2, BTreeSet::from([3])));
        assert_eq!((report.stale, report.never_read), (BTreeSet::from([2]), BTreeSet::from([4])));
        assert_eq!(laws(&report.violations), [Law::Lost]);
        assert_eq!(laws(&check(&history, "s", Demand::Immediate).violations), [Law::Lost, Law::Stale]);
    }

    #[test]
    fn an_element_that_was_acknowledged_and_never_shown_is_lost() {
        let history = serial(vec![(1, vec![insert("s", 1)]), (2, vec![members("s", &[])])]);
        assert_eq!(laws(&check(&history, "s", Demand::Eventual).violations), [Law::Lost]);
        let invented = serial(vec![(2, vec![members("s", &[9])])]);
        assert_eq!(laws(&check(&invented, "s", Demand::Eventual).violations), [Law::Origin]);
    }

    #[test]
    fn unknown_elements_count_once_seen_and_concurrent_reads_prove_nothing() {
        let history = History {
            ops: vec![
                op(1, 0, 1, Outcome::Unknown, vec![insert("s", 1)]),
                ok(2, 2, 3, vec![members("s", &[])]),
                ok(1, 4, 9, vec![insert("s", 2)]),
                ok(2, 5, 6, vec![members("s", &[])]),
                ok(2, 10, 11, vec![members("s", &[1, 2])]),
            ],
        };
        let report = check(&history, "s", Demand::Immediate);
        assert_eq!((report.stable, report.violations), (2, vec![]));
    }
}
