//! Watchers that are moved between the nodes of all DCs, under load and faults, are shown every txn once, whole, and
//! after everything that it depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use meridian_tests::client::{Ask, Client, Outcome, set};
use meridian_tests::fleet::Fleet;
use meridian_tests::sse::Watcher;
use meridian_tests::workload::{Change, ELEMENTS, HITS, History, Load, PAIRS, Workload, settle};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(90);
const DCS: [&str; 3] = ["eu-west", "us-east", "ap-south"];
/// The key of the chain of writes that each depend on the one before.
const CHAIN: &str = "chain/link";

fn load(fleet: &Fleet, dc: &str) -> Load {
    Load {
        dc: dc.into(),
        nodes: fleet.dc(dc),
        writers: 3,
        operations_max: 2000,
        run: "w".into(),
        repeat: true,
    }
}

/// A session that goes from DC to DC and writes a number everywhere: each write depends on the one before.
async fn write_chain(nodes: Vec<Vec<Client>>, stop: Arc<AtomicBool>) -> i64 {
    let (mut token, mut number) = (String::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        let link = Ask::mutate(CHAIN, &set(number + 1)).id(&format!("chain/{}", number + 1)).wait("10s");
        let link = if token.is_empty() { link } else { link.after(&token) };
        let dc = &nodes[usize::try_from(number).unwrap_or_default() % nodes.len()];
        let written = async {
            for node in dc.iter().cycle() {
                if let Ok(reply) = node.send(&link).await
                    && reply.done()
                {
                    return reply.token().to_string();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            unreachable!("the nodes of a DC are asked in turn without end")
        };
        token = tokio::time::timeout(PATIENCE, written).await.expect("a link is written");
        number += 1;
    }
    number
}

/// Reads a few txns here and a few there, or stays where it is until that node dies, until it has been shown as many
/// txns as there are, once that is known.
async fn roam(
    nodes: Vec<Client>,
    beginning: String,
    seed: u64,
    total: tokio::sync::watch::Receiver<Option<usize>>,
) -> Watcher {
    let mut random = StdRng::seed_from_u64(seed);
    let mut watcher = Watcher::new("");
    // Without a cursor it would begin whenever its first stream does, and the load does not wait for that.
    watcher.cursor = Some(beginning);
    let started = Instant::now();
    loop {
        let node = nodes.choose(&mut random).expect("nodes");
        let most = if random.random_bool(0.85) { random.random_range(1..80) } else { 100_000 };
        // A dead node, or one that dies meanwhile, is what this is about: the watcher goes on elsewhere.
        let _ = watcher.read(node.server(), most, Duration::from_millis(300)).await;
        match *total.borrow() {
            Some(total) if watcher.txns.len() >= total => return watcher,
            _ => assert!(started.elapsed() < 3 * PATIENCE, "{} txns were shown", watcher.txns.len()),
        }
    }
}

/// What must hold of everything that a watcher was shown.
fn check(watcher: &Watcher, vector: &BTreeMap<String, u64>, history: &History, links: i64) {
    let mut shown: BTreeMap<String, u64> = BTreeMap::new();
    for (dc, seq) in watcher.dots() {
        let last = shown.entry(dc.clone()).or_default();
        assert_eq!(seq, *last + 1, "a txn of {dc} is missing, or comes again");
        *last = seq;
    }
    assert_eq!(&shown, vector, "every txn was shown");
    // Causal order: the numbers were written in different DCs, each after the one before was seen.
    let numbers: Vec<_> = watcher.ops(CHAIN).into_iter().map(|op| op["value"].as_i64()).collect();
    assert_eq!(numbers, (1..=links).map(Some).collect::<Vec<_>>());
    let hits: i64 = watcher.ops(HITS).iter().map(|op| op["by"].as_i64().expect("a number")).sum();
    let increments = history.operations.iter().filter(|op| matches!(op.change, Change::Increment(_)));
    assert_eq!(hits, increments.count() as i64, "each increment once");
    let elements: Vec<&str> =
        watcher.ops(ELEMENTS).iter().map(|op| op["element"].as_str().expect("a text")).collect();
    let acked: BTreeSet<&str> = history
        .operations
        .iter()
        .filter(|op| op.outcome == Outcome::Acked)
        .filter_map(|op| match &op.change {
            Change::Element(element) => Some(element.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(elements.len(), acked.len(), "each element once");
    assert_eq!(elements.into_iter().collect::<BTreeSet<_>>(), acked);
    for txn in &watcher.txns {
        let keys: Vec<_> = txn["changes"].as_array().expect("changes").iter().map(|c| &c["key"]).collect();
        let is_pair = keys.iter().any(|key| PAIRS.iter().any(|pair| *key == pair));
        assert!(!is_pair || keys == PAIRS.map(Value::from).iter().collect::<Vec<_>>(), "half a txn: {txn}");
    }
}

/// Runs the load, five watchers and `faults`, then holds every watcher to what took place.
async fn watch_under(fleet: &Fleet, faults: impl AsyncFnOnce(&Fleet, &Workload)) {
    let everywhere: Vec<Client> = DCS.iter().flat_map(|dc| fleet.dc(dc)).collect();
    let (total, told) = tokio::sync::watch::channel(None);
    let mut first = Watcher::new("load/elements");
    first.read(everywhere[0].server(), 1, Duration::from_millis(300)).await.expect("a stream");
    let beginning = first.cursor.clone().expect("a cursor");
    let watchers: Vec<_> = (0..5)
        .map(|seed| tokio::spawn(roam(everywhere.clone(), beginning.clone(), seed, told.clone())))
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let chain = tokio::spawn(write_chain(DCS.map(|dc| fleet.dc(dc)).to_vec(), stop.clone()));
    let workload = Workload::start(DCS.iter().map(|dc| load(fleet, dc)).collect());
    workload.progress(150, PATIENCE).await;
    faults(fleet, &workload).await;
    workload.progress(150, PATIENCE).await;
    stop.store(true, Ordering::Relaxed);
    let links = chain.await.expect("the chain was written");
    let mut history = workload.finish().await;
    for dc in DCS {
        settle(&mut history, dc, &fleet.dc(dc), PATIENCE).await;
    }
    fleet.agreed(PATIENCE).await;
    let status = everywhere[0].status().await.expect("a status");
    let vector: BTreeMap<String, u64> = serde_json::from_value(status["vector"].clone()).expect("a vector");
    let txns: u64 = vector.values().sum();
    total.send_replace(usize::try_from(txns).ok());
    let (mut streams, mut broken) = (0, 0);
    for watcher in watchers {
        let watcher = watcher.await.expect("a watcher that was shown everything");
        check(&watcher, &vector, &history, links);
        streams += watcher.streams;
        broken += watcher.broken;
    }
    // From one cursor every DC shows the same txns of a prefix, with the same description.
    let mut told = Vec::new();
    for dc in DCS {
        let mut again = Watcher::new("load/elements");
        again.cursor = Some(beginning.clone());
        let server = fleet.dc(dc)[0].server().to_string();
        again.read(&server, usize::MAX / 2, Duration::from_secs(1)).await.expect("a stream");
        let by_dot = again.dots().into_iter().zip(again.txns.iter().map(|txn| txn["changes"].clone()));
        told.push(by_dot.collect::<BTreeMap<_, _>>());
    }
    assert!(told.windows(2).all(|pair| pair[0] == pair[1]) && !told[0].is_empty());
    println!(
        "watch: {txns} txns, {links} in a chain; 5 watchers, {streams} streams, {broken} of them broken"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_move_between_three_dcs_are_shown_each_txn_once_in_causal_order() {
    let fleet = Fleet::start(BINARY, 3, 1, LATENCY).await;
    watch_under(&fleet, async |fleet, workload| {
        fleet.cluster().cut(DCS[0], DCS[1]).expect("cut");
        workload.progress(60, PATIENCE).await;
        fleet.cluster().heal(None).expect("healed");
    })
    .await;
    a_listing_and_a_watch_from_it_miss_nothing(&fleet.node("us-east/1")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_outlive_the_nodes_that_they_watch_at() {
    let fleet = Fleet::start(BINARY, 3, 3, LATENCY).await;
    watch_under(&fleet, async |fleet, workload| {
        for dc in [DCS[0], DCS[2]] {
            let leader = fleet.leader(dc).await;
            fleet.cluster().kill(&leader).await.expect("killed");
            workload.progress(60, PATIENCE).await;
            fleet.cluster().restart(&leader).await.expect("restarted");
            workload.progress(30, PATIENCE).await;
        }
    })
    .await;
}

async fn a_listing_and_a_watch_from_it_miss_nothing(node: &Client) {
    let listing = node.ask(Ask::get("/v1/spaces/default/keys?limit=1")).await.ok();
    let cursor = listing.body["watch_cursor"].as_str().expect("a cursor").to_string();
    node.write("after", json!({"type": "flag", "op": "enable"})).await;
    let mut watcher = Watcher::new("after");
    watcher.cursor = Some(cursor);
    watcher.read(node.server(), 1, Duration::from_secs(10)).await.expect("a stream");
    assert_eq!(watcher.ops("after"), [&json!({"op": "enable"})]);
}
