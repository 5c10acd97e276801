//! Simulated clients that run interactive transactions: they think between their steps, lose answers, find their node
//! dead, repeat commits at other nodes, and check that they see one snapshot and their own writes.
//!
//! Each transaction that writes is one fact of the ledger, so whoever sees a part of it must see all of it, in any
//! datacenter. Lists and cells are written by the transactions of one datacenter alone, under one isolation: what these
//! promise to each other is checked by [`super::serial`].

use meridian::txn::{Isolation, Numbered, RequestId};
use meridian_client::wire::headers::Consistency;
use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{Content, CounterOp, Key, Mutation, RegisterOp, SetOp, Value, Vector};
use meridian_gossip::sim::At;

use super::clients::key_of;
use super::facts::{Facts, Group, KeyId, Outcome};
use super::knowledge::{Knowledge, is_for_the_token};
use super::options::Options;
use super::record::Asked;
use super::request::{Answered, Ask, Request, Said, Step};
use super::serial::{Committed, Serial};
use super::snapshot::Snapshot;
use super::world::{Cluster, Ev, SimEnv};
use crate::history::{Action, Outcome as Ended};

/// How many lists, and how many cells, each datacenter has for each isolation.
const SLOTS: u64 = 2;
/// How many keys each of the other groups has that transactions touch.
const OTHERS: u64 = 3;
/// How long a session waits for an answer to a step.
const STEP_MS: u64 = 300;
/// How long it waits for a snapshot, and for the answer to a commit.
const GIVE_UP_MS: u64 = 1_200;
/// How often a read in a transaction, or a commit, is tried: long enough to cross an election.
const TRIES_MAX: u32 = 12;
/// The most steps of a transaction.
const STEPS_MAX: u64 = 6;
/// How long a session may think in the middle of a transaction, now and then.
const LONG_THOUGHT_MS: u64 = 600;

/// The keys that only transactions of one datacenter and isolation write.
pub fn own_keys(dc: usize, isolation: Isolation) -> Vec<KeyId> {
    let first = (dc as u64 * 2 + u64::from(isolation == Isolation::Snapshot)) * SLOTS;
    let of = |group| (first..first + SLOTS).map(move |number| (group, number));
    of(Group::List).chain(of(Group::Cell)).collect()
}

/// The same of all datacenters.
pub fn keys(dcs: usize) -> Vec<KeyId> {
    let both = |dc| [Isolation::Serializable, Isolation::Snapshot].map(|isolation| own_keys(dc, isolation));
    (0..dcs).flat_map(both).flatten().collect()
}

/// The datacenter whose transactions alone write a key.
pub fn home_of((group, number): KeyId) -> Option<usize> {
    matches!(group, Group::List | Group::Cell).then_some((number / SLOTS / 2) as usize)
}

/// The isolation of those that write it.
pub fn isolation_of((_, number): KeyId) -> Isolation {
    if number / SLOTS % 2 == 1 { Isolation::Snapshot } else { Isolation::Serializable }
}

/// A transaction of a session.
#[derive(Clone, Debug)]
struct Txn {
    asked: Asked,
    at: At,
    /// Its id at its node; none before it has begun.
    id: Option<u64>,
    isolation: Isolation,
    level: Consistency,
    /// What its snapshot must show.
    must: Facts,
    /// The vector of its snapshot.
    vector: Vector,
    snapshot: Snapshot,
    steps_left: u64,
    /// What is asked now.
    ask: Option<Ask>,
    /// What is asked once more after some thought.
    again: Option<Ask>,
    /// The keys that are read now.
    reading: Vec<KeyId>,
    tries: u32,
    /// Whether an attempt to commit may have been done.
    unknown: bool,
}

/// A session.
#[derive(Clone, Debug)]
struct Transactor {
    knowledge: Knowledge,
    home: usize,
    attempt: u64,
    requests: u64,
    txn: Option<Txn>,
}

/// What became of transactions, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct TxnTally {
    /// Committed with writes.
    pub committed: u64,
    /// Ended well without any.
    pub read_only: u64,
    /// Refused because of others.
    pub conflicts: u64,
    /// Ended without having done anything, by choice, by conflicts, or because their node had forgotten them.
    pub not_done: u64,
    /// Of which nobody knows.
    pub unknown: u64,
    /// Whose repeated commit was answered for good.
    pub settled: u64,
}

