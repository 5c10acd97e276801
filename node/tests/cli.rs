//! What the data commands ask of a server, how they show its answer, and what they exit with.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::IntoResponse;
use serde_json::{Value, json};

/// A server that answers each request with a description of it; keys named `absent` are not found.
async fn echo() -> String {
    let handler = async |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
        let header = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_string);
        if uri.path().ends_with("absent") {
            let body = json!({"error": {"code": "not_found", "message": "there is no such key"}}).to_string();
            return (StatusCode::NOT_FOUND, [("meridian-session", "token-2")], body).into_response();
        }
        let body = json!({
            "asked": format!("{method} {uri}"),
            "body": serde_json::from_slice::<Value>(&body).unwrap_or_default(),
            "id": header("meridian-request-id").is_some(),
            "session": header("meridian-session"),
            "wait": header("meridian-wait"),
            "value": ["a", 1],
            "present": true,
        });
        (
            [("meridian-session", "token-1"), (header::CONTENT_TYPE.as_str(), "application/json")],
            body.to_string(),
        )
            .into_response()
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().fallback(handler)).await });
    address
}

/// Runs the program as a shell without a terminal would.
async fn meridian(server: &str, words: &[&str], stdin: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
    command.args(words).env("MERIDIAN_SERVER", server);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let stdin = stdin.to_string();
    let run = move || {
        let mut child = command.spawn().expect("started");
        child.stdin.take().expect("piped").write_all(stdin.as_bytes()).expect("written");
        child.wait_with_output().expect("ended")
    };
    tokio::task::spawn_blocking(run).await.expect("run")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end().to_string()
}

#[tokio::test]
async fn each_command_asks_for_what_the_documentation_says() {
    let server = echo().await;
    let mutation = |kind: &str, op: &str| json!({"type": kind, "op": op});
    let cases: Vec<(Vec<&str>, &str, Value)> = vec![
        (
            vec!["counter", "add", "visits", "5"],
            "POST /v1/spaces/default/keys/visits",
            json!({"type":"counter","op":"add","by":5}),
        ),
        (
            vec!["--space", "shop", "set", "add", "cart/7", "apple"],
            "POST /v1/spaces/shop/keys/cart%2F7",
            json!({"type":"set","op":"add","element":"apple"}),
        ),
        (vec!["flag", "enable", "f"], "POST /v1/spaces/default/keys/f", mutation("flag", "enable")),
        (vec!["register", "delete", "k"], "POST /v1/spaces/default/keys/k", mutation("register", "delete")),
        (vec!["delete", "k"], "DELETE /v1/spaces/default/keys/k", Value::Null),
        (vec!["get", "k"], "GET /v1/spaces/default/keys/k", Value::Null),
        (
            vec!["get", "k", "--element", "apple", "--limit", "3"],
            "GET /v1/spaces/default/keys/k?element=%22apple%22&limit=3",
            Value::Null,
        ),
        (vec!["list"], "GET /v1/spaces/default/keys", Value::Null),
        (vec!["list", "a b"], "GET /v1/spaces/default/keys?prefix=a%20b", Value::Null),
        (vec!["explain", "k"], "GET /v1/spaces/default/keys/k/explain", Value::Null),
        (vec!["txn", "-"], "POST /v1/spaces/default/txn", json!({"ops": []})),
    ];
    for (words, asked, body) in cases {
        let output = meridian(&server, &[&words[..], &["--json"]].concat(), "{\"ops\":[]}").await;
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((&answer["asked"], &answer["body"]), (&json!(asked), &body), "{words:?}");
        assert_eq!(answer["id"], json!(!asked.starts_with("GET")), "mutations carry a request id: {words:?}");
        assert_eq!(output.status.code(), Some(0));
    }
}

#[tokio::test]
async fn answers_are_shown_for_people_and_errors_have_their_exit_codes() {
    let server = echo().await;
    let output = meridian(&server, &["get", "k"], "").await;
    assert_eq!((text(&output.stdout).as_str(), output.status.code()), ("[\"a\",1]", Some(0)));
    let output = meridian(&server, &["get", "k", "--element", "1"], "").await;
    assert_eq!(text(&output.stdout), "true");
    let output = meridian(&server, &["get", "absent"], "").await;
    assert_eq!(text(&output.stderr), "error: not_found: there is no such key");
    assert_eq!(output.status.code(), Some(1));
    let output = meridian(&server, &["get", "absent", "--json"], "").await;
    assert!(text(&output.stdout).starts_with("{\"error\":{\"code\":\"not_found\""));
    assert_eq!(output.status.code(), Some(1));
    for words in [
        &["counter", "add", "visits"][..],
        &["counter", "add", "visits", "many"],
        &["heap", "push"],
        &["get"],
        &["bench", "--pipeline", "4"],
        &[],
    ] {
        assert_eq!(meridian(&server, words, "").await.status.code(), Some(2), "{words:?}");
    }
    let output = meridian(&server, &["txn", "-"], "{").await;
    assert_eq!(output.status.code(), Some(2));
    let closed =
        tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("bound");
    let output = meridian(&closed.to_string(), &["get", "k"], "").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot connect"), "{}", text(&output.stderr));
}

#[tokio::test]
async fn a_session_file_carries_the_token_from_one_command_to_the_next() {
    let server = echo().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("session");
    let file = file.to_str().expect("text");
    let session = async |key: &str| {
        let output = meridian(&server, &["get", key, "--json", "--wait", "0ms", "--session", file], "").await;
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let first = session("k").await;
    assert_eq!((&first["session"], &first["wait"]), (&Value::Null, &json!("0ms")));
    assert_eq!(session("k").await["session"], "token-1");
    session("absent").await;
    assert_eq!(session("k").await["session"], "token-2", "an error's token counts too");
}

#[tokio::test]
async fn bench_ends_with_one_line_of_json() {
    let server = echo().await;
    for workload in ["put", "counter", "get", "mix"] {
        let words =
            ["bench", "--workload", workload, "--clients", "3", "--seconds", "1", "--keys", "50", "--json"];
        let output = meridian(&server, &words, "").await;
        let line: Value =
            serde_json::from_str(text(&output.stdout).lines().last().expect("a line")).expect("JSON");
        assert_eq!(
            (&line["workload"], &line["clients"], &line["errors"]),
            (&json!(workload), &json!(3), &json!(0))
        );
        assert!(line["ops"].as_u64() > Some(0) && line["p99_ms"].is_number(), "{line}");
        assert_eq!(output.status.code(), Some(0));
    }
}
