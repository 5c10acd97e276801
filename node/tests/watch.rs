//! Watches over HTTP as a client meets them: real sockets, one real node in this process.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use meridian::embedded;
use meridian_client::wire::Cursor;
use meridian_client::wire::token::cluster_id;
use serde_json::{Value as Json, json};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);
const WATCH: &str = "/v1/spaces/default/watch";
const KEYS: &str = "/v1/spaces/default/keys";

/// One node that serves until it is stopped or dropped.
struct Node {
    addr: String,
    node: embedded::Node,
    _folder: tempfile::TempDir,
}

impl Node {
    async fn start(extra: &str) -> Node {
        let folder = tempfile::tempdir().expect("a folder");
        let node = embedded::Setup::default().folder(folder.path()).settings(extra).start("eu").await;
        let node = node.expect("starts");
        Node { addr: node.addr().to_owned(), node, _folder: folder }
    }

    async fn connect(&self) -> Option<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.addr).await.ok()?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        Some(sender)
    }

    async fn try_ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<Response<Incoming>> {
        let mut request = Request::builder().method(method).uri(path).header("host", "x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.to_owned())).expect("a request");
        self.connect().await?.send_request(request).await.ok()
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (HeaderMap, Json) {
        let answer = self.try_ask(method, path, headers, body).await.expect("an answer");
        let headers = answer.headers().clone();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (headers, serde_json::from_slice(&body).unwrap_or(Json::Null))
    }

    /// A mutation that must succeed; its token.
    async fn write(&self, key: &str, mutation: Json) -> String {
        let (headers, body) = self.ask("POST", &format!("{KEYS}/{key}"), &[], &mutation.to_string()).await;
        assert!(body.get("version").is_some(), "{body}");
        headers["meridian-session"].to_str().expect("text").to_owned()
    }

    async fn add(&self, key: &str, by: i64) -> String {
        self.write(key, json!({"type":"counter","op":"add","by":by})).await
    }

    async fn watch(&self, query: &str, headers: &[(&str, &str)]) -> Stream {
        let answer = self.try_ask("GET", &format!("{WATCH}{query}"), headers, "").await.expect("an answer");
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        Stream { body: answer.into_body(), read: String::new() }
    }

    async fn refusal(&self, query: &str, headers: &[(&str, &str)]) -> (u16, String) {
        let answer = self.try_ask("GET", &format!("{WATCH}{query}"), headers, "").await.expect("an answer");
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        let body: Json = serde_json::from_slice(&body).expect("errors are JSON");
        (status, body["error"]["code"].as_str().expect("errors have codes").to_owned())
    }

    async fn metric(&self, name: &str) -> u64 {
        let answer = self.try_ask("GET", "/metrics", &[], "").await.expect("an answer");
        let page = answer.into_body().collect().await.expect("a body").to_bytes();
        let page = String::from_utf8_lossy(&page).into_owned();
        let line = page.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
        line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
    }
}

struct Event {
    id: Option<String>,
    name: String,
    data: Json,
}

struct Stream {
    body: Incoming,
    read: String,
}

impl Stream {
    /// The next event; `None` when the stream ends.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let frame = self.frame().await?;
            let field = |name: &str| {
                frame.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(": ")).map(str::to_owned)
            };
            if let Some(name) = field("event") {
                let data = serde_json::from_str(&field("data").expect("data")).expect("JSON");
                return Some(Event { id: field("id"), name, data });
            }
        }
    }

    async fn frame(&mut self) -> Option<String> {
        loop {
            if let Some((frame, rest)) = self.read.split_once("\n\n") {
                let frame = frame.to_owned();
                self.read = rest.to_owned();
                return Some(frame);
            }
            let next = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("in time")?;
            let data = next.ok()?.into_data().expect("data");
            self.read.push_str(std::str::from_utf8(&data).expect("UTF-8"));
        }
    }

    /// The next event, which is a txn: its data.
    async fn txn(&mut self) -> Json {
        let event = self.next().await.expect("an event");
        assert_eq!(event.name, "txn", "{}", event.data);
        assert_eq!(event.id.as_deref(), event.data["cursor"].as_str());
        event.data
    }

    /// The next event, which tells the cursor alone.
    async fn cursor(&mut self) -> String {
        let event = self.next().await.expect("an event");
        assert_eq!(event.name, "cursor", "{}", event.data);
        event.id.expect("an id")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_shows_what_was_done_to_its_keys_and_resumes_where_it_was() {
    let node = Node::start("").await;
    let mut all = node.watch("?prefix=a", &[]).await;
    let start = all.cursor().await;
    node.add("other", 1).await;
    node.add("a1", 5).await;
    let txn = all.txn().await;
    assert_eq!((txn["dc"].as_str(), txn["seq"].as_u64()), (Some("eu"), Some(2)));
    assert_eq!(txn["changes"], json!([{"key":"a1","type":"counter","ops":[{"op":"add","by":5}]}]));
    assert!(txn["time_ms"].as_u64().expect("a number") > 1_700_000_000_000);

    // One txn is one event, with the keys that are watched and no others.
    let body = json!({"ops":[
        {"key":"a1","op":"delete"},
        {"key":"a1","type":"set","op":"add_all","elements":[2,1]},
        {"key":"a2","type":"map","op":"update","field":"f","do":{"type":"register","op":"set","value":"v"}},
        {"key":"b","type":"flag","op":"enable"},
    ]});
    let (_, done) = node.ask("POST", "/v1/spaces/default/txn", &[], &body.to_string()).await;
    assert!(done.get("results").is_some(), "{done}");
    let txn = all.txn().await;
    let expected = json!([
        {"key":"a1","type":"set","ops":[{"type":"counter","op":"reset"},{"op":"add_all","elements":[1,2]}]},
        {"key":"a2","type":"map","ops":
            [{"op":"update","field":"f","do":{"type":"register","op":"set","value":"v"}}]},
    ]);
    assert_eq!(txn["changes"], expected);

    // Its token covers it; from the first cursor all of it comes again, from the last nothing.
    let token = txn["session"].as_str().expect("a token");
    let (_, read) = node.ask("GET", &format!("{KEYS}/a2"), &[("meridian-session", token)], "").await;
    assert_eq!(read["type"], "map");
    let mut again = node.watch(&format!("?prefix=a&from={start}"), &[]).await;
    assert_eq!(again.cursor().await, start);
    assert_eq!(again.txn().await["seq"], 2);
    assert_eq!(again.txn().await["seq"], 3);
    // What a client says when it connects again by itself is newer than the address that it repeats.
    let last = txn["cursor"].as_str().expect("a cursor");
    let mut resumed = node.watch(&format!("?prefix=a&from={start}"), &[("last-event-id", last)]).await;
    assert_eq!(resumed.cursor().await, last);
    node.add("a3", 1).await;
    for stream in [&mut all, &mut again, &mut resumed] {
        assert_eq!(stream.txn().await["seq"], 4);
    }
    assert_eq!(node.metric("meridian_watches_open").await, 3);
    assert_eq!(node.metric("meridian_watch_events_total{kind=\"txn\"}").await, 7);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_is_watched_with_its_values_from_where_a_listing_was_read() {
    let node = Node::start("").await;
    node.add("k", 1).await;
    let (_, listing) = node.ask("GET", KEYS, &[], "").await;
    let from = listing["watch_cursor"].as_str().expect("a cursor").to_owned();
    node.add("k2", 1).await;
    node.add("k", 2).await;
    let mut stream = node.watch(&format!("?key=k&values=true&from={from}"), &[]).await;
    assert_eq!(stream.cursor().await, from);
    let txn = stream.txn().await;
    let change = &txn["changes"][0];
    assert_eq!((&change["key"], &change["ops"]), (&json!("k"), &json!([{"op":"add","by":2}])));
    let (_, read) = node.ask("GET", &format!("{KEYS}/k"), &[], "").await;
    assert_eq!((&change["value"], &change["version"]), (&read["value"], &read["version"]));
    node.ask("DELETE", &format!("{KEYS}/k"), &[], "").await;
    let txn = stream.txn().await;
    let gone = json!([{"key":"k","type":"counter","ops":[{"op":"reset"}],"value":null,"version":null}]);
    assert_eq!(txn["changes"], gone);
    // A session's token makes a watch from now begin no earlier.
    let token = node.add("k", 7).await;
    let mut now = node.watch("?key=k", &[("meridian-session", &token)]).await;
    now.cursor().await;
    node.add("k", 8).await;
    assert_eq!(now.txn().await["changes"][0]["ops"], json!([{"op":"add","by":8}]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_watch_is_told_before_it_begins() {
    let node = Node::start("[watch]\nwatches_max = 1\n").await;
    let token = node.add("k", 1).await;
    let refused = |code: &str, status: u16| (status, code.to_owned());
    for query in ["?key=k&prefix=k", "?from=garbage", "?from=", "?values=yes", "?since=1", "?key=a&key=b"] {
        assert_eq!(node.refusal(query, &[]).await, refused("bad_header", 400), "{query}");
    }
    assert_eq!(node.refusal(&format!("?from={token}"), &[]).await, refused("bad_header", 400));
    assert_eq!(node.refusal("", &[("last-event-id", "x")]).await, refused("bad_header", 400));
    assert_eq!(node.refusal("?key=", &[]).await, refused("bad_key", 400));
    let long = "p".repeat(1025);
    assert_eq!(node.refusal(&format!("?prefix={long}"), &[]).await, refused("bad_key", 400));
    let strange = Cursor::new(cluster_id("another"), Default::default()).to_text();
    assert_eq!(node.refusal(&format!("?from={strange}"), &[]).await, refused("foreign_token", 400));
    let dots = [meridian_crdt::Dot::new(meridian_crdt::Origin(1), 1)].into_iter().collect();
    let strange = Cursor::new(cluster_id(embedded::CLUSTER), dots).to_text();
    assert_eq!(node.refusal(&format!("?from={strange}"), &[]).await, refused("foreign_token", 400));
    let mut stream = node.watch("", &[]).await;
    let cursor = stream.cursor().await;
    assert_eq!(node.refusal("", &[("meridian-session", &cursor)]).await, refused("bad_token", 400));
    assert_eq!(node.refusal("", &[]).await, refused("overloaded", 429));
    assert_eq!(node.metric("meridian_watches_refused_total").await, 1);
    drop(stream);
    let started = Instant::now();
    while node.metric("meridian_watches_open").await > 0 {
        assert!(started.elapsed() < PATIENCE, "a watch whose client is gone is closed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.watch("", &[]).await.cursor().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_watch_shows_that_it_lives_and_how_far_it_is_and_ends_when_the_node_stops() {
    let node = Node::start("[watch]\nkeep_alive = \"100ms\"\nprogress_interval = \"200ms\"\n").await;
    let mut stream = node.watch("?key=quiet", &[]).await;
    let start = stream.cursor().await;
    assert!(stream.frame().await.expect("a comment").starts_with(':'));
    node.add("other", 1).await;
    let moved = stream.cursor().await;
    assert_ne!(moved, start);
    let mut resumed = node.watch(&format!("?from={moved}"), &[]).await;
    assert_eq!(resumed.cursor().await, moved);
    let Node { node, _folder, .. } = node;
    let stopped = node.stop();
    let ended = stream.next().await.expect("an event");
    assert_eq!((ended.name.as_str(), ended.id), ("error", None));
    assert_eq!(ended.data["error"]["code"], "shutting_down");
    assert!(stream.next().await.is_none());
    drop((stream, resumed));
    tokio::time::timeout(PATIENCE, stopped).await.expect("the node stops").expect("in good order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_takes_nothing_is_cut_off_and_resumes_from_what_it_got() {
    let node = Node::start("[limits]\nread_timeout = \"600ms\"\n").await;
    let mut slow = node.watch("", &[]).await;
    let start = slow.cursor().await;
    // Far more than socket buffers hold.
    let value = "v".repeat(500_000);
    for n in 0..24 {
        node.write(&format!("k{n}"), json!({"type":"register","op":"set","value":value})).await;
    }
    let started = Instant::now();
    while node.metric("meridian_watches_cut_off_total").await == 0 {
        assert!(started.elapsed() < PATIENCE, "a watcher that takes nothing is cut off");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mut last, mut seqs) = (start, Vec::new());
    while let Some(event) = slow.next().await {
        last = event.id.expect("an id");
        seqs.push(event.data["seq"].as_u64().expect("a txn"));
    }
    assert!(seqs.len() < 24);
    let mut resumed = node.watch(&format!("?from={last}"), &[]).await;
    resumed.cursor().await;
    while seqs.len() < 24 {
        seqs.push(resumed.txn().await["seq"].as_u64().expect("a txn"));
    }
    assert_eq!(seqs, (1..=24).collect::<Vec<_>>());
}
