//! No request hangs: every verb of the native protocol and every route of HTTP, at every level, is answered or refused
//! within its wait and a bounded margin, whatever is broken: links between DCs, a node with too much to do, a leader
//! that has stopped without a word, the loss of the majority.
//!
//! Every probe is prepared while all is well (connections opened, transactions begun), then something is broken, then all
//! are sent at once. A stopped process can answer nothing itself: of it, the SDK must tell in time.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use meridian_client::net::TransactionOptions;
use meridian_client::wire::Token;
use meridian_client::wire::frame::{Ops, Request, Verb, Watched};
use meridian_client::{
    Client as Sdk, Commit, Consistency, CounterOp, Error, ErrorCode, Isolation, Mutation, Transaction,
};
use meridian_crdt::{Key, Query};
use meridian_tests::client::{Ask, Client, add};
use meridian_tests::fleet::Fleet;
use meridian_tests::native::Wire;
use meridian_tests::sse::Sse;
use meridian_tests::{sdk, wait};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use tokio::task::JoinSet;

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);
const EU: &str = "eu-west";
const US: &str = "us-east";
/// What each probe lets its node wait.
const WAIT: Duration = Duration::from_millis(500);
/// What an answer may take beyond that: the node's own margins for finding a leader and forwarding to it, and a busy
/// machine.
const MARGIN: Duration = Duration::from_secs(6);
/// When a probe is given up, so that a hang is found rather than waited for.
const GIVEN_UP: Duration = Duration::from_secs(20);
/// What the SDK may take in all.
const SDK_TIMEOUT: Duration = Duration::from_secs(3);
/// What it may take beyond that, on a busy machine.
const SDK_MARGIN: Duration = Duration::from_secs(2);
/// Requests that a node works on at once: above the number of probes, soon filled.
const IN_FLIGHT_MAX: usize = 150;
/// The longest wait that may be asked for, which keeps a node full.
const FULL_FOR: Duration = Duration::from_secs(30);

/// One request that is ready to be sent.
enum Probe {
    Native(Wire, Box<Request>),
    Http(Client, Box<Ask>),
    Stream(String, String),
    Hello(String),
}

impl Probe {
    /// Sends it; returns `ok` or the code of the refusal.
    async fn answer(self) -> String {
        match self {
            Probe::Native(mut wire, request) => wire
                .ask(*request)
                .await
                .map_or_else(|e| panic!("no answer: {e}"), |said| said.word().to_string()),
            Probe::Http(client, ask) => {
                let reply = client.ask(ask.within(GIVEN_UP)).await;
                if reply.status == 200 { "ok".into() } else { format!("{} {}", reply.status, reply.code()) }
            }
            Probe::Stream(server, path) => {
                let opened = Sse::open(&server, &path).await;
                let refused = |text: String| text.split('"').nth(5).map_or(text.clone(), str::to_string);
                opened.map_or_else(refused, |_| "ok".into())
            }
            Probe::Hello(server) => Wire::open(&server).await.map_or_else(|e| e, |_| "ok".into()),
        }
    }
}

/// Each probe by its name.
type Probes = Vec<(&'static str, Probe)>;

/// The slowest answer to each verb: how long it took, what it was, and when.
type Slowest = BTreeMap<&'static str, (Duration, String, &'static str)>;

fn key() -> Key {
    Key::new("default", "k").expect("a key")
}

fn ops() -> Ops {
    vec![(key(), Mutation::Counter(CounterOp::Add(1)))]
}

fn request(verb: Verb) -> Request {
    let mut request = Request::new(0, verb);
    request.wait = Some(WAIT);
    request
}

fn read(txn: Option<u64>) -> Verb {
    Verb::Read { key: key(), query: Query::default(), txn, ops: Vec::new() }
}

fn list(txn: Option<u64>) -> Verb {
    let (space, prefix) = ("default".into(), String::new());
    Verb::List { space, prefix, after: None, limit: 100, txn, ops: Vec::new() }
}

fn write() -> Verb {
    Verb::Write { key: key(), mutation: Mutation::Counter(CounterOp::Add(1)) }
}

fn watch() -> Verb {
    let watched = Watched::Prefix(String::new());
    Verb::Watch { space: "default".into(), watched, from: None, values: true }
}

