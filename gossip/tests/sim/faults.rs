//! The fault model: what may happen, for how long, and how it is undone.

use super::dc::{NODES, Proposal};
use super::{Ev, Sim};

/// Something that goes wrong until it is undone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Bytes from one DC to another stop.
    Cut { from: usize, to: usize },
    /// A DC has no leader; undone by an election.
    Leaderless { dc: usize },
    /// A deposed leader has not heard of it.
    Stale { dc: usize, node: u64 },
    /// A node is down.
    Down { dc: usize, node: u64 },
    /// A DC is down, all nodes at once.
    DcDown { dc: usize },
}

impl Sim {
    pub(super) fn next_fault(&mut self) {
        if self.now_ms >= self.chaos_until_ms {
            return;
        }
        let every = self.options.fault_every_ms;
        let delay = 1 + self.rng.below(every * 2);
        self.push(self.now_ms + delay, Ev::Fault);
        let dc = self.rng.below(self.options.dcs as u64) as usize;
        let lasting = 100 + self.rng.below(5000);
        match self.rng.below(10) {
            0..=3 => {
                let other =
                    (dc + 1 + self.rng.below(self.options.dcs as u64 - 1) as usize) % self.options.dcs;
                self.cut(dc, other, lasting);
                if self.rng.below(2) == 0 {
                    self.cut(other, dc, lasting);
                }
            }
            4..=5 => {
                let conns = self.network.open_conns();
                if !conns.is_empty() {
                    let conn = *self.rng.pick(&conns);
                    self.reset(conn);
                }
            }
            6 => self.depose(dc, false),
            7 => self.depose(dc, true),
            8 => {
                if let Some(node) = self.dcs[dc].leader {
                    self.depose(dc, false);
                    self.kill(dc, node, lasting);
                }
            }
            _ => {
                self.depose(dc, false);
                for node in 1..=NODES {
                    self.kill(dc, node, lasting);
                }
            }
        }
    }

    pub fn cut(&mut self, from: usize, to: usize, lasting_ms: u64) {
        self.network.cuts.insert((from, to));
        self.push(self.now_ms + lasting_ms, Ev::Undo(Fault::Cut { from, to }));
    }

    /// Takes the lead from a DC's leader; it may go on for a while without knowing.
    fn depose(&mut self, dc: usize, unaware: bool) {
        let Some(node) = self.dcs[dc].leader else { return };
        if unaware {
            let view = self.dcs[dc].view(node);
            self.dcs[dc].stale.insert(node, view);
            let lasting = 200 + self.rng.below(2000);
            self.push(self.now_ms + lasting, Ev::Undo(Fault::Stale { dc, node }));
        }
        self.dcs[dc].leader = None;
        // What was under way may still reach the log, without anybody hearing of it, or be lost.
        let ours = |p: &Proposal| p.dc == dc && p.node == node && p.term == self.dcs[dc].term;
        let pending: Vec<u64> = self.proposals.iter().filter(|(_, p)| ours(p)).map(|(id, _)| *id).collect();
        // A log loses its end, never its middle.
        let kept = self.rng.below(pending.len() as u64 + 1) as usize;
        for id in &pending[..kept] {
            if let Some(proposal) = self.proposals.remove(id) {
                self.apply(dc, proposal.remote);
            }
        }
        self.show(dc);
        let election = 50 + self.rng.below(800);
        self.push(self.now_ms + election, Ev::Undo(Fault::Leaderless { dc }));
    }

    fn kill(&mut self, dc: usize, node: u64, lasting_ms: u64) {
        if !self.nodes[&(dc, node)].up {
            return;
        }
        let silently = self.rng.below(2) == 0;
        let machine = self.machine(dc, node);
        self.drop_conns_of(dc, node, silently);
        let state = self.nodes.get_mut(&(dc, node)).expect("a node");
        state.up = false;
        state.life += 1;
        state.machine = machine;
        state.tick_at = None;
        state.tick_generation += 1;
        self.dcs[dc].stale.remove(&node);
        self.push(self.now_ms + lasting_ms, Ev::Undo(Fault::Down { dc, node }));
    }

    pub(super) fn undo(&mut self, fault: Fault) {
        match fault {
            Fault::Cut { from, to } => self.heal(from, to),
            Fault::Leaderless { dc } => self.elect(dc),
            Fault::Stale { dc, node } => {
                if self.dcs[dc].stale.remove(&node).is_some() {
                    self.show(dc);
                }
            }
            Fault::Down { dc, node } => {
                self.nodes.get_mut(&(dc, node)).expect("a node").up = true;
                self.show(dc);
            }
            Fault::DcDown { dc } => {
                for node in 1..=NODES {
                    self.undo(Fault::Down { dc, node });
                }
            }
        }
    }

    fn elect(&mut self, dc: usize) {
        if self.dcs[dc].leader.is_some() {
            return;
        }
        let stale = &self.dcs[dc].stale;
        let able: Vec<u64> =
            (1..=NODES).filter(|n| self.nodes[&(dc, *n)].up && !stale.contains_key(n)).collect();
        if able.is_empty() {
            self.push(self.now_ms + 300, Ev::Undo(Fault::Leaderless { dc }));
            return;
        }
        let leader = *self.rng.pick(&able);
        self.dcs[dc].term += 1 + self.rng.below(2);
        self.dcs[dc].leader = Some(leader);
        self.show(dc);
    }

    /// Takes a DC down for good, until [`Sim::heal_all`] or `lasting_ms` have passed.
    pub fn take_down(&mut self, dc: usize, lasting_ms: u64) {
        self.depose(dc, false);
        for node in 1..=NODES {
            self.kill(dc, node, lasting_ms);
        }
    }

    /// Ends all faults.
    pub fn heal_all(&mut self) {
        self.options.resets = 0;
        self.options.propose_failures = 0;
        let cuts: Vec<(usize, usize)> = self.network.cuts.iter().copied().collect();
        for (from, to) in cuts {
            self.heal(from, to);
        }
        for dc in 0..self.options.dcs {
            self.undo(Fault::DcDown { dc });
            let stale: Vec<u64> = self.dcs[dc].stale.keys().copied().collect();
            for node in stale {
                self.undo(Fault::Stale { dc, node });
            }
        }
    }
}
