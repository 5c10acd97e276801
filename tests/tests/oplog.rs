//! The oplog of a DC stays as short as it may be, however fast clients write.

use std::time::Duration;

use meridian_tests::client::add;
use meridian_tests::fleet::Fleet;
use meridian_tests::wait;
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
/// The txns that every DC keeps, whoever has them.
const KEPT: u64 = 10_000;
const WRITERS: u64 = 32;
/// What each writes: together a few hundred txns more than are kept.
const WRITES: u64 = 325;
/// One entry of housekeeping cuts one txn, so that it takes hundreds of them.
const SMALL: &str = "[storage]\nsweep_cells_max = 1\n";
/// Far less than these entries would take at a few a second.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_every_member_has_is_cut_as_fast_as_it_was_written() {
    let fleet = Fleet::start_with(BINARY, 1, 1, Duration::ZERO, SMALL).await;
    let node = fleet.node("eu-west/1");
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let node = node.clone();
        writers.spawn(async move {
            for _ in 0..WRITES {
                node.write(&format!("oplog/{writer}"), add(1)).await.ok();
            }
        });
    }
    while let Some(ended) = writers.join_next().await {
        ended.expect("a writer ends well");
    }
    let (kept, took) =
        wait::until("the oplog is cut", PATIENCE, async || match node.metric("meridian_oplog_txns").await {
            Some(txns) if txns <= KEPT => Ok(txns),
            other => Err(format!("the oplog has {other:?} txns")),
        })
        .await;
    println!("oplog: {} txns, cut to {kept} within {took:?}", WRITERS * WRITES);
    assert_eq!(kept, KEPT, "watches may resume within the newest");
}
