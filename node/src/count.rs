//! How many of something there are at the moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A count. Copies are handles to the same one.
#[derive(Clone, Debug, Default)]
pub struct Count(Arc<AtomicUsize>);

/// One of those that are counted, until it is dropped, on whichever thread.
#[derive(Debug)]
#[must_use = "what is dropped is not counted any more"]
pub struct Counted(Count);

impl Count {
    /// Counts one more, and says how many there were before. Of several who come at the same moment no two hear the same.
    pub fn enter(&self) -> (Counted, usize) {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        (Counted(self.clone()), before)
    }

    /// How many there are.
    pub fn now(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_is_not_counted_any_more() {
        let count = Count::default();
        let (first, before) = count.enter();
        assert_eq!((before, count.now()), (0, 1));
        let (second, before) = count.clone().enter();
        assert_eq!((before, count.now()), (1, 2));
        std::thread::spawn(move || drop(first)).join().expect("ends");
        assert_eq!(count.now(), 1);
        drop(second);
        assert_eq!(count.now(), 0);
    }
}
