//! What this node tells others of its own clients, and how much of it each other node has.
//!
//! Nodes are in groups: each node of the own datacenter is one by itself; those of another datacenter are one together, to
//! which everything crosses the distance once. For each node it is known which rooms it has open, and up to which version it has
//! the states of each. A *parcel* is what some nodes of a group lack; until they say that they have it, it is made again, with
//! whatever is newest then. So a lost message, a node that was away, and a room that is opened heal in the same way, and what
//! waits for a slow node is never more than the newest state of each client.
//!
//! It is pure: the time is an argument.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use meridian_crdt::Key;

use super::message::{Fate, Receipt, RoomStates, Rooms, Said};
use crate::docs::awareness::{EXPIRE_MS, GONE};

/// Bytes of one parcel, more or less one state.
pub const PARCEL_BYTES_MAX: usize = 256 << 10;
/// Bytes of the states of all clients of this node. Beyond, new ones are seen at this node only.
pub const OWN_BYTES_MAX: usize = 64 << 20;
/// What a state takes beside its text.
const STATE_BYTES: usize = 24;

/// What is told to others, and who has what of it.
#[derive(Debug)]
pub struct Outbox {
    /// Rises with each change.
    version: u64,
    rooms: BTreeMap<Key, Own>,
    bytes: usize,
    groups: Vec<Group>,
}

/// The own clients of a room.
#[derive(Debug, Default)]
struct Own {
    /// Which room has spoken last; there may have been an earlier one of the same document.
    room: u64,
    /// The version of its last change.
    version: u64,
    states: BTreeMap<u64, State>,
}

#[derive(Debug)]
struct State {
    version: u64,
    clock: u64,
    text: String,
    changed_ms: u64,
}

#[derive(Debug)]
struct Group {
    nodes: BTreeMap<u64, Node>,
    /// The rooms of which some node may lack something.
    news: BTreeSet<Key>,
    /// The room that came last into a parcel: the next one begins behind it.
    last: Option<Key>,
}

/// Another node.
#[derive(Debug, Default)]
struct Node {
    known: Known,
    rooms: BTreeMap<Key, Interest>,
}

/// Of which life of a node which rooms are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The life; 0 for none.
    pub life: u64,
    /// The opening up to which its rooms are known.
    pub since: u64,
}

#[derive(Debug)]
struct Interest {
    opening: u64,
    /// The version up to which it has the states.
    has: u64,
}

/// What some nodes of a group lack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// The nodes; at least one.
    pub to: Vec<u64>,
    /// The states.
    pub rooms: Vec<RoomStates>,
    marks: Vec<Mark>,
}

/// Which versions of a room a parcel has: those above `from`, up to `upto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    from: u64,
    upto: u64,
}

impl Outbox {
    /// Nothing to tell yet to these nodes.
    pub fn new(groups: impl IntoIterator<Item = Vec<u64>>) -> Self {
        let group = |nodes: Vec<u64>| Group {
            nodes: nodes.into_iter().map(|node| (node, Node::default())).collect(),
            news: BTreeSet::new(),
            last: None,
        };
        Self { version: 0, rooms: BTreeMap::new(), bytes: 0, groups: groups.into_iter().map(group).collect() }
    }

    /// A client of this node says this. `false` if it is not told to others, because of [`OWN_BYTES_MAX`].
    pub fn publish(&mut self, key: &Key, room: u64, said: Said, now_ms: u64) -> bool {
        let before = self.rooms.get(key).and_then(|own| own.states.get(&said.client));
        let before = before.map_or(0, |state| STATE_BYTES + state.text.len());
        let bytes = self.bytes - before + STATE_BYTES + said.text.len();
        // Who leaves is always told.
        if bytes > OWN_BYTES_MAX && bytes > self.bytes && said.text != GONE {
            return false;
        }
        self.bytes = bytes;
        self.version += 1;
        let own = self.rooms.entry(key.clone()).or_default();
        (own.room, own.version) = (room, self.version);
        let Said { client, clock, text } = said;
        own.states.insert(client, State { version: self.version, clock, text, changed_ms: now_ms });
        for group in &mut self.groups {
            if group.nodes.values().any(|node| node.rooms.contains_key(key)) {
                group.news.insert(key.clone());
            }
        }
        true
    }

    /// A client that was this node's is another's now, which tells of it from here on.
    pub fn withdraw(&mut self, key: &Key, client: u64) {
        let withdrawn = self.rooms.get_mut(key).and_then(|own| own.states.remove(&client));
        self.bytes -= withdrawn.map_or(0, |state| STATE_BYTES + state.text.len());
    }

    /// A room has ended: whoever was in it has left.
    pub fn end_room(&mut self, key: &Key, room: u64, now_ms: u64) {
        let Some(own) = self.rooms.get(key).filter(|own| own.room == room) else { return };
        let living = own.states.iter().filter(|(_, state)| state.text != GONE);
        let gone = |(client, state): (&u64, &State)| Said {
            client: *client,
            clock: state.clock,
            text: GONE.to_owned(),
        };
        for said in living.map(gone).collect::<Vec<_>>() {
            self.publish(key, room, said, now_ms);
        }
    }

