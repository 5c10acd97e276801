//! Checkers: given what clients were told and what nodes hold, they name everything that should not be.
//!
//! One file per property, each with its definition and where it comes from. They are pure and know nothing of how a
//! history was made. An operation of unknown outcome is never assumed to have taken place, nor not to have: it counts
//! from the first read that saw it. Each checker is tested on a history that must fail it; one that never complains
//! proves nothing.

mod bits;
pub mod sessions;

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

#[cfg(test)]
pub(crate) mod testkit;
