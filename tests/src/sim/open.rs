//! What nodes do with interactive transactions: the production registry of those that are open, over copies of a node's
//! rows, and the way of a commit from the node that has the transaction to its leader and back.

use meridian::shard::open::{CommitRequest, Submission};
use meridian::txn::{Answer, Isolation};
use meridian_client::wire::{ApiError, ErrorCode, Token};
use meridian_crdt::{Query, Vector};
use meridian_gossip::sim::At;

use super::clients::SPACE;
use super::request::{Ask, CLUSTER, Request, Said, Step};
use super::world::{Cluster, Ev, SimEnv};

/// The most keys of a listing.
const LIST_MAX: usize = 1000;
/// How long a node waits for what becomes of the write of a commit. Its client waits longer.
const WRITTEN_MS_MAX: u64 = 500;

impl Cluster {
    /// Begins a transaction over what the node has applied.
    pub(super) fn begin_txn(&self, at: At, request: &Request, isolation: Isolation, env: &mut SimEnv<'_>) {
        let node = self.node(at);
        let begun = node.open.begin(node.rows.clone(), isolation, env.now_ms, || env.rng.next() >> 1);
        match begun {
            Ok(begun) => {
                let said = Said::Begun { txn: begun.id, snapshot: node.state.vector.clone() };
                self.respond(request, said, Some(&Vector::new()), env);
            }
            Err(error) => self.respond(request, Said::NotDone(error), None, env),
        }
    }

    /// Does one step in an open transaction.
    pub(super) fn in_txn(&self, at: At, request: &Request, env: &mut SimEnv<'_>) {
        let Ask::InTxn { txn, step } = &request.ask else { return };
        let (open, now_ms) = (&self.node(at).open, env.now_ms);
        let done: Result<(Said, Vector), ApiError> = match step {
            Step::Read(keys) => {
                let read = |key| open.read(*txn, key, &Query::default(), now_ms);
                keys.iter().map(read).collect::<Result<Vec<_>, _>>().map(|seen| {
                    let touched = seen.last().map(|seen| seen.touched.clone()).unwrap_or_default();
                    (Said::Values(seen.into_iter().map(|seen| seen.seen.content).collect()), touched)
                })
            }
            Step::Scan(prefix) => open.scan(*txn, (SPACE, prefix), None, LIST_MAX, now_ms).map(|seen| {
                let keys = seen.seen.keys.into_iter().map(|listed| listed.key).collect();
                (Said::Keys(keys), seen.touched)
            }),
            Step::Write(ops) => open.write(*txn, ops.clone(), now_ms).map(|answer| match answer {
                Answer::Done { touched, .. } => (Said::Noted, touched),
                Answer::Refused { error, touched } => (Said::Refused(error), touched),
            }),
            Step::Abort => {
                open.abort(*txn);
                Ok((Said::Noted, Vector::new()))
            }
        };
        match done {
            Ok((said, touched)) => {
                self.check_token(at, &touched);
                self.respond(request, said, Some(&touched), env);
            }
            Err(error) => self.respond(request, Said::Refused(error), None, env),
        }
    }

    /// Commits a transaction, or asks the log what became of it if it is not open here.
    pub(super) fn commit_txn(&mut self, at: At, request: Box<Request>, env: &mut SimEnv<'_>) {
        let Ask::Commit { txn, ops, id } = &request.ask else { return };
        let session = Token::from_text(&request.token).map(|token| token.dots).unwrap_or_default();
        let commit = CommitRequest {
            txn: *txn,
            ops: ops.clone(),
            id: id.clone(),
            session,
            wait: std::time::Duration::from_millis(request.wait_ms),
        };
        match self.node(at).open.submit(commit, env.now_ms) {
            Ok(Submission::Answered(answer)) => self.committed(&request, Ok(answer), env),
            Err(error) => self.committed(&request, Err(error), env),
            Ok(Submission::Write(write, submitted)) => {
                let (life, commit) = (self.node(at).life, env.rng.next());
                let token = Token { cluster: CLUSTER, dots: write.session.clone() }.to_text();
                let relayed = Box::new(Request {
                    token,
                    wait_ms: write.wait_ms,
                    ask: Ask::Relayed { write, home: at, life, commit },
                    ..*request
                });
                self.node_mut(at).commits.insert(commit, (request, *submitted));
                env.after(WRITTEN_MS_MAX, Ev::Overdue { at, life, commit });
                self.write(at, relayed, env);
            }
        }
    }

    /// The leader answers the node that has asked it to write a commit.
    pub(super) fn relay(&self, request: &Request, written: Result<Answer, ApiError>, env: &mut SimEnv<'_>) {
        let Ask::Relayed { home, life, commit, .. } = request.ask else { return };
        let delay = Self::hop(env);
        if !env.rng.chance(self.options.answers_lost, 1000) {
            env.after(delay, Ev::Written { at: home, life, commit, written: Box::new(written) });
        }
    }

    /// The node that has the transaction learns what became of the write.
    pub(super) fn written(
        &mut self,
        at: At,
        commit: u64,
        written: Result<Answer, ApiError>,
        env: &mut SimEnv<'_>,
    ) {
        let node = self.node_mut(at);
        let Some((request, submitted)) = node.commits.remove(&commit) else { return };
        let answer = node.open.finish(submitted, written);
        self.committed(&request, answer, env);
    }

    fn committed(&self, request: &Request, answer: Result<Answer, ApiError>, env: &mut SimEnv<'_>) {
        match answer {
            Ok(Answer::Done { dot, touched, .. }) => {
                let versions = Vec::new();
                self.respond(request, Said::Done { dot, versions }, Some(&touched), env);
            }
            Ok(Answer::Refused { error, touched }) => {
                self.respond(request, Said::Refused(error), Some(&touched), env);
            }
            Err(error) if error.code == ErrorCode::OutcomeUnknown => {
                self.respond(request, Said::Unknown, None, env);
            }
            Err(error) => self.respond(request, Said::NotDone(error), None, env),
        }
    }
}
