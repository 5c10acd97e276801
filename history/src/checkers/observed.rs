//! What nodes say of themselves while a cluster runs, for the checkers of what must hold of nodes at any moment.

use std::collections::BTreeMap;

/// The highest seq by origin, under the origin's name.
pub type Seqs = BTreeMap<String, u64>;

/// What one node had applied at one moment; all of it at one index of its log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The node's DC.
    pub dc: String,
    /// The node, as in `eu-west/1`.
    pub node: String,
    /// The last entry of its DC's log that it had applied.
    pub index: u64,
    /// What it had applied.
    pub vector: Seqs,
    /// What it took for acknowledged by all members.
    pub acked: Seqs,
    /// What it took for causally stable.
    pub stable: Seqs,
    /// Digest of its contents.
    pub digest: String,
}

/// Whether everything in `below` is also in `above`.
pub(super) fn covers(above: &Seqs, below: &Seqs) -> bool {
    below.iter().all(|(origin, seq)| above.get(origin).is_some_and(|has| has >= seq))
}
