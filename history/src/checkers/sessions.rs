//! The four session guarantees: read your writes, monotonic reads, monotonic writes, writes follow reads.
//!
//! After Terry, Demers, Petersen, Spreitzer, Theimer and Welch, "Session guarantees for weakly consistent replicated
//! data" (PDIS 1994), for stores whose writes name themselves. A session *knows* a write if it made it, if it read it, or
//! if the write is in the past of one that it knows; the *past* of a write is all that its session knew when it asked
//! for it. Every read of a session must then agree with all that the session knows, what this very read shows included:
//!
//! - an element that is known is in the set, unless a deletion that is not in the element's past explains its absence;
//! - a register does not show a value that is in the past of a known write or deletion of its key, and is not absent
//!   if a known value is not explained away by a deletion;
//! - a counter that only grows shows at least the known increments, and what the session read before and added since.
//!
//! The law that is broken is the one by which the session knows the write that the read contradicts: it made it (read
//! your writes), read it (monotonic reads), or knows it from a later write of the same session (monotonic writes) or from
//! one of a session that had read it (writes follow reads).
//!
//! The order between writes that is used here is what clients can know; the store's own is larger, never smaller. So
//! what is reported is a violation, whatever the store did with concurrent writes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::bits::Bits;
use super::{Law, Violation};
use crate::{Action, History, Op};

/// Every contradiction between what a session knew and what it read.
pub fn check(history: &History) -> Vec<Violation> {
    Checker::run(history).violations
}

/// For each write what its session knew when it asked for it: the writes, given by their places in the history.
pub(crate) fn pasts(history: &History) -> HashMap<usize, Bits> {
    Checker::run(history).pasts.into_iter().map(|(write, past)| (write, past.known)).collect()
}

/// Begins and ends in the order of time: what is asked at a moment is asked before what is answered then.
fn moments(history: &History) -> Vec<(u64, bool, usize)> {
    let begins = history.ops.iter().enumerate().map(|(i, op)| (op.begin_ns, false, i));
    let ends = history.ops.iter().enumerate().map(|(i, op)| (op.end_ns, true, i));
    let mut moments: Vec<_> = begins.chain(ends).collect();
    moments.sort_unstable();
    moments
}

/// The writes of one key, as places in the history.
#[derive(Debug, Default)]
struct Writes {
    by_value: HashMap<i64, usize>,
    sets: Vec<usize>,
    inserts: Vec<(usize, i64)>,
    deletes: Vec<usize>,
    adds: Vec<(usize, i64)>,
}

/// What a session knows.
#[derive(Clone, Debug, Default)]
struct Session {
    known: Bits,
    own: Bits,
    read: Bits,
    /// Least value that each counter must show: what the session read, and what it added since.
    counters: BTreeMap<String, i64>,
    /// The same from the pasts of writes that it knows.
    counters_inherited: BTreeMap<String, i64>,
}

/// What a write's session knew when it asked for it.
#[derive(Clone, Debug, Default)]
struct Past {
    known: Bits,
    counters: BTreeMap<String, i64>,
}

struct Checker<'h> {
    ops: &'h [Op],
    keys: BTreeMap<&'h str, Writes>,
    sessions: BTreeMap<usize, Session>,
    /// Of the writes asked so far.
    pasts: HashMap<usize, Past>,
    violations: Vec<Violation>,
}

impl<'h> Checker<'h> {
    fn run(history: &'h History) -> Self {
        let mut checker = Self::new(history);
        for (_, end, op) in moments(history) {
            if end { checker.end(op) } else { checker.begin(op) }
        }
        checker
    }

    fn new(history: &'h History) -> Self {
        let mut keys = BTreeMap::<&str, Writes>::new();
        for (i, op) in history.ops.iter().enumerate() {
            for action in op.actions.iter().filter(|action| action.is_write()) {
                let writes = keys.entry(action.key()).or_default();
                match action {
                    Action::Set { value, .. } => {
                        writes.by_value.insert(*value, i);
                        writes.sets.push(i);
                    }
                    Action::Insert { element: value, .. } | Action::Append { value, .. } => {
                        writes.by_value.insert(*value, i);
                        writes.inserts.push((i, *value));
                    }
                    Action::Add { by, .. } => writes.adds.push((i, *by)),
                    _ => writes.deletes.push(i),
                }
            }
        }
        Self {
            ops: &history.ops,
            keys,
            sessions: BTreeMap::new(),
            pasts: HashMap::new(),
            violations: Vec::new(),
        }
    }

