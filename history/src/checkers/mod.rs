//! Checkers: given what clients were told and what nodes hold, they name everything that should not be.
//!
//! One file per property, each with its definition and where it comes from. They are pure and know nothing of how a
//! history was made. An operation of unknown outcome is never assumed to have taken place, nor not to have: it counts
//! from the first read that saw it. Each checker is tested on a history that must fail it; one that never complains
//! proves nothing.

pub mod bank;
mod bits;
pub mod convergence;
pub mod counters;
pub mod determinism;
pub mod exactly_once;
mod graph;
pub mod isolation;
pub mod linearizable;
pub mod lost_update;
pub mod observed;
pub mod resurrection;
pub mod serializable;
pub mod sessions;
pub mod set_full;
pub mod snapshot_isolation;
pub mod stability;
pub mod watch;

use std::fmt;

/// What a violation violates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Law {
    /// A session reads what it wrote.
    ReadYourWrites,
    /// A session never reads an older state than one that it has read.
    MonotonicReads,
    /// Whoever sees a write sees the earlier writes of its session.
    MonotonicWrites,
    /// Whoever sees a write sees what its session had read before.
    WritesFollowReads,
    /// A read shows only what somebody tried to write, before the read ended, and what was not refused.
    Origin,
    /// A txn's reads agree with its own writes and with each other.
    Internal,
    /// All reads of a list agree on the order of its elements.
    VersionOrder,
    /// No txns overwrite each other in a circle.
    G0,
    /// Nothing is read that was refused.
    G1a,
    /// Nothing is read that its writer had not finished.
    G1b,
    /// No txns overwrite and read from each other in a circle.
    G1c,
    /// Nobody updates what another has updated meanwhile.
    LostUpdate,
    /// No circle in which one txn misses what another wrote.
    GSingle,
    /// No circle in which several txns miss what others wrote, and no two such steps follow each other.
    GNonadjacent,
    /// No circle in which several txns miss what others wrote.
    G2,
    /// What comes later, in time or in its session, does not come earlier in the serial order.
    RealTime,
    /// Later reads of a txn show nothing older than its earlier ones.
    ReadCommitted,
    /// A txn is seen as a whole or not at all.
    ReadAtomic,
    /// What is seen comes with all that it could have been made from.
    Causal,
    /// Each operation takes effect at one moment between its call and its answer.
    Linearizable,
    /// What was acknowledged is there.
    Lost,
    /// What was acknowledged is there at once.
    Stale,
    /// What was done is there once.
    Twice,
    /// What was deleted stays deleted.
    Resurrection,
    /// A counter is within what its increments allow.
    CounterBounds,
    /// Transfers keep the total.
    Total,
    /// Nodes that have applied the same txns hold the same.
    Convergence,
    /// Nodes of a DC that have applied the same entries have the same state.
    Determinism,
    /// What is taken for acknowledged, and for stable, is with every member, and never less than before.
    Stability,
    /// A stream shows a write after those that it could have been made from.
    StreamOrder,
}

/// One way in which a history breaks a law.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The law.
    pub law: Law,
    /// What happened, with the keys, values and operations that show it.
    pub story: String,
}

impl Violation {
    /// A violation of `law`.
    pub fn new(law: Law, story: impl Into<String>) -> Self {
        Self { law, story: story.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.law, self.story)
    }
}

/// How many violations of each law.
pub fn tally(violations: &[Violation]) -> std::collections::BTreeMap<Law, usize> {
    let mut tally = std::collections::BTreeMap::new();
    for violation in violations {
        *tally.entry(violation.law).or_default() += 1;
    }
    tally
}

pub mod testkit;
