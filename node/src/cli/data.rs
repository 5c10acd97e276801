//! The data commands: forms the request that design and documentation name, and shows the answer.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use hyper::Method;
use serde_json::Value;

use super::args::{ClientOptions, Mutate};
use super::http::{Answer, encode};
use super::mutation::{mutation, parse_argument};
use super::request::{RequestError, ask};
use super::{failure, out, usage};

/// Most bytes of a txn's JSON that are read; the server's limit is lower by default.
const TXN_BYTES_MAX: u64 = 64 * 1024 * 1024;

fn key_path(options: &ClientOptions, key: &str) -> String {
    format!("/v1/spaces/{}/keys/{}", encode(&options.space), encode(key))
}

/// `counter add visits 5` and its like.
pub(super) async fn mutate(options: &ClientOptions, kind: &str, words: &Mutate) -> ExitCode {
    let body = match mutation(kind, &words.op, &words.args) {
        Ok(body) => body,
        Err(wrong) => return usage(&wrong),
    };
    let answer = ask(options, Method::POST, &key_path(options, &words.key), Some(&body), true).await;
    show(options, answer, |body| match body.get("result") {
        None | Some(Value::Null) => "done".into(),
        Some(result) => plain(result),
    })
}

/// `delete KEY`.
pub(super) async fn delete(options: &ClientOptions, key: &str) -> ExitCode {
    let answer = ask(options, Method::DELETE, &key_path(options, key), None, true).await;
    show(options, answer, |_| "done".into())
}

/// `get KEY`.
pub(super) async fn get(
    options: &ClientOptions,
    key: &str,
    element: Option<&str>,
    limit: Option<u64>,
    cursor: Option<&str>,
) -> ExitCode {
    let element = element.map(|text| parse_argument(text).to_string());
    let limit = limit.map(|n| n.to_string());
    let query = query(&[("element", element.as_deref()), ("limit", limit.as_deref()), ("cursor", cursor)]);
    let path = key_path(options, key) + &query;
    let asked_for_element = element.is_some();
    show(options, ask(options, Method::GET, &path, None, false).await, |body| {
        let shown = if asked_for_element { body.get("present") } else { body.get("value") };
        let more = body.get("cursor").and_then(Value::as_str);
        let more = more.map(|cursor| format!("\nmore with --cursor {cursor}")).unwrap_or_default();
        plain(shown.unwrap_or(body)) + &more
    })
}

/// `list [PREFIX]`.
pub(super) async fn list(
    options: &ClientOptions,
    prefix: &str,
    limit: Option<u64>,
    cursor: Option<&str>,
) -> ExitCode {
    let prefix = Some(prefix).filter(|p| !p.is_empty());
    let limit = limit.map(|n| n.to_string());
    let query = query(&[("prefix", prefix), ("limit", limit.as_deref()), ("cursor", cursor)]);
    let path = format!("/v1/spaces/{}/keys{query}", encode(&options.space));
    show(options, ask(options, Method::GET, &path, None, false).await, |body| {
        let keys = body.get("keys").and_then(Value::as_array).cloned().unwrap_or_default();
        let mut lines: Vec<String> = keys
            .iter()
            .map(|key| {
                let text = |name| key.get(name).and_then(Value::as_str).unwrap_or_default();
                format!("{:<10} {}", text("type"), text("key"))
            })
            .collect();
        if let Some(cursor) = body.get("cursor").and_then(Value::as_str) {
            lines.push(format!("more with --cursor {cursor}"));
        }
        lines.join("\n")
    })
}

/// `explain KEY`.
pub(super) async fn explain(options: &ClientOptions, key: &str) -> ExitCode {
    let path = key_path(options, key) + "/explain";
    show(options, ask(options, Method::GET, &path, None, false).await, |body| {
        let mut lines = vec![format!(
            "{}, {} conflicts",
            body.get("type").map_or("absent".into(), plain),
            body.get("conflicts").map_or("0".into(), plain)
        )];
        for cell in body.get("cells").and_then(Value::as_array).into_iter().flatten() {
            lines.push(format!("cell {}", cell.get("path").map_or_else(String::new, plain)));
            for dot in cell.get("dots").and_then(Value::as_array).into_iter().flatten() {
                let part = |name| dot.get(name).map_or_else(String::new, plain);
                let visible = dot.get("visible").and_then(Value::as_bool).unwrap_or(false);
                let mark = if visible { "" } else { "  (not visible)" };
                lines.push(format!(
                    "  {}:{} at {}  {}{mark}",
                    part("dc"),
                    part("seq"),
                    part("hlc"),
                    part("value")
                ));
            }
        }
        lines.join("\n")
    })
}

/// `txn FILE`.
pub(super) async fn txn(options: &ClientOptions, file: &Path) -> ExitCode {
    let text = match read_txn(file) {
        Ok(text) => text,
        Err(e) => return failure(options.json, &format!("{}: {e}", file.display())),
    };
    let body: Value = match serde_json::from_str(&text) {
        Ok(body) => body,
        Err(e) => return usage(&format!("{} is not JSON: {e}", file.display())),
    };
    let path = format!("/v1/spaces/{}/txn", encode(&options.space));
    show(options, ask(options, Method::POST, &path, Some(&body), true).await, |body| {
        let results = body.get("results").and_then(Value::as_array).cloned().unwrap_or_default();
        let lines: Vec<String> =
            results.iter().map(|r| if r.is_null() { "done".into() } else { plain(r) }).collect();
        if lines.is_empty() { "done".into() } else { lines.join("\n") }
    })
}

fn read_txn(file: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().take(TXN_BYTES_MAX + 1).read_to_string(&mut text)?
    } else {
        std::fs::File::open(file)?.take(TXN_BYTES_MAX + 1).read_to_string(&mut text)?
    };
    if read as u64 > TXN_BYTES_MAX {
        return Err(std::io::Error::other(format!("it has more than {TXN_BYTES_MAX} bytes")));
    }
    Ok(text)
}

fn query(parts: &[(&str, Option<&str>)]) -> String {
    let given: Vec<String> =
        parts.iter().filter_map(|(name, value)| Some(format!("{name}={}", encode((*value)?)))).collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}

/// Text as it is, everything else as JSON.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Shows an answer: the body as it came with `--json`, else what `human` makes of it; an error goes to standard error.
fn show(
    options: &ClientOptions,
    answer: Result<Answer, RequestError>,
    human: impl FnOnce(&Value) -> String,
) -> ExitCode {
    let answer = match answer {
        Ok(answer) => answer,
        Err(e) => return e.report(options.json),
    };
    let Some(body) = answer.json() else {
        return failure(options.json, &format!("the server answered {} without JSON", answer.status));
    };
    if (200..300).contains(&answer.status) {
        return out(&if options.json { body.to_string() } else { human(&body) });
    }
    if options.json {
        out(&body.to_string());
        return ExitCode::from(1);
    }
    let part = |name: &str| body.get("error").and_then(|e| e.get(name)).map_or_else(String::new, plain);
    failure(false, &format!("{}: {}", part("code"), part("message")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_has_only_what_was_given_and_encodes_it() {
        assert_eq!(query(&[("a", None)]), "");
        assert_eq!(
            query(&[("prefix", Some("a/b")), ("limit", None), ("cursor", Some("x=="))]),
            "?prefix=a%2Fb&cursor=x%3D%3D"
        );
    }

    #[test]
    fn text_is_shown_bare_and_the_rest_as_json() {
        assert_eq!(plain(&serde_json::json!("v")), "v");
        assert_eq!(plain(&serde_json::json!(["a", 1])), "[\"a\",1]");
    }
}
