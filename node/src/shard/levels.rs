//! Write levels: which datacenters hold a write, as far as their acknowledgements have told this one.
//!
//! Only the leader has links, so a follower asks it. Invariant: a datacenter is named only if it has acknowledged a
//! vector that covers the write, which it does only for what a majority there holds (I4).

use std::time::Duration;

use meridian_client::wire::headers::Commit;
use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::Dot;
use meridian_gossip::LinkStatus;
use tokio::time::Instant;

use super::Shard;
use super::forward::{Request, Response};

/// How long the answer of a leader may take beyond the wait that it was asked for.
const ANSWER_MARGIN: Duration = Duration::from_millis(500);

/// This datacenter, and those whose acknowledgement covers `dot`, in the order of names.
pub fn holders(own: &str, links: &[LinkStatus], dot: Dot) -> Vec<String> {
    let others = links.iter().filter(|link| link.acked.covers(dot)).map(|link| link.dc.clone());
    let mut names: Vec<String> = others.chain([own.to_owned()]).collect();
    names.sort();
    names
}

impl Shard {
    /// How many datacenters `level` asks for, this one included; refuses more than there are. How many there are stands in the
    /// log: a node that has not caught up with that yet does not know.
    pub fn level_count(&self, level: Commit) -> Result<usize, ApiError> {
        if level != Commit::Local && !*self.ready.borrow() {
            let message =
                "this node has started and does not know yet how many datacenters there are; nothing changed";
            return Err(ApiError::new(ErrorCode::NotCaughtUp, message).retry_after_ms(500));
        }
        let all = || self.publisher.now().state.members.len() + 1;
        match level {
            Commit::Local => Ok(1),
            Commit::All => Ok(all()),
            Commit::Dcs(count) if count <= all() => Ok(count),
            Commit::Dcs(count) => Err(ApiError::new(
                ErrorCode::BadHeader,
                format!("the write is to be held by {count} datacenters; this cluster has {}", all()),
            )),
        }
    }

    /// Waits until `count` datacenters hold `dot`, which is applied here. When that takes longer than `wait`, the
    /// error names those that do; the write stays in any case.
    pub async fn held_by(&self, dot: Dot, count: usize, wait: Duration) -> Result<(), ApiError> {
        let deadline = Instant::now() + wait;
        let mut known = vec![self.dc.clone()];
        while known.len() < count {
            let left = deadline.saturating_duration_since(Instant::now());
            let leadership = self.raft.leadership_now();
            known = self.ask_held(dot, count, left).await.unwrap_or(known);
            if known.len() >= count {
                break;
            }
            if left.is_zero() {
                let message = format!(
                    "the write is kept here and held by {} of the {count} datacenters asked for; it goes on its way",
                    known.len()
                );
                return Err(ApiError::new(ErrorCode::CommitTimeout, message).with("held_by", known));
            }
            self.leader_may_change(&leadership, deadline).await;
        }
        Ok(())
    }

    /// Asks whoever leads now; `None` if nobody answers.
    async fn ask_held(&self, dot: Dot, count: usize, wait: Duration) -> Option<Vec<String>> {
        let leader = self.raft.leadership_now().leader?;
        if leader == self.node {
            return Some(self.held_here(dot, count, wait).await);
        }
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        match self.ask(leader, &Request::Held { dot, count, wait_ms }, wait + ANSWER_MARGIN).await {
            Ok(Response::Held(names)) => Some(names),
            _ => None,
        }
    }

    /// The leader's part: who holds `dot` once `count` do, or when `wait` is over.
    pub(super) async fn held_here(&self, dot: Dot, count: usize, wait: Duration) -> Vec<String> {
        let mut status = self.gossip.status();
        let enough = status.wait_for(|now| !now.leading || holders(&self.dc, &now.links, dot).len() >= count);
        // Running out of time is an answer too: it names those that hold the write so far.
        let _ = tokio::time::timeout(wait, enough).await;
        holders(&self.dc, &self.gossip.status().borrow().links, dot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_crdt::Origin;

    #[test]
    fn only_acknowledged_datacenters_hold_a_write() {
        let dot = Dot::new(Origin(1), 5);
        let link = |dc: &str, seq| {
            let acked = [Dot::new(Origin(1), seq)].into_iter().collect();
            LinkStatus { dc: dc.into(), acked, ..LinkStatus::default() }
        };
        assert_eq!(holders("eu", &[link("us", 5), link("ap", 4)], dot), ["eu", "us"]);
        assert_eq!(holders("eu", &[], dot), ["eu"]);
    }
}
