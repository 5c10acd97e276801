//! Handlers for data: read, mutate, delete, list, explain, transactions.

use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meridian_client::wire::{ApiError, Cursor, ErrorCode, json, request};
use meridian_crdt::{Condition, Content, Key, Mutation, Query as ReadQuery, ReadValue, StoreError, Vector};
use serde_json::{Map, Value as Json, json};

use super::Api;
use super::answer::{self, Answer, Failure};
use super::extract::{JsonBody, KeyPath, Query, Session, SpacePath};
use crate::shard::WriteRequest;
use crate::storage::{StateView, StorageError};
use crate::txn::{Answer as TxnAnswer, OpResult};

type Result<T = Answer> = std::result::Result<T, Failure>;

/// `GET /v1/spaces/{space}/keys/{key}`
pub async fn read(
    State(api): State<Api>,
    session: Session,
    KeyPath(key): KeyPath,
    mut query: Query,
) -> Result {
    let wanted = ReadQuery {
        limit: query.take_limit("limit", api.bounds.page_max)?,
        cursor: query.take("cursor").map(|text| value_cursor(&text)).transpose()?,
        element: query.take("element").map(|text| element(&text)).transpose()?,
    };
    query.finish()?;
    let view = view(&api, &session).await?;
    let reading = meridian_crdt::read(&view, &key, &wanted).map_err(unreadable)?;
    let touched = seen(&api, reading.touched);
    match reading.content {
        Some(content) => Ok(answer::data(&api, &session, &touched, content_json(&content))),
        None => Err(answer::data_error(&api, &session, &touched, not_found(&key))),
    }
}

/// `POST /v1/spaces/{space}/keys/{key}`
pub async fn mutate(
    State(api): State<Api>,
    session: Session,
    KeyPath(key): KeyPath,
    body: JsonBody,
) -> Result {
    let mutation = request::mutation(body.json)?;
    write_one(&api, session, key, mutation).await
}

/// `DELETE /v1/spaces/{space}/keys/{key}`
pub async fn delete(State(api): State<Api>, session: Session, KeyPath(key): KeyPath) -> Result {
    write_one(&api, session, key, Mutation::Delete(None)).await
}

/// `POST /v1/spaces/{space}/txn`
pub async fn txn(
    State(api): State<Api>,
    session: Session,
    SpacePath(space): SpacePath,
    body: JsonBody,
) -> Result {
    let txn = request::txn(&space, body.json)?;
    let (results, touched) = write(&api, &session, txn.conditions, txn.ops).await?;
    let version = results.last().map(|last| last.version.to_string());
    let results: Vec<_> = results.iter().map(result_json).collect();
    Ok(answer::data(&api, &session, &touched, json!({"version": version, "results": results})))
}

/// `GET /v1/spaces/{space}/keys`
pub async fn list(
    State(api): State<Api>,
    session: Session,
    SpacePath(space): SpacePath,
    mut query: Query,
) -> Result {
    let prefix = query.take("prefix").unwrap_or_default();
    let limit = query.take_limit("limit", api.bounds.page_max)?;
    let after = query.take("cursor").map(|text| cursor(&text)).transpose()?;
    let after = after.map(String::from_utf8).transpose().map_err(|_| bad_cursor())?;
    query.finish()?;
    let view = view(&api, &session).await?;
    let listing = meridian_crdt::list(&view, &space, &prefix, after.as_deref(), limit).map_err(unreadable)?;
    let keys: Vec<_> = listing
        .keys
        .iter()
        .map(|key| json!({"key": key.key, "type": key.ty.name(), "version": key.version.to_string()}))
        .collect();
    let mut body = json!({"keys": keys});
    if let (true, Some(last)) = (listing.more, &listing.cursor) {
        body["cursor"] = Json::String(URL_SAFE_NO_PAD.encode(last));
    }
    // A listing has looked at everything: its session depends on the whole vector.
    let vector = crate::txn::ShardState::load(&view)
        .map_err(|e| unreadable(StoreError::Cells(e)))?
        .map(|state| state.vector)
        .unwrap_or_default();
    // A watch from here misses nothing that comes after this page was read; of several pages the first one's counts.
    body["watch_cursor"] = Cursor::new(api.cluster, vector.clone()).to_text().into();
    Ok(answer::data(&api, &session, &vector, body))
}

/// How many cells `explain` shows.
const EXPLAIN_CELLS_MAX: usize = 1000;

