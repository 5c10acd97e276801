//! Sessions that move: each asks one node after the other, of any DC, and takes its token along, or leaves it behind.
//!
//! Every write has a value of its own, so that each read says which writes it saw; everything is recorded. The draw of
//! a session's operations comes from a seed and the session's number alone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::checkers::convergence::Contents;
use crate::client::{Ask, Client, Outcome as Told, add, add_element, outcome, set};
use crate::history::{Action, History, Outcome, Recorder};

/// Sets that only grow.
const SETS: usize = 6;
/// Registers that are only set.
const REGISTERS: usize = 6;
/// Registers that are set and deleted: many, so that most deletions are the only one of their key.
const DELETED: usize = 150;
/// Counters that only grow.
const COUNTERS: usize = 3;
/// How long a request may take before its client gives up: above every bound that a node keeps to.
const DEADLINE: Duration = Duration::from_secs(20);
/// Pause of a session after a failure, so that dead nodes are not asked in a tight loop.
const PAUSE: Duration = Duration::from_millis(5);
/// Writes of one session: their values do not meet those of others.
const VALUES_PER_SESSION: i64 = 1_000_000;

/// What moving sessions do.
#[derive(Clone, Debug)]
pub struct Moves {
    /// Draws nodes, operations and keys.
    pub seed: u64,
    /// How many sessions move at the same time.
    pub sessions: usize,
    /// Most requests of each.
    pub requests_max: usize,
    /// How long a node may wait to catch up with a token.
    pub wait: Duration,
    /// Whether tokens are taken along.
    pub token: bool,
    /// Begins the names of all keys: two runs with different ones do not meet.
    pub prefix: String,
}

/// Moving sessions at work.
#[derive(Debug)]
pub struct Moving {
    stop: Arc<AtomicBool>,
    recorder: Recorder,
    refusals: Refusals,
    sessions: JoinSet<()>,
}

/// How often each error was met.
type Refusals = Arc<Mutex<BTreeMap<String, usize>>>;

/// What moving sessions met.
#[derive(Clone, Debug)]
pub struct Moved {
    /// What they asked and were told.
    pub history: History,
    /// How often each error was met.
    pub refusals: BTreeMap<String, usize>,
}

impl Moved {
    /// What `contents` hold of the keys that were touched, as reads; absent ones included.
    ///
    /// # Panics
    /// When a key does not hold what its name says.
    pub fn at_rest(&self, contents: &Contents) -> Vec<Action> {
        let body = |key: &str| contents.get(key).map_or_else(|| json!({}), |value| json!({"value": value}));
        let kind = |key: &str| match key.split('/').nth(1) {
            Some("set") => Kind::Set,
            Some("counter") => Kind::Counter,
            _ => Kind::Register,
        };
        self.history.keys().into_iter().map(|key| seen(read_of(kind(key), key), &body(key))).collect()
    }

    /// The longest time that any request took, answered or not.
    pub fn longest(&self) -> Duration {
        let took = self.history.ops.iter().map(|op| op.end_ns - op.begin_ns);
        Duration::from_nanos(took.max().unwrap_or(0))
    }
}

impl Moving {
    /// Sends the sessions off among these nodes, named as in `eu-west/1`.
    pub fn start(moves: &Moves, nodes: &[(String, Client)]) -> Self {
        let moving = Self {
            stop: Arc::default(),
            recorder: Recorder::default(),
            refusals: Refusals::default(),
            sessions: JoinSet::new(),
        };
        let mut sessions = JoinSet::new();
        for number in 0..moves.sessions {
            let session = Session {
                moves: moves.clone(),
                number,
                random: StdRng::seed_from_u64(moves.seed.wrapping_mul(1000).wrapping_add(number as u64)),
                nodes: nodes.to_vec(),
                recorder: moving.recorder.clone(),
                refusals: moving.refusals.clone(),
                token: None,
                values: 0,
                last: None,
            };
            sessions.spawn(session.run(moving.stop.clone()));
        }
        Self { sessions, ..moving }
    }

    /// How many requests were done so far.
    pub fn done(&self) -> usize {
        self.recorder.count(Outcome::Ok)
    }

    /// Waits until so many more were done, or all sessions have made all their requests.
    ///
    /// # Panics
    /// When that takes longer than `limit`.
    pub async fn progress(&self, more: usize, limit: Duration) {
        let wanted = self.done() + more;
        crate::wait::until("sessions make progress", limit, async || {
            let now = self.done();
            if now >= wanted { Ok(()) } else { Err(format!("{now} of {wanted} done: {:?}", self.refusals())) }
        })
        .await;
    }

    /// What was asked and answered so far.
    pub fn history(&self) -> History {
        self.recorder.history()
    }

