//! What an editor of a document that is deleted now and then does besides, and what it holds nodes to.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Broken, Editor};
use crate::eraser::now;
use crate::ledger::{Known, Ledger};
use crate::slate::SLATE;

/// Somebody has read the document with a token that covers what it knows, in a request that began then.
pub(super) fn read(ledger: &mut Ledger, who: &str, elements: &BTreeSet<i64>, known: &Known, begun: Duration) {
    for element in elements {
        ledger.check_existing(who, SLATE, *element);
    }
    let back = ledger.slate.back(elements, begun);
    if !back.is_empty() {
        ledger.violated(format!("{who} reads {back:?} in {SLATE}, which every node knew to be deleted"));
    }
    let is_known = |element: &i64| known.facts.contains(&(SLATE.to_owned(), *element));
    let missing: Vec<i64> = ledger.slate.missing(elements).into_iter().filter(is_known).collect();
    if !missing.is_empty() {
        ledger.violated(format!("{who} knows of {missing:?} in {SLATE}, and a read does not have them"));
    }
}

impl Editor {
    /// Its document was deleted: it begins an empty copy.
    pub(super) fn hear_of_deletion(&mut self, node: &str) {
        let is_unfounded = {
            let mut ledger = self.shared.ledger();
            ledger.counts.sent_away += 1;
            self.document != SLATE || ledger.slate.is_still(self.born)
        };
        if is_unfounded {
            self.violated(format!("hears at {node} of a deletion, and nothing that it has was deleted"));
        }
        self.here.clear();
        self.forget();
    }

    /// Nodes know by its mark of which incarnation a copy is. Who leaves in the moment between the first edit and the mark may
    /// bring a deleted document back, as docs/DOCUMENTS.md says; nobody here does.
    pub(super) fn throw_away_unmarked(&mut self) {
        if self.document == SLATE && !self.draft.is_marked() && self.draft.clock() > 0 {
            self.forget();
        }
    }

    /// A node says something on a connection that began then: by now it must have closed it, if it knows that what this
    /// editor has was deleted.
    pub(super) fn check_memory(&self, begun: Duration) -> Result<(), Broken> {
        if self.document != SLATE {
            return Ok(());
        }
        let has: BTreeSet<i64> = self.draft.elements().into_iter().collect();
        match &self.shared.ledger().slate.remembered(&has, begun, now())[..] {
            [] => Ok(()),
            gone => Err(Broken::Promise(format!("has {gone:?}, which were deleted, and is not sent away"))),
        }
    }
}
