//! Waiting for conditions, within limits.

use std::time::{Duration, Instant};

/// Pause between two looks at a condition: short against what is waited for, long against the cost of a look.
const POLL: Duration = Duration::from_millis(25);

/// Looks again and again until there is something to see; returns it, and how long that took.
///
/// `look` answers `Err` with what is still missing; the last such answer is the reason when `limit` passes.
///
/// # Panics
/// When the limit passes; the message says what was waited for and what was missing.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> (T, Duration) {
    let start = Instant::now();
    let deadline = tokio::time::Instant::now() + limit;
    let mut missing = "nothing was seen at all".to_string();
    loop {
        match tokio::time::timeout_at(deadline, look()).await {
            Ok(Ok(seen)) => return (seen, start.elapsed()),
            Ok(Err(still)) => missing = still,
            Err(_) => panic!("{what}: not within {limit:?}; last seen: {missing}"),
        }
        if tokio::time::Instant::now() >= deadline {
            panic!("{what}: not within {limit:?}; last seen: {missing}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The median of some durations.
///
/// # Panics
/// When there are none.
pub fn median(mut durations: Vec<Duration>) -> Duration {
    assert!(!durations.is_empty(), "a median needs durations");
    durations.sort_unstable();
    durations[durations.len() / 2]
}

/// The time that a fraction of some durations does not exceed, such as 0.99.
///
/// # Panics
/// When there are none.
pub fn percentile(mut durations: Vec<Duration>, fraction: f64) -> Duration {
    assert!(!durations.is_empty(), "a percentile needs durations");
    durations.sort_unstable();
    let last = durations.len() - 1;
    durations[((last as f64 * fraction).round() as usize).min(last)]
}