    fn refusals(&self) -> BTreeMap<String, usize> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets each session end its request, and returns what they met.
    ///
    /// # Panics
    /// When a session panicked.
    pub async fn finish(mut self) -> Moved {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.sessions.join_next().await {
            ended.unwrap_or_else(|e| panic!("a session failed: {e}"));
        }
        Moved { history: self.recorder.history(), refusals: self.refusals() }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Set,
    Register,
    Deleted,
    Counter,
}

#[derive(Debug)]
struct Session {
    moves: Moves,
    number: usize,
    random: StdRng,
    nodes: Vec<(String, Client)>,
    recorder: Recorder,
    refusals: Refusals,
    token: Option<String>,
    values: i64,
    /// The key that was last touched: the one that is most worth a look from the next node.
    last: Option<(Kind, String)>,
}

impl Session {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        for _ in 0..self.moves.requests_max {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let (kind, key) = self.draw_key();
            let (ask, action) = self.draw_action(kind, &key);
            self.last = Some((kind, key));
            if !self.make(ask, action).await {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn draw_key(&mut self) -> (Kind, String) {
        if let Some(last) = self.last.clone()
            && self.random.random_bool(0.4)
        {
            return last;
        }
        let (kind, name, keys) = *[
            (Kind::Set, "set", SETS),
            (Kind::Register, "register", REGISTERS),
            (Kind::Deleted, "deleted", DELETED),
            (Kind::Counter, "counter", COUNTERS),
        ]
        .choose(&mut self.random)
        .expect("four kinds");
        (kind, format!("{}/{name}/{}", self.moves.prefix, self.random.random_range(0..keys)))
    }

    fn draw_action(&mut self, kind: Kind, key: &str) -> (Ask, Action) {
        let owned = || key.to_string();
        if self.random.random_bool(0.55) {
            return (Ask::read(key), read_of(kind, key));
        }
        self.values += 1;
        let value = VALUES_PER_SESSION * self.number as i64 + self.values;
        match kind {
            Kind::Set => {
                (Ask::mutate(key, &add_element(value)), Action::Insert { key: owned(), element: value })
            }
            Kind::Deleted if self.random.random_bool(0.4) => {
                (Ask::delete(key), Action::Delete { key: owned() })
            }
            Kind::Register | Kind::Deleted => {
                (Ask::mutate(key, &set(value)), Action::Set { key: owned(), value })
            }
            Kind::Counter => {
                let by = self.random.random_range(1..5);
                (Ask::mutate(key, &add(by)), Action::Add { key: owned(), by })
            }
        }
    }

    /// Asks a node drawn at random, notes what came of it, and says whether it was done.
    async fn make(&mut self, ask: Ask, action: Action) -> bool {
        let (name, node) = self.nodes.choose(&mut self.random).expect("there are nodes").clone();
        let mut ask = ask.wait(&format!("{}ms", self.moves.wait.as_millis())).within(DEADLINE);
        if let Some(token) = self.token.as_ref().filter(|_| self.moves.token) {
            ask = ask.after(token);
        }
        let started = self.recorder.begin(self.number, &name);
        let answer = node.send(&ask).await;
        let absent = matches!(&answer, Ok(reply) if reply.code() == "not_found");
        let told = if absent { Told::Acked } else { outcome(&answer) };
        let (outcome, action) = match (&told, &answer) {
            (Told::Acked, Ok(reply)) => (Outcome::Ok, seen(action, &reply.body)),
            (Told::Unknown(_), _) => (Outcome::Unknown, action),
            _ => (Outcome::Failed, action),
        };
        self.recorder.end(started, outcome, vec![action]);
        if let Ok(reply) = answer
            && let Some(token) = reply.token
        {
            self.token = Some(token);
        }
        if let Told::NotDone(why) | Told::Unknown(why) = told {
            // Without addresses, which would make each node's error one of its own.
            let why = why.split("127.0.0.1").next().unwrap_or_default().trim_end().to_string();
            *self.refusals.lock().unwrap_or_else(PoisonError::into_inner).entry(why).or_default() += 1;
        }
        outcome == Outcome::Ok
    }
}

/// A read that has seen nothing.
fn read_of(kind: Kind, key: &str) -> Action {
    let key = key.to_string();
    match kind {
        Kind::Set => Action::Members { key, elements: Default::default() },
        Kind::Register | Kind::Deleted => Action::Get { key, value: None },
        Kind::Counter => Action::Sum { key, value: 0 },
    }
}

/// The action with what its answer shows.
///
/// # Panics
/// When the answer is not what its type reads as.
fn seen(action: Action, answer: &Value) -> Action {
    let number = |value: &Value| value.as_i64().unwrap_or_else(|| panic!("no number: {answer}"));
    let value = answer.get("value");
    match action {
        Action::Members { key, .. } => {
            let elements = value.map(|value| value.as_array().unwrap_or_else(|| panic!("no set: {answer}")));
            Action::Members { key, elements: elements.into_iter().flatten().map(number).collect() }
        }
        Action::Get { key, .. } => Action::Get { key, value: value.map(number) },
        Action::Sum { key, .. } => Action::Sum { key, value: value.map_or(0, number) },
        write => write,
    }
}
