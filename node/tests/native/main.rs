//! The native protocol as a client in any language meets it: raw WebSockets, one real node in this process.

mod transactions;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use meridian::embedded;
use meridian_client::wire::frame::{Frame, Isolation, Request, RequestId, Verb, Watched, close};
use meridian_client::wire::headers::{Commit, Consistency};
use meridian_client::wire::{ApiError, ErrorCode, Token, json, msgpack};
use meridian_crdt::{CounterOp, Dot, Key, MapOp, Mutation, Origin, Query, RegisterOp, SetOp, Value};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

const PATIENCE: Duration = Duration::from_secs(30);

type Body = BTreeMap<String, Value>;

/// One node that serves until it is dropped or stopped.
struct Node {
    addr: String,
    node: embedded::Node,
    _folder: tempfile::TempDir,
}

impl Node {
    async fn start(settings: &str) -> Node {
        let folder = tempfile::tempdir().expect("a folder");
        let node = embedded::Setup::default().folder(folder.path()).settings(settings).start("eu").await;
        let node = node.expect("starts");
        Node { addr: node.addr().to_owned(), node, _folder: folder }
    }

    async fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(&self.addr).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    async fn raw(&self) -> Client {
        let stream = TcpStream::connect(&self.addr).await.expect("the node listens");
        let url = format!("ws://{}/v1/session", self.addr);
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("upgraded");
        Client { socket, next_id: 0 }
    }

    /// A connection that has said hello.
    async fn client(&self) -> Client {
        let mut client = self.raw().await;
        client.ask(hello()).await.expect("a common version");
        client
    }
}

struct Client {
    socket: WebSocketStream<TcpStream>,
    next_id: u64,
}

#[derive(Debug)]
struct Answer {
    id: u64,
    outcome: Result<Body, ApiError>,
    session: Option<Vec<u8>>,
}

impl Client {
    async fn send(&mut self, request: &Request) {
        self.send_bytes(request.encode()).await;
    }

    async fn send_bytes(&mut self, frame: Vec<u8>) {
        self.socket.send(Message::binary(frame)).await.expect("sent");
    }

    async fn message(&mut self) -> Option<Result<Message, SocketError>> {
        tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("the node answers in time")
    }

    /// Sends a ping and waits for its answer, which is all that the node says.
    async fn ping(&mut self, payload: &'static [u8]) {
        self.socket.send(Message::Ping(payload.into())).await.expect("sent");
        match self.message().await {
            Some(Ok(Message::Pong(answer))) => assert_eq!(answer, payload),
            other => panic!("a pong was expected: {other:?}"),
        }
    }

    async fn frame(&mut self) -> Frame {
        loop {
            match self.message().await {
                Some(Ok(Message::Binary(frame))) => return Frame::decode(&frame).expect("a frame"),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a frame was expected: {other:?}"),
            }
        }
    }

    async fn answer(&mut self) -> Answer {
        match self.frame().await {
            Frame::Answer { id, outcome, session, .. } => Answer { id, outcome, session },
            Frame::Event { .. } => panic!("an answer was expected, not an event"),
        }
    }

    async fn event(&mut self) -> Body {
        match self.frame().await {
            Frame::Event { body, .. } => body,
            Frame::Answer { outcome, .. } => panic!("an event was expected, not {outcome:?}"),
        }
    }

    async fn begin(&mut self, isolation: Isolation) -> u64 {
        let begun = self.ask(Verb::Begin { isolation }).await.expect("begun");
        assert!(matches!(begun["expires_in_ms"], Value::Int(ms) if ms > 0));
        let Value::Int(txn) = begun["txn"] else { panic!("a transaction has a number") };
        u64::try_from(txn).expect("not negative")
    }

    fn request(&mut self, verb: Verb) -> Request {
        self.next_id += 1;
        Request::new(self.next_id, verb)
    }

    async fn ask_with(&mut self, request: Request) -> Answer {
        self.send(&request).await;
        let answer = self.answer().await;
        assert_eq!(answer.id, request.id);
        answer
    }

