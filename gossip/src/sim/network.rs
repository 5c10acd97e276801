//! Connections between nodes: in order within a connection and direction, in any order across them; cuts stop bytes
//! without resetting anything.

use std::collections::{BTreeMap, VecDeque};

use super::{At, Ev, Sim, World, name};
use crate::proto::event::Event;
use crate::proto::message::Message;

/// A peer hears of a reset within so many milliseconds.
const RESET_MS_MAX: u64 = 50;

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Side {
    at: At,
    life: u64,
}

struct Connection {
    ends: [Side; 2],
    /// When the last message towards each end arrives.
    last_ms: [u64; 2],
    /// Messages towards each end that a cut holds back.
    stalled: [VecDeque<Event>; 2],
    /// Whether each end has given the connection up.
    gone: [bool; 2],
}

/// All connections and cuts.
pub struct Network {
    conns: BTreeMap<u64, Connection>,
    last: u64,
    /// (from, to) between which bytes stop, and the number of that cut.
    pub(super) cuts: BTreeMap<(usize, usize), u64>,
    last_cut: u64,
}

impl Network {
    pub(super) fn new() -> Self {
        Self { conns: BTreeMap::new(), last: 0, cuts: BTreeMap::new(), last_cut: 0 }
    }

    /// Whether bytes from one datacenter to another stop.
    pub fn is_cut(&self, from: usize, to: usize) -> bool {
        self.cuts.contains_key(&(from, to))
    }

    pub(super) fn open_conns(&self) -> Vec<u64> {
        self.conns.keys().copied().collect()
    }
}

impl<W: World> Sim<W> {
    pub(super) fn dial(&mut self, at: At, to: String, to_node: u64, attempt: u64) {
        let to_dc = (0..self.options.nodes.len()).find(|d| name(*d) == to).expect("a configured DC");
        let to_at = At { dc: to_dc, node: to_node };
        let round_trip = self.rng.between(self.options.delay_ms) * 2;
        let cut = self.network.is_cut(at.dc, to_dc) || self.network.is_cut(to_dc, at.dc);
        if cut || !self.nodes[&to_at].up {
            let delay = if cut { self.options.config.connect_ms_max } else { round_trip };
            self.later(delay, at, Event::DialFailed { dc: to, attempt, why: "unreachable".into() });
            return;
        }
        let ends = [at, to_at].map(|at| Side { at, life: self.nodes[&at].life });
        self.network.last += 1;
        let conn = self.network.last;
        let connection = Connection {
            ends,
            last_ms: [self.now_ms + round_trip; 2],
            stalled: [VecDeque::new(), VecDeque::new()],
            gone: [false; 2],
        };
        self.network.conns.insert(conn, connection);
        let accepted = Ev::Deliver { side: ends[1], conn, event: Event::Accepted { conn } };
        self.push(self.now_ms + round_trip / 2, accepted);
        let dialed = Ev::Deliver { side: ends[0], conn, event: Event::Dialed { dc: to, attempt, conn } };
        self.push(self.now_ms + round_trip, dialed);
    }

    /// Sends `event` from `at`'s end of a connection to the other end.
    pub(super) fn transmit(&mut self, at: At, conn: u64, event: Event) {
        let closing = matches!(event, Event::Closed { .. });
        let delay = self.rng.between(self.options.delay_ms);
        let reset = !closing && self.rng.below(1000) < self.options.resets;
        let twice = !closing && self.rng.below(1000) < self.options.duplicates;
        let Some(connection) = self.network.conns.get_mut(&conn) else { return };
        let from = usize::from(connection.ends[0].at.dc != at.dc);
        if connection.gone[from] {
            return;
        }
        connection.gone[from] = closing;
        let to = 1 - from;
        let due = (self.now_ms + delay).max(connection.last_ms[to]);
        connection.last_ms[to] = due;
        let side = connection.ends[to];
        if reset {
            self.reset(conn);
            return;
        }
        let once =
            matches!(&event, Event::Received { message: Message::Hello(_) | Message::Part { .. }, .. });
        if twice && !once {
            self.push(due, Ev::Deliver { side, conn, event: event.clone() });
        }
        self.push(due, Ev::Deliver { side, conn, event });
    }

    pub(super) fn deliver(&mut self, side: Side, conn: u64, event: Event) {
        let Some(connection) = self.network.conns.get_mut(&conn) else { return };
        let to = usize::from(connection.ends[0] != side);
        let from = connection.ends[1 - to].at.dc;
        if self.network.cuts.contains_key(&(from, side.at.dc)) || !connection.stalled[to].is_empty() {
            connection.stalled[to].push_back(event);
            return;
        }
        let node = &self.nodes[&side.at];
        if node.up && node.life == side.life && !connection.gone[to] {
            let closed = matches!(event, Event::Closed { .. });
            connection.gone[to] |= closed;
            self.give(side.at, event);
        }
    }

    /// Both ends hear that the connection is gone; what is under way is lost.
    pub(super) fn reset(&mut self, conn: u64) {
        let Some(connection) = self.network.conns.remove(&conn) else { return };
        for (end, side) in connection.ends.iter().enumerate() {
            let node = &self.nodes[&side.at];
            if !connection.gone[end] && node.life == side.life {
                let delay = self.rng.below(RESET_MS_MAX);
                let event = Event::Closed { conn, why: "reset".into() };
                self.later(delay, side.at, event);
            }
        }
    }

    /// A node died: its peers hear of it, or of nothing at all.
    pub(super) fn drop_conns_of(&mut self, at: At, silently: bool) {
        let of_node = |c: &Connection| c.ends.iter().any(|s| s.at == at);
        let conns: Vec<u64> =
            self.network.conns.iter().filter(|(_, c)| of_node(c)).map(|(conn, _)| *conn).collect();
        for conn in conns {
            if silently {
                self.network.conns.remove(&conn);
            } else {
                self.reset(conn);
            }
        }
    }

    /// Holds back the bytes from one datacenter to another for a while; nothing is reset.
    pub fn cut(&mut self, from: usize, to: usize, lasting_ms: u64) {
        self.note(&format!("fault: cut from {from} to {to} for {lasting_ms}"));
        self.network.last_cut += 1;
        let cut = self.network.last_cut;
        self.network.cuts.insert((from, to), cut);
        self.push(self.now_ms + lasting_ms, Ev::Heal { from, to, cut });
    }

    /// Ends all faults of the network.
    pub fn heal_network(&mut self) {
        self.options.resets = 0;
        self.options.duplicates = 0;
        let cuts: Vec<(usize, usize)> = self.network.cuts.keys().copied().collect();
        for (from, to) in cuts {
            self.heal(from, to);
        }
    }

    /// Lets the bytes between two datacenters flow again.
    pub(super) fn heal(&mut self, from: usize, to: usize) {
        self.network.cuts.remove(&(from, to));
        let mut released = Vec::new();
        for (conn, connection) in &mut self.network.conns {
            for end in 0..2 {
                let side = connection.ends[end];
                if side.at.dc == to && connection.ends[1 - end].at.dc == from {
                    released.extend(connection.stalled[end].drain(..).map(|event| (side, *conn, event)));
                }
            }
        }
        for (side, conn, event) in released {
            self.push(self.now_ms, Ev::Deliver { side, conn, event });
        }
    }
}
