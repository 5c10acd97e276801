//! The hybrid logical clock: 42 bits of milliseconds since 2024, 22 bits of counter.
//!
//! It ranks concurrent last-writer-wins values and dates txns; it never decides causality. Time is an argument. Stamps
//! of one clock rise whatever the time does: when time goes back the counter goes on, and when the counter is full the
//! clock moves ahead by a millisecond of its own.

use hlc_gen::source::ManualClock;
use hlc_gen::{HlcGenerator, HlcTimestamp};
use thiserror::Error;

/// How far the packed time is shifted; below it is the counter.
const COUNTER_BITS: u32 = 22;
/// Milliseconds from the Unix epoch to that of the clock, 2024-01-01 00:00:00 UTC.
const EPOCH_UNIX_MS: u64 = 1_704_067_200_000;

/// Why no stamp can be given. The clock is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ClockError {
    /// The time is before 2024, and no later one is known.
    #[error("the time {now_ms} is before 2024")]
    BeforeEpoch {
        /// The time that was given.
        now_ms: u64,
    },
    /// The range of stamps is used up: the time, or a stamp that was restored, lies more than a hundred years ahead.
    #[error("the clock is at the end of its range")]
    Exhausted,
}

/// What became of another clock's stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observed {
    /// The next own stamp is above it.
    Merged,
    /// It is further ahead of this clock's time than is allowed; the clock was left alone.
    Ahead {
        /// By how much it is ahead of the time.
        by_ms: u64,
    },
}

/// The time of a stamp in milliseconds since the Unix epoch.
pub fn unix_ms(hlc: u64) -> u64 {
    (hlc >> COUNTER_BITS) + EPOCH_UNIX_MS
}

/// A clock whose stamps rise.
pub struct Clock {
    generator: HlcGenerator<ManualClock>,
    /// No stamp at or below this one is given.
    last: u64,
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clock").field("last", &self.last).finish()
    }
}

impl Clock {
    /// A clock whose stamps are above `high_water`: 0 for a new one, and for a restored one at least the last stamp
    /// that was ever given.
    pub fn restore(high_water: u64) -> Clock {
        let generator = HlcGenerator::manual(0);
        if high_water > 0
            && let Ok(stamp) = HlcTimestamp::try_from(high_water)
        {
            // A stamp that the generator refuses is at the end of its counter; `stamp` steps over it.
            let _ = generator.update(&stamp);
        }
        Clock { generator, last: high_water }
    }

    /// The highest stamp that was given or merged.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// The next stamp.
    pub fn stamp(&mut self, now_ms_unix: u64) -> Result<u64, ClockError> {
        if now_ms_unix < EPOCH_UNIX_MS && self.last == 0 {
            return Err(ClockError::BeforeEpoch { now_ms: now_ms_unix });
        }
        self.set_time(now_ms_unix.max(EPOCH_UNIX_MS))?;
        let stamp = match self.generator.next_timestamp() {
            Some(stamp) => stamp.as_u64(),
            None => self.next_millisecond()?,
        };
        // What the generator could not be restored to is stepped over by hand.
        let stamp = if stamp > self.last { stamp } else { self.next_millisecond()? };
        self.last = stamp;
        Ok(stamp)
    }

    /// Moves the clock above a stamp of another one, unless that is more than `max_drift_ms` ahead of the time.
    pub fn observe(&mut self, foreign: u64, now_ms_unix: u64, max_drift_ms: u64) -> Observed {
        let by_ms = unix_ms(foreign).saturating_sub(now_ms_unix);
        if by_ms > max_drift_ms {
            return Observed::Ahead { by_ms };
        }
        if foreign > self.last {
            self.merge(foreign);
        }
        Observed::Merged
    }

    fn merge(&mut self, stamp: u64) {
        if let Ok(foreign) = HlcTimestamp::try_from(stamp) {
            // A full counter is refused; `stamp` then steps over it, because `last` is what binds.
            let _ = self.generator.update(&foreign);
        }
        self.last = self.last.max(stamp);
    }

