//! What the client sessions do: unique writes through any node, each passing its token along, and reads. The ledger
//! checks them at once, and all are recorded for the checkers of histories.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use meridian_history::kind::{Kind, seen};
use meridian_history::{Action, Outcome, Recorder, Started};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::documents::shown;
use crate::editors::draft::Draft;
use crate::http::{Answer, Ask, ask};
use crate::ledger::{COUNTERS, DOCS, DRAFT, Fact, Known, Ledger, MINUTES, REMOVED, SETS, linear, register};
use crate::options::{Place, Shape};

/// How long a client waits for an answer.
pub(crate) const DEADLINE: Duration = Duration::from_secs(4);
/// How often a write is tried at most, with the same id in the same DC.
const ATTEMPTS_MAX: usize = 4;
/// Writes of one session or editor: their values do not meet those of others.
const VALUES_PER_SESSION: u64 = 1_000_000;

/// A number that nobody else writes than the client of this number, who has written so many.
pub(crate) fn next_value(client: u64, written: &mut u64) -> i64 {
    *written += 1;
    (VALUES_PER_SESSION * (client + 1) + *written) as i64
}

/// Where the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The nodes start.
    Boot,
    /// Clients work, faults are injected.
    Load,
    /// All faults are over; clients finish.
    Healed,
    /// All nodes hold the same; editors have to show that.
    Rested,
    /// Everything has been checked.
    Over,
}

/// What all clients share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) ledger: Arc<Mutex<Ledger>>,
    pub(crate) recorder: Recorder,
    pub(crate) phase: Arc<watch::Sender<Phase>>,
    /// Sessions that still work, and editors of whom not everything is known to be kept.
    pub(crate) working: Arc<watch::Sender<usize>>,
    /// Editors that have not shown yet what all nodes hold.
    pub(crate) comparing: Arc<watch::Sender<usize>>,
    /// How long everything may take to come to rest after healing.
    pub(crate) converge_max: Duration,
    pub(crate) shape: Arc<Shape>,
    pub(crate) forget_tokens: bool,
}

impl Shared {
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until the run has come that far.
    pub(crate) async fn reached(&self, phase: Phase) {
        // The sender is `self`.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
    }

    /// A request that shows a session's token, unless clients of this run forget theirs.
    pub(crate) fn with_token(&self, ask: Ask, token: Option<&String>) -> Ask {
        match token {
            Some(token) if !self.forget_tokens => ask.header("meridian-session", token.clone()),
            _ => ask,
        }
    }

    /// Refusals of these clients' requests can only mean that something is not available.
    pub(crate) fn check_refusal(&self, who: &str, node: &str, answer: &Answer) {
        let available = [
            "not_caught_up",
            "no_quorum",
            "no_leader",
            "clock_unsafe",
            "shutting_down",
            "overloaded",
            "outcome_unknown",
            "internal",
        ];
        if !available.contains(&answer.code()) {
            let what = format!("{who} is refused by {node}: {} {}", answer.status, answer.body);
            self.ledger().violated(what);
        }
    }
}

/// One session.
pub(crate) struct Session {
    number: u64,
    dc: usize,
    rng: SmallRng,
    token: Option<String>,
    known: Known,
    written: u64,
    shared: Shared,
}

fn path(key: &str) -> String {
    format!("/v1/spaces/default/keys/{key}")
}

impl Session {
    pub(crate) fn new(number: u64, dc: usize, seed: u64, shared: Shared) -> Self {
        let rng = SmallRng::seed_from_u64(seed);
        Self { number, dc, rng, token: None, known: Known::default(), written: 0, shared }
    }

    /// Works from the load's start until it is over.
    pub(crate) async fn run(mut self) {
        self.shared.reached(Phase::Load).await;
        while *self.shared.phase.borrow() == Phase::Load {
            self.step().await;
            let pause_ms = if self.rng.random_bool(0.1) { 500 } else { 60 };
            sleep(Duration::from_millis(self.rng.random_range(0..pause_ms))).await;
        }
        self.shared.working.send_modify(|working| *working -= 1);
    }

