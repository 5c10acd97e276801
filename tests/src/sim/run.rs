//! One run from its seed: chaos, healing, and what must hold at the end.

use std::fmt::Write as _;

use meridian_crdt::{Content, Query, list, read};
use meridian_gossip::sim::{At, Options as Links, Sim};

use super::clients::{SPACE, key_of};
use super::facts::KeyId;
use super::levels;
use super::node::Node;
use super::options::Options;
use super::record::read_action;
use super::watching::WatchTally;
use super::world::{Cluster, TIDY_EVERY_MS};
use crate::checkers::watch::Pasts;

/// How long everything may take to be equal after the last fault, in virtual time.
const CONVERGE_MS: u64 = 15_000;
/// The same where credits are so small that each round trip carries only a txn or two.
const CONVERGE_TINY_MS: u64 = 180_000;
/// How long clients may take to hear what became of their last requests.
const LAST_ANSWERS_MS: u64 = 20_000;
/// Rows that housekeeping drops for each txn, on average: one of the oplog, and what the txn has touched.
const ROWS_OF_A_TXN: u64 = 4;
/// How long faults rest around the loss of a tail.
const QUIET_MS: u64 = 3_000;
/// How often write levels are looked at.
const LEVELS_EVERY_MS: u64 = 50;
/// The most keys of a datacenter.
const KEYS_MAX: usize = 10_000;

/// What a clean run came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The hash of its trace.
    pub hash: u64,
    /// What happened, for people.
    pub text: String,
    /// Requests of clients that were answered.
    pub requests: u64,
    /// Faults.
    pub faults: u64,
}

/// A run.
pub struct Run {
    sim: Sim<Cluster>,
}

impl Run {
    /// A run from `seed` with the options that follow from it.
    pub fn new(seed: u64, traced: bool) -> Run {
        Run::with_options(seed, Options::draw(seed), traced)
    }

    /// A run from `seed` with other options.
    pub fn with_options(seed: u64, options: Options, traced: bool) -> Run {
        let links = Links {
            nodes: options.nodes.clone(),
            config: options.gossip.clone(),
            delay_ms: options.delay_ms,
            duplicates: options.duplicates,
            resets: options.resets,
        };
        let mut sim = Sim::new(seed, links, Cluster::new(options), traced);
        sim.with_world(Cluster::begin);
        Run { sim }
    }

    /// The trace so far.
    pub fn trace(&self) -> &meridian_gossip::sim::Trace {
        self.sim.trace()
    }

    /// What clients asked and were told so far.
    pub fn history(&self) -> &crate::history::History {
        self.sim.world.clients.record.history()
    }

    /// Runs to the end; panics with what was violated.
    pub fn finish(&mut self) -> Summary {
        let options = self.sim.world.options.clone();
        if options.tail_loss {
            self.run(options.chaos_ms / 2);
            self.lose_a_tail();
        }
        let chaos_ms =
            if options.tail_loss { self.sim.now_ms + options.chaos_ms / 2 } else { options.chaos_ms };
        self.run(chaos_ms);
        self.heal();
        let limit_ms = if options.tiny { CONVERGE_TINY_MS } else { CONVERGE_MS };
        self.until(limit_ms, "not converged", |sim| converged(&sim.world));
        let converged_ms = self.sim.now_ms;
        self.until(LAST_ANSWERS_MS, "clients wait", |sim| !sim.world.busy());
        let swept_ms = limit_ms + self.sweeping_ms();
        self.until(swept_ms, "not stable", |sim| converged(&sim.world) && stable(&sim.world));
        self.compare();
        self.summary(converged_ms)
    }

    /// Runs until then, and looks now and then whether what write levels would answer is true.
    fn run(&mut self, until_ms: u64) {
        while self.sim.now_ms < until_ms {
            self.sim.run(until_ms.min(self.sim.now_ms + LEVELS_EVERY_MS));
            levels::check(&mut self.sim);
        }
    }

    /// How long housekeeping may need for all that there is: a few rows a txn, as many at once as the options say.
    fn sweeping_ms(&self) -> u64 {
        let steps = txns(&self.sim.world) * ROWS_OF_A_TXN / u64::from(self.sim.world.options.tidy_rows_max);
        steps * TIDY_EVERY_MS
    }

