//! A seeded simulation: datacenters as replicated logs that apply in order, the real protocol machines, and a virtual
//! network that delays, resets, duplicates and cuts.
//!
//! Everything follows from the seed. Invariants are asserted at every step; after the faults everything is healed and
//! liveness is demanded.

pub mod dc;
pub mod faults;
pub mod network;
pub mod rng;

use std::collections::BTreeMap;
use std::sync::Arc;

use meridian_crdt::TxnHead;
use meridian_gossip::proto::Machine;
use meridian_gossip::proto::event::{Event, Now, Output};
use meridian_gossip::proto::message::Message;
use meridian_gossip::{GossipConfig, Identity, Remote};

use dc::{Dc, NODES};
use faults::Fault;
use network::{Network, Side};
use rng::Rng;

/// Where the virtual wall clock starts.
const UNIX_MS: u64 = 1_760_000_000_000;

/// The options of one run.
#[derive(Clone, Debug)]
pub struct Options {
    pub dcs: usize,
    pub config: GossipConfig,
    /// Milliseconds between two writes of a DC, on average; 0 for none.
    pub write_every_ms: u64,
    /// When the writing begins.
    pub write_from_ms: u64,
    /// The largest effect of a written txn.
    pub write_bytes_max: u64,
    /// One-way delay between DCs, from and to.
    pub delay_ms: (u64, u64),
    /// How long a proposal takes, from and to.
    pub propose_ms: (u64, u64),
    /// Of 1000 proposals so many fail, half of them after they were applied.
    pub propose_failures: u64,
    /// Of 1000 messages so many arrive twice.
    pub duplicates: u64,
    /// Of 1000 messages so many reset their connection.
    pub resets: u64,
    /// How long writes and faults go on.
    pub chaos_ms: u64,
    /// Milliseconds between two faults; 0 for none.
    pub fault_every_ms: u64,
}

#[derive(Clone, Debug)]
enum Ev {
    Tick { dc: usize, node: u64, generation: u64 },
    Deliver { side: Side, conn: u64, event: Event },
    Machine { dc: usize, node: u64, life: u64, event: Event },
    Settle { dc: usize, proposal: u64 },
    Write { dc: usize },
    Fault,
    Undo(Fault),
}

struct Node {
    machine: Machine,
    life: u64,
    up: bool,
    tick_at: Option<u64>,
    tick_generation: u64,
}

/// One run.
pub struct Sim {
    pub options: Options,
    pub rng: Rng,
    pub now_ms: u64,
    pub dcs: Vec<Dc>,
    nodes: BTreeMap<(usize, u64), Node>,
    pub network: Network,
    queue: BTreeMap<(u64, u64), Ev>,
    queued: u64,
    proposals: BTreeMap<u64, dc::Proposal>,
    proposal_last: u64,
    chaos_until_ms: u64,
    trace: Option<Vec<String>>,
}

impl Sim {
    pub fn new(seed: u64, options: Options) -> Self {
        let mut sim = Self {
            rng: Rng::new(seed),
            now_ms: 1,
            dcs: (0..options.dcs).map(|i| Dc::new(i, options.dcs)).collect(),
            nodes: BTreeMap::new(),
            network: Network::new(),
            queue: BTreeMap::new(),
            queued: 0,
            proposals: BTreeMap::new(),
            proposal_last: 0,
            chaos_until_ms: options.chaos_ms,
            trace: None,
            options,
        };
        for dc in 0..sim.options.dcs {
            for node in 1..=NODES {
                let machine = sim.machine(dc, node);
                let node_state = Node { machine, life: 0, up: true, tick_at: None, tick_generation: 0 };
                sim.nodes.insert((dc, node), node_state);
            }
            let at = 1 + sim.rng.below(300);
            sim.push(at, Ev::Undo(Fault::Leaderless { dc }));
            if sim.options.write_every_ms > 0 {
                sim.push(at.max(sim.options.write_from_ms) + 1, Ev::Write { dc });
            }
        }
        if sim.options.fault_every_ms > 0 {
            sim.push(500, Ev::Fault);
        }
        sim
    }

    /// Keeps every event and output as text.
    pub fn traced(mut self) -> Self {
        self.trace = Some(Vec::new());
        self
    }

    pub fn trace(&self) -> &[String] {
        self.trace.as_deref().unwrap_or(&[])
    }

