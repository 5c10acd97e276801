//! The frames of the native protocol: requests with ids, answers as they complete, events of watches.
//!
//! ```text
//! request  [id, verb, {arguments}]
//! answer   [id, "ok",    {body},  token or nil, staleness]
//!          [id, "error", {error}, token or nil, staleness]
//! event    [id, "event", {body}]                       of a watch, until its "ok" or "error"
//! ```
//!
//! One binary WebSocket message is one frame, and one frame is one value of MessagePack. Mutations, conditions and
//! values have the same words as in HTTP's JSON ([`super::request`]); bytes are MessagePack's own. PROTOCOL.md says all
//! of it for authors of clients in other languages.

mod answer;
pub mod close;

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_crdt::{Condition, Key, Mutation, Query, Value};

use super::access::{ACCESS_TOKENS_MAX, AccessToken};
use super::error::{ApiError, ErrorCode};
use super::headers::{self, Commit, Consistency};
use super::msgpack::{self, Borrowed};
use super::request::{self, Document, Fields};
pub use answer::{Field, Frame, Part, Staleness, encode_done};

/// The version of the protocol that this code speaks.
pub const VERSION: u64 = 1;
/// The space of a request that names none.
pub const SPACE_DEFAULT: &str = "default";

/// Mutations with their keys, in order.
pub type Ops = Vec<(Key, Mutation)>;

/// How a client names a mutation, so that repeating it in the same datacenter does nothing new.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestId {
    /// Any text of at most 64 bytes, remembered for a time.
    Text(String),
    /// The number of a request of one client: counted up from 1, each used for one mutation only.
    Number {
        /// The client, a random 128-bit number of its own.
        client: [u8; 16],
        /// The number of the request.
        number: u64,
    },
}

/// What a transaction is protected from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Everything: it is as if it had run alone at its commit. Commit fails if anything it read has changed.
    #[default]
    Serializable,
    /// All but write skew: commit fails only if a key that it writes has changed since its snapshot.
    Snapshot,
}

impl Isolation {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Isolation::Serializable => "serializable",
            Isolation::Snapshot => "snapshot",
        }
    }
}

/// What a watch looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// One key.
    Key(String),
    /// Every key that starts with this; all of the space if it is empty.
    Prefix(String),
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub enum Verb {
    /// Opens the connection: the first request, and only once.
    Hello {
        /// The versions that the client speaks.
        versions: Vec<u64>,
        /// The client's name and version, for logs.
        client: String,
        /// What lets it into spaces that not everybody may enter; each request is judged by all of them.
        access: Vec<AccessToken>,
    },
    /// Which node of which datacenter this is, and whether it is ready.
    Status,
    /// Reads a key; within a transaction if one is named, after adding `ops` to it.
    Read {
        /// The key.
        key: Key,
        /// Which part of it.
        query: Query,
        /// The transaction.
        txn: Option<u64>,
        /// Mutations to add to the transaction first.
        ops: Ops,
    },
    /// Lists keys; within a transaction if one is named, after adding `ops` to it.
    List {
        /// The space.
        space: String,
        /// What the keys start with.
        prefix: String,
        /// The last key of the page before.
        after: Option<String>,
        /// Keys of a page.
        limit: usize,
        /// The transaction.
        txn: Option<u64>,
        /// Mutations to add to the transaction first.
        ops: Ops,
    },
    /// One mutation.
    Write {
        /// The key.
        key: Key,
        /// What to do with it.
        mutation: Mutation,
    },
    /// Many mutations, if all conditions hold.
    Txn {
        /// The space.
        space: String,
        /// What must hold.
        conditions: Vec<(Key, Condition)>,
        /// What is done.
        ops: Ops,
    },
    /// Begins an interactive transaction on a snapshot.
    Begin {
        /// What it is to be protected from.
        isolation: Isolation,
    },
    /// Commits one.
    Commit {
        /// The transaction.
        txn: u64,
        /// The space of `ops`.
        space: String,
        /// Mutations to add first.
        ops: Ops,
    },
    /// Ends one without a trace.
    Abort {
        /// The transaction.
        txn: u64,
    },
    /// Starts a stream of events.
    Watch {
        /// The space.
        space: String,
        /// Which keys.
        watched: Watched,
        /// The cursor to go on from; now, if there is none.
        from: Option<String>,
        /// Whether events carry the keys' current values.
        values: bool,
    },
    /// Ends the watch that has this request id.
    Stop {
        /// The id of the request that started it.
        watch: u64,
    },
}

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The client's number for it on this connection; answers carry it.
    pub id: u64,
    /// The session token, in binary.
    pub session: Option<Vec<u8>>,
    /// What a read may return.
    pub consistency: Consistency,
    /// How long the node may wait to catch up.
    pub wait: Option<Duration>,
    /// When a write is answered.
    pub commit: Commit,
    /// The name of a mutation.
    pub request_id: Option<RequestId>,
    /// What is asked.
    pub verb: Verb,
}

