//! The pure protocol machine of one node.
//!
//! Contract: give it each [`Event`] with the time through [`Machine::handle`], then drain [`Machine::poll_output`] and
//! do what it says, in order; give it a [`Event::Tick`] not later than [`Machine::deadline_ms`]. Nothing else drives it.
//! It reads no clock, draws no random numbers and does no IO, so equal events give equal outputs.
//!
//! Invariants it keeps: nothing is sent that the view does not show as applied (I1); a txn is proposed only as the next
//! of its origin with its deps ahead of it (I2, I3); only what the view shows is acknowledged (I4). A node that does not
//! lead keeps no links. `validate.rs` asserts them; the simulation checks them across DCs.
//!
//! ```text
//! hello.rs      who may be linked, which of two connections survives
//! receive.rs    the messages of a live link          inbox.rs   what a link brought and what is missing from it
//! gate.rs       where txns wait for their deps       propose.rs what goes through the Raft group, and its answers
//! sender.rs     what a link sends                    relay.rs   when another origin's txns are sent
//! ack.rs        acknowledgements and heartbeats      reconnect.rs  when and whom to dial
//! ```

mod ack;
pub mod event;
mod gate;
mod hello;
mod inbox;
mod link;
pub mod message;
mod propose;
mod receive;
mod reconnect;
mod relay;
pub mod seam;
mod sender;
pub mod status;
mod status_of;
mod timers;
mod validate;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use meridian_crdt::{Dot, Origin, OriginName};

pub use self::hello::Refusal;

use self::event::{ConnId, Event, Now, Output};
use self::gate::{Gate, LinkId};
use self::link::Link;
use self::message::Message;
use self::propose::Proposals;
use self::reconnect::{Dial, Jitter};
use self::seam::View;
use self::sender::Ours;
use crate::config::{GossipConfig, Identity};

/// The term and the own origin under which a node leads its DC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reign {
    term: u64,
    own: Origin,
}

/// An open connection.
#[derive(Clone, Debug)]
struct Conn {
    opened_ms: u64,
    /// Whom we dialed and with which attempt; `None` on an inbound connection.
    dialed: Option<(LinkId, u64)>,
    /// Whose live connection this is, once `Hello`s were exchanged.
    link: Option<LinkId>,
}

/// The protocol machine of one node.
#[derive(Debug)]
pub struct Machine {
    identity: Identity,
    config: GossipConfig,
    jitter: Jitter,
    now: Now,
    view: Arc<View>,
    reign: Option<Reign>,
    links: Vec<Link>,
    link_ids: BTreeMap<String, LinkId>,
    conns: BTreeMap<ConnId, Conn>,
    gate: Gate,
    proposals: Proposals,
    /// Origins that peers know and we have not registered yet.
    strangers: BTreeMap<Origin, OriginName>,
    lost_tail: Option<Dot>,
    refusals: BTreeMap<String, String>,
    ticket_last: u64,
    poll_next_ms: u64,
    outputs: VecDeque<Output>,
}

