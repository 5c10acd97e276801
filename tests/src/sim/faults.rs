//! What goes wrong inside datacenters, and between them, and how it is undone.

use meridian::seams::Clock as _;
use meridian_gossip::sim::At;

use super::dc::Quarantine;
use super::node::DRIFT_MS_MAX;
use super::world::{Cluster, Ev, SimEnv};

/// How far clocks jump at most, in milliseconds: six hours.
const JUMP_MS_MAX: u64 = 6 * 3_600_000;
/// A leader without a majority notices it within so many milliseconds.
const LEASE_MS: u64 = 600;

impl Cluster {
    /// Draws a fault.
    pub(super) fn next_fault(&mut self, env: &mut SimEnv<'_>) {
        let delay = 1 + env.rng.below(self.options.fault_every_ms * 2);
        env.after(delay, Ev::Fault);
        if !self.chaos || env.now_ms < self.quiet_until_ms {
            return;
        }
        self.counts.faults += 1;
        let dc = env.rng.below(self.dcs.len() as u64) as usize;
        let node = 1 + env.rng.below(self.options.nodes[dc]);
        let at = At { dc, node };
        let lasting = 100 + env.rng.below(4000);
        match env.rng.below(20) {
            0..=3 => self.cut_some(dc, lasting, env),
            4 => {
                let times = 1 + env.rng.below(6);
                let other = self.other_dc(dc, env);
                self.flap(dc, other, times, env);
            }
            5 => env.reset_any(),
            6..=7 => self.depose(dc, false, env),
            8..=10 => self.depose(dc, true, env),
            11..=12 => {
                if let Some(node) = self.dcs[dc].leader {
                    self.kill(At { dc, node }, lasting, env);
                }
            }
            13..=14 => self.kill(at, lasting, env),
            15 => self.power_cut(dc, lasting, env),
            16 => self.isolate(at, lasting, env),
            17 => {
                env.note(&format!("fault: disks of {dc} are slow for {lasting}"));
                self.dcs[dc].slow_until_ms = env.now_ms + lasting;
            }
            _ => self.jump(at, env),
        }
    }

    fn cut_some(&mut self, dc: usize, lasting: u64, env: &mut SimEnv<'_>) {
        let other = self.other_dc(dc, env);
        env.cut(dc, other, lasting);
        if env.rng.chance(1, 2) {
            env.cut(other, dc, lasting);
        }
    }

    /// A link that comes and goes.
    pub(super) fn flap(&mut self, dc: usize, other: usize, times: u64, env: &mut SimEnv<'_>) {
        let lasting = 20 + env.rng.below(300);
        env.cut(dc, other, lasting);
        env.cut(other, dc, lasting / 2);
        if self.chaos && times > 1 {
            env.after(lasting * 2, Ev::Flap { dc, other, times: times - 1 });
        }
    }

    fn other_dc(&self, dc: usize, env: &mut SimEnv<'_>) -> usize {
        let count = self.dcs.len();
        (dc + 1 + env.rng.below(count as u64 - 1) as usize) % count
    }

    /// Takes the lead from a leader. Of what no majority has, a part may survive.
    pub(super) fn depose(&mut self, id: usize, unaware: bool, env: &mut SimEnv<'_>) {
        let dc = &mut self.dcs[id];
        let Some(node) = dc.leader else { return };
        let open = dc.log.len() as u64 - dc.committed;
        let kept = env.rng.below(open + 1);
        dc.end_term(kept);
        self.counts.forgotten += open - kept;
        env.note(&format!("fault: {id}/{node} is deposed, unaware {unaware}, {kept} of {open} kept"));
        let at = At { dc: id, node };
        let (life, term) = (self.node(at).life, self.dcs[id].term);
        if unaware && self.options.nodes[id] > 1 {
            let delay = 200 + env.rng.below(1500);
            env.after(delay, Ev::Learn { at, life, term });
        } else {
            self.step_down(at, env);
        }
        let election = 50 + env.rng.below(800);
        env.after(election, Ev::Elect { dc: id });
    }

