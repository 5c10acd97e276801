//! The client port as a hostile or careless client meets it: real sockets, one real node in this process.

use std::time::{Duration, Instant};

use meridian::embedded;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);

/// One node that serves until it is dropped.
struct Node {
    addr: String,
    _node: embedded::Node,
    _folder: tempfile::TempDir,
}

impl Node {
    async fn start() -> Node {
        let folder = tempfile::tempdir().expect("a folder");
        let limits = "[limits]\nread_timeout = \"700ms\"\nbody_max = \"64KiB\"\nkey_max = \"100B\"";
        let node = embedded::Setup::default().folder(folder.path()).settings(limits).start("eu").await;
        let node = node.expect("starts");
        Node { addr: node.addr().to_owned(), _node: node, _folder: folder }
    }

    async fn status(&self, line: &str) -> u16 {
        let Ok(mut connection) = Connection::open(self).await else { return 0 };
        connection.send(&format!("{line} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        connection.answer(line.starts_with("HEAD")).await.map_or(0, |answer| answer.status)
    }
}

struct Connection(TcpStream);

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    fn code(&self) -> String {
        let body: serde_json::Value = serde_json::from_str(&self.body).expect("errors are JSON");
        body["error"]["code"].as_str().expect("errors have codes").to_owned()
    }
}

impl Connection {
    async fn open(node: &Node) -> std::io::Result<Connection> {
        TcpStream::connect(&node.addr).await.map(Connection)
    }

    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.expect("sent");
    }

    /// Reads one answer; `None` if the connection ends before it is whole.
    async fn answer(&mut self, is_head: bool) -> Option<Answer> {
        tokio::time::timeout(PATIENCE, async {
            let mut bytes = Vec::new();
            let end = loop {
                if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                    break at + 4;
                }
                bytes.push(self.0.read_u8().await.ok()?);
            };
            let head = String::from_utf8(bytes[..end].to_vec()).expect("ASCII");
            let status = head.split(' ').nth(1)?.parse().ok()?;
            let mut answer = Answer { status, head, body: String::new() };
            let length: usize = answer.header("content-length").unwrap_or("0").parse().expect("a number");
            let mut body = vec![0; if is_head { 0 } else { length }];
            self.0.read_exact(&mut body).await.ok()?;
            answer.body = String::from_utf8(body).expect("UTF-8");
            Some(answer)
        })
        .await
        .expect("the node answers in time")
    }

    async fn ask(&mut self, line: &str, headers: &str, body: &str) -> Answer {
        let length = body.len();
        self.send(&format!("{line} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{headers}\r\n{body}"))
            .await;
        self.answer(line.starts_with("HEAD")).await.expect("an answer")
    }
}

const KEYS: &str = "/v1/spaces/default/keys";
const ADD: &str = r#"{"type":"counter","op":"add","by":1}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_port_survives_careless_clients() {
    let node = Node::start().await;
    keys_are_any_text_when_percent_encoded(&node).await;
    every_method_has_its_answer(&node).await;
    too_large_a_body_is_refused_and_the_connection_stays_usable(&node).await;
    a_body_that_does_not_come_is_not_waited_for(&node).await;
    a_head_that_does_not_come_is_not_waited_for(&node).await;
    limits_of_the_configuration_hold(&node).await;
    every_answer_about_data_carries_the_session(&node).await;
    a_bounded_wait_is_respected(&node).await;
}

async fn keys_are_any_text_when_percent_encoded(node: &Node) {
    let mut c = Connection::open(node).await.expect("connected");
    for (n, key) in ["a%2Fb", "%00", "x%20y", "%C3%A9", "a%00b", "..%2F..", "explain"].into_iter().enumerate()
    {
        let put = c.ask(&format!("POST {KEYS}/{key}"), "", ADD).await;
        assert_eq!(put.status, 200, "{key}: {}", put.body);
        let read = c.ask(&format!("GET {KEYS}/{key}"), "", "").await;
        assert!(read.body.contains("\"value\":1"), "{key}: {}", read.body);
        let listed = c.ask(&format!("GET {KEYS}"), "", "").await;
        let listed: serde_json::Value = serde_json::from_str(&listed.body).expect("JSON");
        assert_eq!(listed["keys"].as_array().map(Vec::len), Some(n + 1), "keys are kept apart");
    }
    assert_eq!(c.ask(&format!("POST {KEYS}/%FF"), "", ADD).await.code(), "bad_key");
    assert_eq!(c.ask(&format!("POST {KEYS}/a/b"), "", ADD).await.code(), "no_such_route");
    assert_eq!(c.ask("GET /v1/spaces/a%2Fb/keys/k", "", "").await.code(), "bad_key");
}

async fn every_method_has_its_answer(node: &Node) {
    let mut c = Connection::open(node).await.expect("connected");
    let head = c.ask(&format!("HEAD {KEYS}/explain"), "", "").await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(c.ask(&format!("HEAD {KEYS}/absent"), "", "").await.status, 404);
    for line in ["OPTIONS /v1/status", "PUT /v1/spaces/default/keys/k", "GET /v1/spaces/default/txn"] {
        let refused = c.ask(line, "", "").await;
        assert_eq!((refused.status, refused.code().as_str()), (405, "method_not_allowed"), "{line}");
    }
}

