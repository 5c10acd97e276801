//! One session of a load: asks one thing at a time, keeps its token, repeats exactly, and notes everything.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::watching::Watched;
use crate::client::{Ask, Client, Outcome as Told, Reply, outcome};
use crate::history::kind::{Kind, seen};
use crate::history::{Action, Outcome, Recorder, Started};

/// How long a single attempt may take: short, so that a session whose node dies moves on to the next.
const ATTEMPT: Duration = Duration::from_secs(4);
/// How long a node may wait to catch up with a session's token.
const WAIT: &str = "400ms";
/// How often a write is tried through the nodes of its DC.
const ATTEMPTS_MAX: usize = 3;
/// Writes of one session: their values do not meet those of others.
const VALUES_PER_SESSION: i64 = 1_000_000;
/// More than a load has; a session that forgets goes on under a number beyond.
const SESSIONS_MAX: usize = 1000;

/// What all sessions of a load share.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) nodes: Vec<(String, Client)>,
    pub(super) recorder: Recorder,
    pub(super) stop: AtomicBool,
    /// Begins the names of all keys.
    pub(super) prefix: String,
    pub(super) pace: Duration,
    /// A number that the sessions of a load agree on, such as the round.
    pub(super) round: AtomicUsize,
    /// How often each error was met.
    pub(super) refusals: Mutex<BTreeMap<String, usize>>,
    /// What the watchers among the sessions were shown, once they have ended.
    pub(super) watched: Mutex<Vec<Watched>>,
}

impl Ground {
    pub(super) fn new(nodes: Vec<(String, Client)>, prefix: String, pace: Duration) -> Self {
        Self {
            nodes,
            recorder: Recorder::default(),
            stop: AtomicBool::new(false),
            prefix,
            pace,
            round: AtomicUsize::new(0),
            refusals: Mutex::default(),
            watched: Mutex::default(),
        }
    }

    pub(super) fn refusals(&self) -> BTreeMap<String, usize> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How current a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Session,
    Linearizable,
}

/// What a read saw.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) action: Action,
    key: String,
    version: Option<String>,
}

impl Seen {
    /// The precondition that what was read is still so.
    pub(super) fn still(&self) -> Value {
        match &self.version {
            Some(version) => json!({"key": self.key, "version": version}),
            None => json!({"key": self.key, "absent": true}),
        }
    }

