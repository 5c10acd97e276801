//! Presence beyond one node: who is present at this one is told to the others, and what they tell is heard.
//!
//! Nothing of it is durable, nothing goes through the log, and it shares no connection with what does. A node that has clients to
//! tell of asks every other node, of all datacenters, which rooms it has open (`Rooms`, answered when there are new ones),
//! and sends it what has changed in those (`Push`). Being asked is also how a node knows that another lives. What
//! is for several nodes of another datacenter crosses the distance once, to one of them, which hands it on.
//!
//! Who tells of nobody asks nobody: a cluster without editors sends nothing.
//!
//! `outbox`, `sources` and `message` are pure; `run` asks and tells, `serve` answers.

pub mod message;
mod outbox;
#[cfg(test)]
mod outbox_tests;
mod run;
mod serve;
mod sources;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_crdt::Key;
use tokio::sync::{Notify, Semaphore, watch};

use crate::peer::PeerClient;
use crate::seams::{Clock, Seams};
use message::{RoomStates, Said, Source};
use outbox::Outbox;
use sources::Sources;

pub use run::run;
pub use serve::PeerPort;

/// How long an answer to `Rooms` may be held back until there is one.
pub const HOLD: Duration = Duration::from_secs(2);

/// Messages under way that tell other nodes that their clients are held for gone. Further ones are left out: the clients
/// say by themselves, within 15 s, that they are there.
const CONTRADICTIONS_MAX: usize = 256;

/// The other nodes of one datacenter, and the way to them.
#[derive(Debug)]
pub struct Neighbours {
    /// The datacenter.
    pub dc: String,
    /// The nodes.
    pub nodes: Vec<u64>,
    /// Asks them.
    pub client: PeerClient,
}

/// What is counted of presence since the process began.
#[derive(Debug, Default)]
pub struct PresenceCounts {
    /// Clients of other nodes who are present in rooms of this one, now.
    pub elsewhere: AtomicU64,
    /// Messages with states that reached a node.
    pub sent: AtomicU64,
    /// Messages with states that did not, and were made anew.
    pub lost: AtomicU64,
    /// Messages with states that were handed on to nodes of this datacenter.
    pub handed_on: AtomicU64,
    /// States that were not taken, or not told, because a bound was reached.
    pub dropped: AtomicU64,
}

/// What is known of who is present, here and elsewhere.
pub struct Presence {
    me: Source,
    clock: Arc<dyn Clock>,
    outbox: Mutex<Outbox>,
    sources: Mutex<Sources>,
    groups: Vec<Group>,
    own_dc: Option<PeerClient>,
    /// Whether there is anybody to tell of.
    speaks: watch::Sender<bool>,
    /// A node is heard that was not.
    returned: Notify,
    contradictions: Arc<Semaphore>,
    /// What is counted.
    pub counts: PresenceCounts,
}

/// Nodes that are told together.
#[derive(Debug)]
struct Group {
    dc: String,
    nodes: Vec<u64>,
    client: PeerClient,
    /// Whether they are in another datacenter.
    far: bool,
    news: Notify,
}

impl std::fmt::Debug for Presence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presence").field("me", &self.me).finish_non_exhaustive()
    }
}

impl Presence {
    /// Nobody is present yet at node `node` of `dc`, which has these neighbours in its own and other datacenters.
    pub fn new(dc: &str, node: u64, seams: &Seams, neighbours: Vec<Neighbours>) -> Arc<Self> {
        let mut groups = Vec::new();
        let mut own_dc = None;
        for Neighbours { dc: theirs, nodes, client } in neighbours {
            let far = theirs != dc;
            let split = if far { vec![nodes] } else { nodes.into_iter().map(|node| vec![node]).collect() };
            let group =
                |nodes| Group { dc: theirs.clone(), nodes, client: client.clone(), far, news: Notify::new() };
            groups.extend(split.into_iter().filter(|nodes| !nodes.is_empty()).map(group));
            if !far {
                own_dc = Some(client);
            }
        }
        Arc::new(Self {
            me: Source { dc: dc.to_owned(), node, life: seams.random.u64().max(1) },
            clock: seams.clock.clone(),
            outbox: Mutex::new(Outbox::new(groups.iter().map(|group| group.nodes.clone()))),
            sources: Mutex::default(),
            groups,
            own_dc,
            speaks: watch::Sender::new(false),
            returned: Notify::new(),
            contradictions: Arc::new(Semaphore::new(CONTRADICTIONS_MAX)),
            counts: PresenceCounts::default(),
        })
    }

