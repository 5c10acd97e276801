//! `PUT /v1/spaces/{space}/docs/{doc}`: makes a document hold what the body says.
//!
//! The content is compared with the document, and only the difference becomes an edit, so that it merges with what others
//! edit at the same time: `?format=text&root=NAME` one text, `?format=json` all roots. `?format=update` puts an update of
//! Yjs in as it is, however large, as an import does.
//!
//! The edit goes into the log like any other. What the difference is was decided by the state of this datacenter, so the
//! state is read linearizably; what a request id stands for is what was asked, since a retry finds another difference.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::IF_MATCH;
use bytes::Bytes;
use meridian_client::wire::headers::Consistency;
use meridian_client::wire::{ApiError, ErrorCode, json, request};
use meridian_crdt::{
    Condition, DocCounts, DocOp, DocState, DocWanted, Document, Dot, Key, Mutation, RewriteError, Type,
    Value, Vector, Version, YrsDocument, check_update, doc_glance, doc_state, glance, split_update,
    without_marks,
};
use xxhash_rust::xxh3::Xxh3;

use super::{busy, token};
use crate::api::Api;
use crate::api::answer::{self, Answer, Failure};
use crate::api::calls::{self, Refused, Session};
use crate::api::extract::{KeyPath, Query, RawBody};
use crate::shard::WriteRequest;

/// Bytes of updates that one write brings when content comes in several.
const BATCH_BYTES: usize = 512 << 10;

/// What a body says.
enum Body {
    Text { root: String, text: String },
    Json(Value),
    Update(Vec<u8>),
}

/// A document as it is before.
pub struct Before {
    /// What it says.
    pub document: YrsDocument,
    /// What is kept of it.
    pub state: DocState,
    /// Its version.
    pub version: Version,
    /// Bytes of that.
    pub bytes: usize,
    /// What a session depends on that has looked at it.
    pub touched: Vector,
}

impl Before {
    /// Whether it exists.
    pub fn exists(&self) -> bool {
        !self.state.incarnations.is_empty()
    }
}

/// Updates on their way into a document.
pub struct Edit {
    /// Each building on those before it.
    pub updates: Vec<Bytes>,
    /// Whether it does no harm to put them in one after the other, or again.
    pub in_parts: bool,
    /// A hash of what was asked.
    pub asked: u64,
    /// The version that the document must have.
    pub if_version: Option<Version>,
}

/// `PUT /v1/spaces/{space}/docs/{doc}`
pub async fn put(
    State(api): State<Api>,
    session: Session,
    KeyPath(key): KeyPath,
    headers: HeaderMap,
    mut query: Query,
    RawBody(bytes): RawBody,
) -> Result<Answer, Failure> {
    let (format, root) = (query.take("format"), query.take("root"));
    query.finish()?;
    let if_version = if_match(&headers)?;
    let asked = hash_of(&[
        b"put",
        key.to_string().as_bytes(),
        format.as_deref().unwrap_or_default().as_bytes(),
        root.as_deref().unwrap_or_default().as_bytes(),
        if_version.map(|version| version.to_string()).unwrap_or_default().as_bytes(),
        &bytes,
    ]);
    let body = body_of(&api, format.as_deref(), root, bytes)?;
    let session = Session { consistency: Consistency::Linearizable, ..session };
    let outcome = async {
        let before = before(&api, &session, &key).await?;
        let (updates, in_parts) = busy(|| updates_of(&api, &before, &body))
            .map_err(|error| Box::new(Refused { error, touched: before.touched.clone() }))?;
        write(&api, &session, &key, &before, Edit { updates, in_parts, asked, if_version }).await
    };
    answer::called(&api, &session, outcome.await)
}

