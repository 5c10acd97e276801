//! What a node has found out about itself in the background: rot, diverged state, a clock that is off. Shown as metrics.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Counters and gauges of the background checks of one shard. Writers are the keeper's loops; readers are anybody.
#[derive(Debug, Default)]
pub struct Health {
    /// Rows that the scrubber has read and found whole.
    pub scrubbed_rows: AtomicU64,
    /// Updates of documents that were compacted by proposals of this node.
    pub compacted_updates: AtomicU64,
    /// Times that the scrubber has read everything.
    pub scrub_laps: AtomicU64,
    /// Whether the scrubber has met a rotten row; the node stops then.
    pub rotten: AtomicBool,
    /// Comparisons of this node's digest with its leader's at the same log index.
    pub digest_checks: AtomicU64,
    /// Comparisons that found a difference: two nodes have the same log and different contents.
    pub digest_mismatches: AtomicU64,
    /// How far this node's clock is ahead of the median of its datacenter's, in milliseconds.
    pub clock_ahead_ms: AtomicI64,
    /// Whether that is more than is allowed.
    pub clock_unsafe: AtomicBool,
}

impl Health {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Whether this node's clock may stamp writes.
    pub fn clock_is_safe(&self) -> bool {
        !self.clock_unsafe.load(Ordering::Relaxed)
    }
}
