//! A watcher sees each write once, each txn whole, and nothing before what it could have been made from.
//!
//! From the promise of the stream itself: from its cursor on, every txn that touched what is watched comes once, whole, in an
//! order that agrees with causality, through any number of reconnections. Causality is what clients can know of it: the
//! order of sessions and of reads-from. What is refused never comes; what is unknown comes once or never.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::bits::Bits;
use super::{Law, Violation, sessions};
use crate::{Action, History};

/// One event of a stream: the writes of one txn as (key, value), in the order in which the stream showed them.
pub type Event = Vec<(String, i64)>;

/// Every way in which a stream, taken from before the history's first write to after its last, contradicts the
/// history. Only writes with values of their own count: sets of registers, elements of sets and lists.
pub fn check(history: &History, watched: impl Fn(&str) -> bool, stream: &[Event]) -> Vec<Violation> {
    check_among(history, &Pasts::of(history), watched, stream)
}

/// What the session of each write knew: the same for all streams of a history.
#[derive(Debug)]
pub struct Pasts(HashMap<usize, Bits>);

impl Pasts {
    /// Finds out.
    pub fn of(history: &History) -> Pasts {
        Pasts(sessions::pasts(history))
    }
}

/// The same as [`check`], for one of several streams.
pub fn check_among(
    history: &History,
    Pasts(pasts): &Pasts,
    watched: impl Fn(&str) -> bool,
    stream: &[Event],
) -> Vec<Violation> {
    let mut expected = BTreeMap::<usize, BTreeSet<(&str, i64)>>::new();
    let mut writers = HashMap::new();
    for (i, op) in history.ops.iter().enumerate() {
        for action in &op.actions {
            if let Action::Set { key, value }
            | Action::Append { key, value }
            | Action::Insert { key, element: value } = action
                && watched(key)
            {
                expected.entry(i).or_default().insert((key, *value));
                writers.insert((key.as_str(), *value), i);
            }
        }
    }
    let mut violations = Vec::new();
    let mut seen = BTreeMap::<usize, usize>::new();
    for (at, event) in stream.iter().enumerate() {
        let mut writer = None;
        for (key, value) in event {
            match writers.get(&(key.as_str(), *value)) {
                Some(i) if history.ops[*i].is_possible() => writer = Some(*i),
                _ => violations.push(told(Law::Origin, at, format!("{value} of {key} was never written"))),
            }
        }
        let Some(writer) = writer else { continue };
        let shown: BTreeSet<(&str, i64)> = event.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        if shown != expected[&writer] {
            let story = format!("it shows {shown:?} of a txn of {:?}", expected[&writer]);
            violations.push(told(Law::ReadAtomic, at, story));
        }
        if let Some(first) = seen.insert(writer, at) {
            violations.push(told(Law::Twice, at, format!("event {first} showed {event:?} already")));
        }
    }
    for (i, writes) in &expected {
        if history.ops[*i].is_ok() && !seen.contains_key(i) {
            violations.push(Violation::new(Law::Lost, format!("the stream never shows {writes:?}")));
        }
    }
    for (later, at) in &seen {
        let past = pasts.get(later).into_iter().flat_map(|past| past.iter());
        for earlier in past.filter(|earlier| seen.get(earlier).is_some_and(|place| place > at)) {
            let story = format!("it comes before {:?}, which it could be made from", expected[&earlier]);
            violations.push(told(Law::StreamOrder, *at, story));
        }
    }
    violations
}

fn told(law: Law, at: usize, story: String) -> Violation {
    Violation::new(law, format!("event {at}: {story}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use crate::checkers::testkit::{get, insert, laws, ok, op, set};

    fn history() -> History {
        History {
            ops: vec![
                ok(1, 0, 1, vec![set("x", 1), insert("s", 1)]),
                ok(2, 2, 3, vec![get("x", 1)]),
                ok(2, 4, 5, vec![set("x", 2)]),
                ok(3, 4, 5, vec![set("x", 3)]),
                op(3, 6, 7, Outcome::Unknown, vec![set("x", 4)]),
                op(3, 8, 9, Outcome::Failed, vec![set("x", 5)]),
                ok(3, 10, 11, vec![set("unwatched", 1)]),
            ],
        }
    }

    fn stream(events: &[&[(&str, i64)]]) -> Vec<Law> {
        let own =
            |event: &&[(&str, i64)]| event.iter().map(|(key, value)| (key.to_string(), *value)).collect();
        let stream: Vec<Event> = events.iter().map(own).collect();
        laws(&check(&history(), |key| key != "unwatched", &stream))
    }

    #[test]
    fn streams_that_lose_repeat_split_invent_or_disorder_txns_are_named() {
        const FIRST: &[(&str, i64)] = &[("x", 1), ("s", 1)];
        assert_eq!(stream(&[FIRST, &[("x", 2)], &[("x", 3)]]), []);
        assert_eq!(stream(&[&[("x", 3)], FIRST, &[("x", 2)], &[("x", 4)]]), [], "concurrent, and unknown");
        assert_eq!(stream(&[FIRST, &[("x", 2)]]), [Law::Lost]);
        assert_eq!(stream(&[FIRST, &[("x", 2)], &[("x", 3)], &[("x", 2)]]), [Law::Twice]);
        assert_eq!(stream(&[&[("x", 2)], FIRST, &[("x", 3)]]), [Law::StreamOrder]);
        assert_eq!(stream(&[&[("x", 1)], &[("x", 2)], &[("x", 3)]]), [Law::ReadAtomic]);
        assert_eq!(stream(&[FIRST, &[("x", 2)], &[("x", 3)], &[("x", 5)]]), [Law::Origin]);
        assert_eq!(stream(&[FIRST, &[("x", 2)], &[("x", 3)], &[("y", 7)]]), [Law::Origin]);
    }
}
