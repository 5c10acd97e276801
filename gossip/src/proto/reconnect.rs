//! When and whom to dial: jittered exponential backoff, rotating through a DC's nodes, following hints to its leader.
//!
//! It must not know what is wrong with a link, only how long to stay away.

/// Draws jitter from a seed: the SplitMix64 sequence. Not for secrets.
#[derive(Clone, Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`, 0 when that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

/// The dialing side of one link.
#[derive(Clone, Debug)]
pub(super) struct Dial {
    nodes: Vec<u64>,
    next: usize,
    hint: Option<u64>,
    /// The last node that a link stood with: probably still the leader, when nothing but the way to it was lost.
    last_leader: Option<u64>,
    tried_last_leader: bool,
    attempt: u64,
    /// The attempts under way and when they began, oldest first.
    under_way: Vec<(u64, u64)>,
    overlap_ms: u64,
    next_ms: u64,
    backoff_ms: u64,
    backoff_ms_min: u64,
    backoff_ms_max: u64,
}

/// Attempts under way at once.
const ATTEMPTS_MAX: usize = 2;

impl Dial {
    /// A dialer of `nodes`. An attempt that is still under way after `overlap_ms` is joined by a second one: where a cut
    /// swallows every byte, an attempt ends only by its deadline, and one that is about to end when the cut heals has no
    /// time left to come through. The other one then has.
    pub fn new(nodes: Vec<u64>, backoff_ms_min: u64, backoff_ms_max: u64, overlap_ms: u64) -> Self {
        Self {
            nodes,
            next: 0,
            hint: None,
            last_leader: None,
            tried_last_leader: false,
            attempt: 0,
            under_way: Vec::new(),
            overlap_ms,
            next_ms: 0,
            backoff_ms: backoff_ms_min,
            backoff_ms_min,
            backoff_ms_max,
        }
    }

    /// Not before `at_ms`; a new reign starts from here.
    pub fn restart(&mut self, at_ms: u64) {
        self.under_way.clear();
        self.next_ms = at_ms;
        self.backoff_ms = self.backoff_ms_min;
    }

    /// The node to dial now with the number of the attempt, if it is time.
    pub fn start(&mut self, now_ms: u64) -> Option<(u64, u64)> {
        let from_ms = match self.under_way.last() {
            None => self.next_ms,
            // Whoever was told where the leader is does not wait for the other attempt.
            Some(_) if self.under_way.len() < ATTEMPTS_MAX && self.hint.is_some() => self.next_ms,
            Some((_, began_ms)) if self.under_way.len() < ATTEMPTS_MAX => began_ms + self.overlap_ms,
            Some(_) => return None,
        };
        if now_ms < from_ms {
            return None;
        }
        // Every second attempt goes to the last leader. Whatever attempt a healed cut finds under way then often needs
        // no redirection, which would cost as many round trips again; and a leader that has changed is found as soon.
        let again = self.last_leader.filter(|_| !self.tried_last_leader);
        let node = match self.hint.take().or(again) {
            Some(node) => node,
            None => {
                if self.nodes.len() > 1 && self.nodes.get(self.next).copied() == self.last_leader {
                    self.next = (self.next + 1) % self.nodes.len();
                }
                let node = *self.nodes.get(self.next)?;
                self.next = (self.next + 1) % self.nodes.len();
                node
            }
        };
        self.tried_last_leader = self.last_leader == Some(node);
        self.attempt += 1;
        self.under_way.push((self.attempt, now_ms));
        Some((node, self.attempt))
    }

    /// Whether `attempt` is under way.
    pub fn is_under_way(&self, attempt: u64) -> bool {
        self.under_way.iter().any(|(under_way, _)| *under_way == attempt)
    }

    /// `attempt` ended without a link: the next one is later and elsewhere.
    pub fn failed(&mut self, attempt: u64, now_ms: u64, jitter: &mut Jitter) {
        if self.is_under_way(attempt) {
            self.under_way.retain(|(under_way, _)| *under_way != attempt);
            self.retreat(now_ms, jitter);
        }
    }

