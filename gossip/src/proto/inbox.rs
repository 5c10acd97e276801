//! What one link has brought on its present connection, and what is missing from it.
//!
//! A seq that the link has brought while an earlier one is not here, or a dep that a received txn named, is missing.
//! The names are kept as vectors even when a full gate drops the txns themselves, so that the chain of what has to come
//! first is never lost. Requests are bounded in rate. It must not know the gate's contents beyond how far they reach.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_crdt::{Dot, Origin, TxnHead, Vector};

use super::gate::Gate;

/// The delays of requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct WantTiming {
    pub grace_ms: u64,
    pub interval_ms: u64,
    pub retry_ms: u64,
}

/// A request that was sent: for what, how far we were, and when that last changed.
#[derive(Clone, Copy, Debug)]
struct Asked {
    have: u64,
    upto: u64,
    progress_ms: u64,
}

/// The receiving half of a live link.
#[derive(Clone, Debug, Default)]
pub(super) struct Inbox {
    /// For each origin the highest seq that arrived on this connection.
    seen: Vector,
    /// The deps of what arrived.
    needs: Vector,
    missing_since_ms: BTreeMap<Origin, u64>,
    asked: BTreeMap<Origin, Asked>,
    want_next_ms: u64,
    part: Option<(u64, Vec<u8>)>,
}

impl Inbox {
    /// A txn with this head arrived.
    pub fn arrived(&mut self, head: &TxnHead) {
        self.seen.advance(head.dot);
        self.needs.join(&head.deps);
    }

    /// A txn was dropped for lack of room: it may be asked for again as soon as there is room.
    pub fn dropped(&mut self) {
        self.asked.clear();
    }

    /// Takes a piece of a large txn; returns the txn when it is whole, or what is wrong with the piece.
    pub fn part(
        &mut self,
        total: u64,
        data: &Bytes,
        txn_bytes_max: u64,
    ) -> Result<Option<Bytes>, &'static str> {
        if total > txn_bytes_max {
            return Err("a txn above the size limit");
        }
        let (expected, buffer) = self.part.get_or_insert_with(|| (total, Vec::new()));
        if *expected != total || data.is_empty() || (buffer.len() + data.len()) as u64 > total {
            return Err("parts of a txn that do not fit together");
        }
        buffer.extend_from_slice(data);
        if (buffer.len() as u64) < total {
            return Ok(None);
        }
        Ok(self.part.take().map(|(_, buffer)| buffer.into()))
    }

    /// Whether a large txn has begun and is not whole yet.
    pub fn inside_part(&self) -> bool {
        self.part.is_some()
    }

    /// What to ask this link's peer for now, as (have, upto). `direct` says whether an origin has a live link of its
    /// own other than this one, which gets some time to deliver first; `full` whether the gate has no room.
    pub fn missing(
        &mut self,
        gate: &Gate,
        full: bool,
        direct: impl Fn(Origin) -> bool,
        timing: WantTiming,
        now_ms: u64,
    ) -> Option<(Vector, Vector)> {
        if now_ms < self.want_next_ms {
            return None;
        }
        let mut sought = self.seen.clone();
        sought.join(&self.needs);
        let (mut have, mut upto) = (Vector::new(), Vector::new());
        for dot in sought.iter() {
            let reached = gate.have(dot.origin);
            if dot.seq <= reached {
                self.settled(dot.origin);
                continue;
            }
            // Later txns than one that waits cannot pass before it: with a full gate they would only be dropped again.
            if full && gate.holds_next(dot.origin) {
                continue;
            }
            let since = *self.missing_since_ms.entry(dot.origin).or_insert(now_ms);
            let gap = self.seen.get(dot.origin) > reached;
            if !gap && direct(dot.origin) && now_ms < since + timing.grace_ms {
                continue;
            }
            if self.may_ask(dot, reached, timing, now_ms) {
                have.set(dot.origin, reached);
                upto.set(dot.origin, dot.seq);
            }
        }
        if upto.is_empty() {
            return None;
        }
        self.want_next_ms = now_ms + timing.interval_ms;
        Some((have, upto))
    }

    fn settled(&mut self, origin: Origin) {
        self.needs.set(origin, 0);
        self.missing_since_ms.remove(&origin);
        self.asked.remove(&origin);
    }

    /// Whether to ask for `dot` and what lies between, given that we are at `reached`. What was asked for and keeps
    /// coming is not asked for again.
    fn may_ask(&mut self, dot: Dot, reached: u64, timing: WantTiming, now_ms: u64) -> bool {
        if let Some(asked) = self.asked.get_mut(&dot.origin) {
            if reached > asked.have {
                asked.have = reached;
                asked.progress_ms = now_ms;
            }
            let coming = reached == asked.have && reached < asked.upto;
            if coming && now_ms < asked.progress_ms + timing.retry_ms {
                return false;
            }
        }
        self.asked.insert(dot.origin, Asked { have: reached, upto: dot.seq, progress_ms: now_ms });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Origin = Origin(1);
    const B: Origin = Origin(2);
    const TIMING: WantTiming = WantTiming { grace_ms: 500, interval_ms: 50, retry_ms: 1000 };

    fn head(origin: Origin, seq: u64, deps: &[Dot]) -> TxnHead {
        TxnHead { dot: Dot::new(origin, seq), hlc: 0, prev: 0, deps: deps.iter().copied().collect() }
    }

    #[test]
    fn a_gap_is_asked_for_at_once_and_again_only_when_nothing_comes() {
        let gate = Gate::new(Vector::new());
        let mut inbox = Inbox::default();
        inbox.arrived(&head(A, 3, &[]));
        let (have, upto) = inbox.missing(&gate, false, |_| true, TIMING, 100).expect("a gap");
        assert_eq!((have.get(A), upto.get(A)), (0, 3));
        assert!(inbox.missing(&gate, false, |_| true, TIMING, 200).is_none());
        assert!(inbox.missing(&gate, false, |_| true, TIMING, 1100).is_some());
    }

    #[test]
    fn a_dep_is_asked_for_at_once_only_when_its_origin_has_no_link() {
        let gate = Gate::new(Vector::new());
        let mut inbox = Inbox::default();
        inbox.arrived(&head(A, 1, &[Dot::new(B, 2)]));
        assert!(inbox.missing(&gate, false, |o| o == B, TIMING, 100).is_some_and(|(_, u)| u.get(B) == 0));
        assert!(inbox.missing(&gate, false, |o| o == B, TIMING, 599).is_none());
        assert!(inbox.missing(&gate, false, |o| o == B, TIMING, 600).is_some_and(|(_, u)| u.get(B) == 2));
        let mut inbox = Inbox::default();
        inbox.arrived(&head(A, 1, &[Dot::new(B, 2)]));
        assert!(inbox.missing(&gate, false, |_| false, TIMING, 100).is_some_and(|(_, u)| u.get(B) == 2));
    }

    #[test]
    fn parts_make_a_whole_and_misfits_are_refused() {
        let mut inbox = Inbox::default();
        let piece = Bytes::from_static(b"abc");
        assert_eq!(inbox.part(6, &piece, 10), Ok(None));
        assert_eq!(inbox.part(6, &piece, 10), Ok(Some(Bytes::from_static(b"abcabc"))));
        assert!(inbox.part(11, &piece, 10).is_err());
        assert!(inbox.part(2, &piece, 10).is_err());
    }
}
