//! Documents that are edited together, for the clients that exist.
//!
//! `GET /v1/spaces/{space}/docs/{doc}` speaks as `y-websocket` does, one document for each connection;
//! `GET /v1/spaces/{space}/hocuspocus` as Hocuspocus, with many. Without a handshake the first one reads the document.

mod connection;
mod hocuspocus;
mod put;
mod read;
mod stats;
mod token;
mod version_store;
pub mod versions;

use axum::extract::{Request, State};
use axum::http::header::UPGRADE;
use axum::response::Response;
use bytes::Bytes;
use meridian_crdt::Key;

use super::Api;
use super::answer::Failure;
use super::calls::Session;
use super::extract::{EditorPath, Query};
use super::upgrade::upgrade;
use crate::access::Shown;
use crate::docs::wire::Message;
use crate::docs::{Close, Editor, outlet};
use connection::Ears;
pub use put::put;
pub use stats::stats;
pub use token::token;
pub use version_store::{is_reserved, removal_of_all};

/// `GET /v1/spaces/{space}/docs/{doc}`. The name may hold slashes, written `%2F`. Of the parameters of a handshake
/// `token` and `auth` are access tokens; the others are the application's own business. Without a handshake the document
/// is read.
pub async fn open(
    State(api): State<Api>,
    session: Session,
    EditorPath { path: key, shown }: EditorPath<Key>,
    query: Result<Query, Failure>,
    request: Request,
) -> Result<Response, Failure> {
    let right = api.access.right(&key.space, &Shown::of(shown.iter().map(String::as_str)));
    if !request.headers().contains_key(UPGRADE) {
        right?;
        return read::read(&api, &session, &key, query?).await;
    }
    upgrade(request, connection::config(&api.docs.bounds), move |socket, port| async move {
        let right = match right {
            Ok(right) => right,
            Err(error) => return connection::say_goodbye(socket, Close::of(&error)).await,
        };
        if is_reserved(&key.key) {
            return connection::say_goodbye(socket, Close::RESERVED).await;
        }
        let (outlet, inbox) = outlet();
        // The room alone holds the queue then, so that the connection ends with it.
        let seat = outlet.seat(Bytes::new(), right);
        drop(outlet);
        match api.docs.enter(key, seat).await {
            Ok(editor) => connection::serve(socket, One(editor), inbox, port).await,
            Err(close) => connection::say_goodbye(socket, close).await,
        }
    })
}

/// `GET /v1/spaces/{space}/hocuspocus`
pub async fn open_many(
    State(api): State<Api>,
    EditorPath { path: space, shown }: EditorPath<String>,
    request: Request,
) -> Result<Response, Failure> {
    upgrade(request, connection::config(&api.docs.bounds), move |socket, port| async move {
        let (outlet, inbox) = outlet();
        connection::serve(socket, hocuspocus::Many::new(api, space, shown, outlet), inbox, port).await;
    })
}

/// Does work that takes a while, without keeping other tasks of this thread from theirs where there are other threads.
fn busy<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// The editor of a connection with one document.
struct One(Editor);

impl Ears for One {
    async fn hear(&mut self, frame: Bytes) -> Result<(), Close> {
        let message = Message::decode(&frame).map_err(|_| Close::BAD_MESSAGE)?;
        self.0.say(message).await;
        Ok(())
    }
}
