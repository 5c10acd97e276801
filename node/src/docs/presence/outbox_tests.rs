//! What the outbox promises: whoever has a room open has all its states in the end, whatever is lost on the way, each once if
//! nothing is, and never more than a message at a time.

use std::collections::BTreeMap;

use meridian_crdt::Key;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::message::{Fate, Receipt, Rooms, Said};
use super::outbox::{Outbox, PARCEL_BYTES_MAX, Parcel};
use crate::docs::awareness::{EXPIRE_MS, GONE};

/// The group of a single node, and that of two nodes of another datacenter.
const NEAR: usize = 0;
const FAR: usize = 1;

fn outbox() -> Outbox {
    Outbox::new([vec![2], vec![11, 12]])
}

fn key(name: &str) -> Key {
    Key::new("s", name).expect("a key")
}

fn said(client: u64, clock: u64, text: &str) -> Said {
    Said { client, clock, text: text.into() }
}

/// Which opening it is of, and what it has: clocks and texts by client.
type Room = (u64, BTreeMap<u64, (u64, String)>);

/// Another node, as far as this one is concerned.
#[derive(Debug, Default)]
struct Peer {
    node: u64,
    life: u64,
    opened: u64,
    rooms: BTreeMap<Key, Room>,
}

impl Peer {
    fn new(node: u64) -> Self {
        Self { node, life: 1, ..Self::default() }
    }

    fn opens(&mut self, key: Key) {
        self.opened += 1;
        self.rooms.entry(key).or_insert_with(|| (self.opened, BTreeMap::new()));
    }

    fn is_asked(&self, outbox: &mut Outbox, group: usize) {
        let known = outbox.known(group, self.node);
        let since = if known.life == self.life { known.since } else { 0 };
        let mut rooms: Vec<_> =
            self.rooms.iter().map(|(key, (opening, _))| (*opening, key.clone())).collect();
        rooms.retain(|(opening, _)| *opening > since);
        outbox.learn(group, self.node, known, Rooms { life: self.life, upto: self.opened, rooms });
    }

    fn gets(&mut self, parcel: &Parcel) -> Receipt {
        let fates = parcel.rooms.iter().map(|room| {
            let Some((_, states)) = self.rooms.get_mut(&room.key) else { return Fate::NotOpen };
            for Said { client, clock, text } in &room.states {
                let known = states.entry(*client).or_default();
                if *clock > known.0 || (*clock == known.0 && text == GONE) {
                    *known = (*clock, text.clone());
                }
            }
            Fate::Taken
        });
        Receipt { node: self.node, life: self.life, fates: fates.collect(), at: self.opened }
    }

    fn says(&self, key: &Key, client: u64) -> Option<&str> {
        self.rooms.get(key)?.1.get(&client).map(|(_, text)| text.as_str())
    }
}

fn clients(parcel: &Parcel) -> Vec<(u64, u64)> {
    parcel.rooms.iter().flat_map(|room| &room.states).map(|said| (said.client, said.clock)).collect()
}

#[test]
fn a_node_is_told_the_newest_of_rooms_that_it_has_open_once() {
    let (mut outbox, mut peer) = (outbox(), Peer::new(2));
    peer.opens(key("a"));
    assert!(
        outbox.publish(&key("a"), 1, said(7, 1, "{}"), 0)
            && outbox.publish(&key("b"), 2, said(8, 1, "{}"), 0)
    );
    assert_eq!(outbox.next(NEAR), None, "nobody is known to want it");
    peer.is_asked(&mut outbox, NEAR);
    outbox.publish(&key("a"), 1, said(7, 2, "{}"), 0);
    let parcel = outbox.next(NEAR).expect("something to tell");
    assert_eq!((clients(&parcel), &parcel.to), (vec![(7, 2)], &vec![2]));
    outbox.delivered(NEAR, &parcel, &[peer.gets(&parcel)]);
    assert_eq!((outbox.next(NEAR), outbox.next(FAR), outbox.present()), (None, None, 2));
}

