//! How far the other datacenters are, and what follows from it: what is acked and what is stable.
//!
//! A member's reported vector counts for stability only once we have applied the member's own txns up to
//! `R[member]`: whatever of it can still arrive then depends on all of R. Counting it earlier is the classic mistake:
//! a txn that the member wrote before it saw R may still be on its way, and is concurrent with what R covers.

use meridian_crdt::{Origin, Vector};
use serde::{Deserialize, Serialize};

use super::state::ShardState;

/// One other datacenter, as the log knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its current life; unknown until it was first met.
    pub origin: Option<Origin>,
    /// The newest vector that it has reported: what it has for sure.
    pub acked: Vector,
    /// A reported vector that does not count yet.
    pub waiting: Option<Vector>,
    /// The newest reported vector that counts for stability.
    pub counted: Vector,
}

impl Peer {
    /// Moves `waiting` to `counted` if `applied` reaches it, and starts to wait for the newest report.
    fn settle(&mut self, applied: &Vector) {
        let Some(origin) = self.origin else { return };
        while let Some(waiting) = self.waiting.take_if(|r| applied.get(origin) >= r.get(origin)) {
            self.counted = waiting;
            self.waiting = Some(self.acked.clone()).filter(|newest| *newest != self.counted);
        }
    }
}

impl ShardState {
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

    /// Takes a member's report. Reports of origins that are not a member's current life are refused.
    pub fn report(&mut self, member: Origin, vector: Vector) -> Result<(), String> {
        let peer = self
            .members
            .values_mut()
            .find(|peer| peer.origin == Some(member))
            .ok_or_else(|| format!("{member} is not the current life of a member"))?;
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
        for peer in self.members.values_mut() {
            peer.settle(&self.vector);
            acked.meet(&peer.acked);
            stable.meet(&peer.counted);
        }
        self.acked.join(&acked);
        self.stable.join(&stable);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_crdt::{Dot, OriginName};

    fn name(dc: &str, epoch: u128) -> OriginName {
        OriginName { dc: dc.into(), epoch: uuid::Uuid::from_u128(epoch) }
    }

    fn vector(dots: &[(Origin, u64)]) -> Vector {
        dots.iter().map(|(o, s)| Dot::new(*o, *s)).collect()
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
    fn a_member_that_was_never_met_holds_everything() {
        let mut state = ShardState::new();
        state.own = Some(state.register(name("a", 1)).expect("new"));
        state.vector = vector(&[(name("a", 1).origin(), 5)]);
        state.set_members(vec!["b".into()]);
        assert!(state.acked.is_empty() && state.stable.is_empty());
        assert!(state.report(name("b", 2).origin(), Vector::new()).is_err());
    }
}
