//! What has to be removed and inserted so that one sequence becomes another: few changes, found in bounded time.
//!
//! Sequences are cut to the part in which they differ. A long one is compared in words first, and then within the words
//! that differ; what is longer still is replaced as a whole. The result depends on nothing but the sequences.

use std::hash::Hash;
use std::ops::Range;

use imara_diff::{Algorithm, Diff, InternedInput, Interner};

/// Above so many items of both sequences together they are not compared item by item.
const ITEMS_MAX: usize = 200_000;
/// Above so many characters within a group of words that differs, its characters are not compared.
const CHARS_MAX: usize = 64 << 10;
/// Above so many changes one takes the place of all: each has to be found in the document again.
const CHANGES_MAX: usize = 10_000;

/// One change: these items of the first sequence become those of the second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub before: Range<usize>,
    pub after: Range<usize>,
}

/// The changes between two sequences of characters; `of` says what character an item is. In order.
pub(super) fn texts<T: Hash + Eq + Copy>(before: &[T], after: &[T], of: impl Fn(T) -> char) -> Vec<Change> {
    let Some(differs) = differing(before, after) else { return Vec::new() };
    let (old, new) = (&before[differs.before.clone()], &after[differs.after.clone()]);
    let mut found = Vec::new();
    if old.len() + new.len() <= CHARS_MAX {
        found = compared(old, new);
    } else {
        let (old_words, new_words) = (words(old, &of), words(new, &of));
        let of_words = |words: &[Range<usize>], range: &Range<usize>, end: usize| {
            let at = |word: usize| words.get(word).map_or(end, |word| word.start);
            at(range.start)..at(range.end)
        };
        let slices = |items: &'_ [T], words: &[Range<usize>]| -> Vec<Vec<T>> {
            words.iter().map(|word| items[word.clone()].to_vec()).collect()
        };
        for change in sequences(&slices(old, &old_words), &slices(new, &new_words)) {
            let whole = Change {
                before: of_words(&old_words, &change.before, old.len()),
                after: of_words(&new_words, &change.after, new.len()),
            };
            if whole.before.len() + whole.after.len() > CHARS_MAX {
                found.push(whole);
                continue;
            }
            let within = compared(&old[whole.before.clone()], &new[whole.after.clone()]);
            found.extend(within.into_iter().map(|inner| inner.behind(whole.before.start, whole.after.start)));
        }
    }
    few(found, &differs)
}

/// The changes between two sequences of anything. In order.
pub(super) fn sequences<T: Hash + Eq>(before: &[T], after: &[T]) -> Vec<Change> {
    let Some(differs) = differing(before, after) else { return Vec::new() };
    let (old, new) = (&before[differs.before.clone()], &after[differs.after.clone()]);
    let found = if old.len() + new.len() <= ITEMS_MAX {
        compared(old, new)
    } else {
        vec![Change { before: 0..old.len(), after: 0..new.len() }]
    };
    few(found, &differs)
}

impl Change {
    fn behind(self, before: usize, after: usize) -> Self {
        let moved = |range: Range<usize>, by: usize| range.start + by..range.end + by;
        Self { before: moved(self.before, before), after: moved(self.after, after) }
    }
}

/// Puts changes of the differing part in their places of the whole; one instead, if there are too many.
fn few(found: Vec<Change>, differs: &Change) -> Vec<Change> {
    if found.len() > CHANGES_MAX {
        return vec![differs.clone()];
    }
    found.into_iter().map(|change| change.behind(differs.before.start, differs.after.start)).collect()
}

/// The part in which two sequences differ, if they do.
fn differing<T: Eq>(before: &[T], after: &[T]) -> Option<Change> {
    let front = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let (old, new) = (&before[front..], &after[front..]);
    let back = old.iter().rev().zip(new.iter().rev()).take_while(|(a, b)| a == b).count();
    let change = Change { before: front..before.len() - back, after: front..after.len() - back };
    (!change.before.is_empty() || !change.after.is_empty()).then_some(change)
}

fn compared<T: Hash + Eq>(before: &[T], after: &[T]) -> Vec<Change> {
    let mut interner = Interner::new(before.len() + after.len());
    let old = before.iter().map(|item| interner.intern(item)).collect();
    let new = after.iter().map(|item| interner.intern(item)).collect();
    let input = InternedInput { before: old, after: new, interner };
    let range = |range: Range<u32>| range.start as usize..range.end as usize;
    let diff = Diff::compute(Algorithm::Myers, &input);
    diff.hunks().map(|hunk| Change { before: range(hunk.before), after: range(hunk.after) }).collect()
}

/// Where words are, each with the white space behind it.
fn words<T: Copy>(items: &[T], of: impl Fn(T) -> char) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = 0;
    for (at, pair) in items.windows(2).enumerate() {
        if of(pair[0]).is_whitespace() && !of(pair[1]).is_whitespace() {
            words.push(start..at + 1);
            start = at + 1;
        }
    }
    words.push(start..items.len());
    words
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn applied(before: &[char], after: &[char], changes: &[Change]) -> String {
        let mut result = before.to_vec();
        for change in changes.iter().rev() {
            result.splice(change.before.clone(), after[change.after.clone()].iter().copied());
        }
        result.into_iter().collect()
    }

    fn chars(text: &str) -> Vec<char> {
        text.chars().collect()
    }

    fn of_texts(before: &str, after: &str) -> Vec<Change> {
        texts(&chars(before), &chars(after), |c| c)
    }

    #[test]
    fn only_what_differs_changes() {
        assert_eq!(of_texts("same", "same"), []);
        assert_eq!(of_texts("", "new"), [Change { before: 0..0, after: 0..3 }]);
        assert_eq!(of_texts("one two", "one, two"), [Change { before: 3..3, after: 3..4 }]);
        let changes = of_texts("the quick fox jumps", "a quick fox jumped");
        let touched: usize = changes.iter().map(|c| c.before.len() + c.after.len()).sum();
        assert!(touched <= 7, "{changes:?}");
    }

    #[test]
    fn a_long_text_is_compared_in_words_and_what_is_wholly_other_is_replaced() {
        let long: String = (0..40_000).map(|n| format!("word{n} ")).collect();
        let edited = long.replace("word7 ", "w7 ").replace("word39990 ", "word39990, and more ");
        let changes = of_texts(&long, &edited);
        assert_eq!(applied(&chars(&long), &chars(&edited), &changes), edited);
        let touched: usize = changes.iter().map(|c| c.before.len() + c.after.len()).sum();
        assert!(touched < 40, "{touched}");
        let solid = "x".repeat(CHARS_MAX);
        let changes = of_texts(&format!("a{solid}b"), &format!("b{}a", solid.replace('x', "y")));
        assert_eq!(changes.len(), 1);
    }

    #[test]
    fn many_changes_become_one() {
        let before = "ab".repeat(CHANGES_MAX + 1);
        let after = "cb".repeat(CHANGES_MAX + 1);
        let changes = of_texts(&before, &after);
        assert_eq!(changes.len(), 1);
        assert_eq!(applied(&chars(&before), &chars(&after), &changes), after);
    }

    proptest! {
        #[test]
        fn the_changes_lead_from_one_to_the_other(before in "[ab \n😀]{0,40}", after in "[ab \n😀]{0,40}") {
            let (old, new) = (chars(&before), chars(&after));
            prop_assert_eq!(applied(&old, &new, &texts(&old, &new, |c| c)), after.clone());
            prop_assert_eq!(applied(&old, &new, &sequences(&old, &new)), after);
        }
    }
}
