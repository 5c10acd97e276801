//! Documents that are being edited: rooms, editors, and what goes between them and the log.
//!
//! A *room* is one document with the editors who have it open on this node. It exists while it has editors and a moment
//! longer, and there is never a second one of the same document. It holds nothing that is not in the log: an edit goes
//! through the shard like any other write, and comes back to the room, and to the rooms of all other nodes and
//! datacenters, by the oplog (`feed`). So whatever an editor sees of others is held by a majority of a datacenter, and
//! a room that ends loses nothing. With [`Fanout::Early`] the other editors of the node see an edit before that; if it
//! cannot be kept they are all sent away, and bring it again when they come back.
//!
//! `wire` and `awareness` are pure. `presence` is about those who are present at other nodes. How an editor's connection looks is the business of `api::docs`.

mod awareness;
mod close;
mod company;
mod door;
mod edits;
mod feed;
mod intake;
mod marks;
mod members;
mod place;
pub mod presence;
mod room;
mod seat;
mod sheet;
pub mod wire;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_crdt::{Dot, Key};
use tokio::sync::watch;

pub use close::Close;
pub use intake::check_nesting;
pub use seat::{Inbox, Outlet, Posted, Seat, outlet};

use crate::config::Fanout;
use crate::count::Count;
use crate::shard::Shard;
use door::{Ask, Door, door};
use feed::Feeds;
use marks::Unheard;
use place::Place;
use presence::Presence;
use wire::Message;

/// Bounds of the documents of one node.
#[derive(Clone, Copy, Debug)]
pub struct DocBounds {
    /// Open rooms; a further one is refused with [`Close::BUSY`].
    pub rooms_max: usize,
    /// Editors in one room; a further one is refused with [`Close::BUSY`].
    pub editors_max: usize,
    /// Bytes of one update; a larger one ends its editor's connection with [`Close::TOO_LARGE`].
    pub update_bytes_max: usize,
    /// Bytes of all updates of a document that is edited; beyond it, it is not opened, nor edited further.
    pub doc_bytes_max: usize,
    /// How long a room without editors stays.
    pub idle: Duration,
    /// How long an editor is sent nothing before it is sent an empty frame.
    pub keep_alive: Duration,
    /// How long an editor has to come again whose document this datacenter has not heard of.
    pub unheard: Duration,
    /// For how long an edit is tried before those who have it are sent away with [`Close::NOT_KEPT`].
    pub write_timeout: Duration,
    /// When the other editors of a room are given an edit.
    pub fanout: Fanout,
    /// How long after a write of a room has begun the next one begins.
    pub gather: Duration,
}

/// What is counted of documents since the process began.
#[derive(Debug, Default)]
pub struct DocCounts {
    /// Editors connected now.
    pub editors: AtomicU64,
    /// Rooms opened.
    pub rooms_opened: AtomicU64,
    /// Documents that are live in memory now. Rooms of the others have their bytes.
    pub live: Count,
    /// Updates taken from editors and kept.
    pub updates: AtomicU64,
    /// Frames given to editors.
    pub frames: AtomicU64,
    /// Editors closed because they did not take frames in time.
    pub slow: AtomicU64,
}

/// The documents that are open on this node.
#[derive(Debug)]
pub struct Docs {
    shard: Shared,
    /// The bounds.
    pub bounds: DocBounds,
    /// What is counted.
    pub counts: DocCounts,
    /// Who is present, here and at other nodes.
    pub presence: Arc<Presence>,
    feeds: Arc<Feeds>,
    rooms: Mutex<BTreeMap<Key, Entry>>,
    /// Documents that were edited by way of this node, and since when: what a version is to be made of.
    edited: Mutex<BTreeMap<Key, u64>>,
    unheard: Mutex<Unheard>,
    last: AtomicU64,
    /// The number of the room that was opened last.
    opened: watch::Sender<u64>,
}

/// A shard, for types that are shown while debugging.
struct Shared(Arc<Shard>);

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the shard of node {}", self.0.node)
    }
}

/// A room that is open.
#[derive(Debug)]
struct Entry {
    id: u64,
    door: Door,
    /// Editors inside and at the door.
    editors: usize,
}

/// An editor in a room, who goes when dropped.
#[derive(Debug)]
pub struct Editor {
    place: Arc<Place>,
    member: u64,
    door: Door,
    /// Whether the room has heard of it, or will.
    has_entered: bool,
}

impl Docs {
    /// No documents yet.
    pub fn new(shard: Arc<Shard>, bounds: DocBounds, presence: Arc<Presence>) -> Arc<Self> {
        Arc::new(Self {
            shard: Shared(shard),
            bounds,
            counts: DocCounts::default(),
            presence,
            feeds: Arc::default(),
            rooms: Mutex::default(),
            edited: Mutex::default(),
            unheard: Mutex::default(),
            last: AtomicU64::new(0),
            opened: watch::Sender::new(0),
        })
    }