    fn begin(&mut self, i: usize) {
        let op = &self.ops[i];
        let session = self.sessions.entry(op.session).or_default();
        if op.actions.iter().any(Action::is_write) {
            let mut counters = session.counters_inherited.clone();
            raise(&mut counters, &session.counters);
            self.pasts.insert(i, Past { known: session.known.clone(), counters });
        }
    }

    fn end(&mut self, i: usize) {
        let ops = self.ops;
        let op = &ops[i];
        if !op.is_ok() {
            return;
        }
        let before = self.sessions.entry(op.session).or_default().clone();
        let mut now = before.clone();
        let seen = seen_of_others(op);
        for action in &seen {
            self.learn(op, action, &mut now);
        }
        for action in &seen {
            self.infer_deletion(op, action, &mut now);
        }
        for action in &seen {
            self.compare(op, action, &before, &mut now);
        }
        for action in op.actions.iter().filter(|action| action.is_write()) {
            now.own.insert(i);
            now.known.insert(i);
            if let Action::Add { key, by } = action
                && let Some(least) = now.counters.get_mut(key)
            {
                *least += by;
            }
        }
        self.sessions.insert(op.session, now);
    }

    /// What the values that a read shows say about the writes that made them.
    fn learn(&mut self, op: &Op, action: &Action, now: &mut Session) {
        let values: Vec<i64> = match action {
            Action::Get { value, .. } => value.iter().copied().collect(),
            Action::List { values, .. } => values.clone(),
            Action::Members { elements, .. } => elements.iter().copied().collect(),
            _ => return,
        };
        let key = action.key();
        for value in values {
            let writer = self.keys.get(key).and_then(|writes| writes.by_value.get(&value)).copied();
            let Some(writer) = writer else {
                self.report(Law::Origin, op, format!("{key} shows {value}, which nobody wrote"));
                continue;
            };
            if !self.ops[writer].is_possible() {
                self.report(Law::Origin, op, format!("{key} shows {value}, which was refused"));
            }
            if !self.observe(writer, now) {
                self.report(Law::Origin, op, format!("{key} shows {value} before it was asked for"));
            }
        }
    }

    /// The session has read this write. False if nobody has asked for it yet.
    fn observe(&self, writer: usize, now: &mut Session) -> bool {
        let Some(past) = self.pasts.get(&writer) else { return false };
        now.read.insert(writer);
        if !now.known.contains(writer) {
            now.known.insert(writer);
            now.known.union(&past.known);
            raise(&mut now.counters_inherited, &past.counters);
        }
        true
    }

    /// Where a register is absent that the session knows to have been written, and only one deletion can be why, the
    /// session has read that deletion.
    fn infer_deletion(&self, op: &Op, action: &Action, now: &mut Session) {
        let Action::Get { key, value: None } = action else { return };
        let Some(writes) = self.keys.get(key.as_str()) else { return };
        let known: Vec<usize> = writes.sets.iter().copied().filter(|set| now.known.contains(*set)).collect();
        for set in known {
            if let [deletion] = self.explanations(writes, set, op)[..] {
                self.observe(deletion, now);
            }
        }
    }

    /// The deletions that may be why a write does not show.
    fn explanations(&self, writes: &Writes, write: usize, read: &Op) -> Vec<usize> {
        let may = |deletion: &usize| {
            let op = &self.ops[*deletion];
            let replaced = self.pasts.get(&write).is_some_and(|past| past.known.contains(*deletion));
            op.is_possible() && op.begin_ns < read.end_ns && !replaced && *deletion != write
        };
        writes.deletes.iter().copied().filter(may).collect()
    }

