//! Transactions that nobody ends.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use meridian_client::wire::frame::{Request, Verb};
use meridian_client::{Error, ErrorCode, Isolation, Transaction};
use meridian_tests::native::Wire;
use meridian_tests::wait;
use tokio::task::JoinSet;

use super::{EU, LIFE, World, get, set};

const CONNECTIONS: usize = 10;
const TXNS_EACH: usize = 20;
/// They must end with their connections, long before their life is over.
const AT_ONCE: Duration = Duration::from_secs(3);
const EXPIRED: &str = "meridian_txns_expired_total";
/// Several times the life of a transaction.
const EXPIRY_LIMIT: Duration = Duration::from_secs(60);

/// A connection with transactions that it does not end.
async fn leave_open(server: String) -> Wire {
    let mut wire = Wire::open(&server).await.expect("it listens");
    for _ in 0..TXNS_EACH {
        let begin = Verb::Begin { isolation: Isolation::Serializable };
        let begun = wire.ask(Request::new(0, begin)).await.expect("answered");
        assert!(begun.number("txn").is_some(), "{begun:?}");
    }
    wire
}

pub async fn two_hundred_that_are_left_open_cost_nothing_once_their_connections_are_gone(world: &World) {
    let node = world.fleet.node(&format!("{EU}/2"));
    let before = node.metric(EXPIRED).await;
    let start = Instant::now();
    let mut opening = JoinSet::new();
    for _ in 0..CONNECTIONS {
        opening.spawn(leave_open(node.server().to_string()));
    }
    let connections = opening.join_all().await;
    let open = node.metric("meridian_txns_open").await;
    let in_time = start.elapsed() < LIFE;
    if in_time {
        assert_eq!(open, Some((CONNECTIONS * TXNS_EACH) as u64));
    } else {
        println!(
            "abandoned: this machine took {:?} to begin them, so some had ended already",
            start.elapsed()
        );
    }
    drop(connections);
    let ((), took) = wait::until("abandoned transactions end", AT_ONCE, async || {
        let open = node.metric("meridian_txns_open").await;
        if open == Some(0) { Ok(()) } else { Err(format!("{open:?} are open")) }
    })
    .await;
    if in_time && start.elapsed() < LIFE {
        assert_eq!(node.metric(EXPIRED).await, before, "none lived to its end");
    }
    println!(
        "abandoned: {} open transactions ended {took:?} after their connections",
        CONNECTIONS * TXNS_EACH
    );
}

/// The closure's first run takes longer than a transaction may; its second run commits.
pub async fn one_that_outlives_its_time_is_told_so_and_the_closure_runs_again(world: &World) {
    let space = world.eu[0].session().space("expiry");
    set(&space, "x", 1).await;
    let node = world.fleet.node(&format!("{EU}/1"));
    let before = node.metric(EXPIRED).await;
    let runs = AtomicU32::new(0);
    let told = std::sync::Mutex::new(None);
    let outcome: Result<(), Error> = space
        .transaction(|txn: Transaction| {
            let (runs, told, node) = (&runs, &told, &node);
            async move {
                let run = runs.fetch_add(1, Ordering::Relaxed);
                let x = txn.register("x").get::<i64>().await?.into_inner().unwrap_or_default();
                txn.register("x").set(x + 1);
                if run > 0 {
                    return Ok(());
                }
                wait::until("the transaction's life ends", EXPIRY_LIMIT, async || {
                    let expired = node.metric(EXPIRED).await;
                    if expired > before { Ok(()) } else { Err(format!("{expired:?} have expired")) }
                })
                .await;
                let read = txn.register("x").get::<i64>().await;
                let error = read.expect_err("its life is over");
                *told.lock().expect("no panic") = Some(error.clone());
                Err(error)
            }
        })
        .await;
    outcome.expect("the second run commits");
    let told = told.into_inner().expect("no panic").expect("the first run was told");
    assert_eq!(told.code(), Some(ErrorCode::Conflict), "{told}");
    let reason = told.details().and_then(|details| details.get("reason")).and_then(|reason| reason.as_str());
    assert_eq!(reason, Some("expired"), "{told:?}");
    assert_eq!(runs.load(Ordering::Relaxed), 2);
    assert_eq!(get(&space, "x").await, Some(2), "the first run left nothing");
}
