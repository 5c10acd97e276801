//! Access tokens at every edge of a node: HTTP, the native protocol, editors' handshakes and the command line.

use std::process::Command;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::Method;
use futures_util::{SinkExt, StreamExt};
use meridian::cli::http::{Answer, Call, HttpClient};
use meridian::embedded::{self, Node};
use meridian_client::wire::frame::{Frame, Isolation, Request, SPACE_DEFAULT, Verb, Watched};
use meridian_client::wire::{AccessToken, ErrorCode};
use meridian_crdt::{CounterOp, Key, Mutation, Query};
use tokio_tungstenite::tungstenite::Message;

const SETTINGS: &str = "[spaces.shop]\nread = \"reader-of-the-shop\"\nwrite = [\"writer-of-the-shop\"]\n\
                        [spaces.bank]\nwrite = \"writer-of-the-bank\"";
const READER: Option<&str> = Some("Bearer reader-of-the-shop");
const WRITER: Option<&str> = Some("bearer writer-of-the-shop");
const OTHER: Option<&str> = Some("Bearer writer-of-the-bank");
const PATIENCE: Duration = Duration::from_secs(30);

async fn start() -> Node {
    embedded::Setup::default().settings(SETTINGS).start("eu").await.expect("starts")
}

async fn ask(node: &Node, method: Method, path: &str, access: Option<&str>, body: &'static str) -> Answer {
    let headers: Vec<(&str, &str)> = access.map(|access| ("Authorization", access)).into_iter().collect();
    let body = Bytes::from_static(body.as_bytes());
    let call = Call { method, server: node.addr(), path, headers: &headers, body, deadline: PATIENCE };
    HttpClient::new().send(call).await.expect("an answer")
}

fn outcome(answer: &Answer) -> (u16, String) {
    let code = answer.json().and_then(|body| Some(body["error"]["code"].as_str()?.to_owned()));
    (answer.status, code.unwrap_or_default())
}

const ADD: &str = r#"{"type":"counter","op":"add","by":1}"#;
const TXN: &str = r#"{"ops":[{"key":"n","type":"counter","op":"add","by":1}]}"#;
const UPDATE: &str = r#"{"type":"doc","op":"update","update":{"$bytes":"AQEBAAQBAXQBYQA="}}"#;

