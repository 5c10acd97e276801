//! All simulated datacenters behind the protocol machines: the way of entries through the logs, and of what comes
//! from other datacenters into them.

use std::collections::BTreeMap;

use meridian::txn::oplog::{self, READ_TXNS_MAX, ReadBounds};
use meridian::txn::peers::Founding;
use meridian::txn::{Answer as CommitAnswer, Item, Outcome};
use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::hlc::Clock;
use meridian_crdt::{Dot, OriginName, TxnHead, Vector, sweep_pending};
use meridian_gossip::proto::event::Event;
use meridian_gossip::proto::message::Message;
use meridian_gossip::sim::{At, Env, World};
use meridian_gossip::{OplogChunk, Remote, RemoteOutcome as GossipOutcome};
use uuid::Uuid;

use super::clients::Clients;
use super::clock::Time;
use super::compaction;
use super::dc::Dc;
use super::interactive::Transactors;
use super::node::{DRIFT_MS_MAX, Node, Queued, Ticket};
use super::options::Options;
use super::request::{Answered, Request};
use super::watching::Watcher;

/// How often housekeeping looks whether there is something to do.
pub(super) const TIDY_EVERY_MS: u64 = 500;
/// How often nodes of a datacenter compare their clocks.
const CLOCKS_EVERY_MS: u64 = 500;
/// How often a commit without a majority is tried again.
const COMMIT_RETRY_MS: u64 = 40;
/// How long confirming leadership with a majority takes at most.
const CONFIRM_MS_MAX: u64 = 10;

/// What happens later.
#[derive(Clone, Debug)]
pub enum Ev {
    /// An entry may have reached a majority.
    Commit { dc: usize, term: u64, index: u64 },
    /// A node hears what is committed, and of the leader.
    Hear { at: At, life: u64 },
    /// A datacenter without a leader elects one.
    Elect { dc: usize },
    /// A deposed leader hears of it.
    Learn { at: At, life: u64, term: u64 },
    /// A node is back.
    Up { at: At, life: u64 },
    /// A node makes its state durable.
    Checkpoint { at: At },
    /// Housekeeping.
    Tidy { dc: usize },
    /// Clocks are compared.
    Clocks { dc: usize },
    /// Whether what a peer has seen here is lost is confirmed.
    Lost { at: At, life: u64, lost: Dot },
    /// A request reaches a node.
    Arrive { at: At, request: Box<Request> },
    /// A write that a follower has passed on reaches the leader that it knew, if that has not died meanwhile.
    Forwarded { at: At, life: u64, via: At, request: Box<Request> },
    /// A linearizable read at `at` learns whether `leader` leads still.
    Confirmed { at: At, life: u64, leader: u64, term: u64, index: u64, request: Box<Request> },
    /// Requests that have waited too long are given up.
    Expire { at: At, life: u64 },
    /// An answer reaches its session.
    Answer { session: usize, attempt: u64, answered: Box<Answered> },
    /// A node learns what became of the write of a commit.
    Written { at: At, life: u64, commit: u64, written: Box<Result<CommitAnswer, ApiError>> },
    /// A node waits no longer for the write of a commit.
    Overdue { at: At, life: u64, commit: u64 },
    /// A session goes on with its transaction, or begins one.
    Step { session: usize },
    /// A watcher takes what there is.
    Look { watcher: usize },
    /// A session waits no longer.
    GiveUp { session: usize, attempt: u64 },
    /// A session asks something.
    Think { session: usize },
    /// A link is cut once more.
    Flap { dc: usize, other: usize, times: u64 },
    /// Something goes wrong.
    Fault,
}

/// What the world asks of the simulation.
pub type SimEnv<'e> = Env<'e, Ev>;

/// A proposal of a protocol machine under way.
pub(super) struct Proposal {
    outcomes: Vec<Option<GossipOutcome>>,
}

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Entries applied, on all nodes together.
    pub entries: u64,
    /// Faults, but for cuts' ends.
    pub faults: u64,
    /// Elections.
    pub elections: u64,
    /// Entries forgotten by a change of leader.
    pub forgotten: u64,
    /// Snapshots given to followers.
    pub snapshots: u64,
    /// Lives begun because a tail was lost.
    pub new_lives: u64,
    /// How often it was asked who holds a write, and how often all did.
    pub levels: (u64, u64),
}