    async fn ask(&mut self, verb: Verb) -> Result<Body, ApiError> {
        let request = self.request(verb);
        self.ask_with(request).await.outcome
    }

    async fn digest(&mut self) -> Value {
        let status = self.ask(Verb::Status).await.expect("told");
        status.get("digest").expect("a digest").clone()
    }

    /// The code that the node closes with; answers before it are skipped.
    async fn close_code(&mut self) -> u16 {
        loop {
            match self.message().await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("a goodbye was expected: {other:?}"),
            }
        }
    }
}

fn hello() -> Verb {
    Verb::Hello { versions: vec![1], client: "test".into(), access: Vec::new() }
}

fn key(name: &str) -> Key {
    Key::new("default", name).expect("valid")
}

fn read(name: &str) -> Verb {
    Verb::Read { key: key(name), query: Query::default(), txn: None, ops: vec![] }
}

fn add(name: &str, by: i64) -> Verb {
    Verb::Write { key: key(name), mutation: Mutation::Counter(CounterOp::Add(by)) }
}

fn adding(name: &str, by: i64) -> (Key, Mutation) {
    (key(name), Mutation::Counter(CounterOp::Add(by)))
}

fn set(name: &str, value: Value) -> Verb {
    Verb::Write { key: key(name), mutation: Mutation::Register(RegisterOp::Set(value)) }
}

fn list(limit: usize, after: Option<String>) -> Verb {
    Verb::List { space: "default".into(), prefix: String::new(), after, limit, txn: None, ops: vec![] }
}

fn code(outcome: &Result<Body, ApiError>) -> ErrorCode {
    outcome.as_ref().expect_err("refused").code
}

/// The token of a session that has seen a txn which will never come, of an origin that `token` names.
fn far_ahead_of(token: &[u8]) -> Vec<u8> {
    let mut far = Token::from_bytes(token).expect("own token");
    let origin = far.dots.iter().next().expect("a dot").origin;
    far.dots.advance(Dot::new(origin, 1000));
    far.to_bytes()
}

/// The token of a session of this client that waits for what will never come.
async fn far_token(client: &mut Client) -> Vec<u8> {
    let request = client.request(add("k", 1));
    far_ahead_of(&client.ask_with(request).await.session.expect("a token"))
}

