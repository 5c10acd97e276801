//! Documents: which updates count. What they say together is a matter of Yjs.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_crdt::{DocContent, Dot, Mutation, ReadValue};

use super::history::Act;

/// The updates that count: those of whose incarnations none was deleted.
pub fn doc(acts: &[Act<'_>]) -> Option<ReadValue> {
    let mut doc = Doc { acts, begins: BTreeMap::new() };
    let mut counting: Vec<Act<'_>> = acts.iter().filter(|act| updates(**act)).copied().collect();
    counting.retain(|act| doc.named(*act).into_iter().all(|of| !acts.iter().any(|by| deletes(*by, of))));
    // Within a txn in the order in which they were asked for.
    counting.sort_by_key(|act| (act.rank(), act.place()));
    let updates: Vec<Bytes> = counting.iter().flat_map(|act| bytes(act.mutation)).cloned().collect();
    (!updates.is_empty()).then_some(ReadValue::Doc(DocContent { updates, ..DocContent::default() }))
}

fn bytes(mutation: &Mutation) -> &[Bytes] {
    match mutation {
        Mutation::Doc(op) => op.updates(),
        _ => &[],
    }
}

fn updates(act: Act<'_>) -> bool {
    !bytes(act.mutation).is_empty()
}

fn deletes(by: Act<'_>, made: Act<'_>) -> bool {
    matches!(by.mutation, Mutation::Delete(_)) && by.observed(made)
}

struct Doc<'a, 'h> {
    acts: &'a [Act<'h>],
    /// Of each act that was asked about, whether it begins an incarnation.
    begins: BTreeMap<(Dot, usize), bool>,
}

impl<'h> Doc<'_, 'h> {
    /// The incarnations that an update was made in, each as the act that began it: those that lived where it was made,
    /// else itself.
    fn named(&mut self, update: Act<'h>) -> Vec<Act<'h>> {
        let living = self.living(update);
        if living.is_empty() { vec![update] } else { living }
    }

    /// The incarnations that `act` saw, and of which it saw no end.
    fn living(&mut self, act: Act<'h>) -> Vec<Act<'h>> {
        let seen: Vec<Act<'h>> = self.acts.iter().filter(|other| act.observed(**other)).copied().collect();
        let mut living: Vec<Act<'h>> = seen.iter().filter(|act| updates(**act)).copied().collect();
        living.retain(|made| !seen.iter().any(|by| deletes(*by, *made)));
        living.retain(|made| self.begins(*made));
        living
    }

    fn begins(&mut self, update: Act<'h>) -> bool {
        if let Some(known) = self.begins.get(&update.place()) {
            return *known;
        }
        let begins = self.living(update).is_empty();
        self.begins.insert(update.place(), begins);
        begins
    }
}