/// A hash of these parts, of which none can be taken for another.
pub fn hash_of(parts: &[&[u8]]) -> u64 {
    let mut hash = Xxh3::new();
    for part in parts {
        hash.update(&(part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.digest()
}

/// The version that a request demands, with or without quotation marks.
pub fn if_match(headers: &HeaderMap) -> Result<Option<Version>, ApiError> {
    let mut values = headers.get_all(IF_MATCH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let bad = || ApiError::new(ErrorCode::BadHeader, "If-Match takes one version, as a read has given it");
    let text = value.to_str().map_err(|_| bad())?.trim();
    let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    match values.next() {
        None => request::version(text).map(Some).map_err(|_| bad()),
        Some(_) => Err(bad()),
    }
}

fn body_of(api: &Api, format: Option<&str>, root: Option<String>, bytes: Vec<u8>) -> Result<Body, ApiError> {
    let text = |bytes: Vec<u8>| {
        String::from_utf8(bytes).map_err(|_| ApiError::new(ErrorCode::BadValue, "the body is not UTF-8"))
    };
    match (format, root) {
        (Some("text"), Some(root)) => Ok(Body::Text { root, text: text(bytes)? }),
        (None | Some("json"), None) => {
            let json: serde_json::Value = serde_json::from_slice(&bytes)
                .map_err(|e| ApiError::new(ErrorCode::BadJson, format!("the body is not JSON: {e}")))?;
            let value = json::to_value(&json)?;
            api.bounds.request.depth(&value, 0)?;
            match value {
                Value::Map(_) => Ok(Body::Json(value)),
                _ => Err(ApiError::new(
                    ErrorCode::BadValue,
                    "the body is an object with the root types by name",
                )),
            }
        }
        (Some("update"), None) => Ok(Body::Update(bytes)),
        (Some("xml"), _) => {
            let message = "format=xml is for reading: as text XML lacks what a document knows of it";
            Err(ApiError::new(ErrorCode::BadHeader, message))
        }
        _ => {
            let message = "the parameter format is json, text with a root, or update";
            Err(ApiError::new(ErrorCode::BadHeader, message))
        }
    }
}

/// Reads a document that is about to be changed, on the session's terms.
pub async fn before(api: &Api, session: &Session, key: &Key) -> calls::Result<Before> {
    let view = calls::view(api, session).await?;
    let glance = glance(&view, key).map_err(calls::unreadable)?;
    let touched = calls::seen(api, glance.touched);
    if glance.ty.is_some_and(|ty| ty != Type::Doc) {
        return Err(Box::new(Refused { error: token::no_document(key), touched }));
    }
    let state = doc_state(&view, key).map_err(calls::unreadable)?;
    let content = state.content();
    let document = match busy(|| YrsDocument::of(&content)) {
        Ok((document, _)) => document,
        Err(error) => {
            let error = ApiError::new(ErrorCode::TooLarge, error.to_string());
            return Err(Box::new(Refused { error, touched }));
        }
    };
    Ok(Before { document, state, version: glance.version, bytes: content.bytes(), touched })
}

/// The updates that make a document hold what a body says, and whether it does no harm to put them in one by one.
fn updates_of(api: &Api, before: &Before, body: &Body) -> Result<(Vec<Bytes>, bool), ApiError> {
    let content = match body {
        Body::Text { root, text } => DocWanted::Text { root, text },
        Body::Json(Value::Map(roots)) => DocWanted::Json(roots),
        Body::Json(_) => return Err(ApiError::new(ErrorCode::BadValue, "the body is an object")),
        Body::Update(update) => return imported(api, before, update).map(|updates| (updates, true)),
    };
    rewritten(before, content, 0)
}

/// The updates that make a document hold `content`.
pub fn rewritten(
    before: &Before,
    content: DocWanted<'_>,
    author: u64,
) -> Result<(Vec<Bytes>, bool), ApiError> {
    let rewritten = before.document.rewritten(&content, author).map_err(|error| {
        let code = match error {
            RewriteError::TooDeep => ErrorCode::TooLarge,
            RewriteError::OtherType { .. } => ErrorCode::WrongType,
            RewriteError::Update(_) => ErrorCode::Internal,
            _ => ErrorCode::BadValue,
        };
        ApiError::new(code, error.to_string())
    })?;
    Ok((rewritten.updates, rewritten.is_import))
}

/// An update as it came, in parts that are small enough; nothing if the document has all of it.
fn imported(api: &Api, before: &Before, update: &[u8]) -> Result<Vec<Bytes>, ApiError> {
    let bad = |error: meridian_crdt::UpdateError| ApiError::new(ErrorCode::BadValue, error.to_string());
    check_update(update).map_err(bad)?;
    let unmarked = without_marks(update).map_err(bad)?;
    let update = unmarked.as_ref().map_or(update, |unmarked| &unmarked.update);
    if !before.document.lacks(update).map_err(bad)? {
        return Ok(Vec::new());
    }
    let limit = api.bounds.request.value_bytes_max;
    let parts = split_update(update, limit.min(BATCH_BYTES)).map_err(bad)?;
    Ok(parts.into_iter().map(Bytes::from).collect())
}

/// Writes updates into a document, with one write if they are not to be seen apart.
pub async fn write(api: &Api, session: &Session, key: &Key, before: &Before, edit: Edit) -> calls::Result {
    let refuse = |error| Box::new(Refused { error, touched: before.touched.clone() });
    let size = before.bytes + edit.updates.iter().map(Bytes::len).sum::<usize>();
    if size > api.docs.bounds.doc_bytes_max && !edit.updates.is_empty() {
        let limit = api.docs.bounds.doc_bytes_max;
        let message = format!("the document is above its limit of {limit} bytes");
        return Err(refuse(ApiError::new(ErrorCode::TooLarge, message).with("limit", limit)));
    }
    let has_changes = !edit.updates.is_empty();
    let mut batches = batches(edit.updates, edit.in_parts);
    let last = batches.pop().unwrap_or_default();
    // What the first part demands the others need not: they add to what it has begun.
    let mut conditions: Vec<(Key, Condition)> =
        edit.if_version.map(|version| (key.clone(), Condition::Version(version))).into_iter().collect();
    let mut incarnations = before.state.incarnations.clone();
    if conditions.is_empty() && before.exists() && has_changes {
        // Without what it builds on, the difference to it is nothing.
        conditions.push((key.clone(), Condition::Incarnations(incarnations.clone())));
    }
    // Nobody has demanded that it lives, so it is said what is behind this.
    let deleted = |refused: Box<Refused>| match refused.error.code {
        ErrorCode::PreconditionFailed if edit.if_version.is_none() => deleted_meanwhile(refused.touched),
        _ => refused,
    };
    let mut touched = before.touched.clone();
    let parts = Session { request_id: None, ..session.clone() };
    for updates in batches {
        let request = update_request(api, key, std::mem::take(&mut conditions), updates)?;
        let written = calls::write_as(api, &parts, request.into()).await.map_err(&deleted)?;
        touched.join(&written.touched);
        if incarnations.is_empty() {
            incarnations = begun(api, &parts, key, written).await?;
        }
        conditions.push((key.clone(), Condition::Incarnations(incarnations.clone())));
    }
    let mut version = before.version;
    if has_changes || session.request_id.is_some() || edit.if_version.is_some() {
        let mut request = update_request(api, key, conditions, last)?;
        request.asked = Some(edit.asked);
        let written = calls::write_as(api, session, request.into()).await.map_err(&deleted)?;
        touched.join(&written.touched);
        version = written.results.last().map_or(version, |last| last.version);
    }
    let body = [
        ("version".to_owned(), Value::Str(version.to_string())),
        ("changed".to_owned(), Value::Bool(has_changes)),
    ];
    Ok(calls::Done { body: body.into(), touched })
}

/// The incarnations of a document of which the first part was written when there was none, and counts.
async fn begun(api: &Api, session: &Session, key: &Key, first: calls::Written) -> calls::Result<Vec<Dot>> {
    let touched = first.touched;
    let mut dots = session.dots.clone();
    dots.join(&touched);
    let view = calls::view(api, &Session { dots, ..session.clone() }).await?;
    if let Some(dot) = first.dot
        && let (incarnations, DocCounts::Yes | DocCounts::Perhaps) =
            doc_glance(&view, key, dot).map_err(calls::unreadable)?
    {
        return Ok(incarnations);
    }
    Err(deleted_meanwhile(touched))
}

/// What builds on a document is not written, since that is gone.
fn deleted_meanwhile(touched: Vector) -> Box<Refused> {
    let message =
        "the document was deleted meanwhile; nothing of what was put is there; put it again for a new one";
    Box::new(Refused { error: ApiError::new(ErrorCode::PreconditionFailed, message), touched })
}

/// Updates in groups of [`BATCH_BYTES`]; all in one if they are not to be apart.
fn batches(updates: Vec<Bytes>, in_parts: bool) -> Vec<Vec<Bytes>> {
    let mut batches: Vec<Vec<Bytes>> = Vec::new();
    let mut bytes = 0;
    for update in updates {
        bytes += update.len();
        match batches.last_mut() {
            Some(batch) if !in_parts || bytes <= BATCH_BYTES => batch.push(update),
            _ => {
                bytes = update.len();
                batches.push(vec![update]);
            }
        }
    }
    batches
}

fn update_request(
    api: &Api,
    key: &Key,
    conditions: Vec<(Key, Condition)>,
    updates: Vec<Bytes>,
) -> calls::Result<WriteRequest> {
    // A write without operations still asks for its conditions, and takes its request id.
    let mut ops: Vec<_> = match updates.is_empty() {
        true => Vec::new(),
        false => vec![(key.clone(), Mutation::Doc(DocOp::UpdateAll(updates)))],
    };
    let bytes = api.bounds.request.admit(&conditions, &mut ops)?;
    Ok(WriteRequest { conditions, ops, bytes, ..WriteRequest::default() })
}