    /// How many rooms are open.
    pub fn rooms_open(&self) -> usize {
        self.rooms().len()
    }

    /// Notes that a document was edited by way of this node. Of more than may be open at once none is noted.
    pub fn was_edited(&self, key: &Key) {
        let mut edited = self.edited.lock().unwrap_or_else(PoisonError::into_inner);
        if !edited.contains_key(key) && edited.len() < self.bounds.rooms_max {
            edited.insert(key.clone(), self.shard.0.seams.clock.monotonic_ms());
        }
    }

    /// Takes out the documents whose first noted edit is at least `age_ms` old.
    pub fn take_edited(&self, age_ms: u64) -> Vec<Key> {
        let now_ms = self.shard.0.seams.clock.monotonic_ms();
        let mut edited = self.edited.lock().unwrap_or_else(PoisonError::into_inner);
        let ripe: Vec<Key> = edited
            .iter()
            .filter(|(_, since_ms)| now_ms.saturating_sub(**since_ms) >= age_ms)
            .map(|(key, _)| key.clone())
            .collect();
        edited.retain(|key, _| ripe.binary_search(key).is_err());
        ripe
    }

    /// Whether an editor is to come again because of these incarnations of its document, of which this datacenter has not heard.
    fn must_be_heard_first(&self, key: &Key, unheard: &[Dot]) -> bool {
        let now_ms = self.shard.0.seams.clock.monotonic_ms();
        let wait_ms = u64::try_from(self.bounds.unheard.as_millis()).unwrap_or(u64::MAX);
        let mut all = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        unheard.iter().any(|dot| all.must_be_heard_first(key, *dot, now_ms, wait_ms))
    }

    /// How many editors have a document open on this node.
    pub fn editors_of(&self, key: &Key) -> usize {
        self.rooms().get(key).map_or(0, |entry| entry.editors)
    }

    /// Takes an editor into the room of `key`, which is opened if it is not. What goes wrong while it opens is told
    /// through the seat.
    pub async fn enter(self: &Arc<Self>, key: Key, mut seat: Seat) -> Result<Editor, Close> {
        let member = self.next();
        let mut editor = match self.place(key, member) {
            Ok(editor) => editor,
            Err(close) => {
                seat.part();
                return Err(close);
            }
        };
        seat.take(editor.place.clone());
        // A room that is gone has dropped its door, and the seat with it, which ends the connection.
        editor.has_entered = editor.door.send(Ask::Enter { member, seat: Box::new(seat) }).await;
        Ok(editor)
    }

    fn place(self: &Arc<Self>, key: Key, member: u64) -> Result<Editor, Close> {
        let mut rooms = self.rooms();
        if !rooms.contains_key(&key) {
            if rooms.len() >= self.bounds.rooms_max {
                return Err(Close::BUSY);
            }
            let id = self.next();
            let (door, doorway) = door();
            rooms.insert(key.clone(), Entry { id, door, editors: 0 });
            self.counts.rooms_opened.fetch_add(1, Ordering::Relaxed);
            self.opened.send_replace(id);
            tokio::spawn(room::run(self.clone(), key.clone(), id, doorway));
        }
        let Some(entry) = rooms.get_mut(&key) else { return Err(Close::INTERNAL) };
        if entry.editors >= self.bounds.editors_max {
            return Err(Close::BUSY);
        }
        entry.editors += 1;
        self.counts.editors.fetch_add(1, Ordering::Relaxed);
        let (room, door) = (entry.id, entry.door.clone());
        let place = Place::new(self.clone(), key, room);
        Ok(Editor { place, member, door, has_entered: false })
    }

    /// Takes a room out, so that the next editor opens another; `false` if it is to stay, because editors are inside or
    /// at its door. `ended` rooms go in any case.
    fn retire(&self, key: &Key, id: u64, ended: bool) -> bool {
        let mut rooms = self.rooms();
        match rooms.get(key) {
            Some(entry) if entry.id == id && (ended || entry.editors == 0) => {
                rooms.remove(key);
                true
            }
            Some(entry) => entry.id != id,
            None => true,
        }
    }

    /// A number that only rises. Those of rooms are taken while `rooms` is locked, so they rise in the order of opening.
    fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    fn rooms(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Editor {
    /// Tells the room what the editor says, once the room has heard what others have said before. A room that is gone
    /// has ended the inbox, which says why.
    pub async fn say(&self, message: Message) {
        self.door.send(Ask::Say { member: self.member, message }).await;
    }

    /// Whether the room has closed it.
    pub fn is_over(&self) -> bool {
        self.place.is_given_up()
    }
}

impl Drop for Editor {
    fn drop(&mut self) {
        self.place.give_up();
        if self.has_entered {
            self.door.leave(self.member);
        }
    }
}