#[test]
fn what_did_not_arrive_is_told_again_with_what_is_newest_then() {
    let (mut outbox, mut peer) = (outbox(), Peer::new(2));
    peer.opens(key("a"));
    peer.is_asked(&mut outbox, NEAR);
    outbox.publish(&key("a"), 1, said(7, 1, "{}"), 0);
    let lost = outbox.next(NEAR).expect("something to tell");
    outbox.delivered(NEAR, &lost, &[]);
    assert_eq!(outbox.next(NEAR), None, "it has to say again what it has");
    outbox.publish(&key("a"), 1, said(7, 2, "{}"), 0);
    outbox.publish(&key("a"), 1, said(8, 1, "{}"), 0);
    peer.is_asked(&mut outbox, NEAR);
    let parcel = outbox.next(NEAR).expect("something to tell");
    assert_eq!(clients(&parcel), [(7, 2), (8, 1)]);
    let busy = Receipt { fates: vec![Fate::Busy], ..peer.gets(&parcel) };
    outbox.delivered(NEAR, &parcel, &[busy]);
    assert_eq!(outbox.next(NEAR), Some(parcel), "its room had too much to do");
}

/// Story: a room is closed and opened again while a message of its states is under way. The message has gone to the
/// first one, and the second one has nothing of it.
#[test]
fn a_room_that_is_opened_anew_gets_everything() {
    let (mut outbox, mut peer) = (outbox(), Peer::new(2));
    peer.opens(key("a"));
    peer.is_asked(&mut outbox, NEAR);
    outbox.publish(&key("a"), 1, said(7, 1, "{}"), 0);
    let parcel = outbox.next(NEAR).expect("something to tell");
    let receipt = peer.gets(&parcel);
    peer.rooms.clear();
    peer.opens(key("a"));
    peer.is_asked(&mut outbox, NEAR);
    outbox.delivered(NEAR, &parcel, &[receipt]);
    let parcel = outbox.next(NEAR).expect("something to tell");
    assert_eq!(clients(&parcel), [(7, 1)]);
    outbox.delivered(NEAR, &parcel, &[peer.gets(&parcel)]);
    assert_eq!(outbox.next(NEAR), None);
}

#[test]
fn a_room_that_is_not_open_is_told_nothing_more() {
    let (mut outbox, mut peer) = (outbox(), Peer::new(2));
    peer.opens(key("a"));
    peer.is_asked(&mut outbox, NEAR);
    peer.rooms.clear();
    outbox.publish(&key("a"), 1, said(7, 1, "{}"), 0);
    let parcel = outbox.next(NEAR).expect("something to tell");
    outbox.delivered(NEAR, &parcel, &[peer.gets(&parcel)]);
    outbox.publish(&key("a"), 1, said(7, 2, "{}"), 0);
    assert_eq!(outbox.next(NEAR), None);
}

#[test]
fn a_node_that_has_started_anew_is_told_everything_again() {
    let (mut outbox, mut peer) = (outbox(), Peer::new(2));
    peer.opens(key("a"));
    peer.is_asked(&mut outbox, NEAR);
    outbox.publish(&key("a"), 1, said(7, 1, "{}"), 0);
    let parcel = outbox.next(NEAR).expect("something to tell");
    outbox.delivered(NEAR, &parcel, &[peer.gets(&parcel)]);
    peer = Peer { life: 2, ..Peer::new(2) };
    peer.opens(key("a"));
    peer.is_asked(&mut outbox, NEAR);
    assert_eq!(clients(&outbox.next(NEAR).expect("something to tell")), [(7, 1)]);
}

#[test]
fn nodes_of_another_datacenter_are_told_together() {
    let (mut outbox, mut eleven, mut twelve) = (outbox(), Peer::new(11), Peer::new(12));
    eleven.opens(key("a"));
    eleven.is_asked(&mut outbox, FAR);
    outbox.publish(&key("a"), 1, said(7, 1, "{}"), 0);
    let parcel = outbox.next(FAR).expect("something to tell");
    assert_eq!(parcel.to, [11]);
    outbox.delivered(FAR, &parcel, &[eleven.gets(&parcel)]);
    twelve.opens(key("a"));
    twelve.is_asked(&mut outbox, FAR);
    outbox.publish(&key("a"), 1, said(8, 1, "{}"), 0);
    let parcel = outbox.next(FAR).expect("something to tell");
    assert_eq!((clients(&parcel), &parcel.to), (vec![(7, 1), (8, 1)], &vec![11, 12]));
    outbox.delivered(FAR, &parcel, &[twelve.gets(&parcel), eleven.gets(&parcel)]);
    assert_eq!(outbox.next(FAR), None);
}

