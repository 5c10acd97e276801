//! Connections between nodes: in order within a connection and direction, in any order across them; cuts stop bytes
//! without resetting anything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meridian_gossip::proto::event::Event;

use super::{Ev, Sim, dc};

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    pub dc: usize,
    pub node: u64,
    pub life: u64,
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
    /// (from, to) between which bytes stop.
    pub cuts: BTreeSet<(usize, usize)>,
}

impl Network {
    pub fn new() -> Self {
        Self { conns: BTreeMap::new(), last: 0, cuts: BTreeSet::new() }
    }

    pub fn open_conns(&self) -> Vec<u64> {
        self.conns.keys().copied().collect()
    }
}

impl Sim {
    pub(super) fn dial(&mut self, dc: usize, node: u64, to: String, to_node: u64, attempt: u64) {
        let to_dc = (0..self.options.dcs).find(|d| dc::name(*d) == to).expect("a configured DC");
        let round_trip = self.rng.between(self.options.delay_ms) * 2;
        let cut = self.network.cuts.contains(&(dc, to_dc)) || self.network.cuts.contains(&(to_dc, dc));
        if cut || !self.nodes[&(to_dc, to_node)].up {
            let delay = if cut { self.options.config.connect_ms_max } else { round_trip };
            let event = Event::DialFailed { dc: to, attempt, why: "unreachable".into() };
            self.later(delay, dc, node, event);
            return;
        }
        let ends = [(dc, node), (to_dc, to_node)].map(|(dc, node)| Side {
            dc,
            node,
            life: self.nodes[&(dc, node)].life,
        });
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

    /// Sends `event` from `dc`'s end of a connection to the other end.
    pub(super) fn transmit(&mut self, dc: usize, conn: u64, event: Event) {
        let closing = matches!(event, Event::Closed { .. });
        let delay = self.rng.between(self.options.delay_ms);
        let reset = !closing && self.rng.below(1000) < self.options.resets;
        let twice = !closing && self.rng.below(1000) < self.options.duplicates;
        let Some(connection) = self.network.conns.get_mut(&conn) else { return };
        let from = usize::from(connection.ends[0].dc != dc);
        if connection.gone[from] {
            return;
        }
        connection.gone[from] = closing;
        let to = 1 - from;
        let at = (self.now_ms + delay).max(connection.last_ms[to]);
        connection.last_ms[to] = at;
        let side = connection.ends[to];
        if reset {
            self.reset(conn);
            return;
        }
        let hello = matches!(
            &event,
            Event::Received { message: meridian_gossip::proto::message::Message::Hello(_), .. }
                | Event::Received { message: meridian_gossip::proto::message::Message::Part { .. }, .. }
        );
        if twice && !hello {
            self.push(at, Ev::Deliver { side, conn, event: event.clone() });
        }
        self.push(at, Ev::Deliver { side, conn, event });
    }

    pub(super) fn deliver(&mut self, side: Side, conn: u64, event: Event) {
        let Some(connection) = self.network.conns.get_mut(&conn) else { return };
        let to = usize::from(connection.ends[0] != side);
        let from = connection.ends[1 - to].dc;
        if self.network.cuts.contains(&(from, side.dc)) || !connection.stalled[to].is_empty() {
            connection.stalled[to].push_back(event);
            return;
        }
        let node = &self.nodes[&(side.dc, side.node)];
        if node.up && node.life == side.life && !connection.gone[to] {
            let closed = matches!(event, Event::Closed { .. });
            connection.gone[to] |= closed;
            self.give(side.dc, side.node, event);
        }
    }

    /// Both ends hear that the connection is gone; what is under way is lost.
    pub(super) fn reset(&mut self, conn: u64) {
        let Some(connection) = self.network.conns.remove(&conn) else { return };
        for (end, side) in connection.ends.iter().enumerate() {
            let node = &self.nodes[&(side.dc, side.node)];
            if !connection.gone[end] && node.life == side.life {
                let delay = self.rng.below(50);
                let event = Event::Closed { conn, why: "reset".into() };
                self.later(delay, side.dc, side.node, event);
            }
        }
    }

    /// A node died: its peers hear of it, or of nothing at all.
    pub(super) fn drop_conns_of(&mut self, dc: usize, node: u64, silently: bool) {
        let of_node = |c: &Connection| c.ends.iter().any(|s| s.dc == dc && s.node == node);
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

    /// Lets the bytes between two DCs flow again.
    pub(super) fn heal(&mut self, from: usize, to: usize) {
        self.network.cuts.remove(&(from, to));
        let mut released = Vec::new();
        for (conn, connection) in &mut self.network.conns {
            for end in 0..2 {
                let side = connection.ends[end];
                if side.dc == to && connection.ends[1 - end].dc == from {
                    released.extend(connection.stalled[end].drain(..).map(|event| (side, *conn, event)));
                }
            }
        }
        for (side, conn, event) in released {
            self.push(self.now_ms, Ev::Deliver { side, conn, event });
        }
    }
}
