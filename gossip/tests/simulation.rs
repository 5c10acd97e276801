//! Replication under faults, by seed.

mod sim;

use meridian_gossip::GossipConfig;
use meridian_gossip::sim::rng::Rng;
use sim::{Options, describe, run_to_convergence, start, sum};

/// How long everything may take to be equal after the last fault, in virtual time: twice the longest single wait,
/// which is a silent link (3 s).
const CONVERGE_MS: u64 = 8_000;

/// The same where credits are so small that each round trip carries only a txn or two.
const CONVERGE_TINY_MS: u64 = 120_000;

/// Seeds of the suite.
const SEEDS: u64 = 200;

fn healthy(dcs: usize) -> Options {
    let mut config = GossipConfig::default();
    config.poll_ms = 50;
    Options {
        dcs,
        config,
        write_every_ms: 20,
        write_from_ms: 0,
        write_bytes_max: 200,
        delay_ms: (10, 60),
        propose_ms: (1, 8),
        propose_failures: 0,
        duplicates: 0,
        resets: 0,
        chaos_ms: 4000,
        fault_every_ms: 0,
    }
}

/// The options of a chaotic run follow from its seed too.
fn chaotic(seed: u64) -> Options {
    let mut rng = Rng::new(seed.wrapping_mul(31));
    let mut options = healthy(3 + rng.below(3) as usize);
    options.write_every_ms = 20 + rng.below(150);
    options.delay_ms = (rng.below(20), 20 + rng.below(120));
    options.propose_ms = (1, 2 + rng.below(40));
    options.propose_failures = *rng.pick(&[0, 5, 50]);
    options.duplicates = *rng.pick(&[0, 20, 100]);
    options.resets = *rng.pick(&[0, 1, 10]);
    options.chaos_ms = 6000;
    options.fault_every_ms = 200 + rng.below(1500);
    if rng.below(2) == 0 {
        options.config.credit_bytes = 100 + rng.below(3000);
        options.config.gate_bytes_max = 300 + rng.below(4000);
        options.config.want_reserve_bytes = 1 + rng.below(1000);
        options.config.read_bytes_max = 1 + rng.below(2000);
        options.config.propose_txns_max = 1 + rng.below(8) as usize;
    }
    options
}

#[test]
fn equal_seeds_give_equal_traces() {
    for seed in 0..3 {
        let run = || {
            let mut sim = start(seed, chaotic(seed), true);
            sim.run(5000);
            sim
        };
        let (first, second) = (run(), run());
        assert!(first.trace().count() > 1000);
        assert!(first.trace().lines() == second.trace().lines(), "seed {seed} runs in two ways");
        assert_eq!(first.trace().hash(), second.trace().hash());
    }
}

#[test]
fn a_healthy_mesh_sends_each_txn_once_per_dc() {
    // Before the links stand there is nothing healthy about it.
    let mut sim = start(1, Options { write_from_ms: 1500, ..healthy(4) }, false);
    run_to_convergence(&mut sim, 5000);
    let written = sim.world.dcs[0].contents.len() as u64;
    assert!(written > 300);
    assert_eq!(sum(&sim, |l| l.sent_txns), written * 3);
    assert_eq!(sum(&sim, |l| l.received_txns), written * 3);
    assert_eq!(sum(&sim, |l| l.duplicate_txns + l.wants_sent + l.dropped_txns), 0);
}

#[test]
fn all_that_every_dc_has_becomes_stable() {
    let mut sim = start(2, healthy(3), false);
    run_to_convergence(&mut sim, 5000);
    sim.run(sim.now_ms + 3000);
    for dc in &sim.world.dcs {
        assert_eq!(*dc.stable(), dc.vector);
    }
}

#[test]
fn data_flows_around_a_cut_between_two_dcs() {
    let mut sim = start(3, healthy(3), false);
    sim.cut(0, 2, 60_000);
    sim.cut(2, 0, 60_000);
    sim.run(4000);
    let behind_ms = 3000;
    let before = (sim.world.dcs[0].vector.clone(), sim.world.dcs[2].vector.clone());
    assert!(before.0.len() == 3, "all three write");
    sim.run(4000 + behind_ms);
    assert!(sim.world.dcs[2].vector.covers_all(&before.0), "A's txns arrive at C: {}", describe(&sim));
    assert!(sim.world.dcs[0].vector.covers_all(&before.1), "C's txns arrive at A");
    assert!(sim.network.is_cut(0, 2));
}

#[test]
fn a_dc_that_was_away_catches_up() {
    let mut options = healthy(3);
    options.chaos_ms = 12_000;
    options.config.credit_bytes = 5_000;
    options.config.gate_bytes_max = 10_000;
    let mut sim = start(4, options, false);
    sim.run(1000);
    sim.with_world(|world, env| world.take_down(2, 60_000, env));
    run_to_convergence(&mut sim, 20_000);
}

#[test]
fn faults_of_every_kind_end_in_equal_contents() {
    let from: u64 = std::env::var("SIM_FROM").ok().and_then(|v| v.parse().ok()).unwrap_or(0);
    let seeds = std::env::var("SIM_SEEDS").ok().and_then(|v| v.parse().ok()).unwrap_or(SEEDS);
    for seed in from..from + seeds {
        let options = chaotic(seed);
        let tiny = options.config.credit_bytes != GossipConfig::default().credit_bytes;
        let limit_ms = if tiny { CONVERGE_TINY_MS } else { CONVERGE_MS };
        let run = std::panic::catch_unwind(|| run_to_convergence(&mut start(seed, options, false), limit_ms));
        assert!(run.is_ok(), "seed {seed} (of `faults_of_every_kind_end_in_equal_contents`) fails");
    }
}
