//! The gate: where remote txns wait until what they depend on is applied or already proposed.
//!
//! Keeps I2 and I3 on the way in: a txn leaves the gate only as the next of its origin and with its deps ahead of it.
//! Bounded per link: [`Gate::trim`] drops the furthest. Nothing here is acknowledged, so dropping loses nothing. It
//! must not know links beyond their number, nor who proposes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use meridian_crdt::{Dot, Origin, TxnHead, Vector};

/// The number of a link: the place of its DC among the members.
pub(super) type LinkId = usize;

/// A txn on its way into a proposal.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub dot: Dot,
    pub link: LinkId,
    pub bytes: Bytes,
}

#[derive(Clone, Debug)]
struct Held {
    link: LinkId,
    hlc: u64,
    deps: Vector,
    bytes: Bytes,
}

/// What waits of one origin.
#[derive(Clone, Debug, Default)]
struct Waiting {
    held: BTreeMap<u64, Held>,
    /// The end of the run of held txns that follows `ahead` without a gap.
    run_end: u64,
}

impl Waiting {
    fn extend_run(&mut self) {
        while self.held.contains_key(&(self.run_end + 1)) {
            self.run_end += 1;
        }
    }
}

/// All waiting remote txns of one DC.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate {
    applied: Vector,
    /// Proposals that were answered as applied, though the view may not show them yet.
    answered: Vector,
    /// Applied, answered, or proposed and not answered.
    ahead: Vector,
    registered: BTreeSet<Origin>,
    origins: BTreeMap<Origin, Waiting>,
    bytes: BTreeMap<LinkId, u64>,
}

impl Gate {
    /// A gate of a DC that has applied `applied`.
    pub fn new(applied: Vector) -> Self {
        Self { ahead: applied.clone(), applied, ..Self::default() }
    }

    /// Origins whose txns may pass.
    pub fn set_registered(&mut self, registered: BTreeSet<Origin>) {
        self.registered = registered;
    }

    pub fn registered(&self) -> &BTreeSet<Origin> {
        &self.registered
    }

    /// The DC has applied `applied`.
    pub fn set_applied(&mut self, applied: &Vector) {
        assert!(applied.covers_all(&self.applied), "the vector of a DC never falls within a term");
        self.applied.clone_from(applied);
        self.ahead.join(applied);
        for dot in self.applied.iter() {
            let Some(waiting) = self.origins.get_mut(&dot.origin) else { continue };
            while let Some(first) = waiting.held.first_entry() {
                if *first.key() > dot.seq {
                    break;
                }
                let held = first.remove();
                release(&mut self.bytes, &held);
            }
            if waiting.run_end < dot.seq {
                waiting.run_end = dot.seq;
                waiting.extend_run();
            }
        }
    }

    /// The highest seq of `origin` that is ahead or held without a gap.
    pub fn have(&self, origin: Origin) -> u64 {
        let run_end = self.origins.get(&origin).map_or(0, |w| w.run_end);
        run_end.max(self.ahead.get(origin))
    }

    /// Whether the next txn of `origin` is held, so that asking for later ones can wait.
    pub fn holds_next(&self, origin: Origin) -> bool {
        self.have(origin) > self.ahead.get(origin)
    }

    /// Whether `dot` is here already, in whatever form.
    pub fn knows(&self, dot: Dot) -> bool {
        self.ahead.covers(dot) || self.origins.get(&dot.origin).is_some_and(|w| w.held.contains_key(&dot.seq))
    }

    /// Takes a txn that is not known yet.
    pub fn hold(&mut self, link: LinkId, head: TxnHead, bytes: Bytes) {
        debug_assert!(!self.knows(head.dot), "duplicates are dropped before the gate");
        let ahead = self.ahead.get(head.dot.origin);
        *self.bytes.entry(link).or_default() += bytes.len() as u64;
        let waiting = self.origins.entry(head.dot.origin).or_default();
        waiting.run_end = waiting.run_end.max(ahead);
        waiting.held.insert(head.dot.seq, Held { link, hlc: head.hlc, deps: head.deps, bytes });
        waiting.extend_run();
    }