    /// Forgets who has left so long ago that no other node still has them.
    pub fn purge(&mut self, now_ms: u64) {
        let bytes = &mut self.bytes;
        self.rooms.retain(|_, own| {
            own.states.retain(|_, state| {
                let stays = state.text != GONE || now_ms.saturating_sub(state.changed_ms) < EXPIRE_MS;
                *bytes -= if stays { 0 } else { STATE_BYTES + state.text.len() };
                stays
            });
            !own.states.is_empty()
        });
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// How many clients of this node are told of.
    pub fn present(&self) -> usize {
        let present = |own: &Own| own.states.values().filter(|state| state.text != GONE).count();
        self.rooms.values().map(present).sum()
    }

    /// Whether some node of the group may lack something.
    pub fn has_news(&self, group: usize) -> bool {
        self.groups.get(group).is_some_and(|group| !group.news.is_empty())
    }

    /// What is known of a node's rooms.
    pub fn known(&self, group: usize, node: u64) -> Known {
        self.groups.get(group).and_then(|group| group.nodes.get(&node)).map_or(Known::default(), |n| n.known)
    }

    /// A node has opened these rooms. An answer to an older question than what is `known` is void.
    pub fn learn(&mut self, group: usize, node: u64, asked: Known, rooms: Rooms) {
        let Some(group) = self.groups.get_mut(group) else { return };
        let Some(node) = group.nodes.get_mut(&node).filter(|node| node.known == asked) else { return };
        if node.known.life != rooms.life {
            node.rooms.clear();
        }
        node.known = Known { life: rooms.life, since: rooms.upto };
        for (opening, key) in rooms.rooms {
            if self.rooms.contains_key(&key) {
                group.news.insert(key.clone());
            }
            // Whatever an earlier room of the same document had is lost with it.
            node.rooms.insert(key, Interest { opening, has: 0 });
        }
    }

    /// A node has not answered: what it has is not known any more.
    pub fn forget(&mut self, group: usize, node: u64) {
        if let Some(node) = self.groups.get_mut(group).and_then(|group| group.nodes.get_mut(&node)) {
            *node = Node::default();
        }
    }

    /// What nodes of the group lack, as much as one message holds.
    pub fn next(&mut self, group: usize) -> Option<Parcel> {
        let (rooms, group) = (&self.rooms, self.groups.get_mut(group)?);
        let mut parcel = Parcel { to: Vec::new(), rooms: Vec::new(), marks: Vec::new() };
        let (mut to, mut room_left, mut done) = (BTreeSet::new(), PARCEL_BYTES_MAX, Vec::new());
        let behind = group.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let before = match &behind {
            Bound::Excluded(last) => Some(group.news.range(..=last)),
            _ => None,
        };
        for key in group.news.range((behind.clone(), Bound::Unbounded)).chain(before.into_iter().flatten()) {
            let own = rooms.get(key);
            let lacking = || {
                let has = |(id, node): (&u64, &Node)| Some((*id, node.rooms.get(key)?.has));
                let nodes = group.nodes.iter().filter_map(has);
                nodes.filter(|(_, has)| own.is_some_and(|own| *has < own.version))
            };
            let (Some(own), Some(from)) = (own, lacking().map(|(_, has)| has).min()) else {
                done.push(key.clone());
                continue;
            };
            if room_left == 0 {
                break;
            }
            let (states, upto) = own.above(from, &mut room_left);
            to.extend(lacking().map(|(id, _)| id));
            parcel.rooms.push(RoomStates { key: key.clone(), states });
            parcel.marks.push(Mark { from, upto });
        }
        group.last = parcel.rooms.last().map(|room| room.key.clone());
        done.iter().for_each(|key| {
            group.news.remove(key);
        });
        parcel.to = to.into_iter().collect();
        (!parcel.to.is_empty()).then_some(parcel)
    }

    /// What became of a parcel. Nodes that it did not reach are forgotten; what they lack they get when they say again
    /// what they have open.
    pub fn delivered(&mut self, group: usize, parcel: &Parcel, receipts: &[Receipt]) {
        for node in &parcel.to {
            match receipts.iter().find(|receipt| receipt.node == *node) {
                Some(receipt) => self.received(group, parcel, receipt),
                None => self.forget(group, *node),
            }
        }
    }

    fn received(&mut self, group: usize, parcel: &Parcel, receipt: &Receipt) {
        let node = self.groups.get_mut(group).and_then(|group| group.nodes.get_mut(&receipt.node));
        let Some(node) = node.filter(|node| node.known.life == receipt.life) else { return };
        for ((room, mark), fate) in parcel.rooms.iter().zip(&parcel.marks).zip(&receipt.fates) {
            // SUBTLE: a room that was opened after the parcel had come is another one, and has nothing of it; we may have heard
            // of it already.
            let interest = node.rooms.get_mut(&room.key).filter(|interest| interest.opening <= receipt.at);
            match (interest, fate) {
                (Some(interest), Fate::Taken) if interest.has >= mark.from => {
                    interest.has = interest.has.max(mark.upto);
                }
                (Some(_), Fate::NotOpen) => {
                    node.rooms.remove(&room.key);
                }
                _ => {}
            }
        }
    }
}

impl Own {
    /// The states that changed after `from`, the oldest first, and up to which version they go.
    fn above(&self, from: u64, room_left: &mut usize) -> (Vec<Said>, u64) {
        let changed = self.states.iter().filter(|(_, state)| state.version > from);
        let mut changed: Vec<_> = changed.map(|(client, state)| (state.version, *client, state)).collect();
        changed.sort_unstable_by_key(|(version, ..)| *version);
        let (mut states, mut upto) = (Vec::new(), self.version);
        for (version, client, state) in changed {
            if *room_left == 0 {
                break;
            }
            *room_left = room_left.saturating_sub(STATE_BYTES + state.text.len());
            upto = version;
            states.push(Said { client, clock: state.clock, text: state.text.clone() });
        }
        // What was withdrawn since leaves no state behind.
        let is_whole = self.states.values().all(|state| state.version <= upto.max(from));
        (states, if is_whole { self.version } else { upto })
    }
}
