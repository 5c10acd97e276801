//! What everyone on this node may know of the shard: published after each batch of entries and each change of
//! leadership, waited on by sessions, replication and status.

use std::sync::Arc;
use std::time::Duration;

use meridian_crdt::{Dot, Vector};
use meridian_gossip::{Reported, View};
use tokio::sync::watch;

use super::digests::Notes;
use crate::raft::Leadership;
use crate::txn::ShardState;
use crate::txn::peers::Peer;

/// The shard as this node has applied it.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// What apply knows besides the cells.
    pub state: Arc<ShardState>,
    /// The log position of the last applied entry.
    pub index: u64,
}

/// The sending side: the machine tells what is applied, the Raft group tells who leads.
pub struct Publisher {
    node: u64,
    has_remotes: bool,
    applied: watch::Sender<Published>,
    view: watch::Sender<Arc<View>>,
    notes: Notes,
}

impl Publisher {
    /// Nothing applied, nobody leading. Without other datacenters replication has nothing to do when something is
    /// applied, and is not woken for it: that would be a context switch between each entry and its answer.
    pub fn new(node: u64, has_remotes: bool) -> Self {
        Self {
            node,
            has_remotes,
            applied: watch::Sender::default(),
            view: watch::Sender::default(),
            notes: Notes::default(),
        }
    }

    /// What is applied at this moment; nothing new is published while it is held.
    pub fn now(&self) -> watch::Ref<'_, Published> {
        self.applied.borrow()
    }

    /// A dot that no life of a datacenter of this cluster can have made, by what is known here; see [`ShardState::foreign_dot`].
    pub fn foreign_dot(&self, dots: &Vector) -> Option<Dot> {
        let applied = self.now();
        // Until the log has said who the others are, any of them may have made it.
        let knows_others = !self.has_remotes || !applied.state.members.is_empty();
        applied.state.foreign_dot(dots).filter(|_| knows_others)
    }

    /// What is applied, to be waited on.
    pub fn applied(&self) -> watch::Receiver<Published> {
        self.applied.subscribe()
    }

    /// The same, with who leads, as replication wants it.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.subscribe()
    }

    /// What the state came to at some of the latest log indexes.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Publishes a newly applied state. Both channels show it when this returns.
    pub fn set_state(&self, state: &Arc<ShardState>, index: u64) {
        self.applied.send_replace(Published { state: state.clone(), index });
        self.view.send_if_modified(|view| {
            let old = view.clone();
            *view = Arc::new(view_of(state, old.leading, old.leader_node));
            self.has_remotes || (&old.own, &old.origins) != (&view.own, &view.origins)
        });
    }

    /// Publishes who leads.
    pub fn set_leadership(&self, leadership: &Leadership) {
        let leading = (leadership.leading && leadership.leader == Some(self.node)).then_some(leadership.term);
        self.view.send_if_modified(|view| {
            if view.leading == leading && view.leader_node == leadership.leader {
                return false;
            }
            let mut changed = view.as_ref().clone();
            changed.leading = leading;
            changed.leader_node = leadership.leader;
            *view = Arc::new(changed);
            true
        });
    }
}

/// What replication is shown of a state on a node that leads in the term `leading`, if it leads, and knows `leader_node` to be
/// the leader.
pub fn view_of(state: &ShardState, leading: Option<u64>, leader_node: Option<u64>) -> View {
    View {
        leading,
        leader_node,
        vector: state.vector.clone(),
        oplog_end: state.oplog_end,
        floor: state.oplog_floor.clone(),
        origins: state.chains.values().map(|chain| chain.name.clone()).collect(),
        own: state.own.and_then(|own| state.chains.get(&own)).map(|chain| chain.name.clone()),
        stable: state.stable.clone(),
        reported: state.members.iter().filter_map(reported).collect(),
        unadmitted: state.unadmitted(),
        forgotten: state.forgotten(),
    }
}

/// What is logged of another datacenter, if it was met.
fn reported((dc, peer): (&String, &Peer)) -> Option<(String, Reported)> {
    Some((dc.clone(), Reported { life: peer.origin?, acked: peer.acked.clone() }))
}

/// Waits until `applied` covers `dots`, at most `wait`. `None` if it does not in time; what it has then is in the
/// channel.
pub async fn wait_for_dots(
    applied: &mut watch::Receiver<Published>,
    dots: &Vector,
    wait: Duration,
) -> Option<Published> {
    let covered = |published: &Published| published.state.vector.covers_all(dots);
    if covered(&applied.borrow()) {
        return Some(applied.borrow().clone());
    }
    match tokio::time::timeout(wait, applied.wait_for(covered)).await {
        Ok(Ok(published)) => Some(published.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use meridian_crdt::OriginName;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_life_is_foreign_only_once_the_others_are_known() {
        let name = |dc: &str| OriginName { dc: dc.to_owned(), epoch: Uuid::from_u128(7) };
        let other = Dot::new(name("us").origin(), 3);
        let dots = Vector::from_iter([other]);
        let foreign = |state: &ShardState, has_remotes| {
            let publisher = Publisher::new(1, has_remotes);
            publisher.set_state(&Arc::new(state.clone()), 1);
            publisher.foreign_dot(&dots)
        };
        let mut state = ShardState::new();
        assert_eq!(foreign(&state, true), None, "it does not know itself yet");
        state.mint(name("eu"), None, None).expect("the first life");
        assert_eq!(foreign(&state, true), None, "the log has yet to say who the others are");
        assert_eq!(foreign(&state, false), Some(other), "there are no others");
        state.set_members(vec!["us".to_owned()]);
        assert_eq!(foreign(&state, true), None, "it may be of the one that was not met");
        state.members.get_mut("us").expect("a member").origin = Some(name("us").origin());
        assert_eq!(foreign(&state, true), Some(other), "the one that was met is registered before");
    }
}
