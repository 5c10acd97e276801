//! What nodes do with requests: the node's own way from a session's token to its answer, without sockets.

use meridian::txn::{Answer, ClientTxn, Item, Outcome};
use meridian_client::wire::headers::Consistency;
use meridian_client::wire::{ApiError, ErrorCode, Token};
use meridian_crdt::{Query, Vector, list, read};
use meridian_gossip::sim::At;

use super::node::{Queued, Ticket, Waiting};
use super::request::{Answered, Ask, CLUSTER, Request, Said};
use super::world::{Cluster, Ev, SimEnv};

/// The most keys of a listing.
const LIST_MAX: usize = 1000;
/// How long a step between two nodes of a datacenter takes at most.
const HOP_MS_MAX: u64 = 5;
/// How long it stalls now and then: long enough that whoever waits has given up and asked again.
const STALL_MS_MAX: u64 = 2_500;

pub(super) fn error(code: ErrorCode) -> ApiError {
    ApiError::new(code, code.meaning())
}

/// The log has decided nothing: the datacenter has not begun a life, or lacks what it has told to have.
fn is_undecided(error: &ApiError) -> bool {
    matches!(error.code, ErrorCode::NoLeader | ErrorCode::NotCaughtUp)
}

impl Cluster {
    pub(super) fn hop(env: &mut SimEnv<'_>) -> u64 {
        1 + env.rng.below(HOP_MS_MAX)
    }

    pub(super) fn respond(&self, request: &Request, said: Said, seen: Option<&Vector>, env: &mut SimEnv<'_>) {
        let token = seen.and_then(|seen| {
            let mut token = Token::from_text(&request.token).ok()?;
            token.dots.join(seen);
            Some(token)
        });
        let delay = Self::hop(env);
        if !env.rng.chance(self.options.answers_lost, 1000) {
            let answered = Box::new(Answered { said, token });
            env.after(delay, Ev::Answer { session: request.session, attempt: request.attempt, answered });
        }
    }

    pub(super) fn not_done(&self, request: &Request, code: ErrorCode, env: &mut SimEnv<'_>) {
        if let Ask::Relayed { .. } = request.ask {
            return self.relay(request, Err(error(code)), env);
        }
        self.respond(request, Said::NotDone(error(code)), None, env);
    }

    /// The dots of a token, if it is of this cluster and names only lives that the node knows or may come to know.
    fn dots(&self, at: At, request: &Request) -> Result<Vector, ErrorCode> {
        let token = Token::from_text(&request.token).map_err(|e| e.code)?;
        let state = &self.node(at).state;
        let all_met = state.own.is_some()
            && state.members.len() + 1 == self.dcs.len()
            && state.members.values().all(|peer| peer.origin.is_some());
        let unknown = token.dots.iter().any(|dot| !state.chains.contains_key(&dot.origin));
        if token.cluster != CLUSTER || (all_met && unknown) {
            return Err(ErrorCode::ForeignToken);
        }
        Ok(token.dots)
    }

    pub(super) fn arrive(&mut self, at: At, request: Box<Request>, env: &mut SimEnv<'_>) {
        let node = self.node(at);
        if !node.up {
            return self.not_done(&request, ErrorCode::NoLeader, env);
        }
        let dots = match self.dots(at, &request) {
            Ok(dots) => dots,
            Err(code) => {
                assert!(self.tail_lost, "a token of this cluster is refused: {code}");
                return self.not_done(&request, code, env);
            }
        };
        match &request.ask {
            Ask::Read { level, .. } | Ask::List { level, .. } | Ask::Begin { level, .. } => match level {
                Consistency::Eventual => self.serve(at, &request, env),
                _ if !node.ready => self.not_done(&request, ErrorCode::NoQuorum, env),
                Consistency::Session => self.wait(at, request, 0, dots, env),
                Consistency::Linearizable if node.speaks() => self.read_index(at, at, request, env),
                Consistency::Linearizable => self.pass_on(at, request, env),
            },
            Ask::InTxn { .. } => self.in_txn(at, &request, env),
            Ask::Commit { .. } => self.commit_txn(at, request, env),
            Ask::Write { .. } | Ask::Relayed { .. } => self.write(at, request, env),
        }
    }

