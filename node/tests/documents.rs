//! Documents by HTTP, on one node in this process: formats, differences, request ids, imports, statistics.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::Method;
use base64::Engine;
use meridian::cli::http::{Answer, Call, HttpClient};
use meridian::embedded::{self, Node};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);
const DOC: &str = "/v1/spaces/default/docs/notes%2Fone";

struct Http {
    node: Node,
    client: HttpClient,
}

impl Http {
    async fn start() -> Http {
        Http::start_with("").await
    }

    async fn start_with(settings: &str) -> Http {
        let node = embedded::Setup::default().settings(settings).start("eu-west").await.expect("starts");
        Http { node, client: HttpClient::new() }
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &'static str) -> Answer {
        self.ask(Method::POST, &format!("{DOC}{path}"), headers, body).await
    }

    async fn versions(&self) -> Vec<Value> {
        let body = self.get("/versions").await.json().expect("JSON");
        body["versions"].as_array().cloned().unwrap_or_default()
    }

    /// The keys of the space, those of versions too.
    async fn keys(&self, prefix: &str) -> Vec<String> {
        let path = format!("/v1/spaces/default/keys?prefix={}", meridian::cli::http::encode(prefix));
        let body = self.ask(Method::GET, &path, &[], "").await.json().expect("JSON");
        let keys = body["keys"].as_array().cloned().unwrap_or_default();
        keys.iter().map(|key| key["key"].as_str().expect("text").to_owned()).collect()
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let (server, body) = (self.node.addr(), body.into());
        let call = Call { method, server, path, headers, body, deadline: PATIENCE };
        self.client.send(call).await.expect("an answer")
    }

    async fn get(&self, query: &str) -> Answer {
        self.ask(Method::GET, &format!("{DOC}{query}"), &[], "").await
    }

    async fn put(&self, query: &str, body: impl Into<Bytes>) -> Value {
        let answer = self.ask(Method::PUT, &format!("{DOC}{query}"), &[], body).await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        answer.json().expect("JSON")
    }

    async fn text(&self) -> String {
        String::from_utf8(self.get("?format=text&root=t").await.body.to_vec()).expect("text")
    }

    async fn stats(&self) -> Value {
        self.get("/stats").await.json().expect("JSON")
    }
}

