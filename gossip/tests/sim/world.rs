//! The toy datacenters as the simulation's world: proposals, writes, and what may go wrong.

use std::collections::{BTreeMap, BTreeSet};

use meridian_crdt::{Dot, TxnHead, Vector};
use meridian_gossip::proto::event::Event;
use meridian_gossip::proto::message::Message;
use meridian_gossip::sim::{At, Env, World};
use meridian_gossip::{OplogChunk, Remote, RemoteOutcome};

use super::Options;
use super::dc::{Dc, NODES, Proposal};

/// Where the virtual wall clock starts.
const UNIX_MS: u64 = 1_760_000_000_000;

/// What happens later.
#[derive(Clone, Debug)]
pub enum Ev {
    Settle {
        proposal: u64,
    },
    Write {
        dc: usize,
    },
    Fault,
    /// A DC without a leader elects one.
    Elect {
        dc: usize,
    },
    /// A deposed leader hears of it.
    Learn {
        at: At,
    },
    /// A node is back.
    Up {
        at: At,
    },
}

type ToyEnv<'e> = Env<'e, Ev>;

/// All datacenters.
pub struct Toy {
    pub options: Options,
    pub dcs: Vec<Dc>,
    down: BTreeSet<At>,
    proposals: BTreeMap<u64, Proposal>,
    proposal_last: u64,
    chaos_until_ms: u64,
}

impl Toy {
    pub fn new(options: Options) -> Self {
        Self {
            dcs: (0..options.dcs).map(|i| Dc::new(i, options.dcs)).collect(),
            down: BTreeSet::new(),
            proposals: BTreeMap::new(),
            proposal_last: 0,
            chaos_until_ms: options.chaos_ms,
            options,
        }
    }

    /// Schedules the first elections, writes and faults.
    pub fn begin(&mut self, env: &mut ToyEnv<'_>) {
        for dc in 0..self.options.dcs {
            let at = env.rng.below(300);
            env.after(at, Ev::Elect { dc });
            if self.options.write_every_ms > 0 {
                env.after(at.max(self.options.write_from_ms) + 1, Ev::Write { dc });
            }
        }
        if self.options.fault_every_ms > 0 {
            env.after(500, Ev::Fault);
        }
    }

    fn next_fault(&mut self, env: &mut ToyEnv<'_>) {
        if env.now_ms >= self.chaos_until_ms {
            return;
        }
        let delay = 1 + env.rng.below(self.options.fault_every_ms * 2);
        env.after(delay, Ev::Fault);
        let dc = env.rng.below(self.options.dcs as u64) as usize;
        let lasting = 100 + env.rng.below(5000);
        match env.rng.below(10) {
            0..=3 => {
                let step = 1 + env.rng.below(self.options.dcs as u64 - 1) as usize;
                let other = (dc + step) % self.options.dcs;
                env.cut(dc, other, lasting);
                if env.rng.chance(1, 2) {
                    env.cut(other, dc, lasting);
                }
            }
            4..=5 => env.reset_any(),
            6 => self.depose(dc, false, env),
            7 => self.depose(dc, true, env),
            8 => {
                if let Some(node) = self.dcs[dc].leader {
                    self.depose(dc, false, env);
                    self.kill(At { dc, node }, lasting, env);
                }
            }
            _ => self.take_down(dc, lasting, env),
        }
    }

    /// Takes the lead from a DC's leader; it may go on for a while without knowing.
    fn depose(&mut self, dc: usize, unaware: bool, env: &mut ToyEnv<'_>) {
        let Some(node) = self.dcs[dc].leader else { return };
        if unaware {
            let view = self.dcs[dc].view(node);
            self.dcs[dc].stale.insert(node, view);
            let lasting = 200 + env.rng.below(2000);
            env.after(lasting, Ev::Learn { at: At { dc, node } });
        }
        self.dcs[dc].leader = None;
        // What was under way may still reach the log, without anybody hearing of it, or be lost.
        let ours = |p: &Proposal| p.dc == dc && p.node == node && p.term == self.dcs[dc].term;
        let pending: Vec<u64> = self.proposals.iter().filter(|(_, p)| ours(p)).map(|(id, _)| *id).collect();
        // A log loses its end, never its middle.
        let kept = env.rng.below(pending.len() as u64 + 1) as usize;
        for id in &pending[..kept] {
            if let Some(proposal) = self.proposals.remove(id) {
                self.apply(dc, proposal.remote, env);
            }
        }
        self.show(dc, env);
        let election = 50 + env.rng.below(800);
        env.after(election, Ev::Elect { dc });
    }

    fn kill(&mut self, at: At, lasting_ms: u64, env: &mut ToyEnv<'_>) {
        if !self.down.insert(at) {
            return;
        }
        let silently = env.rng.chance(1, 2);
        env.stop(at, silently);
        self.dcs[at.dc].stale.remove(&at.node);
        env.after(lasting_ms, Ev::Up { at });
    }

    fn elect(&mut self, dc: usize, env: &mut ToyEnv<'_>) {
        if self.dcs[dc].leader.is_some() {
            return;
        }
        let stale = &self.dcs[dc].stale;
        let up = |node: &u64| !self.down.contains(&At { dc, node: *node });
        let able: Vec<u64> = (1..=NODES).filter(up).filter(|n| !stale.contains_key(n)).collect();
        if able.is_empty() {
            env.after(300, Ev::Elect { dc });
            return;
        }
        let leader = *env.rng.pick(&able);
        self.dcs[dc].term += 1 + env.rng.below(2);
        self.dcs[dc].leader = Some(leader);
        self.show(dc, env);
    }