#[tokio::test]
async fn every_route_of_a_closed_space_asks_for_a_token() {
    let node = start().await;
    for (path, body) in [("keys/n", ADD), ("keys/d", UPDATE)] {
        let done = ask(&node, Method::POST, &format!("/v1/spaces/shop/{path}"), WRITER, body).await;
        assert_eq!(done.status, 200, "{:?}", done.body);
    }
    let reads = ["keys/n", "keys/n/explain", "keys", "docs/d", "docs/d?format=text&root=t", "watch?from=x"];
    let writes =
        [(Method::POST, "keys/n", ADD), (Method::DELETE, "keys/gone", ""), (Method::POST, "txn", TXN)];
    let all = reads.map(|path| (Method::GET, path, "")).into_iter().chain(writes);
    for (method, path, body) in all {
        let path = format!("/v1/spaces/shop/{path}");
        let with = async |access| ask(&node, method.clone(), &path, access, body).await;
        for nobody in
            [None, Some("Bearer writer-of-the-shoq"), Some("Basic d3JpdGVy"), Some("Bearer"), Some("x")]
        {
            let answer = with(nobody).await;
            assert_eq!(outcome(&answer), (401, "unauthorized".into()), "{method} {path} {nobody:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{path}");
        }
        assert_eq!(outcome(&with(OTHER).await), (403, "forbidden".into()), "{method} {path}");
        let (reader, writer) = (outcome(&with(READER).await), outcome(&with(WRITER).await));
        let refused = ["unauthorized", "forbidden"].contains(&writer.1.as_str());
        assert!(!refused, "{method} {path}: {writer:?}");
        if method == Method::GET {
            assert_eq!(reader, writer, "{path}");
        } else {
            assert_eq!(reader, (403, "forbidden".into()), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_space_without_tokens_is_open_whatever_is_shown() {
    let node = start().await;
    for access in [None, OTHER, Some("Bearer of nothing"), Some("Basic d3JpdGVy")] {
        let done = ask(&node, Method::POST, "/v1/spaces/default/keys/n", access, ADD).await;
        assert_eq!(done.status, 200, "{access:?}");
    }
    // What tells nothing of the data needs no token.
    for path in ["/v1/status", "/healthz", "/metrics"] {
        assert_eq!(ask(&node, Method::GET, path, None, "").await.status, 200, "{path}");
    }
}

struct Session(tokio_tungstenite::WebSocketStream<tokio::net::TcpStream>);

impl Session {
    async fn open(node: &Node, tokens: &[&str]) -> Session {
        let stream = tokio::net::TcpStream::connect(node.addr()).await.expect("the node listens");
        let url = format!("ws://{}/v1/session", node.addr());
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("upgraded");
        let mut session = Session(socket);
        let access = tokens.iter().map(|token| AccessToken::new(*token).expect("a token")).collect();
        let hello = Verb::Hello { versions: vec![1], client: "test".into(), access };
        session.ask(hello).await.expect("welcome");
        session
    }

    async fn ask(&mut self, verb: Verb) -> Result<meridian_crdt::Value, ErrorCode> {
        self.0.send(Message::binary(Request::new(1, verb).encode())).await.expect("sent");
        loop {
            let message = tokio::time::timeout(PATIENCE, self.0.next()).await.expect("in time");
            let Message::Binary(frame) = message.expect("open").expect("a message") else { continue };
            match Frame::decode(&frame).expect("a frame") {
                Frame::Answer { outcome, .. } => {
                    return outcome.map(meridian_crdt::Value::Map).map_err(|e| e.code);
                }
                Frame::Event { .. } => return Ok(meridian_crdt::Value::Nil),
            }
        }
    }
}

fn key(space: &str) -> Key {
    Key::new(space, "n").expect("valid")
}

fn add() -> Mutation {
    Mutation::Counter(CounterOp::Add(1))
}

fn read(space: &str, txn: Option<u64>, ops: Vec<(Key, Mutation)>) -> Verb {
    Verb::Read { key: key(space), query: Query::default(), txn, ops }
}

fn write(space: &str) -> Verb {
    Verb::Write { key: key(space), mutation: add() }
}

#[tokio::test]
async fn a_connection_of_the_native_protocol_does_what_its_tokens_allow() {
    let node = start().await;
    let space = || "shop".to_owned();
    let refused = |outcome: Result<meridian_crdt::Value, ErrorCode>| outcome.expect_err("refused");
    let mut nobody = Session::open(&node, &[]).await;
    for verb in [
        read("shop", None, Vec::new()),
        write("shop"),
        Verb::List {
            space: space(),
            prefix: String::new(),
            after: None,
            limit: 1,
            txn: None,
            ops: Vec::new(),
        },
        Verb::Txn { space: space(), conditions: Vec::new(), ops: vec![(key("shop"), add())] },
        Verb::Watch { space: space(), watched: Watched::Key("n".into()), from: None, values: false },
    ] {
        assert_eq!(refused(nobody.ask(verb).await), ErrorCode::Unauthorized);
    }
    nobody.ask(write(SPACE_DEFAULT)).await.expect("an open space");
    let mut reader = Session::open(&node, &["writer-of-the-bank", "reader-of-the-shop"]).await;
    assert_eq!(refused(reader.ask(write("shop")).await), ErrorCode::Forbidden);
    assert_eq!(refused(reader.ask(read("shop", None, Vec::new())).await), ErrorCode::NotFound);
    reader.ask(write("bank")).await.expect("each token opens its space");
    let begun = reader.ask(Verb::Begin { isolation: Isolation::Serializable }).await.expect("begun");
    let meridian_crdt::Value::Map(body) = begun else { panic!("no fields") };
    let Some(meridian_crdt::Value::Int(txn)) = body.get("txn") else { panic!("no number") };
    let txn = u64::try_from(*txn).expect("a number");
    // Nothing gets into a transaction that could not be written outside.
    let smuggled = read("shop", Some(txn), vec![(key("shop"), add())]);
    assert_eq!(refused(reader.ask(smuggled).await), ErrorCode::Forbidden);
    let ops = vec![(key("shop"), add())];
    assert_eq!(refused(reader.ask(Verb::Commit { txn, space: space(), ops }).await), ErrorCode::Forbidden);
    reader.ask(Verb::Abort { txn }).await.expect("ended");
    let mut writer = Session::open(&node, &["writer-of-the-shop"]).await;
    writer.ask(write("shop")).await.expect("done");
    assert_eq!(refused(writer.ask(read("bank", None, Vec::new())).await), ErrorCode::Forbidden);
}

#[tokio::test]
async fn an_editor_without_a_token_hears_why_on_its_connection() {
    let node = start().await;
    let closed_with = async |query: &str, header: Option<&str>| {
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let stream = tokio::net::TcpStream::connect(node.addr()).await.expect("the node listens");
        let url = format!("ws://{}/v1/spaces/shop/docs/d{query}", node.addr());
        let mut request = url.into_client_request().expect("a request");
        if let Some(header) = header {
            request.headers_mut().insert("authorization", header.parse().expect("a value"));
        }
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.expect("upgraded");
        match tokio::time::timeout(PATIENCE, socket.next()).await.expect("in time") {
            Some(Ok(Message::Close(Some(frame)))) => u16::from(frame.code),
            Some(Ok(Message::Binary(_))) => 0,
            other => panic!("neither a frame nor a close: {other:?}"),
        }
    };
    assert_eq!(closed_with("", None).await, 4401);
    assert_eq!(closed_with("?token=&x=%zz", None).await, 4401);
    assert_eq!(closed_with("?auth=writer-of-the-bank", None).await, 4403);
    for query in
        ["?token=reader-of-the-shop", "?auth=writer-of-the-shop", "?a=1&a=2&token=writer-of-the-shop"]
    {
        assert_eq!(closed_with(query, None).await, 0, "{query}");
    }
    assert_eq!(closed_with("", WRITER).await, 0, "programs may use the header");
}

#[tokio::test]
async fn the_command_line_shows_a_token_that_it_was_given() {
    let node = start().await;
    let server = node.addr().to_owned();
    let run = async |words: &[&str], variable: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        command.args(["--server", &server, "--space", "shop"]).args(words).env_remove("MERIDIAN_TOKEN");
        if let Some(token) = variable {
            command.env("MERIDIAN_TOKEN", token);
        }
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("ran").expect("run");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let add = ["counter", "add", "n", "2"];
    let (code, told) = run(&add, None).await;
    assert!(code == Some(1) && told.contains("unauthorized"), "{told}");
    let (code, told) = run(&add, Some("reader-of-the-shop")).await;
    assert!(code == Some(1) && told.contains("forbidden") && !told.contains("reader-of"), "{told}");
    assert_eq!(run(&add, Some("writer-of-the-shop")).await, (Some(0), "2\n".into()));
    assert_eq!(run(&["--token", "reader-of-the-shop", "get", "n"], None).await, (Some(0), "2\n".into()));
    let (_, help) = run(&["--help"], Some("writer-of-the-shop")).await;
    assert!(help.contains("MERIDIAN_TOKEN") && !help.contains("writer-of"), "{help}");
}
