//! `GET /v1/spaces/{space}/docs/{doc}` without a handshake: what a document says, in a format of one's choice.
//!
//! `?format=json` (the default) answers as a read of the key does, `?format=text&root=NAME` the text of one root type,
//! `?format=xml&root=NAME` the XML of one as Yjs prints it, and `?format=update` the whole document as one update of Yjs, with
//! which a client can begin or a copy can be made.

use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use meridian_client::wire::{ApiError, ErrorCode, json};
use meridian_crdt::{Document, Key, YrsDocument, doc_state, glance};
use serde_json::json;

use super::busy;
use crate::api::Api;
use crate::api::answer::{self, Failure};
use crate::api::calls::{self, Refused, Session};
use crate::api::extract::Query;
use crate::docs::wire::FROM_NOTHING;

/// Reads a document on the session's terms.
pub async fn read(api: &Api, session: &Session, key: &Key, mut query: Query) -> Result<Response, Failure> {
    let format = Format::take(&mut query)?;
    query.finish()?;
    let view = calls::view(api, session).await;
    let view = view.map_err(|refused| answer::data_error(api, session, *refused))?;
    let glance = glance(&view, key).map_err(calls::unreadable)?;
    let touched = calls::seen(api, glance.touched);
    let state = doc_state(&view, key).map_err(calls::unreadable)?;
    if state.incarnations.is_empty() {
        let error = calls::not_found(key);
        return Err(answer::data_error(api, session, Refused { error, touched }));
    }
    let content = state.content();
    let (document, _) = match busy(|| YrsDocument::of(&content)) {
        Ok(read) => read,
        Err(error) => {
            let error = ApiError::new(ErrorCode::TooLarge, error.to_string());
            return Err(answer::data_error(api, session, Refused { error, touched }));
        }
    };
    let version = glance.version.to_string();
    let mut response = shown(&document, &format, &version)?;
    if let Ok(version) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(ETAG, version);
    }
    response.headers_mut().extend(answer::data_headers(api, session, &touched));
    Ok(response)
}

/// How a document is shown.
pub enum Format {
    /// All roots.
    Json,
    /// One root as text.
    Text(String),
    /// One root as XML.
    Xml(String),
    /// All of it as one update.
    Update,
}

impl Format {
    /// The format that a query asks for.
    pub fn take(query: &mut Query) -> Result<Format, ApiError> {
        let (format, root) = (query.take("format"), query.take("root"));
        Ok(match (format.as_deref(), root) {
            (None | Some("json"), None) => Format::Json,
            (Some("text"), Some(root)) => Format::Text(root),
            (Some("xml"), Some(root)) => Format::Xml(root),
            (Some("update"), None) => Format::Update,
            _ => {
                let message = "the parameter format is json, text or xml with a root, or update";
                return Err(ApiError::new(ErrorCode::BadHeader, message));
            }
        })
    }
}

/// A document in a format. XML is shown as text is: each is what JSON has under the root.
pub fn shown(document: &YrsDocument, format: &Format, version: &str) -> Result<Response, ApiError> {
    Ok(match format {
        Format::Json => {
            let value = json::from_value(&document.to_value());
            let body = json!({"type": "doc", "value": value, "version": version});
            answer::json_response(StatusCode::OK, &body)
        }
        Format::Text(root) => {
            ([(CONTENT_TYPE, "text/plain; charset=utf-8")], document.text(root)).into_response()
        }
        Format::Xml(root) => {
            ([(CONTENT_TYPE, "application/xml; charset=utf-8")], document.text(root)).into_response()
        }
        Format::Update => {
            let update = document.diff(FROM_NOTHING).map_err(|error| {
                tracing::error!(%error, "a document cannot be written as one update");
                ApiError::new(ErrorCode::Internal, "the document cannot be written as one update")
            })?;
            ([(CONTENT_TYPE, "application/octet-stream")], update).into_response()
        }
    })
}