/// What needs no transaction that is open already.
fn plain_verbs(ahead: &str) -> Vec<(&'static str, Request)> {
    let at = |verb, consistency| Request { consistency, ..request(verb) };
    let commit = |commit| Request { commit, ..request(write()) };
    let ahead = Token::from_text(ahead).expect("a token").to_bytes();
    let after = |verb| Request { session: Some(ahead.clone()), ..request(verb) };
    let begin = Verb::Begin { isolation: Isolation::Serializable };
    let txn = Verb::Txn { space: "default".into(), conditions: Vec::new(), ops: ops() };
    vec![
        ("native status", request(Verb::Status)),
        ("native read eventual", at(read(None), Consistency::Eventual)),
        ("native read session", request(read(None))),
        ("native read session ahead", after(read(None))),
        ("native read linearizable", at(read(None), Consistency::Linearizable)),
        ("native list", request(list(None))),
        ("native list linearizable", at(list(None), Consistency::Linearizable)),
        ("native list ahead", after(list(None))),
        ("native write local", request(write())),
        ("native write ahead", after(write())),
        ("native write dcs:2", commit(Commit::Dcs(2))),
        ("native write all", commit(Commit::All)),
        ("native txn", request(txn)),
        ("native begin", request(begin.clone())),
        ("native begin ahead", after(begin.clone())),
        ("native begin linearizable", at(begin, Consistency::Linearizable)),
        ("native abort unknown", request(Verb::Abort { txn: 7 })),
        ("native watch", request(watch())),
        ("native watch ahead", after(watch())),
        ("native stop", request(Verb::Stop { watch: 7 })),
    ]
}

/// What is done in a transaction that was begun while all was well.
fn verbs_in(txn: u64) -> Vec<(&'static str, Verb)> {
    let commit = |ops| Verb::Commit { txn, space: "default".into(), ops };
    vec![
        ("native read in txn", read(Some(txn))),
        ("native list in txn", list(Some(txn))),
        ("native commit", commit(ops())),
        ("native commit of nothing", commit(Vec::new())),
        ("native abort", Verb::Abort { txn }),
    ]
}

fn http_routes(ahead: &str) -> Vec<(&'static str, Ask)> {
    let level = |ask: Ask, level: &str| ask.header("Meridian-Commit", level);
    let strict = |ask: Ask| ask.header("Meridian-Consistency", "linearizable");
    let (keys, explain) = ("/v1/spaces/default/keys", "/v1/spaces/default/keys/k/explain");
    let txn = json!({"ops": [{"key": "k", "type": "counter", "op": "add", "by": 1}]});
    let data = vec![
        ("http read eventual", Ask::read("k").eventual()),
        ("http read session", Ask::read("k")),
        ("http read session ahead", Ask::read("k").after(ahead)),
        ("http read linearizable", strict(Ask::read("k"))),
        ("http write local", Ask::mutate("k", &add(1))),
        ("http write ahead", Ask::mutate("k", &add(1)).after(ahead)),
        ("http write with an id", Ask::mutate("k", &add(1)).id("probe")),
        ("http write dcs:2", level(Ask::mutate("k", &add(1)), "dcs:2")),
        ("http write all", level(Ask::mutate("k", &add(1)), "all")),
        ("http delete", Ask::delete("other")),
        ("http txn", Ask::txn(&txn)),
        ("http list", Ask::get(keys)),
        ("http list linearizable", strict(Ask::get(keys))),
        ("http explain", Ask::get(explain)),
        ("http explain ahead", Ask::get(explain).after(ahead)),
    ];
    let mut asks: Vec<_> = data.into_iter().map(|(name, ask)| (name, ask.wait("500ms"))).collect();
    asks.extend([
        ("http status", Ask::get("/v1/status")),
        ("http healthz", Ask::get("/healthz")),
        ("http readyz", Ask::get("/readyz")),
        ("http metrics", Ask::get("/metrics")),
    ]);
    asks
}

/// All probes of one node, ready to be sent.
async fn prepare(node: &Client, ahead: &str) -> Probes {
    let server = node.server();
    let open = async || Wire::open(server).await.expect("all is well");
    let mut probes = Probes::new();
    for (name, request) in plain_verbs(ahead) {
        probes.push((name, Probe::Native(open().await, Box::new(request))));
    }
    for nth in 0..verbs_in(0).len() {
        let mut wire = open().await;
        let begin = request(Verb::Begin { isolation: Isolation::Serializable });
        let txn = wire.ask(begin).await.expect("answered").number("txn").expect("begun");
        let (name, verb) = verbs_in(txn).swap_remove(nth);
        probes.push((name, Probe::Native(wire, Box::new(request(verb)))));
    }
    let http = |(name, ask)| (name, Probe::Http(node.clone(), Box::new(ask)));
    probes.extend(http_routes(ahead).into_iter().map(http));
    let stream = "/v1/spaces/default/watch?prefix=".to_string();
    probes.push(("http watch", Probe::Stream(server.into(), stream)));
    probes.push(("native hello", Probe::Hello(server.into())));
    probes
}

