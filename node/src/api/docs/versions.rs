//! Versions of documents: `.../docs/{doc}/versions`.
//!
//! Somebody makes one by name, or the node that takes the edits makes one now and then ([`keep`]). A version is the whole
//! document as it was; to restore one means to edit the document so that it holds the same again, which rewrites nothing that
//! was.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use meridian_client::wire::headers::{Commit, Consistency};
use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::hlc::unix_ms;
use meridian_crdt::{DocWanted, Key, Mutation, Value, Vector, doc_incarnations};
use serde_json::Value as Json;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use xxhash_rust::xxh3::xxh3_64;

use super::put::{self, Before, Edit};
use super::version_store::{self as store, CONTENT_BYTES_MAX, Kept, NAME_BYTES_MAX, Record};
use super::{busy, read as formats};
use crate::api::Api;
use crate::api::answer::{self, Answer, Failure};
use crate::api::calls::{self, Body, Done, Refused, Session};
use crate::api::extract::{KeyPath, Query, RawBody, VersionPath};
use crate::api::serve::told_to_stop;
use crate::storage::StateView;

/// How often documents are looked for of which a version is due, unless they are due more often.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
const LOOK_INTERVAL_MIN: Duration = Duration::from_millis(50);

/// Bounds of versions.
#[derive(Clone, Copy, Debug)]
pub struct VersionBounds {
    /// How long after its first edit a version is made of a document; zero: none is.
    pub interval: Duration,
    /// Versions of a document that were made by themselves.
    pub kept: usize,
    /// Versions of a document that people have made.
    pub named_max: usize,
}

fn refused<T>(error: ApiError, touched: Vector) -> calls::Result<T> {
    Err(Box::new(Refused { error, touched }))
}

/// `GET .../versions`
pub async fn list(
    State(api): State<Api>,
    session: Session,
    KeyPath(key): KeyPath,
    query: Query,
) -> Result<Answer, Failure> {
    query.finish()?;
    let outcome = async {
        let seen = Seen::of(&api, &session, &key).await?;
        let versions = seen.versions.iter().map(|kept| Value::Map(told(&api, kept))).collect();
        Ok(Done {
            body: Body::from([("versions".to_owned(), Value::Array(versions))]),
            touched: seen.touched,
        })
    };
    answer::called(&api, &session, outcome.await)
}

/// `POST .../versions`, with `{"name":..,"by":..}`
pub async fn make(
    State(api): State<Api>,
    session: Session,
    KeyPath(key): KeyPath,
    query: Query,
    RawBody(body): RawBody,
) -> Result<Answer, Failure> {
    query.finish()?;
    let (name, by) = names(&body)?;
    let asked = put::hash_of(&[b"version", key.to_string().as_bytes(), &body]);
    // Without an id of its own a request is another one each time.
    let id = match &session.request_id {
        Some(id) => format!("r{:016x}", put::hash_of(&[format!("{id:?}").as_bytes()])),
        None => {
            format!("{:013x}-{:08x}", api.shard.seams.clock.unix_ms(), api.shard.seams.random.u64() as u32)
        }
    };
    let session = Session { consistency: Consistency::Linearizable, ..session };
    let outcome = made(&api, &session, &key, Asked { id, name: Some(name), by, asked }).await;
    answer::called(&api, &session, outcome)
}

/// A version that is to be made.
struct Asked {
    id: String,
    name: Option<String>,
    by: Option<String>,
    asked: u64,
}

/// The name of a version, and who makes it.
fn names(body: &[u8]) -> Result<(String, Option<String>), ApiError> {
    let bad = |why: String| ApiError::new(ErrorCode::BadValue, why);
    let json: Json = serde_json::from_slice(body)
        .map_err(|e| ApiError::new(ErrorCode::BadJson, format!("the body is not JSON: {e}")))?;
    let Json::Object(mut fields) = json else { return Err(bad("the body is an object with a name".into())) };
    let mut text = |field: &str| match fields.remove(field) {
        None => Ok(None),
        Some(Json::String(text)) if !text.is_empty() && text.len() <= NAME_BYTES_MAX => Ok(Some(text)),
        Some(_) => Err(bad(format!("{field} is a text of 1 to {NAME_BYTES_MAX} bytes"))),
    };
    let (name, by) = (text("name")?, text("by")?);
    if let Some(unknown) = fields.keys().next() {
        let shown: String = unknown.chars().take(80).collect();
        return Err(ApiError::new(ErrorCode::UnknownField, format!("a version has no field {shown:?}")));
    }
    Ok((name.ok_or_else(|| bad("a version has a name".into()))?, by))
}

