//! A few rows of the fault matrix, short: real processes, all loads side by side, judged by the checkers. The whole matrix
//! is made by `cargo run --release -p meridian-tests --bin matrix`, and written down in docs/FAULTS.md.
//!
//! Victims and sessions are drawn from a seed, which is printed; `MERIDIAN_TEST_SEED` repeats it. Timing is not repeated,
//! so that a failure is a hint where to look and not yet its own proof.

use std::time::Duration;

use meridian_tests::faults::{Fault, RowPlan};
use meridian_tests::loads::Load;
use meridian_tests::program::skipped;
use rand::Rng;

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
/// How long a fault strikes: once or twice.
const LASTS: Duration = Duration::from_secs(4);
const PACE: Duration = Duration::from_millis(100);

async fn survives(fault: Fault) {
    let given = std::env::var("MERIDIAN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    println!("{}: MERIDIAN_TEST_SEED={seed}", fault.name());
    let plan = RowPlan { fault, loads: Load::ALL.to_vec(), seed, lasts: LASTS, pace: PACE };
    let row = plan.run(BINARY).await;
    if let Some(why) = row.skipped {
        return skipped(fault.name(), &why);
    }
    let violations = row.all_violations();
    assert!(violations.is_empty(), "{}, seed {seed}: {violations:#?}", fault.name());
    assert!(row.faults > 0, "nothing was struck");
    let done: usize = row.cells.values().map(|cell| cell.done).sum();
    let unknown: usize = row.cells.values().map(|cell| cell.unknown).sum();
    println!(
        "{}: {} faults, {done} operations done, {unknown} of unknown outcome, whole after {:?}",
        fault.name(),
        row.faults,
        row.whole_after
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_load_keeps_its_promise_when_all_nodes_of_a_dc_die_at_once() {
    survives(Fault::KillDc).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_load_keeps_its_promise_when_a_leader_is_cut_off_one_way() {
    survives(Fault::CutLeaderOneWay).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_load_keeps_its_promise_when_packets_are_lost() {
    survives(Fault::Loss).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_fsync_fails_stops_and_every_load_keeps_its_promise() {
    survives(Fault::FailingSync).await;
}
