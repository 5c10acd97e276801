//! The messages of a connection, by kind.

use bytes::Bytes;
use meridian_crdt::{OriginName, TxnHead, Vector};

use super::event::ConnId;
use super::gate::LinkId;
use super::inbox::WantTiming;
use super::message::{Message, ORIGINS_MAX};
use super::{Machine, Refusal};

impl Machine {
    pub(super) fn on_message(&mut self, conn: ConnId, message: Message) {
        if !self.conns.contains_key(&conn) {
            return;
        }
        let message = match message {
            Message::Hello(hello) => return self.on_hello(conn, *hello),
            Message::Refuse { why } => return self.on_refused(conn, &why),
            other => other,
        };
        let Some(id) = self.link_of(conn) else {
            self.close(conn, "the peer did not begin with Hello");
            return;
        };
        self.links[id].heard_ms = self.now.ms;
        if !well_formed(&message) {
            self.stop_link(id, "the peer sent a malformed vector");
            return;
        }
        match message {
            Message::Txns(txns) => self.on_txns(id, txns),
            Message::Part { total, data } => self.on_part(id, total, &data),
            Message::Ack(vector) => self.on_ack(id, &vector),
            Message::Want { have, upto } => self.on_want(id, &have, &upto),
            Message::Origins(names) => self.on_origins(conn, &names),
            Message::Admit { life, stable } => self.links[id].admits = Some((life, stable)),
            Message::Hello(_) | Message::Refuse { .. } => {}
        }
    }

    fn on_txns(&mut self, id: LinkId, txns: Vec<Bytes>) {
        if self.links[id].live.as_ref().is_some_and(|live| live.inbox.inside_part()) {
            self.stop_link(id, "the peer sent a txn inside another one");
            return;
        }
        for bytes in txns {
            self.on_txn(id, bytes);
            if self.links[id].live.is_none() {
                return;
            }
        }
    }

    fn on_part(&mut self, id: LinkId, total: u64, data: &Bytes) {
        let Some(live) = &mut self.links[id].live else { return };
        match live.inbox.part(total, data, self.config.txn_bytes_max) {
            Ok(None) => {}
            Ok(Some(bytes)) => self.on_txn(id, bytes),
            Err(wrong) => self.stop_link(id, &format!("the peer sent {wrong}")),
        }
    }

    fn on_txn(&mut self, id: LinkId, bytes: Bytes) {
        let head = match TxnHead::decode(&bytes) {
            Ok(head) => head,
            Err(error) => {
                self.stop_link(id, &format!("the peer sent a txn that cannot be decoded: {error}"));
                return;
            }
        };
        let dot = head.dot;
        let mut named = head.deps.clone();
        named.advance(dot);
        if let Some(lost) = self.own_tail(&named) {
            self.lose_tail(lost);
            return;
        }
        let ahead_ms = meridian_crdt::unix_ms(head.hlc).saturating_sub(self.now.unix_ms);
        let link = &mut self.links[id];
        let Some(live) = &mut link.live else { return };
        link.stats.clock_ahead_ms = if ahead_ms > self.config.clock_drift_ms_max { ahead_ms } else { 0 };
        link.stats.received_txns += 1;
        live.inbox.arrived(&head);
        if self.gate.knows(dot) {
            link.stats.duplicate_txns += 1;
        } else {
            self.gate.hold(id, head, bytes);
        }
    }

    fn on_ack(&mut self, id: LinkId, vector: &Vector) {
        if let Some(lost) = self.own_tail(vector) {
            self.lose_tail(lost);
            return;
        }
        let link = &mut self.links[id];
        let Some(live) = &mut link.live else { return };
        link.peer_vector.join(vector);
        link.behind.update(&link.peer_vector, &self.view.vector, self.now.ms);
        live.sender.ack(vector, self.now.ms);
    }

    fn on_want(&mut self, id: LinkId, have: &Vector, upto: &Vector) {
        let Some(reign) = self.reign else { return };
        if let Some(live) = &mut self.links[id].live {
            live.sender.want(have, upto, reign.own, self.config.want_reserve_bytes);
        }
    }