/// `GET .../versions/{id}`
pub async fn read(
    State(api): State<Api>,
    session: Session,
    VersionPath(key, id): VersionPath,
    mut query: Query,
) -> Result<Response, Failure> {
    let format = formats::Format::take(&mut query)?;
    query.finish()?;
    let found = found(&api, &session, &key, &id).await;
    let (seen, kept) = found.map_err(|refused| answer::data_error(&api, &session, *refused))?;
    let document = store::content(&seen.view, &key, &kept.record)?;
    let mut response = formats::shown(&document, &format, &kept.record.version)?;
    response.headers_mut().extend(answer::data_headers(&api, &session, &seen.touched));
    Ok(response)
}

/// `POST .../versions/{id}/restore`
pub async fn restore(
    State(api): State<Api>,
    session: Session,
    VersionPath(key, id): VersionPath,
    query: Query,
) -> Result<Answer, Failure> {
    query.finish()?;
    let session = Session { consistency: Consistency::Linearizable, ..session };
    let outcome = async {
        let (seen, kept) = found(&api, &session, &key, &id).await?;
        let old = store::content(&seen.view, &key, &kept.record)?;
        let before = put::before(&api, &session, &key).await?;
        let author = api.shard.seams.random.u64();
        let content = DocWanted::Document(&old);
        let (updates, _) = busy(|| put::rewritten(&before, content, author))
            .map_err(|error| Box::new(Refused { error, touched: before.touched.clone() }))?;
        let asked = put::hash_of(&[b"restore", key.to_string().as_bytes(), id.as_bytes()]);
        // Never in parts: nobody is to see half of it.
        let edit = Edit { updates, in_parts: false, asked, if_version: None };
        put::write(&api, &session, &key, &before, edit).await
    };
    answer::called(&api, &session, outcome.await)
}

/// `DELETE .../versions/{id}`
pub async fn delete(
    State(api): State<Api>,
    session: Session,
    VersionPath(key, id): VersionPath,
    query: Query,
) -> Result<Answer, Failure> {
    query.finish()?;
    let session = Session { consistency: Consistency::Linearizable, ..session };
    let outcome = async {
        let view = calls::view(&api, &session).await?;
        // As with a key, a version that is not there any more is deleted.
        let ops = match store::one(&view, &key, &id)? {
            Some(kept) => store::removal(&key, &kept.record)?.to_vec(),
            None => Vec::new(),
        };
        let asked = put::hash_of(&[b"unversion", key.to_string().as_bytes(), id.as_bytes()]);
        let request = store::request(Vec::new(), ops)?;
        let request = crate::shard::WriteRequest { asked: Some(asked), ..request };
        let touched = calls::write_as(&api, &session, request.into()).await?.touched;
        Ok(Done { body: Body::from([("deleted".to_owned(), Value::Bool(true))]), touched })
    };
    answer::called(&api, &session, outcome.await)
}

/// What is seen of the versions of a document that exists.
struct Seen {
    view: StateView,
    /// Those that count, the oldest first.
    versions: Vec<Kept>,
    /// Those that belong to what was deleted.
    ended: Vec<Kept>,
    touched: Vector,
}

impl Seen {
    async fn of(api: &Api, session: &Session, key: &Key) -> calls::Result<Seen> {
        let view = calls::view(api, session).await?;
        let glance = meridian_crdt::glance(&view, key).map_err(calls::unreadable)?;
        let mut touched = calls::seen(api, glance.touched);
        let incarnations = doc_incarnations(&view, key).map_err(calls::unreadable)?;
        if incarnations.is_empty() {
            return refused(calls::not_found(key), touched);
        }
        let all = store::all(&view, key)?;
        for kept in &all {
            touched.advance(kept.dot);
        }
        let (versions, ended) =
            all.into_iter().partition(|kept| kept.record.of.iter().any(|dot| incarnations.contains(dot)));
        Ok(Seen { view, versions, ended, touched })
    }
}

async fn found(api: &Api, session: &Session, key: &Key, id: &str) -> calls::Result<(Seen, Kept)> {
    let mut seen = Seen::of(api, session, key).await?;
    match seen.versions.iter().position(|kept| kept.record.id == id) {
        Some(at) => {
            let kept = seen.versions.swap_remove(at);
            Ok((seen, kept))
        }
        None => {
            let shown: String = id.chars().take(80).collect();
            let error = ApiError::new(ErrorCode::NotFound, format!("{key} has no version {shown:?}"));
            refused(error, seen.touched)
        }
    }
}

/// What is told of a version: when and where it was made stands in the txn that brought it.
fn told(api: &Api, kept: &Kept) -> Body {
    let state = api.shard.publisher.applied().borrow().state.clone();
    let dc = state.dc_of(kept.dot.origin).map_or_else(|| kept.dot.origin.to_string(), str::to_owned);
    store::told(kept, dc, unix_ms(kept.hlc))
}

