//! Pauses between attempts: they double up to a bound, and are drawn from the upper half, so that clients that failed
//! together do not come back together.

use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, sleep_until};

/// Growing pauses.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Pauses from `first` to `max`.
    pub fn new(first: Duration, max: Duration) -> Backoff {
        Backoff { next: first, max }
    }

    /// The next pause: at least `at_least`, as far as that is within the bound.
    pub fn pause(&mut self, at_least: Duration) -> Duration {
        let whole = self.next.max(at_least).min(self.max);
        self.next = (self.next * 2).min(self.max);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Waits for the next pause, but not beyond `deadline`.
    pub async fn wait(&mut self, at_least: Duration, deadline: Instant) {
        sleep_until((Instant::now() + self.pause(at_least)).min(deadline)).await;
    }
}