/// All sessions that run transactions.
pub struct Transactors {
    sessions: Vec<Transactor>,
    /// What became of transactions.
    pub tally: TxnTally,
    /// What they promise to each other.
    pub serial: Serial,
}

impl Transactors {
    /// Sessions that know nothing.
    pub fn new(options: &Options) -> Transactors {
        let session = |number: usize| Transactor {
            knowledge: Knowledge::default(),
            home: number % options.nodes.len(),
            attempt: 0,
            requests: 0,
            txn: None,
        };
        let sessions = (0..options.txn_sessions).map(session).collect();
        Transactors { sessions, tally: TxnTally::default(), serial: Serial::default() }
    }

    /// Whether a transaction is open.
    pub fn busy(&self) -> bool {
        self.sessions.iter().any(|session| session.txn.is_some())
    }
}

/// Whether a transaction is no longer open where it was.
fn is_over(error: &ApiError) -> bool {
    error.code == ErrorCode::Conflict && error.details.get("reason").is_some_and(|why| why == "expired")
}

impl Cluster {
    fn transactor(&mut self, number: usize) -> &mut Transactor {
        &mut self.transactors.sessions[number]
    }

    /// A session goes on with its transaction, if it waits for nothing, or begins one.
    pub(super) fn step_txn(&mut self, number: usize, env: &mut SimEnv<'_>) {
        let think_ms = if env.rng.chance(1, 25) { LONG_THOUGHT_MS } else { 1 + self.options.think_ms / 2 };
        let delay = 1 + env.rng.below(think_ms);
        env.after(delay, Ev::Step { session: number });
        if self.tail_lost {
            return self.forget_all(env);
        }
        let chaos = self.chaos;
        match &mut self.transactor(number).txn {
            None if chaos && env.rng.chance(1, 2) => self.begin_one(number, env),
            Some(txn) if txn.ask.is_none() => {
                txn.ask = txn.again.take();
                if txn.ask.is_some() { self.send_txn(number, env) } else { self.draw_step(number, env) }
            }
            _ => {}
        }
    }

    /// A datacenter has lost what it had acknowledged: nothing is promised to transactions of its past any more. Those
    /// under way end with an unknown outcome, and no other begins.
    fn forget_all(&mut self, env: &mut SimEnv<'_>) {
        for number in 0..self.transactors.sessions.len() {
            if self.transactors.sessions[number].txn.is_some() {
                self.end_txn(number, Ended::Unknown, None, env);
            }
        }
    }

    fn begin_one(&mut self, number: usize, env: &mut SimEnv<'_>) {
        if env.rng.chance(1, 12) {
            let from = env.rng.below(self.options.sessions as u64) as usize;
            let other = self.clients.knowledge(from).clone();
            self.transactor(number).knowledge.learn(&other.token, &other.facts);
        }
        if env.rng.chance(1, 12) {
            let home = env.rng.below(self.dcs.len() as u64) as usize;
            self.transactor(number).home = home;
        }
        let dc = self.transactors.sessions[number].home;
        let isolation = if env.rng.chance(1, 3) { Isolation::Snapshot } else { Isolation::Serializable };
        let level = if env.rng.chance(1, 3) { Consistency::Linearizable } else { Consistency::Session };
        let mut must = self.transactors.sessions[number].knowledge.facts.clone();
        if level == Consistency::Linearizable {
            must.join(&self.clients.settled[dc]);
        }
        let at = At { dc, node: 1 + env.rng.below(self.options.nodes[dc]) };
        let mut asked = self.clients.record.ask(self.options.sessions + number, dc, env.now_ms);
        asked.node = at.node;
        self.transactor(number).txn = Some(Txn {
            asked,
            at,
            id: None,
            isolation,
            level,
            must,
            vector: Vector::new(),
            snapshot: Snapshot::default(),
            steps_left: 1 + env.rng.below(STEPS_MAX),
            ask: None,
            again: None,
            reading: Vec::new(),
            tries: 0,
            unknown: false,
        });
        self.ask_txn(number, Ask::Begin { isolation, level }, env);
    }