fn code(answer: &Answer) -> (u16, String) {
    let body = answer.json().unwrap_or_default();
    (answer.status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_text_is_put_read_in_every_format_and_put_again_without_a_change() {
    let http = Http::start().await;
    let first = http.put("?format=text&root=t", "Hello 😀 world").await;
    assert_eq!(first["changed"], true);
    let again = http.put("?format=text&root=t", "Hello 😀 world").await;
    assert_eq!(again, json!({"changed": false, "version": first["version"]}));
    let second = http.put("?format=text&root=t", "Hello 😁, world!").await;
    assert_eq!((second["changed"].as_bool(), http.text().await.as_str()), (Some(true), "Hello 😁, world!"));
    assert_eq!(http.stats().await["updates"], 2, "what changes nothing is not written");
    let read = http.get("?format=json").await;
    assert_eq!(
        read.header("etag"),
        Some(format!("{:?}", second["version"].as_str().expect("text")).as_str())
    );
    let read = read.json().expect("JSON");
    assert_eq!((&read["value"], &read["version"]), (&json!({"t": "Hello 😁, world!"}), &second["version"]));
    // The whole as one update begins a copy.
    let update = http.get("?format=update").await.body;
    let copy = "/v1/spaces/default/docs/copy";
    let put = http.ask(Method::PUT, &format!("{copy}?format=update"), &[], update.clone()).await;
    assert_eq!(put.status, 200);
    let copied = http.ask(Method::GET, &format!("{copy}?format=json"), &[], "").await.json().expect("JSON");
    assert_eq!(copied["value"], read["value"]);
    let again = http.ask(Method::PUT, &format!("{copy}?format=update"), &[], update).await;
    assert_eq!(again.json().expect("JSON")["changed"], false);
}

#[tokio::test]
async fn json_is_compared_into_the_roots() {
    let http = Http::start().await;
    let content =
        json!({"t": "text", "m": {"n": 1, "deep": {"list": [1, {"x": true}]}}, "a": ["one", 2, null]});
    http.put("", content.to_string()).await;
    assert_eq!(http.get("").await.json().expect("JSON")["value"], content);
    let other = json!({"t": "a text", "m": {"deep": {"list": [{"x": false}, 1.5]}}, "a": [2, null, "three"]});
    http.put("?format=json", other.to_string()).await;
    assert_eq!(http.get("").await.json().expect("JSON")["value"], other);
    http.put("?format=json", json!({"a": []}).to_string()).await;
    assert_eq!(http.get("").await.json().expect("JSON")["value"], json!({"t": "", "m": "", "a": ""}));
    http.put("?format=text&root=t", "back").await;
    assert_eq!(http.text().await, "back");
}

#[tokio::test]
async fn a_retry_is_the_same_request_and_a_version_is_demanded() {
    let http = Http::start().await;
    http.put("?format=text&root=t", "base").await;
    let path = format!("{DOC}?format=text&root=t");
    let put = async |headers: &[(&str, &str)], body: &'static str| {
        http.ask(Method::PUT, &path, headers, body).await
    };
    let id = [("Meridian-Request-Id", "r1")];
    let first = put(&id, "base, edited").await;
    assert_eq!(first.status, 200);
    // Others go on; the retry is answered as the first attempt was and puts nothing back.
    http.put("?format=text&root=t", "others go on").await;
    let retry = put(&id, "base, edited").await;
    assert_eq!(retry.json().expect("JSON")["version"], first.json().expect("JSON")["version"]);
    assert_eq!(http.text().await, "others go on");
    assert_eq!(code(&put(&id, "something else").await), (409, "request_id_reused".into()));
    // One that changes nothing is remembered, too.
    let id = [("Meridian-Request-Id", "r2")];
    assert_eq!(put(&id, "others go on").await.json().expect("JSON")["changed"], false);
    http.put("?format=text&root=t", "and on").await;
    assert_eq!(put(&id, "others go on").await.status, 200);
    assert_eq!(http.text().await, "and on");
    let version = http.get("").await.json().expect("JSON")["version"].as_str().expect("text").to_owned();
    let quoted = format!("\"{version}\"");
    assert_eq!(put(&[("If-Match", &quoted)], "demanded").await.status, 200);
    for stale in [&quoted, &version] {
        let refused = put(&[("If-Match", stale)], "refused").await;
        assert_eq!(code(&refused), (409, "precondition_failed".into()));
    }
    assert_eq!(http.text().await, "demanded");
    assert_eq!(code(&put(&[("If-Match", "*")], "x").await), (400, "bad_header".into()));
}

#[tokio::test]
async fn many_who_put_the_same_at_once_put_it_once() {
    let http = Http::start().await;
    for text in ["seed", "seed, grown", "other"] {
        let puts = (0..8).map(|_| http.put("?format=text&root=t", text));
        futures_util::future::join_all(puts).await;
        assert_eq!(http.text().await, text);
    }
}

#[tokio::test]
async fn what_is_too_large_for_one_update_comes_in_several() {
    let http = Http::start().await;
    let large: String = (0..230_000).map(|n| format!("word{n:06} 😀 ")).collect();
    assert!(large.len() > 3 << 20);
    http.put("?format=text&root=t", large.clone()).await;
    assert!(http.text().await == large);
    let stats = http.stats().await;
    assert!(stats["updates"].as_u64() > Some(3) && stats["bytes"].as_u64() > Some(3 << 20), "{stats}");
    assert_eq!(
        (&stats["clients"], &stats["incarnations"], &stats["editors_here"]),
        (&json!(1), &json!(1), &json!(0))
    );
    let update = http.get("?format=update").await.body;
    assert!(update.len() > 3 << 20);
    let copy = "/v1/spaces/default/docs/imported?format=";
    let put = http.ask(Method::PUT, &format!("{copy}update"), &[], update).await;
    assert_eq!(put.status, 200, "{:?}", put.body);
    let read = http.ask(Method::GET, &format!("{copy}text&root=t"), &[], "").await;
    assert!(read.body == large.as_bytes());
    // A difference is never seen in parts, so it has to fit into one transaction.
    let refused =
        http.ask(Method::PUT, &format!("{DOC}?format=text&root=t"), &[], large.replace("word", "W")).await;
    assert_eq!(code(&refused), (413, "too_large".into()));
    assert!(http.text().await == large, "nothing changed");
    http.put("?format=text&root=t", large.replace("word000777", "W")).await;
}

#[tokio::test]
async fn what_cannot_be_put_says_why() {
    let http = Http::start().await;
    http.put("", json!({"m": {"k": 1}}).to_string()).await;
    for (query, body, status, told) in [
        ("?format=text&root=m", "text", 409, "wrong_type"),
        ("?format=json", r#"{"m":[1]}"#, 409, "wrong_type"),
        ("?format=json", r#"{"n":1}"#, 400, "bad_value"),
        ("?format=json", "[1]", 400, "bad_value"),
        ("?format=json", "{", 400, "bad_json"),
        ("?format=text", "x", 400, "bad_header"),
        ("?format=xml&root=x", "<p/>", 400, "bad_header"),
        ("?format=yaml", "x", 400, "bad_header"),
        ("?format=update", "not an update", 400, "bad_value"),
        ("?format=json&more=1", "{}", 400, "bad_header"),
    ] {
        let refused = http.ask(Method::PUT, &format!("{DOC}{query}"), &[], body).await;
        assert_eq!(code(&refused), (status, told.into()), "{query} {body}");
    }
    let deep = format!("{{\"d\":{}1{}}}", "[".repeat(40), "]".repeat(40));
    let refused = http.ask(Method::PUT, DOC, &[], deep).await;
    assert_eq!(code(&refused), (400, "bad_value".into()));
    let register = r#"{"type":"register","op":"set","value":1}"#;
    http.ask(Method::POST, "/v1/spaces/default/keys/register", &[], register).await;
    for path in ["register?format=text&root=t", "register"] {
        let refused = http.ask(Method::PUT, &format!("/v1/spaces/default/docs/{path}"), &[], "{}").await;
        assert_eq!(code(&refused), (409, "wrong_type".into()));
    }
    for path in ["register/token", "nothing/token", "nothing/stats"] {
        let refused = http.ask(Method::GET, &format!("/v1/spaces/default/docs/{path}"), &[], "").await;
        let expected = if path.starts_with("register") { (409, "wrong_type") } else { (404, "not_found") };
        assert_eq!(code(&refused), (expected.0, expected.1.into()), "{path}");
    }
}

#[tokio::test]
async fn xml_is_read_as_such() {
    let http = Http::start().await;
    // As yjs writes it: the fragment `x` with a paragraph `p` that says `hi`.
    let update = "AQMBAAcBAXgDAXAHAAEABgQAAQECaGkA";
    let body = json!({"type": "doc", "op": "update", "update": {"$bytes": update}}).to_string();
    assert!(base64::engine::general_purpose::STANDARD.decode(update).is_ok());
    let done = http.ask(Method::POST, "/v1/spaces/default/keys/notes%2Fone", &[], body).await;
    assert_eq!(done.status, 200, "{:?}", done.body);
    let read = http.get("?format=xml&root=x").await;
    assert_eq!((read.status, &read.body[..]), (200, &b"<p>hi</p>"[..]));
    assert!(read.header("content-type").is_some_and(|kind| kind.starts_with("application/xml")));
    assert_eq!(http.get("?format=xml").await.status, 400);
    // What JSON shows of it may be put back as it is.
    let read = http.get("").await.json().expect("JSON")["value"].to_string();
    assert_eq!(http.put("?format=json", read).await["changed"], false);
}

/// What the keys of versions begin with.
const RESERVED: &str = "\u{10FFFF}";

#[tokio::test]
async fn a_version_is_made_listed_read_restored_and_deleted() {
    let http = Http::start().await;
    assert_eq!(code(&http.get("/versions").await), (404, "not_found".into()));
    http.put("", json!({"t": "first draft", "m": {"k": [1, 2]}}).to_string()).await;
    let made = http.post("/versions", &[], r#"{"name":"Draft","by":"ann"}"#).await;
    assert_eq!(made.status, 200, "{:?}", made.body);
    let made = made.json().expect("JSON");
    http.put("", json!({"t": "second draft", "m": {"k": [2]}, "new": {"x": 1}}).to_string()).await;
    let versions = http.versions().await;
    assert_eq!(versions, std::slice::from_ref(&made));
    assert_eq!(
        (&made["name"], &made["by"], &made["dc"]),
        (&json!("Draft"), &json!("ann"), &json!("eu-west"))
    );
    assert!(
        made["time_ms"].as_u64() > Some(1_700_000_000_000) && made["bytes"].as_u64() > Some(10),
        "{made}"
    );
    let version = format!("/versions/{}", made["id"].as_str().expect("text"));
    let old = json!({"t": "first draft", "m": {"k": [1, 2]}});
    assert_eq!(http.get(&version).await.json().expect("JSON")["value"], old);
    assert_eq!(http.get(&format!("{version}?format=text&root=t")).await.body, "first draft");
    assert_eq!(http.get(&format!("{version}?format=update")).await.status, 200);
    // The restored document goes on from what it is, and a retry does nothing again.
    let updates = http.stats().await["updates"].as_u64().expect("a number");
    let id = [("Meridian-Request-Id", "restore-1")];
    for _ in 0..2 {
        let restored = http.post(&format!("{version}/restore"), &id, "").await;
        assert_eq!(restored.status, 200, "{:?}", restored.body);
        assert_eq!(http.stats().await["updates"], updates + 1);
    }
    let now = http.get("").await.json().expect("JSON");
    assert_eq!(now["value"], json!({"t": "first draft", "m": {"k": [1, 2]}, "new": ""}));
    // The keys that it is kept in are of no concern to anybody, and not to be written.
    assert_eq!(http.keys("").await, ["notes/one"]);
    let kept = http.keys(RESERVED).await;
    assert_eq!(kept.len(), 2, "{kept:?}");
    let path = format!("/v1/spaces/default/keys/{}", meridian::cli::http::encode(&kept[0]));
    let write = r#"{"type":"register","op":"set","value":1}"#;
    assert_eq!(code(&http.ask(Method::POST, &path, &[], write).await), (400, "bad_key".into()));
    assert_eq!(code(&http.ask(Method::DELETE, &path, &[], "").await), (400, "bad_key".into()));
    for _ in 0..2 {
        assert_eq!(http.ask(Method::DELETE, &format!("{DOC}{version}"), &[], "").await.status, 200);
        assert_eq!((http.versions().await, http.keys(RESERVED).await), (Vec::new(), Vec::new()));
    }
    assert_eq!(code(&http.get(&version).await), (404, "not_found".into()));
    assert_eq!(code(&http.post(&format!("{version}/restore"), &[], "").await), (404, "not_found".into()));
}

#[tokio::test]
async fn versions_end_with_their_document() {
    let http = Http::start().await;
    http.put("?format=text&root=t", "secret").await;
    http.post("/versions", &[], r#"{"name":"one"}"#).await;
    let id = [("Meridian-Request-Id", "delete-1")];
    let path = "/v1/spaces/default/keys/notes%2Fone";
    for _ in 0..2 {
        let deleted = http.ask(Method::DELETE, path, &id, "").await;
        assert_eq!((deleted.status, http.keys(RESERVED).await), (200, Vec::new()), "{:?}", deleted.body);
    }
    http.put("?format=text&root=t", "another").await;
    assert_eq!(http.versions().await, Vec::<Value>::new());
    http.post("/versions", &[], r#"{"name":"two"}"#).await;
    let txn = r#"{"ops":[{"key":"notes/one","op":"delete"},{"key":"n","type":"counter","op":"add","by":1}]}"#;
    let done = http.ask(Method::POST, "/v1/spaces/default/txn", &[], txn).await;
    assert_eq!(done.status, 200, "{:?}", done.body);
    assert_eq!(done.json().expect("JSON")["results"].as_array().map(Vec::len), Some(2));
    assert_eq!(http.keys(RESERVED).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_retry_makes_one_version_and_people_make_as_many_as_are_allowed() {
    let http = Http::start_with("[documents]\nversions_named_max = 2").await;
    http.put("?format=text&root=t", "text").await;
    let id = [("Meridian-Request-Id", "v1")];
    let first = http.post("/versions", &id, r#"{"name":"one"}"#).await;
    http.put("?format=text&root=t", "other text").await;
    let again = http.post("/versions", &id, r#"{"name":"one"}"#).await;
    assert_eq!(first.json(), again.json());
    assert_eq!((http.versions().await.len(), http.keys(RESERVED).await.len()), (1, 2));
    assert_eq!(http.post("/versions", &[], r#"{"name":"two"}"#).await.status, 200);
    let refused = http.post("/versions", &[], r#"{"name":"three"}"#).await;
    assert_eq!(code(&refused), (413, "too_large".into()));
    for (body, told) in [
        ("{}", "bad_value"),
        (r#"{"name":""}"#, "bad_value"),
        (r#"{"name":1}"#, "bad_value"),
        (r#"{"name":"a","x":1}"#, "unknown_field"),
        ("name", "bad_json"),
    ] {
        assert_eq!(code(&http.post("/versions", &[], body).await), (400, told.into()), "{body}");
    }
}

#[tokio::test]
async fn versions_are_made_by_themselves_while_a_document_is_edited() {
    let http = Http::start_with("[documents]\nversion_interval = \"100ms\"\nversions_kept = 2").await;
    let started = std::time::Instant::now();
    let mut seen = std::collections::BTreeSet::new();
    for n in 0.. {
        http.put("?format=text&root=t", format!("text {n}")).await;
        let versions = http.versions().await;
        assert!(versions.len() <= 2, "{versions:?}");
        for version in &versions {
            assert!(
                version["name"].is_null()
                    && version["id"].as_str().is_some_and(|id| id.ends_with("-eu-west"))
            );
            seen.insert(version["id"].as_str().expect("text").to_owned());
        }
        if seen.len() >= 4 && versions.len() == 2 {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{seen:?}");
    }
    assert_eq!(http.keys(RESERVED).await.len(), 4, "what is left out is removed");
}

#[tokio::test]
async fn a_large_document_has_versions_too() {
    let http = Http::start().await;
    let large: String = (0..100_000).map(|n| format!("word{n:06} 😀 ")).collect();
    http.put("?format=text&root=t", large.clone()).await;
    let made = http.post("/versions", &[], r#"{"name":"large"}"#).await.json().expect("JSON");
    assert!(made["bytes"].as_u64() > Some(1 << 20), "{made}");
    http.put("?format=text&root=t", large.replace("word000777", "W")).await;
    let version = format!("/versions/{}", made["id"].as_str().expect("text"));
    assert!(http.get(&format!("{version}?format=text&root=t")).await.body == large.as_bytes());
    assert_eq!(http.post(&format!("{version}/restore"), &[], "").await.status, 200);
    assert!(http.text().await == large);
}
