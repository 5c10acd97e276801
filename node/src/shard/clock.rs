//! How far this node's clock is trusted.
//!
//! Nodes of a datacenter ask each other for the time. A leader whose clock is off the median of those that it hears
//! hands leadership over, and refuses writes until it has. Until the others have been asked, a clock that jumps is not
//! believed: [`SteadyClock`] goes on by the monotonic clock instead, so that no jump reaches stamps or log time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;

use super::Shard;
use super::forward::{Request, Response};
use crate::seams::Clock;

/// How often the others are asked.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How long an answer may take; half of it bounds the error of the comparison.
const DEADLINE: Duration = Duration::from_millis(400);
/// How long an answer counts.
const SAMPLE_MS_MAX: u64 = 3_000;
/// How often a leader with a bad clock asks another node to take over.
const HAND_OVER_EVERY_MS: u64 = 2_000;

/// The wall clock, followed only as long as it moves like the monotonic one, or is confirmed by other nodes.
pub struct SteadyClock {
    inner: Arc<dyn Clock>,
    jump_ms_max: u64,
    /// What is believed to be the wall clock's distance from the monotonic one.
    offset_ms: AtomicI64,
}

fn difference(a: u64, b: u64) -> i64 {
    i64::try_from(i128::from(a) - i128::from(b)).unwrap_or(i64::MAX)
}

impl SteadyClock {
    /// Believes `inner` as it is now, and from here on jumps of at most `jump_ms_max`.
    pub fn new(inner: Arc<dyn Clock>, jump_ms_max: u64) -> Self {
        let offset_ms = AtomicI64::new(difference(inner.unix_ms(), inner.monotonic_ms()));
        Self { inner, jump_ms_max, offset_ms }
    }

    /// Believes the wall clock as it is now, however it has jumped.
    pub fn believe(&self) {
        let offset = difference(self.inner.unix_ms(), self.inner.monotonic_ms());
        self.offset_ms.store(offset, Ordering::Relaxed);
    }
}

impl Clock for SteadyClock {
    fn unix_ms(&self) -> u64 {
        let (wall, monotonic) = (self.inner.unix_ms(), self.inner.monotonic_ms());
        let (offset, believed) = (difference(wall, monotonic), self.offset_ms.load(Ordering::Relaxed));
        if offset.abs_diff(believed) <= self.jump_ms_max {
            self.offset_ms.store(offset, Ordering::Relaxed);
            return wall;
        }
        monotonic.saturating_add_signed(believed)
    }

    fn monotonic_ms(&self) -> u64 {
        self.inner.monotonic_ms()
    }

    fn monotonic_us(&self) -> u64 {
        self.inner.monotonic_us()
    }

    fn set_offset_ms(&self, offset_ms: i64) {
        self.inner.set_offset_ms(offset_ms);
    }
}

/// Another node's clock, as it answered last.
#[derive(Clone, Copy, Debug)]
struct Sample {
    ahead_ms: i64,
    at_ms: u64,
}

/// How this node's clock compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    /// How far the median of all is ahead of this node; of two in the middle the nearer one.
    median_ahead_ms: i64,
    /// The best node to lead instead: nearest to the median.
    best: Option<u64>,
}

fn judge(ahead_ms: &BTreeMap<u64, i64>) -> Verdict {
    let mut all: Vec<i64> = ahead_ms.values().copied().chain([0]).collect();
    all.sort_unstable();
    let middle = [all[(all.len() - 1) / 2], all[all.len() / 2]];
    let median = if middle[0].abs() <= middle[1].abs() { middle[0] } else { middle[1] };
    let best = ahead_ms.iter().min_by_key(|(_, ahead)| ahead.abs_diff(median)).map(|(node, _)| *node);
    Verdict { median_ahead_ms: median, best }
}

/// Whether anybody's clock agrees with this node's, or there is nobody to ask.
fn confirms(others: &[u64], ahead_ms: &BTreeMap<u64, i64>, drift_ms_max: u64) -> bool {
    others.is_empty() || ahead_ms.values().any(|ahead| ahead.unsigned_abs() <= drift_ms_max)
}

/// What the loop needs besides the shard.
pub struct ClockGuard {
    /// The clock that stamps.
    pub steady: Arc<SteadyClock>,
    /// The other nodes of this datacenter.
    pub others: Vec<u64>,
    /// How far the clock may be off.
    pub drift_ms_max: u64,
}

