//! Bad input gets its documented error, in the one shape, and changes nothing.
//!
//! Each row is one request as bytes, so that also what no proper client sends is sent. After each, the digest and the
//! vector of the node are what they were.

use std::time::Duration;

use meridian_tests::client::{Ask, Client, add, add_element, set};
use meridian_tests::fleet::Fleet;
use meridian_tests::raw::{RawAnswer, exchange, request};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const KEYS: &str = "/v1/spaces/default/keys";
const TXN: &str = "/v1/spaces/default/txn";
/// The default limit of a body.
const BODY_BYTES_MAX: usize = 4 << 20;
/// The default limit of a value.
const VALUE_BYTES_MAX: usize = 1 << 20;

/// What is sent, and what must come back.
struct Row {
    what: &'static str,
    request: Vec<u8>,
    status: u16,
    code: &'static str,
}

fn row(what: &'static str, request: Vec<u8>, status: u16, code: &'static str) -> Row {
    Row { what, request, status, code }
}

fn post(path: &str, body: &[u8]) -> Vec<u8> {
    request("POST", path.as_bytes(), &[], body)
}

fn mutate(body: &str) -> Vec<u8> {
    post(&format!("{KEYS}/new"), body.as_bytes())
}

fn get(target: &str) -> Vec<u8> {
    request("GET", target.as_bytes(), &[], b"")
}

fn with_header(header: &[u8]) -> Vec<u8> {
    request("GET", format!("{KEYS}/counter").as_bytes(), &[header], b"")
}

/// Story: one node with a key of several types; then every table of bad requests against it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_get_their_documented_error_and_change_nothing() {
    let fleet = Fleet::start(BINARY, 1, 1, Duration::ZERO).await;
    let node = fleet.node("eu-west/1");
    node.write("counter", add(i64::MAX)).await;
    node.write("register", set("value")).await;
    node.write("set", add_element("x")).await;
    let mut rows = bodies();
    rows.extend(mutations());
    rows.extend(keys_and_routes());
    rows.extend(headers(&node).await);
    rows.extend(queries());
    rows.extend(transactions());
    rows.extend(states());
    let mut wrong = Vec::new();
    for row in &rows {
        let before = state(&node).await;
        let answer = exchange(node.server(), &row.request).await;
        if let Err(why) = judge(row, &answer) {
            wrong.push(why);
        }
        if state(&node).await != before {
            wrong.push(format!("{}: the state has changed", row.what));
        }
    }
    println!("bad input: {} requests, {} not as documented", rows.len(), wrong.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    particulars_of_errors_say_where_they_are(&node).await;
    a_request_id_names_one_request(&node).await;
    broken_connections_harm_nobody(&node).await;
}

async fn state(node: &Client) -> (Value, Value) {
    let status = node.status().await.expect("a status");
    (status["vector"].clone(), status["digest"].clone())
}

fn judge(row: &Row, answer: &RawAnswer) -> Result<(), String> {
    let error = &answer.body["error"];
    let found = (answer.status, error["code"].as_str().unwrap_or("none"));
    if found != (row.status, row.code) {
        return Err(format!("{}: {found:?}, not {:?}: {}", row.what, (row.status, row.code), answer.body));
    }
    if answer.body.as_object().map(serde_json::Map::len) != Some(1) || !error["message"].is_string() {
        return Err(format!("{}: not the documented shape: {}", row.what, answer.body));
    }
    if !answer.head.contains("content-type: application/json") {
        return Err(format!("{}: not marked as JSON: {}", row.what, answer.head));
    }
    Ok(())
}