    /// Takes out what may be proposed now, in an order in which it can be applied.
    pub fn take_ready(&mut self, bytes_max: u64, txns_max: usize) -> Vec<Ready> {
        let mut ready = Vec::new();
        let mut bytes = 0;
        let mut moved = true;
        while moved {
            moved = false;
            for (origin, waiting) in &mut self.origins {
                if !self.registered.contains(origin) {
                    continue;
                }
                while let Some(first) = waiting.held.first_entry() {
                    let dot = Dot::new(*origin, *first.key());
                    let next = self.ahead.get(*origin) + 1;
                    if dot.seq != next || !self.ahead.covers_all(&first.get().deps) {
                        break;
                    }
                    let size = first.get().bytes.len() as u64;
                    if ready.len() >= txns_max || (bytes + size > bytes_max && !ready.is_empty()) {
                        return ready;
                    }
                    let held = first.remove();
                    release(&mut self.bytes, &held);
                    bytes += size;
                    self.ahead.advance(dot);
                    ready.push(Ready { dot, link: held.link, bytes: held.bytes });
                    moved = true;
                }
            }
        }
        ready
    }

    /// A proposal was answered: `done` are the dots that are applied. Whatever else it held is forgotten.
    pub fn answer(&mut self, done: impl Iterator<Item = Dot>) {
        for dot in done {
            self.answered.advance(dot);
        }
        let mut ahead = self.applied.clone();
        ahead.join(&self.answered);
        let before = std::mem::replace(&mut self.ahead, ahead);
        for (origin, waiting) in &mut self.origins {
            let ahead = self.ahead.get(*origin);
            // A run that begins where it did, or later, ends where it did. It is long while a datacenter catches up.
            if ahead < before.get(*origin) || ahead > waiting.run_end {
                waiting.run_end = ahead;
                waiting.extend_run();
            }
        }
    }

    /// Drops the furthest txns of `link` until it holds at most `bytes_max`; returns how many.
    pub fn trim(&mut self, link: LinkId, bytes_max: u64) -> u64 {
        let mut dropped = 0;
        while self.bytes(link) > bytes_max {
            let furthest = self
                .origins
                .iter()
                .filter_map(|(origin, w)| {
                    let seq = *w.held.iter().rev().find(|(_, h)| h.link == link)?.0;
                    Some((seq - self.ahead.get(*origin), *origin, seq))
                })
                .max();
            let Some((_, origin, seq)) = furthest else { break };
            self.remove(Dot::new(origin, seq));
            dropped += 1;
        }
        dropped
    }

    /// Drops all that `link` brought: its next connection sends it again.
    pub fn forget_link(&mut self, link: LinkId) {
        for (origin, waiting) in &mut self.origins {
            let before = waiting.held.len();
            waiting.held.retain(|_, held| held.link != link);
            if waiting.held.len() < before {
                waiting.run_end = self.ahead.get(*origin);
                waiting.extend_run();
            }
        }
        self.bytes.remove(&link);
    }

    fn remove(&mut self, dot: Dot) {
        let Some(waiting) = self.origins.get_mut(&dot.origin) else { return };
        if let Some(held) = waiting.held.remove(&dot.seq) {
            release(&mut self.bytes, &held);
            if dot.seq <= waiting.run_end {
                waiting.run_end = dot.seq - 1;
            }
        }
    }

    /// Bytes that `link` has at the gate.
    pub fn bytes(&self, link: LinkId) -> u64 {
        self.bytes.get(&link).copied().unwrap_or(0)
    }

    /// Bytes of all links.
    pub fn bytes_total(&self) -> u64 {
        self.bytes.values().sum()
    }

    /// The stamp of the first waiting txn of `origin`.
    pub fn oldest_hlc(&self, origin: Origin) -> Option<u64> {
        self.origins.get(&origin)?.held.values().next().map(|h| h.hlc)
    }

