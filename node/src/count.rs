//! How many of something there are at the moment, and how values of something are spread.

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

/// How values are spread over `N` buckets, as Prometheus counts them: each holds all values up to its bound.
#[derive(Clone, Copy, Debug)]
pub struct Histogram<const N: usize> {
    bounds: &'static [u64; N],
    buckets: [u64; N],
    sum: u64,
    count: u64,
}

impl<const N: usize> Histogram<N> {
    /// One without values, whose buckets have these upper bounds, in the unit of the values.
    pub const fn new(bounds: &'static [u64; N]) -> Self {
        Self { bounds, buckets: [0; N], sum: 0, count: 0 }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        for (count, bound) in self.buckets.iter_mut().zip(self.bounds) {
            *count += u64::from(value <= *bound);
        }
    }

    /// The buckets: the upper bound of each, and how many values are no larger.
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> {
        self.bounds.iter().copied().zip(self.buckets)
    }

    /// All values added up.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// How many values there were.
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_all_values_up_to_its_bound() {
        let mut histogram = Histogram::new(&[10, 20]);
        for value in [0, 10, 11, 21] {
            histogram.record(value);
        }
        assert_eq!(histogram.buckets().collect::<Vec<_>>(), [(10, 2), (20, 3)]);
        assert_eq!((histogram.sum(), histogram.count()), (42, 4));
    }

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
