//! Walks over all rows of the state in the background and verifies each one's checksum, a little at a time.
//!
//! A rotten row stops the node: what else its disk has lost is not known, and the other nodes of its datacenter have
//! whole copies. The operator replaces the disk and lets the node return under a new id.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shard;
use super::health::Health;
use crate::seams::{Urgency, Worker, run_on};
use crate::storage::{ScrubCursor, StorageError};

/// Rows of one step: a few milliseconds of reading.
const STEP_ROWS: u64 = 512;
/// The shortest rest between two steps, so that a large store on a short interval does not eat a core.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// Scrubs for ever; one lap takes about `interval`. Returns after it has reported rot.
pub(super) async fn run(shard: &Shard, interval: Duration) {
    let worker = shard.seams.executor.worker("scrub", Urgency::Background);
    let mut cursor = ScrubCursor::default();
    loop {
        match step(shard, worker.as_ref(), cursor).await {
            Ok((next, rows, total)) => {
                Health::add(&shard.health.scrubbed_rows, rows);
                if next.is_none() {
                    Health::add(&shard.health.scrub_laps, 1);
                }
                cursor = next.unwrap_or_default();
                tokio::time::sleep(pause(interval, rows, total)).await;
            }
            Err(error) => {
                shard.health.rotten.store(true, Ordering::Relaxed);
                shard.raft.fatal().report(format!("the scrubber met a row that cannot be read: {error}"));
                return;
            }
        }
    }
}

async fn step(
    shard: &Shard,
    worker: &dyn Worker,
    cursor: ScrubCursor,
) -> Result<(Option<ScrubCursor>, u64, u64), StorageError> {
    let store = shard.store.clone();
    let work = move || {
        let step = store.scrub(cursor, STEP_ROWS)?;
        Ok((step.next, step.rows, store.row_count()?))
    };
    run_on(worker, work).await.unwrap_or(Err(StorageError::Stopped))
}

/// The rest after `rows` of `total`, so that all of them take `interval`.
fn pause(interval: Duration, rows: u64, total: u64) -> Duration {
    let share = rows.max(1) as f64 / total.max(rows).max(1) as f64;
    interval.mul_f64(share).max(PAUSE_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lap_takes_the_interval_whatever_there_is_to_read() {
        let hour = Duration::from_secs(3600);
        assert_eq!(pause(hour, 0, 0), hour);
        assert_eq!(pause(hour, 512, 512), hour);
        assert_eq!(pause(hour, 512, 5120), hour / 10);
        assert_eq!(pause(hour, 512, u64::MAX), PAUSE_MIN);
    }
}