/// All datacenters and their clients.
pub struct Cluster {
    /// The shape of the run.
    pub options: Options,
    /// The virtual time.
    pub time: Time,
    /// The datacenters.
    pub dcs: Vec<Dc>,
    /// The sessions and what they know.
    pub clients: Clients,
    /// The sessions that run interactive transactions.
    pub transactors: Transactors,
    /// Those who watch.
    pub watchers: Vec<Watcher>,
    /// What happened.
    pub counts: Counts,
    /// Whether clients and faults go on.
    pub chaos: bool,
    /// Until then nothing goes wrong.
    pub quiet_until_ms: u64,
    /// Whether some datacenter has lost its tail.
    pub tail_lost: bool,
    pub(super) proposals: BTreeMap<(At, u64, u64), Proposal>,
}

impl Cluster {
    /// All datacenters, empty.
    pub fn new(options: Options) -> Cluster {
        let time = Time::default();
        Cluster {
            dcs: (0..options.nodes.len()).map(|id| Dc::new(id, &options, &time)).collect(),
            clients: Clients::new(&options),
            transactors: Transactors::new(&options),
            watchers: (0..options.watchers).map(Watcher::new).collect(),
            counts: Counts::default(),
            chaos: true,
            quiet_until_ms: 0,
            tail_lost: false,
            proposals: BTreeMap::new(),
            time,
            options,
        }
    }

    /// Schedules what goes on by itself.
    pub fn begin(&mut self, env: &mut SimEnv<'_>) {
        for dc in 0..self.dcs.len() {
            let delay = env.rng.below(300);
            env.after(delay, Ev::Elect { dc });
            env.after(TIDY_EVERY_MS, Ev::Tidy { dc });
            env.after(CLOCKS_EVERY_MS, Ev::Clocks { dc });
            for node in 1..=self.options.nodes[dc] {
                let delay = env.rng.below(self.options.checkpoint_ms);
                env.after(delay, Ev::Checkpoint { at: At { dc, node } });
            }
        }
        for session in 0..self.options.sessions {
            let delay = env.rng.below(800);
            env.after(delay, Ev::Think { session });
        }
        for session in 0..self.options.txn_sessions {
            let delay = env.rng.below(800);
            env.after(delay, Ev::Step { session });
        }
        for watcher in 0..self.options.watchers {
            let delay = 1 + env.rng.below(400);
            env.after(delay, Ev::Look { watcher });
        }
        if self.options.fault_every_ms > 0 {
            env.after(700, Ev::Fault);
        }
    }

    /// Whether somebody waits for an answer, or for what there is to watch.
    pub fn busy(&self) -> bool {
        let behind = |watcher: &Watcher| !watcher.has_seen(&self.dcs[0].vector);
        self.clients.busy() || self.transactors.busy() || self.watchers.iter().any(behind)
    }

    pub(super) fn node(&self, at: At) -> &Node {
        self.dcs[at.dc].node(at.node)
    }

    pub(super) fn node_mut(&mut self, at: At) -> &mut Node {
        self.dcs[at.dc].node_mut(at.node)
    }

    pub(super) fn show(&self, at: At, env: &mut SimEnv<'_>) {
        env.show(at, self.node(at).view());
    }

    /// Queues an item at a node that leads, or believes so, and proposes what may be.
    pub(super) fn submit(&mut self, at: At, queued: Vec<Queued>, env: &mut SimEnv<'_>) {
        if let Some(reign) = &mut self.node_mut(at).reign {
            reign.queue.extend(queued);
            self.pump(at, env);
        }
    }

