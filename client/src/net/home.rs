//! Which datacenter is home: the pure decision, fed with what is known about each datacenter's health.
//!
//! Two rules keep it from thrashing. A datacenter is returned to only after it has been healthy without a break for a
//! hold, and the hold doubles each time that a return did not last. Nothing here knows of sockets or clocks.

use std::time::Duration;

use tokio::time::Instant;

/// How long a datacenter must be healthy before the client returns to it, unless set otherwise.
pub const RETURN_AFTER: Duration = Duration::from_secs(5);
/// The longest that this hold grows by flapping.
pub const RETURN_AFTER_MAX: Duration = Duration::from_secs(120);

#[derive(Clone, Debug)]
struct Watched {
    /// Since when it has been healthy; none while it is not.
    up_since: Option<Instant>,
    /// How long it must be healthy before it becomes home again.
    hold: Duration,
    /// When it became home; none while it is not.
    home_since: Option<Instant>,
    /// Whether it became home after another one had been.
    returned: bool,
}

/// The choice of home.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    dcs: Vec<Watched>,
    current: usize,
    return_after: Duration,
}

impl Home {
    /// `count` datacenters of which nothing is known; the first is home.
    pub fn new(count: usize, return_after: Duration, now: Instant) -> Home {
        let watched = Watched { up_since: None, hold: return_after, home_since: None, returned: false };
        let mut dcs = vec![watched; count];
        dcs[0].home_since = Some(now);
        Home { dcs, current: 0, return_after }
    }

    /// The datacenter that is home now.
    pub fn current(&self) -> usize {
        self.current
    }

    /// Whether a datacenter is healthy as far as is known.
    pub fn is_up(&self, dc: usize) -> bool {
        self.dcs[dc].up_since.is_some()
    }

    /// Takes note of the health of `dc`.
    pub fn observe(&mut self, dc: usize, up: bool, now: Instant) {
        let watched = &mut self.dcs[dc];
        match (up, watched.up_since) {
            (true, None) => watched.up_since = Some(now),
            (false, Some(_)) => watched.up_since = None,
            _ => {}
        }
    }

    /// Decides again. `order` lists the datacenters, the one that is preferred first. Returns the new home if it
    /// changes.
    pub fn decide(&mut self, order: &[usize], now: Instant) -> Option<usize> {
        let next = if self.is_up(self.current) {
            // Only a datacenter that is preferred to the current one, and has been healthy for its hold, replaces it.
            let preferred = order.iter().copied().take_while(|dc| *dc != self.current);
            preferred.into_iter().find(|dc| self.has_held(*dc, now))?
        } else {
            let others = || order.iter().copied().filter(|dc| self.is_up(*dc));
            others().find(|dc| self.has_held(*dc, now)).or_else(|| others().next())?
        };
        self.move_to(next, now);
        Some(next)
    }

    fn has_held(&self, dc: usize, now: Instant) -> bool {
        let watched = &self.dcs[dc];
        watched.up_since.is_some_and(|since| now.saturating_duration_since(since) >= watched.hold)
    }

    fn move_to(&mut self, next: usize, now: Instant) {
        let left = &mut self.dcs[self.current];
        if left.up_since.is_none() {
            // It failed as home. That is a flap unless it was the first time or came after a long stay.
            let stayed = left.home_since.map(|since| now.saturating_duration_since(since));
            let sound = !left.returned || stayed.is_some_and(|stayed| stayed >= RETURN_AFTER_MAX);
            let hold = if sound { self.return_after } else { left.hold * 2 };
            left.hold = hold.min(RETURN_AFTER_MAX.max(self.return_after));
        }
        left.home_since = None;
        self.dcs[next].home_since = Some(now);
        self.dcs[next].returned = true;
        self.current = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Duration = Duration::from_secs(5);
    const SECOND: Duration = Duration::from_secs(1);

    struct World {
        home: Home,
        now: Instant,
    }

    impl World {
        fn new(count: usize) -> World {
            let now = Instant::now();
            let mut world = World { home: Home::new(count, HOLD, now), now };
            (0..count).for_each(|dc| world.home.observe(dc, true, now));
            world
        }

        /// Health of the first datacenter for so many seconds; how often home changed.
        fn pass(&mut self, seconds: u32, first_up: bool) -> usize {
            let mut changes = 0;
            for _ in 0..seconds {
                self.now += SECOND;
                self.home.observe(0, first_up, self.now);
                changes +=
                    usize::from(self.home.decide(&[0, 1, 2][..self.home.dcs.len()], self.now).is_some());
            }
            changes
        }
    }

    #[test]
    fn a_lost_home_is_left_at_once_and_returned_to_after_it_held() {
        let mut world = World::new(3);
        assert_eq!(world.pass(1, false), 1);
        assert_eq!(world.home.current(), 1);
        assert_eq!(world.pass(5, true), 0);
        assert_eq!(world.pass(1, true), 1);
        assert_eq!(world.home.current(), 0);
        assert_eq!(world.pass(1, false), 1);
        assert_eq!(world.pass(10, true), 0, "the hold has doubled, because the return did not last");
        assert_eq!(world.pass(1, true), 1);
    }

    #[test]
    fn a_datacenter_that_flaps_is_returned_to_ever_more_rarely() {
        let mut world = World::new(2);
        let changes: usize = (0..100).map(|_| world.pass(3, false) + world.pass(3, true)).sum();
        assert_eq!(changes, 1, "it never held");
        let mut world = World::new(2);
        let mut changes = 0;
        for _ in 0..20 {
            changes += world.pass(1, false) + world.pass(30, true);
        }
        // 620 s of flapping every 31 s: returns stop once the hold is longer than the flap's period.
        assert!((2..=7).contains(&changes), "{changes}");
        assert_eq!(world.home.current(), 1);
    }

    #[test]
    fn a_stay_that_lasted_makes_the_hold_short_again() {
        let mut world = World::new(2);
        for _ in 0..3 {
            world.pass(1, false);
            world.pass(130, true);
            assert_eq!(world.home.current(), 0);
        }
        world.pass(300, true);
        world.pass(1, false);
        assert_eq!(world.pass(7, true), 1, "the hold is five seconds again");
    }

    #[test]
    fn with_nothing_healthy_home_stays() {
        let mut world = World::new(1);
        assert_eq!(world.pass(50, false), 0);
        assert_eq!(world.home.current(), 0);
    }
}
