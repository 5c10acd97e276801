//! The requests of one connection that are in flight, by number.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many requests are in flight, and how many may be.
pub struct Slots {
    taken: Arc<AtomicUsize>,
    max: usize,
}

/// The place of one request, until it is dropped.
pub struct Slot(Arc<AtomicUsize>);

impl Slots {
    /// Room for `max` requests.
    pub fn new(max: usize) -> Self {
        Self { taken: Arc::default(), max }
    }

    /// Whether a further request may be read.
    pub fn are_free(&self) -> bool {
        self.taken.load(Ordering::Relaxed) < self.max
    }

    /// A place for a request that was read when there was one.
    pub fn take(&self) -> Slot {
        self.taken.fetch_add(1, Ordering::Relaxed);
        Slot(self.taken.clone())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