    fn draw_step(&mut self, number: usize, env: &mut SimEnv<'_>) {
        let chaos = self.chaos;
        let Some(txn) = &mut self.transactors.sessions[number].txn else { return };
        let Some(id) = txn.id else { return };
        txn.steps_left = if chaos { txn.steps_left.saturating_sub(1) } else { 0 };
        let ask = match env.rng.below(20) {
            _ if txn.steps_left == 0 => self.draw_commit(number, env),
            0 => Ask::InTxn { txn: id, step: Step::Abort },
            1..=2 => Ask::InTxn { txn: id, step: Step::Scan(["list/", "cell/"][env.rng.below(2) as usize]) },
            3..=10 => {
                let ids = self.draw_keys(number, env);
                let step = Step::Read(ids.iter().map(|id| key_of(*id)).collect());
                if let Some(txn) = &mut self.transactor(number).txn {
                    txn.reading = ids;
                }
                Ask::InTxn { txn: id, step }
            }
            _ => match self.draw_ops(number, env) {
                ops if ops.is_empty() => return,
                ops => Ask::InTxn { txn: id, step: Step::Write(ops) },
            },
        };
        self.ask_txn(number, ask, env);
    }

    /// Mostly keys that only such transactions write; else those of everybody.
    fn draw_keys(&self, number: usize, env: &mut SimEnv<'_>) -> Vec<KeyId> {
        let Some(txn) = &self.transactors.sessions[number].txn else { return Vec::new() };
        let own = own_keys(txn.at.dc, txn.isolation);
        let all = keys(self.dcs.len());
        let draw = |env: &mut SimEnv<'_>| match env.rng.below(12) {
            0 => *env.rng.pick(&all),
            1 => (Group::Log, env.rng.below(OTHERS)),
            2 => (Group::Count, env.rng.below(OTHERS)),
            3 => (Group::Register, env.rng.below(OTHERS)),
            _ => *env.rng.pick(&own),
        };
        (0..1 + env.rng.below(2)).map(|_| draw(env)).collect()
    }

    /// Draws writes to keys that the transaction has not written yet; to a list only once it has read it.
    fn draw_ops(&mut self, number: usize, env: &mut SimEnv<'_>) -> Vec<(Key, Mutation)> {
        let Cluster { transactors, clients, .. } = self;
        let session = &mut transactors.sessions[number];
        let Some(txn) = &mut session.txn else { return Vec::new() };
        let mut ops = Vec::new();
        for _ in 0..1 + env.rng.below(3) {
            let id = match env.rng.below(10) {
                0 => (Group::Log, env.rng.below(OTHERS)),
                1 => (Group::Count, env.rng.below(OTHERS)),
                2 => (Group::Register, env.rng.below(OTHERS)),
                _ => *env.rng.pick(&own_keys(txn.at.dc, txn.isolation)),
            };
            let list = if id.0 == Group::List { txn.snapshot.list_of(id) } else { Some(Vec::new()) };
            let second_count = id.0 == Group::Count && txn.snapshot.by > 0;
            let Some(mut list) = list.filter(|_| !txn.snapshot.written.contains(&id) && !second_count) else {
                continue;
            };
            let ledger = &mut clients.ledger;
            let begin = || ledger.begin(Vec::new(), session.knowledge.facts.clone(), 0, None);
            let fact = *txn.snapshot.fact.get_or_insert_with(begin);
            ledger.also(fact, id);
            let (key, value) = (key_of(id), fact as i64);
            let name = key.key.clone();
            let (mutation, action) = match id.0 {
                Group::Log => (
                    Mutation::Set(SetOp::Add(Value::Int(value))),
                    Action::Insert { key: name, element: value },
                ),
                Group::Count => {
                    let by = 1 + env.rng.below(5) as i64;
                    (txn.snapshot.by, ledger.facts[fact].by) = (by, by);
                    (Mutation::Counter(CounterOp::Add(by)), Action::Add { key: name, by })
                }
                Group::List => {
                    list.push(Value::Int(value));
                    let list = RegisterOp::Set(Value::Array(list));
                    (Mutation::Register(list), Action::Append { key: name, value })
                }
                _ => {
                    let set = RegisterOp::Set(Value::Int(value));
                    (Mutation::Register(set), Action::Set { key: name, value })
                }
            };
            txn.snapshot.written.push(id);
            txn.snapshot.actions.push(action);
            ops.push((key, mutation));
        }
        ops
    }

    fn draw_commit(&mut self, number: usize, env: &mut SimEnv<'_>) -> Ask {
        let ops = if env.rng.chance(1, 3) { self.draw_ops(number, env) } else { Vec::new() };
        let session = &mut self.transactors.sessions[number];
        session.requests += 1;
        let (count, dc) = (session.requests, session.txn.as_ref().map_or(0, |txn| txn.at.dc));
        let id = match env.rng.below(6) {
            0 => None,
            1..=2 => Some(RequestId::Free(format!("txn-{number}-{count}-{dc}"))),
            _ => Some(RequestId::Numbered(Numbered { client: number as u128 + 1, number: count })),
        };
        if let Some(fact) = session.txn.as_ref().and_then(|txn| txn.snapshot.fact) {
            self.clients.ledger.facts[fact].deps.join(&session.knowledge.facts);
        }
        let txn = session.txn.as_ref().and_then(|txn| txn.id).unwrap_or_default();
        Ask::Commit { txn, ops, id }
    }

    /// Asks something new.
    fn ask_txn(&mut self, number: usize, ask: Ask, env: &mut SimEnv<'_>) {
        if let Some(txn) = &mut self.transactor(number).txn {
            txn.ask = Some(ask);
            txn.tries = 0;
            self.send_txn(number, env);
        }
    }

    fn send_txn(&mut self, number: usize, env: &mut SimEnv<'_>) {
        let lost = env.rng.chance(self.options.answers_lost, 1000);
        let (sessions, nodes) = (self.options.sessions, self.options.nodes.clone());
        let session = self.transactor(number);
        session.attempt += 1;
        let (attempt, token) = (session.attempt, session.knowledge.token.to_text());
        let Some(txn) = &mut session.txn else { return };
        let Some(ask) = txn.ask.clone() else { return };
        txn.tries += 1;
        let mut at = txn.at;
        // A repeated commit is settled at any node, if it has a request id.
        if txn.unknown && matches!(ask, Ask::Commit { id: Some(_), .. }) && env.rng.chance(1, 2) {
            at.node = 1 + env.rng.below(nodes[at.dc]);
        }
        env.note(&format!("t{number} #{attempt} to {at}: {ask:?}"));
        let give_up_ms = if matches!(ask, Ask::InTxn { .. }) { STEP_MS } else { GIVE_UP_MS };
        let wait_ms = [0, 50, 500][env.rng.below(3) as usize];
        if !lost {
            let request = Box::new(Request { session: sessions + number, attempt, token, wait_ms, ask });
            let delay = 1 + env.rng.below(5);
            env.after(delay, Ev::Arrive { at, request });
        }
        env.after(give_up_ms, Ev::GiveUp { session: sessions + number, attempt });
    }

    pub(super) fn give_up_txn(&mut self, number: usize, attempt: u64, env: &mut SimEnv<'_>) {
        let session = &self.transactors.sessions[number];
        let waits = session.txn.as_ref().is_some_and(|txn| txn.ask.is_some());
        if session.attempt == attempt && waits {
            self.txn_answered(number, attempt, Answered { said: Said::Unknown, token: None }, env);
        }
    }

    pub(super) fn txn_answered(
        &mut self,
        number: usize,
        attempt: u64,
        answered: Answered,
        env: &mut SimEnv<'_>,
    ) {
        if self.tail_lost {
            return self.forget_all(env);
        }
        let session = self.transactor(number);
        let waits = session.txn.as_mut().filter(|_| session.attempt == attempt);
        let Some(ask) = waits.and_then(|txn| txn.ask.take()) else { return };
        env.note(&format!("t{number} #{attempt} is told {:?}", answered.said));
        if let Some(token) = answered.token {
            session.knowledge.take(token);
            session.knowledge.is_served();
        }
        match ask {
            Ask::Begin { .. } => self.begun(number, answered.said, env),
            Ask::Commit { .. } => self.commit_answered(number, ask, answered.said, env),
            Ask::InTxn { ref step, .. } => {
                let step = step.clone();
                self.step_answered(number, ask, &step, answered.said, env);
            }
            other => panic!("a transaction asks {other:?}"),
        }
    }

    fn begun(&mut self, number: usize, said: Said, env: &mut SimEnv<'_>) {
        let dcs = self.dcs.len() as u64;
        let session = self.transactor(number);
        match (said, &mut session.txn) {
            (Said::Begun { txn: id, snapshot }, Some(txn)) => {
                assert!(
                    snapshot.covers_all(&session.knowledge.token.dots),
                    "the snapshot lacks what the session knows"
                );
                (txn.id, txn.vector) = (Some(id), snapshot);
            }
            (Said::NotDone(error), _) => {
                // What it knows may be elsewhere.
                if is_for_the_token(error.code) && env.rng.chance(1, 3) {
                    session.home = env.rng.below(dcs) as usize;
                }
                if session.knowledge.is_not_served(error.code) {
                    self.clients.record.begin_anew(self.options.sessions + number);
                }
                self.transactor(number).txn = None;
            }
            (Said::Unknown, _) => session.txn = None,
            (other, _) => panic!("t{number} begins and is told {other:?}"),
        }
    }

    fn step_answered(&mut self, number: usize, ask: Ask, step: &Step, said: Said, env: &mut SimEnv<'_>) {
        let who = format!("transaction of session {number}");
        match (step, said) {
            (Step::Read(_), Said::Values(values)) => self.take_read(number, values, &who),
            (Step::Scan(prefix), Said::Keys(keys)) => self.take_scan(number, prefix, keys, &who),
            (Step::Write(_), Said::Noted) => {}
            (Step::Abort, _) => self.end_txn(number, Ended::Failed, None, env),
            (_, Said::Refused(error)) if is_over(&error) => self.end_txn(number, Ended::Failed, None, env),
            // Whether a write was taken in is not known, so it cannot be repeated: the transaction is given up.
            (Step::Write(_), Said::Unknown) | (_, Said::NotDone(_)) => {
                self.end_txn(number, Ended::Failed, None, env);
            }
            (_, Said::Unknown) => {
                let Some(txn) = &mut self.transactor(number).txn else { return };
                if txn.tries < TRIES_MAX {
                    txn.again = Some(ask);
                } else {
                    self.end_txn(number, Ended::Failed, None, env);
                }
            }
            (_, other) => panic!("{who}: it asks {step:?} and is told {other:?}"),
        }
    }

    /// All that a transaction reads is one snapshot, which shows what its session knows.
    fn take_read(&mut self, number: usize, values: Vec<Option<Content>>, who: &str) {
        let Some(txn) = &mut self.transactors.sessions[number].txn else { return };
        for (id, content) in std::mem::take(&mut txn.reading).into_iter().zip(values) {
            txn.snapshot.take(id, content, who);
        }
        let snapshot: Vec<_> = txn.snapshot.base.clone().into_iter().collect();
        let (must, level, dc) = (txn.must.clone(), txn.level, txn.at.dc);
        self.clients.ledger.check(&must, &snapshot, who);
        let shown = self.clients.ledger.check(&Facts::default(), &snapshot, who);
        self.transactor(number).knowledge.facts.join(&shown);
        if level == Consistency::Linearizable {
            self.clients.settled[dc].join(&shown);
        }
    }

    fn take_scan(&mut self, number: usize, prefix: &'static str, listed: Vec<String>, who: &str) {
        let all: Vec<(KeyId, String)> =
            keys(self.dcs.len()).into_iter().map(|id| (id, key_of(id).key)).collect();
        let Some(txn) = &mut self.transactors.sessions[number].txn else { return };
        for (fact, of) in self.clients.ledger.facts.iter().enumerate().filter(|(n, _)| txn.must.contains(*n))
        {
            let names = of.keys.iter().map(|id| key_of(*id).key).filter(|name| name.starts_with(prefix));
            for name in names {
                assert!(listed.contains(&name), "{who}: the listing lacks {name}, which holds {fact}");
            }
        }
        txn.snapshot.list(prefix, listed, &all, who);
    }

    fn commit_answered(&mut self, number: usize, ask: Ask, said: Said, env: &mut SimEnv<'_>) {
        let Some(txn) = &mut self.transactor(number).txn else { return };
        let repeated = txn.unknown;
        let has_id = matches!(ask, Ask::Commit { id: Some(_), .. });
        match said {
            Said::Done { dot, .. } => self.end_txn(number, Ended::Ok, Some(dot), env),
            Said::Refused(error) => {
                assert!(error.code == ErrorCode::Conflict, "a commit is refused with {error}");
                self.transactors.tally.conflicts += u64::from(!is_over(&error));
                self.end_txn(number, Ended::Failed, None, env);
            }
            // Without a request id a node that has started anew says the same, whatever became of an earlier attempt.
            Said::NotDone(error) if is_over(&error) && (has_id || !repeated) => {
                self.end_txn(number, Ended::Failed, None, env);
            }
            said => {
                txn.unknown |= matches!(said, Said::Unknown);
                if txn.tries < TRIES_MAX {
                    txn.again = Some(ask);
                    return;
                }
                let ended = if txn.unknown { Ended::Unknown } else { Ended::Failed };
                return self.end_txn(number, ended, None, env);
            }
        }
        self.transactors.tally.settled += u64::from(repeated);
    }

    /// A transaction has ended; `txn` is the one that it became.
    fn end_txn(
        &mut self,
        number: usize,
        outcome: Ended,
        dot: Option<Option<meridian_crdt::Dot>>,
        env: &mut SimEnv<'_>,
    ) {
        let Some(txn) = self.transactor(number).txn.take() else { return };
        self.transactor(number).attempt += 1;
        env.note(&format!("the transaction of t{number} ends: {outcome:?}"));
        self.record_txn(&txn, outcome, env.now_ms);
        let tally = &mut self.transactors.tally;
        match (outcome, txn.snapshot.fact) {
            (Ended::Ok, None) => tally.read_only += 1,
            (Ended::Ok, Some(fact)) => {
                tally.committed += 1;
                let dot = dot.flatten();
                self.clients.ledger.done(fact, dot);
                self.clients.settled[txn.at.dc].insert(fact);
                self.transactor(number).knowledge.facts.insert(fact);
                if let Some(dot) = dot {
                    self.transactors.serial.committed(committed(fact, dot, &txn));
                }
            }
            (Ended::Failed, fact) => {
                tally.not_done += 1;
                if let Some(fact) = fact {
                    self.clients.ledger.facts[fact].outcome = Outcome::Not;
                }
            }
            (Ended::Unknown, _) => tally.unknown += 1,
        }
        if env.rng.chance(1, 4) && !self.tail_lost {
            let to = env.rng.below(self.options.sessions as u64) as usize;
            let session = &self.transactors.sessions[number];
            self.clients.tell(to, &session.knowledge.token, &session.knowledge.facts);
        }
    }

    /// What a transaction has read is known in any case; what it has written only if it committed.
    fn record_txn(&mut self, txn: &Txn, outcome: Ended, now_ms: u64) {
        let (record, serial) = (&mut self.clients.record, &mut self.transactors.serial);
        let (reads, writes) = (txn.snapshot.reads(), txn.snapshot.writes());
        let asked = || txn.asked.clone();
        let (dc, isolation) = (txn.at.dc, txn.isolation);
        let current = txn.level == Consistency::Linearizable;
        if outcome == Ended::Ok && !writes.is_empty() {
            let op = asked().op(now_ms, outcome, txn.snapshot.actions.clone());
            serial.end(dc, isolation, &op, true);
            record.end_write(txn.snapshot.fact, asked(), now_ms, outcome, [reads, writes].concat());
            return;
        }
        if !reads.is_empty() {
            serial.end(dc, isolation, &asked().op(now_ms, Ended::Ok, reads.clone()), current);
            record.end(asked(), now_ms, Ended::Ok, true, reads);
        }
        if !writes.is_empty() {
            serial.end(dc, isolation, &asked().op(now_ms, outcome, writes.clone()), true);
            record.end_write(txn.snapshot.fact, asked(), now_ms, outcome, writes);
        }
    }
}

fn committed(fact: usize, dot: meridian_crdt::Dot, txn: &Txn) -> Committed {
    let weak = txn.isolation == Isolation::Snapshot;
    Committed {
        fact,
        dot,
        snapshot: txn.vector.clone(),
        keys: if weak { txn.snapshot.written.clone() } else { txn.snapshot.base.keys().copied().collect() },
        listed: if weak { Vec::new() } else { txn.snapshot.listed.keys().copied().collect() },
    }
}
