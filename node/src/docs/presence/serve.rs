//! Answers what other nodes ask and tell about who is present; everything else of the peer port goes to the shard.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use meridian_crdt::Key;
use tokio::time::{Instant, timeout_at};

use super::HOLD;
use super::message::{self, Answer, Ask, Fate, Push, Receipt, RoomStates, Rooms, Source};
use super::run::ask_node;
use crate::docs::Docs;
use crate::docs::door::{Ask as RoomAsk, Door};
use crate::peer::{PeerHandler, PeerIdentity};
use crate::seams::BoxStream;

/// Bytes of the names in one answer, more or less one name.
const NAMES_BYTES_MAX: usize = 256 << 10;
/// How long a node of this datacenter may take with what is handed on to it.
const HAND_ON_LIMIT: Duration = Duration::from_secs(1);
/// How long all rooms of a message together may take to let it in. Those that have not are told again.
const DOOR_LIMIT: Duration = Duration::from_millis(500);

/// A node's answers at its peer port.
#[derive(Debug)]
pub struct PeerPort(pub Arc<Docs>);

impl PeerHandler for PeerPort {
    fn forward(&self, from: u64, request: Bytes) -> BoxFuture<'_, Bytes> {
        self.0.shard.0.forwarded(from, request).boxed()
    }

    fn gossip(&self, stream: BoxStream, from: PeerIdentity) {
        self.0.shard.0.linked(stream, &from);
    }

    fn presence<'a>(&'a self, from: &'a PeerIdentity, request: Bytes) -> BoxFuture<'a, Bytes> {
        async move {
            let answer = match message::decode::<Ask>(&request) {
                Ok(Ask::Rooms { from: source, life, since }) => self.rooms(&source, life, since).await,
                Ok(Ask::Push(push)) => self.push(from, push).await,
                Ok(Ask::Gone(room)) => self.contradicted(room).await,
                Err(error) => {
                    tracing::warn!(dc = from.dc, node = from.node, %error, "a message about who is present");
                    Answer::Refused(error)
                }
            };
            message::encode(&answer).unwrap_or_else(|error| {
                tracing::error!(%error, "an answer about who is present does not encode");
                Bytes::new()
            })
        }
        .boxed()
    }
}

impl PeerPort {
    /// The rooms that have been opened since, once there are any.
    async fn rooms(&self, source: &Source, life: u64, since: u64) -> Answer {
        let (docs, me) = (&self.0, &self.0.presence.me);
        docs.presence.heard(source);
        let since = if life == me.life { since } else { 0 };
        let mut opened = docs.opened.subscribe();
        // Running out of time is no error: there is nothing new.
        let _ = tokio::time::timeout(HOLD, opened.wait_for(|opened| *opened > since)).await;
        let (rooms, upto) = docs.opened_since(since, NAMES_BYTES_MAX);
        Answer::Rooms(Rooms { life: me.life, upto, rooms })
    }

    /// Gives states to rooms of this node, and hands on what comes from another datacenter.
    async fn push(&self, from: &PeerIdentity, push: Push) -> Answer {
        let presence = &self.0.presence;
        presence.heard(&push.from);
        let (mine, others): (Vec<u64>, Vec<u64>) =
            push.to.iter().partition(|node| **node == presence.me.node);
        let mut receipts = Vec::new();
        // Only once: what comes from a node of this datacenter stays here.
        if from.dc != presence.me.dc {
            receipts = join_all(others.into_iter().map(|node| self.hand_on(node, &push))).await;
        }
        let mut receipts: Vec<Receipt> = receipts.drain(..).flatten().collect();
        if !mine.is_empty() {
            receipts.push(self.take(push).await);
        }
        Answer::Pushed(receipts)
    }

    async fn hand_on(&self, node: u64, push: &Push) -> Option<Receipt> {
        let presence = &self.0.presence;
        let ask = Ask::Push(Push { to: vec![node], ..push.clone() });
        match ask_node(presence.own_dc.as_ref()?, node, &ask, HAND_ON_LIMIT).await {
            Ok(Answer::Pushed(mut receipts)) => {
                presence.counts.handed_on.fetch_add(1, Ordering::Relaxed);
                receipts.pop().filter(|receipt| receipt.node == node)
            }
            other => {
                tracing::debug!(node, answer = ?other, "a node does not take what is handed on to it");
                None
            }
        }
    }

    /// Tells a room whom of its clients another node holds for gone. If it is closed, or has much to do, they say by
    /// themselves, later, that they are there.
    async fn contradicted(&self, room: RoomStates) -> Answer {
        let (doors, _) = self.0.doors(std::iter::once(&room.key));
        let until = Instant::now() + DOOR_LIMIT;
        for door in doors.values() {
            give(door, RoomAsk::Contradict { states: room.states.clone() }, until).await;
        }
        Answer::Pushed(Vec::new())
    }

    async fn take(&self, push: Push) -> Receipt {
        let Push { from, rooms, .. } = push;
        let me = &self.0.presence.me;
        let source = Arc::new(from);
        let (doors, at) = self.0.doors(rooms.iter().map(|room| &room.key));
        let until = Instant::now() + DOOR_LIMIT;
        let mut fates = Vec::with_capacity(rooms.len());
        for room in rooms {
            fates.push(match doors.get(&room.key) {
                None => Fate::NotOpen,
                Some(door) => {
                    give(door, RoomAsk::Hear { source: source.clone(), states: room.states }, until).await
                }
            });
        }
        Receipt { node: me.node, life: me.life, at, fates }
    }
}

/// Waits in one line with the room's editors: however much these say, a node that tells of others gets its turn.
async fn give(door: &Door, ask: RoomAsk, until: Instant) -> Fate {
    match timeout_at(until, door.send(ask)).await {
        Ok(true) => Fate::Taken,
        Ok(false) => Fate::NotOpen,
        Err(_) => Fate::Busy,
    }
}

impl Docs {
    /// The rooms that were opened after the opening `since`, in that order, and up to which opening they go.
    fn opened_since(&self, since: u64, bytes_max: usize) -> (Vec<(u64, Key)>, u64) {
        let rooms = self.rooms();
        let mut upto = self.last();
        let opened = rooms.iter().filter(|(_, entry)| entry.id > since);
        let mut opened: Vec<(u64, &Key)> = opened.map(|(key, entry)| (entry.id, key)).collect();
        opened.sort_unstable_by_key(|(id, _)| *id);
        let (mut named, mut bytes) = (Vec::new(), 0);
        for (id, key) in opened {
            if bytes >= bytes_max {
                break;
            }
            bytes += key.space.len() + key.key.len();
            named.push((id, key.clone()));
        }
        if bytes >= bytes_max {
            upto = named.last().map_or(upto, |(id, _)| *id);
        }
        (named, upto)
    }

    /// The doors of those rooms that are open, and the last opening so far.
    fn doors<'k>(&self, keys: impl Iterator<Item = &'k Key>) -> (BTreeMap<Key, Door>, u64) {
        let rooms = self.rooms();
        let door = |key: &Key| Some((key.clone(), rooms.get(key)?.door.clone()));
        (keys.filter_map(door).collect(), self.last())
    }
}