    fn compare(&mut self, op: &Op, action: &Action, before: &Session, now: &mut Session) {
        let Some(writes) = self.keys.get(action.key()) else { return };
        let found = match action {
            Action::Get { key, value: None } => self.missing_value(op, key, writes, now),
            Action::Get { key, value: Some(value) } => self.replaced(key, *value, writes, now),
            Action::List { key, values } => {
                self.elements(op, key, |element| values.contains(&element), writes, now)
            }
            Action::Members { key, elements } => {
                self.elements(op, key, |element| elements.contains(&element), writes, now)
            }
            Action::Sum { key, value } => {
                let found = self.counter(op, key, *value, writes, now);
                let least = now.counters.entry(key.clone()).or_default();
                *least = (*least).max(*value);
                if let Some((law, story)) = found {
                    self.report(law, op, story);
                }
                return;
            }
            _ => return,
        };
        for (write, story) in found {
            let law = self.law(write, before, now);
            self.report(law, op, story);
        }
    }

    fn missing_value(&self, op: &Op, key: &str, writes: &Writes, now: &Session) -> Vec<(usize, String)> {
        let lost =
            |set: &&usize| now.known.contains(**set) && self.explanations(writes, **set, op).is_empty();
        let story = |set: &usize| (*set, format!("{key} is absent, after {}", self.tell(*set)));
        writes.sets.iter().find(lost).map(story).into_iter().collect()
    }

    fn replaced(&self, key: &str, value: i64, writes: &Writes, now: &Session) -> Vec<(usize, String)> {
        let Some(shown) = writes.by_value.get(&value) else { return Vec::new() };
        let replaces = |other: &&usize| {
            let past = self.pasts.get(other);
            now.known.contains(**other) && past.is_some_and(|past| past.known.contains(*shown))
        };
        let story = |other: &usize| {
            (*other, format!("{key} shows {}, which {} replaced", self.tell(*shown), self.tell(*other)))
        };
        let mut others = writes.sets.iter().chain(&writes.deletes);
        others.find(replaces).map(story).into_iter().collect()
    }

    fn elements(
        &self,
        op: &Op,
        key: &str,
        shown: impl Fn(i64) -> bool,
        writes: &Writes,
        now: &Session,
    ) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        for (insert, element) in &writes.inserts {
            if shown(*element) {
                let deleted = |deletion: &&usize| {
                    let past = self.pasts.get(deletion);
                    now.known.contains(**deletion) && past.is_some_and(|past| past.known.contains(*insert))
                };
                if let Some(deletion) = writes.deletes.iter().find(deleted) {
                    let by = self.tell(*deletion);
                    found.push((*deletion, format!("{key} shows {element}, which {by} deleted")));
                }
            } else if now.known.contains(*insert) && self.explanations(writes, *insert, op).is_empty() {
                found.push((*insert, format!("{key} lacks {}", self.tell(*insert))));
            }
        }
        found
    }

    /// Only counters that nobody deletes or subtracts from have a least value.
    fn counter(
        &self,
        op: &Op,
        key: &str,
        value: i64,
        writes: &Writes,
        now: &Session,
    ) -> Option<(Law, String)> {
        if !writes.deletes.is_empty() || writes.adds.iter().any(|(_, by)| *by < 0) {
            return None;
        }
        let sum = |counts: &dyn Fn(usize) -> bool| -> i64 {
            writes.adds.iter().filter(|(add, _)| counts(*add)).map(|(_, by)| by).sum()
        };
        let possible = sum(&|add| self.ops[add].is_possible() && self.ops[add].begin_ns < op.end_ns);
        if value > possible {
            return Some((Law::Origin, format!("{key} is {value}, and only {possible} were ever added")));
        }
        let own = sum(&|add| now.own.contains(add));
        let read = now.counters.get(key).copied().unwrap_or(0);
        let known = sum(&|add| now.known.contains(add));
        let known = known.max(now.counters_inherited.get(key).copied().unwrap_or(0));
        let (law, least) = if value < own {
            (Law::ReadYourWrites, own)
        } else if value < read {
            (Law::MonotonicReads, read)
        } else if value < known {
            let least = sum(&|add| now.own.contains(add) || self.has_known_successor(add, now));
            if value < least { (Law::MonotonicWrites, least) } else { (Law::WritesFollowReads, known) }
        } else {
            return None;
        };
        Some((law, format!("{key} is {value}, and the session knows of {least}")))
    }

    fn has_known_successor(&self, write: usize, now: &Session) -> bool {
        let session = self.ops[write].session;
        let later = |other: usize| {
            self.ops[other].session == session
                && self.pasts.get(&other).is_some_and(|past| past.known.contains(write))
        };
        now.known.contains(write) && now.known.iter().any(later)
    }

    /// By which guarantee the session should have seen this write.
    fn law(&self, write: usize, before: &Session, now: &Session) -> Law {
        if before.own.contains(write) {
            Law::ReadYourWrites
        } else if before.read.contains(write) {
            Law::MonotonicReads
        } else if self.has_known_successor(write, now) {
            Law::MonotonicWrites
        } else {
            Law::WritesFollowReads
        }
    }

    fn tell(&self, write: usize) -> String {
        let op = &self.ops[write];
        format!("{:?} by session {} at {}/{}", op.actions, op.session, op.dc, op.node)
    }

    fn report(&mut self, law: Law, op: &Op, story: String) {
        let Op { session, dc, node, begin_ns, end_ns, .. } = op;
        let when = format!("session {session} at {dc}/{node}, {begin_ns}..{end_ns} ns");
        self.violations.push(Violation::new(law, format!("{when}: {story}")));
    }
}