/// Sends all probes at once, and demands an answer to each in time. Returns what was answered how often.
async fn send_all(when: &'static str, probes: Probes, slowest: &mut Slowest) -> BTreeMap<String, usize> {
    let mut sent = JoinSet::new();
    for (name, probe) in probes {
        sent.spawn(async move {
            let start = Instant::now();
            let answer = tokio::time::timeout(GIVEN_UP, probe.answer()).await;
            (name, answer.unwrap_or_else(|_| panic!("{when}: {name} hangs")), start.elapsed())
        });
    }
    let mut words = BTreeMap::new();
    let mut late = Vec::new();
    for (name, word, took) in sent.join_all().await {
        *words.entry(word.clone()).or_default() += 1;
        if took > WAIT + MARGIN {
            late.push(format!("{name}: {word} after {took:?}"));
        }
        let known = slowest.entry(name).or_default();
        if took > known.0 {
            *known = (took, word, when);
        }
    }
    println!("{when}: {words:?}");
    assert!(late.is_empty(), "{when}: later than {:?}: {late:#?}", WAIT + MARGIN);
    words
}

/// One call of the SDK must end in its time, with what it returns or with an error that says what to do.
async fn told_in_time<T: Debug>(
    when: &'static str,
    what: &'static str,
    call: impl Future<Output = Result<T, Error>>,
) {
    let start = Instant::now();
    let outcome = tokio::time::timeout(GIVEN_UP, call).await;
    let outcome = outcome.unwrap_or_else(|_| panic!("{when}: {what} of the SDK hangs"));
    let took = start.elapsed();
    let word = outcome.map_or_else(|e| format!("{:?}, advice {:?}", e.code(), e.advice()), |_| "ok".into());
    println!("{when}: SDK {what}: {word} after {took:?}");
    assert!(took < SDK_TIMEOUT + SDK_MARGIN, "{when}: {what} took {took:?}");
}

/// All kinds of calls of the SDK, at once.
async fn sdk_tells(when: &'static str, client: &Sdk) {
    let session = client.session().wait(WAIT).timeout(SDK_TIMEOUT);
    let counter = session.counter("k");
    let options = TransactionOptions::default().timeout(SDK_TIMEOUT);
    let transaction = session.space("default");
    let transaction = transaction.transaction_with(options, |txn: Transaction| async move {
        txn.counter("k").value().await?;
        txn.counter("k").add(1);
        Ok::<_, Error>(())
    });
    let strict = session.linearizable().counter("k");
    tokio::join!(
        told_in_time(when, "read", counter.value()),
        told_in_time(when, "linearizable read", strict.value()),
        told_in_time(when, "write", counter.add(1)),
        told_in_time(when, "one-shot", session.txn().add("k", 1).commit()),
        told_in_time(when, "transaction", transaction),
        told_in_time(when, "listing", session.keys("").all()),
    );
}

/// Nodes whose processes are stopped, until this is dropped.
struct Stopped(Vec<Pid>);

impl Stopped {
    fn stop(fleet: &Fleet, nodes: &[&str]) -> Stopped {
        let dcs = fleet.cluster().description().dcs;
        let all = dcs
            .iter()
            .flat_map(|dc| dc.nodes.iter().map(|node| (format!("{}/{}", dc.name, node.id), node.pid)));
        let pids: BTreeMap<String, Option<u32>> = all.collect();
        let pid = |node: &&str| {
            let pid = pids.get(*node).copied().flatten().expect("it runs");
            Pid::from_raw(i32::try_from(pid).expect("a process id"))
        };
        let stopped = Stopped(nodes.iter().map(pid).collect());
        stopped.0.iter().for_each(|pid| kill(*pid, Signal::SIGSTOP).expect("stopped"));
        stopped
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for pid in &self.0 {
            if let Err(error) = kill(*pid, Signal::SIGCONT) {
                println!("process {pid} cannot go on: {error}");
            }
        }
    }
}

async fn heal(fleet: &Fleet) {
    fleet.cluster().heal(None).expect("healed");
    fleet.cluster().wait_ready(PATIENCE).await.expect("ready again");
}