fn text(text: impl Into<String>) -> Value {
    Value::Str(text.into())
}

fn number(n: u64) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadValue, message)
}

impl Request {
    /// A request with everything at its default.
    pub fn new(id: u64, verb: Verb) -> Self {
        Self {
            id,
            session: None,
            consistency: Consistency::default(),
            wait: None,
            commit: Commit::default(),
            request_id: None,
            verb,
        }
    }

    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut args = self.verb.arguments();
        let mut put = |name: &str, value: Value| args.insert(name.to_owned(), value);
        if let Some(session) = &self.session {
            put("session", Value::Bytes(session.clone()));
        }
        if self.consistency != Consistency::default() {
            put("consistency", text(self.consistency.as_str()));
        }
        if let Some(wait) = self.wait {
            put("wait_ms", number(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)));
        }
        if self.commit != Commit::default() {
            put("commit", text(self.commit.to_text()));
        }
        match &self.request_id {
            None => {}
            Some(RequestId::Text(id)) => drop(put("request_id", text(id))),
            Some(RequestId::Number { client, number: n }) => {
                put("request_id", Value::Array(vec![Value::Bytes(client.to_vec()), number(*n)]));
            }
        }
        msgpack::to_vec(&Value::Array(vec![number(self.id), text(self.verb.name()), Value::Map(args)]))
    }

    /// Reads a frame. An error comes with the request's id, if that much could be read.
    pub fn decode(frame: &[u8]) -> Result<Request, (Option<u64>, ApiError)> {
        let shape = || (None, ApiError::new(ErrorCode::BadMsgpack, "a request is [id, verb, {arguments}]"));
        let [id, verb, args] = msgpack::borrow_array(frame).map_err(|e| (None, e))?.ok_or_else(shape)?;
        let id = id.as_integer().and_then(|id| u64::try_from(id).ok()).ok_or_else(shape)?;
        let read = || {
            let verb = verb.as_text().ok_or_else(|| bad("the verb of a request is a text"))?;
            let mut fields = Fields::new("a request", args)?;
            let mut request = Request::new(id, Verb::Status);
            request.take_options(&mut fields)?;
            request.verb = Verb::take(verb, &mut fields)?;
            fields.finish()?;
            Ok(request)
        };
        read().map_err(|e| (Some(id), e))
    }

    fn take_options(&mut self, fields: &mut Fields<'_, Borrowed<'_>>) -> Result<(), ApiError> {
        self.session = match fields.take_optional("session") {
            None | Some(Borrowed::Nil) => None,
            Some(Borrowed::Bytes(token)) => Some(token.to_vec()),
            Some(_) => return Err(ApiError::new(ErrorCode::BadToken, "the session is the token's bytes")),
        };
        if let Some(level) = fields.take_optional("consistency") {
            self.consistency = headers::consistency(level.as_text().unwrap_or_default())?;
        }
        if let Some(level) = fields.take_optional("commit") {
            self.commit = headers::commit(level.as_text().unwrap_or_default())?;
        }
        if let Some(wait) = fields.take_optional("wait_ms") {
            let ms = wait.as_integer().and_then(|ms| u64::try_from(ms).ok());
            let wait = ms.map(Duration::from_millis).filter(|wait| *wait <= headers::WAIT_MAX);
            let most = headers::WAIT_MAX.as_millis();
            self.wait = Some(wait.ok_or_else(|| {
                ApiError::new(ErrorCode::BadHeader, format!("wait_ms is a number from 0 to {most}"))
            })?);
        }
        self.request_id = fields.take_optional("request_id").map(take_request_id).transpose()?;
        Ok(())
    }
}