/// What an operation read, but for registers that it had set before it read them: its own value hides what others wrote,
/// and whether it shows is for the checkers of transactions to say.
fn seen_of_others(op: &Op) -> Vec<&Action> {
    let mut set = BTreeSet::new();
    let mut seen = Vec::new();
    for action in &op.actions {
        match action {
            Action::Set { key, .. } => {
                set.insert(key);
            }
            Action::Get { key, .. } if set.contains(key) => {}
            _ => seen.push(action),
        }
    }
    seen
}

fn raise(least: &mut BTreeMap<String, i64>, other: &BTreeMap<String, i64>) {
    for (key, value) in other {
        let entry = least.entry(key.clone()).or_insert(*value);
        *entry = (*entry).max(*value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use crate::checkers::testkit::{add, delete, get, insert, laws, members, ok, op, serial, set, sum};

    /// One history per guarantee and kind of key that breaks it, and nothing else.
    #[test]
    fn each_guarantee_that_is_broken_is_named() {
        let cases = [
            (Law::ReadYourWrites, vec![(1, vec![set("x", 1)]), (1, vec![get("x", None)])]),
            (
                Law::ReadYourWrites,
                vec![(1, vec![set("x", 1)]), (1, vec![set("x", 2)]), (1, vec![get("x", 1)])],
            ),
            (Law::ReadYourWrites, vec![(1, vec![insert("s", 1)]), (1, vec![members("s", &[])])]),
            (
                Law::ReadYourWrites,
                vec![(1, vec![add("c", 5)]), (1, vec![sum("c", 4)]), (2, vec![add("c", 4)])],
            ),
            (
                Law::ReadYourWrites,
                vec![(1, vec![set("x", 1)]), (1, vec![delete("x")]), (1, vec![get("x", 1)])],
            ),
            (
                Law::MonotonicReads,
                vec![(1, vec![insert("s", 1)]), (2, vec![members("s", &[1])]), (2, vec![members("s", &[])])],
            ),
            (
                Law::MonotonicReads,
                vec![(1, vec![add("c", 3)]), (2, vec![sum("c", 3)]), (2, vec![sum("c", 0)])],
            ),
            (
                Law::MonotonicReads,
                vec![
                    (1, vec![set("x", 1)]),
                    (2, vec![get("x", 1)]),
                    (1, vec![delete("x")]),
                    (2, vec![get("x", None)]),
                    (2, vec![get("x", 1)]),
                ],
            ),
            (
                Law::MonotonicWrites,
                vec![(1, vec![insert("s", 1)]), (1, vec![insert("s", 2)]), (2, vec![members("s", &[2])])],
            ),
            (
                Law::MonotonicWrites,
                vec![
                    (1, vec![add("c", 3)]),
                    (1, vec![set("x", 1)]),
                    (2, vec![get("x", 1)]),
                    (2, vec![sum("c", 0)]),
                ],
            ),
            (
                Law::WritesFollowReads,
                vec![
                    (1, vec![insert("s", 1)]),
                    (2, vec![members("s", &[1])]),
                    (2, vec![insert("s", 2)]),
                    (3, vec![members("s", &[2])]),
                ],
            ),
            (
                Law::WritesFollowReads,
                vec![
                    (1, vec![set("post", 1)]),
                    (2, vec![get("post", 1)]),
                    (2, vec![set("reply", 2)]),
                    (3, vec![get("reply", 2)]),
                    (3, vec![get("post", None)]),
                ],
            ),
            (
                Law::WritesFollowReads,
                vec![
                    (1, vec![add("c", 7)]),
                    (2, vec![sum("c", 7)]),
                    (2, vec![set("x", 1)]),
                    (3, vec![get("x", 1)]),
                    (3, vec![sum("c", 0)]),
                ],
            ),
            (Law::Origin, vec![(1, vec![get("x", 9)])]),
            (Law::Origin, vec![(1, vec![add("c", 1)]), (1, vec![sum("c", 2)])]),
        ];
        for (law, ops) in cases {
            let violations = check(&serial(ops.clone()));
            assert_eq!(laws(&violations), [law], "{ops:?}: {violations:?}");
        }
    }

    #[test]
    fn what_concurrent_writes_unknown_outcomes_and_deletions_explain_is_no_violation() {
        let cases = [
            // Two writes that know nothing of each other may show in either order.
            vec![
                (1, vec![set("x", 1)]),
                (2, vec![set("x", 2)]),
                (3, vec![get("x", 2)]),
                (3, vec![get("x", 1)]),
            ],
            // Another session's deletion explains the absence of what was known.
            vec![(1, vec![set("x", 1)]), (2, vec![delete("x")]), (1, vec![get("x", None)])],
            // What was deleted was written again.
            vec![
                (1, vec![set("x", 1)]),
                (1, vec![delete("x")]),
                (2, vec![set("x", 2)]),
                (1, vec![get("x", 2)]),
            ],
            // A transaction replaces what it knew, and reads that again.
            vec![
                (1, vec![set("x", 1)]),
                (1, vec![get("x", 1), set("x", 2), get("x", 2), set("x", 3), get("x", 3)]),
                (1, vec![get("x", 3)]),
            ],
            // A session that never knew of a write need not see it.
            vec![(1, vec![insert("s", 1)]), (2, vec![members("s", &[])]), (2, vec![sum("c", 0)])],
        ];
        for ops in cases {
            assert_eq!(check(&serial(ops.clone())), [], "{ops:?}");
        }
        let lost = History {
            ops: vec![
                op(1, 0, 5, Outcome::Unknown, vec![set("x", 1)]),
                ok(1, 10, 15, vec![get("x", None)]),
                ok(1, 20, 25, vec![get("x", 1)]),
            ],
        };
        assert_eq!(check(&lost), []);
    }

    #[test]
    fn an_unknown_write_counts_from_the_first_read_that_shows_it() {
        let unsteady = History {
            ops: vec![
                op(1, 0, 5, Outcome::Unknown, vec![insert("s", 1)]),
                ok(1, 10, 15, vec![members("s", &[1])]),
                ok(1, 20, 25, vec![members("s", &[])]),
            ],
        };
        assert_eq!(laws(&check(&unsteady)), [Law::MonotonicReads]);
        let refused = History {
            ops: vec![
                op(1, 0, 5, Outcome::Failed, vec![insert("s", 1)]),
                ok(1, 10, 15, vec![members("s", &[1])]),
                ok(2, 0, 1, vec![get("x", 7)]),
                ok(3, 4, 5, vec![set("x", 7)]),
            ],
        };
        assert_eq!(
            laws(&check(&refused)),
            [Law::Origin],
            "shown though refused, and before it was asked for"
        );
        assert_eq!(check(&refused).len(), 2);
    }
}