    fn set_time(&mut self, now_ms: u64) -> Result<(), ClockError> {
        let now = i64::try_from(now_ms).map_err(|_| ClockError::Exhausted)?;
        // A time that the generator cannot express must not reach it.
        HlcTimestamp::new(now).map_err(|_| ClockError::Exhausted)?;
        self.generator.set_current_timestamp(now);
        Ok(())
    }

    /// The first stamp of the millisecond after the last one.
    fn next_millisecond(&mut self) -> Result<u64, ClockError> {
        let last = self.last.max(self.generator.timestamp().as_u64());
        let next = (last >> COUNTER_BITS).checked_add(1).filter(|ms| ms.leading_zeros() >= COUNTER_BITS);
        let next = next.ok_or(ClockError::Exhausted)? << COUNTER_BITS;
        let stamp = HlcTimestamp::try_from(next).map_err(|_| ClockError::Exhausted)?;
        let _ = self.generator.update(&stamp);
        Ok(self.generator.timestamp().as_u64().max(next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = EPOCH_UNIX_MS + 5_000;

    #[test]
    fn a_stamp_counts_milliseconds_from_2024() {
        assert_eq!(unix_ms(0), 1_704_067_200_000);
        assert_eq!(unix_ms((5 << 22) | 77), 1_704_067_200_005);
    }

    #[test]
    fn stamps_rise_also_when_time_goes_back() {
        let mut clock = Clock::restore(0);
        let mut last = 0;
        for now in [NOW, NOW, NOW + 1, NOW - 4_000, NOW + 2, 0] {
            let stamp = clock.stamp(now).expect("in range");
            assert!(stamp > last);
            last = stamp;
        }
        assert_eq!(unix_ms(last), NOW + 2);
    }

    #[test]
    fn a_restored_clock_reissues_nothing() {
        let mut clock = Clock::restore(0);
        let high = clock.stamp(NOW + 60_000).expect("in range");
        assert!(Clock::restore(high).stamp(NOW).expect("in range") > high);
        let full = high | ((1 << COUNTER_BITS) - 1);
        let stamp = Clock::restore(full).stamp(NOW).expect("in range");
        assert!(stamp > full);
    }

    #[test]
    fn a_full_counter_moves_on_to_the_next_millisecond() {
        let full = (5_000 << COUNTER_BITS) | ((1 << COUNTER_BITS) - 1);
        let mut clock = Clock::restore(0);
        assert_eq!(clock.observe(full, NOW, 0), Observed::Merged);
        let stamp = clock.stamp(NOW).expect("in range");
        assert!(stamp > full);
        assert!(clock.stamp(NOW).expect("in range") > stamp);
    }

    #[test]
    fn a_stamp_too_far_ahead_does_not_drag_the_clock() {
        let mut clock = Clock::restore(0);
        let foreign = Clock::restore(0).stamp(NOW + 10_000).expect("in range");
        assert_eq!(clock.observe(foreign, NOW, 5_000), Observed::Ahead { by_ms: 10_000 });
        assert!(clock.stamp(NOW).expect("in range") < foreign);
        assert_eq!(clock.observe(foreign, NOW + 6_000, 5_000), Observed::Merged);
        assert!(clock.stamp(NOW).expect("in range") > foreign);
        assert!(matches!(clock.observe(u64::MAX, NOW, 5_000), Observed::Ahead { .. }));
    }

    #[test]
    fn a_time_before_the_epoch_gives_no_stamp_to_a_new_clock() {
        assert_eq!(Clock::restore(0).stamp(7), Err(ClockError::BeforeEpoch { now_ms: 7 }));
        assert_eq!(Clock::restore(0).stamp(u64::MAX), Err(ClockError::Exhausted));
    }
}
