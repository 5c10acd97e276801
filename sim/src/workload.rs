//! What the client sessions do: unique writes through any node, each passing its token along, and reads that are
//! checked at once.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::history::{COUNTERS, Fact, History, Known, Outcome, REMOVED, SETS, register, strings};
use crate::http::{Answer, Ask, ask};
use crate::options::{Place, Shape};

/// How long a client waits for an answer.
const DEADLINE: Duration = Duration::from_secs(4);
/// How often a write is tried at most, with the same id in the same DC.
const ATTEMPTS_MAX: usize = 4;

/// Where the run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// The nodes start.
    Boot,
    /// Clients work, faults are injected.
    Load,
    /// All faults are over; clients finish.
    Healed,
    /// Everything has been checked.
    Over,
}

/// What all clients share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) history: Arc<Mutex<History>>,
    pub(crate) phase: Arc<watch::Sender<Phase>>,
    /// Sessions that still work.
    pub(crate) working: Arc<watch::Sender<usize>>,
    pub(crate) shape: Arc<Shape>,
    pub(crate) forget_tokens: bool,
}

impl Shared {
    pub(crate) fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Waits until the run has come that far.
    pub(crate) async fn reached(&self, phase: Phase) {
        // The sender is `self`.
        let _ = self.phase.subscribe().wait_for(|now| *now >= phase).await;
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
            0..25 => self.add().await,
            25..35 => self.add_pair().await,
            35..50 => self.count().await,
            50..60 => self.set().await,
            60..65 => self.add_and_remove().await,
            65..85 => self.read_set().await,
            _ => self.read_register().await,
        }
    }

    fn name(&self) -> String {
        format!("session {} in {}", self.number, self.shared.shape.dc_name(self.dc))
    }

    fn element(&mut self) -> String {
        self.written += 1;
        format!("s{}-{}", self.number, self.written)
    }

    fn set_key(&mut self) -> String {
        (*SETS.choose(&mut self.rng).unwrap_or(&SETS[0])).to_owned()
    }

    async fn add(&mut self) {
        let fact = (self.set_key(), self.element());
        let body = json!({"type": "set", "op": "add", "element": fact.1});
        self.add_facts(std::slice::from_ref(&fact), Ask::post(path(&fact.0), body)).await;
    }

    async fn add_pair(&mut self) {
        let element = self.element();
        let facts = [SETS[0], SETS[1]].map(|key| (key.to_owned(), element.clone()));
        let ops: Vec<Json> = facts
            .iter()
            .map(|(key, element)| json!({"key": key, "type": "set", "op": "add", "element": element}))
            .collect();
        self.add_facts(&facts, Ask::post("/v1/spaces/default/txn", json!({ "ops": ops }))).await;
    }

    async fn add_facts(&mut self, facts: &[Fact], ask: Ask) -> Outcome {
        self.shared.history().adding(facts, &self.known);
        let outcome = self.write(ask).await;
        self.shared.history().added(facts, outcome, &mut self.known);
        outcome
    }

    async fn count(&mut self) {
        let by = self.rng.random_range(1..5);
        let key = *COUNTERS.choose(&mut self.rng).unwrap_or(&COUNTERS[0]);
        let outcome =
            self.write(Ask::post(path(key), json!({"type": "counter", "op": "add", "by": by}))).await;
        self.shared.history().counted(key, by, outcome);
    }

    async fn set(&mut self) {
        let number = self.shared.history().setting(self.number);
        let body = json!({"type": "register", "op": "set", "value": number});
        let outcome = self.write(Ask::post(path(&register(self.number)), body)).await;
        self.shared.history().set(self.number, number, outcome, &mut self.known);
    }

    async fn add_and_remove(&mut self) {
        let fact = (REMOVED.to_owned(), self.element());
        let body = json!({"type": "set", "op": "add", "element": fact.1});
        // What is not known to be there cannot be known to be removed.
        let add = self.add_facts(std::slice::from_ref(&fact), Ask::post(path(REMOVED), body)).await;
        self.known.facts.remove(&fact);
        if add != Outcome::Acked {
            return;
        }
        let body = json!({"type": "set", "op": "remove", "element": fact.1});
        let outcome = self.write(Ask::post(path(REMOVED), body)).await;
        self.shared.history().gone(&fact.1, outcome);
    }

    async fn read_set(&mut self) {
        let key = self.set_key();
        let Some(answer) = self.read(&key).await else { return };
        let elements = strings(&answer.body["value"]);
        let who = self.name();
        self.shared.history().read_set(&who, &key, &elements, &mut self.known);
    }

    async fn read_register(&mut self) {
        let sessions = self.shared.history().sessions;
        let writer = if self.rng.random_bool(0.5) { self.number } else { self.rng.random_range(0..sessions) };
        let Some(answer) = self.read(&register(writer)).await else { return };
        let who = self.name();
        let number = answer.body["value"].as_u64();
        self.shared.history().read_register(&who, writer, number, &mut self.known);
    }

    fn node(&mut self) -> String {
        let id = self.rng.random_range(1..=self.shared.shape.nodes as u64);
        self.shared.shape.host(Place { dc: self.dc, id })
    }

    fn with_token(&self, ask: Ask) -> Ask {
        match &self.token {
            Some(token) if !self.shared.forget_tokens => ask.header("meridian-session", token.clone()),
            _ => ask,
        }
    }

    async fn read(&mut self, key: &str) -> Option<Answer> {
        let ask_for = self.with_token(Ask::get(path(key)));
        let node = self.node();
        match ask(&node, &ask_for, DEADLINE).await {
            Ok(answer) if answer.status == 200 || answer.code() == "not_found" => {
                self.token = answer.token.clone().or(self.token.take());
                return Some(answer);
            }
            Ok(answer) => self.check_refusal(&node, &answer),
            Err(_) => {}
        }
        self.shared.history().counts.reads_failed += 1;
        None
    }

    /// Writes, and repeats in the same DC with the same id while the outcome is unknown.
    async fn write(&mut self, ask_for: Ask) -> Outcome {
        self.written += 1;
        let id = format!("s{}-{}", self.number, self.written);
        let ask_for = self.with_token(ask_for).header("meridian-request-id", id);
        let mut outcome = Outcome::Refused;
        for _ in 0..self.rng.random_range(1..=ATTEMPTS_MAX) {
            let node = self.node();
            match ask(&node, &ask_for, DEADLINE).await {
                Ok(answer) if answer.status == 200 => {
                    self.token = answer.token.or(self.token.take());
                    return Outcome::Acked;
                }
                Ok(answer) if matches!(answer.code(), "outcome_unknown" | "internal") => {
                    outcome = Outcome::Unknown;
                }
                Ok(answer) => {
                    self.check_refusal(&node, &answer);
                    if outcome == Outcome::Refused && self.rng.random_bool(0.5) {
                        return outcome;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {}
                Err(_) => outcome = Outcome::Unknown,
            }
            sleep(Duration::from_millis(self.rng.random_range(10..300))).await;
        }
        outcome
    }

    /// Refusals of these requests can only mean that something is not available.
    fn check_refusal(&self, node: &str, answer: &Answer) {
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
            let what = format!("{} is refused by {node}: {} {}", self.name(), answer.status, answer.body);
            self.shared.history().violated(what);
        }
    }
}