/// `GET /v1/spaces/{space}/keys/{key}/explain`
pub async fn explain(
    State(api): State<Api>,
    session: Session,
    KeyPath(key): KeyPath,
    query: Query,
) -> Result {
    query.finish()?;
    let view = view(&api, &session).await?;
    let touched = seen(&api, meridian_crdt::glance(&view, &key).map_err(unreadable)?.touched);
    let Some(explained) = meridian_crdt::explain(&view, &key, EXPLAIN_CELLS_MAX).map_err(unreadable)? else {
        return Err(answer::data_error(&api, &session, &touched, not_found(&key)));
    };
    let state = api.shard.publisher.applied().borrow().state.clone();
    let dot_json = |dot: &meridian_crdt::ExplainedDot| {
        let dc = state.dc_of(dot.dot.origin).map_or_else(|| dot.dot.origin.to_string(), str::to_owned);
        json!({"dc": dc, "seq": dot.dot.seq, "hlc": dot.hlc, "value": json::from_value(&dot.value), "visible": dot.visible})
    };
    let cells: Vec<_> = explained
        .cells
        .iter()
        .map(|cell| {
            let path: Vec<_> = cell.path.iter().map(json::from_value).collect();
            json!({"type": cell.ty.name(), "path": path, "dots": cell.dots.iter().map(dot_json).collect::<Vec<_>>()})
        })
        .collect();
    let body = json!({
        "type": explained.ty.map(|ty| ty.name()),
        "cells": cells,
        "conflicts": explained.conflicts,
        "truncated": explained.truncated,
    });
    Ok(answer::data(&api, &session, &touched, body))
}

/// What a session depends on that has looked at a key with these dots. A key without any may have been forgotten by
/// stability; another node of this datacenter that lags may still show it.
fn seen(api: &Api, touched: Vector) -> Vector {
    if touched.is_empty() { api.shard.publisher.applied().borrow().state.stable.clone() } else { touched }
}

async fn view(api: &Api, session: &Session) -> Result<StateView> {
    api.shard
        .read(session.consistency, &session.dots, session.wait)
        .await
        .map_err(|error| answer::data_error(api, session, &Vector::new(), error))
}

async fn write_one(api: &Api, session: Session, key: Key, mutation: Mutation) -> Result {
    let (results, touched) = write(api, &session, Vec::new(), vec![(key, mutation)]).await?;
    let body = results.first().map_or_else(|| json!({}), result_json);
    Ok(answer::data(api, &session, &touched, body))
}

async fn write(
    api: &Api,
    session: &Session,
    conditions: Vec<(Key, Condition)>,
    ops: Vec<(Key, Mutation)>,
) -> Result<(Vec<OpResult>, Vector)> {
    let bytes = api.bounds.request.check(&conditions, &ops)?;
    let request = WriteRequest {
        id: session.request_id.clone(),
        conditions,
        ops,
        session: session.dots.clone(),
        wait_ms: u64::try_from(session.wait.as_millis()).unwrap_or(u64::MAX),
        bytes,
    };
    match api.shard.write(request).await {
        Ok(TxnAnswer::Done { results, touched, dot }) => {
            if let Some(dot) = dot {
                let held = api.shard.held_by(dot, session.holders, session.wait).await;
                held.map_err(|error| answer::data_error(api, session, &touched, error))?;
            }
            Ok((results, touched))
        }
        Ok(TxnAnswer::Refused { error, touched }) => Err(answer::data_error(api, session, &touched, error)),
        Err(error) => Err(answer::data_error(api, session, &Vector::new(), error)),
    }
}

fn result_json(result: &OpResult) -> Json {
    json!({"version": result.version.to_string(), "result": result.result.as_ref().map(json::from_value)})
}

/// A key's content in the body of an answer.
pub fn content_json(content: &Content) -> Json {
    let mut body = Map::new();
    body.insert("type".into(), content.ty.name().into());
    match content.present {
        Some(present) => body.insert("present".into(), present.into()),
        None => body.insert("value".into(), value_json(&content.value)),
    };
    body.insert("version".into(), content.version.to_string().into());
    if let Some(size) = content.size {
        body.insert("size".into(), size.into());
    }
    if let Some(cursor) = &content.cursor {
        body.insert("cursor".into(), URL_SAFE_NO_PAD.encode(cursor).into());
    }
    Json::Object(body)
}

fn value_json(value: &ReadValue) -> Json {
    match value {
        ReadValue::Map(fields) => Json::Object(
            fields
                .iter()
                .map(|(name, (ty, value))| {
                    (name.clone(), json!({"type": ty.name(), "value": value_json(value)}))
                })
                .collect(),
        ),
        other => json::from_value(&other.to_value()),
    }
}

fn element(text: &str) -> Result<meridian_crdt::Value> {
    let parsed: Json = serde_json::from_str(text)
        .map_err(|e| ApiError::new(ErrorCode::BadJson, format!("the parameter element is not JSON: {e}")))?;
    Ok(json::to_value(&parsed)?)
}

fn bad_cursor() -> ApiError {
    ApiError::new(ErrorCode::BadHeader, "the parameter cursor is none that this interface gave out")
}

fn cursor(text: &str) -> Result<Vec<u8>> {
    Ok(URL_SAFE_NO_PAD.decode(text).map_err(|_| bad_cursor())?)
}

/// A cursor into a value; one that no page could have given out is refused rather than read from the front.
fn value_cursor(text: &str) -> Result<Vec<u8>> {
    let bytes = cursor(text)?;
    meridian_crdt::read::check_cursor(&bytes).map_err(|_| bad_cursor())?;
    Ok(bytes)
}

fn not_found(key: &Key) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("{key} has no value"))
}

fn unreadable(error: StoreError<StorageError>) -> Failure {
    tracing::error!(%error, "the state cannot be read");
    ApiError::new(ErrorCode::Internal, "the state of this node cannot be read; its log says why").into()
}
