//! Answers: JSON bodies, errors in their one shape, and the headers that carry the session.

use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use meridian_client::wire::{ApiError, ErrorCode, headers, json};
use meridian_crdt::{Value, Vector};
use serde_json::Value as Json;

use super::Api;
use super::calls::{self, Body, Done, Refused, Session};

/// The field of a body that says where the next page goes on.
const CURSOR: &str = "cursor";

/// An answer about data: its body, and what the session depends on from here on.
pub struct Answer {
    body: Json,
    headers: HeaderMap,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let mut response = json_response(StatusCode::OK, &self.body);
        response.headers_mut().extend(self.headers);
        response
    }
}

/// A refused request.
#[derive(Debug)]
pub struct Failure {
    error: Box<ApiError>,
    // Boxed, because every handler's result is as large as its error.
    headers: Box<HeaderMap>,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self { error: Box::new(error), headers: Box::default() }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status =
            StatusCode::from_u16(self.error.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = json_response(status, &self.error.to_json());
        if let Some(ms) = self.error.retry_after_ms {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
        }
        if self.error.code == ErrorCode::Unauthorized {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.headers_mut().extend(*self.headers);
        response
    }
}

/// A body of JSON, with a newline at its end for people at terminals.
pub fn json_response(status: StatusCode, body: &Json) -> Response {
    let mut text = body.to_string();
    text.push('\n');
    (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], text).into_response()
}

/// The session and staleness headers: the request's token merged with what the request touched.
pub fn data_headers(api: &Api, session: &Session, touched: &Vector) -> HeaderMap {
    let token = calls::token_after(api, session, touched);
    let mut map = HeaderMap::new();
    if let Ok(text) = HeaderValue::from_str(&token.to_text()) {
        map.insert(HeaderName::from_static(headers::SESSION), text);
    }
    let lag = api.shard.lag();
    let entries: Vec<_> =
        lag.iter().map(|(dc, lag)| format!("{dc};ms={};txns={}", lag.ms, lag.txns)).collect();
    if let Ok(text) = HeaderValue::from_str(&entries.join(", "))
        && !lag.is_empty()
    {
        map.insert(HeaderName::from_static(headers::STALENESS), text);
    }
    map
}

/// The answer to a call.
pub fn called(api: &Api, session: &Session, outcome: calls::Result) -> Result<Answer, Failure> {
    match outcome {
        Ok(Done { body, touched }) => Ok(data(api, session, &touched, body_json(body))),
        Err(refused) => Err(data_error(api, session, *refused)),
    }
}

/// A body in JSON. A cursor that it carries becomes text that is safe in a URL.
pub fn body_json(mut body: Body) -> Json {
    let cursor = match body.get(CURSOR) {
        Some(Value::Bytes(cursor)) => Some(URL_SAFE_NO_PAD.encode(cursor)),
        Some(Value::Str(key)) => Some(URL_SAFE_NO_PAD.encode(key)),
        _ => None,
    };
    if let Some(cursor) = cursor {
        body.insert(CURSOR.to_owned(), Value::Str(cursor));
    }
    json::from_value(&Value::Map(body))
}

/// A successful answer about data.
pub fn data(api: &Api, session: &Session, touched: &Vector, body: Json) -> Answer {
    Answer { body, headers: data_headers(api, session, touched) }
}

/// An error about data, which tells the session something too.
pub fn data_error(api: &Api, session: &Session, refused: Refused) -> Failure {
    let headers = data_headers(api, session, &refused.touched);
    Failure { error: Box::new(refused.error), headers: Box::new(headers) }
}