    fn on_origins(&mut self, conn: ConnId, names: &[OriginName]) {
        let result = if names.len() > ORIGINS_MAX {
            Err(Refusal::Malformed("too many origins"))
        } else {
            self.vet_origins(names)
        };
        match result {
            Ok(()) => self.meet_strangers(names),
            Err(refusal) => {
                let dc = self.link_of(conn).map(|id| self.links[id].dc.clone()).unwrap_or_default();
                self.refuse(conn, &dc, &refusal);
            }
        }
    }

    /// Notes origins that are not registered yet.
    pub(super) fn meet_strangers(&mut self, names: &[OriginName]) {
        for name in names {
            let origin = name.origin();
            let room = self.view.origins.len() + self.strangers.len() < ORIGINS_MAX;
            if room && !self.gate.registered().contains(&origin) {
                self.strangers.insert(origin, name.clone());
            }
        }
    }

    /// Tells the peer of origins that were registered since it was last told.
    pub(super) fn tell_origins(&mut self, id: LinkId) {
        let Some(live) = &mut self.links[id].live else { return };
        if live.origins_told < self.view.origins.len() {
            live.origins_told = self.view.origins.len();
            let conn = live.conn;
            self.send(conn, Message::Origins(self.view.origins.clone()));
        }
    }

    /// Tells the peer, once, that its present life is logged here.
    pub(super) fn tell_admission(&mut self, id: LinkId) {
        let link = &mut self.links[id];
        let Some(live) = &mut link.live else { return };
        let logged = self.view.reported.get(&link.dc).is_some_and(|reported| reported.life == live.origin);
        if logged && !live.admitted {
            live.admitted = true;
            let (conn, life) = (live.conn, live.origin);
            self.send(conn, Message::Admit { life, stable: self.view.stable.clone() });
        }
    }

    /// Keeps what a link has at the gate within its bound.
    pub(super) fn trim_gate(&mut self, id: LinkId) {
        let dropped = self.gate.trim(id, self.config.gate_bytes_max);
        if dropped > 0 {
            let link = &mut self.links[id];
            link.stats.dropped_txns += dropped;
            if let Some(live) = &mut link.live {
                live.inbox.dropped();
            }
        }
    }

    /// Asks the peer of a link for what it brought with a gap and for deps that nobody else is bringing.
    pub(super) fn ask_for_missing(&mut self, id: LinkId) {
        let peers: Vec<_> =
            self.links.iter().filter_map(|l| l.live.as_ref().map(|live| live.origin)).collect();
        let full = self.gate.bytes(id) * 2 > self.config.gate_bytes_max;
        let timing = WantTiming {
            grace_ms: self.config.want_grace_ms,
            interval_ms: self.config.want_interval_ms,
            retry_ms: self.config.want_retry_ms,
        };
        let link = &mut self.links[id];
        let Some(live) = &mut link.live else { return };
        let this = live.origin;
        let direct = |origin| origin != this && peers.contains(&origin);
        if let Some((have, upto)) = live.inbox.missing(&self.gate, full, direct, timing, self.now.ms) {
            link.stats.wants_sent += 1;
            let conn = live.conn;
            self.send(conn, Message::Want { have, upto });
        }
    }
}

/// Whether a vector is such as our own code builds: MessagePack alone does not see to that.
pub(super) fn sound(vector: &Vector) -> bool {
    vector.len() <= ORIGINS_MAX && vector.iter().all(|dot| dot.seq > 0)
}

fn well_formed(message: &Message) -> bool {
    match message {
        Message::Ack(vector) => sound(vector),
        Message::Want { have, upto } => sound(have) && sound(upto),
        Message::Admit { stable, .. } => sound(stable),
        // A `Hello` is vetted as a whole; the others carry no vectors, and those in txns are decoded by `crdt`.
        Message::Hello(_) | Message::Refuse { .. } | Message::Origins(_) => true,
        Message::Txns(_) | Message::Part { .. } => true,
    }
}
