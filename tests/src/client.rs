//! A client of one node: typed requests with tokens, request ids and deadlines, and what their answers mean.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use meridian::cli::http::{Call, HttpClient, HttpError, encode};
use meridian_client::wire::json as wire;
use serde_json::{Value, json};

use crate::history::kind::ELEMENTS;

/// How long a request may take that names no deadline: above every bounded wait of a node.
const DEADLINE: Duration = Duration::from_secs(15);

/// One request, before it is sent.
#[derive(Clone, Debug)]
pub struct Ask {
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    deadline: Duration,
}

impl Ask {
    fn new(method: Method, path: String, body: Option<&Value>) -> Self {
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        Self { method, path, headers: Vec::new(), body, deadline: DEADLINE }
    }

    /// Reads a key.
    pub fn read(key: &str) -> Self {
        Self::new(Method::GET, key_path(key), None)
    }

    /// One mutation of a key, as in `{"type":"counter","op":"add","by":1}`.
    pub fn mutate(key: &str, mutation: &Value) -> Self {
        Self::new(Method::POST, key_path(key), Some(mutation))
    }

    /// Deletes a key.
    pub fn delete(key: &str) -> Self {
        Self::new(Method::DELETE, key_path(key), None)
    }

    /// A transaction, as in `{"if":[..],"ops":[..]}`.
    pub fn txn(body: &Value) -> Self {
        Self::new(Method::POST, "/v1/spaces/default/txn".into(), Some(body))
    }

    /// Any path.
    pub fn get(path: &str) -> Self {
        Self::new(Method::GET, path.into(), None)
    }

    /// Posts to any path.
    pub fn post(path: &str, body: &Value) -> Self {
        Self::new(Method::POST, path.into(), Some(body))
    }

    /// Puts a text of any kind to any path.
    pub fn put(path: &str, body: &str) -> Self {
        Self { body: Bytes::from(body.to_owned()), ..Self::new(Method::PUT, path.into(), None) }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Continues the session of a token.
    #[must_use]
    pub fn after(self, token: &str) -> Self {
        self.header("Meridian-Session", token)
    }

    /// Names the request.
    #[must_use]
    pub fn id(self, id: &str) -> Self {
        self.header("Meridian-Request-Id", id)
    }

    /// How long the node may wait to catch up, as in `250ms`.
    #[must_use]
    pub fn wait(self, wait: &str) -> Self {
        self.header("Meridian-Wait", wait)
    }

    /// Reads what the node has now.
    #[must_use]
    pub fn eventual(self) -> Self {
        self.header("Meridian-Consistency", "eventual")
    }

    /// How long the whole may take.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

fn key_path(key: &str) -> String {
    format!("/v1/spaces/default/keys/{}", encode(key))
}

/// `register set`.
pub fn set(value: impl Into<Value>) -> Value {
    json!({"type": "register", "op": "set", "value": value.into()})
}

/// `counter add`.
pub fn add(by: i64) -> Value {
    json!({"type": "counter", "op": "add", "by": by})
}

/// `set add`.
pub fn add_element(element: impl Into<Value>) -> Value {
    json!({"type": "set", "op": "add", "element": element.into()})
}

/// An edit of Yjs that puts a number into the array [`ELEMENTS`] of a document, made by an editor of its own who has seen
/// nothing of it. `element` is not negative.
pub fn edit_in(element: i64) -> Value {
    let mut update = vec![1, 1];
    // One item at clock 0 of the editor: any value, in a root type.
    varint(&mut update, element.unsigned_abs() + 1);
    update.extend([0, 8, 1, 1]);
    update.extend(ELEMENTS.as_bytes());
    // One integer, whose first byte has a sign and six bits of it; then nothing is deleted.
    update.extend([1, 125]);
    let rest = element.unsigned_abs() >> 6;
    update.push((element & 0x3f) as u8 | if rest > 0 { 0x80 } else { 0 });
    if rest > 0 {
        varint(&mut update, rest);
    }
    update.push(0);
    let update = wire::from_value(&meridian_crdt::Value::Bytes(update));
    json!({"type": "doc", "op": "update", "update": update})
}

fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The body; null if it is not JSON.
    pub body: Value,
    /// The session token of the answer.
    pub token: Option<String>,
}

impl Reply {
    /// Whether what was asked is done.
    pub fn done(&self) -> bool {
        self.status == 200
    }

    /// The code of an error, or nothing.
    pub fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    /// The value read; null if there is none.
    pub fn value(&self) -> &Value {
        &self.body["value"]
    }

