//! Sessions that move between all nodes of three DCs at random, while links are cut and leaders die, keep their four
//! guarantees as long as they take their token along; without it the same sessions break every one of them.
//!
//! The plan comes from a seed, which is printed; `MERIDIAN_TEST_SEED` repeats it, `MERIDIAN_TEST_FAULTS` makes it longer.

use std::time::Duration;

use meridian_tests::checkers::isolation::{self, Level};
use meridian_tests::checkers::{Law, exactly_once, resurrection, sessions, tally};
use meridian_tests::client::Client;
use meridian_tests::fleet::Fleet;
use meridian_tests::history::{Outcome, files};
use meridian_tests::moves::{Moved, Moves, Moving};
use meridian_tests::wait;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_secs(60);
const DCS: [&str; 3] = ["eu-west", "us-east", "ap-south"];
const FAULTS_DEFAULT: usize = 12;
/// Requests done between two faults.
const BETWEEN_FAULTS: usize = 250;
/// Requests done without tokens between two looks at them.
const WITHOUT_TOKEN: usize = 400;
/// How long a node may wait to catch up with a token.
const WAIT: Duration = Duration::from_millis(400);
/// What a request may take beyond its wait: the node's own margin for forwarding, and a busy machine.
const MARGIN: Duration = Duration::from_secs(7);
const GUARANTEES: [Law; 4] =
    [Law::ReadYourWrites, Law::MonotonicReads, Law::MonotonicWrites, Law::WritesFollowReads];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn moving_sessions_keep_all_four_guarantees_with_their_token_and_none_without() {
    let seed = number("MERIDIAN_TEST_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    let faults =
        number("MERIDIAN_TEST_FAULTS").and_then(|n| usize::try_from(n).ok()).unwrap_or(FAULTS_DEFAULT);
    println!("moves: MERIDIAN_TEST_SEED={seed}, {faults} faults");
    let fleet = Fleet::start(BINARY, 3, 3, LATENCY).await;
    let nodes: Vec<(String, Client)> =
        fleet.node_names().into_iter().map(|name| (name.clone(), fleet.node(&name))).collect();
    let moved = with_token(&fleet, &nodes, seed, faults).await;
    without_token(&fleet, &nodes, seed).await;

    let (contents, took) = fleet.agreed(PATIENCE).await;
    let at_rest = moved.at_rest(&contents);
    let mut violations = exactly_once::check(&moved.history, &at_rest);
    violations.extend(resurrection::check(&moved.history, &at_rest));
    assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
    println!("moves: {} keys are as they should be in all nodes, which agreed after {took:?}", at_rest.len());
}

fn moves(seed: u64, token: bool) -> Moves {
    let prefix = if token { "carried" } else { "withheld" };
    Moves { seed, sessions: 24, requests_max: 100_000, wait: WAIT, token, prefix: prefix.into() }
}

async fn with_token(fleet: &Fleet, nodes: &[(String, Client)], seed: u64, faults: usize) -> Moved {
    let mut random = StdRng::seed_from_u64(seed);
    let moving = Moving::start(&moves(seed, true), nodes);
    let mut broken = Broken::default();
    for _ in 0..faults {
        moving.progress(BETWEEN_FAULTS, PATIENCE).await;
        println!("moves: {}", broken.disturb(fleet, &mut random).await);
    }
    moving.progress(BETWEEN_FAULTS, PATIENCE).await;
    fleet.cluster().heal(None).expect("healed");
    if let Some(node) = broken.dead {
        fleet.cluster().restart(&node).await.expect("restarted");
    }
    fleet.cluster().wait_ready(PATIENCE).await.expect("ready");
    moving.progress(BETWEEN_FAULTS, PATIENCE).await;
    let moved = moving.finish().await;

    let history = &moved.history;
    files::write_if_asked(history, "session-moves");
    let mut violations = sessions::check(history);
    // Which of two concurrent values wins is the same for everybody, too.
    violations.extend(isolation::check(history, Level::Causal));
    let first: Vec<String> = violations.iter().take(10).map(ToString::to_string).collect();
    println!(
        "moves: {} done, {} refused, {} unknown: {:?}; the longest took {:?}; violations {:?}",
        history.count(Outcome::Ok),
        history.count(Outcome::Failed),
        history.count(Outcome::Unknown),
        moved.refusals,
        moved.longest(),
        tally(&violations),
    );
    assert!(violations.is_empty(), "seed {seed}: {} violations, the first: {first:#?}", violations.len());
    assert!(history.count(Outcome::Ok) >= 3000, "too few requests to say anything");
    assert!(moved.longest() <= WAIT + MARGIN, "a request hung for {:?}", moved.longest());
    moved
}

/// So that the test above is known to be able to fail: one DC is cut off until each guarantee was broken.
async fn without_token(fleet: &Fleet, nodes: &[(String, Client)], seed: u64) {
    let moving = Moving::start(&moves(seed, false), nodes);
    moving.progress(WITHOUT_TOKEN, PATIENCE).await;
    for other in &DCS[1..] {
        fleet.cluster().cut(DCS[0], other).expect("cut");
    }
    let broken = async || {
        let found = tally(&sessions::check(&moving.history()));
        let missing: Vec<Law> = GUARANTEES.into_iter().filter(|law| !found.contains_key(law)).collect();
        moving.progress(WITHOUT_TOKEN, PATIENCE).await;
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} hold without tokens: {found:?}")) }
    };
    wait::until("each guarantee is broken without tokens", PATIENCE, broken).await;
    fleet.cluster().heal(None).expect("healed");
    let moved = moving.finish().await;
    let found = tally(&sessions::check(&moved.history));
    println!("moves: {} done without tokens: {found:?}", moved.history.count(Outcome::Ok));
    assert!(
        !found.contains_key(&Law::Origin),
        "what is read was written, with a token or without: {found:?}"
    );
}

/// What is broken at the moment: at most one node, so that every DC serves, and any links.
#[derive(Debug, Default)]
struct Broken {
    dead: Option<String>,
    cut: Vec<(&'static str, &'static str)>,
}

impl Broken {
    /// Breaks or repairs one thing, and says what.
    async fn disturb(&mut self, fleet: &Fleet, random: &mut StdRng) -> String {
        let cluster = fleet.cluster();
        if random.random_bool(0.5) {
            if let Some(node) = self.dead.take() {
                cluster.restart(&node).await.expect("restarted");
                return format!("{node} restarted");
            }
            let leader = fleet.leader(DCS.choose(random).expect("three DCs")).await;
            cluster.kill(&leader).await.expect("killed");
            self.dead = Some(leader.clone());
            return format!("{leader} killed, which led its DC");
        }
        if self.cut.len() > 1 || (!self.cut.is_empty() && random.random_bool(0.4)) {
            let pair = self.cut.remove(0);
            cluster.heal(Some(pair)).expect("healed");
            return format!("{} and {} healed", pair.0, pair.1);
        }
        let pairs = [(DCS[0], DCS[1]), (DCS[0], DCS[2]), (DCS[1], DCS[2])];
        let pair = *pairs.choose(random).expect("three pairs");
        cluster.cut(pair.0, pair.1).expect("cut");
        self.cut.retain(|cut| *cut != pair);
        self.cut.push(pair);
        format!("{} and {} cut", pair.0, pair.1)
    }
}
