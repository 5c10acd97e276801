//! Handlers for data: read, mutate, delete, list, explain, transactions.

use axum::extract::State;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meridian_client::wire::{ApiError, ErrorCode, json, request};
use meridian_crdt::{Key, Mutation, Query as ReadQuery};
use serde_json::{Value as Json, json};

use super::Api;
use super::answer::{self, Answer, Failure};
use super::calls::{self, Refused, Session};
use super::extract::{JsonBody, KeyPath, Query, SpacePath};

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
        ..ReadQuery::default()
    };
    query.finish()?;
    let outcome = calls::read(&api, &session, &key, &wanted).await;
    answer::called(&api, &session, outcome)
}

/// `POST /v1/spaces/{space}/keys/{key}`
pub async fn mutate(
    State(api): State<Api>,
    session: Session,
    KeyPath(key): KeyPath,
    body: JsonBody,
) -> Result {
    let mutation = request::mutation(body.json)?;
    let outcome = calls::write(&api, &session, key, mutation).await;
    answer::called(&api, &session, outcome)
}

/// `DELETE /v1/spaces/{space}/keys/{key}`
pub async fn delete(State(api): State<Api>, session: Session, KeyPath(key): KeyPath) -> Result {
    let outcome = calls::write(&api, &session, key, Mutation::Delete(None)).await;
    answer::called(&api, &session, outcome)
}

/// `POST /v1/spaces/{space}/txn`
pub async fn txn(
    State(api): State<Api>,
    session: Session,
    SpacePath(space): SpacePath,
    body: JsonBody,
) -> Result {
    let txn = request::txn(&space, body.json)?;
    let outcome = calls::txn(&api, &session, txn.conditions, txn.ops).await;
    answer::called(&api, &session, outcome)
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
    let outcome = calls::list(&api, &session, &space, &prefix, after.as_deref(), limit).await;
    answer::called(&api, &session, outcome)
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
    let outcome = explained(&api, &session, &key).await;
    outcome.map_err(|refused| answer::data_error(&api, &session, *refused))
}

async fn explained(api: &Api, session: &Session, key: &Key) -> calls::Result<Answer> {
    let view = calls::view(api, session).await?;
    let touched = calls::seen(api, meridian_crdt::glance(&view, key).map_err(calls::unreadable)?.touched);
    let explained = meridian_crdt::explain(&view, key, EXPLAIN_CELLS_MAX).map_err(calls::unreadable)?;
    let Some(explained) = explained else {
        return Err(Box::new(Refused { error: calls::not_found(key), touched }));
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
    Ok(answer::data(api, session, &touched, body))
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