/// Asks for a read in that session, which is refused after so long.
async fn send_slow(client: &mut Client, far: &[u8], wait: Duration) -> Request {
    let mut slow = client.request(read("k"));
    slow.session = Some(far.to_vec());
    slow.wait = Some(wait);
    client.send(&slow).await;
    slow
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hello_tells_who_serves_within_which_limits() {
    let node = Node::start("[limits]\nbody_max = \"64KiB\"\n[sessions]\nin_flight_max = 7").await;
    let mut client = node.raw().await;
    let body = client
        .ask(Verb::Hello { versions: vec![9, 1], client: "test".into(), access: Vec::new() })
        .await
        .expect("welcome");
    assert_eq!(body["version"], Value::Int(1));
    assert_eq!(body["dc"], Value::Str("eu".into()));
    assert_eq!(body["node"], Value::Int(1));
    let Value::Map(limits) = &body["limits"] else { panic!("limits") };
    assert_eq!(limits["frame_bytes_max"], Value::Int(64 << 10));
    assert_eq!(limits["in_flight_max"], Value::Int(7));
    assert_eq!(limits["wait_ms_max"], Value::Int(30_000));
    let status = client.ask(Verb::Status).await.expect("told");
    assert_eq!(status["dc"], Value::Str("eu".into()));
    assert_eq!(status["ready"], Value::Bool(true));
    let metrics = node.get("/metrics").await.expect("served");
    assert!(metrics.contains("meridian_sessions_open 1\n"), "{metrics}");
    let counted = "meridian_http_requests_total{route=\"status\",method=\"native\",status=\"200\"} 1\n";
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_read_through_both_transports() {
    let node = Node::start("").await;
    let mut client = node.client().await;
    let written = client.ask(add("visits", 5)).await.expect("done");
    assert_eq!(written["result"], Value::Int(5));
    let visits = client.ask(read("visits")).await.expect("there");
    assert_eq!((&visits["type"], &visits["value"]), (&Value::Str("counter".into()), &Value::Int(5)));
    assert_eq!(visits["version"], written["version"]);
    let text = node.get("/v1/spaces/default/keys/visits").await.expect("served");
    assert!(text.contains("\"value\":5"), "{text}");
    // Bytes, and floats that JSON cannot write, are as they were.
    for value in [Value::Bytes(vec![0, 255]), Value::Float(f64::INFINITY), Value::Nil] {
        client.ask(set("any", value.clone())).await.expect("done");
        assert_eq!(client.ask(read("any")).await.expect("there")["value"], value);
    }
    let elements = SetOp::AddAll((0..5).map(Value::Int).collect());
    client.ask(Verb::Write { key: key("cart"), mutation: Mutation::Set(elements) }).await.expect("done");
    let mut query = Query { limit: 3, ..Query::default() };
    let page = |query: &Query| Verb::Read { key: key("cart"), query: query.clone(), txn: None, ops: vec![] };
    let first = client.ask(page(&query)).await.expect("there");
    assert_eq!(first["size"], Value::Int(5));
    let Value::Bytes(cursor) = first["cursor"].clone() else { panic!("a cursor is bytes") };
    query.cursor = Some(cursor);
    let second = client.ask(page(&query)).await.expect("there");
    assert_eq!(second["value"], Value::Array(vec![Value::Int(3), Value::Int(4)]));
    let query = Query { element: Some(Value::Int(9)), ..Query::default() };
    assert_eq!(client.ask(page(&query)).await.expect("there")["present"], Value::Bool(false));
    let keys = client.ask(list(2, None)).await.expect("listed");
    assert_eq!(keys["cursor"], Value::Str("cart".into()));
    let keys = client.ask(list(2, Some("cart".into()))).await.expect("listed");
    assert!(!keys.contains_key("cursor"));
    let ops = vec![(key("a"), Mutation::Counter(CounterOp::Add(1))), (key("cart"), Mutation::Delete(None))];
    let txn = Verb::Txn { space: "default".into(), conditions: vec![], ops };
    let done = client.ask(txn).await.expect("done");
    assert!(matches!(&done["results"], Value::Array(results) if results.len() == 2));
    assert_eq!(code(&client.ask(read("cart")).await), ErrorCode::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_are_in_flight_and_answers_come_as_they_complete() {
    let node = Node::start("[sessions]\nin_flight_max = 16").await;
    let mut client = node.client().await;
    // A session that waits for what never comes is overtaken by a status.
    let far = far_token(&mut client).await;
    let slow = send_slow(&mut client, &far, Duration::from_millis(300)).await;
    let quick = client.request(Verb::Status);
    client.send(&quick).await;
    assert_eq!(client.answer().await.id, quick.id);
    let late = client.answer().await;
    assert_eq!((late.id, code(&late.outcome)), (slow.id, ErrorCode::NotCaughtUp));
    assert_eq!(late.session, slow.session, "an answer that learnt nothing carries what it came with");
    // Far more than the bound at once: all are answered, each once.
    let first = client.next_id + 1;
    for _ in 0..200 {
        let request = client.request(add("many", 1));
        client.send(&request).await;
    }
    let mut ids = Vec::new();
    for _ in 0..200 {
        let answer = client.answer().await;
        answer.outcome.expect("done");
        ids.push(answer.id);
    }
    ids.sort_unstable();
    assert_eq!(ids, (first..first + 200).collect::<Vec<_>>());
    assert_eq!(client.ask(read("many")).await.expect("there")["value"], Value::Int(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_at_the_bound_waits_until_another_is_answered() {
    let node = Node::start("[sessions]\nin_flight_max = 2").await;
    let mut client = node.client().await;
    let far = far_token(&mut client).await;
    let mut slow_ids = Vec::new();
    for _ in 0..2 {
        slow_ids.push(send_slow(&mut client, &far, Duration::from_millis(300)).await.id);
    }
    let held_up = client.request(Verb::Status);
    client.send(&held_up).await;
    let first = client.answer().await;
    assert!(slow_ids.contains(&first.id), "the third request is not even read before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_mistake_in_a_request_has_its_code_and_the_connection_goes_on() {
    let node = Node::start("[limits]\nkey_max = \"100B\"").await;
    let mut client = node.client().await;
    client.ask(add("k", 1)).await.expect("done");
    assert_eq!(code(&client.ask(set("k", Value::Int(1))).await), ErrorCode::WrongType);
    assert_eq!(code(&client.ask(add("k", i64::MAX)).await), ErrorCode::Overflow);
    assert_eq!(code(&client.ask(add(&"x".repeat(101), 1)).await), ErrorCode::TooLarge);
    let with = |client: &mut Client, change: &dyn Fn(&mut Request)| {
        let mut request = client.request(read("k"));
        change(&mut request);
        request
    };
    let request = with(&mut client, &|r| r.session = Some(b"garbage of some length".to_vec()));
    assert_eq!(code(&client.ask_with(request).await.outcome), ErrorCode::BadToken);
    let request = with(&mut client, &|r| r.session = Some(Token::new(77).to_bytes()));
    assert_eq!(code(&client.ask_with(request).await.outcome), ErrorCode::ForeignToken);
    let request = with(&mut client, &|r| r.commit = Commit::Dcs(5));
    assert_eq!(code(&client.ask_with(request).await.outcome), ErrorCode::BadHeader);
    let request = with(&mut client, &|r| r.consistency = Consistency::Linearizable);
    client.ask_with(request).await.outcome.expect("this node leads");
    // A token that names a life that nobody knows.
    let request = client.request(add("k", 1));
    let token = client.ask_with(request).await.session.expect("a token");
    let mut stranger = Token::from_bytes(&token).expect("own token");
    stranger.dots.advance(Dot::new(Origin(12345), 1));
    let request = with(&mut client, &|r| r.session = Some(stranger.to_bytes()));
    assert_eq!(code(&client.ask_with(request).await.outcome), ErrorCode::ForeignToken);
    // What the frame's own shape refuses.
    let raw = |id: i64, verb: &str, args: &[(&str, Value)]| {
        let args = args.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        msgpack::to_vec(&Value::Array(vec![Value::Int(id), Value::Str(verb.into()), Value::Map(args)]))
    };
    let rows = [
        (raw(9001, "fly", &[]), ErrorCode::UnknownOp),
        (raw(9002, "read", &[]), ErrorCode::BadValue),
        (raw(9003, "read", &[("key", Value::Str(String::new()))]), ErrorCode::BadKey),
        (raw(9004, "status", &[("what", Value::Nil)]), ErrorCode::UnknownField),
    ];
    for (frame, expected) in rows {
        client.send_bytes(frame).await;
        assert_eq!(code(&client.answer().await.outcome), expected);
    }
    assert_eq!(client.ask(read("k")).await.expect("there")["value"], Value::Int(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_is_used_by_one_request_at_a_time_and_a_repeated_request_id_does_nothing_new() {
    let node = Node::start("").await;
    let mut client = node.client().await;
    let mut request = client.request(add("k", 1));
    request.request_id = Some(RequestId::Number { client: [7; 16], number: 1 });
    let token = client.ask_with(request.clone()).await.session.expect("a token");
    let again = client.ask_with(request).await.outcome.expect("the first answer");
    assert_eq!(again["result"], Value::Int(1));
    assert_eq!(client.ask(read("k")).await.expect("there")["value"], Value::Int(1));
    let far = far_ahead_of(&token);
    let slow = send_slow(&mut client, &far, Duration::from_millis(200)).await;
    client.send(&slow).await;
    assert_eq!(code(&client.answer().await.outcome), ErrorCode::BadValue);
    assert_eq!(code(&client.answer().await.outcome), ErrorCode::NotCaughtUp);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_reason_to_close_has_its_code() {
    let node = Node::start("[limits]\nbody_max = \"16KiB\"\nread_timeout = \"300ms\"").await;
    let mut client = node.raw().await;
    client.send(&Request::new(1, Verb::Status)).await;
    assert_eq!(client.close_code().await, close::HELLO_FIRST);
    let mut client = node.raw().await;
    assert_eq!(client.close_code().await, close::HELLO_LATE);
    let mut client = node.raw().await;
    let refused =
        client.ask(Verb::Hello { versions: vec![2, 3], client: "new".into(), access: Vec::new() }).await;
    assert_eq!(code(&refused), ErrorCode::BadValue);
    assert_eq!(client.close_code().await, close::NO_COMMON_VERSION);
    let mut client = node.client().await;
    client.send(&Request::new(2, hello())).await;
    assert_eq!(client.close_code().await, close::HELLO_TWICE);
    // A client that says goodbye itself gets its goodbye back.
    let mut client = node.client().await;
    client.socket.close(None).await.expect("sent");
    assert!(matches!(client.message().await, Some(Ok(Message::Close(_)))));
    assert!(client.message().await.is_none(), "closed in good order");
    let mut client = node.client().await;
    client.socket.send(Message::text("hello")).await.expect("sent");
    assert_eq!(client.close_code().await, close::TEXT_MESSAGE);
    let mut client = node.client().await;
    client.send(&Request::new(2, set("k", Value::Bytes(vec![0; 17 << 10])))).await;
    assert_eq!(client.close_code().await, close::FRAME_TOO_LARGE);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_of_every_kind_closes_the_connection_and_changes_nothing() {
    let node = Node::start("").await;
    let mut watcher = node.client().await;
    watcher.ask(add("k", 1)).await.expect("done");
    let before = watcher.digest().await;
    let write = Request::new(5, add("k", 1)).encode();
    let mut rows: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"garbage".to_vec(),
        vec![0xc0],
        vec![0xc1],
        vec![0x90],
        vec![0x93, 0xff, 0xa1, b'x', 0x80],
        vec![0x93, 0xa1, b'1', 0xa1, b'x', 0x80],
        vec![0x94, 1, 0xa1, b'x', 0x80, 0xc0],
        vec![0xdd, 0xff, 0xff, 0xff, 0xff],
        vec![0xdf, 0xff, 0xff, 0xff, 0xff],
        vec![0xc6, 0xff, 0xff, 0xff, 0xff],
        vec![0xdb, 0xff, 0xff, 0xff, 0xff],
        vec![0x91; 100_000],
        vec![0xd4, 1, 1],
        [&write[..], &[0xc0]].concat(),
    ];
    rows.extend((1..write.len()).map(|n| write[..n].to_vec()));
    for frame in rows {
        let mut client = node.client().await;
        client.send_bytes(frame.clone()).await;
        assert_eq!(client.close_code().await, close::BAD_FRAME, "{frame:?}");
    }
    assert_eq!(watcher.digest().await, before);
}

/// Story: a client asks now and then whether the node is there, and says nothing else, not even hello yet.
#[tokio::test]
async fn a_ping_is_answered_at_once_by_a_node_that_has_nothing_else_to_say() {
    let node = Node::start("").await;
    let mut client = node.raw().await;
    client.ping(b"before hello").await;
    client.ping(b"").await;
    client.ask(hello()).await.expect("a common version");
    client.ping(b"after hello").await;
    client.ask(add("n", 1)).await.expect("done");
    client.ping(b"after a request").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_silent_is_asked_and_then_dropped() {
    let node = Node::start("[sessions]\nping_interval = \"150ms\"").await;
    // The library answers pings while it is read from; this client lives.
    let mut alive = node.client().await;
    let reading = tokio::spawn(async move {
        let until = tokio::time::Instant::now() + Duration::from_millis(900);
        while let Ok(message) = tokio::time::timeout_at(until, alive.socket.next()).await {
            assert!(matches!(message, Some(Ok(Message::Ping(_)))), "{message:?}");
        }
        alive.ask(Verb::Status).await.expect("still served");
    });
    let mut silent = node.client().await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    // The first thing that it reads is the ping, the last the goodbye.
    assert_eq!(silent.close_code().await, close::SILENT);
    reading.await.expect("it lived");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_is_not_read_is_not_taken_for_silent() {
    let node = Node::start("[sessions]\nin_flight_max = 1\nping_interval = \"100ms\"").await;
    let mut client = node.client().await;
    let far = far_token(&mut client).await;
    send_slow(&mut client, &far, Duration::from_secs(1)).await;
    // The client is there, and answers each ping; but behind a request at the bound nothing is read.
    assert_eq!(code(&client.answer().await.outcome), ErrorCode::NotCaughtUp);
    client.ask(Verb::Status).await.expect("the connection goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_nothing_is_cut_off() {
    let node = Node::start("[limits]\nread_timeout = \"500ms\"").await;
    let mut client = node.client().await;
    client.ask(set("big", Value::Bytes(vec![7; 500_000]))).await.expect("done");
    let mut other = node.client().await;
    // Some hundred megabytes of answers, of which nothing is read.
    for _ in 0..400 {
        let request = client.request(read("big"));
        if client.socket.send(Message::binary(request.encode())).await.is_err() {
            break;
        }
    }
    let started = Instant::now();
    while !node.get("/metrics").await.expect("served").contains("meridian_sessions_open 1\n") {
        assert!(started.elapsed() < PATIENCE, "the slow reader is cut off");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    other.ask(Verb::Status).await.expect("others are served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_reads_late_gets_every_answer() {
    let node = Node::start("[sessions]\nin_flight_max = 4").await;
    let mut client = node.client().await;
    client.ask(set("big", Value::Bytes(vec![7; 500_000]))).await.expect("done");
    // Far more than the node keeps for a client, of reads that it answers at once and of writes that have to wait.
    let mut asked = BTreeMap::new();
    for n in 0..90 {
        let verb = if n % 3 == 0 { add("count", 1) } else { read("big") };
        let request = client.request(verb);
        client.send(&request).await;
        asked.insert(request.id, n % 3 == 0);
    }
    let mut last_read = 0;
    for _ in 0..90 {
        let answer = client.answer().await;
        answer.outcome.expect("done");
        if !asked.remove(&answer.id).expect("asked once, answered once") {
            assert!(answer.id > last_read, "what is answered at once is answered in its order");
            last_read = answer.id;
        }
    }
    let count = client.ask(read("count")).await.expect("read");
    assert_eq!(count["value"], Value::Int(30));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_node_finishes_what_is_in_flight_and_says_goodbye() {
    let node = Node::start("").await;
    let mut client = node.client().await;
    let far = far_token(&mut client).await;
    let slow = send_slow(&mut client, &far, Duration::from_millis(600)).await;
    client.ask(Verb::Status).await.expect("the slow one is in flight");
    let stopped = node.node.stop();
    let answer = client.answer().await;
    assert_eq!((answer.id, code(&answer.outcome)), (slow.id, ErrorCode::NotCaughtUp));
    assert_eq!(client.close_code().await, close::GOING_AWAY);
    drop(client);
    tokio::time::timeout(PATIENCE, stopped).await.expect("it ends").expect("in good order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_no_handshake_is_refused_in_the_one_shape_of_errors() {
    let node = Node::start("").await;
    let text = node.get("/v1/session").await.expect("answered");
    assert!(text.starts_with("HTTP/1.1 400"), "{text}");
    assert!(text.contains("\"code\":\"bad_header\""), "{text}");
}

fn watch(prefix: &str, from: Option<String>) -> Verb {
    let watched = Watched::Prefix(prefix.into());
    Verb::Watch { space: "default".into(), watched, from, values: false }
}

fn text_of<'b>(body: &'b Body, name: &str) -> &'b str {
    let Value::Str(text) = &body[name] else { panic!("{name} is a text") };
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_tells_each_txn_once_as_server_sent_events_do_until_it_is_stopped() {
    let node = Node::start("").await;
    let (mut client, mut writer) = (node.client().await, node.client().await);
    let request = client.request(watch("w", None));
    client.send(&request).await;
    let began = client.event().await;
    let cursor = text_of(&began, "cursor").to_owned();
    writer.ask(add("other", 1)).await.expect("done");
    let field = MapOp::Update { field: "f".into(), mutation: Box::new(Mutation::Counter(CounterOp::Add(2))) };
    let ops = vec![
        adding("w1", 5),
        (key("w2"), Mutation::Map(field)),
        (key("w3"), Mutation::Register(RegisterOp::Set(Value::Bytes(vec![1, 255])))),
    ];
    writer.ask(Verb::Txn { space: "default".into(), conditions: vec![], ops }).await.expect("done");
    let event = client.event().await;
    assert!(matches!(&event["changes"], Value::Array(changes) if changes.len() == 3), "{event:?}");
    // The same txn as server-sent events say it.
    let mut stream = TcpStream::connect(&node.addr).await.expect("the node listens");
    let path = format!("/v1/spaces/default/watch?prefix=w&from={cursor}");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.expect("sent");
    let mut text = String::new();
    let data = loop {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.expect("in time");
        text.push_str(std::str::from_utf8(&buffer[..read.expect("read")]).expect("text"));
        let found = text.split_once("event: txn\ndata: ").and_then(|(_, rest)| rest.split_once("\n\n"));
        if let Some((data, _)) = found {
            break serde_json::from_str::<serde_json::Value>(data).expect("JSON");
        }
    };
    assert_eq!(json::from_value(&Value::Map(event.clone())), data);
    // It goes on while other requests are answered, and ends when it is told to.
    let stop = client.ask(Verb::Stop { watch: request.id }).await;
    let stopped = match stop {
        Ok(body) if body.contains_key("stopped") => client.answer().await.outcome,
        other => panic!("{other:?}"),
    };
    assert_eq!(stopped.expect("ended")["cursor"], event["cursor"]);
    let again = client.ask(Verb::Stop { watch: request.id }).await.expect("answered");
    assert_eq!(again["stopped"], Value::Bool(false));
    let refused = client.ask(watch("w", Some("garbage".into()))).await;
    assert_eq!(code(&refused), ErrorCode::BadHeader);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_is_not_read_ends_with_the_cursor_to_resume_from() {
    const WRITES: i64 = 48;
    let node = Node::start("[watch]\nslow_after = \"200ms\"").await;
    let (mut slow, mut writer) = (node.client().await, node.client().await);
    let request = slow.request(watch("w", None));
    slow.send(&request).await;
    slow.event().await;
    for i in 0..WRITES {
        let value = Value::Array(vec![Value::Int(i), Value::Bytes(vec![7; 400_000])]);
        writer.ask(set("w", value)).await.expect("done");
    }
    let seq = |body: &Body| matches!(body.get("seq"), Some(Value::Int(_))).then(|| body["seq"].clone());
    let mut seen = Vec::new();
    let error = loop {
        match slow.frame().await {
            Frame::Event { body, .. } => seen.extend(seq(&body)),
            Frame::Answer { outcome, .. } => break outcome.expect_err("cut off"),
        }
    };
    assert_eq!(error.code, ErrorCode::Overloaded);
    assert!((seen.len() as i64) < WRITES, "not everything was told");
    let cursor = error.details["cursor"].as_str().expect("a cursor").to_owned();
    let request = slow.request(watch("w", Some(cursor)));
    slow.send(&request).await;
    while (seen.len() as i64) < WRITES {
        seen.extend(seq(&slow.event().await));
    }
    let mut sorted = seen.clone();
    sorted.dedup();
    assert_eq!(sorted.len() as i64, WRITES, "each once: {seen:?}");
}