    async fn step(&mut self) {
        if self.rng.random_bool(0.05) {
            self.dc = self.rng.random_range(0..self.shared.shape.dcs);
        }
        match self.rng.random_range(0..100) {
            0..16 => self.add().await,
            16..23 => self.add_pair().await,
            23..33 => self.count().await,
            33..40 => self.set().await,
            40..45 => self.set_linear().await,
            45..49 => self.add_and_remove().await,
            49..55 => self.edit().await,
            55..58 => self.edit_and_add().await,
            58..68 => self.read_set().await,
            68..78 => self.read_document().await,
            78..83 => self.read_counter().await,
            83..91 => self.read_linear().await,
            _ => self.read_register().await,
        }
    }

    fn name(&self) -> String {
        format!("session {} in {}", self.number, self.shared.shape.dc_name(self.dc))
    }

    /// A number that nobody else writes.
    fn value(&mut self) -> i64 {
        next_value(self.number, &mut self.written)
    }

    fn set_key(&mut self) -> String {
        (*SETS.choose(&mut self.rng).unwrap_or(&SETS[0])).to_owned()
    }

    async fn add(&mut self) {
        let fact = (self.set_key(), self.value());
        let body = json!({"type": "set", "op": "add", "element": fact.1});
        self.add_facts(std::slice::from_ref(&fact), Ask::post(path(&fact.0), body)).await;
    }

    async fn add_pair(&mut self) {
        let element = self.value();
        let facts = [SETS[0], SETS[1]].map(|key| (key.to_owned(), element));
        let ops: Vec<Json> = facts
            .iter()
            .map(|(key, element)| json!({"key": key, "type": "set", "op": "add", "element": element}))
            .collect();
        self.add_facts(&facts, Ask::post("/v1/spaces/default/txn", json!({ "ops": ops }))).await;
    }

