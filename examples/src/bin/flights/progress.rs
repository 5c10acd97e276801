//! What has been done so far: counted by the clients, shown as lines, and what the faults wait for.

use std::convert::Infallible;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// How often a line is shown.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// The counts of one DC.
#[derive(Debug)]
pub struct DcProgress {
    /// Its name.
    pub name: String,
    acknowledged: AtomicU64,
    retries: AtomicU64,
    conflicts: AtomicU64,
    pause: Mutex<Pause>,
}

#[derive(Debug)]
struct Pause {
    last: Instant,
    longest: Duration,
}

/// What became of one DC's load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DcCounts {
    /// Flights whose transaction was acknowledged.
    pub acknowledged: u64,
    /// Requests that were repeated, because a node was gone or had no leader.
    pub retries: u64,
    /// Transactions that were refused because their route had changed since it was read, and were formed anew.
    pub conflicts: u64,
    /// The longest time without an acknowledgement.
    pub longest_pause: Duration,
}

/// The counts of all DCs, and the clock of the run.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    total: u64,
    acknowledged: watch::Sender<u64>,
    /// In the order of the cluster.
    pub dcs: Vec<DcProgress>,
}

impl Progress {
    /// Nothing is done yet of `total` flights.
    pub fn new(names: impl Iterator<Item = String>, total: u64) -> Self {
        let started = Instant::now();
        let dcs = names.map(|name| DcProgress {
            name,
            acknowledged: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            pause: Mutex::new(Pause { last: started, longest: Duration::ZERO }),
        });
        Self { started, total, acknowledged: watch::Sender::new(0), dcs: dcs.collect() }
    }

    /// Time since the load began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// One flight is acknowledged, after so many repetitions and conflicts.
    pub fn acknowledge(&self, dc: usize, retries: u64, conflicts: u64) {
        self.dcs[dc].acknowledge(Instant::now(), retries, conflicts);
        self.acknowledged.send_modify(|n| *n += 1);
    }

    /// Waits until `numerator / denominator` of all flights are acknowledged.
    pub async fn reach(&self, numerator: u64, denominator: u64) {
        let wanted = self.total * numerator / denominator;
        // The sender is `self`: the wait cannot end otherwise.
        self.acknowledged.subscribe().wait_for(|n| *n >= wanted).await.ok();
    }

    /// Shows an event, with its time.
    pub fn event(&self, text: &str) {
        say(&format!("{:7.2} s  {text}", self.elapsed().as_secs_f64()));
    }

    /// Shows a line every second, as long as it is polled.
    pub async fn show(&self) -> Infallible {
        let mut ticks = tokio::time::interval(LINE_EVERY);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.event(&self.line());
        }
    }

    fn line(&self) -> String {
        let done = *self.acknowledged.borrow();
        let each: Vec<String> =
            self.dcs.iter().map(|dc| format!("{} {}", dc.name, dc.counts().acknowledged)).collect();
        format!("{done} of {} flights  ({})", self.total, each.join(", "))
    }
}

impl DcProgress {
    /// The counts so far.
    pub fn counts(&self) -> DcCounts {
        let longest_pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner).longest;
        DcCounts {
            acknowledged: self.acknowledged.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
            conflicts: self.conflicts.load(Ordering::Relaxed),
            longest_pause,
        }
    }

    fn acknowledge(&self, now: Instant, retries: u64, conflicts: u64) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
        self.retries.fetch_add(retries, Ordering::Relaxed);
        self.conflicts.fetch_add(conflicts, Ordering::Relaxed);
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        pause.longest = pause.longest.max(now.saturating_duration_since(pause.last));
        pause.last = now;
    }
}

/// Writes a line of progress, to standard error: standard output is for the result.
pub fn say(line: &str) {
    // Whoever closed it does not want to know.
    writeln!(std::io::stderr(), "{line}").ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_pause_is_the_one_between_two_acknowledgements() {
        let progress = Progress::new(std::iter::once("a".into()), 4);
        let at = |ms| progress.started + Duration::from_millis(ms);
        for ms in [10, 310, 320] {
            progress.dcs[0].acknowledge(at(ms), 2, 1);
        }
        let longest_pause = Duration::from_millis(300);
        let counts = DcCounts { acknowledged: 3, retries: 6, conflicts: 3, longest_pause };
        assert_eq!(progress.dcs[0].counts(), counts);
    }

    #[tokio::test]
    async fn a_share_is_reached_when_all_dcs_together_have_done_it() {
        let progress = Progress::new(["a", "b"].map(String::from).into_iter(), 4);
        progress.acknowledge(0, 0, 0);
        progress.acknowledge(1, 0, 0);
        progress.reach(1, 2).await;
        assert_eq!(progress.line(), "2 of 4 flights  (a 1, b 1)");
        let more = tokio::time::timeout(Duration::ZERO, progress.reach(3, 4)).await;
        assert!(more.is_err(), "three quarters are not reached");
    }
}
