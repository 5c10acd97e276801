//! `GET /v1/spaces/{space}/docs/{doc}/token`: what an editor has seen kept, as a session's token.
//!
//! An editor's protocol knows no sessions. But whatever was acknowledged to any editor at any node of this datacenter
//! before the request is applied here when the request is answered, and so the token covers it: who reads with it in another
//! datacenter waits for it there.

use axum::extract::State;
use meridian_client::wire::headers::Consistency;
use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{Key, Type, Value, glance};

use crate::api::Api;
use crate::api::answer::{self, Answer, Failure};
use crate::api::calls::{self, Body, Done, Refused, Session};
use crate::api::extract::{KeyPath, Query};

/// `GET /v1/spaces/{space}/docs/{doc}/token`
pub async fn token(
    State(api): State<Api>,
    session: Session,
    KeyPath(key): KeyPath,
    query: Query,
) -> Result<Answer, Failure> {
    query.finish()?;
    // Whatever the request says: a lower level would promise nothing.
    let session = Session { consistency: Consistency::Linearizable, ..session };
    let outcome = covering(&api, &session, &key).await;
    answer::called(&api, &session, outcome)
}

async fn covering(api: &Api, session: &Session, key: &Key) -> calls::Result {
    let view = calls::view(api, session).await?;
    let glance = glance(&view, key).map_err(calls::unreadable)?;
    let touched = calls::seen(api, glance.touched);
    let refused = |error| Err(Box::new(Refused { error, touched: touched.clone() }));
    match glance.ty {
        Some(Type::Doc) => {}
        None => return refused(calls::not_found(key)),
        Some(_) => return refused(no_document(key)),
    }
    let token = calls::token_after(api, session, &touched).to_text();
    let body = [("token", token), ("version", glance.version.to_string())];
    Ok(Done { body: Body::from(body.map(|(name, text)| (name.to_owned(), Value::Str(text)))), touched })
}

/// The error of a key that holds something else.
pub fn no_document(key: &Key) -> ApiError {
    ApiError::new(ErrorCode::WrongType, format!("{key} holds a value of another type, not a document"))
}
