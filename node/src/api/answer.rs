//! Answers: JSON bodies, errors in their one shape, and the headers that carry the session.

use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use meridian_client::wire::{ApiError, Token, headers};
use meridian_crdt::Vector;
use serde_json::Value as Json;

use super::Api;
use super::extract::Session;

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
    let mut token = Token { cluster: api.cluster, dots: session.dots.clone() };
    token.dots.join(touched);
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

/// A successful answer about data.
pub fn data(api: &Api, session: &Session, touched: &Vector, body: Json) -> Answer {
    Answer { body, headers: data_headers(api, session, touched) }
}

/// An error about data, which tells the session something too.
pub fn data_error(api: &Api, session: &Session, touched: &Vector, error: ApiError) -> Failure {
    Failure { error: Box::new(error), headers: Box::new(data_headers(api, session, touched)) }
}