    fn pump(&mut self, at: At, env: &mut SimEnv<'_>) {
        let (items, in_flight) = (self.options.entry_items_max, self.options.entries_in_flight_max);
        for index in self.dcs[at.dc].propose(at.node, items, in_flight) {
            self.schedule_commit(at.dc, index, env);
        }
    }

    pub(super) fn schedule_commit(&mut self, dc: usize, index: u64, env: &mut SimEnv<'_>) {
        let slow = if self.dcs[dc].slow_until_ms > env.now_ms { 20 } else { 1 };
        let due = env.now_ms + env.rng.between(self.options.commit_ms) * slow;
        let due = due.max(self.dcs[dc].commit_due_ms);
        self.dcs[dc].commit_due_ms = due;
        env.after(due - env.now_ms, Ev::Commit { dc, term: self.dcs[dc].term, index });
    }

    fn commit(&mut self, id: usize, term: u64, index: u64, env: &mut SimEnv<'_>) {
        let dc = &mut self.dcs[id];
        let Some(leader) = dc.leader.filter(|_| dc.term == term) else { return };
        if !dc.has_majority(env.now_ms) || dc.node(leader).deaf_until_ms > env.now_ms {
            env.after(COMMIT_RETRY_MS, Ev::Commit { dc: id, term, index });
            return;
        }
        dc.committed = dc.committed.max(index);
        let at = At { dc: id, node: leader };
        self.node_mut(at).heard = self.dcs[id].committed;
        self.catch_up(at, env);
        for node in (1..=self.options.nodes[id]).filter(|n| *n != leader) {
            let life = self.dcs[id].node(node).life;
            let lag = env.rng.between(self.options.lag_ms);
            env.after(lag, Ev::Hear { at: At { dc: id, node }, life });
        }
    }

    /// A follower hears from the leader.
    fn hear(&mut self, at: At, life: u64, env: &mut SimEnv<'_>) {
        let dc = &self.dcs[at.dc];
        let node = dc.node(at.node);
        if !node.up || node.life != life || node.reign.is_some() {
            return;
        }
        if node.deaf_until_ms > env.now_ms {
            env.after(node.deaf_until_ms - env.now_ms, Ev::Hear { at, life });
            return;
        }
        let Some(leader) = dc.leader else { return };
        let (committed, known) = (dc.committed, dc.node(leader).applied);
        let behind = known.saturating_sub(node.applied) > self.options.snapshot_gap;
        let rows = behind.then(|| dc.node(leader).rows.clone());
        let node = self.node_mut(at);
        node.leader = Some(leader);
        if let Some(rows) = rows {
            node.install_snapshot(known, rows);
            self.counts.snapshots += 1;
            env.note(&format!("{at} takes a snapshot at {known}"));
        }
        let node = self.node_mut(at);
        node.heard = committed;
        node.ready = true;
        self.catch_up(at, env);
    }

    /// Applies what a node knows to be committed, publishes, and answers who waited for it.
    pub(super) fn catch_up(&mut self, at: At, env: &mut SimEnv<'_>) {
        let mut answers = Vec::new();
        while self.node(at).applied < self.node(at).heard {
            let reply = self.dcs[at.dc].apply_next(at.node);
            self.counts.entries += 1;
            let index = self.node(at).applied;
            let reign = self.node_mut(at).reign.as_mut();
            if let Some(reign) = reign
                && reign.in_flight.front().is_some_and(|(i, _)| *i == index)
                && let Some((_, tickets)) = reign.in_flight.pop_front()
            {
                answers.extend(tickets.into_iter().zip(reply.outcomes));
            }
        }
        self.check_acked(at.dc);
        let own = self.node(at).state.own;
        self.dcs[at.dc].lives(own);
        self.show(at, env);
        let speaks = self.node(at).speaks();
        self.start_speaking(at, env);
        for (ticket, outcome) in answers {
            self.answer_ticket(at, ticket, Ok(outcome), env);
        }
        self.serve_waiting(at, env);
        if speaks {
            self.found(at, env);
        }
        self.pump(at, env);
    }

