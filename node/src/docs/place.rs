//! An editor's place in a room, which counts among those that a room has.
//!
//! It is given up once: when the editor goes, or when the room closes it, whichever comes first. Else a document that is over
//! for one editor of a connection of Hocuspocus would keep its room open, and a place in it taken, for as long as the
//! connection goes on with others.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meridian_crdt::Key;

use super::Docs;

/// A place that is taken until it is given up.
#[derive(Debug)]
pub struct Place {
    docs: Arc<Docs>,
    key: Key,
    /// The number of the room.
    room: u64,
    is_given_up: AtomicBool,
}

impl Place {
    /// One that the caller has counted.
    pub(super) fn new(docs: Arc<Docs>, key: Key, room: u64) -> Arc<Self> {
        Arc::new(Self { docs, key, room, is_given_up: AtomicBool::new(false) })
    }

    /// Whether it is.
    pub fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Acquire)
    }

    /// Gives it up; a second time does nothing.
    pub fn give_up(&self) {
        if self.is_given_up.swap(true, Ordering::AcqRel) {
            return;
        }
        self.docs.counts.editors.fetch_sub(1, Ordering::Relaxed);
        if let Some(entry) = self.docs.rooms().get_mut(&self.key).filter(|entry| entry.id == self.room) {
            entry.editors = entry.editors.saturating_sub(1);
        }
    }
}
