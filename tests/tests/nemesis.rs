//! Faults in a random order under load: nodes die and return, DCs are cut off and healed, snapshots and checkpoints run
//! all the time. When it is over, everything acknowledged is there, once, and all nodes agree.
//!
//! The order comes from a seed, which is printed; `MERIDIAN_TEST_SEED` repeats it, `MERIDIAN_TEST_FAULTS` makes it longer.
//! Timing is not repeated, so that a failure is a hint where to look and not yet its own proof.

use std::collections::BTreeSet;
use std::time::Duration;

use meridian_tests::acknowledged;
use meridian_tests::fleet::Fleet;
use meridian_tests::workload::{Load, Workload, settle};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(90);
const DCS: [&str; 3] = ["eu-west", "us-east", "ap-south"];
const FAULTS_DEFAULT: usize = 14;
/// Operations acknowledged between two faults.
const BETWEEN_FAULTS: usize = 40;
/// So that logs are purged, followers that were away need snapshots, and kills meet checkpoints.
const SMALL: &str = "[raft]\nsnapshot_every = 100\n\n[storage]\ncheckpoint_interval = \"200ms\"";

/// What is broken at the moment.
#[derive(Debug, Default)]
struct Broken {
    dead: BTreeSet<String>,
    cut: BTreeSet<(&'static str, &'static str)>,
}

impl Broken {
    fn dead_in(&self, dc: &str) -> usize {
        self.dead.iter().filter(|node| node.starts_with(&format!("{dc}/"))).count()
    }

    /// How many DCs have a majority: at least two are kept, so that the load goes on.
    fn serving_without(&self, node: &str) -> usize {
        let dead = |dc: &str| self.dead_in(dc) + usize::from(node.starts_with(&format!("{dc}/")));
        DCS.iter().filter(|dc| dead(dc) <= 1).count()
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_doubled_under_faults_in_random_order() {
    let seed = number("MERIDIAN_TEST_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    let faults =
        number("MERIDIAN_TEST_FAULTS").and_then(|n| usize::try_from(n).ok()).unwrap_or(FAULTS_DEFAULT);
    println!("nemesis: MERIDIAN_TEST_SEED={seed}, {faults} faults");
    let mut random = StdRng::seed_from_u64(seed);
    let fleet = Fleet::start_with(BINARY, 3, 3, LATENCY, SMALL).await;
    let load = |dc: &&str| Load {
        dc: (*dc).into(),
        nodes: fleet.dc(dc),
        writers: 3,
        operations_max: 2500,
        run: "nemesis".into(),
        repeat: true,
    };
    let workload = Workload::start(DCS.iter().map(load).collect());
    let mut broken = Broken::default();
    for _ in 0..faults {
        workload.progress(BETWEEN_FAULTS, PATIENCE).await;
        let done = disturb(&fleet, &mut broken, &mut random).await;
        println!("nemesis: {done}");
    }
    workload.progress(BETWEEN_FAULTS, PATIENCE).await;
    fleet.cluster().heal(None).expect("healed");
    for node in &broken.dead {
        fleet.cluster().restart(node).await.expect("restarted");
    }
    fleet.cluster().wait_ready(PATIENCE).await.expect("ready");
    workload.progress(BETWEEN_FAULTS, PATIENCE).await;
    let mut history = workload.finish().await;
    for dc in DCS {
        settle(&mut history, dc, &fleet.dc(dc), PATIENCE).await;
    }
    let (contents, took) = fleet.agreed(PATIENCE).await;
    let violations = acknowledged::check(&history, &contents);
    assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
    println!(
        "nemesis: {} acknowledged, {} unknown, all nine agree after {took:?}",
        history.acked(),
        history.unknown()
    );
}

/// Breaks or repairs one thing, and says what.
async fn disturb(fleet: &Fleet, broken: &mut Broken, random: &mut StdRng) -> String {
    let nodes = fleet.node_names();
    let alive: Vec<&String> = nodes.iter().filter(|node| !broken.dead.contains(*node)).collect();
    let pairs = [(DCS[0], DCS[1]), (DCS[0], DCS[2]), (DCS[1], DCS[2])];
    match random.random_range(0..10) {
        0..4 => {
            let victim = (*alive.choose(random).expect("a node lives")).clone();
            if broken.serving_without(&victim) < 2 {
                fleet.cluster().restart(&victim).await.expect("restarted");
                return format!("{victim} stopped in good order and started");
            }
            fleet.cluster().kill(&victim).await.expect("killed");
            broken.dead.insert(victim.clone());
            format!("{victim} killed")
        }
        4..7 => {
            let dead: Vec<String> = broken.dead.iter().cloned().collect();
            let Some(node) = dead.choose(random) else { return "nothing to restart".into() };
            fleet.cluster().restart(node).await.expect("restarted");
            broken.dead.remove(node);
            format!("{node} restarted")
        }
        7..9 => {
            let pair = *pairs.choose(random).expect("three pairs");
            fleet.cluster().cut(pair.0, pair.1).expect("cut");
            broken.cut.insert(pair);
            format!("{} and {} cut", pair.0, pair.1)
        }
        _ => {
            let Some(pair) = broken.cut.pop_first() else { return "nothing to heal".into() };
            fleet.cluster().heal(Some(pair)).expect("healed");
            format!("{} and {} healed", pair.0, pair.1)
        }
    }
}