    /// The node of `attempt` follows `leader`, if it knows one: that one is next.
    pub fn redirected(&mut self, attempt: u64, leader: Option<u64>, now_ms: u64, jitter: &mut Jitter) {
        self.failed(attempt, now_ms, jitter);
        self.hint = leader.filter(|leader| self.nodes.contains(leader));
        if self.hint.is_some() {
            self.next_ms = now_ms + self.backoff_ms_min / 2 + jitter.below(self.backoff_ms_min);
        }
    }

    /// A link stands; the delays start over, and the next dial goes to the same node.
    pub fn succeeded(&mut self, attempt: Option<u64>, node: u64) {
        if attempt.is_some_and(|attempt| self.is_under_way(attempt)) {
            self.under_way.clear();
        }
        self.backoff_ms = self.backoff_ms_min;
        self.hint = Some(node).filter(|node| self.nodes.contains(node));
        self.last_leader = self.hint;
    }

    /// A link ended.
    pub fn lost(&mut self, now_ms: u64, jitter: &mut Jitter) {
        self.next_ms = now_ms + jitter.below(self.backoff_ms_min);
    }

    fn retreat(&mut self, now_ms: u64, jitter: &mut Jitter) {
        self.next_ms = now_ms + self.backoff_ms / 2 + jitter.below(self.backoff_ms / 2);
        self.backoff_ms = (self.backoff_ms * 2).min(self.backoff_ms_max);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_dial_goes_to_the_node_that_the_last_link_stood_with() {
        let (mut dial, mut jitter) = (Dial::new(vec![1, 2, 3], 50, 500, 1500), Jitter::new(1));
        dial.succeeded(None, 2);
        dial.lost(0, &mut jitter);
        let mut nodes = Vec::new();
        for turn in 1..=8 {
            let (node, attempt) = dial.start(turn * 1000).expect("it is time");
            nodes.push(node);
            dial.failed(attempt, turn * 1000, &mut jitter);
        }
        assert_eq!(nodes, [2, 1, 2, 3, 2, 1, 2, 3]);
    }

    #[test]
    fn dials_rotate_and_back_off_within_bounds() {
        let (mut dial, mut jitter) = (Dial::new(vec![1, 2, 3], 50, 500, 1500), Jitter::new(1));
        let mut now = 0;
        let mut nodes = Vec::new();
        for _ in 0..9 {
            let (node, attempt) = dial.start(now).expect("it is time");
            assert!(dial.start(now).is_none(), "one dial at a time");
            nodes.push(node);
            dial.failed(attempt, now, &mut jitter);
            assert!(dial.start(now).is_none(), "there is a delay");
            now += 500;
        }
        assert_eq!(nodes, [1, 2, 3, 1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn a_second_attempt_joins_one_that_takes_long_and_a_third_waits() {
        let (mut dial, mut jitter) = (Dial::new(vec![1, 2, 3], 50, 500, 1500), Jitter::new(1));
        let (_, first) = dial.start(0).expect("it is time");
        assert!(dial.start(1499).is_none());
        let (_, second) = dial.start(1500).expect("the first takes long");
        assert!(dial.start(9000).is_none(), "two at a time");
        dial.failed(first, 3000, &mut jitter);
        let (_, third) = dial.start(3000).expect("the second takes long too");
        assert!(dial.is_under_way(second) && dial.is_under_way(third) && !dial.is_under_way(first));
        dial.succeeded(Some(second), 2);
        assert!(!dial.is_under_way(third), "a link stands");
    }

    #[test]
    fn a_hint_is_followed_once_and_soon() {
        let (mut dial, mut jitter) = (Dial::new(vec![1, 2, 3], 50, 500, 1500), Jitter::new(1));
        let (_, attempt) = dial.start(0).expect("it is time");
        dial.redirected(attempt, Some(3), 0, &mut jitter);
        let (node, attempt) = dial.start(75).expect("soon");
        assert_eq!(node, 3);
        dial.failed(attempt, 75, &mut jitter);
        assert_eq!(dial.start(1000).expect("it is time").0, 2);
    }
}
