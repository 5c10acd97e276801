//! The watches of one connection: events as frames, until they are stopped, fail, or are not taken.
//!
//! A watch has one event under way at a time, and room of its own in the outbox, so that it never holds up answers. One
//! whose events are not taken for too long ends with `overloaded` and the cursor to resume from.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use meridian_client::wire::frame::{Frame, Request, Verb, Watched};
use meridian_client::wire::request::mutation_fields;
use meridian_client::wire::{ApiError, Cursor, ErrorCode, Token};
use meridian_crdt::Value;
use meridian_crdt::keys::KEY_BYTES_MAX;
use tokio::sync::Notify;

use super::outbox::{Events, Gone};
use super::verbs;
use crate::access::Shown;
use crate::api::Api;
use crate::api::calls::{self, Body};
use crate::watch::walk::What;
use crate::watch::{KeyChange, TxnEvent, Watch, WatchEvent, WatchRequest};

/// The open watches of one connection, by the ids of their requests. Cheap to share.
#[derive(Clone, Default)]
pub struct Open(Arc<Mutex<BTreeMap<u64, Arc<Notify>>>>);

/// A watch's place among the open ones, until it is dropped.
pub struct Place {
    open: Open,
    id: u64,
    stop: Arc<Notify>,
}

impl Open {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<u64, Arc<Notify>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A place for the watch that request `id` starts.
    pub fn place(&self, id: u64) -> Place {
        let stop = Arc::new(Notify::new());
        self.with(|open| open.insert(id, stop.clone()));
        Place { open: self.clone(), id, stop }
    }

    /// Stops a watch; says whether it was open.
    pub fn stop(&self, id: u64) -> bool {
        let found = self.with(|open| open.get(&id).cloned());
        found.inspect(|stop| stop.notify_one()).is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.with(|open| open.remove(&self.id));
    }
}

/// How far a watch has been told.
#[derive(Default)]
struct Told {
    cursor: Option<Cursor>,
    session: Option<Token>,
}

/// Opens a watch and streams its events; returns its last frame. `slot` is the request's place among those in
/// flight, which it gives back once the watch is open.
pub async fn run<S>(
    api: &Api,
    shown: &Shown,
    events: &Events,
    request: Box<Request>,
    place: &Place,
    slot: S,
) -> Vec<u8> {
    let id = request.id;
    let opened = verbs::accounted(api, request, |request, own| async move {
        match open(api, shown, &request).await {
            Ok(watch) => Ok(watch),
            Err(error) => Err(Box::new(verbs::refusal(id, error, own))),
        }
    });
    let mut watch = match opened.await {
        Ok(watch) => watch,
        Err(refusal) => return refusal.encode(),
    };
    drop(slot);
    let mut told = Told::default();
    let outcome = tokio::select! {
        biased;
        () = place.stop.notified() => Ok(Body::new()),
        error = stream(api, events, id, &mut watch, &mut told) => Err(error),
    };
    let cursor = told.cursor.map(|cursor| cursor.to_text());
    let outcome = match (outcome, cursor) {
        (Ok(_), Some(cursor)) => Ok(Body::from([("cursor".to_owned(), Value::Str(cursor))])),
        // What a watch begins again from is told by the error itself if it knows better.
        (Err(error), Some(cursor)) if !error.details.contains_key("cursor") => {
            Err(error.with("cursor", cursor))
        }
        (outcome, _) => outcome,
    };
    let session = told.session.map(|token| token.to_bytes());
    Frame::Answer { id, outcome, session, staleness: Vec::new() }.encode()
}

async fn open(api: &Api, shown: &Shown, request: &Request) -> Result<Watch, ApiError> {
    verbs::admit(api, shown, &request.verb)?;
    let session = verbs::session(api, request)?;
    let Verb::Watch { space, watched, from, values } = &request.verb else {
        return Err(ApiError::new(ErrorCode::Internal, "the request is no watch"));
    };
    let what = match watched {
        Watched::Key(key) => What::Key(key.clone()),
        Watched::Prefix(prefix) if prefix.len() <= KEY_BYTES_MAX => What::Prefix(prefix.clone()),
        Watched::Prefix(_) => {
            return Err(ApiError::new(ErrorCode::BadKey, "the prefix is longer than any key"));
        }
    };
    let request = WatchRequest {
        space: space.clone(),
        what,
        from: from.as_deref().map(Cursor::from_text).transpose()?,
        session: session.dots,
        wait: session.wait,
        consistency: session.consistency,
        values: *values,
    };
    api.shard.watch(request).await
}

/// Sends event after event; returns why that ended.
async fn stream(api: &Api, events: &Events, id: u64, watch: &mut Watch, told: &mut Told) -> ApiError {
    loop {
        let event = match watch.next().await {
            Ok(event) => event,
            Err(error) => return error,
        };
        let (body, cursor, session) = match event {
            WatchEvent::Txn(txn) => (txn_body(&txn), txn.cursor, txn.session),
            WatchEvent::Progress { cursor, session } => (progress_body(&cursor, &session), cursor, session),
        };
        let frame = Frame::Event { id, body }.encode();
        let slow_after = api.bounds.session.watch_slow_after;
        match tokio::time::timeout(slow_after, events.send(frame)).await {
            Ok(Ok(())) => *told = Told { cursor: Some(cursor), session: Some(session) },
            Ok(Err(Gone)) => return ApiError::new(ErrorCode::ShuttingDown, "the connection has ended"),
            Err(_) => {
                // A watch that could not even begin resumes where it would have begun.
                told.cursor.get_or_insert(cursor);
                let message = "the client does not take the events of this watch; resume from the cursor";
                return ApiError::new(ErrorCode::Overloaded, message);
            }
        }
    }
}

fn text(text: impl Into<String>) -> Value {
    Value::Str(text.into())
}

fn number(n: u64) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

fn fields<const N: usize>(fields: [(&str, Value); N]) -> Body {
    fields.map(|(name, value)| (name.to_owned(), value)).into()
}

fn progress_body(cursor: &Cursor, session: &Token) -> Body {
    fields([("cursor", text(cursor.to_text())), ("session", text(session.to_text()))])
}

/// What a server-sent event says as its data, with bytes as bytes.
fn txn_body(txn: &TxnEvent) -> Body {
    fields([
        ("dc", text(&txn.dc)),
        ("seq", number(txn.dot.seq)),
        ("time_ms", number(txn.time_ms)),
        ("changes", Value::Array(txn.changes.iter().map(change).collect())),
        ("cursor", text(txn.cursor.to_text())),
        ("session", text(txn.session.to_text())),
    ])
}

fn change(change: &KeyChange) -> Value {
    let op = |mutation: &meridian_crdt::Mutation| {
        let mut op = mutation_fields(mutation);
        // Only a mutation of another type than the one beside them names its own.
        if mutation.ty() == change.ty {
            op.remove("type");
        }
        Value::Map(op)
    };
    let mut body = fields([
        ("key", text(&change.key)),
        ("type", change.ty.map_or(Value::Nil, |ty| text(ty.name()))),
        ("ops", Value::Array(change.ops.iter().map(op).collect())),
    ]);
    if let Some(now) = &change.now {
        body.extend(fields([("value", Value::Nil), ("version", Value::Nil)]));
        let content = now.content.as_ref().map(calls::content_body).unwrap_or_default();
        body.extend(content.into_iter().filter(|(name, _)| name != "type"));
    }
    Value::Map(body)
}