    /// Has a write decided by the leader.
    pub(super) fn write(&mut self, at: At, request: Box<Request>, env: &mut SimEnv<'_>) {
        if self.node(at).speaks() {
            self.lead_write(at, request, env);
        } else {
            self.pass_on(at, request, env);
        }
    }

    /// A follower asks the leader that it knows.
    fn pass_on(&self, at: At, request: Box<Request>, env: &mut SimEnv<'_>) {
        let Some(node) = self.node(at).leader.filter(|leader| *leader != at.node) else {
            return self.not_done(&request, ErrorCode::NoLeader, env);
        };
        if self.node(at).deaf_until_ms <= env.now_ms {
            let stalls = if env.rng.chance(1, 50) { env.rng.below(STALL_MS_MAX) } else { 0 };
            let delay = Self::hop(env) + stalls;
            let leader = At { dc: at.dc, node };
            let life = self.node(leader).life;
            env.after(delay, Ev::Forwarded { at: leader, life, via: at, request });
        }
    }

    pub(super) fn forwarded(&mut self, at: At, via: At, request: Box<Request>, env: &mut SimEnv<'_>) {
        let node = self.node(at);
        if !node.up || node.deaf_until_ms > env.now_ms {
            return;
        }
        if !node.speaks() {
            return self.not_done(&request, ErrorCode::NoLeader, env);
        }
        match &request.ask {
            Ask::Write { .. } | Ask::Relayed { .. } => self.lead_write(at, request, env),
            _ => self.read_index(at, via, request, env),
        }
    }

