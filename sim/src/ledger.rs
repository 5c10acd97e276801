//! What the clients did and saw, and what they must have seen.
//!
//! Every write is unique, and an outcome that timed out is unknown, never assumed. Elements of sets are only added
//! (except in `removed`), so that whatever a session knows to exist must be in every later read of that session: its own
//! acknowledged adds, what it has read, and all that the authors of those elements knew when they added them. This one
//! rule covers read your writes, monotonic reads, monotonic writes, writes follow reads, causal order and, for pairs
//! that were written together, atomic visibility.

use std::collections::{BTreeMap, BTreeSet};

use meridian_history::Outcome;
use meridian_history::rest::Rest;
use serde_json::Value as Json;

use crate::documents::shown;
use crate::slate::{SLATE, Slate};

/// The sets that everybody adds to.
pub(crate) const SETS: [&str; 3] = ["posts", "replies", "likes"];
/// The set whose elements are removed by those who added them.
pub(crate) const REMOVED: &str = "removed";
/// The document that editors write, and sessions too.
///
/// SUBTLE: an editor who goes to another DC brings the whole of its copy along, others' edits too, and knows no tokens. So
/// who sees an element of this document need not see what its author knew of anything else.
pub(crate) const DRAFT: &str = "draft";
/// The document that only sessions write: what is said of elements of sets is true of its elements.
pub(crate) const MINUTES: &str = "minutes";
/// The documents.
pub(crate) const DOCS: [&str; 2] = [DRAFT, MINUTES];
/// The counters.
pub(crate) const COUNTERS: [&str; 2] = ["visits", "stock"];

/// Sessions of one operation have numbers above all others.
const LONE_SESSIONS_FROM: usize = 1_000_000;
/// How the keys of registers begin that are set and read linearizably.
pub(crate) const LINEAR: &str = "linear-";

/// The key of that of one DC, which only those set who ask there.
pub(crate) fn linear(dc: &str) -> String {
    format!("{LINEAR}{dc}")
}

/// The key of a session's register, which it alone writes.
pub(crate) fn register(session: u64) -> String {
    format!("register-{session}")
}

/// An element of one of the sets or documents.
pub(crate) type Fact = (String, i64);

/// What a session knows to exist.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) facts: BTreeSet<Fact>,
    /// For each register the highest number that was read or acknowledged.
    pub(crate) registers: BTreeMap<u64, u64>,
}

struct Added {
    outcome: Outcome,
    implies: BTreeSet<Fact>,
}

/// How much was done in a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Writes whose outcome is unknown.
    pub unknown: u64,
    /// Writes that were refused: nothing of them may ever be seen.
    pub refused: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Reads that were not.
    pub reads_failed: u64,
    /// Edits of editors that were acknowledged.
    pub edits: u64,
    /// Edits that were lost with their editor before anybody acknowledged them.
    pub edits_unknown: u64,
    /// Connections of editors to nodes.
    pub visits: u64,
    /// Deletes of a document that editors had open.
    pub deletes: u64,
    /// Editors who were told that their document was deleted.
    pub sent_away: u64,
    /// Copies of documents that nodes had compacted at rest.
    pub compacted: u64,
    /// Faults that were injected.
    pub faults: u64,
    /// How often a node was started.
    pub boots: u64,
}

/// What every client of a run wrote, and what each write implies.
#[derive(Default)]
pub(crate) struct Ledger {
    added: BTreeMap<Fact, Added>,
    counters: BTreeMap<String, (i64, i64)>,
    /// Outcomes of the numbers 1, 2, ... written to each register.
    registers: BTreeMap<u64, Vec<Outcome>>,
    gone: BTreeSet<i64>,
    /// How many sessions there are, and so how many registers.
    pub(crate) sessions: u64,
    pub(crate) counts: Counts,
    /// What is known of the document that is deleted.
    pub(crate) slate: Slate,
    lone_sessions: usize,
    /// What all nodes hold at rest of each document, in its order.
    pub(crate) agreed: BTreeMap<String, Vec<i64>>,
    /// What nodes hold at the end, as far as they could be read.
    pub(crate) rest: Vec<Rest>,
    pub(crate) violations: Vec<String>,
}

