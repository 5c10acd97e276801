//! A DC whose leader dies goes on within seconds, loses nothing that it acknowledged, and counts every repeated
//! increment once.

use std::time::{Duration, Instant};

use meridian_tests::acknowledged;
use meridian_tests::client::{Ask, set};
use meridian_tests::fleet::Fleet;
use meridian_tests::wait;
use meridian_tests::workload::{Load, Workload, settle};
use serde_json::json;

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(20);
/// The goal is 3 s; a busy machine gets a margin, so that a timing never decides about correctness.
const RESUME_LIMIT: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);

fn load(fleet: &Fleet, dc: &str, run: &str, repeat: bool) -> Load {
    let nodes = fleet.dc(dc);
    Load { dc: dc.into(), nodes, writers: 6, operations_max: 1500, run: run.into(), repeat }
}

/// Kills the leader of `dc` under load, restarts it, and demands that everything is there, everywhere, once.
async fn lose_a_leader(fleet: &Fleet, dcs: &[&str], dc: &str, run: &str) {
    let workload = Workload::start(dcs.iter().map(|dc| load(fleet, dc, run, true)).collect());
    workload.progress(60, PATIENCE).await;
    let leader = fleet.leader(dc).await;
    fleet.cluster().kill(&leader).await.expect("killed");
    let killed = Instant::now();
    workload.progress(200, PATIENCE).await;
    wait::until("another node leads", PATIENCE, async || {
        let now = fleet.leader(dc).await;
        if now == leader { Err(now) } else { Ok(()) }
    })
    .await;
    workload.progress(60, PATIENCE).await;
    fleet.cluster().restart(&leader).await.expect("restarted");
    workload.progress(60, PATIENCE).await;
    let mut history = workload.finish().await;
    let resumed = history.resumed_after(dc, killed).expect("writes resumed");
    println!("{run}: the leader {leader} was killed; {dc} took writes again after {resumed:?} (goal 3 s)");
    assert!(resumed < RESUME_LIMIT, "writes resumed only after {resumed:?}");

    for dc in dcs {
        settle(&mut history, dc, &fleet.dc(dc), PATIENCE).await;
    }
    let (contents, took) = fleet.agreed(PATIENCE).await;
    let violations = acknowledged::check(&history, &contents);
    assert!(violations.is_empty(), "{violations:#?}");
    let repeated = history.operations.iter().filter(|op| op.attempts > 1).count();
    println!(
        "{run}: {} acknowledged, {repeated} of them repeated, {} unknown; {leader} caught up and all agree after {took:?}",
        history.acked(),
        history.unknown()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dc_of_three_nodes_survives_its_leader() {
    let fleet = Fleet::start(BINARY, 1, 3, LATENCY).await;
    lose_a_leader(&fleet, &["eu-west"], "eu-west", "one DC").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_also_held_the_links_of_its_dc_is_replaced_under_load_everywhere() {
    let fleet = Fleet::start(BINARY, 3, 3, LATENCY).await;
    lose_a_leader(&fleet, &["eu-west", "us-east", "ap-south"], "us-east", "three DCs").await;
}

/// Story: a leader that restarts must not lead on in its old term, nor answer from the checkpoint that it finds: it had
/// sent entries before its own disk had them, and had acknowledged more than the checkpoint holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_again_and_again_reads_what_it_acknowledged_as_soon_as_it_is_ready() {
    let fleet = Fleet::start(BINARY, 1, 1, Duration::ZERO).await;
    let node = fleet.node("eu-west/1");
    for round in 1..=4 {
        for number in 1..=5 {
            node.write("kept", set(round * 10 + number)).await;
        }
        fleet.cluster().kill("eu-west/1").await.expect("killed");
        let start = Instant::now();
        fleet.cluster().restart("eu-west/1").await.expect("restarted");
        // Asked at once: the answer waits until the node has recovered.
        let read = Ask::read("kept").wait("30s");
        assert_eq!(node.ask(read).await.ok().value(), &json!(round * 10 + 5), "round {round}");
        println!("one node: reads again {:?} after its restart began", start.elapsed());
    }
}
