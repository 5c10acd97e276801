//! `GET /v1/spaces/{space}/docs/{doc}/stats`: what a document costs, and who edits it here.

use axum::extract::State;
use meridian_crdt::{Document, Key, Value};

use super::put;
use crate::api::Api;
use crate::api::answer::{self, Answer, Failure};
use crate::api::calls::{self, Body, Done, Refused, Session};
use crate::api::extract::{KeyPath, Query};

/// `GET /v1/spaces/{space}/docs/{doc}/stats`
pub async fn stats(
    State(api): State<Api>,
    session: Session,
    KeyPath(key): KeyPath,
    query: Query,
) -> Result<Answer, Failure> {
    query.finish()?;
    let outcome = counted(&api, &session, &key).await;
    answer::called(&api, &session, outcome)
}

async fn counted(api: &Api, session: &Session, key: &Key) -> calls::Result {
    let read = put::before(api, session, key).await?;
    if !read.exists() {
        return Err(Box::new(Refused { error: calls::not_found(key), touched: read.touched }));
    }
    let count = |n: usize| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
    let fields = [
        ("version", Value::Str(read.version.to_string())),
        ("incarnations", count(read.state.incarnations.len())),
        ("updates", count(read.state.updates.len())),
        ("snapshots", count(read.state.snapshots.len())),
        ("bytes", count(read.bytes)),
        ("clients", count(read.document.clients())),
        ("state_vector_bytes", count(read.document.state_vector().len())),
        ("editors_here", count(api.docs.editors_of(key))),
    ];
    Ok(Done { body: Body::from(fields.map(|(name, value)| (name.to_owned(), value))), touched: read.touched })
}
