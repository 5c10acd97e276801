//! Who leads, whether a majority follows, and how far the log is: what the rest of the node may know of Raft.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant, Raft, RaftMetrics, ServerState};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::apply::StateMachine;
use super::types::{TypeConfig, position};
use crate::storage::Fatal;

/// Who leads this shard, as this node sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
    /// Whether this node leads, has applied the first entry of its own term, and hears from a majority. Only then
    /// may it serve, stamp, dial and acknowledge.
    pub leading: bool,
    /// Whether a majority follows: known to the leader; on a follower, whether a leader is known.
    pub quorum: bool,
}

/// What a node is in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Decides the order of the log.
    Leader,
    /// Follows a leader.
    Follower,
    /// Stands for election.
    Candidate,
    /// Is not a voter (yet): an empty node before its group is there.
    Learner,
    /// Has stopped.
    Stopped,
}

/// How a shard's Raft is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftStatus {
    /// What this node is.
    pub role: Role,
    /// The leader, if one is known.
    pub leader: Option<u64>,
    /// The current term.
    pub term: u64,
    /// The index of the last entry in this node's log.
    pub last_log: u64,
    /// The index up to which this node knows entries to be on a majority.
    pub committed: u64,
    /// The index of the last entry applied here.
    pub last_applied: u64,
    /// The index up to which the log has been purged.
    pub purged: u64,
    /// The voters.
    pub members: Vec<u64>,
}

pub(super) fn status(m: &RaftMetrics<TypeConfig>) -> RaftStatus {
    let index = |id: &Option<super::types::LogId>| id.as_ref().map_or(0, |id| id.index);
    RaftStatus {
        role: match (&m.running_state, m.state) {
            (Err(_), _) | (_, ServerState::Shutdown) => Role::Stopped,
            (_, ServerState::Leader) => Role::Leader,
            (_, ServerState::Follower) => Role::Follower,
            (_, ServerState::Candidate) => Role::Candidate,
            (_, ServerState::Learner) => Role::Learner,
        },
        leader: m.current_leader,
        term: m.current_term,
        last_log: m.last_log_index.unwrap_or(0),
        committed: index(&m.local_committed),
        last_applied: index(&m.last_applied),
        purged: index(&m.purged),
        members: m.membership_config.membership().voter_ids().collect(),
    }
}

/// Whether this node leads and a majority has answered it within `lease`.
pub(super) fn leads_a_quorum(m: &RaftMetrics<TypeConfig>, lease: Duration) -> bool {
    if m.running_state.is_err() || m.state != ServerState::Leader {
        return false;
    }
    let alone = m.membership_config.membership().voter_ids().count() == 1;
    alone || m.last_quorum_acked.is_some_and(|at| at.elapsed() < lease)
}

pub(super) fn leadership(m: &RaftMetrics<TypeConfig>, lease: Duration) -> Leadership {
    if m.running_state.is_err() || m.state == ServerState::Shutdown {
        return Leadership { leader: None, term: m.current_term, leading: false, quorum: false };
    }
    let leads = m.state == ServerState::Leader;
    let quorum = if leads { leads_a_quorum(m, lease) } else { m.current_leader.is_some() };
    let own_term = m.last_applied.as_ref().is_some_and(|id| position(id).term == m.current_term);
    Leadership {
        leader: m.current_leader,
        term: m.current_term,
        leading: leads && quorum && own_term,
        quorum,
    }
}

/// Keeps `out` true until the core stops; time alone can end a lease, so it looks again every `tick`.
pub(super) async fn follow(
    raft: Raft<TypeConfig, StateMachine>,
    out: watch::Sender<Leadership>,
    lease: Duration,
    tick: Duration,
    fatal: Fatal,
) {
    let mut metrics = raft.metrics();
    loop {
        let (now, stopped) = {
            let m = metrics.borrow_watched();
            let stopped = m.running_state.as_ref().err().map(ToString::to_string);
            (leadership(&m, lease), stopped.map(|why| (m.state, why)))
        };
        out.send_if_modified(|before| {
            let changed = *before != now;
            *before = now;
            changed
        });
        if let Some((state, why)) = stopped {
            if state != ServerState::Shutdown {
                fatal.report(format!("Raft has stopped: {why}"));
            }
            return;
        }
        if let Ok(Err(_)) = tokio::time::timeout(tick, metrics.changed()).await {
            // The core is gone. A panic in it leaves no word behind, and a node without it must not go on.
            if metrics.borrow_watched().state != ServerState::Shutdown {
                fatal.report("the Raft core has ended without being stopped");
            }
            out.send_replace(Leadership { leading: false, quorum: false, leader: None, ..now });
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::type_config::TypeConfigExt;

    use super::super::types::{StoredMembership, log_id};
    use super::*;
    use crate::storage::LogPosition;

    const LEASE: Duration = Duration::from_secs(60);

    /// What node 1 of three sees that was elected for term 5, has just heard from a majority, and has applied up to an
    /// entry of `term`.
    fn elected(term: u64) -> RaftMetrics<TypeConfig> {
        let voters = openraft::Membership::new_with_defaults(vec![[1, 2, 3].into()], []);
        let mut metrics = RaftMetrics::new_initial(1);
        metrics.state = ServerState::Leader;
        metrics.current_leader = Some(1);
        metrics.current_term = 5;
        metrics.last_applied = Some(log_id(LogPosition { term, index: 40 }));
        metrics.last_quorum_acked = Some(openraft::metrics::SerdeInstant::new(TypeConfig::now()));
        metrics.membership_config = std::sync::Arc::new(StoredMembership::new(None, voters));
        metrics
    }

    #[test]
    fn a_leader_may_not_speak_before_it_has_applied_an_entry_of_its_own_term() {
        let before = leadership(&elected(4), LEASE);
        assert!(before.quorum && !before.leading, "earlier terms' entries may still wait to be applied");
        assert!(leadership(&elected(5), LEASE).leading);
    }

    #[test]
    fn a_leader_may_not_speak_once_its_lease_is_over_nor_one_that_has_stepped_down() {
        assert!(!leadership(&elected(5), Duration::ZERO).leading);
        let mut deposed = elected(5);
        deposed.state = ServerState::Follower;
        assert!(!leadership(&deposed, LEASE).leading);
    }
}
