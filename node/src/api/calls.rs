//! What requests about data do, whatever transport they came by: read, list, write.
//!
//! A call takes typed arguments and the session's terms, and returns a body of values with the dots that the session
//! depends on from here on; errors carry dots too. It knows nothing of HTTP, JSON or frames: binary things are bytes
//! here, and each transport writes them in its own way.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use meridian_client::wire::frame::{Field, Part, RequestId};
use meridian_client::wire::headers::{Commit, Consistency};
use meridian_client::wire::{ApiError, Cursor, ErrorCode, Token};
use meridian_crdt::{
    Condition, Content, Dot, Key, Mutation, Query as ReadQuery, ReadValue, StoreError, Value, Vector,
};

use super::{Api, docs};
use crate::count::Counted;
use crate::docs::check_nesting;
use crate::shard::WriteRequest;
use crate::storage::{StateView, StorageError};
use crate::txn::{Answer as TxnAnswer, ClientTxn, Numbered, OpResult, RequestId as LogId};

/// The fields of an answer.
pub type Body = BTreeMap<String, Value>;

/// What a request asks for beside its verb: what its session depends on, and what may be answered when.
#[derive(Clone, Debug)]
pub struct Session {
    /// What the session depends on.
    pub dots: Vector,
    /// What a read may return.
    pub consistency: Consistency,
    /// How long the request may wait for what it depends on.
    pub wait: Duration,
    /// How many datacenters, this one included, are to hold a write before it is answered.
    pub holders: usize,
    /// The client's name for this mutation.
    pub request_id: Option<RequestId>,
}

/// A request that was done.
#[derive(Clone, Debug)]
pub struct Done<B = Body> {
    /// What it came to.
    pub body: B,
    /// What it read and wrote.
    pub touched: Vector,
}

/// A request that was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Why.
    pub error: ApiError,
    /// What it has looked at all the same.
    pub touched: Vector,
}

impl From<ApiError> for Box<Refused> {
    fn from(error: ApiError) -> Self {
        Box::new(Refused { error, touched: Vector::new() })
    }
}

/// What a call returns.
pub type Result<T = Done> = std::result::Result<T, Box<Refused>>;

fn refused<T>(error: ApiError, touched: Vector) -> Result<T> {
    Err(Box::new(Refused { error, touched }))
}

/// The terms of a request, with everything that it leaves open at this node's defaults.
pub fn session(
    api: &Api,
    token: Option<Token>,
    consistency: Consistency,
    wait: Option<Duration>,
    commit: Commit,
    request_id: Option<RequestId>,
) -> std::result::Result<Session, ApiError> {
    Ok(Session {
        dots: token.map_or_else(|| Ok(Vector::new()), |token| known_dots(api, token))?,
        consistency,
        wait: wait.unwrap_or(api.bounds.wait_default).min(api.bounds.wait_max),
        holders: api.shard.level_count(commit)?,
        request_id,
    })
}

/// The dots of a token, once it is known to be of this cluster and to name only lives that this datacenter knows, or
/// may still come to know.
fn known_dots(api: &Api, token: Token) -> std::result::Result<Vector, ApiError> {
    let foreign = |why: String| ApiError::new(ErrorCode::ForeignToken, why);
    if token.cluster != api.cluster {
        return Err(foreign(
            "the session token comes from another cluster; start a new session without one".into(),
        ));
    }
    match api.shard.foreign_dot(&token.dots) {
        None => Ok(token.dots),
        Some(dot) => Err(foreign(format!(
            "the session token names {}, which is no life of a datacenter of this cluster; start a new session",
            dot.origin
        ))),
    }
}

/// The token of an answer: what the session depended on, and what the request touched.
pub fn token_after(api: &Api, session: &Session, touched: &Vector) -> Token {
    let mut token = Token { cluster: api.cluster, dots: session.dots.clone() };
    token.dots.join(touched);
    token
}

/// Reads a key.
pub async fn read(api: &Api, session: &Session, key: &Key, query: &ReadQuery) -> Result {
    let Done { body, touched } = read_from(api, &view(api, session).await?, key, query)?;
    Ok(Done { body: content_body(&body), touched })
}

/// Reads a key in a state that satisfies the session's terms.
pub fn read_from(api: &Api, view: &StateView, key: &Key, query: &ReadQuery) -> Result<Done<Content>> {
    let reading = meridian_crdt::read(view, key, query).map_err(unreadable)?;
    let touched = seen(api, reading.touched);
    match reading.content {
        Some(body) => Ok(Done { body, touched }),
        None => refused(not_found(key), touched),
    }
}