    fn learn(&mut self, at: At, env: &mut ToyEnv<'_>) {
        if self.dcs[at.dc].stale.remove(&at.node).is_some() {
            self.show(at.dc, env);
        }
    }

    fn up(&mut self, at: At, env: &mut ToyEnv<'_>) {
        if self.down.remove(&at) {
            env.start(at);
            self.show(at.dc, env);
        }
    }

    /// Takes a DC down, until it is healed or `lasting_ms` have passed.
    pub fn take_down(&mut self, dc: usize, lasting_ms: u64, env: &mut ToyEnv<'_>) {
        self.depose(dc, false, env);
        for node in 1..=NODES {
            self.kill(At { dc, node }, lasting_ms, env);
        }
    }

    /// Ends all faults.
    pub fn heal(&mut self, env: &mut ToyEnv<'_>) {
        self.options.propose_failures = 0;
        for dc in 0..self.options.dcs {
            for node in 1..=NODES {
                self.up(At { dc, node }, env);
                self.learn(At { dc, node }, env);
            }
            self.elect(dc, env);
        }
    }

    /// A proposal reaches the log, or does not.
    fn settle(&mut self, proposal: u64, env: &mut ToyEnv<'_>) {
        let Some(Proposal { dc, node, term, ticket, remote }) = self.proposals.remove(&proposal) else {
            return;
        };
        let valid = self.dcs[dc].leader == Some(node) && self.dcs[dc].term == term;
        let failing = env.rng.chance(self.options.propose_failures, 1000);
        let result = if !valid || (failing && env.rng.chance(1, 2)) {
            Err("no majority".to_owned())
        } else {
            let outcomes = self.apply(dc, remote, env);
            if failing { Err("no answer in time".to_owned()) } else { Ok(outcomes) }
        };
        env.give(At { dc, node }, Event::Proposed { ticket, result });
    }

    fn apply(&mut self, dc: usize, remote: Remote, env: &mut ToyEnv<'_>) -> Vec<RemoteOutcome> {
        if let Remote::Report { member, vector } = &remote {
            let member = self.dcs.iter().find(|d| d.own.origin() == *member).expect("a member");
            assert!(member.vector.covers_all(vector), "I4/I5: an acknowledgement of what is not applied");
        }
        let outcomes = self.dcs[dc].apply(remote);
        self.show(dc, env);
        outcomes
    }

    /// Publishes the views of a DC.
    fn show(&mut self, dc: usize, env: &mut ToyEnv<'_>) {
        for node in 1..=NODES {
            if !self.dcs[dc].stale.contains_key(&node) {
                env.show(At { dc, node }, self.dcs[dc].view(node));
            }
        }
    }

    fn write(&mut self, dc: usize, env: &mut ToyEnv<'_>) {
        if env.now_ms >= self.chaos_until_ms {
            return;
        }
        let delay = 1 + env.rng.below(self.options.write_every_ms * 2);
        env.after(delay, Ev::Write { dc });
        if self.dcs[dc].leader.is_some() {
            let size = 1 + env.rng.below(self.options.write_bytes_max);
            self.dcs[dc].write(size as usize, UNIX_MS + env.now_ms);
            self.show(dc, env);
        }
    }
}

impl World for Toy {
    type Event = Ev;

    fn read_oplog(
        &mut self,
        at: At,
        from: u64,
        lacking: &Vector,
        want: &Vector,
        bytes_max: u64,
    ) -> Result<OplogChunk, String> {
        Ok(self.dcs[at.dc].read(from, lacking, want, bytes_max))
    }

    fn propose(&mut self, at: At, ticket: u64, remote: Remote, env: &mut ToyEnv<'_>) {
        let delay = env.rng.between(self.options.propose_ms);
        self.proposal_last += 1;
        let term = self.dcs[at.dc].seen_term(at.node);
        self.proposals
            .insert(self.proposal_last, Proposal { dc: at.dc, node: at.node, term, ticket, remote });
        env.after(delay, Ev::Settle { proposal: self.proposal_last });
    }

    fn lost_tail(&mut self, at: At, lost: Dot, _: &mut ToyEnv<'_>) {
        // A deposed leader that does not know it cannot tell; the node asks its majority.
        let stale = self.dcs[at.dc].stale.contains_key(&at.node);
        assert!(stale, "no DC lost its tail, but {at} saw {lost}");
    }

    fn alarm(&mut self, _: At, about: &str, what: &str, _: &mut ToyEnv<'_>) {
        panic!("nothing here deserves an alarm: {about}: {what}");
    }

    fn sends(&mut self, at: At, message: &Message) {
        if let Message::Txns(txns) = message {
            for txn in txns {
                let head = TxnHead::decode(txn).expect("a txn of the oplog");
                assert!(self.dcs[at.dc].vector.covers(head.dot), "I1: {} is not applied", head.dot);
            }
        }
    }

    fn unix_ms(&self, _: At, now_ms: u64) -> u64 {
        UNIX_MS + now_ms
    }

    fn handle(&mut self, event: Ev, env: &mut ToyEnv<'_>) {
        match event {
            Ev::Settle { proposal } => self.settle(proposal, env),
            Ev::Write { dc } => self.write(dc, env),
            Ev::Fault => self.next_fault(env),
            Ev::Elect { dc } => self.elect(dc, env),
            Ev::Learn { at } => self.learn(at, env),
            Ev::Up { at } => self.up(at, env),
        }
    }
}