    /// I5 across datacenters: what one takes for acked, every member has.
    fn check_acked(&self, dc: usize) {
        if self.tail_lost {
            return;
        }
        for other in &self.dcs {
            let acked = &self.dcs[dc].acked;
            assert!(
                other.vector.covers_all(acked),
                "I5: {dc} takes {acked:?} for acked, {} has {:?}",
                other.id,
                other.vector
            );
        }
    }

    /// A new leader speaks once the first entry of its term is applied: it sets its clock above every stamp of its
    /// datacenter and sees to it that the shard has a life and knows its members.
    fn start_speaking(&mut self, at: At, env: &mut SimEnv<'_>) {
        let node = self.node_mut(at);
        let applied = node.applied;
        let Some(reign) = node.reign.as_mut().filter(|r| !r.speaks && applied >= r.first) else { return };
        reign.speaks = true;
        let highest = node.state.own.and_then(|own| node.state.chains.get(&own)).map_or(0, |chain| chain.hlc);
        node.hlc = Clock::restore(node.hlc.last().max(highest));
        node.ready = true;
        env.note(&format!("{at} leads in term {}", node.reign.as_ref().map_or(0, |r| r.term)));
        self.show(at, env);
        self.found(at, env);
    }

    fn found(&mut self, at: At, env: &mut SimEnv<'_>) {
        let node = self.node(at);
        let idle =
            node.reign.as_ref().is_some_and(|r| r.speaks && r.in_flight.is_empty() && r.queue.is_empty());
        let members: Vec<String> =
            self.dcs.iter().filter(|dc| dc.id != at.dc).map(|dc| dc.name.clone()).collect();
        if !idle {
            return;
        }
        let item = match node.state.lacks(&members) {
            Some(Founding::Members) => Item::Members(members),
            Some(Founding::Life) => Item::Mint { name: self.new_life(at.dc), lost: None, ends: None },
            None => return,
        };
        self.submit(at, vec![Queued { item, ticket: Ticket::Nobody }], env);
    }

    fn new_life(&mut self, dc: usize) -> OriginName {
        self.dcs[dc].lives_begun += 1;
        let epoch = 1000 * (dc as u128 + 1) + u128::from(self.dcs[dc].lives_begun);
        OriginName { dc: self.dcs[dc].name.clone(), epoch: Uuid::from_u128(epoch) }
    }

    /// Somebody learns what became of an item; `Err` says whether it may have been proposed.
    fn answer_ticket(
        &mut self,
        at: At,
        ticket: Ticket,
        outcome: Result<Outcome, bool>,
        env: &mut SimEnv<'_>,
    ) {
        match ticket {
            Ticket::Nobody => {}
            Ticket::Client(request) => self.answer_write(at, *request, outcome, env),
            Ticket::Gossip { ticket, part } => {
                let life = self.node(at).life;
                let result =
                    match outcome.map_err(|_| "the leader changed".to_owned()).map(GossipOutcome::from) {
                        Ok(outcome) => {
                            let Some(proposal) = self.proposals.get_mut(&(at, life, ticket)) else { return };
                            proposal.outcomes[part] = Some(outcome);
                            let Some(all) = proposal.outcomes.iter().cloned().collect() else { return };
                            Ok(all)
                        }
                        Err(why) => Err(why),
                    };
                if self.proposals.remove(&(at, life, ticket)).is_some() {
                    env.give(at, Event::Proposed { ticket, result });
                }
            }
        }
    }

    /// A node learns that it leads no more. What it proposed may still be in the log; what waited is not.
    pub(super) fn step_down(&mut self, at: At, env: &mut SimEnv<'_>) {
        let leader = self.dcs[at.dc].leader.filter(|leader| *leader != at.node);
        let node = self.node_mut(at);
        let Some(reign) = node.reign.take() else { return };
        node.leader = leader;
        self.show(at, env);
        for (_, tickets) in reign.in_flight {
            for ticket in tickets {
                self.answer_ticket(at, ticket, Err(true), env);
            }
        }
        for queued in reign.queue {
            self.answer_ticket(at, queued.ticket, Err(false), env);
        }
        let life = self.node(at).life;
        env.after(1, Ev::Hear { at, life });
    }