/// Lists keys. The body's `cursor`, if there is more, is the last key of the page.
pub async fn list(
    api: &Api,
    session: &Session,
    space: &str,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result {
    let view = view(api, session).await?;
    let listing = meridian_crdt::list(&view, space, prefix, after, limit).map_err(unreadable)?;
    // A listing has looked at everything: its session depends on the whole vector.
    let touched = crate::txn::ShardState::load(&view)
        .map_err(|e| unreadable(StoreError::Cells(e)))?
        .map(|state| state.vector)
        .unwrap_or_default();
    let mut body = listing_body(&listing, prefix);
    // A watch from here misses nothing that comes after this page was read; of several pages the first one's counts.
    body.insert("watch_cursor".into(), text(Cursor::new(api.cluster, touched.clone()).to_text()));
    Ok(Done { body, touched })
}

/// Does one mutation.
pub async fn write(api: &Api, session: &Session, key: Key, mutation: Mutation) -> Result {
    let Written { results, touched, .. } = propose(api, session, Vec::new(), vec![(key, mutation)]).await?;
    let body = results.first().map(result_body).unwrap_or_default();
    Ok(Done { body, touched })
}

/// Does many mutations if all conditions hold.
pub async fn txn(
    api: &Api,
    session: &Session,
    conditions: Vec<(Key, Condition)>,
    ops: Vec<(Key, Mutation)>,
) -> Result {
    let Written { results, touched, .. } = propose(api, session, conditions, ops).await?;
    Ok(Done { body: results_body(&results), touched })
}

/// What a session depends on that has looked at a key with these dots. A key without any may have been forgotten by
/// stability; another node of this datacenter that lags may still show it.
pub fn seen(api: &Api, touched: Vector) -> Vector {
    if touched.is_empty() { api.shard.publisher.now().state.stable.clone() } else { touched }
}

/// The state to read, once it satisfies the session's terms.
pub async fn view(api: &Api, session: &Session) -> Result<StateView> {
    let view = api.shard.read(session.consistency, &session.dots, session.wait).await;
    Ok(view?)
}

async fn propose(
    api: &Api,
    session: &Session,
    conditions: Vec<(Key, Condition)>,
    mut ops: Vec<(Key, Mutation)>,
) -> Result<Written> {
    let bytes = api.bounds.request.admit(&conditions, &mut ops)?;
    let asked_for = ops.len();
    let mut request = Box::new(WriteRequest { conditions, ops, bytes, ..WriteRequest::default() });
    with_versions_deleted(api, &mut request)?;
    let mut written = write_as(api, session, request).await?;
    written.results.truncate(asked_for);
    Ok(written)
}

/// Who deletes a document deletes its versions. What was asked stays what the request id stands for.
fn with_versions_deleted(api: &Api, request: &mut WriteRequest) -> Result<()> {
    let deletes = |(key, op): &(Key, Mutation)| matches!(op, Mutation::Delete(_)).then(|| key.clone());
    let deleted: Vec<Key> = request.ops.iter().filter_map(deletes).collect();
    if deleted.is_empty() {
        return Ok(());
    }
    let view = api.shard.store.view();
    let mut more = Vec::new();
    for key in deleted {
        more.extend(docs::removal_of_all(&view, &key)?);
    }
    if !more.is_empty() {
        let asked = ClientTxn {
            conditions: request.conditions.clone(),
            ops: request.ops.clone(),
            ..ClientTxn::default()
        };
        let bad = |e: crate::txn::EntryError| ApiError::new(ErrorCode::BadValue, e.to_string());
        request.asked = Some(asked.fingerprint().map_err(bad)?);
        request.bytes += ClientTxn::encoded_bytes(&[], &more).map_err(bad)?;
        request.ops.extend(more);
    }
    Ok(())
}

/// A write that was done.
pub struct Written {
    /// What each operation came to.
    pub results: Vec<OpResult>,
    /// What the write has touched, for the session's token.
    pub touched: Vector,
    /// The txn, if there is one by this request.
    pub dot: Option<Dot>,
}

/// Does a write that is within its limits, on the session's terms.
pub async fn write_as(api: &Api, session: &Session, mut request: Box<WriteRequest>) -> Result<Written> {
    check_nesting(&api.shard, &request.ops)?;
    let edits = |(key, op): &(Key, Mutation)| matches!(op, Mutation::Doc(_)).then(|| key.clone());
    let edited: Vec<Key> = request.ops.iter().filter_map(edits).collect();
    request.id = session.request_id.clone().map(log_id);
    request.session = session.dots.clone();
    request.wait_ms = u64::try_from(session.wait.as_millis()).unwrap_or(u64::MAX);
    let written = committed(api, session, api.shard.write(request).await?).await;
    edited.iter().for_each(|key| api.docs.was_edited(key));
    written
}

/// What a write came to, once as many datacenters hold it as its session asks for.
pub async fn committed(api: &Api, session: &Session, answer: TxnAnswer) -> Result<Written> {
    match answer {
        TxnAnswer::Done { results, touched, dot } => {
            // This datacenter holds it.
            if let Some(dot) = dot.filter(|_| session.holders > 1)
                && let Err(error) = Box::pin(api.shard.held_by(dot, session.holders, session.wait)).await
            {
                return refused(error, touched);
            }
            Ok(Written { results, touched, dot })
        }
        TxnAnswer::Refused { error, touched } => refused(error, touched),
    }
}

/// A request id as the log knows it.
pub fn log_id(id: RequestId) -> LogId {
    match id {
        RequestId::Text(text) => LogId::Free(text),
        RequestId::Number { client, number } => {
            LogId::Numbered(Numbered { client: u128::from_be_bytes(client), number })
        }
    }
}

fn text(text: impl Into<String>) -> Value {
    Value::Str(text.into())
}

fn count(n: u64) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

/// `{"version":..,"result":..}`
fn result_body(result: &OpResult) -> Body {
    let value = result.result.clone().unwrap_or(Value::Nil);
    Body::from([("version".to_owned(), text(result.version.to_string())), ("result".to_owned(), value)])
}

/// `{"version":..,"results":[..]}`
pub fn results_body(results: &[OpResult]) -> Body {
    let version = results.last().map_or(Value::Nil, |last| text(last.version.to_string()));
    let results = results.iter().map(|result| Value::Map(result_body(result))).collect();
    Body::from([("version".to_owned(), version), ("results".to_owned(), Value::Array(results))])
}

/// `{"keys":[{"key":..,"type":..,"version":..}],"cursor":..}`; where versions of documents are kept is left out, unless it is
/// what is asked for. Nothing comes behind it.
pub fn listing_body(listing: &meridian_crdt::Listing, prefix: &str) -> Body {
    let is_shown = |key: &str| docs::is_reserved(prefix) || !docs::is_reserved(key);
    let key = |key: &meridian_crdt::Listed| {
        Value::Map(Body::from([
            ("key".to_owned(), text(&key.key)),
            ("type".to_owned(), text(key.ty.name())),
            ("version".to_owned(), text(key.version.to_string())),
        ]))
    };
    let shown = listing.keys.iter().filter(|listed| is_shown(&listed.key));
    let mut body = Body::from([("keys".to_owned(), Value::Array(shown.map(key).collect()))]);
    if let (true, Some(last)) = (listing.more, listing.cursor.as_ref().filter(|last| is_shown(last))) {
        body.insert("cursor".into(), text(last));
    }
    body
}

/// `{"type":..,"value":..,"version":..}` and what belongs to pages. The `cursor` is bytes.
pub fn content_body(content: &Content) -> Body {
    let fields = content_fields(content).into_iter().flatten();
    fields.map(|(name, part)| (name.to_owned(), part.into_value())).collect()
}

/// What [`content_body`] may have, in the order of names.
pub fn content_fields(content: &Content) -> [Field<'_>; 6] {
    let value = || match &content.value {
        ReadValue::Register(value) => Cow::Borrowed(value),
        value => Cow::Owned(value.to_value()),
    };
    [
        content.cursor.as_deref().map(|cursor| ("cursor", Part::Bytes(cursor))),
        content.present.map(|present| ("present", Part::Value(Cow::Owned(Value::Bool(present))))),
        content.size.map(|size| ("size", Part::Value(Cow::Owned(count(size))))),
        Some(("type", Part::Text(content.ty.name()))),
        content.present.is_none().then(|| ("value", Part::Value(value()))),
        Some(("version", Part::Version(content.version))),
    ]
}

/// The error of a key without a value.
pub fn not_found(key: &Key) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("{key} has no value"))
}

/// The error of a state that cannot be read.
pub fn unreadable(error: StoreError<StorageError>) -> ApiError {
    tracing::error!(%error, "the state cannot be read");
    ApiError::new(ErrorCode::Internal, "the state of this node cannot be read; its log says why")
}

/// Counts a request, unless the node works on as many as it takes.
pub fn enter(api: &Api) -> std::result::Result<Counted, ApiError> {
    let (counted, before) = api.in_flight.enter();
    if before < api.bounds.in_flight_max { Ok(counted) } else { Err(overloaded()) }
}

/// The error of a request too many.
pub fn overloaded() -> ApiError {
    let message = "this node is working on as many requests as it takes";
    ApiError::new(ErrorCode::Overloaded, message).retry_after_ms(100)
}

/// The error of a request that took longer than any may.
pub fn took_too_long() -> ApiError {
    let message = "the request took too long; a mutation may or may not have taken place";
    ApiError::new(ErrorCode::OutcomeUnknown, message)
}
