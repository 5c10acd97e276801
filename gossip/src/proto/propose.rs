//! What goes through the DC's Raft group, and what becomes of its answers.
//!
//! One proposal of txns is under way at a time, so that they are applied in the order in which they left the gate.

use std::collections::BTreeMap;

use meridian_crdt::{Dot, Origin, Vector};

use super::Machine;
use super::event::Output;
use super::gate::{LinkId, Ready};
use super::seam::{Remote, RemoteOutcome};

/// A proposal that has not been answered.
#[derive(Clone, Debug)]
enum UnderWay {
    Txns(Vec<(Dot, LinkId)>),
    Register(Origin),
    Report { link: LinkId, member: Origin, vector: Vector },
    Admit(LinkId),
}

/// The proposals of one reign.
#[derive(Clone, Debug, Default)]
pub(super) struct Proposals {
    under_way: BTreeMap<u64, UnderWay>,
    txns_under_way: bool,
    paused_until_ms: u64,
}

impl Proposals {
    fn registering(&self, origin: Origin) -> bool {
        self.under_way.values().any(|p| matches!(p, UnderWay::Register(o) if *o == origin))
    }

    fn admitting(&self, link: LinkId) -> bool {
        self.under_way.values().any(|p| matches!(p, UnderWay::Admit(id) if *id == link))
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        self.under_way.len()
    }
}

impl Machine {
    fn propose(&mut self, under_way: UnderWay, remote: Remote) {
        let ticket = self.ticket();
        self.proposals.under_way.insert(ticket, under_way);
        self.put(Output::Propose { ticket, remote });
    }

    /// Proposes what may pass the gate now.
    pub(super) fn propose_ready(&mut self) {
        if self.proposals.txns_under_way
            || self.now.ms < self.proposals.paused_until_ms
            || self.lost_tail.is_some()
        {
            return;
        }
        let ready = self.gate.take_ready(self.config.propose_bytes_max, self.config.propose_txns_max);
        if ready.is_empty() {
            return;
        }
        self.proposals.txns_under_way = true;
        let (dots, txns) = ready.into_iter().map(|Ready { dot, link, bytes }| ((dot, link), bytes)).unzip();
        self.propose(UnderWay::Txns(dots), Remote::Txns(txns));
    }

    /// Registers strangers and reports what peers have acknowledged; called by a timer, so that failures do not spin.
    pub(super) fn propose_bookkeeping(&mut self) {
        if self.now.ms < self.proposals.paused_until_ms {
            return;
        }
        let strangers: Vec<_> = self.strangers.iter().map(|(o, n)| (*o, n.clone())).collect();
        for (origin, name) in strangers {
            if !self.proposals.registering(origin) {
                self.propose(UnderWay::Register(origin), Remote::Register(name));
            }
        }
        for id in 0..self.links.len() {
            self.report(id);
            self.admit(id);
        }
    }

    /// Logs that a peer has logged our present life, if anything hangs on it.
    fn admit(&mut self, id: LinkId) {
        let link = &self.links[id];
        let (Some((life, stable)), Some(live)) = (&link.admits, &link.live) else { return };
        let wanted = self.view.unadmitted.contains(&link.dc) && self.reign.is_some_and(|r| r.own == *life);
        if wanted && !self.proposals.admitting(id) {
            let remote = Remote::Admit { life: *life, member: live.origin, stable: stable.clone() };
            self.propose(UnderWay::Admit(id), remote);
        }
    }

    fn report(&mut self, id: LinkId) {
        let link = &mut self.links[id];
        let Some(live) = &link.live else { return };
        let member = live.origin;
        if link.report_under_way
            || self.now.ms < link.report_next_ms
            || !self.gate.registered().contains(&member)
        {
            return;
        }
        let known = live.sender.acked().iter().filter(|dot| self.gate.registered().contains(&dot.origin));
        let vector: Vector = known.collect();
        // A life that has nothing is worth a report if it takes the place of another one.
        let logged = self.view.reported.get(&link.dc).map(|reported| reported.life);
        let idle = vector.is_empty() && logged.is_none_or(|life| life == member);
        if idle || link.reported.as_ref().is_some_and(|(m, v)| *m == member && *v == vector) {
            return;
        }
        link.report_under_way = true;
        link.report_next_ms = self.now.ms + self.config.report_interval_ms;
        let under_way = UnderWay::Report { link: id, member, vector: vector.clone() };
        self.propose(under_way, Remote::Report { member, vector });
    }

    pub(super) fn on_proposed(&mut self, ticket: u64, result: Result<Vec<RemoteOutcome>, String>) {
        // A ticket of an earlier reign is unknown: its txns were forgotten, the new vector says what became of them.
        let Some(under_way) = self.proposals.under_way.remove(&ticket) else { return };
        // What comes early does so again at once if nothing has changed.
        if result.as_deref().map_or(true, |outcomes| outcomes.contains(&RemoteOutcome::Early)) {
            self.proposals.paused_until_ms = self.now.ms + self.config.propose_pause_ms;
        }
        match under_way {
            UnderWay::Txns(dots) => self.txns_answered(&dots, result.as_deref().unwrap_or(&[])),
            UnderWay::Register(origin) => {
                if let Ok([RemoteOutcome::Refused { why }]) = result.as_deref() {
                    let name = self.strangers.remove(&origin);
                    let dc = name.map(|n| n.dc).unwrap_or_default();
                    self.alarm(&dc, format!("an origin cannot be registered: {why}"));
                }
            }
            UnderWay::Admit(link) => {
                if let Ok([RemoteOutcome::Refused { why }]) = result.as_deref() {
                    let dc = self.links[link].dc.clone();
                    self.alarm(&dc, format!("an admission is refused: {why}"));
                }
            }
            UnderWay::Report { link, member, vector } => {
                self.links[link].report_under_way = false;
                if result.is_ok() {
                    self.reported(link, member, vector);
                }
            }
        }
    }

    /// A report of `member` is logged. If it tells of more than the member itself does by now, that has lost something since,
    /// and its `Hello` came before the report was applied here: greeted once more, it hears of it.
    fn reported(&mut self, id: LinkId, member: Origin, vector: Vector) {
        let link = &mut self.links[id];
        let forgotten = !link.peer_vector.covers_all(&vector);
        link.reported = Some((member, vector));
        if let Some(conn) =
            link.live.as_ref().filter(|live| forgotten && live.origin == member).map(|l| l.conn)
        {
            self.close(conn, "the peer has reported more than it has now");
        }
    }

    /// Outcomes that are missing count as unknown: those txns are forgotten, and asked for again if they are not applied. So are
    /// those that came early.
    fn txns_answered(&mut self, dots: &[(Dot, LinkId)], outcomes: &[RemoteOutcome]) {
        self.proposals.txns_under_way = false;
        let mut done = Vec::new();
        let mut refused = None;
        for ((dot, link), outcome) in dots.iter().zip(outcomes) {
            match outcome {
                RemoteOutcome::Applied | RemoteOutcome::Duplicate => done.push(*dot),
                RemoteOutcome::Early => {}
                // The first one says what is wrong.
                RemoteOutcome::Refused { why } => {
                    refused.get_or_insert((*dot, *link, why.clone()));
                }
            }
        }
        self.gate.answer(done.into_iter());
        if let Some((dot, link, why)) = refused {
            self.stop_link(link, &format!("txn {dot} was refused: {why}"));
        }
    }
}