    fn document(&mut self) -> &'static str {
        DOCS.choose(&mut self.rng).unwrap_or(&DOCS[0])
    }

    /// An edit of somebody who has read the document, or has begun one of their own: a copy that lives for one edit.
    async fn edit(&mut self) {
        let (key, element) = (self.document(), self.value());
        let mut draft = Draft::new(element.unsigned_abs());
        if self.rng.random_bool(0.5) {
            let path = format!("/v1/spaces/default/docs/{key}?format=update");
            let Some((answer, started)) = self.get(key, Ask::get(path)).await else { return };
            let applied = if answer.status == 200 { draft.apply(&answer.bytes) } else { Ok(()) };
            if let Err(why) = applied {
                return self.shared.ledger().violated(format!("{} reads {key}: {why}", self.name()));
            }
            self.read_elements(key, &draft.elements(), started);
        }
        let update = draft.insert(self.rng.random_range(0..=1000), &[element]);
        let ask = Ask::put(format!("/v1/spaces/default/docs/{key}?format=update"), update);
        self.add_facts(&[(key.to_owned(), element)], ask).await;
    }

    /// The same element into a document and a set: they are seen together or not at all.
    async fn edit_and_add(&mut self) {
        let (key, set, element) = (MINUTES, self.set_key(), self.value());
        let update = Draft::new(element.unsigned_abs()).insert(0, &[element]);
        let update = json!({"$bytes": BASE64_STANDARD.encode(update)});
        let ops = json!({"ops": [
            {"key": key, "type": "doc", "op": "update", "update": update},
            {"key": set, "type": "set", "op": "add", "element": element},
        ]});
        let facts = [(key.to_owned(), element), (set, element)];
        self.add_facts(&facts, Ask::post("/v1/spaces/default/txn", ops)).await;
    }

    async fn read_document(&mut self) {
        let key = self.document();
        let Some((answer, started)) = self.get(key, Ask::get(path(key))).await else { return };
        self.read_elements(key, &shown(&answer.body["value"]), started);
    }

    /// What was read of a document.
    fn read_elements(&mut self, key: &str, elements: &[i64], started: Started) {
        let who = self.name();
        let elements = self.shared.ledger().shown(&who, key, elements);
        self.shared.ledger().read_set(&who, key, &elements, &mut self.known);
        let read = Action::Members { key: key.to_owned(), elements };
        self.shared.recorder.end(started, Outcome::Ok, vec![read]);
    }

    async fn add_facts(&mut self, facts: &[Fact], ask: Ask) -> Outcome {
        self.shared.ledger().adding(facts, &self.known);
        // A history has no word for the removal of an element.
        let recorded = facts.iter().filter(|(key, _)| key != REMOVED);
        let actions = recorded.map(|(key, element)| Action::Insert { key: key.clone(), element: *element });
        let outcome = self.write(ask, actions.collect()).await;
        self.shared.ledger().added(facts, outcome, &mut self.known);
        outcome
    }

    fn counter(&mut self) -> &'static str {
        COUNTERS.choose(&mut self.rng).unwrap_or(&COUNTERS[0])
    }

    async fn count(&mut self) {
        let by = self.rng.random_range(1..5);
        let key = self.counter();
        let ask = Ask::post(path(key), json!({"type": "counter", "op": "add", "by": by}));
        let outcome = self.write(ask, vec![Action::Add { key: key.to_owned(), by }]).await;
        self.shared.ledger().counted(key, by, outcome);
    }

    async fn set(&mut self) {
        let number = self.shared.ledger().setting(self.number);
        let outcome = self.set_key_to(register(self.number), number as i64).await;
        self.shared.ledger().set(self.number, number, outcome, &mut self.known);
    }

    async fn set_linear(&mut self) {
        let (key, value) = (linear(self.shared.shape.dc_name(self.dc)), self.value());
        self.set_key_to(key, value).await;
    }

    async fn set_key_to(&mut self, key: String, value: i64) -> Outcome {
        let ask = Ask::post(path(&key), json!({"type": "register", "op": "set", "value": value}));
        self.write(ask, vec![Action::Set { key, value }]).await
    }

    async fn add_and_remove(&mut self) {
        let fact = (REMOVED.to_owned(), self.value());
        let body = json!({"type": "set", "op": "add", "element": fact.1});
        // What is not known to be there cannot be known to be removed.
        let add = self.add_facts(std::slice::from_ref(&fact), Ask::post(path(REMOVED), body)).await;
        self.known.facts.remove(&fact);
        if add != Outcome::Ok {
            return;
        }
        let body = json!({"type": "set", "op": "remove", "element": fact.1});
        let outcome = self.write(Ask::post(path(REMOVED), body), Vec::new()).await;
        self.shared.ledger().gone(fact.1, outcome);
    }

    async fn read_set(&mut self) {
        let key = self.set_key();
        let Some(Action::Members { elements, .. }) = self.read(&key, Kind::Set, None).await else { return };
        let who = self.name();
        self.shared.ledger().read_set(&who, &key, &elements, &mut self.known);
    }

    /// What it must show is left to the checkers of the history.
    async fn read_counter(&mut self) {
        let key = self.counter();
        self.read(key, Kind::Counter, None).await;
    }

    /// The same.
    async fn read_linear(&mut self) {
        let key = linear(self.shared.shape.dc_name(self.dc));
        self.read(&key, Kind::Register, Some("linearizable")).await;
    }

    async fn read_register(&mut self) {
        let sessions = self.shared.ledger().sessions;
        let writer = if self.rng.random_bool(0.5) { self.number } else { self.rng.random_range(0..sessions) };
        let read = self.read(&register(writer), Kind::Register, None).await;
        let Some(Action::Get { value, .. }) = read else { return };
        let who = self.name();
        let number = value.map(|value| u64::try_from(value).unwrap_or(u64::MAX));
        self.shared.ledger().read_register(&who, writer, number, &mut self.known);
    }

    fn place(&mut self) -> Place {
        Place { dc: self.dc, id: self.rng.random_range(1..=self.shared.shape.nodes as u64) }
    }

    /// Begins an operation on this key in the history. What comes before and after one on [`DRAFT`] tells checkers
    /// nothing.
    fn begin(&self, key: &str, place: Place) -> Started {
        let session = if key == DRAFT { self.shared.ledger().lone_session() } else { self.number as usize };
        self.shared.recorder.begin(session, &self.shared.shape.node(place))
    }

    fn with_token(&self, ask: Ask) -> Ask {
        self.shared.with_token(ask, self.token.as_ref())
    }

    /// Reads and records it; nothing if there was no answer.
    async fn read(&mut self, key: &str, kind: Kind, consistency: Option<&str>) -> Option<Action> {
        let asked = Ask::get(path(key));
        let (answer, started) = match consistency {
            Some(consistency) => self.get(key, asked.header("meridian-consistency", consistency)).await?,
            None => self.get(key, asked).await?,
        };
        let value = Some(&answer.body["value"]).filter(|value| !value.is_null());
        let read = seen(key, kind, value);
        self.shared.recorder.end(started, Outcome::Ok, vec![read.clone()]);
        Some(read)
    }

    /// Asks any node; nothing if there was no answer, or none that says what is there.
    async fn get(&mut self, key: &str, asked: Ask) -> Option<(Answer, Started)> {
        let asked = self.with_token(asked);
        let place = self.place();
        let node = self.shared.shape.host(place);
        let started = self.begin(key, place);
        match ask(&node, &asked, DEADLINE).await {
            Ok(answer) if answer.status == 200 || answer.code() == "not_found" => {
                self.token = answer.token.clone().or(self.token.take());
                self.shared.ledger().counts.reads += 1;
                return Some((answer, started));
            }
            Ok(answer) => self.shared.check_refusal(&self.name(), &node, &answer),
            Err(_) => {}
        }
        self.shared.ledger().counts.reads_failed += 1;
        None
    }

    /// Writes and records it as `actions`, unless the history has no words for it.
    async fn write(&mut self, ask_for: Ask, actions: Vec<Action>) -> Outcome {
        let first = self.place();
        let key = actions.first().map(Action::key).unwrap_or_default();
        let mut started = self.begin(key, first);
        let outcome = self.try_write(first, ask_for, &mut started).await;
        if !actions.is_empty() {
            self.shared.recorder.end(started, outcome, actions);
        }
        self.shared.ledger().count(outcome);
        outcome
    }

    /// Writes, and repeats in the same DC with the same id while the outcome is unknown.
    async fn try_write(&mut self, mut place: Place, ask_for: Ask, started: &mut Started) -> Outcome {
        self.written += 1;
        let id = format!("s{}-{}", self.number, self.written);
        let ask_for = self.with_token(ask_for).header("meridian-request-id", id);
        let mut outcome = Outcome::Failed;
        for _ in 0..self.rng.random_range(1..=ATTEMPTS_MAX) {
            started.repeat_at(place.id);
            let node = self.shared.shape.host(place);
            match ask(&node, &ask_for, DEADLINE).await {
                Ok(answer) if answer.status == 200 => {
                    self.token = answer.token.or(self.token.take());
                    return Outcome::Ok;
                }
                Ok(answer) if matches!(answer.code(), "outcome_unknown" | "internal") => {
                    outcome = Outcome::Unknown;
                }
                Ok(answer) => {
                    self.shared.check_refusal(&self.name(), &node, &answer);
                    if outcome == Outcome::Failed && self.rng.random_bool(0.5) {
                        return outcome;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Err(_) => outcome = Outcome::Unknown,
            }
            sleep(Duration::from_millis(self.rng.random_range(10..300))).await;
            place = self.place();
        }
        outcome
    }
}
