//! An open transaction, counted in the memory that all of them take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use meridian_crdt::ReadCells;

use crate::txn::Interactive;

/// A transaction that counts in what all of them take, until it is dropped.
#[derive(Debug)]
pub struct Held<V> {
    pub txn: Interactive<V>,
    bytes: usize,
    of_all: Arc<AtomicUsize>,
}

impl<V: ReadCells> Held<V> {
    /// Counts a transaction in `of_all`, bytes of memory.
    pub fn new(txn: Interactive<V>, of_all: Arc<AtomicUsize>) -> Self {
        let mut held = Self { txn, bytes: 0, of_all };
        held.count();
        held
    }

    /// Takes note of how large it is now.
    pub fn count(&mut self) {
        let before = std::mem::replace(&mut self.bytes, self.txn.memory_bytes());
        // The new size first: never are there fewer than nothing.
        self.of_all.fetch_add(self.bytes, Ordering::Relaxed);
        self.of_all.fetch_sub(before, Ordering::Relaxed);
    }
}

impl<V> Drop for Held<V> {
    fn drop(&mut self) {
        self.of_all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
