//! What a run came to.

use std::fmt;

use meridian_history::History;

use crate::ledger::Counts;

/// The outcome of one run; a function of seed and options.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The seed that was run.
    pub seed: u64,
    /// The cluster, in words.
    pub cluster: String,
    /// The hash of everything that happened.
    pub trace_hash: u64,
    /// How many events that were.
    pub trace_events: u64,
    /// How long the run took in virtual time, in milliseconds.
    pub virtual_ms: u64,
    /// How much was done.
    pub counts: Counts,
    /// What should not have been seen; empty if all is well.
    pub violations: Vec<String>,
    /// What clients asked and were told, in virtual time. Elements of the set whose elements are removed are not in it.
    pub history: History,
    /// The lines of the trace, if they were asked for.
    pub trace: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { acked, unknown, refused, reads, reads_failed, .. } = self.counts;
        let Counts { edits, edits_unknown, visits, deletes, sent_away, compacted, faults, boots, .. } =
            self.counts;
        writeln!(f, "seed {} on {}", self.seed, self.cluster)?;
        writeln!(f, "writes: {acked} acknowledged, {unknown} unknown, {refused} refused")?;
        writeln!(f, "reads: {reads} checked, {reads_failed} failed")?;
        writeln!(f, "edits: {edits} acknowledged, {edits_unknown} unknown, on {visits} connections")?;
        writeln!(f, "deletes: {deletes} acknowledged, {sent_away} editors sent away by them")?;
        writeln!(f, "compacted documents: {compacted}")?;
        writeln!(f, "faults: {faults}, starts of nodes: {boots}")?;
        writeln!(f, "virtual time: {} ms", self.virtual_ms)?;
        writeln!(f, "trace: {} events, hash {:016x}", self.trace_events, self.trace_hash)?;
        for violation in &self.violations {
            writeln!(f, "VIOLATION: {violation}")?;
        }
        write!(f, "violations: {}", self.violations.len())
    }
}