impl ClockGuard {
    /// Compares clocks for ever, and hands leadership over while this node's is bad.
    pub(super) async fn run(&self, shard: &Shard) {
        // SUBTLE: nodes remember each other's data folders when they connect, but only once there is a group. These
        // connections last, so that opened any earlier they would let a wiped node back in unnoticed.
        let mut ready = shard.ready.subscribe();
        if ready.wait_for(|ready| *ready).await.is_err() {
            return;
        }
        let samples = Mutex::new(BTreeMap::new());
        let mut handed_over_ms = 0;
        loop {
            join_all(self.others.iter().map(|node| ask(shard, *node, &samples))).await;
            let now_ms = shard.seams.clock.monotonic_ms();
            let fresh: BTreeMap<u64, i64> = lock(&samples)
                .iter()
                .filter(|(_, sample): &(&u64, &Sample)| now_ms.saturating_sub(sample.at_ms) <= SAMPLE_MS_MAX)
                .map(|(node, sample)| (*node, sample.ahead_ms))
                .collect();
            let verdict = judge(&fresh);
            let confirmed = confirms(&self.others, &fresh, self.drift_ms_max);
            let safe = self.take(shard, verdict, confirmed);
            let leading = shard.raft.leadership_now().leader == Some(shard.node);
            if let (false, true, Some(best)) = (safe, leading, verdict.best)
                && now_ms.saturating_sub(handed_over_ms) >= HAND_OVER_EVERY_MS
            {
                handed_over_ms = now_ms;
                tracing::error!(to = best, "this leader's clock is off; it hands leadership over");
                if let Err(error) = shard.raft.transfer_leadership(best).await {
                    tracing::warn!(%error, "leadership could not be handed over");
                }
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Takes a verdict; whether the clock is safe. A jump is believed only if it is `confirmed`.
    fn take(&self, shard: &Shard, verdict: Verdict, confirmed: bool) -> bool {
        let safe = verdict.median_ahead_ms.unsigned_abs() <= self.drift_ms_max;
        shard.health.clock_ahead_ms.store(-verdict.median_ahead_ms, Ordering::Relaxed);
        let was_unsafe = shard.health.clock_unsafe.swap(!safe, Ordering::Relaxed);
        if safe && confirmed {
            self.steady.believe();
        }
        if was_unsafe == safe {
            let ahead_ms = -verdict.median_ahead_ms;
            if safe {
                tracing::info!(ahead_ms, "this node's clock agrees with the others again");
            } else {
                tracing::error!(ahead_ms, "this node's clock is off the median of its datacenter's");
            }
        }
        safe
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks one node for its time; half the round trip is taken for the way of the answer.
async fn ask(shard: &Shard, node: u64, samples: &Mutex<BTreeMap<u64, Sample>>) {
    let clock = &shard.seams.clock;
    let sent_ms = clock.monotonic_ms();
    let Ok(Response::Clock(unix_ms)) = shard.ask(node, &Request::Clock, DEADLINE).await else { return };
    let at_ms = clock.monotonic_ms();
    let theirs = unix_ms.saturating_add(at_ms.saturating_sub(sent_ms) / 2);
    lock(samples).insert(node, Sample { ahead_ms: difference(theirs, clock.unix_ms()), at_ms });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[derive(Default)]
    struct TestClock {
        wall: AtomicU64,
        monotonic: AtomicU64,
    }

    impl Clock for TestClock {
        fn unix_ms(&self) -> u64 {
            self.wall.load(Ordering::Relaxed)
        }
        fn monotonic_ms(&self) -> u64 {
            self.monotonic.load(Ordering::Relaxed)
        }
        fn set_offset_ms(&self, _: i64) {}
    }

    #[test]
    fn a_jump_is_not_believed_before_it_is_confirmed_and_small_steps_are() {
        let inner = Arc::new(TestClock::default());
        let at = |wall, monotonic| {
            inner.wall.store(wall, Ordering::Relaxed);
            inner.monotonic.store(monotonic, Ordering::Relaxed);
        };
        at(1_000_000, 10);
        let steady = SteadyClock::new(inner.clone(), 5_000);
        at(1_004_000, 20);
        assert_eq!(steady.unix_ms(), 1_004_000, "as a time service corrects it");
        at(9_000_000, 30);
        assert_eq!(steady.unix_ms(), 1_004_010);
        at(4, 40);
        assert_eq!(steady.unix_ms(), 1_004_020);
        at(9_000_000, 50);
        steady.believe();
        assert_eq!(steady.unix_ms(), 9_000_000);
    }

    #[test]
    fn a_jump_is_confirmed_by_another_clock_or_by_there_being_none() {
        let ahead = |offsets: &[i64]| offsets.iter().enumerate().map(|(i, o)| (i as u64 + 2, *o)).collect();
        assert!(confirms(&[], &ahead(&[]), 5_000));
        assert!(confirms(&[2, 3], &ahead(&[9_000, -4_000]), 5_000));
        assert!(!confirms(&[2, 3], &ahead(&[]), 5_000), "nobody was heard");
        assert!(!confirms(&[2, 3], &ahead(&[3_600_000]), 5_000));
    }

    #[test]
    fn a_clock_is_judged_by_the_median_and_two_clocks_prove_nothing() {
        let ahead = |offsets: &[i64]| offsets.iter().enumerate().map(|(i, o)| (i as u64 + 2, *o)).collect();
        assert_eq!(judge(&ahead(&[])).median_ahead_ms, 0);
        assert_eq!(judge(&ahead(&[3_600_000])).median_ahead_ms, 0);
        assert_eq!(
            judge(&ahead(&[-3_600_000, -3_599_990])),
            Verdict { median_ahead_ms: -3_599_990, best: Some(3) }
        );
        assert_eq!(judge(&ahead(&[3_600_000, 5])).median_ahead_ms, 5);
        assert_eq!(judge(&ahead(&[9_000, 10_000, 9_500])), Verdict { median_ahead_ms: 9_000, best: Some(2) });
    }
}
