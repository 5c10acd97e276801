//! The interactive transactions of one connection.
//!
//! They belong to the connection that began them: they end with it, and only it reads, writes and commits in them.
//! Requests of one transaction are done in the order of their arrival, whatever else is under way. A client that has lost its
//! connection repeats a commit on another one, with its request id, and is told what became of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use meridian_client::wire::frame::{Isolation as Asked, Ops};
use meridian_crdt::{Key, Query, Value, Vector};
use tokio::time::Instant;

use crate::api::Api;
use crate::api::calls::{self, Body, Done, Refused, Session};
use crate::shard::open::CommitRequest;
use crate::shard::transactions::Begin;
use crate::txn::{Answer, Isolation, reads};

/// Requests of one transaction take turns; whoever asks first is first.
type Lane = Arc<tokio::sync::Mutex<()>>;

#[derive(Default)]
struct Inner {
    open: BTreeMap<u64, (Instant, Lane)>,
    /// The connection has ended: nothing may be opened any more.
    is_closed: bool,
}

/// The transactions of one connection. Cheap to share.
#[derive(Clone, Default)]
pub struct Owned(Arc<Mutex<Inner>>);

fn refused<T>(error: meridian_client::wire::ApiError, touched: Vector) -> calls::Result<T> {
    Err(Box::new(Refused { error, touched }))
}

impl Owned {
    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The lane of a transaction, if it is one of this connection.
    fn lane(&self, id: u64) -> Option<Lane> {
        self.with(|inner| inner.open.get(&id).map(|(_, lane)| lane.clone()))
    }

    fn forget(&self, id: u64) {
        self.with(|inner| inner.open.remove(&id));
    }

    /// Takes a new transaction in; false if the connection has ended meanwhile.
    fn take_in(&self, id: u64, life: Duration) -> bool {
        let now = Instant::now();
        self.with(|inner| {
            // Those whose life is over have ended by themselves.
            inner.open.retain(|_, (until, _)| *until > now);
            if !inner.is_closed {
                inner.open.insert(id, (now + life, Lane::default()));
            }
            !inner.is_closed
        })
    }

    /// Ends all that are open, and lets no other be opened.
    pub fn close(&self, api: &Api) {
        let open = self.with(|inner| {
            inner.is_closed = true;
            std::mem::take(&mut inner.open)
        });
        for id in open.into_keys() {
            api.shard.abort(id);
        }
    }

    /// Begins one.
    pub async fn begin(&self, api: &Api, session: &Session, isolation: Asked) -> calls::Result {
        let begin = Begin {
            isolation: match isolation {
                Asked::Serializable => Isolation::Serializable,
                Asked::Snapshot => Isolation::Snapshot,
            },
            consistency: session.consistency,
            session: session.dots.clone(),
            wait: session.wait,
        };
        let begun = api.shard.begin(begin).await?;
        if !self.take_in(begun.id, begun.expires_in) {
            api.shard.abort(begun.id);
        }
        let number = |n: u64| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
        let life_ms = u64::try_from(begun.expires_in.as_millis()).unwrap_or(u64::MAX);
        let body =
            Body::from([("txn".to_owned(), number(begun.id)), ("expires_in_ms".to_owned(), number(life_ms))]);
        Ok(Done { body, touched: Vector::new() })
    }

    /// Begins a request in one: there has to be memory for what it comes to, and its operations are added; what they are refused
    /// for is told before anything is read.
    fn write(&self, api: &Api, id: u64, mut ops: Ops) -> calls::Result<()> {
        api.shard.transactions.room_to_grow()?;
        if ops.is_empty() {
            return Ok(());
        }
        api.bounds.request.admit(&[], &mut ops)?;
        match api.shard.txn_write(id, ops)? {
            Answer::Done { .. } => Ok(()),
            Answer::Refused { error, touched } => refused(error, touched),
        }
    }

    /// Reads a key in one.
    pub async fn read(&self, api: &Api, id: u64, key: &Key, query: &Query, ops: Ops) -> calls::Result {
        let lane = self.lane(id).ok_or_else(reads::not_open)?;
        let _turn = lane.lock().await;
        self.write(api, id, ops)?;
        let read = api.shard.txn_read(id, key, query)?;
        let mut touched = read.touched;
        if read.seen.touched.is_empty() {
            touched.join(&calls::seen(api, Vector::new()));
        }
        match read.seen.content {
            Some(content) => Ok(Done { body: calls::content_body(&content), touched }),
            None => refused(calls::not_found(key), touched),
        }
    }

    /// Lists keys in one.
    pub async fn list(
        &self,
        api: &Api,
        id: u64,
        (space, prefix): (&str, &str),
        after: Option<&str>,
        limit: usize,
        ops: Ops,
    ) -> calls::Result {
        let lane = self.lane(id).ok_or_else(reads::not_open)?;
        let _turn = lane.lock().await;
        self.write(api, id, ops)?;
        let listed = api.shard.txn_scan(id, space, prefix, after, limit)?;
        Ok(Done { body: calls::listing_body(&listed.seen, prefix), touched: listed.touched })
    }

    /// Commits one, after adding operations to it. Of one that this connection has not begun, or no longer has, the answer says
    /// what became of it: what its own connection was sent may still be under way, and without that it must not be done.
    pub async fn commit(&self, api: &Api, session: &Session, id: u64, mut ops: Ops) -> calls::Result {
        api.bounds.request.admit(&[], &mut ops)?;
        let commit = CommitRequest {
            txn: id,
            ops,
            id: session.request_id.clone().map(calls::log_id),
            session: session.dots.clone(),
            wait: session.wait,
        };
        let lane = self.lane(id);
        let _turn = match &lane {
            Some(lane) => Some(lane.lock().await),
            None => None,
        };
        let answer = match lane {
            Some(_) => api.shard.commit(commit).await?,
            None => api.shard.settle(commit).await?,
        };
        let calls::Written { results, touched, .. } = calls::committed(api, session, answer).await?;
        self.forget(id);
        Ok(Done { body: calls::results_body(&results), touched })
    }

    /// Ends one without a trace, and says whether there was one.
    pub async fn abort(&self, api: &Api, id: u64) -> calls::Result {
        let was_open = match self.lane(id) {
            None => false,
            Some(lane) => {
                let _turn = lane.lock().await;
                self.forget(id);
                api.shard.abort(id)
            }
        };
        let body = Body::from([("aborted".to_owned(), Value::Bool(was_open))]);
        Ok(Done { body, touched: Vector::new() })
    }
}