    fn tidy(&mut self, dc: usize, env: &mut SimEnv<'_>) {
        env.after(TIDY_EVERY_MS, Ev::Tidy { dc });
        self.dcs[dc].compare_rows();
        let Some(node) = self.dcs[dc].serving() else { return };
        let at = At { dc, node };
        let (state, rows) = (&self.node(at).state, &self.node(at).rows);
        let cut = oplog::can_truncate(state, rows).unwrap_or_else(|never| match never {});
        let now = (at.node, state.stable.clone(), state.oplog_end);
        let mut needed = state.sweep_left || cut;
        if !needed && self.dcs[dc].swept_at.as_ref() != Some(&now) {
            needed = sweep_pending(rows).is_ok_and(|pending| pending);
            self.dcs[dc].swept_at = Some(now);
        }
        if needed {
            let item = Item::Tidy { rows_max: self.options.tidy_rows_max };
            self.submit(at, vec![Queued { item, ticket: Ticket::Nobody }], env);
        }
        let compaction = compaction::items(&self.node(at).rows);
        if !compaction.is_empty() {
            let queued = compaction.into_iter().map(|item| Queued { item, ticket: Ticket::Nobody });
            self.submit(at, queued.collect(), env);
        }
    }

    /// A leader that lacks what its datacenter had asks its majority, and begins a new life if that is lost.
    fn confirm_lost(&mut self, at: At, life: u64, lost: Dot, env: &mut SimEnv<'_>) {
        let dc = &self.dcs[at.dc];
        let node = dc.node(at.node);
        let (Some(own), Some(reign)) = (node.state.own, &node.reign) else { return };
        let confirmed = node.life == life && reign.speaks && dc.really_leads(at.node, reign.term);
        if !confirmed || !dc.has_majority(env.now_ms) || node.state.vector.covers(lost) {
            return;
        }
        assert!(self.tail_lost, "{at} has seen {lost} and lacks it, but nothing was lost");
        let name = self.new_life(at.dc);
        self.counts.new_lives += 1;
        env.note(&format!("{at} begins the life {name} because {lost} is lost"));
        let item = Item::Mint { name, lost: Some(lost), ends: Some(own) };
        self.submit(at, vec![Queued { item, ticket: Ticket::Nobody }], env);
    }
}

impl World for Cluster {
    type Event = Ev;

    fn read_oplog(
        &mut self,
        at: At,
        from: u64,
        lacking: &Vector,
        want: &Vector,
        bytes_max: u64,
    ) -> Result<OplogChunk, String> {
        let node = self.node(at);
        let bounds = ReadBounds { bytes_max: bytes_max as usize, txns_max: READ_TXNS_MAX };
        let chunk = oplog::read(&node.rows, &node.state, from, lacking, want, bounds)
            .unwrap_or_else(|never| match never {});
        Ok(OplogChunk { entries: chunk.entries, next: chunk.next })
    }

    fn propose(&mut self, at: At, ticket: u64, remote: Remote, env: &mut SimEnv<'_>) {
        self.time.set(env.now_ms);
        let items: Vec<Item> = match remote {
            Remote::Txns(txns) => {
                let node = self.node_mut(at);
                let now_ms = node.unix_ms();
                let stamps = txns.iter().filter_map(|txn| TxnHead::decode(txn).ok()).map(|head| head.hlc);
                if let Some(highest) = stamps.max() {
                    let _ = node.hlc.observe(highest, now_ms, DRIFT_MS_MAX);
                }
                txns.into_iter().map(Item::Remote).collect()
            }
            Remote::Register(name) => vec![Item::Register(name)],
            Remote::Report { member, vector } => vec![Item::Report { member, vector }],
            Remote::Admit { life, member, stable } => vec![Item::Admit { life, member, stable }],
        };
        if self.node(at).reign.is_none() {
            env.give(at, Event::Proposed { ticket, result: Err("not the leader".into()) });
            return;
        }
        let life = self.node(at).life;
        self.proposals.insert((at, life, ticket), Proposal { outcomes: vec![None; items.len()] });
        let with_ticket = |(part, item)| Queued { item, ticket: Ticket::Gossip { ticket, part } };
        self.submit(at, items.into_iter().enumerate().map(with_ticket).collect(), env);
    }

