//! The load of watchers: sessions write, others watch, here and there, and keep their place.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::Rng;
use serde_json::{Value, json};

use super::session::{Level, Session};
use crate::checkers::watch::Event;
use crate::client::{Ask, set};
use crate::history::Action;
use crate::history::kind::Kind;
use crate::sse::Watcher;

/// Sessions that watch; the others write.
const WATCHERS: usize = 2;
/// Keys that are written.
const KEYS: usize = 8;
/// How long a stream may say nothing before its watcher goes elsewhere.
const SILENCE: Duration = Duration::from_millis(300);
/// The same when everything has come to rest: then a stream shows all that it has at once.
const SILENCE_AT_REST: Duration = Duration::from_secs(1);

/// What a watcher was shown.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    watcher: Watcher,
    /// Whether it was told that its cursor reaches back too far: then it may have missed something, and knows it.
    expired: bool,
}

impl Watched {
    fn new(prefix: &str) -> Self {
        Self { watcher: Watcher::new(prefix), expired: false }
    }

    async fn read(&mut self, server: &str, most: usize, silence: Duration) -> Result<(), String> {
        let read = self.watcher.read(server, most, silence).await;
        self.expired |= read.as_ref().is_err_and(|why| why.contains("cursor_expired"));
        read
    }

    /// Whether it must have been shown everything.
    pub(super) fn is_whole(&self) -> bool {
        !self.expired
    }

    /// Reads what it has not been shown yet, at rest.
    pub(super) async fn catch_up(&mut self, server: &str) -> Result<(), String> {
        if self.expired { Ok(()) } else { self.read(server, usize::MAX / 2, SILENCE_AT_REST).await }
    }

    /// What it was shown, as the checker wants it.
    pub(super) fn events(&self) -> Vec<Event> {
        self.watcher.txns.iter().map(event).collect()
    }
}

fn event(txn: &Value) -> Event {
    let changes = txn["changes"].as_array().into_iter().flatten();
    let writes = changes.flat_map(|change| {
        let key = change["key"].as_str().unwrap_or_default().to_string();
        let ops = change["ops"].as_array().into_iter().flatten();
        let values = ops.filter_map(|op| op["value"].as_i64().or_else(|| op["element"].as_i64()));
        values.map(move |value| (key.clone(), value))
    });
    writes.collect()
}

/// Registers, and pairs of set elements in one transaction, written by sessions that move and read between writes, so
/// that writes depend on each other across DCs; watchers of them that move, too.
pub(super) async fn watching(mut session: Session) {
    if session.number < WATCHERS {
        return watch(session).await;
    }
    // Streams begin at the moment of their request: nothing is written before.
    while session.ground.round.load(Ordering::Acquire) < WATCHERS {
        if !session.goes_on().await {
            return;
        }
    }
    while session.goes_on().await {
        let node = session.node(None);
        let number = session.random.random_range(0..KEYS);
        let key = session.key(format!("register/{number}"));
        match session.random.random_range(0..3) {
            0 => {
                session.read(node, &key, Kind::Register, Level::Session).await;
            }
            1 => {
                let value = session.value();
                let action = Action::Set { key: key.clone(), value };
                session.write(node, Ask::mutate(&key, &set(value)), vec![action]).await;
            }
            _ => {
                let element = session.value();
                let keys = ["left", "right"].map(|side| session.key(format!("{side}/{number}")));
                let add = |key: &String| json!({"key": key, "type": "set", "op": "add", "element": element});
                let ops: Vec<Value> = keys.iter().map(add).collect();
                let actions = keys.map(|key| Action::Insert { key, element }).to_vec();
                session.write(node, Ask::txn(&json!({"ops": ops})), actions).await;
            }
        }
    }
}

async fn watch(mut session: Session) {
    let mut watched = Watched::new(&session.key(""));
    while session.goes_on().await {
        let node = session.node(None);
        let server = session.ground.nodes[node].1.server().to_string();
        let most = session.random.random_range(1..60);
        let began = watched.watcher.cursor.is_some();
        // A node that is away or goes away is what this is about: the watcher goes on elsewhere.
        if let Err(why) = watched.read(&server, most, SILENCE).await {
            session.count(&why);
        }
        if !began && watched.watcher.cursor.is_some() {
            session.ground.round.fetch_add(1, Ordering::Release);
        }
    }
    session.ground.watched.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
}
