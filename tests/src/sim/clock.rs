//! Clocks of simulated nodes: one virtual time, and for each node an offset that may jump.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use meridian::seams::Clock;

/// Where the virtual wall clock starts.
const UNIX_MS: u64 = 1_760_000_000_000;

/// The virtual time of a run, shared by all clocks.
#[derive(Clone, Debug, Default)]
pub struct Time(Arc<AtomicU64>);

impl Time {
    /// Moves the time.
    pub fn set(&self, now_ms: u64) {
        self.0.store(now_ms, Ordering::Relaxed);
    }

    /// Milliseconds since the start.
    pub fn now_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The clock of one machine; it outlives the node's process.
#[derive(Debug)]
pub struct SimClock {
    time: Time,
    offset_ms: AtomicI64,
}

impl SimClock {
    /// A clock that is right.
    pub fn new(time: Time) -> Self {
        Self { time, offset_ms: AtomicI64::new(0) }
    }

    /// How far it is ahead.
    pub fn offset_ms(&self) -> i64 {
        self.offset_ms.load(Ordering::Relaxed)
    }
}

impl Clock for SimClock {
    fn unix_ms(&self) -> u64 {
        (UNIX_MS + self.time.now_ms()).saturating_add_signed(self.offset_ms())
    }

    fn monotonic_ms(&self) -> u64 {
        self.time.now_ms()
    }

    fn set_offset_ms(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }
}
