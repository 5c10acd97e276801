//! What was deleted stays deleted.
//!
//! A deletion takes out what it observed, for ever: a write is *observed* by a deletion if the deletion's session knew of it
//! (and carried its token), or if it was answered by the same DC before the deletion was asked there. Once the deletion is
//! acknowledged, no read at rest shows such a write, in any DC, however long a DC was away (the failure of stores that drop
//! tombstones by time). Concurrent writes, and writes made after the deletion, are free to show.

use super::{Law, Violation, sessions};
use crate::{Action, History, Op};

/// Every value at rest that an acknowledged deletion had observed.
pub fn check(history: &History, at_rest: &[Action]) -> Vec<Violation> {
    let pasts = sessions::pasts(history);
    let deletions: Vec<(usize, &Op)> = history.ops.iter().enumerate().filter(|(_, op)| op.is_ok()).collect();
    let mut violations = Vec::new();
    for read in at_rest {
        let values: Vec<i64> = match read {
            Action::Get { value, .. } => value.iter().copied().collect(),
            Action::List { values, .. } => values.clone(),
            Action::Members { elements, .. } => elements.iter().copied().collect(),
            _ => continue,
        };
        let key = read.key();
        for value in values {
            let Some((writer, write)) = writer(history, key, value) else { continue };
            let observes = |(i, op): &&(usize, &Op)| {
                let knew = pasts.get(i).is_some_and(|past| past.contains(writer));
                let before = write.dc == op.dc && write.deadline_ns().is_some_and(|end| end < op.begin_ns);
                deletes(op, key) && (knew || before)
            };
            if let Some((_, deletion)) = deletions.iter().find(observes) {
                let by = format!("session {} in {}", deletion.session, deletion.dc);
                let story = format!("{value} of {key} is there again, after {by} had deleted it");
                violations.push(Violation::new(Law::Resurrection, story));
            }
        }
    }
    violations
}

fn deletes(op: &Op, key: &str) -> bool {
    op.actions.iter().any(|action| matches!(action, Action::Delete { key: k } if k == key))
}

fn writer<'h>(history: &'h History, key: &str, value: i64) -> Option<(usize, &'h Op)> {
    let writes = |action: &Action| match action {
        Action::Set { key: k, value: v }
        | Action::Append { key: k, value: v }
        | Action::Insert { key: k, element: v } => k == key && *v == value,
        _ => false,
    };
    history.ops.iter().enumerate().find(|(_, op)| op.actions.iter().any(writes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use crate::checkers::testkit::{delete, get, insert, laws, members, op, serial, set};

    #[test]
    fn what_a_deletion_observed_may_not_return_and_what_it_did_not_may() {
        let observed = serial(vec![(1, vec![set("x", 1)]), (1, vec![delete("x")])]);
        assert_eq!(laws(&check(&observed, &[get("x", 1)])), [Law::Resurrection]);
        assert_eq!(check(&observed, &[get("x", None)]), []);
        let mut elsewhere = serial(vec![(1, vec![insert("s", 1)]), (2, vec![delete("s")])]);
        assert_eq!(laws(&check(&elsewhere, &[members("s", &[1])])), [Law::Resurrection], "in one DC");
        elsewhere.ops[1].dc = "us-east".into();
        assert_eq!(check(&elsewhere, &[members("s", &[1])]), [], "concurrent in another DC");
        let again = serial(vec![(1, vec![set("x", 1)]), (1, vec![delete("x")]), (1, vec![set("x", 2)])]);
        assert_eq!(check(&again, &[get("x", 2)]), []);
        let mut unknown = serial(vec![(1, vec![set("x", 1)])]);
        unknown.ops.push(op(1, 50, 60, Outcome::Unknown, vec![delete("x")]));
        assert_eq!(check(&unknown, &[get("x", 1)]), []);
    }

    #[test]
    fn a_deletion_observes_what_its_session_read_in_another_dc() {
        let mut history =
            serial(vec![(1, vec![set("x", 1)]), (2, vec![get("x", 1)]), (2, vec![delete("x")])]);
        history.ops[0].dc = "us-east".into();
        assert_eq!(laws(&check(&history, &[get("x", 1)])), [Law::Resurrection]);
    }
}
