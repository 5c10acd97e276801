//! A client of one DC: it asks any of its nodes, and asks again until there is an answer that is final.
//!
//! It keeps two rules. A mutation is repeated under its own request id and never in another DC, so that it takes place
//! once however often it is sent. The session's token of the last answer goes with the next request, so that the client
//! sees what it has seen before, also at another node.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use meridian::cli::http::{Answer, Call, HttpClient, HttpError};
use meridian_client::wire::{ErrorCode, headers};
use serde_json::Value;
use tokio::time::Instant;

/// How long one attempt may take.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(5);
/// Pause before the next node is asked, unless the answer names another.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long a request is repeated before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(90);

/// Why a request has no final answer, or the wrong one.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It could not even be formed.
    #[error(transparent)]
    Request(#[from] HttpError),
    /// No node of the DC did it in time; whether it took place is not known.
    #[error("no node of {dc} answers {what} within {PATIENCE:?}; the last one said: {last}")]
    GivenUp {
        /// The DC.
        dc: String,
        /// What was asked.
        what: String,
        /// The last failure.
        last: String,
    },
    /// The request was refused, or the answer has not the documented form.
    #[error("{dc} answers {what} with {status}: {body}")]
    Unexpected {
        /// The DC.
        dc: String,
        /// What was asked.
        what: String,
        /// The status.
        status: u16,
        /// The body.
        body: String,
    },
}

/// A DC as its clients know it.
#[derive(Clone, Debug)]
pub struct Dc {
    /// Its name.
    pub name: String,
    /// The client addresses of its nodes.
    pub servers: Vec<String>,
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Ask {
    /// `GET` or `POST`.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// The name of a mutation.
    pub request_id: Option<String>,
    /// The body.
    pub body: Bytes,
}

impl Ask {
    /// A read.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), request_id: None, body: Bytes::new() }
    }

    /// A mutation, named.
    pub fn post(path: impl Into<String>, request_id: String, body: &Value) -> Self {
        let body = Bytes::from(body.to_string());
        Self { method: Method::POST, path: path.into(), request_id: Some(request_id), body }
    }
}

/// A session with one DC.
#[derive(Clone, Debug)]
pub struct Client {
    http: HttpClient,
    dc: Arc<Dc>,
    /// The node that is asked; the next one after a failure.
    node: usize,
    token: Option<String>,
    retries: u64,
}

impl Client {
    /// A client that begins with the `node`-th node, counted round.
    pub fn new(http: HttpClient, dc: Arc<Dc>, node: usize) -> Self {
        Self { http, dc, node, token: None, retries: 0 }
    }

    /// How often something had to be repeated since this was last asked.
    pub fn take_retries(&mut self) -> u64 {
        std::mem::take(&mut self.retries)
    }

    /// Asks until there is an answer that repeating would not change: a success, or an error of the 4xx kind.
    pub async fn ask(&mut self, ask: &Ask) -> Result<Answer, ClientError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (last, pause) = match self.attempt(ask).await {
                Ok(answer) if !is_retryable(&answer) => return Ok(answer),
                Ok(answer) => (text(&answer), retry_after(&answer)),
                Err(e @ HttpError::Invalid(_)) => return Err(e.into()),
                Err(e) => (e.to_string(), PAUSE),
            };
            if Instant::now() >= deadline {
                let what = format!("{} {}", ask.method, ask.path);
                return Err(ClientError::GivenUp { dc: self.dc.name.clone(), what, last });
            }
            self.retries += 1;
            self.node += 1;
            tokio::time::sleep(pause).await;
        }
    }

    /// The error for an answer that nobody expected.
    pub fn unexpected(&self, ask: &Ask, answer: &Answer) -> ClientError {
        ClientError::Unexpected {
            dc: self.dc.name.clone(),
            what: format!("{} {}", ask.method, ask.path),
            status: answer.status,
            body: text(answer),
        }
    }

    async fn attempt(&mut self, ask: &Ask) -> Result<Answer, HttpError> {
        let server = &self.dc.servers[self.node % self.dc.servers.len()];
        let mut with = Vec::with_capacity(2);
        with.extend(self.token.as_deref().map(|token| (headers::SESSION, token)));
        with.extend(ask.request_id.as_deref().map(|id| (headers::REQUEST_ID, id)));
        let call = Call {
            method: ask.method.clone(),
            server,
            path: &ask.path,
            headers: &with,
            body: ask.body.clone(),
            deadline: ATTEMPT_DEADLINE,
        };
        let answer = self.http.send(call).await?;
        if let Some(token) = answer.header(headers::SESSION) {
            self.token = Some(token.to_owned());
        }
        Ok(answer)
    }
}

/// The code of an answer that is an error.
pub fn code(answer: &Answer) -> Option<ErrorCode> {
    ErrorCode::from_name(answer.json()?.pointer("/error/code")?.as_str()?)
}

fn is_retryable(answer: &Answer) -> bool {
    answer.status == 429 || answer.status >= 500
}

fn retry_after(answer: &Answer) -> Duration {
    let ms = answer.json().and_then(|body| body.pointer("/error/retry_after_ms")?.as_u64());
    ms.map_or(PAUSE, Duration::from_millis).min(PAUSE_MAX)
}

fn text(answer: &Answer) -> String {
    String::from_utf8_lossy(&answer.body).into_owned()
}