impl Machine {
    /// A machine that has seen nothing and does nothing until its node leads. `jitter_seed` spreads the delays of
    /// different processes.
    pub fn new(identity: Identity, config: GossipConfig, jitter_seed: u64) -> Self {
        let mut links = Vec::new();
        let mut link_ids = BTreeMap::new();
        for (dc, nodes) in identity.members.iter().filter(|(dc, _)| **dc != identity.dc) {
            let overlap_ms = config.connect_ms_max / 2;
            let dial = Dial::new(nodes.clone(), config.backoff_ms_min, config.backoff_ms_max, overlap_ms);
            link_ids.insert(dc.clone(), links.len());
            links.push(Link::new(dc.clone(), dial));
        }
        Self {
            identity,
            config,
            jitter: Jitter::new(jitter_seed),
            now: Now::default(),
            view: Arc::new(View::default()),
            reign: None,
            links,
            link_ids,
            conns: BTreeMap::new(),
            gate: Gate::default(),
            proposals: Proposals::default(),
            strangers: BTreeMap::new(),
            lost_tail: None,
            refusals: BTreeMap::new(),
            ticket_last: 0,
            poll_next_ms: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Takes one event. `now.ms` must not be below that of an earlier event; it is not let back if it is.
    pub fn handle(&mut self, event: Event, now: Now) {
        self.now = Now { ms: now.ms.max(self.now.ms), unix_ms: now.unix_ms };
        match event {
            Event::View(view) => self.on_view(view),
            Event::Accepted { conn } => self.on_accepted(conn),
            Event::Dialed { dc, attempt, conn } => self.on_dialed(&dc, attempt, conn),
            Event::DialFailed { dc, attempt, why } => self.on_dial_failed(&dc, attempt, why),
            Event::Received { conn, message } => self.on_message(conn, message),
            Event::Closed { conn, why } => self.on_closed(conn, why),
            Event::OplogRead { conn, ticket, result } => self.on_oplog_read(conn, ticket, result),
            Event::Proposed { ticket, result } => self.on_proposed(ticket, result),
            Event::Tick => {}
        }
        self.run_timers();
        self.advance();
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether this node leads its DC, as far as its last view said.
    pub fn is_leading(&self) -> bool {
        self.reign.is_some()
    }

    fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn send(&mut self, conn: ConnId, message: Message) {
        self.put(Output::Send { conn, message });
    }

    fn alarm(&mut self, dc: &str, what: String) {
        self.put(Output::Alarm { dc: dc.to_owned(), what });
    }

    fn ticket(&mut self) -> u64 {
        self.ticket_last += 1;
        self.ticket_last
    }

    /// The link whose live connection is `conn`.
    fn link_of(&self, conn: ConnId) -> Option<LinkId> {
        self.conns.get(&conn)?.link
    }

    fn on_view(&mut self, view: Arc<View>) {
        let reign = view.reign().map(|(term, own)| Reign { term, own: own.origin() });
        let known = self.view.origins.len();
        self.view = view;
        if reign != self.reign {
            self.change_reign(reign);
        } else if reign.is_some() {
            self.gate.set_applied(&self.view.vector);
            if self.lost_tail.is_some_and(|lost| self.view.vector.covers(lost)) {
                self.lost_tail = None;
            }
            if self.view.origins.len() != known {
                self.learn_registered();
            }
            if let Some(lost) = self.view.forgotten.filter(|_| self.lost_tail.is_none()) {
                self.lose_tail(lost);
            }
            for link in &mut self.links {
                link.behind.update(&link.peer_vector, &self.view.vector, self.now.ms);
            }
        }
    }

    /// Leadership came, went, or continues under another term or origin: nothing of before is kept, and the links
    /// continue from the vectors.
    fn change_reign(&mut self, reign: Option<Reign>) {
        let open: Vec<ConnId> = self.conns.keys().copied().collect();
        for conn in open {
            self.conns.remove(&conn);
            self.put(Output::Close { conn, why: "leadership of this datacenter changed".to_owned() });
        }
        if reign.map(|r| r.own) != self.reign.map(|r| r.own) || reign.is_none() {
            self.lost_tail = None;
        }
        // It may have come back between two reigns.
        self.lost_tail = self.lost_tail.filter(|lost| !self.view.vector.covers(*lost));
        self.reign = reign;
        self.gate = Gate::new(self.view.vector.clone());
        self.proposals = Proposals::default();
        self.strangers.clear();
        for link in &mut self.links {
            // Of two DCs that start at once, the one with the greater name lets the other dial first.
            let polite_ms = if self.identity.dc > link.dc { self.config.backoff_ms_min * 2 } else { 0 };
            link.reset(self.now.ms, self.now.ms + polite_ms + self.jitter.below(self.config.backoff_ms_min));
        }
        self.learn_registered();
        self.poll_next_ms = self.now.ms;
    }

    fn learn_registered(&mut self) {
        let registered: BTreeSet<Origin> = self.view.origins.iter().map(OriginName::origin).collect();
        self.strangers.retain(|origin, _| !registered.contains(origin));
        self.gate.set_registered(registered);
    }

    /// Does what has become possible: proposes, asks, acknowledges, sends.
    fn advance(&mut self) {
        if self.reign.is_none() {
            return;
        }
        self.propose_ready();
        for id in 0..self.links.len() {
            if self.links[id].live.is_none() {
                continue;
            }
            self.trim_gate(id);
            self.tell_origins(id);
            self.tell_admission(id);
            self.ask_for_missing(id);
            self.acknowledge(id);
            self.read_next(id);
        }
    }

    /// Asks for the next piece of the oplog that `id`'s peer lacks.
    fn read_next(&mut self, id: LinkId) {
        let Some(reign) = self.reign.filter(|_| self.lost_tail.is_none()) else { return };
        let ticket = self.ticket();
        let view = &self.view;
        let ours = Ours { own: reign.own, applied: &view.vector, floor: &view.floor };
        let Some(live) = &mut self.links[id].live else { return };
        let Some(read) = live.sender.next_read(ours, ticket, self.config.read_bytes_max, self.now.ms) else {
            return;
        };
        let conn = live.conn;
        let sender::Read { from, lacking, want, bytes_max } = read;
        self.put(Output::ReadOplog { conn, ticket, from, lacking, want, bytes_max });
    }

    fn on_oplog_read(&mut self, conn: ConnId, ticket: u64, result: Result<seam::OplogChunk, String>) {
        let Some(id) = self.link_of(conn) else { return };
        let pause_until_ms = self.now.ms + self.config.propose_pause_ms;
        let oplog_end = self.view.oplog_end;
        let link = &mut self.links[id];
        let Some(live) = &mut link.live else { return };
        match result {
            Ok(chunk) => {
                let sent = live.sender.read(ticket, chunk, oplog_end, pause_until_ms);
                link.stats.sent_txns += sent.txns;
                link.stats.sent_bytes += sent.bytes;
                for message in sent.messages {
                    self.send(conn, message);
                }
            }
            Err(why) => {
                live.sender.read_failed(ticket, pause_until_ms);
                link.stats.last_error = Some(why);
            }
        }
    }

    /// Ends a connection of ours, whatever its state, and what hangs on it.
    fn close(&mut self, conn: ConnId, why: &str) {
        if self.conns.contains_key(&conn) {
            self.put(Output::Close { conn, why: why.to_owned() });
            self.drop_conn(conn, why);
        }
    }

    fn on_closed(&mut self, conn: ConnId, why: String) {
        self.drop_conn(conn, &why);
    }

    fn drop_conn(&mut self, conn: ConnId, why: &str) {
        let Some(dropped) = self.conns.remove(&conn) else { return };
        if let Some((id, attempt)) = dropped.dialed {
            self.links[id].dial.failed(attempt, self.now.ms, &mut self.jitter);
        }
        let Some(id) = dropped.link.or(dropped.dialed.map(|(id, _)| id)) else { return };
        let link = &mut self.links[id];
        link.stats.last_error = Some(why.to_owned());
        if link.live.as_ref().is_some_and(|live| live.conn == conn) {
            link.live = None;
            link.dial.lost(self.now.ms, &mut self.jitter);
            self.gate.forget_link(id);
        }
    }

    /// Stops a link for long and says so: something is wrong that trying again at once does not mend.
    fn stop_link(&mut self, id: LinkId, why: &str) {
        let link = &mut self.links[id];
        link.stats.refusal = Some(why.to_owned());
        link.stopped_until_ms = self.now.ms + self.config.refusal_backoff_ms;
        link.stopped_life = link.live.as_ref().map(|live| live.origin);
        let (dc, conn) = (link.dc.clone(), link.live.as_ref().map(|live| live.conn));
        if let Some(conn) = conn {
            self.close(conn, why);
        }
        self.alarm(&dc, why.to_owned());
    }
}
