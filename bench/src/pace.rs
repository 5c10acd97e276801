//! When operations of a load at a rate are due.
//!
//! The timers of the load generator's runtime go by whole milliseconds, of which each runtime begins its own at another
//! moment. An operation that waits for one is late by the same part of a millisecond each time if the rate is a thousand a
//! second, and by another part in the next run, and that would be said of the server. So a thread of its own wakes them,
//! which the operating system lets sleep until the microsecond.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

/// Operations that become due one after the other, all of them equally far apart, and belong to whoever asks first.
#[derive(Debug)]
pub struct Pace {
    start: Instant,
    end: Instant,
    per_second: f64,
    /// How many are due that nobody has taken yet.
    due: Semaphore,
    taken: AtomicU64,
}

impl Pace {
    /// Begins at `start` and ends at `end`, or when nobody is left who could ask.
    pub fn begin(start: Instant, end: Instant, per_second: f64) -> io::Result<Arc<Self>> {
        let pace = Self { start, end, per_second, due: Semaphore::new(0), taken: AtomicU64::new(0) };
        let pace = Arc::new(pace);
        let kept = pace.clone();
        std::thread::Builder::new().name("pace".into()).spawn(move || keep(&kept))?;
        Ok(pace)
    }

    /// Waits for the next operation and says since when it is due; `None` after the last one.
    pub async fn next(&self) -> Option<Instant> {
        self.due.acquire().await.ok()?.forget();
        Some(self.due_at(self.taken.fetch_add(1, Ordering::Relaxed)))
    }

    fn due_at(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.per_second)
    }
}

fn keep(pace: &Arc<Pace>) {
    for number in 0.. {
        let due = pace.due_at(number);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let nobody_asks = Arc::strong_count(pace) == 1;
        if nobody_asks || due >= pace.end {
            return pace.due.close();
        }
        pace.due.add_permits(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How late the operations of 100 ms at 1,000 a second were taken that begin so many microseconds from now.
    async fn lateness(from_us: u64) -> Vec<Duration> {
        let start = Instant::now() + Duration::from_micros(from_us);
        let pace = Pace::begin(start, start + Duration::from_millis(100), 1000.0).unwrap();
        let mut late = Vec::new();
        while let Some(due) = pace.next().await {
            assert_eq!(due, start + Duration::from_millis(late.len() as u64));
            late.push(Instant::now().checked_duration_since(due).expect("not before it is due"));
        }
        late
    }

    /// The timers of the runtime would make one of these wait for most of a millisecond, each time.
    #[tokio::test]
    async fn operations_are_begun_when_they_are_due_and_not_at_the_next_tick() {
        let late = [0, 250, 500, 750].map(lateness);
        for mut late in futures_util::future::join_all(late).await {
            assert_eq!(late.len(), 100);
            late.sort();
            // Other tests may keep the processors from some of them, but not from all.
            assert!(late[10] < Duration::from_micros(400), "{late:?}");
        }
    }
}
