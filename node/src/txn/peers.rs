//! How far the other datacenters are, and what follows from it: what is acked and what is stable.
//!
//! A member's reported vector counts for stability only once we have applied the member's own txns up to
//! `R[member]`: whatever of it can still arrive then depends on all of R. Counting it earlier is the classic mistake:
//! a txn that the member wrote before it saw R may still be on its way, and is concurrent with what R covers. The same
//! holds for the ended lives of datacenters, for which nobody reports any more.

use std::collections::BTreeSet;

use meridian_crdt::{Dot, Origin, Vector};
use serde::{Deserialize, Serialize};

use super::state::ShardState;

/// One other datacenter, as the log knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its current life; unknown until it was first met.
    pub origin: Option<Origin>,
    /// The lives that it has ended. None of them comes back.
    pub ended: Vec<Origin>,
    /// The newest vector that it has reported: what it has for sure.
    pub acked: Vector,
    /// A reported vector that does not count yet.
    pub waiting: Option<Vector>,
    /// The newest reported vector that counts for stability.
    pub counted: Vector,
}

impl Peer {
    /// Moves `waiting` to `counted` if `applied` reaches it, and starts to wait for the newest report. `living` are
    /// the lives that somebody reports for.
    fn settle(&mut self, applied: &Vector, living: &BTreeSet<Origin>) {
        let Some(own) = self.origin else { return };
        let counts = |dot: Dot| applied.covers(dot) || (dot.origin != own && living.contains(&dot.origin));
        while let Some(waiting) = self.waiting.take_if(|r| r.iter().all(counts)) {
            self.counted = waiting;
            self.waiting = Some(self.acked.clone()).filter(|newest| *newest != self.counted);
        }
    }
}

/// What a datacenter begins with, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Founding {
    /// The list of the other datacenters.
    Members,
    /// Its first life.
    Life,
}

impl ShardState {
    /// What the leader has to propose before anything else, if the others are `members`. From its first life on a datacenter
    /// takes writes, and one that knows no members holds all that it has to be stable: so they come first.
    pub fn lacks(&self, members: &[String]) -> Option<Founding> {
        if !self.members.keys().eq(members) && self.latecomer(members).is_none() {
            return Some(Founding::Members);
        }
        self.own.is_none().then_some(Founding::Life)
    }

