//! What an editor remembers of a document.
//!
//! Editors are given the [marks](meridian_crdt::incarnation_mark) of a document's incarnations with its content, and tell them with
//! all they have. Who has one of an incarnation that was deleted has the document as it was, and would bring it back. Who has one that
//! this datacenter has not heard of comes from another one: what was deleted there is not known here, and what it brings would be
//! written to an incarnation of this datacenter, which a deletion there does not end.

use std::collections::BTreeMap;

use meridian_crdt::{Dot, Key, doc_incarnations};

use super::close::Close;
use super::room::unreadable;
use crate::shard::Shard;
use crate::txn::ShardState;

/// How many incarnations that were not heard of a node keeps in mind.
const UNHEARD_MAX: usize = 10_000;

/// What an editor remembers.
pub enum Memory {
    /// A document that was deleted.
    Deleted,
    /// One that lives, and perhaps incarnations that this datacenter has not heard of.
    Of {
        /// These.
        unheard: Vec<Dot>,
    },
}

/// What somebody remembers who has these marks; `living` are the incarnations that the room knows to live.
pub fn memory(shard: &Shard, key: &Key, living: &[Dot], mut marks: Vec<Dot>) -> Result<Memory, Close> {
    marks.retain(|dot| !living.contains(dot));
    if marks.is_empty() {
        return Ok(Memory::Of { unheard: marks });
    }
    let view = shard.store.view();
    let state = ShardState::load(&view).map_err(|e| unreadable(key, e))?.map_err(|e| unreadable(key, e))?;
    // Of the same moment as the vector: the room may not have heard yet of one that has just begun.
    let living = doc_incarnations(&view, key).map_err(|e| unreadable(key, e))?;
    marks.retain(|dot| !living.contains(dot));
    if marks.iter().any(|dot| state.vector.covers(*dot)) {
        return Ok(Memory::Deleted);
    }
    Ok(Memory::Of { unheard: marks })
}

/// Incarnations that editors have named and that this datacenter has not heard of, and since when, in milliseconds.
#[derive(Debug, Default)]
pub struct Unheard {
    since: BTreeMap<(Key, Dot), u64>,
}

impl Unheard {
    /// Whether who names this incarnation is to come again, which is so until `wait_ms` after it was named first. Who names one more
    /// than are kept in mind is let in.
    pub fn must_be_heard_first(&mut self, key: &Key, dot: Dot, now_ms: u64, wait_ms: u64) -> bool {
        let named = (key.clone(), dot);
        if let Some(since_ms) = self.since.get(&named) {
            return now_ms.saturating_sub(*since_ms) < wait_ms;
        }
        if self.since.len() >= UNHEARD_MAX {
            self.since.retain(|_, since_ms| now_ms.saturating_sub(*since_ms) < wait_ms);
        }
        if self.since.len() >= UNHEARD_MAX {
            return false;
        }
        self.since.insert(named, now_ms);
        wait_ms > 0
    }
}

#[cfg(test)]
mod tests {
    use meridian_crdt::Origin;

    use super::*;

    #[test]
    fn who_names_what_was_not_heard_of_waits_once_and_not_for_ever() {
        let mut unheard = Unheard::default();
        let (key, dot) = (Key::new("default", "notes").expect("a key"), Dot::new(Origin(7), 1));
        let mut waits = |now_ms| unheard.must_be_heard_first(&key, dot, now_ms, 100);
        assert_eq!([5, 6, 104, 105, 1000].map(&mut waits), [true, true, true, false, false]);
        let other = Dot::new(Origin(7), 2);
        assert!(unheard.must_be_heard_first(&key, other, 1000, 100), "each has a time of its own");
        assert!(!Unheard::default().must_be_heard_first(&key, dot, 0, 0));
    }

    #[test]
    fn only_so_many_are_kept_in_mind() {
        let mut unheard = Unheard::default();
        let key = Key::new("default", "notes").expect("a key");
        let mut waits = |seq: usize, now_ms| {
            unheard.must_be_heard_first(&key, Dot::new(Origin(7), seq as u64), now_ms, 100)
        };
        assert!((1..=UNHEARD_MAX).all(|seq| waits(seq, 5)));
        assert!(!waits(UNHEARD_MAX + 1, 50), "there is no room to remember when it came");
        assert!(waits(UNHEARD_MAX + 1, 105), "those who have waited are forgotten");
    }
}