    /// Asserts what must hold between any two events.
    pub fn validate(&self) {
        assert!(self.ahead.covers_all(&self.applied), "what is applied is ahead");
        assert!(self.ahead.covers_all(&self.answered), "what was answered is ahead");
        let mut bytes: BTreeMap<LinkId, u64> = BTreeMap::new();
        for (origin, waiting) in &self.origins {
            let ahead = self.ahead.get(*origin);
            for (seq, held) in &waiting.held {
                assert!(*seq > ahead, "nothing waits that is ahead already");
                *bytes.entry(held.link).or_default() += held.bytes.len() as u64;
            }
            let mut run_end = ahead;
            while waiting.held.contains_key(&(run_end + 1)) {
                run_end += 1;
            }
            assert_eq!(waiting.run_end.max(ahead), run_end, "the run of {origin} is known");
        }
        let kept: BTreeMap<LinkId, u64> =
            self.bytes.iter().filter(|(_, b)| **b > 0).map(|(l, b)| (*l, *b)).collect();
        assert_eq!(bytes, kept, "the bytes at the gate are counted");
    }
}

fn release(bytes: &mut BTreeMap<LinkId, u64>, held: &Held) {
    if let Some(count) = bytes.get_mut(&held.link) {
        *count -= held.bytes.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Origin = Origin(1);
    const B: Origin = Origin(2);

    fn head(origin: Origin, seq: u64, deps: &[Dot]) -> TxnHead {
        TxnHead { dot: Dot::new(origin, seq), hlc: 0, prev: 0, deps: deps.iter().copied().collect() }
    }

    fn gate() -> Gate {
        let mut gate = Gate::new(Vector::new());
        gate.set_registered(BTreeSet::from([A, B]));
        gate
    }

    fn dots(ready: &[Ready]) -> Vec<Dot> {
        ready.iter().map(|r| r.dot).collect()
    }

    #[test]
    fn a_txn_waits_for_the_one_before_it_and_for_its_deps() {
        let mut gate = gate();
        gate.hold(0, head(A, 2, &[]), Bytes::from_static(b"a2"));
        gate.hold(0, head(A, 1, &[Dot::new(B, 1)]), Bytes::from_static(b"a1"));
        assert!(gate.take_ready(100, 10).is_empty());
        gate.hold(1, head(B, 1, &[]), Bytes::from_static(b"b1"));
        let ready = gate.take_ready(100, 10);
        assert_eq!(dots(&ready), [Dot::new(B, 1), Dot::new(A, 1), Dot::new(A, 2)]);
        gate.validate();
    }

    #[test]
    fn a_failed_proposal_is_forgotten_and_an_answered_one_is_not() {
        let mut gate = gate();
        gate.hold(0, head(A, 1, &[]), Bytes::from_static(b"a1"));
        gate.hold(0, head(A, 2, &[]), Bytes::from_static(b"a2"));
        assert_eq!(gate.take_ready(100, 1).len(), 1);
        gate.answer(std::iter::empty());
        assert_eq!(gate.have(A), 0);
        gate.hold(0, head(A, 1, &[]), Bytes::from_static(b"a1"));
        assert_eq!(gate.have(A), 2);
        assert_eq!(gate.take_ready(100, 1).len(), 1);
        gate.answer([Dot::new(A, 1)].into_iter());
        assert!(gate.knows(Dot::new(A, 1)));
        gate.validate();
    }

    #[test]
    fn a_full_gate_drops_the_furthest() {
        let mut gate = gate();
        for seq in 2..=5 {
            gate.hold(0, head(A, seq, &[]), Bytes::from_static(b"12345"));
        }
        assert_eq!(gate.trim(0, 12), 2);
        assert!(gate.knows(Dot::new(A, 3)) && !gate.knows(Dot::new(A, 4)));
        gate.validate();
    }

    #[test]
    fn txns_of_an_unregistered_origin_wait() {
        let mut gate = Gate::new(Vector::new());
        gate.hold(0, head(A, 1, &[]), Bytes::from_static(b"a1"));
        assert!(gate.take_ready(100, 10).is_empty());
        gate.set_registered(BTreeSet::from([A]));
        assert_eq!(gate.take_ready(100, 10).len(), 1);
    }
}
