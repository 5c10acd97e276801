//! When the next entry waits for more requests.
//!
//! An entry has a price of its own: syncs, messages, and threads that wake on every node. While threads find time for it, a
//! request that waits for others loses time and saves nothing that anybody lacks. While they are busy most of the time,
//! larger entries are what makes room, and everybody is answered earlier for it.

use std::sync::Arc;
use std::time::Duration;

use crate::seams::{Clock, Load};

/// Over how long it is looked how busy threads are, in milliseconds.
const WINDOW_MS: u64 = 50;
/// Threads that work more than one part in so many of the time are busy, until they work less than one in [`CALM_PART`]: larger
/// entries leave them less to do, and are the reason for it.
const BUSY_PART: u32 = 2;
/// The part in which busy threads are so no more.
const CALM_PART: u32 = 3;

/// Decides it.
pub(super) struct Gather {
    clock: Arc<dyn Clock>,
    load: Arc<dyn Load>,
    /// Requests for which an entry waits.
    requests: usize,
    /// When it was looked last, and how long threads had worked by then.
    seen: (u64, Duration),
    is_busy: bool,
}

impl Gather {
    /// For entries that wait for `requests`.
    pub(super) fn new(clock: Arc<dyn Clock>, load: Arc<dyn Load>, requests: usize) -> Self {
        let seen = (clock.monotonic_ms(), load.worked());
        Self { clock, load, requests, seen, is_busy: false }
    }

    /// Whether an entry of `here` requests waits for others while `under_way` are in earlier entries; it does not once these are
    /// through. So where clients have fewer requests than are wanted, one entry follows the other, each with what came meanwhile.
    pub(super) fn waits(&mut self, here: usize, under_way: usize) -> bool {
        under_way > 0 && here < self.requests && self.is_busy()
    }

    fn is_busy(&mut self) -> bool {
        let now_ms = self.clock.monotonic_ms();
        let past = Duration::from_millis(now_ms.saturating_sub(self.seen.0));
        if past >= Duration::from_millis(WINDOW_MS) {
            let worked = self.load.worked();
            let part = if self.is_busy { CALM_PART } else { BUSY_PART };
            self.is_busy = worked.saturating_sub(self.seen.1) * part > past;
            self.seen = (now_ms, worked);
        }
        self.is_busy
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A clock and a load that a test sets, in milliseconds.
    #[derive(Default)]
    struct Set(AtomicU64);

    impl Clock for Set {
        fn unix_ms(&self) -> u64 {
            self.monotonic_ms()
        }

        fn monotonic_ms(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn set_offset_ms(&self, _: i64) {}
    }

    impl Load for Set {
        fn worked(&self) -> Duration {
            Duration::from_millis(self.monotonic_ms())
        }
    }

    struct Case {
        clock: Arc<Set>,
        load: Arc<Set>,
        gather: Gather,
    }

    impl Case {
        fn new(requests: usize) -> Self {
            let (clock, load) = (Arc::<Set>::default(), Arc::<Set>::default());
            let gather = Gather::new(clock.clone(), load.clone(), requests);
            Self { clock, load, gather }
        }

        /// Time passes, of which threads work a part.
        fn pass(&mut self, ms: u64, worked_ms: u64) -> &mut Gather {
            self.clock.0.fetch_add(ms, Ordering::Relaxed);
            self.load.0.fetch_add(worked_ms, Ordering::Relaxed);
            &mut self.gather
        }
    }

    #[test]
    fn busy_threads_let_entries_grow_while_others_are_under_way() {
        let mut case = Case::new(32);
        let gather = case.pass(100, 80);
        assert!(gather.waits(1, 40) && gather.waits(31, 40));
        assert!(!gather.waits(32, 40), "it has enough");
        assert!(!gather.waits(20, 0), "nothing is under way that would keep the next one from being soon");
        assert!(gather.waits(1, 1), "even if there are not as many in all: until the one is through");
    }

    #[test]
    fn idle_threads_let_nobody_wait() {
        let mut case = Case::new(32);
        assert!(!case.pass(100, 40).waits(1, 100));
        assert!(case.pass(100, 90).waits(1, 100));
        assert!(case.pass(10, 0).waits(1, 100), "a pause this short says nothing");
        assert!(case.pass(100, 40).waits(1, 100), "larger entries are why there is less to do");
        assert!(!case.pass(100, 30).waits(1, 100));
        assert!(case.pass(100, 90).waits(1, 100));
        assert!(!case.pass(10_000, 50).waits(1, 100), "it was idle for long");
    }

    #[test]
    fn one_request_is_enough_if_it_is_asked_for() {
        assert!(!Case::new(1).pass(100, 100).waits(1, 100));
    }
}
