//! The end of a transaction: its commit, until it is known what became of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Place, Transaction};
use crate::net::backoff::Backoff;
use crate::net::call::{Kind, Verdict, judge, too_large};
use crate::net::connection::{Connection, Unanswered};
use crate::net::error::Error;
use crate::wire::ErrorCode;
use crate::wire::frame::{Ops, RequestId, Verb};

/// Pauses before a commit is repeated.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);

impl Transaction {
    /// What has gone wrong so far.
    pub(super) fn failure(&self) -> Option<Error> {
        self.state().failure.clone()
    }

    /// Ends it without a trace.
    pub(super) fn abort(&self) {
        let mut state = self.state();
        state.over = true;
        if let Some(place) = state.place.take() {
            place.connection.post_and_forget(Verb::Abort { txn: place.id });
        }
    }

    /// Commits it.
    pub(super) async fn commit(&self) -> Result<(), Error> {
        let _turn = self.inner.turn.lock().await;
        if let Some(failure) = self.failure() {
            self.abort();
            return Err(failure);
        }
        let (ops, wrote, place) = {
            let mut state = self.state();
            state.over = true;
            (std::mem::take(&mut state.ops), state.wrote, state.place.take())
        };
        match place {
            None if ops.is_empty() => Ok(()),
            // It has read nothing, so there is nothing to check, and no snapshot is needed.
            None => {
                let (session, space) = (&self.inner.session, self.inner.space.clone());
                let verb = Verb::Txn { space, conditions: Vec::new(), ops };
                session.call(session.write_kind()).run(verb).await.map(drop)
            }
            // It has only read, and that from one snapshot.
            Some(place) if ops.is_empty() && !wrote => {
                place.connection.post_and_forget(Verb::Abort { txn: place.id });
                Ok(())
            }
            Some(place) => self.commit_at(&place, ops).await,
        }
    }

    async fn commit_at(&self, place: &Place, ops: Ops) -> Result<(), Error> {
        let fleet = &self.inner.session.fleet;
        let deadline = Instant::now() + fleet.settings.request_timeout;
        let Some(named) = fleet.ids.take(deadline).await else {
            let reason = "too many mutations of this client are in flight".into();
            return Err(Error::Unavailable { reason, error: None });
        };
        let verb = Verb::Commit { txn: place.id, space: self.inner.space.clone(), ops };
        let mut unknown: Option<String> = None;
        let mut last = String::new();
        let mut backoff = Backoff::new(PAUSE_FIRST, PAUSE_MAX);
        loop {
            for connection in self.targets(place, unknown.is_some()) {
                match self.commit_once(place, &connection, &verb, &named.id(), deadline).await {
                    Ended::Known(outcome) => return outcome,
                    Ended::NotDone(why) => last = why,
                    Ended::Unknown(why) => unknown = Some(why),
                }
            }
            if unknown.is_none() && !place.connection.is_open() {
                // The commit was never sent, and the snapshot is gone with its connection.
                return Err(Error::Unavailable { reason: last, error: None });
            }
            if Instant::now() >= deadline || fleet.is_closed() {
                return Err(match unknown {
                    Some(reason) => Error::OutcomeUnknown { dc: fleet.dcs[place.dc].name.clone(), reason },
                    None => Error::Unavailable { reason: last, error: None },
                });
            }
            backoff.wait(Duration::ZERO, deadline).await;
        }
    }

    /// Where the commit is sent: to its own node, and once its outcome is unknown to every node of the datacenter.
    fn targets(&self, place: &Place, anywhere: bool) -> Vec<Arc<Connection>> {
        let mut targets = Vec::new();
        if place.connection.is_open() {
            targets.push(Arc::clone(&place.connection));
        }
        if anywhere {
            let nodes = self.inner.session.fleet.nodes(place.dc, true);
            let others = nodes.iter().filter_map(|node| node.connection().ok());
            targets.extend(others.filter(|other| !Arc::ptr_eq(other, &place.connection)));
        }
        targets
    }

    async fn commit_once(
        &self,
        place: &Place,
        connection: &Connection,
        verb: &Verb,
        id: &RequestId,
        deadline: Instant,
    ) -> Ended {
        let session = &self.inner.session;
        let kind = Kind::Write { repeat_elsewhere: false };
        let call = session.call(kind);
        let request = call.request(verb.clone(), Some(id));
        let until = deadline.min(Instant::now() + call.attempt_time());
        let answer = match connection.call(request, until).await {
            Ok(answer) => answer,
            Err(Unanswered::NotSent(why)) => return Ended::NotDone(why),
            Err(Unanswered::Lost(why)) => return Ended::Unknown(why),
            Err(Unanswered::TooLarge(limit)) => return Ended::Known(Err(too_large(limit))),
        };
        if let Err(error) = session.shared.learn(&answer) {
            return Ended::Known(Err(error));
        }
        let error = match answer.outcome {
            Ok(_) => return Ended::Known(Ok(())),
            Err(error) => Box::new(error),
        };
        match judge(error.code, kind) {
            Verdict::Final if error.code == ErrorCode::CommitTimeout => {
                let dc = session.fleet.dcs[place.dc].name.clone();
                Ended::Known(Err(Error::CommitTimeout { dc, error }))
            }
            Verdict::Final => Ended::Known(Err(Error::Refused(error))),
            Verdict::Again => Ended::NotDone(error.to_string()),
            Verdict::Unknown => Ended::Unknown(error.to_string()),
        }
    }
}

/// What one attempt to commit came to.
enum Ended {
    Known(Result<(), Error>),
    NotDone(String),
    Unknown(String),
}