fn bodies() -> Vec<Row> {
    let deep = "[".repeat(100_000);
    let long = format!("{KEYS}/new");
    let announced = format!(
        "POST {long} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        BODY_BYTES_MAX + 1
    );
    let mut chunked = format!(
        "POST {long} HTTP/1.1\r\nhost: node\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .into_bytes();
    let size = BODY_BYTES_MAX + 2;
    chunked.extend_from_slice(format!("{size:x}\r\n").as_bytes());
    chunked.resize(chunked.len() + size, b' ');
    chunked.extend_from_slice(b"\r\n0\r\n\r\n");
    vec![
        row("no body", mutate(""), 400, "bad_json"),
        row("half a body", mutate(r#"{"type":"counter","#), 400, "bad_json"),
        row("not JSON", mutate("add 5"), 400, "bad_json"),
        row("something behind the JSON", mutate(r#"{"type":"flag","op":"enable"}}"#), 400, "bad_json"),
        row(
            "not UTF-8",
            post(&long, b"{\"type\":\"register\",\"op\":\"set\",\"value\":\"\xff\xfe\"}"),
            400,
            "bad_json",
        ),
        row(
            "half a surrogate",
            mutate(r#"{"type":"register","op":"set","value":"\ud800"}"#),
            400,
            "bad_json",
        ),
        row("nested 100,000 deep", mutate(&deep), 400, "bad_json"),
        row(
            "a number beyond all",
            mutate(r#"{"type":"register","op":"set","value":1e999}"#),
            400,
            "bad_json",
        ),
        row("MessagePack", post(&long, b"\x82\xa4type\xa7counter\xa2op\xa5reset"), 400, "bad_json"),
        row("a body announced as too large", announced.into_bytes(), 413, "too_large"),
        row("a body that grows too large", chunked, 413, "too_large"),
        row("an array", mutate("[]"), 400, "bad_value"),
        row("a number", mutate("1"), 400, "bad_value"),
        row("null", mutate("null"), 400, "bad_value"),
    ]
}

fn mutations() -> Vec<Row> {
    let value = |value: &str| mutate(&format!(r#"{{"type":"register","op":"set","value":{value}}}"#));
    let nested = |depth: usize| {
        let mut body = json!({"type": "flag", "op": "enable"});
        for _ in 0..depth {
            body = json!({"type": "map", "op": "update", "field": "f", "do": body});
        }
        body.to_string()
    };
    let deep_value = format!("{}{}", "[".repeat(60), "]".repeat(60));
    let elements = json!({"type": "set", "op": "add_all", "elements": (0..100_001).collect::<Vec<i64>>()});
    vec![
        row("no type", mutate(r#"{"op":"add","by":1}"#), 400, "bad_value"),
        row("no operation", mutate(r#"{"type":"counter"}"#), 400, "bad_value"),
        row("a type that is a number", mutate(r#"{"type":1,"op":"add"}"#), 400, "bad_value"),
        row("an unknown type", mutate(r#"{"type":"blob","op":"set","value":1}"#), 400, "unknown_type"),
        row("a type in capitals", mutate(r#"{"type":"Counter","op":"add","by":1}"#), 400, "unknown_type"),
        row("an unknown operation", mutate(r#"{"type":"counter","op":"sub","by":1}"#), 400, "unknown_op"),
        row("another type's operation", mutate(r#"{"type":"flag","op":"add","by":1}"#), 400, "unknown_op"),
        row(
            "an unknown field",
            mutate(r#"{"type":"counter","op":"add","by":1,"ttl":9}"#),
            400,
            "unknown_field",
        ),
        row(
            "a field too many",
            mutate(r#"{"type":"flag","op":"enable","value":true}"#),
            400,
            "unknown_field",
        ),
        row("a missing field", mutate(r#"{"type":"counter","op":"add"}"#), 400, "bad_value"),
        row("a text for a number", mutate(r#"{"type":"counter","op":"add","by":"1"}"#), 400, "bad_value"),
        row("a fraction", mutate(r#"{"type":"counter","op":"add","by":1.5}"#), 400, "bad_value"),
        row(
            "beyond 64 bits",
            mutate(r#"{"type":"counter","op":"add","by":9223372036854775808}"#),
            400,
            "bad_value",
        ),
        row(
            "elements that are one",
            mutate(r#"{"type":"set","op":"add_all","elements":1}"#),
            400,
            "bad_value",
        ),
        row("a value beyond 64 bits", value("18446744073709551615"), 400, "bad_value"),
        row("a reserved object key", value(r#"{"$ref":"x"}"#), 400, "bad_value"),
        row("bytes that are not base64", value(r#"{"$bytes":"%"}"#), 400, "bad_value"),
        row("a value nested too deeply", value(&deep_value), 400, "bad_value"),
        row(
            "a value too large",
            value(&format!("\"{}\"", "v".repeat(VALUE_BYTES_MAX + 1))),
            413,
            "too_large",
        ),
        row("too many elements", mutate(&elements.to_string()), 413, "too_large"),
        row("maps nested too deeply", mutate(&nested(30)), 400, "bad_value"),
        row(
            "an update without a mutation",
            mutate(r#"{"type":"map","op":"update","field":"f"}"#),
            400,
            "bad_value",
        ),
        row(
            "a bad mutation in a field",
            mutate(r#"{"type":"map","op":"update","field":"f","do":{"type":"flag","op":"fly"}}"#),
            400,
            "unknown_op",
        ),
        row(
            "an unknown field in a field",
            mutate(r#"{"type":"map","op":"update","field":"f","do":{"type":"flag","op":"enable","x":1}}"#),
            400,
            "unknown_field",
        ),
        row(
            "a field name too long",
            mutate(
                &json!({"type":"map","op":"update","field":"f".repeat(VALUE_BYTES_MAX + 1),
                        "do":{"type":"flag","op":"enable"}})
                .to_string(),
            ),
            413,
            "too_large",
        ),
    ]
}

fn keys_and_routes() -> Vec<Row> {
    let body = br#"{"type":"flag","op":"enable"}"#;
    let at = |path: &str| post(path, body);
    let long = "k".repeat(1025);
    vec![
        row("an empty key", at(&format!("{KEYS}/")), 400, "bad_key"),
        row("a key too long", at(&format!("{KEYS}/{long}")), 400, "bad_key"),
        row("a key too long, read", get(&format!("{KEYS}/{long}")), 400, "bad_key"),
        row("a key that is not UTF-8", at(&format!("{KEYS}/%ff%fe")), 400, "bad_key"),
        row("a key that is not UTF-8, read", get(&format!("{KEYS}/%ff%fe")), 400, "bad_key"),
        row("a space with a slash", at("/v1/spaces/a%2Fb/keys/k"), 400, "bad_key"),
        row("a space with other letters", at("/v1/spaces/caf%C3%A9/keys/k"), 400, "bad_key"),
        row("a space too long", at(&format!("/v1/spaces/{}/keys/k", "s".repeat(65))), 400, "bad_key"),
        row("a listing of a bad space", get("/v1/spaces/a%20b/keys"), 400, "bad_key"),
        row(
            "a bad key in a transaction",
            post(TXN, br#"{"ops":[{"key":"","op":"delete"}]}"#),
            400,
            "bad_key",
        ),
        row("no such path", get("/v1/nothing"), 404, "no_such_route"),
        row("the root", get("/"), 404, "no_such_route"),
        row("an older version", get("/v0/status"), 404, "no_such_route"),
        row(
            "a method that a key does not take",
            request("PUT", format!("{KEYS}/k").as_bytes(), &[], body),
            405,
            "method_not_allowed",
        ),
        row("a write to a listing", at(KEYS), 405, "method_not_allowed"),
        row("a read of a transaction", get(TXN), 405, "method_not_allowed"),
        row("a write to the status", at("/v1/status"), 405, "method_not_allowed"),
        row("a key that is absent", get(&format!("{KEYS}/absent")), 404, "not_found"),
        row("explain of a key that is absent", get(&format!("{KEYS}/absent/explain")), 404, "not_found"),
    ]
}

async fn headers(node: &Client) -> Vec<Row> {
    let good = node.ask(Ask::read("counter")).await.token().to_string();
    let mut damaged = good.clone().into_bytes();
    // Within the dots: the form stays, the checksum no longer fits.
    damaged[8] = if damaged[8] == b'A' { b'B' } else { b'A' };
    let damaged = String::from_utf8(damaged).expect("ASCII");
    let session = |token: &str| with_header(format!("Meridian-Session: {token}").as_bytes());
    let foreign = meridian_client::wire::Token::new(1234).to_text();
    let cluster = meridian_client::wire::Token::from_text(&good).expect("a token").cluster;
    let stranger = meridian_crdt::Dot::new(meridian_crdt::Origin(0xdead_beef), 1);
    let unknown_life =
        meridian_client::wire::Token { cluster, dots: std::iter::once(stranger).collect() }.to_text();
    let twice = format!("Meridian-Session: {good}\r\nMeridian-Session: {good}");
    let mut rows = vec![
        row("a token that is garbage", session("garbage!"), 400, "bad_token"),
        row("an empty token", session(""), 400, "bad_token"),
        row("a token of an unknown version", session("AgAAAAAAAAAA"), 400, "bad_token"),
        row("a damaged token", session(&damaged), 400, "bad_token"),
        row("a token cut short", session(&good[..good.len() - 2]), 400, "bad_token"),
        row("a token of 20,000 bytes", session(&"A".repeat(20_000)), 400, "bad_token"),
        row("a token of another cluster", session(&foreign), 400, "foreign_token"),
        row("a token of a life that is none of ours", session(&unknown_life), 400, "foreign_token"),
        row("a token twice", with_header(twice.as_bytes()), 400, "bad_header"),
        row("a header that is not ASCII", with_header(b"Meridian-Wait: \xc3\xa9"), 400, "bad_header"),
        row("an unknown header", with_header(b"Meridian-Consistancy: session"), 400, "bad_header"),
    ];
    for (what, line) in [
        ("a level that is none", "Meridian-Consistency: strong"),
        ("a level in capitals", "Meridian-Consistency: SESSION"),
        ("a wait without a unit", "Meridian-Wait: 250"),
        ("a wait beyond the limit", "Meridian-Wait: 31s"),
        ("a wait in the past", "Meridian-Wait: -1ms"),
        ("a commit level that is none", "Meridian-Commit: some"),
        ("a commit level of no DC", "Meridian-Commit: dcs:0"),
        ("an empty request id", "Meridian-Request-Id:"),
        ("a wait twice", "Meridian-Wait: 1s\r\nMeridian-Wait: 2s"),
    ] {
        rows.push(row(what, with_header(line.as_bytes()), 400, "bad_header"));
    }
    let id = format!("Meridian-Request-Id: {}", "i".repeat(65));
    let write =
        request("POST", format!("{KEYS}/new").as_bytes(), &[id.as_bytes()], add(1).to_string().as_bytes());
    rows.push(row("a request id too long", write, 400, "bad_header"));
    rows
}

fn queries() -> Vec<Row> {
    let mut rows = Vec::new();
    for (what, query) in [
        ("a limit of nothing", "keys?limit=0"),
        ("a limit that is no number", "keys?limit=many"),
        ("a limit beyond all", "keys?limit=99999999999999999999"),
        ("an unknown parameter of a listing", "keys?after=a"),
        ("a cursor that nobody gave out", "keys?cursor=%25%25"),
        ("a cursor that is not UTF-8", "keys?cursor=_w"),
        ("a parameter twice", "keys?limit=1&limit=2"),
        ("an unknown parameter of a read", "keys/set?version=1"),
        ("an unknown parameter of explain", "keys/set/explain?all=1"),
        ("a cursor of a set that nobody gave out", "keys/set?cursor=!!"),
    ] {
        rows.push(row(what, get(&format!("/v1/spaces/default/{query}")), 400, "bad_header"));
    }
    rows.push(row("an element that is not JSON", get(&format!("{KEYS}/set?element=x")), 400, "bad_json"));
    rows.push(row(
        "an element that cannot be kept",
        get(&format!("{KEYS}/set?element=%7B%22$x%22:1%7D")),
        400,
        "bad_value",
    ));
    rows
}

fn transactions() -> Vec<Row> {
    let txn = |body: Value| post(TXN, body.to_string().as_bytes());
    let add_one = json!({"key": "new", "type": "counter", "op": "add", "by": 1});
    let wrong_type = json!({"key": "register", "type": "counter", "op": "add", "by": 1});
    let condition = |condition: Value| txn(json!({"if": [condition], "ops": [add_one]}));
    let large = json!({"key": "new", "type": "register", "op": "set", "value": "v".repeat(900_000)});
    vec![
        row("no operations", txn(json!({"ops": []})), 400, "bad_value"),
        row("operations that are none", txn(json!({"ops": 1})), 400, "bad_value"),
        row("no list of operations", txn(json!({"if": []})), 400, "bad_value"),
        row("an unknown field", txn(json!({"ops": [add_one], "isolation": "none"})), 400, "unknown_field"),
        row(
            "an operation without a key",
            txn(json!({"ops": [{"type": "flag", "op": "enable"}]})),
            400,
            "bad_value",
        ),
        row("too many operations", txn(json!({"ops": vec![add_one.clone(); 20_000]})), 413, "too_large"),
        row("operations too large together", txn(json!({"ops": vec![large; 5]})), 413, "too_large"),
        row("a condition that is none", condition(json!({"key": "a", "like": 1})), 400, "unknown_field"),
        row("an empty condition", condition(json!({"key": "a"})), 400, "bad_value"),
        row(
            "two conditions in one",
            condition(json!({"key": "a", "absent": true, "exists": true})),
            400,
            "unknown_field",
        ),
        row("absent: false", condition(json!({"key": "a", "absent": false})), 400, "bad_value"),
        row("a version that is none", condition(json!({"key": "a", "version": "x"})), 400, "bad_value"),
        row(
            "a condition that does not hold",
            condition(json!({"key": "register", "absent": true})),
            409,
            "precondition_failed",
        ),
        row(
            "a second operation that cannot be",
            txn(json!({"ops": [add_one, wrong_type]})),
            409,
            "wrong_type",
        ),
    ]
}

/// Requests that are well formed, but not for what the keys hold.
fn states() -> Vec<Row> {
    let at = |key: &str, body: Value| post(&format!("{KEYS}/{key}"), body.to_string().as_bytes());
    vec![
        row("another type", at("register", add(1)), 409, "wrong_type"),
        row(
            "delete as another type",
            at("register", json!({"type": "set", "op": "delete"})),
            409,
            "wrong_type",
        ),
        row("a counter beyond its range", at("counter", add(1)), 400, "overflow"),
    ]
}

async fn particulars_of_errors_say_where_they_are(node: &Client) {
    let failed = node
        .ask(Ask::txn(&json!({
            "if": [{"key": "set", "contains": "x"}, {"key": "register", "absent": true}, {"key": "nope", "exists": true}],
            "ops": [{"key": "new", "type": "counter", "op": "add", "by": 1}],
        })))
        .await;
    assert_eq!(failed.body["error"]["failed"], json!([1, 2]), "{}", failed.body);
    let op = json!({"key": "new", "type": "counter", "op": "add", "by": 1});
    let refused =
        node.ask(Ask::txn(&json!({"ops": [op, {"key": "set", "type": "flag", "op": "enable"}]}))).await;
    assert_eq!(refused.body["error"]["op"], 1, "{}", refused.body);
    let malformed =
        node.ask(Ask::txn(&json!({"ops": [op, {"key": "set", "type": "flag", "op": "fly"}]}))).await;
    assert_eq!((malformed.code(), &malformed.body["error"]["op"]), ("unknown_op", &json!(1)));
    assert_eq!(node.value("new").await, Value::Null, "nothing of a refused transaction is done");
}

async fn a_request_id_names_one_request(node: &Client) {
    let first = node.ask(Ask::mutate("once", &add(1)).id("one")).await.ok();
    let again = node.ask(Ask::mutate("once", &add(1)).id("one")).await.ok();
    assert_eq!(first.body, again.body);
    let before = state(node).await;
    let reused = node.ask(Ask::mutate("once", &add(2)).id("one")).await;
    assert_eq!((reused.status, reused.code()), (409, "request_id_reused"));
    assert_eq!(state(node).await, before);
    assert_eq!(node.value("once").await, json!(1));
    // A refusal is remembered too: the retry gets the first answer, although it would succeed by now.
    let refused = node.ask(Ask::mutate("register", &add(1)).id("two")).await;
    node.ask(Ask::delete("register")).await.ok();
    let retried = node.ask(Ask::mutate("register", &add(1)).id("two")).await;
    assert_eq!((retried.status, retried.body), (409, refused.body));
}

async fn broken_connections_harm_nobody(node: &Client) {
    let before = state(node).await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/spaces/default/keys/half HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{\"type\":\"counter\",",
        b"GET /v1/sta",
        b"",
    ] {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(node.server()).await.expect("connected");
        stream.write_all(bytes).await.expect("written");
        // Closed in the middle: nobody reads an answer.
        drop(stream);
    }
    assert_eq!(state(node).await, before);
    assert_eq!(node.value("half").await, Value::Null);
    node.write("alive", set(true)).await;
}
