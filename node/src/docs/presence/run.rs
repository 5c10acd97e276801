//! Asks other nodes which rooms they have open, and tells them what has changed in those.
//!
//! For each other node there is one question under way, and for each group of nodes one message: what changes
//! meanwhile goes into the next one. So nothing queues up, however slow the other end is.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::message::{self, Answer, Ask, Push};
use super::outbox::Parcel;
use super::{HOLD, Presence};
use crate::peer::PeerClient;

/// The pause between two messages to a node of this datacenter, and to another datacenter.
const NEAR_PAUSE: Duration = Duration::from_millis(50);
const FAR_PAUSE: Duration = Duration::from_millis(100);
/// How long an answer may take, beside what it is held back.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// The pause after a node did not answer; it doubles up to the second.
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How often those who have left are forgotten.
const PURGE: Duration = Duration::from_secs(1);

/// Runs until `stopped` turns true.
pub async fn run(presence: Arc<Presence>, mut stopped: watch::Receiver<bool>) {
    let mut tasks = JoinSet::new();
    for (id, group) in presence.groups.iter().enumerate() {
        for node in group.nodes.clone() {
            let presence = presence.clone();
            tasks.spawn(async move { presence.learn(id, node).await });
        }
        let presence = presence.clone();
        tasks.spawn(async move { presence.push(id).await });
    }
    let mut purge = interval(PURGE);
    purge.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // An error means that the node is gone.
            _ = stopped.wait_for(|stop| *stop) => return,
            _ = purge.tick() => presence.purge(),
        }
    }
}

impl Presence {
    fn purge(&self) {
        let mut outbox = self.outbox();
        outbox.purge(self.now_ms());
        self.wake(&outbox);
    }

    /// Asks one node for its rooms, for ever, while there is anybody to tell of.
    async fn learn(&self, id: usize, node: u64) {
        let (group, mut speaks, mut pause) = (&self.groups[id], self.speaks.subscribe(), RETRY_MIN);
        while speaks.wait_for(|speaks| *speaks).await.is_ok() {
            let known = self.outbox().known(id, node);
            let ask = Ask::Rooms { from: self.me.clone(), life: known.life, since: known.since };
            match ask_node(&group.client, node, &ask, HOLD + ANSWER_LIMIT).await {
                Ok(Answer::Rooms(rooms)) => {
                    pause = RETRY_MIN;
                    let mut outbox = self.outbox();
                    outbox.learn(id, node, known, rooms);
                    self.wake(&outbox);
                }
                other => {
                    tracing::debug!(node, answer = ?other, "a node does not say which documents it has open");
                    self.outbox().forget(id, node);
                    tokio::select! {
                        () = sleep(pause) => {}
                        // It may be the one that has come back.
                        () = self.returned.notified() => sleep(RETRY_MIN).await,
                    }
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    /// Tells a group what it lacks, for ever.
    async fn push(&self, id: usize) {
        let group = &self.groups[id];
        let pause = if group.far { FAR_PAUSE } else { NEAR_PAUSE };
        // Nodes of a datacenter take turns in who hands on; it begins with another one for each node of this one.
        let mut turn = usize::try_from(self.me.node).unwrap_or_default();
        loop {
            group.news.notified().await;
            loop {
                let parcel = self.outbox().next(id);
                let Some(parcel) = parcel else { break };
                let next = Instant::now() + pause;
                if !self.send(id, parcel, turn).await {
                    turn = turn.wrapping_add(1);
                }
                sleep_until(next).await;
            }
        }
    }

    /// Sends a parcel; whether all have got it.
    async fn send(&self, id: usize, parcel: Parcel, turn: usize) -> bool {
        let group = &self.groups[id];
        let via = parcel.to[turn % parcel.to.len()];
        let push = Push { from: self.me.clone(), to: parcel.to.clone(), rooms: parcel.rooms.clone() };
        let receipts = match ask_node(&group.client, via, &Ask::Push(push), ANSWER_LIMIT).await {
            Ok(Answer::Pushed(receipts)) => receipts,
            other => {
                tracing::debug!(node = via, answer = ?other, "a node does not take who is present");
                Vec::new()
            }
        };
        let reached = parcel.to.iter().all(|node| receipts.iter().any(|receipt| receipt.node == *node));
        let count = if reached { &self.counts.sent } else { &self.counts.lost };
        count.fetch_add(1, Ordering::Relaxed);
        self.outbox().delivered(id, &parcel, &receipts);
        reached
    }
}

/// Asks a node; its answer.
pub async fn ask_node(client: &PeerClient, node: u64, ask: &Ask, limit: Duration) -> Result<Answer, String> {
    let bytes = message::encode(ask)?;
    let answer = client.presence(node, bytes, limit).await.map_err(|e| e.to_string())?;
    message::decode(&answer)
}
