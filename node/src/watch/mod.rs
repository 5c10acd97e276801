//! Watches: changes of a key or a prefix as a stream of whole txns, each once, in causal order, from a cursor onward.
//!
//! A watch reads the oplog of this node, as the client takes what it read: nothing is buffered for a client but one
//! bounded chunk, and a slow one falls behind in the oplog until that no longer reaches back. Everything that it shows
//! is applied here, so a majority of this datacenter has it (I7). Which txns it shows is decided in [`walk`] and
//! [`stream`], which are pure; how events look is the business of the interface that asks for them.

mod hub;
pub mod recent;
pub mod stream;
pub mod walk;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meridian_client::wire::headers::Consistency;
use meridian_client::wire::{ApiError, Cursor, ErrorCode, Token};
use meridian_crdt::{Content, Dot, Key, Mutation, Query, Type, Vector, unix_ms};
use tokio::sync::watch;
use tokio::time::Instant;

pub use hub::{WatchBounds, WatchCounts, Watches};
use recent::FetchError;
use stream::{Shown, Step, Stream};
use walk::What;

use crate::count::Counted;
use crate::shard::Shard;
use crate::shard::published::Published;
use crate::txn::ShardState;

/// How many txns a watch goes past without showing one before it tells where it stands. Well below what the oplog
/// keeps, so that the cursor of a watch that shows nothing does not expire.
const PROGRESS_TXNS: u64 = 1_000;
/// The most bytes of values beside one txn; keys after that come without.
const VALUES_BYTES_MAX: usize = 4 << 20;
/// Elements or fields of one value beside a txn; the whole is there to be read.
const VALUE_PAGE: usize = 1_000;
/// A watch that is dropped although its client has not asked for more for so long counts as cut off.
const CUT_OFF_AFTER_MS: u64 = 500;

/// What a client asks to watch.
#[derive(Clone, Debug)]
pub struct WatchRequest {
    /// The space.
    pub space: String,
    /// A key or a prefix in it.
    pub what: What,
    /// Where to begin; without it, now.
    pub from: Option<Cursor>,
    /// What the session depends on: a watch from now begins no earlier.
    pub session: Vector,
    /// How long to wait until this node covers the session.
    pub wait: Duration,
    /// What the beginning may be, as for a read.
    pub consistency: Consistency,
    /// Whether events carry the current values of the keys that they name.
    pub values: bool,
}

/// What a watch tells.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum WatchEvent {
    /// A txn that changed something that is watched.
    Txn(TxnEvent),
    /// The watch has moved on without anything to show; told first of all too.
    Progress {
        /// Where to resume.
        cursor: Cursor,
        /// What the session depends on so far.
        session: Token,
    },
}

/// A txn, as far as it concerns the watch.
#[derive(Clone, Debug)]
pub struct TxnEvent {
    /// The datacenter that wrote it.
    pub dc: String,
    /// Which txn it is.
    pub dot: Dot,
    /// Its stamp, as milliseconds since 1970.
    pub time_ms: u64,
    /// What it did to each watched key, in the order of keys. Never empty.
    pub changes: Vec<KeyChange>,
    /// Where to resume after it.
    pub cursor: Cursor,
    /// What the session depends on that has seen it, and everything before it on this watch.
    pub session: Token,
}

/// What a txn did to one key.
#[derive(Clone, Debug)]
pub struct KeyChange {
    /// The key.
    pub key: String,
    /// The type of the last mutation; `None` if that deletes whatever is there.
    pub ty: Option<Type>,
    /// The mutations that the txn comes to for this key, in order.
    pub ops: Arc<[Mutation]>,
    /// What the key reads as, if that was asked for and there was room. It may be newer than the txn.
    pub now: Option<KeyNow>,
}

/// What a key reads as, at or after the txn that it stands beside.
#[derive(Clone, Debug)]
pub struct KeyNow {
    /// `None` if the key is absent.
    pub content: Option<Content>,
}