    /// Milliseconds of a clock that never goes backwards.
    pub fn now_ms(&self) -> u64 {
        self.clock.monotonic_ms()
    }

    /// How many clients of this node others are told of.
    pub fn own(&self) -> usize {
        self.outbox().present()
    }

    /// Tells others what these clients of a room say; `None` for one that is not connected here.
    pub fn tell(&self, key: &Key, room: u64, clients: impl Iterator<Item = (u64, Option<Said>)>) {
        let mut outbox = self.outbox();
        let now_ms = self.now_ms();
        for (client, said) in clients {
            match said {
                Some(said) => {
                    if !outbox.publish(key, room, said, now_ms) {
                        self.count_dropped(1);
                    }
                }
                None => outbox.withdraw(key, client),
            }
        }
        self.wake(&outbox);
    }

    /// A room has ended, and with it the presence of who was in it.
    pub fn end_room(&self, key: &Key, room: u64) {
        let mut outbox = self.outbox();
        outbox.end_room(key, room, self.now_ms());
        self.wake(&outbox);
    }

    /// Tells a node that clients of whom it says that they are there are held for gone here, as these states say. Editors that
    /// have heard so do not listen to them before their clocks are higher.
    pub fn contradict(&self, source: &Source, key: Key, states: Vec<Said>) {
        let is_theirs = |group: &&Group| group.dc == source.dc && group.nodes.contains(&source.node);
        let Some(client) = self.groups.iter().find(is_theirs).map(|group| group.client.clone()) else {
            return;
        };
        let Ok(permit) = self.contradictions.clone().try_acquire_owned() else { return };
        let (node, ask) = (source.node, message::Ask::Gone(RoomStates { key, states }));
        tokio::spawn(async move {
            if let Err(error) = run::ask_node(&client, node, &ask, run::ANSWER_LIMIT).await {
                tracing::debug!(node, error, "a node did not hear that its clients are held for gone");
            }
            drop(permit);
        });
    }

    /// Whether a node lives, as far as is known.
    pub fn hears(&self, source: &Source, now_ms: u64) -> bool {
        self.sources().hears(source, now_ms)
    }

    /// Counts states for which there was no room.
    pub fn count_dropped(&self, states: usize) {
        self.counts.dropped.fetch_add(states as u64, Ordering::Relaxed);
    }

    /// Counts a room's clients of other nodes anew.
    pub fn count_elsewhere(&self, before: usize, now: usize) {
        self.counts.elsewhere.fetch_add(now as u64, Ordering::Relaxed);
        self.counts.elsewhere.fetch_sub(before as u64, Ordering::Relaxed);
    }

    fn wake(&self, outbox: &Outbox) {
        for (id, group) in self.groups.iter().enumerate().filter(|(id, _)| outbox.has_news(*id)) {
            tracing::trace!(group = id, "there is something to tell");
            group.news.notify_one();
        }
        self.speaks
            .send_if_modified(|speaks| std::mem::replace(speaks, !outbox.is_empty()) == outbox.is_empty());
    }

    fn heard(&self, source: &Source) {
        let now_ms = self.now_ms();
        let mut sources = self.sources();
        if !sources.hears(source, now_ms) {
            self.returned.notify_waiters();
        }
        if !sources.heard(source, now_ms) {
            tracing::warn!(dc = source.dc, node = source.node, "too many nodes tell of who is present");
        }
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