    fn heal(&mut self) {
        self.sim.heal_network();
        self.sim.with_world(Cluster::heal);
    }

    fn until(&mut self, limit_ms: u64, what: &str, reached: impl Fn(&Sim<Cluster>) -> bool) {
        let deadline_ms = self.sim.now_ms + limit_ms;
        while !reached(&self.sim) {
            assert!(self.sim.now_ms < deadline_ms, "{what} within {limit_ms} ms:{}", describe(&self.sim));
            self.sim.run(self.sim.now_ms + 100);
        }
    }

    /// In a quiet hour a datacenter loses its newest entries; the others bring back what they have.
    fn lose_a_tail(&mut self) {
        let (resets, duplicates) = (self.sim.options.resets, self.sim.options.duplicates);
        self.heal();
        self.sim.world.chaos = true;
        self.sim.world.quiet_until_ms = self.sim.now_ms + 2 * QUIET_MS;
        self.sim.run(self.sim.now_ms + QUIET_MS / 2);
        let dc = self.sim.rng.below(self.sim.world.dcs.len() as u64) as usize;
        self.sim.with_world(|world, env| world.lose_tail(dc, env));
        self.sim.run(self.sim.now_ms + QUIET_MS);
        self.sim.world.dcs[dc].let_clients_back();
        (self.sim.options.resets, self.sim.options.duplicates) = (resets, duplicates);
    }

    /// I9, and what clients were told.
    fn compare(&self) {
        let dcs = &self.sim.world.dcs;
        let ledger = &self.sim.world.clients.ledger;
        let first = serving(&self.sim.world, 0);
        for dc in dcs {
            dc.compare_rows();
            let node = serving(&self.sim.world, dc.id);
            assert_eq!(contents(node), contents(first), "I9: {} and {} read differently", node.at, first.at);
            assert_eq!(digest(node), digest(first), "I9: digests of {} and {} differ", node.at, first.at);
            let snapshot: Vec<_> =
                ledger.keys().into_iter().map(|id| (id, read_key(node, &key_of(id)))).collect();
            ledger.check(&ledger.acknowledged(), &snapshot, &format!("at the end in {}", dc.name));
            self.check_transactions(dc.id, &snapshot);
            let at_rest: Vec<_> =
                snapshot.iter().filter_map(|(id, c)| read_action(*id, c.as_ref())).collect();
            if dc.id == 0 {
                let violations = self.sim.world.clients.record.violations(&at_rest, self.sim.world.tail_lost);
                let stories: Vec<String> = violations.iter().map(ToString::to_string).collect();
                assert!(stories.is_empty(), "{}", stories.join("\n"));
            }
        }
        self.check_watchers();
    }

    /// What transactions promise to each other, judged by what is left in their own datacenter.
    fn check_transactions(&self, dc: usize, snapshot: &[(KeyId, Option<Content>)]) {
        let world = &self.sim.world;
        if world.tail_lost {
            return;
        }
        let at_rest: Vec<_> =
            snapshot.iter().filter_map(|(id, c)| Some((*id, read_action(*id, c.as_ref())?))).collect();
        let violations = world.transactors.serial.violations(dc, &world.clients.ledger, &at_rest);
        let stories: Vec<String> = violations.iter().map(ToString::to_string).collect();
        assert!(stories.is_empty(), "{}", stories.join("\n"));
    }

    /// What watchers were shown.
    fn check_watchers(&self) {
        let world = &self.sim.world;
        let history = world.clients.record.history();
        let pasts = Pasts::of(history);
        for watcher in &world.watchers {
            let violations = watcher.violations(history, &pasts, &world.clients.ledger, world.tail_lost);
            let stories: Vec<String> = violations.iter().map(ToString::to_string).collect();
            assert!(stories.is_empty(), "watcher {}: {}", watcher.number, stories.join("\n"));
        }
    }