async fn too_large_a_body_is_refused_and_the_connection_stays_usable(node: &Node) {
    let mut c = Connection::open(node).await.expect("connected");
    let refused = c.ask(&format!("POST {KEYS}/k"), "", &"x".repeat(1 << 20)).await;
    assert_eq!((refused.status, refused.code().as_str()), (413, "too_large"));
    assert_eq!(c.ask(&format!("POST {KEYS}/k"), "", ADD).await.status, 200);
    // Whoever only announces it is told too, before the time for a body is over.
    let mut announcing = Connection::open(node).await.expect("connected");
    announcing.send(&format!("POST {KEYS}/k HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\n\r\n")).await;
    assert_eq!(announcing.answer(false).await.expect("an answer").status, 413);
    // Whoever asks first is told at once.
    c.send(&format!(
        "POST {KEYS}/k HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 99999999\r\n\r\n"
    ))
    .await;
    assert_eq!(c.answer(false).await.expect("an answer").status, 413);
}

async fn a_body_that_does_not_come_is_not_waited_for(node: &Node) {
    let mut c = Connection::open(node).await.expect("connected");
    c.send(&format!("POST {KEYS}/slow HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{{")).await;
    let answer = c.answer(false).await.expect("an answer");
    assert_eq!((answer.status, answer.code().as_str()), (400, "bad_json"));
    assert_eq!(node.status(&format!("GET {KEYS}/slow")).await, 404);
}

async fn a_head_that_does_not_come_is_not_waited_for(node: &Node) {
    let mut c = Connection::open(node).await.expect("connected");
    c.send("GET /healthz HTTP/1.1\r\nhost:").await;
    let ended = tokio::time::timeout(PATIENCE, c.0.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "the node hangs up");
}

async fn limits_of_the_configuration_hold(node: &Node) {
    let mut c = Connection::open(node).await.expect("connected");
    let long = c.ask(&format!("POST {KEYS}/{}", "k".repeat(101)), "", ADD).await;
    assert_eq!((long.status, long.code().as_str()), (413, "too_large"));
    let element = format!(r#"{{"type":"set","op":"add","element":"{}"}}"#, "e".repeat(5000));
    assert_eq!(c.ask(&format!("POST {KEYS}/s"), "", &element).await.code(), "too_large");
    assert_eq!(c.ask(&format!("GET {KEYS}/s"), "", "").await.status, 404);
}

async fn every_answer_about_data_carries_the_session(node: &Node) {
    let mut c = Connection::open(node).await.expect("connected");
    let put = c.ask(&format!("POST {KEYS}/session"), "", ADD).await;
    let token = put.header("meridian-session").expect("a token").to_owned();
    let read = c.ask(&format!("GET {KEYS}/session"), "", "").await;
    assert_eq!(read.header("meridian-session"), Some(token.as_str()), "who has read it depends on it");
    let with = format!("meridian-session: {token}\r\n");
    for (line, body, code) in [
        (format!("POST {KEYS}/session"), "{", "bad_json"),
        (format!("POST {KEYS}/session"), r#"{"type":"x","op":"y"}"#, "unknown_type"),
        (format!("POST {KEYS}/session"), r#"{"type":"flag","op":"enable"}"#, "wrong_type"),
        (format!("GET {KEYS}/absent"), "", "not_found"),
        (format!("GET {KEYS}?limit=0"), "", "bad_header"),
    ] {
        let answer = c.ask(&line, &with, body).await;
        assert_eq!(answer.code(), code);
        let carried = answer.header("meridian-session");
        assert!(carried.is_some_and(|carried| carried.len() >= token.len()), "{line}: {carried:?}");
    }
    let garbage = c.ask(&format!("GET {KEYS}/session"), "meridian-session: garbage\r\n", "").await;
    assert_eq!(garbage.code(), "bad_token");
    assert_eq!(garbage.header("meridian-session"), None);
}

async fn a_bounded_wait_is_respected(node: &Node) {
    use meridian_client::wire::{Token, token::cluster_id};
    let mut c = Connection::open(node).await.expect("connected");
    let status = c.ask("GET /v1/status", "", "").await;
    let status: serde_json::Value = serde_json::from_str(&status.body).expect("JSON");
    let epoch = status["epoch"].as_str().expect("an epoch").parse().expect("a UUID");
    let own = meridian_crdt::OriginName { dc: "eu".into(), epoch }.origin();
    let mut token = Token::new(cluster_id(embedded::CLUSTER));
    token.dots.advance(meridian_crdt::Dot::new(own, 1_000_000));
    let with = |wait: &str| format!("meridian-session: {}\r\nmeridian-wait: {wait}\r\n", token.to_text());
    for (line, body) in [(format!("GET {KEYS}/session"), ""), (format!("POST {KEYS}/session"), ADD)] {
        let started = Instant::now();
        let now = c.ask(&line, &with("0ms"), body).await;
        let took = started.elapsed();
        assert_eq!(now.code(), "not_caught_up");
        let later = c.ask(&line, &with("600ms"), body).await;
        assert_eq!(later.code(), "not_caught_up");
        assert!(started.elapsed() >= took + Duration::from_millis(600));
        assert_eq!(c.ask(&line, &with("31s"), body).await.code(), "bad_header");
    }
    let eventual = format!("{}meridian-consistency: eventual\r\n", with("30s"));
    assert_eq!(c.ask(&format!("GET {KEYS}/session"), &eventual, "").await.status, 200, "takes what is here");
}
