//! How a group comes into being: once, by its lowest node, and only if nobody has it already.
//!
//! The lowest node initialises the group when its own folder is empty and so many peers have answered that none has
//! the group that every majority of the others would have been among them. It waits as long as that takes.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;

use super::group::RaftGroup;
use super::log_adapter::is_initialised;
use super::network::{PROBE, call};
use crate::peer::Refusal;

const PROBE_LIMIT: Duration = Duration::from_secs(2);
const PROBE_PAUSE: Duration = Duration::from_millis(200);

/// How many peers must say that they know nothing before one of `members` nodes may initialise the group.
fn answers_needed(members: usize) -> usize {
    if members == 1 {
        return 0;
    }
    // A group that exists is held by a majority; without this node, by at least majority - 1 of the others.
    let majority = members / 2 + 1;
    (members - 1) - (majority - 1) + 1
}

/// Initialises the group if that is this node's to do; meets every peer once either way, so that each remembers the
/// other's data folder.
pub(super) async fn run(group: RaftGroup) {
    let peers: Vec<u64> = group.members().iter().copied().filter(|node| *node != group.id()).collect();
    let mine = group.members().first() == Some(&group.id());
    let mut met: BTreeSet<u64> = BTreeSet::new();
    let mut empty: BTreeSet<u64> = BTreeSet::new();
    loop {
        let initialised = match is_initialised(group.log()) {
            Ok(initialised) => initialised,
            Err(error) => {
                tracing::error!(%error, "cannot read the log");
                return;
            }
        };
        if initialised {
            group.peers().group_exists().await;
            if met.len() == peers.len() {
                return;
            }
        }
        if !initialised && mine && empty.len() >= answers_needed(group.members().len()) {
            match group.initialise().await {
                Ok(()) => tracing::info!(members = ?group.members(), "initialised the Raft group"),
                Err(error) => tracing::warn!(%error, "cannot initialise the Raft group"),
            }
        }
        let asked = peers.iter().filter(|node| !initialised || !met.contains(*node));
        let answers = asked
            .map(async |node| (*node, call::<(), bool>(group.peers(), *node, PROBE, &(), PROBE_LIMIT).await));
        for (node, answer) in join_all(answers).await {
            match answer {
                Ok(has_group) => {
                    met.insert(node);
                    if has_group {
                        empty.remove(&node);
                    } else {
                        empty.insert(node);
                    }
                }
                Err(error) => {
                    empty.remove(&node);
                    tracing::debug!(node, %error, "a peer does not answer yet");
                }
            }
        }
        if let (false, Some(Refusal::Wiped)) = (initialised, group.peers().refusal()) {
            group.fatal().report(Refusal::Wiped);
            return;
        }
        let done = initialised || (mine && empty.len() >= answers_needed(group.members().len()));
        if !done || met.len() < peers.len() {
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::answers_needed;

    #[test]
    fn every_majority_of_an_existing_group_would_have_answered() {
        assert_eq!(answers_needed(1), 0);
        assert_eq!(answers_needed(3), 2);
        assert_eq!(answers_needed(5), 3);
    }
}