/// Leader and followers of the DC under test.
async fn roles(fleet: &Fleet) -> (String, Vec<String>) {
    let leader = fleet.leader(EU).await;
    let of_dc = |node: &String| node.starts_with(EU) && *node != leader;
    let followers = fleet.node_names().into_iter().filter(of_dc).collect();
    (leader, followers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_request_is_answered_or_refused_in_time_whatever_is_broken() {
    let config = format!("[limits]\nin_flight_max = {IN_FLIGHT_MAX}");
    let fleet = Fleet::start_with(BINARY, 2, 3, LATENCY, &config).await;
    let mut slowest = Slowest::new();
    fleet.node(&format!("{EU}/1")).write("k", add(1)).await;
    let (here, both) = (sdk::client_of(&fleet, EU).await, sdk::client(&fleet, &fleet.node_names()).await);

    let ahead = with_the_other_dc_cut_off(&fleet, &mut slowest).await;
    with_a_full_node(&fleet, &ahead, &mut slowest).await;
    heal(&fleet).await;
    with_a_leader_that_stops_without_a_word(&fleet, &here, &mut slowest).await;
    heal(&fleet).await;
    without_a_majority(&fleet, [&here, &both], &mut slowest).await;
    heal(&fleet).await;
    fleet.converged(PATIENCE).await;

    let mut slowest: Vec<_> = slowest.into_iter().collect();
    slowest.sort_by_key(|(_, (took, ..))| std::cmp::Reverse(*took));
    println!("slowest answers, of which {WAIT:?} the node may wait:");
    for (name, (took, word, when)) in slowest {
        println!("  {took:>12.1?}  {name}: {word}, {when}");
    }
}

async fn with_the_other_dc_cut_off(fleet: &Fleet, slowest: &mut Slowest) -> String {
    let (leader, followers) = roles(fleet).await;
    let [leader, follower] = [&leader, &followers[0]].map(|node| fleet.node(node));
    let everywhere = leader.value("k").await;
    assert_eq!(everywhere, json!(1));
    fleet.cluster().cut(EU, US).expect("cut");
    let ahead = fleet.node(&format!("{US}/1")).write("ahead", add(1)).await.token().to_string();
    for (when, node) in [("cut off, leader", &leader), ("cut off, follower", &follower)] {
        let words = send_all(when, prepare(node, &ahead).await, slowest).await;
        for word in ["ok", "commit_timeout", "not_caught_up", "504 commit_timeout", "503 not_caught_up"] {
            assert!(words.contains_key(word), "{when}: no {word}: {words:?}");
        }
    }
    ahead
}

/// One node works on as many requests as it takes: it refuses every further one at once, and stays observable.
async fn with_a_full_node(fleet: &Fleet, ahead: &str, slowest: &mut Slowest) {
    let node = fleet.node(&roles(fleet).await.1[0]);
    let probes = prepare(&node, ahead).await;
    let mut full = Wire::open(node.server()).await.expect("it listens");
    let token = Token::from_text(ahead).expect("a token").to_bytes();
    for _ in 0..IN_FLIGHT_MAX {
        let waits = Request { session: Some(token.clone()), wait: Some(FULL_FOR), ..request(read(None)) };
        full.send(waits).await.expect("sent");
    }
    wait::until("the node is full", PATIENCE, async || {
        let reply = node.ask(Ask::read("k").eventual()).await;
        if reply.code() == ErrorCode::Overloaded.as_str() { Ok(()) } else { Err(reply.body.to_string()) }
    })
    .await;
    let words = send_all("full", probes, slowest).await;
    assert!(words.get("overloaded") >= Some(&15) && words.get("429 overloaded") >= Some(&10), "{words:?}");
    // The one that is over its own bound takes no more of this connection until one of its requests is answered.
    drop(full);
    wait::until("a full node whose client left has room again", PATIENCE, async || {
        let reply = node.ask(Ask::read("k").eventual()).await;
        if reply.done() { Ok(()) } else { Err(reply.body.to_string()) }
    })
    .await;
}

async fn with_a_leader_that_stops_without_a_word(fleet: &Fleet, here: &Sdk, slowest: &mut Slowest) {
    let (leader, followers) = roles(fleet).await;
    let mut probes = Probes::new();
    for follower in &followers {
        let node = fleet.node(follower);
        let here = node.value("k").await;
        assert!(here.is_i64());
        let own = node.write("own", add(1)).await.token().to_string();
        probes.extend(prepare(&node, &own).await);
    }
    let stopped = Stopped::stop(fleet, &[&leader]);
    let when = "leader stopped";
    let (words, ()) = tokio::join!(send_all(when, probes, slowest), sdk_tells(when, here));
    assert!(words.contains_key("ok"), "{words:?}");
    drop(stopped);
}

async fn without_a_majority(fleet: &Fleet, [here, both]: [&Sdk; 2], slowest: &mut Slowest) {
    let (leader, followers) = roles(fleet).await;
    let node = fleet.node(&leader);
    let own = node.write("own", add(1)).await.token().to_string();
    let at_once = prepare(&node, &own).await;
    let later = prepare(&node, &own).await;
    let stopped = Stopped::stop(fleet, &[&followers[0], &followers[1]]);
    send_all("majority lost just now", at_once, slowest).await;
    let words = send_all("no majority", later, slowest).await;
    assert!(words.contains_key("no_quorum") && words.contains_key("503 no_quorum"), "{words:?}");
    sdk_tells("no majority, one DC", here).await;
    sdk_tells("no majority, two DCs", both).await;
    drop(stopped);
}