/// An open watch. Dropping it closes it.
pub struct Watch {
    shard: Arc<Shard>,
    stream: Stream,
    values: bool,
    applied: watch::Receiver<Published>,
    stop: watch::Receiver<bool>,
    began: bool,
    ended: Option<ApiError>,
    /// Txns passed since the cursor was last told.
    passed: u64,
    progress_at: Instant,
    /// When the last event was given out; `None` while the client waits for the next.
    given_at_ms: Option<u64>,
    _open: Counted,
}

impl Shard {
    /// Opens a watch. What can be wrong with the request is told here; later errors end the watch.
    pub async fn watch(self: &Arc<Self>, request: WatchRequest) -> Result<Watch, ApiError> {
        let open = self.watches.open()?;
        if let Some(from) = &request.from {
            self.check_cursor(from)?;
        }
        let applied = self.publisher.applied();
        let view = self.read(request.consistency, &request.session, request.wait).await?;
        let state = ShardState::load(&view).map_err(unreadable)?.map_err(unreadable)?;
        let WatchRequest { space, what, from, session, values, .. } = request;
        let begun = Stream::begin(space, what, from.map(|from| from.vector), session.clone(), &state);
        let stream = begun.map_err(|expired| self.watches.expired(expired, &session))?;
        Ok(Watch {
            shard: self.clone(),
            stream,
            values,
            applied,
            stop: self.watches.stop.clone(),
            began: false,
            ended: None,
            passed: 0,
            progress_at: Instant::now() + self.watches.bounds.progress_interval,
            given_at_ms: None,
            _open: open,
        })
    }

    /// Refuses a cursor of another cluster, or one that names a life of a datacenter that this one neither knows nor
    /// may still come to know.
    fn check_cursor(&self, cursor: &Cursor) -> Result<(), ApiError> {
        let foreign = |why: String| ApiError::new(ErrorCode::ForeignToken, why);
        if cursor.cluster != self.watches.cluster {
            return Err(foreign(
                "the watch cursor comes from another cluster; take one from a listing here".into(),
            ));
        }
        match self.foreign_dot(&cursor.vector) {
            None => Ok(()),
            Some(dot) => Err(foreign(format!(
                "the watch cursor names {}, which is no life of a datacenter of this cluster",
                dot.origin
            ))),
        }
    }
}