fn take_request_id(value: Borrowed<'_>) -> Result<RequestId, ApiError> {
    let wrong = || ApiError::new(ErrorCode::BadHeader, "a request id is a text or [16 bytes, number]");
    match value {
        Borrowed::Str(id) => {
            headers::request_id(id)?;
            Ok(RequestId::Text(id.to_owned()))
        }
        Borrowed::Array(parts) => match parts[..] {
            [Borrowed::Bytes(client), Borrowed::Int(number)] => Ok(RequestId::Number {
                client: client.try_into().map_err(|_| wrong())?,
                number: u64::try_from(number).ok().filter(|n| *n > 0).ok_or_else(wrong)?,
            }),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

impl Verb {
    /// The name on the wire.
    pub const fn name(&self) -> &'static str {
        match self {
            Verb::Hello { .. } => "hello",
            Verb::Status => "status",
            Verb::Read { .. } => "read",
            Verb::List { .. } => "list",
            Verb::Write { .. } => "write",
            Verb::Txn { .. } => "txn",
            Verb::Begin { .. } => "begin",
            Verb::Commit { .. } => "commit",
            Verb::Abort { .. } => "abort",
            Verb::Watch { .. } => "watch",
            Verb::Stop { .. } => "stop",
        }
    }

    fn arguments(&self) -> BTreeMap<String, Value> {
        let mut args = BTreeMap::new();
        let mut put = |name: &str, value: Value| {
            args.insert(name.to_owned(), value);
        };
        match self {
            Verb::Status => {}
            Verb::Hello { versions, client, access } => {
                put("versions", Value::Array(versions.iter().map(|v| number(*v)).collect()));
                put("client", text(client));
                // Nodes from before there were access tokens do not know the field.
                if !access.is_empty() {
                    put("access", Value::Array(access.iter().map(|token| text(token.as_str())).collect()));
                }
            }
            Verb::Read { key, query, txn, ops } => {
                put("space", text(&key.space));
                put("key", text(&key.key));
                put("limit", number(query.limit as u64));
                query.cursor.iter().for_each(|cursor| put("cursor", Value::Bytes(cursor.clone())));
                query.element.iter().for_each(|element| put("element", element.clone()));
                put_txn(&mut put, *txn, ops);
            }
            Verb::List { space, prefix, after, limit, txn, ops } => {
                put("space", text(space));
                put("prefix", text(prefix));
                put("limit", number(*limit as u64));
                after.iter().for_each(|after| put("after", text(after)));
                put_txn(&mut put, *txn, ops);
            }
            Verb::Write { key, mutation } => {
                put("space", text(&key.space));
                put("key", text(&key.key));
                put("mutation", Value::Map(request::mutation_fields(mutation)));
            }
            Verb::Txn { space, conditions, ops } => {
                put("space", text(space));
                if !conditions.is_empty() {
                    put("if", request::conditions_value(conditions));
                }
                put("ops", request::operations_value(ops));
            }
            Verb::Begin { isolation } => put("isolation", text(isolation.as_str())),
            Verb::Commit { txn, space, ops } => {
                put("space", text(space));
                put_txn(&mut put, Some(*txn), ops);
            }
            Verb::Abort { txn } => put("txn", number(*txn)),
            Verb::Watch { space, watched, from, values } => {
                put("space", text(space));
                match watched {
                    Watched::Key(key) => put("key", text(key)),
                    Watched::Prefix(prefix) => put("prefix", text(prefix)),
                }
                from.iter().for_each(|from| put("from", text(from)));
                put("values", Value::Bool(*values));
            }
            Verb::Stop { watch } => put("watch", number(*watch)),
        }
        args
    }

    fn take(name: &str, fields: &mut Fields<'_, Borrowed<'_>>) -> Result<Verb, ApiError> {
        Ok(match name {
            "hello" => Verb::Hello {
                versions: take_versions(fields)?,
                client: fields.text("client")?,
                access: take_access(fields)?,
            },
            "status" => Verb::Status,
            "read" => take_read(fields)?,
            "list" => take_list(fields)?,
            "write" => {
                let key = take_key(fields)?;
                Verb::Write { key, mutation: request::any_mutation(fields.take("mutation")?)? }
            }
            "txn" => {
                let space = take_space(fields)?;
                let request = request::take_txn(&space, fields)?;
                Verb::Txn { space, conditions: request.conditions, ops: request.ops }
            }
            "begin" => Verb::Begin { isolation: take_isolation(fields)? },
            "commit" => {
                let space = take_space(fields)?;
                Verb::Commit { txn: take_number(fields, "txn")?, ops: take_ops(&space, fields)?, space }
            }
            "abort" => Verb::Abort { txn: take_number(fields, "txn")? },
            "watch" => take_watch(fields)?,
            "stop" => Verb::Stop { watch: take_number(fields, "watch")? },
            other => {
                let shown: String = other.chars().take(80).collect();
                return Err(ApiError::new(ErrorCode::UnknownOp, format!("{shown:?} is not a verb")));
            }
        })
    }
}

fn put_txn(put: &mut impl FnMut(&str, Value), txn: Option<u64>, ops: &[(Key, Mutation)]) {
    if let Some(txn) = txn {
        put("txn", number(txn));
    }
    if !ops.is_empty() {
        put("ops", request::operations_value(ops));
    }
}

fn take_access(fields: &mut Fields<'_, Borrowed<'_>>) -> Result<Vec<AccessToken>, ApiError> {
    let wrong = || bad(format!("access is an array of at most {ACCESS_TOKENS_MAX} tokens, each a text"));
    let Some(tokens) = fields.take_optional("access") else { return Ok(Vec::new()) };
    let tokens = tokens.into_items().filter(|tokens| tokens.len() <= ACCESS_TOKENS_MAX).ok_or_else(wrong)?;
    tokens.iter().map(|token| AccessToken::new(token.as_text().ok_or_else(wrong)?)).collect()
}

fn take_number(fields: &mut Fields<'_, Borrowed<'_>>, name: &str) -> Result<u64, ApiError> {
    u64::try_from(fields.integer(name)?).map_err(|_| bad(format!("{name} is not negative")))
}

fn take_txn_id(fields: &mut Fields<'_, Borrowed<'_>>) -> Result<Option<u64>, ApiError> {
    match fields.take_optional("txn") {
        None => Ok(None),
        Some(txn) => {
            let id = txn.as_integer().and_then(|id| u64::try_from(id).ok());
            id.map(Some).ok_or_else(|| bad("txn is the number that begin gave"))
        }
    }
}

fn take_ops(space: &str, fields: &mut Fields<'_, Borrowed<'_>>) -> Result<Ops, ApiError> {
    match fields.take_optional("ops") {
        None => Ok(Vec::new()),
        Some(ops) => {
            let ops = ops.into_items().ok_or_else(|| bad("ops is an array"))?;
            request::operations(space, ops)
        }
    }
}

/// The transaction of a read and what to add to it; mutations outside of one mean nothing.
fn take_in_txn(space: &str, fields: &mut Fields<'_, Borrowed<'_>>) -> Result<(Option<u64>, Ops), ApiError> {
    let (txn, ops) = (take_txn_id(fields)?, take_ops(space, fields)?);
    if txn.is_none() && !ops.is_empty() {
        return Err(bad("a read takes ops only within a transaction"));
    }
    Ok((txn, ops))
}

/// The name of the space, not checked.
fn take_space_name<'f>(fields: &mut Fields<'_, Borrowed<'f>>) -> Result<&'f str, ApiError> {
    match fields.take_optional("space") {
        None => Ok(SPACE_DEFAULT),
        Some(Borrowed::Str(space)) => Ok(space),
        Some(_) => Err(bad("the space is a text")),
    }
}

fn take_space(fields: &mut Fields<'_, Borrowed<'_>>) -> Result<String, ApiError> {
    let space = take_space_name(fields)?;
    request::check_space(space)?;
    Ok(space.to_owned())
}

fn take_key(fields: &mut Fields<'_, Borrowed<'_>>) -> Result<Key, ApiError> {
    let space = take_space_name(fields)?;
    fields.read_text("key", |key| request::key(space, key))
}

fn take_limit(fields: &mut Fields<'_, Borrowed<'_>>) -> Result<usize, ApiError> {
    let default = Query::default().limit;
    match fields.take_optional("limit") {
        None => Ok(default),
        Some(limit) => {
            let limit = limit.as_integer().and_then(|n| usize::try_from(n).ok());
            limit.filter(|n| (1..=default).contains(n)).ok_or_else(|| {
                ApiError::new(ErrorCode::BadHeader, format!("limit is a number from 1 to {default}"))
            })
        }
    }
}

fn take_versions(fields: &mut Fields<'_, Borrowed<'_>>) -> Result<Vec<u64>, ApiError> {
    let version = |v: Borrowed<'_>| v.as_integer().and_then(|v| u64::try_from(v).ok());
    let versions: Option<Vec<u64>> = fields.items("versions")?.into_iter().map(version).collect();
    versions.ok_or_else(|| bad("versions are numbers"))
}

fn take_read(fields: &mut Fields<'_, Borrowed<'_>>) -> Result<Verb, ApiError> {
    let key = take_key(fields)?;
    let cursor = match fields.take_optional("cursor") {
        None => None,
        Some(Borrowed::Bytes(cursor)) if meridian_crdt::read::check_cursor(cursor).is_ok() => {
            Some(cursor.to_vec())
        }
        Some(_) => {
            return Err(ApiError::new(ErrorCode::BadHeader, "the cursor is none that a page gave out"));
        }
    };
    let element = fields.take_optional("element").map(Document::into_value).transpose()?;
    let query = Query { limit: take_limit(fields)?, cursor, element, ..Query::default() };
    let (txn, ops) = take_in_txn(&key.space, fields)?;
    Ok(Verb::Read { key, query, txn, ops })
}

fn take_list(fields: &mut Fields<'_, Borrowed<'_>>) -> Result<Verb, ApiError> {
    let space = take_space(fields)?;
    let prefix = if let Some(prefix) = fields.take_optional("prefix") {
        prefix.as_text().ok_or_else(|| bad("the prefix is a text"))?.to_owned()
    } else {
        String::new()
    };
    let after = match fields.take_optional("after") {
        None => None,
        Some(after) => Some(after.as_text().ok_or_else(|| bad("after is a key"))?.to_owned()),
    };
    let limit = take_limit(fields)?;
    let (txn, ops) = take_in_txn(&space, fields)?;
    Ok(Verb::List { space, prefix, after, limit, txn, ops })
}

fn take_isolation(fields: &mut Fields<'_, Borrowed<'_>>) -> Result<Isolation, ApiError> {
    match fields.take_optional("isolation").as_ref().map(Document::as_text) {
        None | Some(Some("serializable")) => Ok(Isolation::Serializable),
        Some(Some("snapshot")) => Ok(Isolation::Snapshot),
        Some(_) => Err(ApiError::new(ErrorCode::BadHeader, "isolation is serializable or snapshot")),
    }
}

fn take_watch(fields: &mut Fields<'_, Borrowed<'_>>) -> Result<Verb, ApiError> {
    let space = take_space(fields)?;
    let optional = |fields: &mut Fields<'_, Borrowed<'_>>, name: &str| match fields.take_optional(name) {
        None => Ok(None),
        Some(value) => {
            let text = value.as_text().ok_or_else(|| bad(format!("{name} is a text")))?;
            Ok(Some(text.to_owned()))
        }
    };
    let watched = match (optional(fields, "key")?, optional(fields, "prefix")?) {
        (Some(_), Some(_)) => return Err(bad("a watch has a key or a prefix, not both")),
        (Some(key), None) => Watched::Key(request::key(&space, &key)?.key),
        (None, prefix) => Watched::Prefix(prefix.unwrap_or_default()),
    };
    let from = optional(fields, "from")?;
    let values = match fields.take_optional("values") {
        None => false,
        Some(values) => values.as_boolean().ok_or_else(|| bad("values is true or false"))?,
    };
    Ok(Verb::Watch { space, watched, from, values })
}

#[cfg(test)]
mod tests;