    /// The session token.
    ///
    /// # Panics
    /// When the answer has none, which no answer about data may lack.
    pub fn token(&self) -> &str {
        self.token.as_deref().unwrap_or_else(|| panic!("no token in {self:?}"))
    }

    /// This answer, which must be a success.
    ///
    /// # Panics
    /// When it is an error.
    pub fn ok(self) -> Self {
        assert!(self.done(), "refused: {} {}", self.status, self.body);
        self
    }
}

/// What became of a mutation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is done, and must never be lost.
    Acked,
    /// It was not done, and must never show.
    NotDone(String),
    /// It may have been done, or be done later.
    Unknown(String),
}

/// The errors that say that nothing was done, beside all of 4xx.
const SURELY_UNDONE: [&str; 5] = ["overloaded", "not_caught_up", "no_leader", "clock_unsafe", "storage_full"];

/// What an answer to a mutation, or the lack of one, means.
pub fn outcome(answer: &Result<Reply, HttpError>) -> Outcome {
    match answer {
        Ok(reply) if reply.done() => Outcome::Acked,
        Ok(reply) if reply.status < 500 || SURELY_UNDONE.contains(&reply.code()) => {
            Outcome::NotDone(reply.code().into())
        }
        Ok(reply) => Outcome::Unknown(format!("{} {}", reply.status, reply.code())),
        Err(e) if e.outcome_unknown() => Outcome::Unknown(e.to_string()),
        Err(e) => Outcome::NotDone(e.to_string()),
    }
}

/// The client of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: HttpClient,
    server: String,
}

impl Client {
    /// A client of the node with this client address; clients that share `http` share its connections.
    pub fn new(http: HttpClient, server: SocketAddr) -> Self {
        Self { http, server: server.to_string() }
    }

    /// The node's address.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// When there is none; an error of the node is an answer.
    pub async fn send(&self, ask: &Ask) -> Result<Reply, HttpError> {
        let headers: Vec<(&str, &str)> =
            ask.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let call = Call {
            method: ask.method.clone(),
            server: &self.server,
            path: &ask.path,
            headers: &headers,
            body: ask.body.clone(),
            deadline: ask.deadline,
        };
        let answer = self.http.send(call).await?;
        Ok(Reply {
            status: answer.status,
            body: answer.json().unwrap_or_default(),
            token: answer.header("Meridian-Session").map(str::to_string),
        })
    }

    /// Asks for what must be answered.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn ask(&self, ask: Ask) -> Reply {
        self.send(&ask).await.unwrap_or_else(|e| panic!("{ask:?}: {e}"))
    }

    /// Makes a mutation that must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub async fn write(&self, key: &str, mutation: Value) -> Reply {
        self.ask(Ask::mutate(key, &mutation)).await.ok()
    }

    /// Reads a key's value; null if the key is absent.
    ///
    /// # Panics
    /// When there is no answer, or an error other than `not_found`.
    pub async fn value(&self, key: &str) -> Value {
        let reply = self.ask(Ask::read(key)).await;
        if reply.code() == "not_found" { Value::Null } else { reply.ok().value().clone() }
    }

    /// One value of `/metrics`, as in `meridian_txns_open`; none while the node does not show it.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn metric(&self, name: &str) -> Option<u64> {
        let call = Call {
            method: Method::GET,
            server: &self.server,
            path: "/metrics",
            headers: &[],
            body: Bytes::new(),
            deadline: DEADLINE,
        };
        let page = self.http.send(call).await.unwrap_or_else(|e| panic!("{}: {e}", self.server));
        let page = String::from_utf8_lossy(&page.body).into_owned();
        page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    /// `/v1/status`.
    ///
    /// # Errors
    /// When there is no answer.
    pub async fn status(&self) -> Result<Value, HttpError> {
        Ok(self.send(&Ask::get("/v1/status").within(Duration::from_secs(3))).await?.body)
    }
}

#[cfg(test)]
mod tests {
    use meridian_crdt::{Document, YrsDocument, check_update};

    use super::*;

    #[test]
    fn edits_are_updates_that_put_one_element_in() {
        for element in [0, 1, 63, 64, 8191, 8192, 1_000_001, 60_000_123] {
            let edit = edit_in(element);
            let Ok(meridian_crdt::Value::Bytes(update)) = wire::to_value(&edit["update"]) else {
                panic!("{edit} has no bytes");
            };
            check_update(&update).expect("an update");
            let mut document = YrsDocument::default();
            document.integrate(&update).expect("nothing is missing");
            document.integrate(&update).expect("twice is once");
            assert_eq!(wire::from_value(&document.to_value()), json!({"a": [element]}));
        }
    }
}
