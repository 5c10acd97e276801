//! `status`: what each node says of itself, as a table.

use std::process::ExitCode;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::args::ClientOptions;
use super::http::HttpClient;
use super::request::all_servers;
use super::{failure, out};

/// How long a node may take to say how it is.
const DEADLINE: Duration = Duration::from_secs(2);

/// What one node says, or why it says nothing.
pub struct NodeStatus {
    /// Its client address.
    pub server: String,
    /// `/v1/status`.
    pub answer: Result<Value, String>,
}

/// Asks all servers at the same time.
pub async fn collect(client: &HttpClient, servers: &[String]) -> Vec<NodeStatus> {
    join_all(servers.iter().map(|server| async move {
        let answer = match client.get(server, "/v1/status", DEADLINE).await {
            Err(e) => Err(e.to_string()),
            Ok(answer) if answer.status != 200 => Err(format!("it answers {}", answer.status)),
            Ok(answer) => answer.json().ok_or_else(|| "its status is not JSON".to_string()),
        };
        NodeStatus { server: server.clone(), answer }
    }))
    .await
}

/// `status`.
pub(super) async fn run(options: &ClientOptions) -> ExitCode {
    let servers = match all_servers(options) {
        Ok(servers) => servers,
        Err(wrong) => return wrong.report(options.json),
    };
    let nodes = collect(&HttpClient::new(), &servers).await;
    let any = nodes.iter().any(|node| node.answer.is_ok());
    if options.json {
        let list: Vec<Value> = nodes
            .iter()
            .map(|node| match &node.answer {
                Ok(status) => json!({"server": node.server, "status": status}),
                Err(error) => json!({"server": node.server, "error": error}),
            })
            .collect();
        out(&json!({ "nodes": list }).to_string());
    } else {
        out(&render(&nodes));
    }
    match (any, options.json) {
        (true, _) => ExitCode::SUCCESS,
        // Each node's error is in the JSON already.
        (false, true) => ExitCode::from(1),
        (false, false) => failure(false, "no node answers"),
    }
}

/// The table that people see.
pub fn render(nodes: &[NodeStatus]) -> String {
    let mut rows =
        vec![["NODE", "SERVER", "ROLE", "LEADER", "TERM", "VECTOR", "LINKS", "LAG"].map(String::from)];
    for node in nodes {
        rows.push(match &node.answer {
            Ok(status) => row(&node.server, status),
            Err(error) => {
                let mut row: [String; 8] = Default::default();
                row[0] = "-".into();
                row[1].clone_from(&node.server);
                row[2] = format!("down ({error})");
                row
            }
        });
    }
    // A long reason for being down must not widen the columns of the others.
    let mut widths = [0usize; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            if !cell.starts_with("down") {
                *width = (*width).max(cell.chars().count());
            }
        }
    }
    let lines = rows.iter().map(|row| {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_string()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn row(server: &str, status: &Value) -> [String; 8] {
    let text = |name: &str| match status.get(name) {
        None | Some(Value::Null) => "-".to_string(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    [
        format!("{}/{}", text("dc"), text("node")),
        server.to_string(),
        text("role"),
        text("leader"),
        text("term"),
        vector(status),
        links(status),
        lag(status),
    ]
}

fn vector(status: &Value) -> String {
    let entries = status.get("vector").and_then(Value::as_object).into_iter().flatten();
    dashed(entries.map(|(dc, seq)| format!("{dc}={seq}")).collect())
}

fn links(status: &Value) -> String {
    let links = status.get("links").and_then(Value::as_array).into_iter().flatten();
    dashed(
        links
            .map(|link| {
                let up = link.get("connected").and_then(Value::as_bool).unwrap_or(false);
                let dc = link.get("dc").and_then(Value::as_str).unwrap_or("?");
                format!("{dc}:{}", if up { "up" } else { "DOWN" })
            })
            .collect(),
    )
}

fn lag(status: &Value) -> String {
    let origins = status.get("origins").and_then(Value::as_object).into_iter().flatten();
    dashed(
        origins
            .map(|(dc, origin)| {
                let number = |name| origin.get(name).and_then(Value::as_u64).unwrap_or(0);
                format!("{dc}:{}txns/{}ms", number("lag_txns"), number("lag_ms"))
            })
            .collect(),
    )
}

fn dashed(parts: Vec<String>) -> String {
    if parts.is_empty() { "-".into() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_leaders_links_lag_and_who_is_down() {
        let leader = json!({"dc":"eu-west","node":1,"role":"leader","leader":1,"term":4,"vector":{"eu-west":17},
            "origins":{"us-east":{"lag_txns":2,"lag_ms":12}},
            "links":[{"dc":"us-east","connected":true},{"dc":"ap-south","connected":false}]});
        let table = render(&[
            NodeStatus { server: "127.0.0.1:7400".into(), answer: Ok(leader) },
            NodeStatus { server: "127.0.0.1:7401".into(), answer: Err("gone".into()) },
        ]);
        let lines: Vec<&str> = table.lines().collect();
        assert!(lines[1].starts_with("eu-west/1  127.0.0.1:7400  leader"), "{table}");
        for part in ["eu-west=17", "us-east:up ap-south:DOWN", "us-east:2txns/12ms"] {
            assert!(lines[1].contains(part), "{table}");
        }
        assert!(lines[2].contains("down (gone)"), "{table}");
    }
}
