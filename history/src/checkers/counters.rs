//! A counter shows nothing that its increments do not allow.
//!
//! The bounds of Jepsen's counter analysis (Kingsbury): a read shows at least what had surely been added when it began, less
//! all that may have been subtracted when it ended, and at most the opposite. Increments of unknown outcome widen the
//! bounds and never narrow them. Reads in another DC, or without a token, need not have heard of what was answered
//! elsewhere: [`Demand`] says which increments count as surely added. Only for counters that nobody resets or deletes.

use super::{Law, Violation};
use crate::{Action, History, Op};

/// Which increments a read must show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// None: what is added anywhere may still be on its way.
    Eventual,
    /// Those that were answered before it began: for reads in one DC, or linearizable ones.
    Immediate,
    /// All that were answered ever: for reads when everything has come to rest.
    Final,
}

/// Every read of the counter `key` outside its bounds.
pub fn check(history: &History, key: &str, demand: Demand) -> Vec<Violation> {
    let actions = || history.ops.iter().flat_map(|op| op.actions.iter().map(move |action| (op, action)));
    let adds: Vec<(&Op, i64)> = actions()
        .filter_map(|(op, action)| match action {
            Action::Add { key: k, by } if k == key && op.is_possible() => Some((op, *by)),
            _ => None,
        })
        .collect();
    let mut violations = Vec::new();
    for (op, action) in actions().filter(|(op, _)| op.is_ok()) {
        let Action::Sum { key: k, value } = action else { continue };
        let (least, most) = bounds(&adds, op, demand);
        if k == key && !(least..=most).contains(value) {
            let story = format!("session {} reads {value} in {key}, outside {least}..={most}", op.session);
            violations.push(Violation::new(Law::CounterBounds, story));
        }
    }
    violations
}

fn bounds(adds: &[(&Op, i64)], read: &Op, demand: Demand) -> (i64, i64) {
    let (mut least, mut most) = (0, 0);
    for (add, by) in adds {
        let sure = match demand {
            Demand::Eventual => false,
            Demand::Immediate => add.deadline_ns().is_some_and(|end| end < read.begin_ns),
            Demand::Final => add.is_ok(),
        };
        let possible = add.begin_ns < read.end_ns;
        if sure {
            least += by;
            most += by;
        } else if possible {
            least += (*by).min(0);
            most += (*by).max(0);
        }
    }
    (least, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use crate::checkers::testkit::{add, laws, ok, op, sum};

    #[test]
    fn a_counter_outside_its_bounds_is_noticed_and_one_inside_is_not() {
        let reads = |value| History {
            ops: vec![
                ok(1, 0, 1, vec![add("c", 10)]),
                op(1, 2, 3, Outcome::Unknown, vec![add("c", 5)]),
                op(1, 4, 5, Outcome::Failed, vec![add("c", 100)]),
                ok(2, 4, 9, vec![add("c", -2)]),
                ok(3, 6, 7, vec![sum("c", value)]),
                ok(1, 20, 21, vec![add("c", 1000)]),
            ],
        };
        for (value, demand, fits) in [
            (10, Demand::Immediate, true),
            (8, Demand::Immediate, true),
            (15, Demand::Immediate, true),
            (7, Demand::Immediate, false),
            (16, Demand::Immediate, false),
            (115, Demand::Eventual, false),
            (-2, Demand::Eventual, true),
            (-3, Demand::Eventual, false),
            (13, Demand::Final, false),
            (1008, Demand::Final, true),
        ] {
            let violations = check(&reads(value), "c", demand);
            assert_eq!(violations.is_empty(), fits, "{value} {demand:?}: {violations:?}");
            assert!(fits || laws(&violations) == [Law::CounterBounds]);
        }
    }
}
