//! One request from its first attempt to its last word: which node, which datacenter, and when to stop.
//!
//! Invariants: a mutation has one name, and is repeated under it in its datacenter only; it goes to another datacenter
//! only if every attempt so far was certainly without effect, or if the caller said that repeating does no harm. Every
//! wait is bounded by the request's deadline.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_crdt::Value;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::connection::{Answer, Connection, Unanswered};
use super::error::Error;
use super::fleet::Fleet;
use super::session::{Levels, Shared};
use crate::wire::frame::{Request, RequestId, Verb};
use crate::wire::headers::{Commit, WAIT_DEFAULT};
use crate::wire::{ApiError, ErrorCode};

/// Pauses between rounds over the nodes of a datacenter.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What kind of request it is, as far as repeating is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Changes nothing.
    Read,
    /// Changes something, at most once.
    Write {
        /// Whether it may be repeated in another datacenter although it may have taken place in the first.
        repeat_elsewhere: bool,
    },
}

/// A successful answer, and where it came from.
pub(crate) struct Done {
    pub body: BTreeMap<String, Value>,
    pub dc: usize,
    pub connection: Arc<Connection>,
}

/// What one attempt came to.
enum Attempt {
    Done(Done),
    Failed(Error),
    /// The node cannot do it now; nothing changed.
    Refused(Box<ApiError>),
    /// The node did not get it.
    NotSent(String),
    /// It may have been done.
    Unknown(String),
}

/// What an error of a node means for the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Asking again is of no use.
    Final,
    /// Nothing changed, and another attempt may succeed.
    Again,
    /// It may have been done.
    Unknown,
}

/// Judges an error by its code; for a read, nothing is ever unknown.
pub(crate) fn judge(code: ErrorCode, kind: Kind) -> Verdict {
    match code {
        _ if !code.is_retryable() => Verdict::Final,
        ErrorCode::CommitTimeout => Verdict::Final,
        ErrorCode::Internal | ErrorCode::OutcomeUnknown if kind != Kind::Read => Verdict::Unknown,
        _ => Verdict::Again,
    }
}

/// The error of a request above the node's limit.
pub(crate) fn too_large(limit: usize) -> Error {
    let message = format!("the request is above the {limit} bytes that a node takes");
    ApiError::new(ErrorCode::TooLarge, message).with("limit", limit).into()
}

/// A request on its way.
pub(crate) struct Call<'a> {
    pub fleet: &'a Fleet,
    pub session: &'a Shared,
    pub levels: &'a Levels,
    pub kind: Kind,
}

#[derive(Default)]
struct Memory {
    /// Where it may have been done, and why that is not known.
    unknown: Option<(usize, String)>,
    not_caught_up: Option<(usize, Box<ApiError>)>,
    refused: Option<Box<ApiError>>,
    last: String,
}

