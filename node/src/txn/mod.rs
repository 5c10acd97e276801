//! What the Raft log carries and what applying it means.

use serde::{Deserialize, Serialize};

/// What became of one log entry: one outcome for each of its items, in order.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self:?}")
    }
}
