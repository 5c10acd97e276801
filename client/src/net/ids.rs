//! The names of mutations: which client, which number.
//!
//! A node remembers the last 256 numbers of a client, and answers an older one with `outcome_unknown`. So the oldest
//! number that may still be repeated and the newest one given out stay within [`WINDOW`] of each other; who needs more
//! at once goes on under the name of another client.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::wire::frame::RequestId;

/// How far the numbers of one client that are in flight may lie apart: the 256 that nodes remember, less a margin.
pub const WINDOW: u64 = 192;
/// How many names of clients one SDK client uses at most.
pub const LANES_MAX: usize = 8;

struct Lane {
    client: [u8; 16],
    next: u64,
    in_flight: BTreeSet<u64>,
}

/// Gives out the names.
pub(crate) struct RequestIds {
    lanes: Mutex<Vec<Lane>>,
    freed: Notify,
}

/// One name; it may be repeated until it is dropped.
pub(crate) struct Named<'a> {
    ids: &'a RequestIds,
    lane: usize,
    client: [u8; 16],
    number: u64,
}

impl Named<'_> {
    /// As it stands in requests.
    pub fn id(&self) -> RequestId {
        RequestId::Number { client: self.client, number: self.number }
    }
}

impl Drop for Named<'_> {
    fn drop(&mut self) {
        self.ids.lanes()[self.lane].in_flight.remove(&self.number);
        self.ids.freed.notify_waiters();
    }
}

impl RequestIds {
    /// No names are given out yet.
    pub fn new() -> RequestIds {
        RequestIds { lanes: Mutex::default(), freed: Notify::new() }
    }

    /// A new name; none if all stay taken until `deadline`.
    pub async fn take(&self, deadline: Instant) -> Option<Named<'_>> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(named) = self.try_take() {
                return Some(named);
            }
            timeout_at(deadline, freed).await.ok()?;
        }
    }

    fn try_take(&self) -> Option<Named<'_>> {
        let mut lanes = self.lanes();
        let fits = |lane: &Lane| lane.in_flight.first().is_none_or(|oldest| lane.next - oldest < WINDOW);
        let lane = match lanes.iter().position(fits) {
            Some(lane) => lane,
            None if lanes.len() < LANES_MAX => {
                lanes.push(Lane { client: rand::random(), next: 1, in_flight: BTreeSet::new() });
                lanes.len() - 1
            }
            None => return None,
        };
        let Lane { client, next, in_flight } = &mut lanes[lane];
        let number = *next;
        *next += 1;
        in_flight.insert(number);
        Some(Named { ids: self, lane, client: *client, number })
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn numbers_in_flight_stay_within_the_window_of_their_client() {
        let ids = RequestIds::new();
        let slow = ids.try_take().expect("free");
        for _ in 1..WINDOW {
            assert_eq!(ids.try_take().expect("free").client, slow.client);
        }
        let next = ids.try_take().expect("another client");
        assert_ne!(next.client, slow.client);
        assert_eq!(next.number, 1);
        drop(slow);
        assert_ne!(ids.try_take().expect("free").client, next.client, "the first one is free again");
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_are_taken_the_next_waits_for_its_turn_and_no_longer_than_it_may() {
        let ids = RequestIds::new();
        let mut held = Vec::new();
        while let Some(named) = ids.try_take() {
            held.push(named);
        }
        assert_eq!(held.len() as u64, WINDOW * LANES_MAX as u64);
        let deadline = Instant::now() + Duration::from_secs(1);
        assert!(ids.take(deadline).await.is_none());
        let (named, ()) = tokio::join!(ids.take(Instant::now() + Duration::from_secs(1)), async {
            held.remove(0);
        });
        assert!(named.is_some());
    }
}
