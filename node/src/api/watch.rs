//! `GET /v1/spaces/{space}/watch`: a watch as server-sent events.
//!
//! ```text
//! id: <cursor>            id: <cursor>                     event: error
//! event: cursor           event: txn                       data: {"error":{"code":"cursor_expired","cursor":..,..}}
//! data: {"cursor":..}     data: {"dc":..,"seq":..,...}
//! ```
//!
//! What is wrong with the request is answered as an error with its status, before the stream begins. The stream is
//! pulled by the connection: one event is made when the one before it has gone into the socket's bounded buffer.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::Stream;
use meridian_client::wire::{ApiError, Cursor, ErrorCode, change, request};
use meridian_crdt::Vector;
use meridian_crdt::keys::KEY_BYTES_MAX;
use serde_json::{Value as Json, json};

use super::Api;
use super::answer::{self, Failure};
use super::calls::{self, Refused, Session};
use super::extract::{Query, SpacePath};
use crate::watch::walk::What;
use crate::watch::{KeyChange, TxnEvent, Watch, WatchEvent, WatchRequest};

/// Where a browser says how far it has got, when it connects again by itself.
const LAST_EVENT_ID: &str = "last-event-id";
/// Tells proxies not to hold events back.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// `GET /v1/spaces/{space}/watch`
pub async fn watch(
    State(api): State<Api>,
    session: Session,
    SpacePath(space): SpacePath,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, Failure> {
    let request = watch_request(space, &session, &headers, query)?;
    let opened = api.shard.watch(request).await;
    let refused = |error| Refused { error, touched: Vector::new() };
    let watch = opened.map_err(|error| answer::data_error(&api, &session, refused(error)))?;
    let keep_alive = api.shard.watches.bounds.keep_alive;
    let mut response = (StatusCode::OK, Body::from_stream(frames(watch, keep_alive))).into_response();
    let map = response.headers_mut();
    map.extend(answer::data_headers(&api, &session, &Vector::new()));
    map.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    map.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    map.insert(UNBUFFERED, HeaderValue::from_static("no"));
    Ok(response)
}

fn bad(message: &str) -> ApiError {
    ApiError::new(ErrorCode::BadHeader, message)
}

fn watch_request(
    space: String,
    session: &Session,
    headers: &HeaderMap,
    mut query: Query,
) -> Result<WatchRequest, ApiError> {
    let what = match (query.take("key"), query.take("prefix")) {
        (Some(_), Some(_)) => return Err(bad("a watch takes one of the parameters key and prefix")),
        (Some(key), None) => What::Key(request::key(&space, &key)?.key),
        (None, prefix) => What::Prefix(prefix.unwrap_or_default()),
    };
    if matches!(&what, What::Prefix(prefix) if prefix.len() > KEY_BYTES_MAX) {
        return Err(ApiError::new(ErrorCode::BadKey, "the prefix is longer than any key"));
    }
    let values = match query.take("values").as_deref() {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(bad("the parameter values takes true or false")),
    };
    let from = query.take("from").map(|text| Cursor::from_text(&text)).transpose()?;
    query.finish()?;
    Ok(WatchRequest {
        space,
        what,
        // A client that connects again by itself repeats the address of its first request: what it says beside that
        // about how far it has got is newer.
        from: last_event_id(headers)?.or(from),
        session: session.dots.clone(),
        wait: session.wait,
        consistency: session.consistency,
        values,
    })
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<Cursor>, ApiError> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    let text = value.to_str().map_err(|_| bad("Last-Event-ID is not visible ASCII"))?.trim();
    if text.is_empty() { Ok(None) } else { Cursor::from_text(text).map(Some) }
}

/// The stream's bytes, event by event, with a comment where it would be silent for too long.
fn frames(watch: Watch, keep_alive: Duration) -> impl Stream<Item = Result<Bytes, Infallible>> {
    futures_util::stream::unfold(Some(watch), move |watch| async move {
        let mut watch = watch?;
        let (frame, rest) = match tokio::time::timeout(keep_alive, watch.next()).await {
            Err(_) => (": still here\n\n".to_owned(), Some(watch)),
            Ok(Ok(event)) => (event_frame(&event), Some(watch)),
            // Without an id, so that no client takes the cursor in it for one that it has got to.
            Ok(Err(error)) => (format!("event: error\ndata: {}\n\n", error.to_json()), None),
        };
        Some((Ok(Bytes::from(frame)), rest))
    })
}

fn event_frame(event: &WatchEvent) -> String {
    let (name, data) = event_data(event);
    let id = data["cursor"].as_str().unwrap_or_default();
    format!("id: {id}\nevent: {name}\ndata: {data}\n\n")
}

/// The name of an event, and its data as every interface gives it out.
pub fn event_data(event: &WatchEvent) -> (&'static str, Json) {
    match event {
        WatchEvent::Txn(txn) => ("txn", txn_json(txn)),
        WatchEvent::Progress { cursor, session } => {
            ("cursor", json!({"cursor": cursor.to_text(), "session": session.to_text()}))
        }
    }
}

fn txn_json(txn: &TxnEvent) -> Json {
    json!({
        "dc": txn.dc,
        "seq": txn.dot.seq,
        "time_ms": txn.time_ms,
        "changes": txn.changes.iter().map(change_json).collect::<Vec<_>>(),
        "cursor": txn.cursor.to_text(),
        "session": txn.session.to_text(),
    })
}

fn change_json(told: &KeyChange) -> Json {
    let mut json = json!({
        "key": told.key,
        "type": told.ty.map(|ty| ty.name()),
        "ops": change::ops_json(told.ty, &told.ops),
    });
    if let Some(now) = &told.now {
        json["value"] = Json::Null;
        json["version"] = Json::Null;
        // Of a large collection it is one page, as it is when it is read: with the size, and where the next page is.
        if let (Json::Object(fields), Some(content)) = (&mut json, &now.content)
            && let Json::Object(content) = answer::body_json(calls::content_body(content))
        {
            fields.extend(content.into_iter().filter(|(name, _)| name != "type"));
        }
    }
    json
}