impl Watch {
    /// Waits for the next event. The first one comes at once and tells the cursor. An error ends the watch. Dropping
    /// the future loses nothing.
    pub async fn next(&mut self) -> Result<WatchEvent, ApiError> {
        self.given_at_ms = None;
        let event = self.step().await;
        let counts = &self.shard.watches.counts;
        match &event {
            Ok(WatchEvent::Txn(_)) => counts.txns.fetch_add(1, Ordering::Relaxed),
            Ok(WatchEvent::Progress { .. }) => counts.cursors.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                self.ended = Some(error.clone());
                return event;
            }
        };
        self.passed = 0;
        self.progress_at = Instant::now() + self.shard.watches.bounds.progress_interval;
        self.given_at_ms = Some(self.shard.seams.clock.monotonic_ms());
        event
    }

    async fn step(&mut self) -> Result<WatchEvent, ApiError> {
        if let Some(error) = &self.ended {
            return Err(error.clone());
        }
        loop {
            if *self.stop.borrow() {
                return Err(stopping());
            }
            if !self.began {
                self.began = true;
                return Ok(self.progress());
            }
            while let Some(step) = self.stream.step().map_err(unreadable)? {
                if let Some(event) = self.pass(step)? {
                    return Ok(WatchEvent::Txn(event));
                }
            }
            if self.passed >= PROGRESS_TXNS || (self.passed > 0 && Instant::now() >= self.progress_at) {
                return Ok(self.progress());
            }
            // Marked as seen before it is read: what comes in between wakes the wait below.
            let end = self.applied.borrow_and_update().state.oplog_end;
            if self.stream.is_behind(end) && self.fetch()? {
                tokio::task::yield_now().await;
                continue;
            }
            self.wait().await?;
        }
    }

    /// Waits for txns, for the time to tell the cursor, or for the end.
    async fn wait(&mut self) -> Result<(), ApiError> {
        tokio::select! {
            changed = self.applied.changed() => changed.map_err(|_| stopping()),
            // Whether it was told or whoever could tell is gone, the node stops.
            _ = self.stop.wait_for(|stop| *stop) => Err(stopping()),
            () = tokio::time::sleep_until(self.progress_at), if self.passed > 0 => Ok(()),
        }
    }

    /// Reads on. Says whether that came further.
    fn fetch(&mut self) -> Result<bool, ApiError> {
        let (watches, store) = (&self.shard.watches, &self.shard.store);
        let fetched = self.stream.fetch(&watches.recent, || Ok(store.view()), watches.read_bounds());
        fetched.map_err(|error| match error {
            FetchError::Expired(expired) => watches.expired(expired, self.stream.session()),
            error => unreadable(error),
        })
    }

    /// The event that a step of the stream comes to, if it is to be shown.
    fn pass(&mut self, step: Step) -> Result<Option<TxnEvent>, ApiError> {
        let Shown { dot, hlc, changes } = match step {
            Step::Known => return Ok(None),
            Step::Unwatched => {
                self.passed += 1;
                return Ok(None);
            }
            Step::Shown(shown) => shown,
        };
        self.passed += 1;
        let change = |(key, ops): (String, Arc<[Mutation]>)| KeyChange {
            ty: ops.last().and_then(Mutation::ty),
            key,
            ops,
            now: None,
        };
        let mut changes: Vec<KeyChange> = changes.into_iter().map(change).collect();
        if self.values {
            self.read_values(&mut changes)?;
        }
        let dc = self.applied.borrow().state.dc_of(dot.origin).map(str::to_owned);
        Ok(Some(TxnEvent {
            dc: dc.unwrap_or_else(|| dot.origin.to_string()),
            dot,
            time_ms: unix_ms(hlc),
            changes,
            cursor: self.cursor(),
            session: self.token(),
        }))
    }

    /// Reads what the keys are now, all from one view, within bounds. The session has then seen that too.
    fn read_values(&mut self, changes: &mut [KeyChange]) -> Result<(), ApiError> {
        let view = self.shard.store.view();
        let query = Query { limit: VALUE_PAGE, ..Query::default() };
        let stable = self.applied.borrow().state.stable.clone();
        let mut bytes = 0;
        for change in changes {
            if bytes > VALUES_BYTES_MAX {
                break;
            }
            let key = Key::new(self.stream.space(), change.key.as_str()).map_err(unreadable)?;
            let reading = meridian_crdt::read(&view, &key, &query).map_err(unreadable)?;
            let content = reading.content;
            bytes += content.as_ref().map_or(0, |content| content.value.to_value().to_bytes().len());
            self.stream.has_seen(if reading.touched.is_empty() { &stable } else { &reading.touched });
            change.now = Some(KeyNow { content });
        }
        Ok(())
    }

    fn progress(&self) -> WatchEvent {
        WatchEvent::Progress { cursor: self.cursor(), session: self.token() }
    }

    fn cursor(&self) -> Cursor {
        Cursor::new(self.shard.watches.cluster, self.stream.cursor().clone())
    }

    fn token(&self) -> Token {
        Token { cluster: self.shard.watches.cluster, dots: self.stream.session().clone() }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let now_ms = self.shard.seams.clock.monotonic_ms();
        let is_stalled = |given_ms: u64| now_ms.saturating_sub(given_ms) >= CUT_OFF_AFTER_MS;
        if self.ended.is_none() && self.given_at_ms.is_some_and(is_stalled) {
            self.shard.watches.counts.cut_off.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn stopping() -> ApiError {
    ApiError::new(ErrorCode::ShuttingDown, "the node is stopping; resume at another node")
}

fn unreadable(error: impl std::fmt::Display) -> ApiError {
    tracing::error!(%error, "a watch cannot read the state");
    ApiError::new(ErrorCode::Internal, "the state of this node cannot be read; its log says why")
}