    pub(super) fn learn(&mut self, at: At, life: u64, term: u64, env: &mut SimEnv<'_>) {
        let node = self.node(at);
        let same = node.reign.as_ref().is_some_and(|reign| reign.term == term);
        if node.up && node.life == life && same && !self.dcs[at.dc].really_leads(at.node, term) {
            self.step_down(at, env);
        }
    }

    /// Elects a leader, if a majority can.
    pub(super) fn elect(&mut self, id: usize, env: &mut SimEnv<'_>) {
        let dc = &self.dcs[id];
        if dc.leader.is_some() {
            return;
        }
        let able: Vec<u64> = dc
            .nodes
            .iter()
            .filter(|n| n.up && n.reign.is_none() && n.deaf_until_ms <= env.now_ms)
            .map(|n| n.at.node)
            .collect();
        // Who still believes to lead votes all the same once it hears of the new term.
        if able.is_empty() || !dc.has_majority(env.now_ms) {
            let delay = 50 + env.rng.below(200);
            env.after(delay, Ev::Elect { dc: id });
            return;
        }
        let node = *env.rng.pick(&able);
        let skipped = env.rng.below(2);
        let first = self.dcs[id].begin_term(node, skipped);
        self.counts.elections += 1;
        env.note(&format!("{id}/{node} is elected for term {}", self.dcs[id].term));
        self.schedule_commit(id, first, env);
        for other in (1..=self.options.nodes[id]).filter(|n| *n != node) {
            let at = At { dc: id, node: other };
            let life = self.node(at).life;
            let delay = 1 + env.rng.below(30);
            env.after(delay, Ev::Hear { at, life });
        }
        self.show(At { dc: id, node }, env);
    }

    /// Ends a node's process for a while.
    pub(super) fn kill(&mut self, at: At, lasting: u64, env: &mut SimEnv<'_>) {
        if !self.node(at).up {
            return;
        }
        env.note(&format!("fault: {at} is killed for {lasting}"));
        if self.dcs[at.dc].leader == Some(at.node) {
            self.depose(at.dc, true, env);
        }
        let silently = env.rng.chance(1, 2);
        env.stop(at, silently);
        self.node_mut(at).crash();
        self.proposals.retain(|(of, _, _), _| *of != at);
        let life = self.node(at).life;
        env.after(lasting, Ev::Up { at, life });
        if self.dcs[at.dc].leader.is_some() && !self.dcs[at.dc].has_majority(env.now_ms) {
            let (leader, term) = (self.dcs[at.dc].leader.unwrap_or_default(), self.dcs[at.dc].term);
            // Its lease runs out: it steps down, and knows it.
            let at = At { dc: at.dc, node: leader };
            let life = self.node(at).life;
            self.dcs[at.dc].end_term(env.rng.below(1));
            env.after(LEASE_MS, Ev::Learn { at, life, term });
            env.after(LEASE_MS, Ev::Elect { dc: at.dc });
        }
    }

    /// A node's process starts again.
    pub(super) fn revive(&mut self, at: At, life: u64, env: &mut SimEnv<'_>) {
        let node = self.node_mut(at);
        if node.up || node.life != life {
            return;
        }
        node.start();
        env.note(&format!("{at} starts at {}", node.applied));
        env.start(at);
        self.show(at, env);
        let delay = 1 + env.rng.below(100);
        env.after(delay, Ev::Hear { at, life });
    }

    /// All nodes of a datacenter lose their power at once.
    pub(super) fn power_cut(&mut self, dc: usize, lasting: u64, env: &mut SimEnv<'_>) {
        env.note(&format!("fault: no power in {dc}"));
        for node in 1..=self.options.nodes[dc] {
            let lasting = lasting + env.rng.below(300);
            self.kill(At { dc, node }, lasting, env);
        }
    }

    /// A node hears nothing from the others of its datacenter for a while; clients and other datacenters still reach it.
    fn isolate(&mut self, at: At, lasting: u64, env: &mut SimEnv<'_>) {
        if self.options.nodes[at.dc] == 1 || !self.node(at).up {
            return;
        }
        env.note(&format!("fault: {at} is cut off for {lasting}"));
        if self.dcs[at.dc].leader == Some(at.node) {
            self.depose(at.dc, true, env);
        }
        self.node_mut(at).deaf_until_ms = env.now_ms + lasting;
    }