/// Makes a version, unless it is there; those that are too many go with the same write.
async fn made(api: &Api, session: &Session, key: &Key, asked: Asked) -> calls::Result {
    let before = put::before(api, session, key).await?;
    if !before.exists() {
        return refused(calls::not_found(key), before.touched);
    }
    let seen = Seen::of(api, session, key).await?;
    let is_named = asked.name.is_some();
    let of_kind = |kept: &&Kept| kept.record.name.is_some() == is_named;
    if let Some(there) = seen.versions.iter().find(|kept| kept.record.id == asked.id) {
        return Ok(Done { body: told(api, there), touched: seen.touched });
    }
    let alike = seen.versions.iter().filter(of_kind).count();
    if is_named && alike >= api.bounds.versions.named_max {
        let limit = api.bounds.versions.named_max;
        let message = format!("the document has {limit} versions, and no more are taken; delete some");
        return refused(ApiError::new(ErrorCode::TooLarge, message).with("limit", limit), seen.touched);
    }
    let too_many = if is_named { 0 } else { (alike + 1).saturating_sub(api.bounds.versions.kept) };
    let mut also: Vec<(Key, Mutation)> = Vec::new();
    for kept in seen.versions.iter().filter(of_kind).take(too_many).chain(&seen.ended) {
        also.extend(store::removal(key, &kept.record)?);
    }
    let content = busy(|| before.document.to_v2());
    let record = record_of(api, &before, &asked, &content)?;
    let mut touched = before.touched;
    touched.join(&store::save(api, session, key, &record, &content, (also, asked.asked)).await?);
    // The write may have been the retry of one that was done.
    let after = Session { dots: touched.clone(), consistency: Consistency::Session, ..session.clone() };
    let view = calls::view(api, &after).await?;
    let Some(kept) = store::one(&view, key, &record.id)? else {
        let error = ApiError::new(ErrorCode::NotFound, "the version was deleted as soon as it was made");
        return refused(error, touched);
    };
    if kept.record.data != record.data {
        store::forget(api, session, key, &record).await;
    }
    touched.advance(kept.dot);
    Ok(Done { body: told(api, &kept), touched })
}

fn record_of(api: &Api, before: &Before, asked: &Asked, content: &[u8]) -> calls::Result<Record> {
    if content.len() > CONTENT_BYTES_MAX {
        let message = format!("a version is above its limit of {CONTENT_BYTES_MAX} bytes");
        let error = ApiError::new(ErrorCode::TooLarge, message).with("limit", CONTENT_BYTES_MAX);
        return refused(error, before.touched.clone());
    }
    Ok(Record {
        id: asked.id.clone(),
        name: asked.name.clone(),
        by: asked.by.clone(),
        bytes: content.len(),
        version: before.version.to_string(),
        data: format!("{:016x}", api.shard.seams.random.u64()),
        hash: xxh3_64(content),
        of: before.state.incarnations.clone(),
    })
}

/// Makes versions of the documents that are edited by way of this node, until it stops.
pub async fn keep(api: Api, mut stop: watch::Receiver<bool>) {
    let interval = api.bounds.versions.interval;
    if interval.is_zero() {
        return;
    }
    let mut tick = tokio::time::interval((interval / 4).clamp(LOOK_INTERVAL_MIN, LOOK_INTERVAL));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = told_to_stop(&mut stop) => return,
        }
        for key in api.docs.take_edited(u64::try_from(interval.as_millis()).unwrap_or(u64::MAX)) {
            tokio::select! {
                () = version_of(&api, &key) => {}
                () = told_to_stop(&mut stop) => return,
            }
        }
    }
}

/// Makes the version of this interval, unless another node of this datacenter has made it.
async fn version_of(api: &Api, key: &Key) {
    let now_ms = api.shard.seams.clock.unix_ms();
    let slot = now_ms / u64::try_from(api.bounds.versions.interval.as_millis()).unwrap_or(u64::MAX).max(1);
    let id = format!("a{slot:013x}-{}", api.shard.dc);
    let asked = put::hash_of(&[b"version", key.to_string().as_bytes(), id.as_bytes()]);
    let session = calls::session(api, None, Consistency::Session, None, Commit::Local, None);
    let made = match session {
        Ok(session) => made(api, &session, key, Asked { id, name: None, by: None, asked }).await,
        Err(error) => refused(error, Vector::new()),
    };
    match made.map_err(|refused| refused.error) {
        Ok(_) => {}
        // It was deleted meanwhile, or somebody else was quicker.
        Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::PreconditionFailed) => {}
        Err(error) => {
            tracing::warn!(%key, %error, "no version could be made of a document; its next edit is an occasion again");
        }
    }
}
