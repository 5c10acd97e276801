//! What happens to documents, from the oplog of this node to the rooms that are open: one watch for all rooms of a
//! space.
//!
//! A room attaches before it reads its document, so that it misses nothing that comes after what it has read. A feed
//! that ends, because the oplog no longer reaches back or the node stops, ends its rooms with it; a feed ends also when
//! its last room has gone.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use meridian_client::wire::ApiError;
use meridian_client::wire::headers::Consistency;
use meridian_crdt::{DocOp, Dot, Key, Mutation, Vector};
use tokio::sync::{mpsc, oneshot, watch};

use crate::shard::Shard;
use crate::watch::walk::What;
use crate::watch::{Watch, WatchEvent, WatchRequest};

/// Events that wait for one room. A feed waits for a room that is behind; no room waits for its editors.
const EVENTS_MAX: usize = 256;
/// How long a watch may take to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(2);

/// What a txn did to a document.
#[derive(Clone, Debug)]
pub struct Event {
    /// The txn.
    pub dot: Dot,
    /// Its mutations of the key.
    pub ops: Arc<[Mutation]>,
}

impl Event {
    /// The updates that it brought, in their order.
    pub fn updates(&self) -> impl Iterator<Item = &Bytes> {
        let docs = self.ops.iter().filter_map(|op| if let Mutation::Doc(op) = op { Some(op) } else { None });
        docs.flat_map(DocOp::updates)
    }
}

/// A room's place at the feed of its space; given up when dropped.
#[derive(Debug)]
pub struct Attached {
    feeds: Arc<Feeds>,
    key: Key,
    feed: u64,
    place: u64,
    events: mpsc::Receiver<Event>,
    begun: watch::Receiver<bool>,
}

#[derive(Debug)]
struct Feed {
    id: u64,
    /// By key: the number of the room's place, and the way to it.
    rooms: BTreeMap<String, (u64, mpsc::Sender<Event>)>,
    begun: watch::Receiver<bool>,
    /// Ends the feed when it is dropped.
    _stop: oneshot::Sender<()>,
}

/// The feeds of this node, by space.
#[derive(Debug, Default)]
pub struct Feeds {
    open: Mutex<(BTreeMap<String, Feed>, u64)>,
}

impl Feeds {
    /// Takes a place at the feed of the key's space. There is one room of a key at most.
    pub fn attach(self: &Arc<Self>, shard: &Arc<Shard>, key: &Key) -> Attached {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let mut open = self.lock();
        let (feeds, last) = &mut *open;
        let feed = feeds.entry(key.space.clone()).or_insert_with(|| {
            *last += 1;
            let (begin, begun) = watch::channel(false);
            let (stop, stopped) = oneshot::channel();
            let (feeds, space, id) = (self.clone(), key.space.clone(), *last);
            tokio::spawn(feeds.run(shard.clone(), space, id, begin, stopped));
            Feed { id, rooms: BTreeMap::new(), begun, _stop: stop }
        });
        *last += 1;
        let (place, id, begun) = (*last, feed.id, feed.begun.clone());
        feed.rooms.insert(key.key.clone(), (place, sender));
        Attached { feeds: self.clone(), key: key.clone(), feed: id, place, events, begun }
    }

    async fn run(
        self: Arc<Self>,
        shard: Arc<Shard>,
        space: String,
        id: u64,
        begin: watch::Sender<bool>,
        stopped: oneshot::Receiver<()>,
    ) {
        let ended = tokio::select! {
            ended = self.follow(&shard, &space, id, &begin) => ended,
            _ = stopped => return,
        };
        tracing::debug!(space, error = %ended, "the feed of a space's documents ends, and its rooms with it");
        let mut open = self.lock();
        if open.0.get(&space).is_some_and(|feed| feed.id == id) {
            open.0.remove(&space);
        }
    }

    async fn follow(
        &self,
        shard: &Arc<Shard>,
        space: &str,
        id: u64,
        begin: &watch::Sender<bool>,
    ) -> ApiError {
        let request = WatchRequest {
            space: space.to_owned(),
            what: What::Prefix(String::new()),
            from: None,
            session: Vector::new(),
            wait: BEGIN_LIMIT,
            consistency: Consistency::default(),
            values: false,
        };
        let mut watch: Watch = match shard.watch(request).await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        begin.send_replace(true);
        loop {
            let event = match watch.next().await {
                Ok(WatchEvent::Txn(event)) => event,
                Ok(WatchEvent::Progress { .. }) => continue,
                Err(error) => return error,
            };
            for change in event.changes {
                let room = self.room(space, id, &change.key);
                if let Some(room) = room {
                    // A room that has just gone needs nothing any more.
                    room.send(Event { dot: event.dot, ops: change.ops }).await.ok();
                }
            }
        }
    }

    fn room(&self, space: &str, id: u64, key: &str) -> Option<mpsc::Sender<Event>> {
        let open = self.lock();
        open.0.get(space).filter(|feed| feed.id == id)?.rooms.get(key).map(|(_, room)| room.clone())
    }

    fn lock(&self) -> MutexGuard<'_, (BTreeMap<String, Feed>, u64)> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Attached {
    /// Waits until the feed has begun: whatever is applied later comes as an event. `false` if it does not begin.
    pub async fn begun(&mut self) -> bool {
        self.begun.wait_for(|begun| *begun).await.is_ok()
    }

    /// The next event; `None` when the feed has ended. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut open = self.feeds.lock();
        let Some(feed) = open.0.get_mut(&self.key.space).filter(|feed| feed.id == self.feed) else { return };
        // Another room may have taken the place since.
        if feed.rooms.get(&self.key.key).is_some_and(|(place, _)| *place == self.place) {
            feed.rooms.remove(&self.key.key);
        }
        if feed.rooms.is_empty() {
            open.0.remove(&self.key.space);
        }
    }
}