    /// One of `members` who cannot become one any more: something is stable, which it has never had, and what it writes without
    /// that would be refused for ever.
    pub fn latecomer<'m>(&self, members: &'m [String]) -> Option<&'m str> {
        let new = members.iter().find(|dc| !self.members.contains_key(*dc));
        new.filter(|_| !self.stable.is_empty()).map(String::as_str)
    }

    /// Takes the list of the other datacenters. A member that is gone no longer holds anything back; a new one holds
    /// everything that it may still need.
    pub fn set_members(&mut self, names: Vec<String>) {
        self.members.retain(|dc, _| names.contains(dc));
        for dc in names {
            self.members.entry(dc).or_default();
        }
        for chain in self.chains.values() {
            if let Some(peer) = self.members.get_mut(&chain.name.dc) {
                peer.origin.get_or_insert(chain.name.origin());
            }
        }
        self.refresh_stability();
    }

    /// Takes a member's report. One of a life that was registered after the current one makes it the current one;
    /// reports of ended lives, and of others than members, are refused.
    pub fn report(&mut self, member: Origin, vector: Vector) -> Result<(), String> {
        let dc = self.dc_of(member).ok_or_else(|| format!("{member} is not registered"))?.to_owned();
        let peer = self.members.get_mut(&dc).ok_or_else(|| format!("{dc} is not a member"))?;
        if peer.ended.contains(&member) {
            return Err(format!("{member} is an ended life of {dc}"));
        }
        if let Some(ended) = peer.origin.replace(member).filter(|before| *before != member) {
            peer.ended.push(ended);
            peer.waiting = None;
            // The ended life may have told of txns that were lost with it, and that nobody has: waiting for them would
            // hold stability back for ever. The new life has what it says, and its txns depend on no more.
            peer.acked = Vector::new();
            peer.counted.meet(&vector);
        }
        peer.acked.join(&vector);
        if peer.waiting.is_none() && peer.acked != peer.counted {
            peer.waiting = Some(peer.acked.clone());
        }
        self.refresh_stability();
        Ok(())
    }

    /// Recomputes what is acked and stable from the members and the vector. Neither ever falls (I5): what was once
    /// true of every member stays true of those that remain.
    pub fn refresh_stability(&mut self) {
        let mut acked = self.vector.clone();
        let mut stable = self.vector.clone();
        let living: BTreeSet<Origin> =
            self.members.values().filter_map(|peer| peer.origin).chain(self.own).collect();
        for peer in self.members.values_mut() {
            peer.settle(&self.vector, &living);
            acked.meet(&peer.acked);
            stable.meet(&peer.counted);
        }
        self.acked.join(&acked);
        if !self.standing_still() {
            self.stable.join(&stable);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_crdt::OriginName;

    fn name(dc: &str, epoch: u128) -> OriginName {
        OriginName { dc: dc.into(), epoch: uuid::Uuid::from_u128(epoch) }
    }

    fn vector(dots: &[(Origin, u64)]) -> Vector {
        dots.iter().map(|(o, s)| Dot::new(*o, *s)).collect()
    }

    /// Story: a datacenter begins alone, and a year later another one is written into its configuration.
    #[test]
    fn members_come_before_the_first_life_and_not_after_something_is_stable() {
        let [b, c] = ["b", "c"].map(str::to_owned);
        let mut state = ShardState::new();
        assert_eq!(state.lacks(&[]), Some(Founding::Life));
        assert_eq!(state.lacks(std::slice::from_ref(&b)), Some(Founding::Members));
        state.set_members(vec![b.clone()]);
        assert_eq!(state.lacks(std::slice::from_ref(&b)), Some(Founding::Life));
        let own = state.register(name("a", 1)).expect("new");
        state.own = Some(own);
        assert_eq!(state.lacks(std::slice::from_ref(&b)), None);
        let both = [b, c];
        assert_eq!((state.lacks(&both), state.latecomer(&both)), (Some(Founding::Members), None));
        state.stable = vector(&[(own, 1)]);
        assert_eq!((state.lacks(&both), state.latecomer(&both)), (None, Some("c")));
        assert_eq!(state.lacks(&[]), Some(Founding::Members), "one that is gone holds nothing back");
    }

    #[test]
    fn a_report_counts_only_once_its_members_own_txns_are_applied() {
        let mut state = ShardState::new();
        let (a, b) = (name("a", 1), name("b", 2));
        let (oa, ob) = (a.origin(), b.origin());
        state.own = Some(state.register(a).expect("new"));
        state.register(b).expect("new");
        state.set_members(vec!["b".into()]);
        state.vector = vector(&[(oa, 5)]);
        state.report(ob, vector(&[(oa, 5), (ob, 2)])).expect("member");
        assert_eq!(state.acked, vector(&[(oa, 5)]));
        assert_eq!(state.stable, Vector::new(), "b's txns 1 and 2 may still be concurrent with ours");
        state.vector = vector(&[(oa, 5), (ob, 2)]);
        state.refresh_stability();
        assert_eq!(state.stable, vector(&[(oa, 5), (ob, 2)]));
        state.validate();
    }

    #[test]
    fn a_new_life_takes_over_with_its_first_report_and_the_tail_of_the_ended_one_holds_stability_back() {
        let mut state = ShardState::new();
        let (a, b, b2, c) = (name("a", 1), name("b", 2), name("b", 3), name("c", 4));
        let (oa, ob, ob2, oc) = (a.origin(), b.origin(), b2.origin(), c.origin());
        state.own = Some(state.register(a).expect("new"));
        for other in [b, b2, c] {
            state.register(other).expect("new");
        }
        state.set_members(vec!["b".into(), "c".into()]);
        state.members.get_mut("b").expect("member").origin = Some(ob);
        state.vector = vector(&[(oa, 5), (ob, 1)]);
        state.report(ob2, vector(&[(oa, 5), (ob, 1)])).expect("the current life");
        assert!(state.report(ob, vector(&[(oa, 5)])).is_err(), "an ended life reports no more");
        state.report(oc, vector(&[(oa, 5), (ob, 2)])).expect("member");
        assert!(!state.stable.covers(Dot::new(oa, 5)), "b's lost txn 2 may be concurrent with ours");
        state.vector.advance(Dot::new(ob, 2));
        state.refresh_stability();
        assert!(
            !state.stable.covers(Dot::new(oa, 5)),
            "c may not know of the new life, and have more of the ended one"
        );
        state.vector.advance(Dot::new(ob2, 1));
        state.report(ob2, state.vector.clone()).expect("the current life");
        state.report(oc, state.vector.clone()).expect("member");
        assert_eq!(state.stable, state.vector);
        state.validate();
    }

    /// Found by the simulation (seeds 47 and 154): a datacenter had acknowledged its own newest txns before it lost
    /// them, and nobody else had them. Its new life inherited the old one's report, which waited for them for ever, and
    /// nothing became stable any more.
    #[test]
    fn what_only_an_ended_life_had_does_not_hold_stability_back() {
        let mut state = ShardState::new();
        let (a, b, b2) = (name("a", 1), name("b", 2), name("b", 3));
        let (oa, ob, ob2) = (a.origin(), b.origin(), b2.origin());
        state.own = Some(state.register(a).expect("new"));
        state.register(b).expect("new");
        state.set_members(vec!["b".into()]);
        state.vector = vector(&[(oa, 5), (ob, 4)]);
        state.report(ob, vector(&[(oa, 3), (ob, 9)])).expect("member");
        state.register(b2).expect("new");
        state.vector = vector(&[(oa, 5), (ob, 4), (ob2, 1)]);
        state.report(ob2, state.vector.clone()).expect("the new life");
        assert_eq!(state.stable, state.vector);
        assert_eq!(state.acked, state.vector);
        state.validate();
    }

    #[test]
    fn a_member_that_was_never_met_holds_everything() {
        let mut state = ShardState::new();
        state.own = Some(state.register(name("a", 1)).expect("new"));
        state.vector = vector(&[(name("a", 1).origin(), 5)]);
        state.set_members(vec!["b".into()]);
        assert!(state.acked.is_empty() && state.stable.is_empty());
        assert!(state.report(name("b", 2).origin(), Vector::new()).is_err());
    }
}