    /// A leader notes its index and confirms with a majority that it leads still.
    fn read_index(&self, leader: At, at: At, request: Box<Request>, env: &mut SimEnv<'_>) {
        let Some(reign) = &self.node(leader).reign else { return };
        let (term, index, life) = (reign.term, self.node(leader).heard, self.node(at).life);
        let delay = Self::hop(env) + Self::hop(env);
        env.after(delay, Ev::Confirmed { at, life, leader: leader.node, term, index, request });
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn confirmed(
        &mut self,
        at: At,
        life: u64,
        leader: u64,
        term: u64,
        index: u64,
        request: Box<Request>,
        env: &mut SimEnv<'_>,
    ) {
        let dc = &self.dcs[at.dc];
        if dc.node(at.node).life != life {
            return;
        }
        if !dc.really_leads(leader, term) || !dc.has_majority(env.now_ms) {
            return self.not_done(&request, ErrorCode::NoQuorum, env);
        }
        match self.dots(at, &request) {
            Ok(dots) => self.wait(at, request, index, dots, env),
            Err(code) => self.not_done(&request, code, env),
        }
    }

    fn lead_write(&mut self, at: At, request: Box<Request>, env: &mut SimEnv<'_>) {
        if !self.node(at).clock_safe {
            return self.not_done(&request, ErrorCode::ClockUnsafe, env);
        }
        if self.dcs[at.dc].quarantine.is_some() {
            return self.not_done(&request, ErrorCode::NoLeader, env);
        }
        match self.dots(at, &request) {
            Ok(dots) => self.wait(at, request, 0, dots, env),
            Err(code) => self.not_done(&request, code, env),
        }
    }

    fn wait(&mut self, at: At, request: Box<Request>, index: u64, dots: Vector, env: &mut SimEnv<'_>) {
        let until_ms = env.now_ms + request.wait_ms;
        env.after(request.wait_ms, Ev::Expire { at, life: self.node(at).life });
        self.node_mut(at).waiting.push(Waiting { request, index, dots, until_ms });
        self.serve_waiting(at, env);
    }

    /// Serves what waits and may be served, and gives up what has waited too long.
    pub(super) fn serve_waiting(&mut self, at: At, env: &mut SimEnv<'_>) {
        let node = self.node_mut(at);
        let mut ready = Vec::new();
        let mut late = Vec::new();
        for waiting in std::mem::take(&mut node.waiting) {
            if node.applied >= waiting.index && node.state.vector.covers_all(&waiting.dots) {
                ready.push(waiting);
            } else if env.now_ms >= waiting.until_ms {
                late.push(waiting);
            } else {
                node.waiting.push(waiting);
            }
        }
        for waiting in late {
            self.not_done(&waiting.request, ErrorCode::NotCaughtUp, env);
        }
        for Waiting { request, .. } in ready {
            match &request.ask {
                Ask::Write { .. } | Ask::Relayed { .. } if !self.node(at).speaks() => {
                    self.not_done(&request, ErrorCode::NoLeader, env);
                }
                Ask::Write { id, conditions, ops } => {
                    let txn = ClientTxn {
                        id: id.clone(),
                        conditions: conditions.clone(),
                        ops: ops.clone(),
                        ..ClientTxn::default()
                    };
                    let queued = Queued { item: Item::Client(txn), ticket: Ticket::Client(request) };
                    self.submit(at, vec![queued], env);
                }
                Ask::Relayed { write, .. } => {
                    let item = Item::Client(write.to_txn());
                    self.submit(at, vec![Queued { item, ticket: Ticket::Client(request) }], env);
                }
                _ => self.serve(at, &request, env),
            }
        }
    }

    /// Answers a read from the node's rows.
    fn serve(&self, at: At, request: &Request, env: &mut SimEnv<'_>) {
        let node = self.node(at);
        let mut seen = Vector::new();
        let said = match &request.ask {
            Ask::Read { keys, .. } => {
                let mut values = Vec::new();
                for key in keys {
                    let reading = read(&node.rows, key, &Query::default())
                        .unwrap_or_else(|e| panic!("a row cannot be read: {e}"));
                    // A key without dots may have been forgotten by stability.
                    seen.join(if reading.touched.is_empty() { &node.state.stable } else { &reading.touched });
                    values.push(reading.content);
                }
                Said::Values(values)
            }
            Ask::List { prefix, .. } => {
                let listing = list(&node.rows, super::clients::SPACE, prefix, None, LIST_MAX)
                    .unwrap_or_else(|e| panic!("a row cannot be read: {e}"));
                seen.join(&node.state.vector);
                Said::Keys(listing.keys.into_iter().map(|listed| listed.key).collect())
            }
            Ask::Begin { isolation, .. } => return self.begin_txn(at, request, *isolation, env),
            _ => return,
        };
        self.check_token(at, &seen);
        self.respond(request, said, Some(&seen), env);
    }

    /// I7: what an answer adds to a token is held by a majority.
    pub(super) fn check_token(&self, at: At, seen: &Vector) {
        let (node, dc) = (self.node(at), &self.dcs[at.dc]);
        assert!(
            node.state.vector.covers_all(seen) && node.applied <= dc.committed,
            "I7: an answer of {at} demands {seen:?} above {:?}",
            node.state.vector
        );
    }

    /// What a client learns of its write.
    pub(super) fn answer_write(
        &mut self,
        at: At,
        request: Request,
        outcome: Result<Outcome, bool>,
        env: &mut SimEnv<'_>,
    ) {
        if let Ask::Relayed { .. } = request.ask {
            let written = match outcome {
                Ok(Outcome::Client(answer)) => Ok(answer),
                Ok(other) => panic!("a commit got the outcome of something else: {other:?}"),
                Err(proposed) => {
                    Err(error(if proposed { ErrorCode::OutcomeUnknown } else { ErrorCode::NoLeader }))
                }
            };
            return self.relay(&request, written, env);
        }
        match outcome {
            Ok(Outcome::Client(Answer::Done { dot, results, touched })) => {
                self.check_token(at, &touched);
                let versions = results.iter().map(|result| result.version).collect();
                self.respond(&request, Said::Done { dot, versions }, Some(&touched), env);
            }
            Ok(Outcome::Client(Answer::Refused { error, .. })) if is_undecided(&error) => {
                self.respond(&request, Said::NotDone(error), None, env);
            }
            Ok(Outcome::Client(Answer::Refused { error, touched })) => {
                self.check_token(at, &touched);
                self.respond(&request, Said::Refused(error), Some(&touched), env);
            }
            Ok(other) => panic!("a write got the outcome of something else: {other:?}"),
            Err(true) => self.respond(&request, Said::Unknown, None, env),
            Err(false) => self.not_done(&request, ErrorCode::NoLeader, env),
        }
    }
}