    fn machine(&mut self, dc: usize, node: u64) -> Machine {
        let members =
            (0..self.options.dcs).filter(|d| *d != dc).map(|d| (dc::name(d), (1..=NODES).collect()));
        let identity = Identity { cluster: 7, dc: dc::name(dc), node, members: members.collect() };
        Machine::new(identity, self.options.config.clone(), self.rng.next())
    }

    fn push(&mut self, at_ms: u64, ev: Ev) {
        self.queued += 1;
        self.queue.insert((at_ms, self.queued), ev);
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{} {}", self.now_ms, what()));
        }
    }

    /// Runs until `until_ms`.
    pub fn run(&mut self, until_ms: u64) {
        while let Some(entry) = self.queue.first_entry() {
            let at_ms = entry.key().0;
            if at_ms > until_ms {
                break;
            }
            let ev = entry.remove();
            self.now_ms = self.now_ms.max(at_ms);
            self.step(ev);
        }
        self.now_ms = until_ms;
    }

    /// Runs through the chaos, heals everything, and demands that all DCs are equal within `limit_ms`.
    pub fn run_to_convergence(&mut self, limit_ms: u64) {
        self.run(self.options.chaos_ms);
        self.heal_all();
        let deadline_ms = self.now_ms + limit_ms;
        while !self.converged() {
            assert!(self.now_ms < deadline_ms, "not converged in time: {}", self.describe());
            self.run(self.now_ms + 100);
        }
        for dc in &self.dcs {
            assert_eq!(dc.contents, self.dcs[0].contents, "I9: equal vectors, equal contents");
            assert_eq!(dc.digest(), self.dcs[0].digest(), "I9: equal digests");
        }
    }

    pub fn converged(&self) -> bool {
        self.dcs.iter().all(|dc| dc.vector == self.dcs[0].vector && dc.leader.is_some())
    }

    pub fn describe(&self) -> String {
        let mut out = String::new();
        for (i, dc) in self.dcs.iter().enumerate() {
            out +=
                &format!("\n{} leader {:?} term {} vector {:?}", dc::name(i), dc.leader, dc.term, dc.vector);
            if let Some(leader) = dc.leader {
                let node = &self.nodes[&(i, leader)];
                let status = node.machine.status(self.now());
                out += &format!("\n  lives {} {status:#?}", node.life);
            }
        }
        out
    }

    /// The sum of something over the links of all leaders.
    pub fn sum(&self, of: impl Fn(&meridian_gossip::LinkStatus) -> u64) -> u64 {
        let leaders = self.dcs.iter().enumerate().filter_map(|(i, dc)| self.nodes.get(&(i, dc.leader?)));
        leaders.flat_map(|n| n.machine.status(self.now()).links).map(|l| of(&l)).sum()
    }

    fn now(&self) -> Now {
        Now { ms: self.now_ms, unix_ms: UNIX_MS + self.now_ms }
    }

    fn step(&mut self, ev: Ev) {
        match ev {
            Ev::Tick { dc, node, generation } => {
                let state = self.nodes.get_mut(&(dc, node)).expect("a node");
                if state.up && state.tick_generation == generation {
                    state.tick_at = None;
                    self.give(dc, node, Event::Tick);
                }
            }
            Ev::Machine { dc, node, life, event } => {
                if self.nodes[&(dc, node)].up && self.nodes[&(dc, node)].life == life {
                    self.give(dc, node, event);
                }
            }
            Ev::Deliver { side, conn, event } => self.deliver(side, conn, event),
            Ev::Settle { dc, proposal } => self.settle(dc, proposal),
            Ev::Write { dc } => self.write(dc),
            Ev::Fault => self.next_fault(),
            Ev::Undo(fault) => self.undo(fault),
        }
    }

    /// Gives an event to a machine and does what it says.
    fn give(&mut self, dc: usize, node: u64, event: Event) {
        self.note(|| format!("{dc}/{node} <- {event:?}"));
        let now = self.now();
        let state = self.nodes.get_mut(&(dc, node)).expect("a node");
        state.machine.handle(event, now);
        state.machine.validate();
        let mut outputs = Vec::new();
        while let Some(output) = state.machine.poll_output() {
            outputs.push(output);
        }
        let deadline = state.machine.deadline_ms();
        if let Some(at) = deadline
            && state.tick_at.is_none_or(|known| at < known)
        {
            state.tick_at = Some(at);
            state.tick_generation += 1;
            let generation = state.tick_generation;
            self.push(at.max(self.now_ms + 1), Ev::Tick { dc, node, generation });
        }
        for output in outputs {
            self.perform(dc, node, output);
        }
    }

    /// Schedules an event for a machine of this life.
    fn later(&mut self, delay_ms: u64, dc: usize, node: u64, event: Event) {
        let life = self.nodes[&(dc, node)].life;
        self.push(self.now_ms + delay_ms, Ev::Machine { dc, node, life, event });
    }

    fn perform(&mut self, dc: usize, node: u64, output: Output) {
        self.note(|| format!("{dc}/{node} -> {output:?}"));
        match output {
            Output::Dial { dc: to, node: to_node, attempt } => self.dial(dc, node, to, to_node, attempt),
            Output::Send { conn, message } => {
                if let Message::Txns(txns) = &message {
                    for txn in txns {
                        let head = TxnHead::decode(txn).expect("a txn of the oplog");
                        assert!(self.dcs[dc].vector.covers(head.dot), "I1: {} is not applied", head.dot);
                    }
                }
                self.transmit(dc, conn, Event::Received { conn, message });
            }
            Output::Close { conn, why } => self.transmit(dc, conn, Event::Closed { conn, why }),
            Output::ReadOplog { conn, ticket, from, lacking, want, bytes_max } => {
                let chunk = self.dcs[dc].read(from, &lacking, &want, bytes_max);
                let delay = self.rng.below(3);
                let event = Event::OplogRead { conn, ticket, result: Ok(chunk) };
                self.later(delay, dc, node, event);
            }
            Output::Propose { ticket, remote } => {
                let delay = self.rng.between(self.options.propose_ms);
                self.proposal_last += 1;
                let term = self.dcs[dc].seen_term(node);
                let proposal = dc::Proposal { dc, node, term, ticket, remote };
                self.proposals.insert(self.proposal_last, proposal);
                self.push(self.now_ms + delay, Ev::Settle { dc, proposal: self.proposal_last });
            }
            // A deposed leader that does not know it cannot tell; the node asks its majority.
            Output::LostTail { .. } if self.dcs[dc].stale.contains_key(&node) => {}
            Output::LostTail { seen } => panic!("no DC lost its tail, but {dc} saw {seen}"),
            Output::Alarm { dc: about, what } => panic!("nothing here deserves an alarm: {about}: {what}"),
        }
    }

    /// A proposal reaches the log, or does not.
    fn settle(&mut self, dc: usize, proposal: u64) {
        let Some(dc::Proposal { node, term, ticket, remote, .. }) = self.proposals.remove(&proposal) else {
            return;
        };
        let valid = self.dcs[dc].leader == Some(node) && self.dcs[dc].term == term;
        let failing = self.rng.below(1000) < self.options.propose_failures;
        let result = if !valid || (failing && self.rng.below(2) == 0) {
            Err("no majority".to_owned())
        } else {
            let outcomes = self.apply(dc, remote);
            if failing { Err("no answer in time".to_owned()) } else { Ok(outcomes) }
        };
        if self.nodes[&(dc, node)].up {
            self.give(dc, node, Event::Proposed { ticket, result });
        }
    }

    fn apply(&mut self, dc: usize, remote: Remote) -> Vec<meridian_gossip::RemoteOutcome> {
        if let Remote::Report { member, vector } = &remote {
            let member = self.dcs.iter().find(|d| d.own.origin() == *member).expect("a member");
            assert!(member.vector.covers_all(vector), "I4/I5: an acknowledgement of what is not applied");
        }
        let outcomes = self.dcs[dc].apply(remote);
        self.show(dc);
        outcomes
    }

    /// Publishes the views of a DC.
    fn show(&mut self, dc: usize) {
        for node in 1..=NODES {
            if self.nodes[&(dc, node)].up && !self.dcs[dc].stale.contains_key(&node) {
                let view = Arc::new(self.dcs[dc].view(node));
                self.give(dc, node, Event::View(view));
            }
        }
    }

    fn write(&mut self, dc: usize) {
        if self.now_ms >= self.chaos_until_ms {
            return;
        }
        let every = self.options.write_every_ms;
        let delay = 1 + self.rng.below(every * 2);
        self.push(self.now_ms + delay, Ev::Write { dc });
        if self.dcs[dc].leader.is_some() {
            let size = 1 + self.rng.below(self.options.write_bytes_max);
            self.dcs[dc].write(size as usize, UNIX_MS + self.now_ms);
            self.show(dc);
        }
    }
}