impl Ledger {
    /// The ledger of so many sessions, before anything has happened.
    pub(crate) fn of(sessions: u64) -> Self {
        Self { sessions, ..Self::default() }
    }

    pub(crate) fn violated(&mut self, what: String) {
        const VIOLATIONS_MAX: usize = 50;
        if self.violations.len() < VIOLATIONS_MAX {
            self.violations.push(what);
        }
    }

    /// One more write has ended.
    pub(crate) fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.counts.acked += 1,
            Outcome::Unknown => self.counts.unknown += 1,
            Outcome::Failed => self.counts.refused += 1,
        }
    }

    /// A session for one operation that nothing comes before or after.
    pub(crate) fn lone_session(&mut self) -> usize {
        self.lone_sessions += 1;
        LONE_SESSIONS_FROM + self.lone_sessions
    }

    /// Before these elements are added by somebody who knows this: from now on others may see them.
    pub(crate) fn adding(&mut self, facts: &[Fact], known: &Known) {
        let is_carried = facts.iter().any(|(key, _)| key == DRAFT);
        let implied = known.facts.iter().filter(|(key, _)| !is_carried || key == DRAFT);
        let implies: BTreeSet<Fact> = implied.chain(facts).cloned().collect();
        for fact in facts {
            self.added.insert(fact.clone(), Added { outcome: Outcome::Unknown, implies: implies.clone() });
        }
    }

    /// What came of it.
    pub(crate) fn added(&mut self, facts: &[Fact], outcome: Outcome, known: &mut Known) {
        for fact in facts {
            if let Some(added) = self.added.get_mut(fact) {
                added.outcome = outcome;
            }
            if outcome == Outcome::Ok {
                known.facts.insert(fact.clone());
            }
        }
    }

    pub(crate) fn counted(&mut self, key: &str, by: i64, outcome: Outcome) {
        let (acked, unknown) = self.counters.entry(key.to_owned()).or_default();
        match outcome {
            Outcome::Ok => *acked += by,
            Outcome::Unknown => *unknown += by,
            Outcome::Failed => {}
        }
    }

    /// The number that a session writes next into its register; unknown until told otherwise.
    pub(crate) fn setting(&mut self, session: u64) -> u64 {
        let outcomes = self.registers.entry(session).or_default();
        outcomes.push(Outcome::Unknown);
        outcomes.len() as u64
    }

    pub(crate) fn set(&mut self, session: u64, number: u64, outcome: Outcome, known: &mut Known) {
        if let Some(known) = self.registers.get_mut(&session).and_then(|all| all.get_mut(number as usize - 1))
        {
            *known = outcome;
        }
        if outcome == Outcome::Ok {
            known.registers.insert(session, number);
        }
    }

    /// An element of `removed` is gone for good.
    pub(crate) fn gone(&mut self, element: i64, outcome: Outcome) {
        if outcome == Outcome::Ok {
            self.gone.insert(element);
        }
    }

    /// A session has read a set.
    pub(crate) fn read_set(&mut self, who: &str, key: &str, seen: &BTreeSet<i64>, known: &mut Known) {
        let missing: Vec<i64> =
            known.facts.iter().filter(|(set, e)| set == key && !seen.contains(e)).map(|(_, e)| *e).collect();
        if !missing.is_empty() {
            self.violated(format!("{who} knows of {missing:?} in {key}, and a read does not have them"));
        }
        for element in seen {
            self.check_existing(who, key, *element);
            if let Some(added) = self.added.get(&(key.to_owned(), *element)) {
                known.facts.extend(added.implies.iter().cloned());
            }
        }
    }

    /// Somebody is shown these elements of a document, of which each may be there once.
    pub(crate) fn shown(&mut self, who: &str, key: &str, elements: &[i64]) -> BTreeSet<i64> {
        let mut once = BTreeSet::new();
        let twice: Vec<i64> = elements.iter().copied().filter(|element| !once.insert(*element)).collect();
        if !twice.is_empty() {
            self.violated(format!("{who} shows {twice:?} more than once in {key}"));
        }
        once
    }

    /// Somebody has seen an element.
    pub(crate) fn check_existing(&mut self, who: &str, key: &str, element: i64) {
        match self.added.get(&(key.to_owned(), element)).map(|added| added.outcome) {
            Some(Outcome::Ok | Outcome::Unknown) => {}
            Some(Outcome::Failed) => {
                self.violated(format!("{who} reads {element} in {key}, whose write was refused"));
            }
            None => self.violated(format!("{who} reads {element} in {key}, which nobody wrote")),
        }
    }

    /// A session has read a register.
    pub(crate) fn read_register(&mut self, who: &str, writer: u64, number: Option<u64>, known: &mut Known) {
        let floor = known.registers.get(&writer).copied().unwrap_or_default();
        let read = number.unwrap_or_default();
        let outcome = |n: u64| -> Option<Outcome> {
            self.registers.get(&writer)?.get(usize::try_from(n).ok()?.checked_sub(1)?).copied()
        };
        match (read, outcome(read)) {
            (0, _) if floor > 0 => {
                self.violated(format!("{who} knows number {floor} of register {writer} and reads nothing"));
            }
            (0, _) => {}
            (_, None) => self.violated(format!("{who} reads {read} in register {writer}, never written")),
            (_, Some(Outcome::Failed)) => {
                self.violated(format!("{who} reads {read} in register {writer}, which was refused"));
            }
            // A write of unknown outcome may take effect late, concurrent with its successors.
            (_, Some(Outcome::Ok)) if read < floor => {
                self.violated(format!("{who} knows number {floor} of register {writer} and reads {read}"));
            }
            _ => {
                let floor = known.registers.entry(writer).or_default();
                *floor = (*floor).max(read);
            }
        }
    }

    /// What a node holds at the end must be what was acknowledged, and nothing that was refused.
    pub(crate) fn check_final(&mut self, who: &str, contents: &BTreeMap<String, Json>) {
        let mut held: BTreeSet<Fact> = BTreeSet::new();
        for key in SETS.iter().chain([&REMOVED]) {
            let elements = contents.get(*key).map(numbers).unwrap_or_default();
            held.extend(elements.into_iter().map(|element| ((*key).to_owned(), element)));
        }
        for key in DOCS.into_iter().chain([SLATE]) {
            let elements = contents.get(key).map(shown).unwrap_or_default();
            let elements = self.shown(who, key, &elements);
            let wrong = if key == SLATE { self.slate.at_rest(&elements) } else { String::new() };
            if !wrong.is_empty() {
                self.violated(format!("{who} {wrong}"));
            }
            held.extend(elements.into_iter().map(|element| (key.to_owned(), element)));
        }
        for (key, element) in &held {
            self.check_existing(who, key, *element);
        }
        self.check_kept(who, &held);
        let is_back = |(set, element): &&Fact| set == REMOVED && self.gone.contains(element);
        let back: Vec<i64> = held.iter().filter(is_back).map(|(_, element)| *element).collect();
        if !back.is_empty() {
            self.violated(format!("{who} has {back:?} again, which were removed"));
        }
        for (key, (acked, unknown)) in self.counters.clone() {
            let value = contents.get(&key).and_then(Json::as_i64).unwrap_or_default();
            if value < acked || value > acked + unknown {
                self.violated(format!(
                    "{who} reads {value} in {key}: {acked} were acked, {unknown} are unknown"
                ));
            }
        }
    }

    /// Nothing acknowledged is missing, and nothing that is there misses what it implies.
    fn check_kept(&mut self, who: &str, held: &BTreeSet<Fact>) {
        let (mut lost, mut torn) = (BTreeSet::new(), BTreeSet::new());
        for (fact, added) in &self.added {
            // Of what may be gone it is known elsewhere whether it is.
            let stays = fact.0 != REMOVED && fact.0 != SLATE;
            if stays && added.outcome == Outcome::Ok && !held.contains(fact) {
                lost.insert(fact.clone());
            }
            if held.contains(fact) {
                torn.extend(added.implies.difference(held).cloned());
            }
        }
        if !lost.is_empty() {
            self.violated(format!("{who} has lost {lost:?}, which were acknowledged"));
        }
        if !torn.is_empty() {
            self.violated(format!("{who} misses {torn:?}, which others that it has imply"));
        }
    }
}