impl Call<'_> {
    /// Runs it to its end.
    pub async fn run(&self, verb: Verb) -> Result<Done, Error> {
        let deadline = Instant::now() + self.levels.timeout.unwrap_or(self.fleet.settings.request_timeout);
        let named = match self.kind {
            Kind::Read => None,
            Kind::Write { .. } => {
                let named = self.fleet.ids.take(deadline).await;
                Some(named.ok_or_else(|| {
                    let reason = "too many mutations of this client are in flight".into();
                    Error::Unavailable { reason, error: None }
                })?)
            }
        };
        let id = named.as_ref().map(|named| named.id());
        let mut memory = Memory::default();
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        while Instant::now() < deadline {
            for dc in self.places(&memory) {
                // What has become unknown on the way may be done again in one of them alone.
                if Instant::now() >= deadline || !self.places(&memory).contains(&dc) {
                    break;
                }
                if let Some(end) = self.ask_dc(dc, &verb, id.as_ref(), deadline, &mut memory).await {
                    return end;
                }
            }
            if memory.not_caught_up.is_some() && memory.unknown.is_none() {
                break;
            }
            backoff.wait(Duration::ZERO, deadline).await;
        }
        Err(self.give_up(memory))
    }

    /// The datacenters that may be asked next.
    fn places(&self, memory: &Memory) -> Vec<usize> {
        match (&memory.unknown, self.kind) {
            (Some((dc, _)), Kind::Write { repeat_elsewhere: false }) => vec![*dc],
            _ => self.fleet.order(),
        }
    }

    /// Asks the nodes of one datacenter in turn until there is a last word, or until it is another one's turn.
    async fn ask_dc(
        &self,
        dc: usize,
        verb: &Verb,
        id: Option<&RequestId>,
        deadline: Instant,
        memory: &mut Memory,
    ) -> Option<Result<Done, Error>> {
        let patience = deadline.min(Instant::now() + self.fleet.settings.dc_patience);
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        // A snapshot at the leader is the freshest, and so meets the fewest conflicts.
        let through_log = self.kind != Kind::Read || matches!(verb, Verb::Begin { .. });
        loop {
            let (mut reached, mut hint) = (false, Duration::ZERO);
            for node in self.fleet.nodes(dc, through_log) {
                if self.fleet.is_closed() {
                    return Some(Err(self.closed(memory)));
                }
                let attempt = match node.connection() {
                    Ok(connection) => self.attempt(dc, connection, verb, id, deadline).await,
                    Err(trouble) => Attempt::NotSent(trouble),
                };
                match attempt {
                    Attempt::Done(done) => return Some(Ok(done)),
                    Attempt::Failed(error) => return Some(Err(error)),
                    Attempt::NotSent(why) => memory.last = why,
                    Attempt::Refused(error) => {
                        reached = true;
                        hint = hint.max(Duration::from_millis(error.retry_after_ms.unwrap_or_default()));
                        memory.last = error.to_string();
                        if error.code == ErrorCode::NotCaughtUp {
                            memory.not_caught_up.get_or_insert((dc, error));
                            // All nodes of a datacenter wait for the same txns; its wait is over.
                            return None;
                        }
                        memory.refused = Some(error);
                    }
                    Attempt::Unknown(why) => {
                        reached = true;
                        memory.last.clone_from(&why);
                        memory.unknown.get_or_insert((dc, why));
                    }
                }
                if Instant::now() >= deadline {
                    return None;
                }
            }
            let bound_here = self.places(memory) == [dc];
            let until = if bound_here { deadline } else { patience };
            if Instant::now() >= until || (!reached && !bound_here) {
                return None;
            }
            backoff.wait(hint, until).await;
        }
    }

    async fn attempt(
        &self,
        dc: usize,
        connection: Arc<Connection>,
        verb: &Verb,
        id: Option<&RequestId>,
        deadline: Instant,
    ) -> Attempt {
        let request = self.request(verb.clone(), id);
        let until = deadline.min(Instant::now() + self.attempt_time());
        match connection.call(request, until).await {
            Ok(answer) => self.answered(dc, connection, answer),
            Err(Unanswered::NotSent(why)) => Attempt::NotSent(why),
            Err(Unanswered::Lost(why)) if self.kind == Kind::Read => Attempt::NotSent(why),
            Err(Unanswered::Lost(why)) => Attempt::Unknown(why),
            Err(Unanswered::TooLarge(limit)) => Attempt::Failed(too_large(limit)),
        }
    }

    /// A request with everything that session and levels say.
    pub fn request(&self, verb: Verb, id: Option<&RequestId>) -> Request {
        let mut request = Request::new(0, verb);
        request.session = self.session.token_bytes();
        request.wait = self.levels.wait;
        match self.kind {
            Kind::Read => request.consistency = self.levels.consistency,
            Kind::Write { .. } => request.commit = self.levels.commit,
        }
        request.request_id = id.cloned();
        request
    }

    /// How long one attempt may take: what the node may wait for, and then some.
    pub fn attempt_time(&self) -> Duration {
        let wait = self.levels.wait.unwrap_or(WAIT_DEFAULT);
        let waits = if self.levels.commit == Commit::Local { 1 } else { 2 };
        self.fleet.settings.attempt_timeout + wait * waits
    }

    fn answered(&self, dc: usize, connection: Arc<Connection>, answer: Answer) -> Attempt {
        if let Err(error) = self.session.learn(&answer) {
            return Attempt::Failed(error);
        }
        let error = match answer.outcome {
            Ok(body) => return Attempt::Done(Done { body, dc, connection }),
            Err(error) => Box::new(error),
        };
        match judge(error.code, self.kind) {
            Verdict::Final if error.code == ErrorCode::CommitTimeout => {
                Attempt::Failed(Error::CommitTimeout { dc: self.fleet.dcs[dc].name.clone(), error })
            }
            Verdict::Final => Attempt::Failed(Error::Refused(error)),
            Verdict::Again => Attempt::Refused(error),
            Verdict::Unknown => Attempt::Unknown(error.to_string()),
        }
    }

    fn closed(&self, memory: &mut Memory) -> Error {
        match memory.unknown.take() {
            Some((dc, reason)) => self.outcome_unknown(dc, reason),
            None => Error::Closed,
        }
    }

    fn outcome_unknown(&self, dc: usize, reason: String) -> Error {
        Error::OutcomeUnknown { dc: self.fleet.dcs[dc].name.clone(), reason }
    }

    fn give_up(&self, memory: Memory) -> Error {
        let Memory { unknown, not_caught_up, refused, last } = memory;
        match (unknown, not_caught_up) {
            (Some((dc, reason)), _) => self.outcome_unknown(dc, reason),
            (None, Some((dc, error))) => Error::NotCaughtUp { dc: self.fleet.dcs[dc].name.clone(), error },
            (None, None) => Error::Unavailable { reason: last, error: refused },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_that_says_nothing_changed_allows_another_datacenter_and_no_other_does() {
        let write = Kind::Write { repeat_elsewhere: false };
        for code in ErrorCode::ALL {
            let verdict = judge(*code, write);
            if code.is_retryable() {
                let nothing_changed = code.meaning().contains("Nothing changed");
                assert_eq!(verdict == Verdict::Again, nothing_changed, "{code}");
                if *code != ErrorCode::CommitTimeout {
                    assert_eq!(judge(*code, Kind::Read), Verdict::Again, "{code}");
                }
            } else {
                assert_eq!(verdict, Verdict::Final, "{code}");
            }
        }
    }
}
