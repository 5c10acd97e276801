//! The requests of one connection that are in flight, by number.

use std::sync::Arc;

/// The place of one request, until it is dropped.
pub type Slot = Arc<()>;

/// How many requests are in flight, and how many may be.
pub struct Slots {
    /// Its copies are the places that are taken.
    places: Slot,
    max: usize,
}

impl Slots {
    /// Room for `max` requests.
    pub fn new(max: usize) -> Self {
        Self { places: Slot::default(), max }
    }

    /// Whether a further request may be read.
    pub fn are_free(&self) -> bool {
        Arc::strong_count(&self.places) - 1 < self.max
    }

    /// A place for a request that was read when there was one.
    pub fn take(&self) -> Slot {
        self.places.clone()
    }
}