/// The numbers of a JSON array.
fn numbers(value: &Json) -> Vec<i64> {
    value.as_array().into_iter().flatten().filter_map(Json::as_i64).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fact(key: &str, element: i64) -> Fact {
        (key.to_owned(), element)
    }

    /// A ledger in which one session has added 1 to the posts, with this outcome, and what it knows.
    fn posted(outcome: Outcome) -> (Ledger, Known) {
        let (mut ledger, mut known) = (Ledger::of(2), Known::default());
        let facts = [fact("posts", 1)];
        ledger.adding(&facts, &known);
        ledger.added(&facts, outcome, &mut known);
        (ledger, known)
    }

    fn contents(posts: &[i64]) -> BTreeMap<String, Json> {
        BTreeMap::from([("posts".to_owned(), json!(posts))])
    }

    fn finds(ledger: &Ledger, words: &str) {
        assert!(ledger.violations.iter().any(|v| v.contains(words)), "{words}: {:?}", ledger.violations);
    }

    #[test]
    fn a_good_ledger_has_no_violations() {
        let (mut ledger, mut known) = posted(Outcome::Ok);
        ledger.read_set("s", "posts", &BTreeSet::from([1]), &mut known);
        ledger.counted("visits", 3, Outcome::Ok);
        ledger.counted("visits", 2, Outcome::Unknown);
        let mut end = contents(&[1]);
        end.insert("visits".to_owned(), json!(5));
        ledger.check_final("n", &end);
        assert!(ledger.violations.is_empty(), "{:?}", ledger.violations);
    }

    #[test]
    fn a_session_that_does_not_read_its_own_write_is_found() {
        let (mut ledger, mut known) = posted(Outcome::Ok);
        ledger.read_set("s", "posts", &BTreeSet::new(), &mut known);
        finds(&ledger, "a read does not have them");
    }

    #[test]
    fn a_reply_without_its_post_is_found() {
        let (mut ledger, mut author) = posted(Outcome::Ok);
        let reply = [fact("replies", 2)];
        ledger.adding(&reply, &author);
        ledger.added(&reply, Outcome::Ok, &mut author);
        let mut reader = Known::default();
        ledger.read_set("r", "replies", &BTreeSet::from([2]), &mut reader);
        assert!(ledger.violations.is_empty());
        ledger.read_set("r", "posts", &BTreeSet::new(), &mut reader);
        finds(&ledger, "r knows of");
    }

    #[test]
    fn half_of_a_pair_is_found() {
        let (mut ledger, mut known) = (Ledger::of(1), Known::default());
        let pair = [fact("posts", 1), fact("replies", 1)];
        ledger.adding(&pair, &known);
        ledger.added(&pair, Outcome::Unknown, &mut known);
        ledger.check_final("n", &contents(&[1]));
        finds(&ledger, "which others that it has imply");
    }

    #[test]
    fn a_lost_write_is_found_and_an_unknown_one_may_be_missing() {
        let (mut ledger, _) = posted(Outcome::Unknown);
        ledger.check_final("n", &contents(&[]));
        assert!(ledger.violations.is_empty());
        let (mut ledger, _) = posted(Outcome::Ok);
        ledger.check_final("n", &contents(&[]));
        finds(&ledger, "has lost");
    }

    #[test]
    fn what_was_refused_or_never_written_is_found() {
        let (mut ledger, _) = posted(Outcome::Failed);
        ledger.check_final("n", &contents(&[1, 26]));
        finds(&ledger, "whose write was refused");
        finds(&ledger, "which nobody wrote");
    }

    #[test]
    fn a_counter_that_counts_twice_or_not_at_all_is_found() {
        for value in [2, 6] {
            let mut ledger = Ledger::of(1);
            ledger.counted("visits", 3, Outcome::Ok);
            ledger.counted("visits", 2, Outcome::Unknown);
            ledger.counted("visits", 9, Outcome::Failed);
            ledger.check_final("n", &BTreeMap::from([("visits".to_owned(), json!(value))]));
            finds(&ledger, "3 were acked");
        }
    }

    /// A ledger in which an editor has made two edits, one after the other, with these outcomes.
    fn edited(outcomes: [Outcome; 2]) -> Ledger {
        let (mut ledger, mut own) = (Ledger::of(1), Known::default());
        for (element, outcome) in [11, 12].into_iter().zip(outcomes) {
            let facts = [fact(DRAFT, element)];
            ledger.adding(&facts, &own);
            own.facts.extend(facts.iter().cloned());
            ledger.added(&facts, outcome, &mut Known::default());
        }
        ledger
    }

    fn holding(elements: &[i64]) -> BTreeMap<String, Json> {
        BTreeMap::from([(DRAFT.to_owned(), json!({ "a": elements }))])
    }

    #[test]
    fn a_document_may_hold_its_edits_in_any_order_and_those_of_unknown_outcome_or_not() {
        for elements in [&[11, 12][..], &[12, 11], &[11]] {
            let mut ledger = edited([Outcome::Ok, Outcome::Unknown]);
            ledger.check_final("n", &holding(elements));
            assert_eq!(ledger.violations, [""; 0], "{elements:?}");
        }
    }

    #[test]
    fn an_edit_that_is_lost_doubled_torn_or_nobodys_is_found() {
        let failing = [
            (&[12][..], [Outcome::Ok; 2], "has lost"),
            (&[], [Outcome::Ok; 2], "has lost"),
            (&[11, 12, 11], [Outcome::Ok; 2], "shows [11] more than once"),
            (&[11, 12, 12], [Outcome::Ok, Outcome::Unknown], "shows [12] more than once"),
            // Who sees what an editor has made sees what it had made before.
            (&[12], [Outcome::Unknown; 2], "which others that it has imply"),
            (&[11, 12, 13], [Outcome::Ok; 2], "which nobody wrote"),
        ];
        for (elements, outcomes, words) in failing {
            let mut ledger = edited(outcomes);
            ledger.check_final("n", &holding(elements));
            finds(&ledger, words);
        }
    }

    #[test]
    fn what_an_editor_may_have_carried_implies_nothing_of_other_keys() {
        for (doc, implies) in [(DRAFT, false), (MINUTES, true)] {
            let (mut ledger, author) = posted(Outcome::Ok);
            ledger.adding(&[fact(doc, 11)], &author);
            let mut reader = Known::default();
            ledger.read_set("r", doc, &BTreeSet::from([11]), &mut reader);
            assert_eq!(reader.facts.contains(&fact("posts", 1)), implies, "{doc}");
        }
    }

    #[test]
    fn a_session_that_does_not_read_what_an_editor_was_told_to_be_kept_is_found() {
        let mut ledger = edited([Outcome::Ok; 2]);
        let mut known = Known { facts: BTreeSet::from([fact(DRAFT, 11)]), ..Known::default() };
        ledger.read_set("e", DRAFT, &BTreeSet::from([11, 12]), &mut known);
        assert!(ledger.violations.is_empty());
        ledger.read_set("e", DRAFT, &BTreeSet::from([12]), &mut known);
        finds(&ledger, "e knows of [11] in draft");
    }

    #[test]
    fn a_removed_element_that_comes_back_is_found() {
        let (mut ledger, mut known) = (Ledger::of(1), Known::default());
        let facts = [fact(REMOVED, 1)];
        ledger.adding(&facts, &known);
        ledger.added(&facts, Outcome::Ok, &mut known);
        ledger.gone(1, Outcome::Ok);
        ledger.check_final("n", &BTreeMap::from([(REMOVED.to_owned(), json!([1]))]));
        finds(&ledger, "which were removed");
    }

    #[test]
    fn a_register_that_goes_back_in_time_is_found() {
        let (mut ledger, mut known) = (Ledger::of(1), Known::default());
        for _ in 0..2 {
            let number = ledger.setting(0);
            ledger.set(0, number, Outcome::Ok, &mut known);
        }
        ledger.read_register("s", 0, Some(2), &mut known);
        assert!(ledger.violations.is_empty());
        ledger.read_register("s", 0, Some(1), &mut known);
        finds(&ledger, "reads 1");
        ledger.read_register("s", 0, None, &mut known);
        finds(&ledger, "reads nothing");
    }
}
