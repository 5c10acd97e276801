//! Datacenters of a few lines behind the simulated links: replicated logs that apply in order, hold sets of dots, and
//! change leaders.
//!
//! Invariants are asserted at every step; after the faults everything is healed and liveness is demanded.

pub mod dc;
pub mod world;

use meridian_gossip::sim::{At, Options as Links, Sim, name};
use meridian_gossip::{GossipConfig, LinkStatus};

use dc::NODES;
pub use world::Toy;

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

/// A run from `seed`.
pub fn start(seed: u64, options: Options, traced: bool) -> Sim<Toy> {
    let links = Links {
        nodes: vec![NODES; options.dcs],
        config: options.config.clone(),
        delay_ms: options.delay_ms,
        duplicates: options.duplicates,
        resets: options.resets,
    };
    let mut sim = Sim::new(seed, links, Toy::new(options), traced);
    sim.with_world(Toy::begin);
    sim
}

/// Runs through the chaos, heals everything, and demands that all DCs are equal within `limit_ms`.
pub fn run_to_convergence(sim: &mut Sim<Toy>, limit_ms: u64) {
    sim.run(sim.world.options.chaos_ms);
    sim.heal_network();
    sim.with_world(Toy::heal);
    let deadline_ms = sim.now_ms + limit_ms;
    while !converged(sim) {
        assert!(sim.now_ms < deadline_ms, "not converged in time: {}", describe(sim));
        sim.run(sim.now_ms + 100);
    }
    let dcs = &sim.world.dcs;
    for dc in dcs {
        assert_eq!(dc.contents, dcs[0].contents, "I9: equal vectors, equal contents");
        assert_eq!(dc.digest(), dcs[0].digest(), "I9: equal digests");
    }
}

fn converged(sim: &Sim<Toy>) -> bool {
    let dcs = &sim.world.dcs;
    dcs.iter().all(|dc| dc.vector == dcs[0].vector && dc.leader.is_some())
}

pub fn describe(sim: &Sim<Toy>) -> String {
    let mut out = String::new();
    for (i, dc) in sim.world.dcs.iter().enumerate() {
        out += &format!("\n{} leader {:?} term {} vector {:?}", name(i), dc.leader, dc.term, dc.vector);
        if let Some(node) = dc.leader {
            out += &format!("\n  {}", sim.describe(At { dc: i, node }));
        }
    }
    out
}

/// The sum of something over the links of all leaders.
pub fn sum(sim: &Sim<Toy>, of: impl Fn(&LinkStatus) -> u64) -> u64 {
    let leaders = sim.world.dcs.iter().enumerate().filter_map(|(dc, d)| Some(At { dc, node: d.leader? }));
    leaders.flat_map(|at| sim.links(at)).map(|link| of(&link)).sum()
}
