//! The wall clock and the monotonic clock, which tests and `dev clock` can shift.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// What time it is.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since 1970 by the wall clock, offset included. May jump either way.
    fn unix_ms(&self) -> u64;

    /// Milliseconds since some fixed moment; never falls, whatever happens to the wall clock.
    fn monotonic_ms(&self) -> u64;

    /// The same moment in microseconds, as exactly as the clock knows it: for what is measured, never for what is decided.
    fn monotonic_us(&self) -> u64 {
        self.monotonic_ms().saturating_mul(1000)
    }

    /// Shifts the wall clock from now on; the caller sees to it that faults are allowed.
    fn set_offset_ms(&self, offset_ms: i64);
}

/// The system's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
    offset_ms: AtomicI64,
}

impl SystemClock {
    /// The system's clock without an offset.
    pub fn new() -> Self {
        Self { start: Instant::now(), offset_ms: AtomicI64::new(0) }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn unix_ms(&self) -> u64 {
        // A clock before 1970 reads as 1970: the drift check then refuses writes, which is what such a clock deserves.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        ms.saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn monotonic_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn set_offset_ms(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_shifts_the_wall_clock_and_leaves_the_monotonic_one() {
        let clock = SystemClock::new();
        let (wall, mono) = (clock.unix_ms(), clock.monotonic_ms());
        clock.set_offset_ms(3_600_000);
        assert!(clock.unix_ms() >= wall + 3_600_000);
        assert!(clock.monotonic_ms() < mono + 3_600_000);
        clock.set_offset_ms(-3_600_000);
        assert!(clock.unix_ms() < wall);
    }

    #[test]
    fn microseconds_count_from_the_same_moment() {
        let clock = SystemClock::new();
        std::thread::sleep(std::time::Duration::from_millis(3));
        let (before, exactly, after) = (clock.monotonic_ms(), clock.monotonic_us(), clock.monotonic_ms());
        assert!((before..=after).contains(&(exactly / 1000)), "{before} {exactly} {after}");
    }
}
