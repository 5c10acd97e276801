//! What a datacenter does that has lost what it had, and what others make of it.
//!
//! Raft loses nothing that a majority has on disk. A datacenter whose disks all went back to an older copy has lost its
//! tail all the same, and others go on to rely on what it had told: that it has certain txns, which they therefore took for
//! stable. What it wrote next would be concurrent with these, and metadata that would have decided between the two may be
//! gone. So a life ends when anything of what it has told is lost, and the next one begins in three steps:
//!
//! 1. It is minted, by an entry that names the life that ends and a txn that is missing. From here on it takes no writes of
//!    clients, and counts no report of others that was made before.
//! 2. Each member takes note of it with its first report: what the ended life had reported counts no more. The member then
//!    *admits* it, and says what it held for stable at that time. That never grows again but by what the new life reports.
//! 3. When every member has admitted it, and it has everything that any of them held for stable, it writes a first txn,
//!    which is empty, and takes writes again. They depend on all that was stable anywhere.
//!
//! Txns of the ended life may still be on their way between members. They are so few as members had applied when they took
//! note of the new life; until everybody has told to have that empty txn, and with it to have been told of that by all,
//! stability stands still (`ShardState::standing_still`).

use std::collections::{BTreeMap, BTreeSet};

use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{Dot, Origin, OriginName, Vector};
use serde::{Deserialize, Serialize};

use super::state::ShardState;

/// A life that follows a loss and takes no writes yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// For each member that has taken note of this life what it then held for stable.
    pub admitted: BTreeMap<String, Vector>,
    /// A life of this datacenter that it has forgotten. Another one has to begin: the present one may have ended before, and
    /// have written since.
    pub forgotten: Option<Origin>,
}

impl Recovery {
    /// The answer to whoever wants to write meanwhile.
    pub fn refusal(&self) -> ApiError {
        let message = "this datacenter has lost its newest txns; it takes writes again when it has back what every other \
                       one holds for stable; nothing was changed";
        ApiError::new(ErrorCode::NotCaughtUp, message).retry_after_ms(1_000)
    }
}

impl ShardState {
    /// Begins a life, unless what called for it no longer holds: somebody else may have begun one, or the txn that seemed
    /// lost is here after all. `ends` is the life that it replaces because `lost` is missing.
    pub fn mint(&mut self, name: OriginName, lost: Option<Dot>, ends: Option<Origin>) -> Result<(), String> {
        let ends = ends.or(lost.map(|lost| lost.origin));
        match (self.own, lost) {
            (None, None) => {}
            (Some(own), Some(lost)) if ends == Some(own) && !self.vector.covers(lost) => {}
            (own, lost) => {
                return Err(format!("the life {own:?} goes on; {lost:?} gives no reason to end it"));
            }
        }
        if self.chains.contains_key(&name.origin()) {
            return Err(format!("{name} has been used already"));
        }
        self.own = Some(self.register(name)?);
        if lost.is_some() {
            self.recovering = Some(Recovery::default());
            for peer in self.members.values_mut() {
                // What they told may have been taken back in a part of the log that is lost.
                peer.waiting = None;
                peer.counted.clone_from(&self.stable);
            }
        }
        Ok(())
    }

    /// Others know a life of this datacenter that it does not know itself: it has lost what came after an older life, or
    /// everything. A life that follows a loss, and has not written, need not end for that.
    pub(super) fn meet_own_life(&mut self, name: &OriginName) {
        let own_dc = self.own.and_then(|own| self.dc_of(own));
        let unknown = own_dc == Some(&name.dc) && !self.chains.contains_key(&name.origin());
        if unknown && self.recovering.is_none() {
            self.recovering = Some(Recovery { forgotten: Some(name.origin()), ..Recovery::default() });
        }
    }

    /// A txn that shows that the present life has to end: the first one of a life that is forgotten.
    pub fn forgotten(&self) -> Option<Dot> {
        Some(Dot::new(self.recovering.as_ref()?.forgotten?, 1))
    }

    /// A member has taken note that `life` is the present one, and held `stable` for stable then.
    pub fn admit(&mut self, life: Origin, member: Origin, stable: &Vector) -> Result<(), String> {
        if self.own != Some(life) {
            return Err(format!("{life} is not the present life"));
        }
        let dc = self.dc_of(member).ok_or_else(|| format!("{member} is not registered"))?.to_owned();
        if !self.members.contains_key(&dc) {
            return Err(format!("{dc} is not a member"));
        }
        if let Some(recovery) = &mut self.recovering {
            recovery.admitted.entry(dc).or_default().join(stable);
        }
        Ok(())
    }

    /// Whether a life that followed a loss may take writes from now on.
    pub fn is_recovered(&self) -> bool {
        let admitted = |dc: &String| {
            let stable = self.recovering.as_ref().and_then(|recovery| recovery.admitted.get(dc));
            stable.is_some_and(|stable| self.vector.covers_all(stable))
        };
        self.recovering.as_ref().is_some_and(|recovery| recovery.forgotten.is_none())
            && self.members.keys().all(admitted)
    }

    /// The members that have not admitted the present life, if it needs that.
    pub fn unadmitted(&self) -> BTreeSet<String> {
        let Some(recovery) = &self.recovering else { return BTreeSet::new() };
        self.members.keys().filter(|dc| !recovery.admitted.contains_key(*dc)).cloned().collect()
    }

    /// Whether txns of an ended life may still come in that are concurrent with what reports would make stable: as long as
    /// not everybody has told to have a txn of the life that follows it.
    pub(super) fn standing_still(&self) -> bool {
        if self.chains.len() <= self.members.len() + 1 {
            return false;
        }
        let own_dc = self.own.and_then(|own| self.dc_of(own));
        let mut lives: BTreeMap<&str, usize> = BTreeMap::new();
        for chain in self.chains.values() {
            *lives.entry(&chain.name.dc).or_default() += 1;
        }
        let several = lives.into_iter().filter(|(_, lives)| *lives > 1).map(|(dc, _)| dc);
        several.filter(|dc| own_dc == Some(*dc) || self.members.contains_key(*dc)).any(|dc| {
            let present = if own_dc == Some(dc) { self.own } else { self.members[dc].origin };
            let has = |vector: &Vector| present.is_some_and(|life| vector.get(life) > 0);
            !has(&self.vector) || !self.members.values().all(|peer| has(&peer.counted))
        })
    }
}
