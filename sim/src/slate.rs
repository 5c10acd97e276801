//! The document that is deleted while people edit it, and what must be and must not be in it.
//!
//! A delete ends the incarnations that its datacenter knew of. So what was kept in that datacenter before it began is
//! gone, for ever, once it is acknowledged. What is concurrent with a delete may be dropped. But a delete is *settled*
//! once every node has answered a read that shows its token: what is kept afterwards by a connection that began
//! afterwards names incarnations that the delete did not end, and stays until the next delete begins.
//!
//! It knows no time but the one that it is told, and nobody's copy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The key of the document.
pub(crate) const SLATE: &str = "slate";
/// How long a connection may live at a node that has heard that the document of its editor was deleted.
const CLOSING_MAX: Duration = Duration::from_secs(2);

/// So many deletes have begun, and all of them are settled.
pub(crate) type Calm = usize;

/// A delete that somebody asks for.
#[derive(Debug)]
pub(crate) struct Delete {
    /// What it has observed if it takes effect.
    observed: BTreeSet<i64>,
}

#[derive(Default)]
struct Kept {
    /// The datacenters in which it was acknowledged.
    dcs: BTreeSet<usize>,
    /// No delete before this has ended it.
    since: Option<Calm>,
}

/// All that is known of it.
#[derive(Default)]
pub(crate) struct Slate {
    begun: usize,
    settled: usize,
    kept: BTreeMap<i64, Kept>,
    /// What a delete that was acknowledged has observed, and when every node had heard of that.
    gone: BTreeMap<i64, Option<Duration>>,
}

impl Slate {
    /// Before somebody asks for a delete in a datacenter.
    pub(crate) fn deleting(&mut self, dc: usize) -> Delete {
        self.begun += 1;
        let here = self.kept.iter().filter(|(_, kept)| kept.dcs.contains(&dc));
        Delete { observed: here.map(|(element, _)| *element).collect() }
    }

    /// It is acknowledged.
    pub(crate) fn deleted(&mut self, delete: &Delete) {
        for element in &delete.observed {
            self.gone.entry(*element).or_default();
        }
    }

    /// Every node has heard of it, or it was refused and there is nothing to hear.
    pub(crate) fn settled(&mut self, delete: &Delete, now: Duration) {
        self.settled += 1;
        for element in &delete.observed {
            if let Some(gone @ None) = self.gone.get_mut(element) {
                *gone = Some(now);
            }
        }
    }

    /// Whether every node has heard of every delete.
    pub(crate) fn calm(&self) -> Option<Calm> {
        (self.begun == self.settled).then_some(self.begun)
    }

    /// Whether there has been no delete since.
    pub(crate) fn is_still(&self, since: Option<Calm>) -> bool {
        since == Some(self.begun)
    }

    /// A datacenter acknowledges these, on a connection that began `since`.
    pub(crate) fn kept(&mut self, dc: usize, elements: &[i64], since: Option<Calm>) {
        let since = since.filter(|_| self.is_still(since));
        for element in elements {
            let kept = self.kept.entry(*element).or_default();
            kept.dcs.insert(dc);
            kept.since = since.or(kept.since);
        }
    }

    /// Those of these elements that a delete has observed.
    pub(crate) fn observed(&self, delete: &Delete, shown: &BTreeSet<i64>) -> Vec<i64> {
        shown.intersection(&delete.observed).copied().collect()
    }

    /// Those of these elements of which every node had heard at that time that they are gone.
    pub(crate) fn back(&self, shown: &BTreeSet<i64>, at: Duration) -> Vec<i64> {
        let is_gone =
            |element: &&i64| self.gone.get(element).is_some_and(|gone| gone.is_some_and(|t| t < at));
        shown.iter().filter(is_gone).copied().collect()
    }

    /// Those that an editor has and that were deleted, of whom it should have heard by now on a connection that began
    /// then.
    pub(crate) fn remembered(&self, has: &BTreeSet<i64>, begun: Duration, now: Duration) -> Vec<i64> {
        match now.checked_sub(CLOSING_MAX) {
            Some(at) if at > begun => self.back(has, at),
            _ => Vec::new(),
        }
    }

    /// Those that have to be there and are not among these.
    pub(crate) fn missing(&self, shown: &BTreeSet<i64>) -> Vec<i64> {
        let is_due = |kept: &Kept| self.is_still(kept.since);
        let missing = self.kept.iter().filter(|(element, kept)| is_due(kept) && !shown.contains(element));
        missing.map(|(element, _)| *element).collect()
    }

    /// What is wrong with what a node holds at rest; empty if nothing is.
    pub(crate) fn at_rest(&self, shown: &BTreeSet<i64>) -> String {
        let back: Vec<&i64> = shown.iter().filter(|element| self.gone.contains_key(element)).collect();
        let missing = self.missing(shown);
        match (back.is_empty(), missing.is_empty()) {
            (true, true) => String::new(),
            (false, _) => format!("has {back:?} again, which were deleted"),
            (true, false) => format!("has lost {missing:?}, which were kept and no delete has observed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn set(elements: &[i64]) -> BTreeSet<i64> {
        elements.iter().copied().collect()
    }

    #[test]
    fn what_a_delete_has_observed_must_not_be_seen_again() {
        let mut slate = Slate::default();
        slate.kept(0, &[1], slate.calm());
        slate.kept(1, &[2], slate.calm());
        let delete = slate.deleting(0);
        assert_eq!(slate.calm(), None);
        assert_eq!(slate.at_rest(&set(&[1, 2])), "", "nobody has said yet that it took effect");
        slate.deleted(&delete);
        assert_eq!(slate.at_rest(&set(&[2])), "");
        assert_eq!(slate.at_rest(&set(&[])), "", "the other one may have been of the same incarnation");
        assert_ne!(slate.at_rest(&set(&[1, 2])), "");
        assert_eq!(slate.observed(&delete, &set(&[1, 2])), [1]);
        assert_eq!(slate.back(&set(&[1, 2]), SECOND), [0i64; 0], "not every node has heard of it");
        slate.settled(&delete, SECOND);
        assert_eq!(slate.back(&set(&[1, 2]), SECOND * 2), [1]);
        assert_eq!(slate.remembered(&set(&[1]), SECOND, SECOND * 2), [0i64; 0], "it is being closed");
        assert_eq!(slate.remembered(&set(&[1]), SECOND, SECOND * 4), [1]);
    }

    #[test]
    fn what_is_kept_while_nothing_is_deleted_stays() {
        let mut slate = Slate::default();
        let delete = slate.deleting(0);
        slate.kept(0, &[1], slate.calm());
        slate.settled(&delete, SECOND);
        let calm = slate.calm();
        slate.kept(0, &[2], calm);
        assert_eq!(slate.missing(&set(&[])), [2], "1 may have met the delete");
        assert_ne!(slate.at_rest(&set(&[1])), "");
        slate.deleting(1);
        slate.kept(0, &[3], calm);
        assert_eq!(slate.missing(&set(&[])), [0i64; 0], "any of them may have met the next one");
    }
}