    fn summary(&self, converged_ms: u64) -> Summary {
        let world = &self.sim.world;
        let (counts, tally) = (&world.counts, &world.clients.tally);
        let mut text = String::new();
        let _ = writeln!(
            text,
            "reads {}  writes {}  refused {}  not done {}  unknown {}  retries {}",
            tally.reads, tally.writes, tally.refused, tally.not_done, tally.unknown, tally.retries
        );
        let _ = writeln!(
            text,
            "faults {}  elections {}  entries applied {}  forgotten {}  snapshots {}  new lives {}",
            counts.faults,
            counts.elections,
            counts.entries,
            counts.forgotten,
            counts.snapshots,
            counts.new_lives
        );
        let (ran, watched) = (&world.transactors.tally, watch_tally(&world.watchers));
        let _ = writeln!(
            text,
            "transactions: committed {}  read only {}  not done {}  conflicts {}  unknown {}  settled {}",
            ran.committed, ran.read_only, ran.not_done, ran.conflicts, ran.unknown, ran.settled
        );
        let _ = writeln!(
            text,
            "watchers: shown {}  resumed {}  expired {}",
            watched.shown, watched.resumed, watched.expired
        );
        let _ = writeln!(text, "levels: {} looked at, {} held by all", counts.levels.0, counts.levels.1);
        let _ = write!(
            text,
            "txns {}  converged at {converged_ms} ms  ended at {} ms",
            txns(world),
            self.sim.now_ms
        );
        Summary {
            hash: self.sim.trace().hash(),
            text,
            requests: tally.reads + tally.writes + tally.refused + ran.committed + ran.read_only,
            faults: counts.faults,
        }
    }
}

fn serving(world: &Cluster, dc: usize) -> &Node {
    let node = world.dcs[dc].serving().unwrap_or_else(|| panic!("{dc} has no leader"));
    world.dcs[dc].node(node)
}

/// How many txns there are, once all datacenters have applied the same.
fn txns(world: &Cluster) -> u64 {
    world.dcs[0].vector.iter().map(|dot| dot.seq).sum()
}

/// All datacenters have applied the same, on all nodes.
fn converged(world: &Cluster) -> bool {
    let first = &world.dcs[0].vector;
    world.dcs.iter().all(|dc| {
        let all = dc.nodes.iter().all(|node| node.up && node.applied == dc.committed);
        dc.serving().is_some() && all && dc.vector == *first
    })
}

/// Everything is acknowledged and stable, and nothing ripe is left to sweep.
fn stable(world: &Cluster) -> bool {
    world.dcs.iter().all(|dc| {
        let node = serving(world, dc.id);
        dc.stable == dc.vector && dc.acked == dc.vector && !node.state.sweep_left
    })
}

fn watch_tally(watchers: &[super::watching::Watcher]) -> WatchTally {
    watchers.iter().fold(WatchTally::default(), |mut sum, watcher| {
        sum.shown += watcher.tally.shown;
        sum.resumed += watcher.tally.resumed;
        sum.expired += watcher.tally.expired;
        sum
    })
}

fn digest(node: &Node) -> u128 {
    meridian_crdt::digest(&node.rows).unwrap_or_else(|e| panic!("the digest cannot be read: {e}"))
}

fn read_key(node: &Node, key: &meridian_crdt::Key) -> Option<meridian_crdt::Content> {
    let reading = read(&node.rows, key, &Query::default());
    reading.unwrap_or_else(|e| panic!("{key} cannot be read: {e}")).content
}

fn contents(node: &Node) -> Vec<(String, Option<meridian_crdt::Content>)> {
    let listing = list(&node.rows, SPACE, "", None, KEYS_MAX).unwrap_or_else(|e| panic!("{e}"));
    let key = |name: &str| meridian_crdt::Key::new(SPACE, name).unwrap_or_else(|e| panic!("{e}"));
    listing.keys.into_iter().map(|listed| (listed.key.clone(), read_key(node, &key(&listed.key)))).collect()
}

fn describe(sim: &Sim<Cluster>) -> String {
    let mut out = String::new();
    for dc in &sim.world.dcs {
        let _ = write!(
            out,
            "\n{} leader {:?} term {} committed {} of {} vector {:?} acked {:?} stable {:?}",
            dc.name,
            dc.leader,
            dc.term,
            dc.committed,
            dc.log.len(),
            dc.vector,
            dc.acked,
            dc.stable
        );
        for node in &dc.nodes {
            let _ =
                write!(out, "\n  {} up {} applied {} heard {}", node.at, node.up, node.applied, node.heard);
        }
        if let Some(node) = dc.leader {
            let _ = write!(out, "\n{}", sim.describe(At { dc: dc.id, node }));
        }
    }
    out
}