    /// The number that a register or a counter holds.
    pub(super) fn number(&self) -> Option<i64> {
        match &self.action {
            Action::Get { value, .. } => *value,
            Action::Sum { value, .. } => Some(*value),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Session {
    pub(super) number: usize,
    pub(super) random: StdRng,
    pub(super) ground: Arc<Ground>,
    /// Who it is in the history.
    identity: usize,
    token: Option<String>,
    left: usize,
    values: i64,
}

impl Session {
    pub(super) fn new(ground: Arc<Ground>, number: usize, seed: u64, operations_max: usize) -> Self {
        let random = StdRng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(number as u64));
        Self { number, random, ground, identity: number, token: None, left: operations_max, values: 0 }
    }

    /// Paces the session; false when it is to end.
    pub(super) async fn goes_on(&mut self) -> bool {
        let pace = self.ground.pace.mul_f64(self.random.random_range(0.5..1.5));
        tokio::time::sleep(pace).await;
        self.left = self.left.saturating_sub(1);
        self.left > 0 && !self.ground.stop.load(Ordering::Relaxed)
    }

    /// Forgets what it has seen: from now on it is another client, in the history too.
    pub(super) fn forget(&mut self) {
        self.token = None;
        self.identity += SESSIONS_MAX;
    }

    /// Notes that an operation begins at a node.
    pub(super) fn begin(&self, node: usize) -> Started {
        self.ground.recorder.begin(self.identity, &self.ground.nodes[node].0)
    }

    /// Notes how it ended.
    pub(super) fn end(&self, started: Started, outcome: Outcome, actions: Vec<Action>) {
        self.ground.recorder.end(started, outcome, actions);
    }

    /// The full name of a key.
    pub(super) fn key(&self, name: impl std::fmt::Display) -> String {
        format!("{}/{name}", self.ground.prefix)
    }

    /// A value that nobody else writes.
    pub(super) fn value(&mut self) -> i64 {
        self.values += 1;
        VALUES_PER_SESSION * (self.number as i64 + 1) + self.values
    }

    /// How many values it has drawn.
    pub(super) fn drawn(&self) -> usize {
        usize::try_from(self.values).unwrap_or(usize::MAX)
    }

    /// A node drawn from a DC, or from all.
    pub(super) fn node(&mut self, dc: Option<&str>) -> usize {
        let nodes = self.ground.nodes.iter().enumerate();
        let fits: Vec<usize> = nodes.filter(|(_, (name, _))| is_in(name, dc)).map(|(i, _)| i).collect();
        *fits.choose(&mut self.random).expect("a DC has nodes")
    }

    /// A client of the SDK for all nodes of a DC, each attempt to connect within `limit`; none if the session is to end.
    pub(super) async fn connect(&mut self, dc: &str, limit: Duration) -> Option<meridian_client::Client> {
        let nodes = self.ground.nodes.iter().filter(|(name, _)| is_in(name, Some(dc)));
        let addresses: Vec<String> = nodes.map(|(_, client)| client.server().to_string()).collect();
        while self.goes_on().await {
            let builder = meridian_client::Client::builder().dc(dc, addresses.clone());
            match builder.connect_timeout(limit).connect().await {
                Ok(client) => return Some(client),
                Err(e) => self.count(&e.to_string()),
            }
        }
        None
    }

    /// The node after this one in its DC.
    fn next(&self, node: usize) -> usize {
        let dc = self.ground.nodes[node].0.split_once('/').map(|(dc, _)| dc.to_string());
        let all = self.ground.nodes.len();
        let others = (1..=all).map(|step| (node + step) % all);
        others.into_iter().find(|i| is_in(&self.ground.nodes[*i].0, dc.as_deref())).unwrap_or(node)
    }

    /// Writes, with the same request id through the nodes of one DC until the outcome is known, a few times. `actions` is
    /// what it does, and what its preconditions read.
    pub(super) async fn write(&mut self, node: usize, ask: Ask, actions: Vec<Action>) -> Outcome {
        let started = self.begin(node);
        let outcome = self.write_unrecorded(node, ask).await;
        self.end(started, outcome, actions);
        outcome
    }

    /// The same, as a part of an operation that the caller notes.
    pub(super) async fn write_unrecorded(&mut self, node: usize, ask: Ask) -> Outcome {
        self.values += 1;
        let id = format!("{}/{}/{}", self.ground.prefix, self.number, self.values);
        let ask = self.with_token(ask).id(&id);
        let (mut node, mut unknown) = (node, false);
        for _ in 0..ATTEMPTS_MAX {
            let answer = self.ground.nodes[node].1.send(&ask).await;
            let told = outcome(&answer);
            self.keep_token(&answer);
            match &told {
                Told::Acked => return Outcome::Ok,
                // Decided in apply, and for all attempts: a repeat gets the first answer, failures included.
                Told::NotDone(code) if code == "precondition_failed" => {
                    self.count(code);
                    return Outcome::Failed;
                }
                Told::NotDone(code) if answer.as_ref().is_ok_and(|reply| reply.status < 500) => {
                    self.count(code);
                    break;
                }
                Told::NotDone(code) => self.count(code),
                Told::Unknown(why) => {
                    self.count(why);
                    unknown = true;
                }
            }
            node = self.next(node);
        }
        if unknown { Outcome::Unknown } else { Outcome::Failed }
    }

    /// Reads and notes it; nothing if there was no answer.
    pub(super) async fn read(&mut self, node: usize, key: &str, kind: Kind, level: Level) -> Option<Seen> {
        let started = self.begin(node);
        let seen = self.read_unrecorded(node, key, kind, level).await?;
        self.end(started, Outcome::Ok, vec![seen.action.clone()]);
        Some(seen)
    }

    /// The same, as a part of an operation that the caller notes.
    pub(super) async fn read_unrecorded(
        &mut self,
        node: usize,
        key: &str,
        kind: Kind,
        level: Level,
    ) -> Option<Seen> {
        let mut ask = self.with_token(Ask::read(key));
        if level == Level::Linearizable {
            ask = ask.header("Meridian-Consistency", "linearizable");
        }
        let answer = self.ground.nodes[node].1.send(&ask).await;
        self.keep_token(&answer);
        match answer {
            Ok(reply) if reply.done() => {
                let version = reply.body["version"].as_str().map(str::to_string);
                let action = seen(key, kind, Some(reply.value()));
                Some(Seen { action, key: key.into(), version })
            }
            Ok(reply) if reply.code() == "not_found" => {
                Some(Seen { action: seen(key, kind, None), key: key.into(), version: None })
            }
            Ok(reply) => {
                self.count(reply.code());
                None
            }
            Err(e) => {
                self.count(&e.to_string());
                None
            }
        }
    }

    fn with_token(&self, ask: Ask) -> Ask {
        let ask = ask.wait(WAIT).within(ATTEMPT);
        match &self.token {
            Some(token) => ask.after(token),
            None => ask,
        }
    }

    fn keep_token<E>(&mut self, answer: &Result<Reply, E>) {
        if let Ok(Reply { token: Some(token), .. }) = answer {
            self.token = Some(token.clone());
        }
    }

    /// Counts an error.
    pub(super) fn count(&self, error: &str) {
        // Without addresses, which would make each node's error one of its own.
        let error = error.split("127.0.0.1").next().unwrap_or_default().trim_end().to_string();
        let mut refusals = self.ground.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        *refusals.entry(error).or_default() += 1;
    }
}

fn is_in(node: &str, dc: Option<&str>) -> bool {
    dc.is_none_or(|dc| node.split_once('/').is_some_and(|(of, _)| of == dc))
}
