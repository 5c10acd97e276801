//! `Hello`: who may be linked, where a link continues, and which of two connections survives.
//!
//! Both sides decide between two connections by the same facts, so that they keep the same one.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use meridian_crdt::{Dot, Origin, OriginName, Vector};
use thiserror::Error;

use super::event::{ConnId, Output};
use super::gate::LinkId;
use super::inbox::Inbox;
use super::link::{Acks, Live};
use super::message::{Hello, Message, ORIGINS_MAX};
use super::receive::sound;
use super::relay::Relay;
use super::sender::Sender;
use super::{Conn, Machine};

/// Refusals of unknown peers that are remembered for the status.
const REFUSALS_MAX: usize = 16;

/// The longest name of an unknown peer that is repeated in status and log.
const NAME_CHARS_MAX: usize = 64;

/// Why a peer is not linked. It stands in the status and the log until the peer is mended.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer belongs to another cluster.
    #[error("the peer belongs to another cluster ({theirs:016x}, ours is {ours:016x})")]
    ForeignCluster {
        /// Its cluster.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
    /// The configuration does not name the peer's DC.
    #[error("the configuration names no datacenter {0:?}")]
    UnknownDc(String),
    /// The address that the configuration gives for one DC leads to another.
    #[error("the address of datacenter {dialed:?} leads to {answered:?}")]
    WrongDc {
        /// Whom we dialed.
        dialed: String,
        /// Who answered.
        answered: String,
    },
    /// The configured address leads back to this DC.
    #[error("the peer is this datacenter itself")]
    Ourselves,
    /// Another life claims this DC's name.
    #[error("{0} claims the name of this datacenter")]
    OurName(OriginName),
    /// Two origins share a short id; minting another epoch resolves it.
    #[error("the origins {0} and {1} share one short id")]
    OriginCollision(OriginName, OriginName),
    /// The `Hello` contradicts itself.
    #[error("the peer's Hello is malformed: {0}")]
    Malformed(&'static str),
}

impl Machine {
    pub(super) fn on_accepted(&mut self, conn: ConnId) {
        let greeting = self.conns.values().filter(|c| c.link.is_none()).count();
        if greeting >= self.config.greeting_max {
            self.put(Output::Close { conn, why: "too many connections that have said nothing".to_owned() });
            return;
        }
        self.conns.insert(conn, Conn { opened_ms: self.now.ms, dialed: None, link: None });
    }

    pub(super) fn on_dialed(&mut self, dc: &str, attempt: u64, conn: ConnId) {
        let dialed = self.link_ids.get(dc).copied();
        let dialed = dialed.filter(|id| self.reign.is_some() && self.links[*id].dial.is_under_way(attempt));
        let Some(id) = dialed else {
            self.put(Output::Close { conn, why: "the dial is no longer wanted".to_owned() });
            return;
        };
        self.conns.insert(conn, Conn { opened_ms: self.now.ms, dialed: Some((id, attempt)), link: None });
        let hello = self.hello(id, attempt);
        self.send(conn, hello);
    }

    pub(super) fn on_dial_failed(&mut self, dc: &str, attempt: u64, why: String) {
        if let Some(id) = self.link_ids.get(dc).copied() {
            self.links[id].dial.failed(attempt, self.now.ms, &mut self.jitter);
            self.links[id].stats.last_error = Some(why);
        }
    }

    fn hello(&self, to: LinkId, dial: u64) -> Message {
        Message::Hello(Box::new(Hello {
            cluster: self.identity.cluster,
            dc: self.identity.dc.clone(),
            own: self.view.own.clone(),
            node: self.identity.node,
            leading: self.reign.map(|r| r.term),
            leader_node: self.view.leader_node,
            vector: self.view.vector.clone(),
            floor: self.view.floor.clone(),
            origins: self.view.origins.clone(),
            members: self.links.iter().map(|l| (l.dc.clone(), self.nodes_of(&l.dc))).collect(),
            credit_bytes: self.config.credit_bytes,
            dial,
            told: self.told(),
            reported: self.view.reported.get(&self.links[to].dc).cloned(),
        }))
    }

    /// What members have reported to have applied above our vector, as far as it is logged here.
    fn told(&self) -> Vector {
        let mut told = Vector::new();
        for reported in self.view.reported.values() {
            told.join(&reported.acked.above(&self.view.vector));
        }
        told
    }

    fn nodes_of(&self, dc: &str) -> u64 {
        self.identity.members.get(dc).map_or(0, |nodes| nodes.len() as u64)
    }

    pub(super) fn on_hello(&mut self, conn: ConnId, hello: Hello) {
        let Some(known) = self.conns.get(&conn) else { return };
        if known.link.is_some() {
            self.close(conn, "the peer said Hello twice");
            return;
        }
        let dialed = known.dialed;
        if let Err(refusal) = self.vet(&hello, dialed.map(|(id, _)| id)) {
            self.refuse(conn, &hello.dc, &refusal);
            return;
        }
        let Some(id) = self.link_ids.get(&hello.dc).copied() else { return };
        if self.reign.is_none() {
            let answer = self.hello(id, 0);
            self.send(conn, answer);
            self.close(conn, "this node does not lead its datacenter");
            return;
        }
        let (Some(term), Some(own)) = (hello.leading, hello.own.as_ref().map(OriginName::origin)) else {
            if let Some((_, attempt)) = dialed {
                let leader = hello.leader_node.filter(|leader| *leader != hello.node);
                self.links[id].dial.redirected(attempt, leader, self.now.ms, &mut self.jitter);
            }
            self.close(conn, "the peer's node does not lead its datacenter");
            return;
        };
        // SUBTLE: what the peer was told of and does not have counts as well. Our newest txns may have reached nobody when
        // they were lost, while the peer has logged our word that they are applied: their numbers must not be given away
        // again, and the peer would wait for them for ever.
        let own_tail = self.own_tail(&hello.vector).max(self.own_tail(&hello.told));
        if let Some(lost) = own_tail.or_else(|| self.forgotten(&hello)) {
            self.lose_tail(lost);
        }
        if self.lost_tail.is_some() {
            self.close(conn, "this datacenter lost its newest txns");
            return;
        }
        let link = &self.links[id];
        if self.now.ms < link.stopped_until_ms && link.stopped_life == Some(own) {
            self.close(conn, "this link is stopped for a while, for what the peer sent");
            return;
        }
        if !self.survives(id, term, dialed.is_some(), dialed.map_or(hello.dial, |(_, attempt)| attempt)) {
            self.close(conn, "another connection of this link survives");
            return;
        }
        if dialed.is_none() {
            let answer = self.hello(id, 0);
            self.send(conn, answer);
        }
        self.establish(conn, id, term, own, &hello);
    }

    /// Whether a further connection replaces the one that `id` has, if any. Of two that were opened at the same time,
    /// the one dialed by the DC with the higher term survives, then the one dialed by the smaller name.
    fn survives(&self, id: LinkId, term: u64, ours: bool, dial: u64) -> bool {
        let Some(old) = &self.links[id].live else { return true };
        if term != old.term {
            return term > old.term;
        }
        if ours == old.ours {
            return dial > old.dial;
        }
        // Nobody dials while a link stands. If ours is older than any dial may take, the peer has lost it.
        if !ours && self.now.ms > old.since_ms + self.config.connect_ms_max {
            return true;
        }
        let own_term = self.reign.map_or(0, |r| r.term);
        let we_dial = (own_term, Reverse(&self.identity.dc)) > (term, Reverse(&self.links[id].dc));
        ours == we_dial
    }

    fn establish(&mut self, conn: ConnId, id: LinkId, term: u64, origin: Origin, hello: &Hello) {
        if let Some(old) = self.links[id].live.as_ref().map(|live| live.conn) {
            self.close(old, "a newer connection of this link survives");
        }
        let Some(known) = self.conns.get_mut(&conn) else { return };
        known.link = Some(id);
        let dialed = known.dialed.take();
        let members_differ = self.members_differ(hello);
        let credit_bytes = hello.credit_bytes.min(self.config.credit_bytes);
        let relay = Relay::new(self.config.relay_ms_min, self.config.relay_ms_max);
        let link = &mut self.links[id];
        link.dial.succeeded(dialed.map(|(_, attempt)| attempt), hello.node);
        link.heard_ms = self.now.ms;
        link.stopped_until_ms = 0;
        link.stopped_life = None;
        link.peer_vector = hello.vector.clone();
        link.behind.update(&link.peer_vector, &self.view.vector, self.now.ms);
        link.stats.refusal = None;
        link.stats.last_error = None;
        link.stats.members_differ = members_differ;
        link.stats.connects += 1;
        link.live = Some(Live {
            conn,
            since_ms: self.now.ms,
            ours: dialed.is_some(),
            dial: dialed.map_or(hello.dial, |(_, attempt)| attempt),
            term,
            node: hello.node,
            origin,
            sender: Sender::new(hello.vector.clone(), credit_bytes, relay),
            inbox: Inbox::default(),
            ack: Acks { sent: self.view.vector.clone(), sent_ms: self.now.ms, changed_ms: self.now.ms },
            origins_told: self.view.origins.len(),
            admitted: false,
        });
        self.refusals.remove(&hello.dc);
        self.meet_strangers(&hello.origins);
    }

    fn members_differ(&self, hello: &Hello) -> bool {
        let mut theirs: Vec<&str> = hello.members.keys().map(String::as_str).collect();
        theirs.push(&hello.dc);
        theirs.sort_unstable();
        let mut ours: Vec<&str> = self.links.iter().map(|l| l.dc.as_str()).collect();
        ours.push(&self.identity.dc);
        ours.sort_unstable();
        theirs != ours
    }

    fn vet(&self, hello: &Hello, dialed: Option<LinkId>) -> Result<(), Refusal> {
        if hello.cluster != self.identity.cluster {
            return Err(Refusal::ForeignCluster { theirs: hello.cluster, ours: self.identity.cluster });
        }
        if hello.dc == self.identity.dc {
            return Err(match &hello.own {
                Some(theirs) if self.view.own.as_ref().is_some_and(|own| own != theirs) => {
                    Refusal::OurName(theirs.clone())
                }
                _ => Refusal::Ourselves,
            });
        }
        if !self.link_ids.contains_key(&hello.dc) {
            return Err(Refusal::UnknownDc(shorten(&hello.dc)));
        }
        if let Some(dialed) = dialed.map(|id| &self.links[id].dc)
            && *dialed != hello.dc
        {
            return Err(Refusal::WrongDc { dialed: dialed.clone(), answered: hello.dc.clone() });
        }
        if hello.own.as_ref().is_some_and(|own| own.dc != hello.dc) {
            return Err(Refusal::Malformed("its own origin bears another name"));
        }
        if hello.leading.is_some() && hello.own.as_ref().is_none_or(|own| !hello.origins.contains(own)) {
            return Err(Refusal::Malformed("a leader without a registered own origin"));
        }
        let reported = hello.reported.as_ref().is_none_or(|reported| sound(&reported.acked));
        if !reported || !sound(&hello.vector) || !sound(&hello.floor) || !sound(&hello.told) {
            return Err(Refusal::Malformed("a malformed vector"));
        }
        if hello.origins.len() > ORIGINS_MAX {
            return Err(Refusal::Malformed("too many origins"));
        }
        self.vet_origins(&hello.origins)
    }

    /// Refuses names that share a short id with another name.
    pub(super) fn vet_origins(&self, names: &[OriginName]) -> Result<(), Refusal> {
        let known = self.view.origins.iter().chain(self.strangers.values()).chain(&self.view.own);
        let mut by_id: BTreeMap<Origin, &OriginName> = BTreeMap::new();
        for name in known.chain(names) {
            let first = by_id.entry(name.origin()).or_insert(name);
            if *first != name {
                return Err(Refusal::OriginCollision((*first).clone(), name.clone()));
            }
        }
        Ok(())
    }

    /// Says no, remembers it, and stays away for long.
    pub(super) fn refuse(&mut self, conn: ConnId, dc: &str, refusal: &Refusal) {
        let why = refusal.to_string();
        self.send(conn, Message::Refuse { why: why.clone() });
        let dialed = self.conns.get(&conn).and_then(|c| c.dialed.map(|(id, _)| id).or(c.link));
        let name = shorten(dc);
        if self.refusals.len() >= REFUSALS_MAX && !self.refusals.contains_key(&name) {
            self.refusals.pop_first();
        }
        self.refusals.insert(name.clone(), why.clone());
        if let Some(id) = dialed {
            self.close(conn, &why);
            self.stop_link(id, &why);
            return;
        }
        if let Some(id) = self.link_ids.get(dc) {
            self.links[*id].stats.refusal = Some(why.clone());
        }
        self.close(conn, &why);
        self.alarm(&name, why);
    }

    /// The peer refused us.
    pub(super) fn on_refused(&mut self, conn: ConnId, why: &str) {
        let why = format!("refused by the peer: {why}");
        let id = self.conns.get(&conn).and_then(|c| c.link.or(c.dialed.map(|(id, _)| id)));
        self.close(conn, &why);
        if let Some(id) = id {
            self.stop_link(id, &why);
        }
    }

    /// The newest own txn of `theirs` if we have not applied it.
    pub(super) fn own_tail(&self, theirs: &Vector) -> Option<Dot> {
        let own = self.reign?.own;
        let seen = Dot::new(own, theirs.get(own));
        (!self.view.vector.covers(seen)).then_some(seen)
    }

    /// What the peer shows us to have forgotten: a txn that our present life has reported to have applied, or the first of a
    /// life of ours that we do not know.
    fn forgotten(&mut self, hello: &Hello) -> Option<Dot> {
        let of_ours = hello.origins.iter().filter(|name| name.dc == self.identity.dc);
        let unknown: Vec<OriginName> =
            of_ours.filter(|name| !self.view.origins.contains(name)).cloned().collect();
        // Once they are registered, they are known to be forgotten, also by the leaders after this one.
        self.meet_strangers(&unknown);
        let own = self.reign.map(|reign| reign.own);
        let reported = hello.reported.as_ref().filter(|reported| own == Some(reported.life));
        let lacking = reported.and_then(|reported| reported.acked.above(&self.view.vector).iter().next());
        let of_unknown = unknown.first().map(|name| Dot::new(name.origin(), 1));
        lacking.or(of_unknown).or(self.view.forgotten)
    }

    /// This DC has lost what it had: everything stops until it has that after all, which is so when this node was deposed
    /// and did not know it, or until the node has begun another life.
    pub(super) fn lose_tail(&mut self, lost: Dot) {
        self.lost_tail = Some(lost);
        self.put(Output::LostTail { lost });
        let open: Vec<ConnId> = self.links.iter().filter_map(|l| Some(l.live.as_ref()?.conn)).collect();
        for conn in open {
            self.close(conn, "this datacenter lost its newest txns");
        }
    }
}

fn shorten(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}