#[test]
fn a_message_is_bounded_and_the_next_one_goes_on() {
    let (mut outbox, mut peer) = (outbox(), Peer::new(2));
    let text = "x".repeat(10_000);
    for (room, name) in ["a", "b", "c"].into_iter().enumerate() {
        peer.opens(key(name));
        for client in 0..40 {
            outbox.publish(&key(name), room as u64, said(client, 1, &text), 0);
        }
    }
    peer.is_asked(&mut outbox, NEAR);
    let mut told = 0;
    while let Some(parcel) = outbox.next(NEAR) {
        let bytes: usize =
            parcel.rooms.iter().flat_map(|room| &room.states).map(|said| said.text.len()).sum();
        assert!(bytes <= PARCEL_BYTES_MAX + text.len(), "{bytes}");
        told += clients(&parcel).len();
        outbox.delivered(NEAR, &parcel, &[peer.gets(&parcel)]);
    }
    assert_eq!(told, 3 * 40);
}

#[test]
fn who_has_left_is_told_and_forgotten() {
    let (mut outbox, mut peer) = (outbox(), Peer::new(2));
    peer.opens(key("a"));
    peer.is_asked(&mut outbox, NEAR);
    outbox.publish(&key("a"), 1, said(7, 4, "{}"), 0);
    outbox.end_room(&key("a"), 2, 5);
    assert_eq!(outbox.present(), 1, "another room has ended");
    outbox.end_room(&key("a"), 1, 5);
    let parcel = outbox.next(NEAR).expect("something to tell");
    peer.gets(&parcel);
    assert_eq!((peer.says(&key("a"), 7), outbox.present()), (Some(GONE), 0));
    outbox.purge(4 + EXPIRE_MS);
    assert!(!outbox.is_empty());
    outbox.purge(5 + EXPIRE_MS);
    assert!(outbox.is_empty());
    outbox.publish(&key("a"), 1, said(8, 1, "{}"), 0);
    outbox.withdraw(&key("a"), 8);
    outbox.purge(0);
    assert!(outbox.is_empty());
}

/// Messages and answers are lost, rooms are opened and closed, nodes start anew; then all of it ends, and everybody has
/// what is newest.
#[test]
fn after_any_losses_all_have_the_newest() {
    for seed in 0..300 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut outbox = outbox();
        let mut peers = [(NEAR, Peer::new(2)), (FAR, Peer::new(11)), (FAR, Peer::new(12))];
        let mut newest: BTreeMap<(&str, u64), (u64, String)> = BTreeMap::new();
        for step in 0..200 {
            let loses = step < 150;
            let name = ["a", "b", "c"][rng.random_range(0..3)];
            let client = rng.random_range(0..4);
            let (clock, text) = newest.entry((name, client)).or_default();
            *clock += 1;
            *text =
                if rng.random_bool(0.2) { GONE.to_owned() } else { "y".repeat(rng.random_range(1..40_000)) };
            outbox.publish(&key(name), 1, said(client, *clock, text), 0);
            let (group, peer) = &mut peers[rng.random_range(0..3)];
            match rng.random_range(0..10) {
                0 if loses => *peer = Peer { life: peer.life + 1, ..Peer::new(peer.node) },
                1 if loses => drop(peer.rooms.remove(&key(name))),
                2..6 => peer.opens(key(name)),
                6..8 => peer.is_asked(&mut outbox, *group),
                _ => {
                    let group = *group;
                    let Some(parcel) = outbox.next(group) else { continue };
                    let mut receipts = Vec::new();
                    for (_, peer) in
                        peers.iter_mut().filter(|(its, peer)| *its == group && parcel.to.contains(&peer.node))
                    {
                        if loses && rng.random_bool(0.3) {
                            continue;
                        }
                        let receipt = peer.gets(&parcel);
                        if !(loses && rng.random_bool(0.3)) {
                            receipts.push(receipt);
                        }
                    }
                    outbox.delivered(group, &parcel, &receipts);
                }
            }
        }
        settle(&mut outbox, &mut peers);
        for ((name, client), (_, text)) in &newest {
            for (_, peer) in peers.iter().filter(|(_, peer)| peer.rooms.contains_key(&key(name))) {
                assert_eq!(
                    peer.says(&key(name), *client),
                    Some(text.as_str()),
                    "seed {seed}: {name} {client}"
                );
            }
        }
    }
}

fn settle(outbox: &mut Outbox, peers: &mut [(usize, Peer)]) {
    for _ in 0..2 {
        for (group, peer) in peers.iter() {
            peer.is_asked(outbox, *group);
        }
        for group in [NEAR, FAR] {
            while let Some(parcel) = outbox.next(group) {
                let to =
                    peers.iter_mut().filter(|(its, peer)| *its == group && parcel.to.contains(&peer.node));
                let receipts: Vec<_> = to.map(|(_, peer)| peer.gets(&parcel)).collect();
                outbox.delivered(group, &parcel, &receipts);
            }
        }
    }
}
