//! The anomalies of the literature, one named step each, met by clients of the SDK at real processes: three DCs of three
//! nodes. (Berenson et al. 1995, Adya 1999, Fekete et al. 2004, Terry et al. 1994, Bailis et al. 2014.)
//!
//! The steps of transactions interleave in one order, which the test decides; what looks for a moment that must not be
//! looks all the time while others write, and waits for nothing but what it looks for.

mod abandoned;
mod across_dcs;
mod in_dc;

use std::time::{Duration, Instant};

use meridian_client::{Client, Error, Session, Space};
use meridian_tests::fleet::Fleet;
use meridian_tests::sdk;

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_secs(60);
const EU: &str = "eu-west";
const US: &str = "us-east";
const AP: &str = "ap-south";
/// How long a transaction may stay open: long enough for a step of a few transactions on a busy machine, short enough to wait for its end.
const LIFE: Duration = Duration::from_secs(12);

/// What the steps work with: one client for each node, which knows no other node.
struct World {
    fleet: Fleet,
    eu: [Client; 3],
    us: [Client; 3],
    ap: [Client; 3],
}

impl World {
    async fn start() -> World {
        let config = format!("[transactions]\nlife_max = \"{}s\"", LIFE.as_secs());
        let fleet = Fleet::start_with(BINARY, 3, 3, LATENCY, &config).await;
        let nodes = async |dc: &str| {
            let [one, two, three] = [1, 2, 3].map(|id| format!("{dc}/{id}"));
            [
                sdk::client(&fleet, &[one]).await,
                sdk::client(&fleet, &[two]).await,
                sdk::client(&fleet, &[three]).await,
            ]
        };
        let (eu, us, ap) = (nodes(EU).await, nodes(US).await, nodes(AP).await);
        World { fleet, eu, us, ap }
    }
}

/// The register's value; none if it is absent.
async fn get(space: &Space, key: &str) -> Option<i64> {
    try_get(space, key).await.unwrap_or_else(|e| panic!("{}/{key}: {e}", space.name()))
}

async fn try_get(space: &Space, key: &str) -> Result<Option<i64>, Error> {
    Ok(space.register(key).get::<i64>().await?.into_inner())
}

/// Sets a register by a write of its own.
async fn set(space: &Space, key: &str, value: i64) {
    space.register(key).set(value).await.unwrap_or_else(|e| panic!("{}/{key}: {e}", space.name()));
}

/// A session that goes on at another node where this one is, and waits at most so long for that node to catch up.
fn moved(session: &Session, to: &Client, wait: Duration) -> Session {
    to.resume(&session.token()).expect("its token").wait(wait)
}

/// Runs steps in turn; each says its name, so that a failure has one.
macro_rules! steps {
    ($world:expr; $($module:ident { $($step:ident,)* })*) => {$($({
        let start = Instant::now();
        println!("step: {}", stringify!($step));
        $module::$step($world).await;
        println!("      {:?}", start.elapsed());
    })*)*};
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_anomaly_is_prevented_where_it_is_said_to_be_prevented() {
    let world = World::start().await;
    steps! { &world;
        abandoned {
            two_hundred_that_are_left_open_cost_nothing_once_their_connections_are_gone,
        }
        in_dc {
            dirty_write_interleaved_writers_leave_the_writes_of_one_of_them_whole,
            dirty_read_the_writes_of_an_open_transaction_are_seen_by_nobody,
            aborted_read_the_writes_of_an_aborted_transaction_are_never_seen,
            intermediate_read_only_the_last_write_is_ever_seen,
            circular_information_flow_two_transactions_never_see_each_others_writes,
            lost_update_the_second_of_two_is_refused,
            lost_update_a_write_outside_of_transactions_is_not_lost_either,
            lost_update_of_counters_that_nobody_read_is_no_conflict,
            non_repeatable_read_a_key_reads_the_same_whatever_others_commit,
            read_skew_the_keys_of_a_snapshot_are_all_of_one_moment,
            write_skew_is_prevented_at_serializable_and_happens_at_snapshot,
            phantom_inserts_deletes_and_updates_in_a_listed_range_are_conflicts,
            phantom_at_snapshot_happens_where_nothing_written_changed,
            read_only_anomaly_one_of_three_gives_way,
            sessions_keep_their_guarantees_over_all_nodes_of_a_dc,
        }
        across_dcs {
            causality_a_reply_is_never_seen_before_its_post,
            session_anomalies_are_prevented_by_the_token_and_happen_without_it,
        }
    }
    // The one waits for a life to end, the other works meanwhile.
    tokio::join!(
        abandoned::one_that_outlives_its_time_is_told_so_and_the_closure_runs_again(&world),
        across_dcs::atomic_visibility_a_txn_is_never_seen_in_part(&world),
    );
    let took = world.fleet.converged(PATIENCE).await;
    println!("all nodes agree after {took:?}");
}