    fn jump(&mut self, at: At, env: &mut SimEnv<'_>) {
        if !self.options.clocks {
            return;
        }
        let back = if env.rng.chance(1, 3) { 1 } else { env.rng.below(2 * JUMP_MS_MAX) };
        let offset = if back == 1 { 0 } else { back as i64 - JUMP_MS_MAX as i64 };
        env.note(&format!("fault: the clock of {at} is off by {offset}"));
        self.node(at).clock.set_offset_ms(offset);
    }

    /// Nodes of a datacenter compare their clocks: a leader that is off hands the lead over and refuses writes.
    pub(super) fn compare_clocks(&mut self, id: usize, env: &mut SimEnv<'_>) {
        let hears = |n: &&super::node::Node| n.up && n.deaf_until_ms <= env.now_ms;
        let mut offsets: Vec<i64> =
            self.dcs[id].nodes.iter().filter(hears).map(|n| n.clock.offset_ms()).collect();
        offsets.sort_unstable();
        if offsets.is_empty() {
            return;
        }
        let middle = [offsets[(offsets.len() - 1) / 2], offsets[offsets.len() / 2]];
        let alone = self.dcs[id].nodes.len() == 1;
        for node in self.dcs[id].nodes.iter_mut().filter(|n| n.up && n.deaf_until_ms <= env.now_ms) {
            let own = node.clock.offset_ms();
            let median = middle.map(|m| m - own).into_iter().min_by_key(|d| d.abs()).unwrap_or(0);
            let near = |offset: &&i64| offset.abs_diff(own) <= DRIFT_MS_MAX;
            node.clock_safe = median.unsigned_abs() <= DRIFT_MS_MAX;
            if node.clock_safe && (alone || offsets.iter().filter(near).count() > 1) {
                node.steady.believe();
            }
        }
        if let Some(node) = self.dcs[id].serving()
            && !self.dcs[id].node(node).clock_safe
        {
            self.depose(id, false, env);
        }
    }

    /// Ends all faults; links are healed by whoever runs the simulation.
    pub fn heal(&mut self, env: &mut SimEnv<'_>) {
        self.time.set(env.now_ms);
        self.chaos = false;
        for dc in 0..self.dcs.len() {
            self.dcs[dc].slow_until_ms = 0;
            for node in 1..=self.options.nodes[dc] {
                let at = At { dc, node };
                self.node(at).clock.set_offset_ms(0);
                self.node_mut(at).deaf_until_ms = 0;
                let life = self.node(at).life;
                self.revive(at, life, env);
            }
            self.elect(dc, env);
        }
    }

    /// Every disk of a datacenter loses its newest entries.
    pub fn lose_tail(&mut self, id: usize, env: &mut SimEnv<'_>) {
        self.time.set(env.now_ms);
        self.tail_lost = true;
        self.counts.faults += 1;
        self.power_cut(id, 300, env);
        let before = self.dcs[id].vector.clone();
        let kept = env.rng.below(8);
        let left = self.dcs[id].lose_tail(kept);
        for node in 1..=self.options.nodes[id] {
            // Their lives have moved on once more.
            let at = At { dc: id, node };
            let life = self.node(at).life;
            let delay = 300 + env.rng.below(200);
            env.after(delay, Ev::Up { at, life });
        }
        let elsewhere: Vec<_> =
            self.dcs.iter().filter(|dc| dc.id != id).map(|dc| dc.vector.clone()).collect();
        env.note(&format!("fault: {id} loses its tail, from {before:?} to {left:?}"));
        let own = self.dcs[id].own();
        let own_txns = own.is_some_and(|own| before.get(own) > left.get(own));
        let lost = Quarantine { life: own, own_txns };
        self.dcs[id].quarantine = (!left.covers_all(&before)).then_some(lost);
        self.clients.lose(id, &left, &elsewhere, env.now_ms);
    }
}
