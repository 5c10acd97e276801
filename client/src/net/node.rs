//! One node as the client knows it: its connection, whether it is ready, how fast it answers.
//!
//! A task of its own keeps the connection and asks the node how it is, so that a request never waits for a connect.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use meridian_crdt::Value;
use tokio::time::{Instant, timeout};

use super::backoff::Backoff;
use super::connection::{Answer, Connection};
use super::settings::Settings;
use crate::wire::frame::{Request, Verb};

/// Pauses between attempts to connect.
const RECONNECT_FIRST: Duration = Duration::from_millis(50);
const RECONNECT_MAX: Duration = Duration::from_millis(1000);
/// The share of a new measurement in the latency that counts, as a divisor.
const LATENCY_SMOOTHING: u32 = 4;

#[derive(Default)]
struct State {
    connection: Option<Arc<Connection>>,
    ready: bool,
    leads: bool,
    latency: Option<Duration>,
    /// Why it cannot be used, for errors.
    trouble: String,
}

pub(crate) struct Node {
    pub address: String,
    state: Mutex<State>,
}

impl Node {
    pub fn new(address: String) -> Node {
        let state = State { trouble: "not connected yet".into(), ..State::default() };
        Node { address, state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, if there is one that works; else why not.
    pub fn connection(&self) -> Result<Arc<Connection>, String> {
        let state = self.state();
        match &state.connection {
            Some(connection) if connection.is_open() => Ok(Arc::clone(connection)),
            Some(_) => Err(format!("{}: the connection ended", self.address)),
            None => Err(format!("{}: {}", self.address, state.trouble)),
        }
    }

    /// Whether it said that it serves.
    pub fn is_ready(&self) -> bool {
        let state = self.state();
        state.ready && state.connection.as_ref().is_some_and(|connection| connection.is_open())
    }

    /// Whether it said that it leads its datacenter.
    pub fn leads(&self) -> bool {
        self.state().leads
    }

    /// How fast it answers; none if it was never asked.
    pub fn latency(&self) -> Option<Duration> {
        self.state().latency
    }

    /// Keeps the connection and the knowledge of its health; `observed` is called after every change and every probe.
    pub async fn keep(&self, dc: &str, settings: &Settings, observed: impl Fn()) {
        let mut backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_MAX);
        loop {
            let opening = Connection::open(settings.connector.as_ref(), &self.address, &settings.access);
            let opened = timeout(settings.probe_timeout, opening).await;
            match opened.unwrap_or_else(|_| Err("no answer to a connect in time".into())) {
                Ok(connection) if connection.dc == dc => {
                    let connection = Arc::new(connection);
                    self.state().connection = Some(Arc::clone(&connection));
                    if self.serve(&connection, settings, &observed).await {
                        backoff = Backoff::new(RECONNECT_FIRST, RECONNECT_MAX);
                    }
                }
                Ok(other) => self.lose(format!("it is a node of {}, not of {dc}", other.dc)),
                Err(trouble) => self.lose(trouble),
            }
            observed();
            tokio::time::sleep(backoff.pause(Duration::ZERO)).await;
        }
    }

    /// Probes until the connection is over; whether the node was ever ready.
    async fn serve(&self, connection: &Connection, settings: &Settings, observed: &impl Fn()) -> bool {
        let mut served = false;
        loop {
            let asked = Instant::now();
            let status = Request::new(0, Verb::Status);
            match connection.probe(status, asked + settings.probe_timeout).await {
                Ok(answer) => {
                    let ready = says_ready(&answer);
                    served |= ready;
                    self.note(ready, says_leader(&answer), asked.elapsed());
                }
                Err(why) => {
                    connection.close("the node does not answer probes");
                    self.lose(format!("no answer to a probe: {why:?}"));
                    return served;
                }
            }
            observed();
            tokio::select! {
                () = tokio::time::sleep(settings.probe_interval) => {}
                () = connection.closed() => {
                    self.lose("the connection ended".into());
                    return served;
                }
            }
        }
    }

    fn note(&self, ready: bool, leads: bool, took: Duration) {
        let mut state = self.state();
        (state.ready, state.leads) = (ready, leads);
        state.latency = Some(match state.latency {
            None => took,
            Some(known) => (known * (LATENCY_SMOOTHING - 1) + took) / LATENCY_SMOOTHING,
        });
    }

    fn lose(&self, trouble: String) {
        let mut state = self.state();
        state.connection = None;
        (state.ready, state.leads) = (false, false);
        state.trouble = trouble;
    }
}

/// Whether the node has recovered and knows a leader. What it does not tell counts in its favour.
fn says_ready(answer: &Answer) -> bool {
    let Ok(body) = &answer.outcome else { return false };
    let recovered = !matches!(body.get("ready"), Some(Value::Bool(false)));
    let led = !matches!(body.get("leader"), Some(Value::Nil));
    recovered && led
}

fn says_leader(answer: &Answer) -> bool {
    let role = answer.outcome.as_ref().ok().and_then(|body| body.get("role"));
    role.is_some_and(|role| *role == Value::Str("leader".into()))
}
