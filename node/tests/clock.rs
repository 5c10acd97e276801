//! A clock that is wrong: its node leads no longer, and nobody's writes suffer or are dated by it.

use std::net::SocketAddr;
use std::time::Duration;

use meridian::dev::{Cluster, ClusterOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(60);
const HOUR_MS: i64 = 3_600_000;

async fn ask(addr: SocketAddr, line: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("connected");
    let length = body.len();
    let request =
        format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer
}

async fn leader(cluster: &Cluster) -> Option<u64> {
    let statuses = cluster.statuses().await;
    let leads = |status: &&serde_json::Value| status["role"] == "leader";
    statuses.iter().flatten().find(leads).and_then(|status| status["node"].as_u64())
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("in time: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_jumps_hands_over_and_stamps_nothing_by_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = ClusterOptions {
        dcs: Some(1),
        nodes: Some(3),
        ..ClusterOptions::new(env!("CARGO_BIN_EXE_meridian"), folder.path())
    };
    let cluster = Cluster::start(options).await.expect("started");
    cluster.wait_ready(PATIENCE).await.expect("ready");
    let first = leader(&cluster).await.expect("a leader");
    let addr = cluster.client(&format!("eu-west/{first}")).expect("a node");
    let add = r#"{"type":"counter","op":"add","by":1}"#;
    let before = meridian_crdt::unix_ms(last_hlc(addr, add).await);

    cluster.clock(&format!("eu-west/{first}"), HOUR_MS).await.expect("shifted");
    // Some are taken before anybody has noticed, by a clock that has gone wrong already.
    let mut writes = 1;
    until("another node leads", async || {
        let answer = ask(addr, "POST /v1/spaces/default/keys/c", add).await;
        assert!(answer.contains(" 200 ") || answer.contains("clock_unsafe"), "{answer}");
        writes += u64::from(answer.contains(" 200 "));
        leader(&cluster).await.is_some_and(|leader| leader != first)
    })
    .await;
    let after = meridian_crdt::unix_ms(last_hlc(addr, add).await);
    assert!(after - before < HOUR_MS as u64 / 2, "no write is dated by the wrong clock");
    writes += 1;
    let read = ask(addr, "GET /v1/spaces/default/keys/c", "").await;
    assert!(read.contains(&format!("\"value\":{writes}")), "{writes} writes: {read}");

    let metrics = async || ask(addr, "GET /metrics", "").await;
    assert!(metrics().await.contains("meridian_clock_unsafe 1"));
    cluster.clock(&format!("eu-west/{first}"), 0).await.expect("set right");
    until("the clock is trusted again", async || metrics().await.contains("meridian_clock_unsafe 0")).await;
    until("states were compared", async || !metrics().await.contains("meridian_digest_checks_total 0\n"))
        .await;
    assert!(metrics().await.contains("meridian_digest_mismatch 0\n"));
    cluster.stop().await.expect("stopped");
}

/// Adds one and returns the stamp of the counter's newest dot.
async fn last_hlc(addr: SocketAddr, add: &str) -> u64 {
    assert!(ask(addr, "POST /v1/spaces/default/keys/c", add).await.contains(" 200 "));
    let answer = ask(addr, "GET /v1/spaces/default/keys/c/explain", "").await;
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let dots = body["cells"][0]["dots"].as_array().expect("dots").iter();
    dots.filter_map(|dot| dot["hlc"].as_u64()).max().expect("a stamp")
}