    fn lost_tail(&mut self, at: At, lost: Dot, env: &mut SimEnv<'_>) {
        let life = self.node(at).life;
        let delay = 1 + env.rng.below(CONFIRM_MS_MAX);
        env.after(delay, Ev::Lost { at, life, lost });
    }

    fn alarm(&mut self, at: At, about: &str, what: &str, _: &mut SimEnv<'_>) {
        assert!(self.tail_lost, "{at} calls for a human because of {about}: {what}");
    }

    fn sends(&mut self, at: At, message: &Message) {
        let (node, dc) = (self.node(at), &self.dcs[at.dc]);
        assert!(node.applied <= dc.committed, "what is applied is held by a majority");
        match message {
            Message::Txns(txns) => {
                for txn in txns {
                    let head = TxnHead::decode(txn).unwrap_or_else(|e| panic!("a txn of the oplog: {e}"));
                    assert!(node.state.vector.covers(head.dot), "I1: {} is sent and not applied", head.dot);
                }
            }
            Message::Ack(vector) => {
                assert!(node.state.vector.covers_all(vector), "I4: {vector:?} is acknowledged and not held");
            }
            _ => {}
        }
    }

    fn unix_ms(&self, at: At, _: u64) -> u64 {
        self.node(at).unix_ms()
    }

    fn handle(&mut self, event: Ev, env: &mut SimEnv<'_>) {
        self.time.set(env.now_ms);
        match event {
            Ev::Commit { dc, term, index } => self.commit(dc, term, index, env),
            Ev::Hear { at, life } => self.hear(at, life, env),
            Ev::Elect { dc } => self.elect(dc, env),
            Ev::Learn { at, life, term } => self.learn(at, life, term, env),
            Ev::Up { at, life } => self.revive(at, life, env),
            Ev::Checkpoint { at } => {
                env.after(self.options.checkpoint_ms, Ev::Checkpoint { at });
                if self.node(at).up {
                    self.node_mut(at).take_checkpoint();
                }
            }
            Ev::Tidy { dc } => self.tidy(dc, env),
            Ev::Clocks { dc } => {
                env.after(CLOCKS_EVERY_MS, Ev::Clocks { dc });
                self.compare_clocks(dc, env);
            }
            Ev::Lost { at, life, lost } => self.confirm_lost(at, life, lost, env),
            Ev::Arrive { at, request } => self.arrive(at, request, env),
            Ev::Forwarded { at, life, via, request } => {
                if self.node(at).life == life {
                    self.forwarded(at, via, request, env);
                }
            }
            Ev::Confirmed { at, life, leader, term, index, request } => {
                self.confirmed(at, life, leader, term, index, request, env);
            }
            Ev::Expire { at, life } => {
                if self.node(at).life == life {
                    self.serve_waiting(at, env);
                }
            }
            Ev::Answer { session, attempt, answered } => self.answered(session, attempt, *answered, env),
            Ev::GiveUp { session, attempt } => self.give_up(session, attempt, env),
            Ev::Think { session } => self.think(session, env),
            Ev::Written { at, life, commit, written } => {
                if self.node(at).life == life && self.node(at).deaf_until_ms <= env.now_ms {
                    self.written(at, commit, *written, env);
                }
            }
            Ev::Overdue { at, life, commit } => {
                if self.node(at).life == life {
                    self.written(at, commit, Err(super::server::error(ErrorCode::OutcomeUnknown)), env);
                }
            }
            Ev::Step { session } => self.step_txn(session, env),
            Ev::Look { watcher } => self.look(watcher, env),
            Ev::Flap { dc, other, times } => self.flap(dc, other, times, env),
            Ev::Fault => self.next_fault(env),
        }
    }
}
