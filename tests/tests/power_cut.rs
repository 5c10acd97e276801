//! All nine processes are killed at once under load, as in a power cut of every DC. After the restart everything
//! acknowledged is there in every DC, repeats count once, and the cluster goes on.

use std::time::{Duration, Instant};

use meridian_tests::acknowledged;
use meridian_tests::client::Outcome;
use meridian_tests::fleet::Fleet;
use meridian_tests::workload::{Load, Workload, settle};

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);
const DCS: [&str; 3] = ["eu-west", "us-east", "ap-south"];

fn loads(fleet: &Fleet, run: &str) -> Vec<Load> {
    let load = |dc: &&str| Load {
        dc: (*dc).into(),
        nodes: fleet.dc(dc),
        writers: 6,
        operations_max: 800,
        run: run.into(),
        repeat: false,
    };
    DCS.iter().map(load).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_all_processes_are_killed_at_once() {
    let fleet = Fleet::start(BINARY, 3, 3, LATENCY).await;
    let mut told = meridian_tests::workload::History::default();
    // The second time the nodes come from a recovery themselves, with what the first one left behind.
    for round in ["first", "second"] {
        let workload = Workload::start(loads(&fleet, round));
        workload.progress(300, PATIENCE).await;
        fleet.cluster().kill_all().await.expect("killed");
        let mut history = workload.finish().await;
        let acked_before = history.acked();
        let open = history.operations.iter().filter(|op| op.outcome != Outcome::Acked).count();

        let start = Instant::now();
        for node in fleet.node_names() {
            fleet.cluster().restart(&node).await.expect("restarted");
        }
        fleet.cluster().wait_ready(PATIENCE).await.expect("ready");
        let (contents, _) = fleet.agreed(PATIENCE).await;
        let recovered = start.elapsed();
        told.extend(history.clone());
        let violations = acknowledged::check(&told, &contents);
        assert!(violations.is_empty(), "{round}: {violations:#?}");

        // What was under way is repeated with its id: it counts once, whether or not it had been done.
        let settled: usize = {
            let mut settled = 0;
            for dc in DCS {
                settled += settle(&mut history, dc, &fleet.dc(dc), PATIENCE).await;
            }
            settled
        };
        told.operations.truncate(told.operations.len() - history.operations.len());
        told.extend(history);
        let (contents, _) = fleet.agreed(PATIENCE).await;
        let violations = acknowledged::check(&told, &contents);
        assert!(violations.is_empty(), "{round}, after the repeats: {violations:#?}");
        println!(
            "{round} power cut: {acked_before} acknowledged, {open} under way, {settled} of them repeated; \
             all nine agree {recovered:?} after the restart began"
        );
    }
}
