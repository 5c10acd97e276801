//! When another origin's txns are relayed: after that origin had the time it usually takes to deliver them itself.
//!
//! A healthy mesh so sends each txn once per DC, and data flows around a broken link. It must not know how txns are
//! read or sent.

use std::collections::BTreeMap;

use meridian_crdt::{Dot, Origin, Vector};

/// How many times the usual delay of an origin's acknowledgement is waited for.
const PATIENCE: u64 = 3;

/// The weight of the newest of so many samples in the usual delay.
const SAMPLES: u64 = 8;

#[derive(Clone, Copy, Debug)]
struct Mark {
    seq: u64,
    since_ms: u64,
    relayed: bool,
}

/// What a peer lacks of other origins, and since when.
#[derive(Clone, Debug)]
pub(super) struct Relay {
    ms_min: u64,
    ms_max: u64,
    marks: BTreeMap<Origin, Mark>,
    usual_ms: BTreeMap<Origin, u64>,
}

impl Relay {
    /// Relays after at least `ms_min` and at most `ms_max`.
    pub fn new(ms_min: u64, ms_max: u64) -> Self {
        Self { ms_min, ms_max, marks: BTreeMap::new(), usual_ms: BTreeMap::new() }
    }

    /// The peer now has `dot` and what came before it; from `elsewhere` if we did not send it.
    pub fn progress(&mut self, dot: Dot, elsewhere: bool, now_ms: u64) {
        let Some(mark) = self.marks.get_mut(&dot.origin) else { return };
        if dot.seq >= mark.seq {
            if !mark.relayed {
                let sample = now_ms.saturating_sub(mark.since_ms);
                let usual = self.usual_ms.entry(dot.origin).or_insert(sample);
                *usual = (*usual * (SAMPLES - 1) + sample) / SAMPLES;
            }
            self.marks.remove(&dot.origin);
        } else if elsewhere {
            // The origin is delivering, only not at its end yet: no reason to send it all a second time.
            mark.since_ms = now_ms;
        }
    }

    /// Notes what `acked` lacks of `applied`, and returns up to where each overdue origin is to be sent.
    pub fn overdue(&mut self, own: Origin, applied: &Vector, acked: &Vector, now_ms: u64) -> Vec<Dot> {
        let mut due = Vec::new();
        for dot in applied.above(acked).iter().filter(|d| d.origin != own) {
            let usual = self.usual_ms.get(&dot.origin).copied().unwrap_or(0);
            let patience = self.ms_min.max(PATIENCE * usual).min(self.ms_max);
            let mark = self.marks.entry(dot.origin).or_insert(Mark {
                seq: dot.seq,
                since_ms: now_ms,
                relayed: false,
            });
            if !mark.relayed && now_ms >= mark.since_ms + patience {
                mark.relayed = true;
                due.push(Dot::new(dot.origin, mark.seq));
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Origin = Origin(1);
    const FAR: Origin = Origin(2);

    fn vector(seq: u64) -> Vector {
        [Dot::new(FAR, seq), Dot::new(OWN, 9)].into_iter().collect()
    }

    #[test]
    fn a_foreign_txn_is_relayed_once_after_the_delay_and_own_txns_never() {
        let mut relay = Relay::new(500, 5000);
        let acked = Vector::new();
        assert!(relay.overdue(OWN, &vector(3), &acked, 1000).is_empty());
        assert!(relay.overdue(OWN, &vector(4), &acked, 1499).is_empty());
        assert_eq!(relay.overdue(OWN, &vector(4), &acked, 1500), [Dot::new(FAR, 3)]);
        assert!(relay.overdue(OWN, &vector(4), &acked, 1600).is_empty());
    }

    #[test]
    fn a_slow_origin_gets_three_times_its_usual_delay() {
        let mut relay = Relay::new(500, 5000);
        relay.overdue(OWN, &vector(1), &Vector::new(), 0);
        relay.progress(Dot::new(FAR, 1), true, 400);
        relay.overdue(OWN, &vector(2), &vector(1), 1000);
        assert!(relay.overdue(OWN, &vector(2), &vector(1), 2199).is_empty());
        assert_eq!(relay.overdue(OWN, &vector(2), &vector(1), 2200), [Dot::new(FAR, 2)]);
    }

    #[test]
    fn an_origin_that_is_delivering_is_not_relayed() {
        let mut relay = Relay::new(500, 5000);
        relay.overdue(OWN, &vector(100), &Vector::new(), 0);
        relay.progress(Dot::new(FAR, 10), true, 400);
        assert!(relay.overdue(OWN, &vector(100), &vector(10), 800).is_empty());
    }
}
