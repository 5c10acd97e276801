//! Simulated clients: sessions that move between nodes and datacenters with their tokens, ask, retry, and check what
//! they are told.

use std::collections::BTreeMap;

use meridian_client::wire::headers::Consistency;
use meridian_client::wire::{ErrorCode, Token};
use meridian_crdt::{
    Condition, Content, CounterOp, Key, Mutation, RegisterOp, SetOp, Value, Vector, Version,
};
use meridian_gossip::sim::At;

use super::draw;
use super::facts::{Facts, Group, KeyId, Ledger, Outcome};
use super::interactive;
use super::knowledge::Knowledge;
use super::options::Options;
use super::record::{Asked, Record, read_action};
use super::request::{Answered, Ask, Request, Said};
use super::world::{Cluster, Ev, SimEnv};
use crate::history::{Action, Outcome as Ended};

/// The space of all keys.
pub const SPACE: &str = "s";
/// How long a session waits for an answer.
const GIVE_UP_MS: u64 = 1_200;
/// How often a write is tried.
const TRIES_MAX: u32 = 6;
/// How many keys each group has.
const KEYS: u64 = 3;
/// How many keys there are to claim: most are claimed by somebody.
const CLAIMS: u64 = 24;
/// How many keys there are of which nothing is checked but convergence.
const LOOSE_KEYS: u64 = 8;

/// The key of a checked key.
pub fn key_of((group, number): KeyId) -> Key {
    let name = match group {
        Group::Log => "log",
        Group::Cart => "cart",
        Group::Register => "register",
        Group::Count => "count",
        Group::Claim => "claim",
        Group::Cas => "cas",
        Group::Grave => "grave",
        Group::List => "list",
        Group::Cell => "cell",
    };
    key(&format!("{name}/{number}"))
}

fn key(name: &str) -> Key {
    Key::new(SPACE, name).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// What a session is about.
#[derive(Clone, Debug)]
enum Plan {
    Read { keys: Vec<KeyId>, level: Consistency, must: Facts },
    List { level: Consistency },
    Write { fact: usize, cas: Option<Version> },
    Bury { key: KeyId },
    Loose,
}

impl Plan {
    fn fact(&self) -> Option<usize> {
        if let Plan::Write { fact, .. } = self { Some(*fact) } else { None }
    }
}

/// A write in the words of the history; carts have none, since it has no word for their removals.
fn actions(ledger: &Ledger, plan: &Plan) -> Vec<Action> {
    let Some(fact) = plan.fact() else {
        let Plan::Bury { key } = plan else { return Vec::new() };
        return vec![Action::Delete { key: key_of(*key).key }];
    };
    let action = |id: &KeyId| {
        let (key, value) = (key_of(*id).key, fact as i64);
        match id.0 {
            Group::Cart => None,
            Group::Log => Some(Action::Insert { key, element: value }),
            Group::Count => Some(Action::Add { key, by: ledger.facts[fact].by }),
            _ => Some(Action::Set { key, value }),
        }
    };
    ledger.facts[fact].keys.iter().filter_map(action).collect()
}

#[derive(Clone, Debug)]
struct Pending {
    asked: Asked,
    ask: Ask,
    plan: Plan,
    dc: usize,
    tries: u32,
    /// Whether an attempt may have been done.
    unknown: bool,
}

/// One session.
#[derive(Clone, Debug)]
struct Session {
    knowledge: Knowledge,
    home: usize,
    attempt: u64,
    requests: u64,
    versions: BTreeMap<u64, Version>,
    pending: Option<Pending>,
}

/// What clients did, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Reads that were answered.
    pub reads: u64,
    /// Writes that were acknowledged.
    pub writes: u64,
    /// Writes that were decided and refused.
    pub refused: u64,
    /// Requests that were not done.
    pub not_done: u64,
    /// Writes of which nobody knows.
    pub unknown: u64,
    /// Attempts beyond the first.
    pub retries: u64,
}

/// All sessions and what they have written.
pub struct Clients {
    sessions: Vec<Session>,
    /// What was written.
    pub ledger: Ledger,
    /// What clients did.
    pub tally: Tally,
    /// The history.
    pub record: Record,
    /// For each datacenter what was acknowledged or read linearizably there.
    pub(super) settled: Vec<Facts>,
    claims: BTreeMap<(usize, KeyId), usize>,
    swaps: BTreeMap<(usize, KeyId, u128), usize>,
}

impl Clients {
    /// Sessions that know nothing.
    pub fn new(options: &Options) -> Clients {
        let session = |number: usize| Session {
            knowledge: Knowledge::default(),
            home: number % options.nodes.len(),
            attempt: 0,
            requests: 0,
            versions: BTreeMap::new(),
            pending: None,
        };
        Clients {
            sessions: (0..options.sessions).map(session).collect(),
            ledger: Ledger::default(),
            tally: Tally::default(),
            record: Record::default(),
            settled: vec![Facts::default(); options.nodes.len()],
            claims: BTreeMap::new(),
            swaps: BTreeMap::new(),
        }
    }

    /// Whether some session waits for an answer.
    pub fn busy(&self) -> bool {
        self.sessions.iter().any(|session| session.pending.is_some())
    }

    /// A session, for somebody who takes its token over.
    pub fn knowledge(&self, number: usize) -> &Knowledge {
        &self.sessions[number].knowledge
    }

    /// A session that waits for nothing takes a token over.
    pub fn tell(&mut self, number: usize, token: &Token, known: &Facts) {
        let session = &mut self.sessions[number];
        if session.pending.is_none() {
            session.knowledge.learn(token, known);
        }
    }

    /// A datacenter has lost what is not in `left`; what is not in `elsewhere` either may be gone for good.
    pub fn lose(&mut self, dc: usize, left: &Vector, elsewhere: &[Vector], now_ms: u64) {
        let lost = self.ledger.lose(left, elsewhere);
        self.settled[dc] = Facts::default();
        self.claims.retain(|(of, _), _| *of != dc);
        self.swaps.retain(|(of, _, _), _| *of != dc);
        lost.iter().for_each(|number| self.record.lose(*number));
        for (number, session) in self.sessions.iter_mut().enumerate() {
            let gone = session
                .knowledge
                .token
                .dots
                .iter()
                .any(|dot| !left.covers(dot) && !elsewhere.iter().any(|v| v.covers(dot)));
            if gone || lost.iter().any(|number| session.knowledge.facts.contains(*number)) {
                session.knowledge.forget();
                self.record.begin_anew(number);
                // What it has asked elsewhere it asks again without its token, and so without what it knew.
                if let Some(pending) = &mut session.pending {
                    self.record.ask_anew(number, &mut pending.asked);
                    if let Some(fact) = pending.plan.fact() {
                        self.ledger.facts[fact].deps = Facts::default();
                        self.ledger.facts[fact].blind = true;
                    }
                }
            }
            session.versions.clear();
            // The memory of request ids is lost too: who repeats a write now may do it twice.
            if let Some(pending) = session.pending.take_if(|pending| pending.dc == dc) {
                session.attempt += 1;
                let (fact, actions) = (pending.plan.fact(), actions(&self.ledger, &pending.plan));
                self.record.end_write(fact, pending.asked, now_ms, Ended::Unknown, actions);
            }
        }
        for settled in &mut self.settled {
            lost.iter().for_each(|number| settled.remove(*number));
        }
    }
}

impl Cluster {
    pub(super) fn think(&mut self, number: usize, env: &mut SimEnv<'_>) {
        let delay = 1 + env.rng.below(self.options.think_ms * 2);
        env.after(delay, Ev::Think { session: number });
        if !self.chaos || self.clients.sessions[number].pending.is_some() {
            return;
        }
        if env.rng.chance(1, 30) {
            self.hand_over(number, env);
        }
        let home = self.clients.sessions[number].home;
        let dc = if env.rng.chance(1, 8) { env.rng.below(self.dcs.len() as u64) as usize } else { home };
        if env.rng.chance(1, 15) {
            self.clients.sessions[number].home = dc;
        }
        let (plan, ask) = self.draw(number, dc, env);
        let asked = self.clients.record.ask(number, dc, env.now_ms);
        self.clients.sessions[number].pending =
            Some(Pending { asked, ask, plan, dc, tries: 0, unknown: false });
        self.send(number, env);
    }

    /// Another device takes the token.
    fn hand_over(&mut self, from: usize, env: &mut SimEnv<'_>) {
        let to = env.rng.below(self.clients.sessions.len() as u64) as usize;
        let knowledge = self.clients.knowledge(from).clone();
        self.clients.tell(to, &knowledge.token, &knowledge.facts);
    }

    fn draw(&mut self, number: usize, dc: usize, env: &mut SimEnv<'_>) -> (Plan, Ask) {
        let level = match env.rng.below(10) {
            0..=5 => Consistency::Session,
            6..=7 => Consistency::Linearizable,
            _ => Consistency::Eventual,
        };
        match env.rng.below(100) {
            0..=29 => self.draw_read(level, dc, env),
            30..=33 => (Plan::List { level }, Ask::List { prefix: "log/", level }),
            34..=88 => self.draw_write(number, dc, env),
            _ => self.draw_loose(number, env),
        }
    }

    fn draw_read(&mut self, level: Consistency, dc: usize, env: &mut SimEnv<'_>) -> (Plan, Ask) {
        let groups = [Group::Log, Group::Cart, Group::Register, Group::Count, Group::Cas, Group::Grave];
        let mut keys: Vec<KeyId> = Vec::new();
        for _ in 0..1 + env.rng.below(4) {
            keys.push((*env.rng.pick(&groups), env.rng.below(KEYS)));
        }
        if env.rng.chance(1, 4) {
            keys.push((Group::Claim, env.rng.below(CLAIMS)));
        }
        if env.rng.chance(1, 3) {
            let all = interactive::keys(self.dcs.len());
            keys.extend([*env.rng.pick(&all), *env.rng.pick(&all)]);
        }
        keys.sort_unstable();
        keys.dedup();
        let ask = Ask::Read { keys: keys.iter().map(|id| key_of(*id)).collect(), level };
        let must = if level == Consistency::Linearizable {
            self.clients.settled[dc].clone()
        } else {
            Facts::default()
        };
        (Plan::Read { keys, level, must }, ask)
    }

    fn draw_write(&mut self, number: usize, dc: usize, env: &mut SimEnv<'_>) -> (Plan, Ask) {
        let next = self.clients.ledger.next();
        let value = Value::Int(next as i64);
        let slot = env.rng.below(KEYS);
        let (mut by, mut removes, mut cas, mut conditions) = (0, None, None, Vec::new());
        let add = |id: KeyId| (id, Mutation::Set(SetOp::Add(value.clone())));
        let set = |id: KeyId| (id, Mutation::Register(RegisterOp::Set(value.clone())));
        let known_element = self.known_element(number, slot);
        if env.rng.chance(1, 25) {
            let key = (Group::Grave, slot);
            let ops = vec![(key_of(key), Mutation::Delete(None))];
            return (Plan::Bury { key }, Ask::Write { id: None, conditions, ops });
        }
        let ops: Vec<(KeyId, Mutation)> = match env.rng.below(21) {
            0..=3 => vec![add((Group::Log, slot))],
            4..=6 => {
                by = 1 + env.rng.below(5) as i64;
                let count = (Group::Count, env.rng.below(KEYS));
                let other = (Group::Log, (slot + 1) % KEYS);
                vec![add((Group::Log, slot)), (count, Mutation::Counter(CounterOp::Add(by))), add(other)]
            }
            7..=9 => vec![set((Group::Register, slot))],
            10..=11 => {
                by = 1 + env.rng.below(5) as i64;
                vec![((Group::Count, slot), Mutation::Counter(CounterOp::Add(by)))]
            }
            12..=13 => vec![add((Group::Cart, slot))],
            14..=15 => match known_element {
                Some(element) => {
                    removes = Some(element);
                    let element = Value::Int(element as i64);
                    vec![((Group::Cart, slot), Mutation::Set(SetOp::Remove(element)))]
                }
                None => vec![add((Group::Cart, slot))],
            },
            20 => vec![set((Group::Grave, slot))],
            16..=17 => {
                let id = (Group::Claim, env.rng.below(CLAIMS));
                conditions.push((key_of(id), Condition::Absent));
                vec![set(id)]
            }
            _ => {
                let id = (Group::Cas, slot);
                let seen = self.clients.sessions[number].versions.get(&slot).copied();
                let version = seen.unwrap_or_default();
                cas = Some(version);
                conditions.push((key_of(id), Condition::Version(version)));
                vec![set(id)]
            }
        };
        let session = &mut self.clients.sessions[number];
        let keys = ops.iter().map(|(id, _)| *id).collect();
        let fact = self.clients.ledger.begin(keys, session.knowledge.facts.clone(), by, removes);
        let id = (!env.rng.chance(1, 5)).then(|| {
            session.requests += 1;
            format!("{number}-{}-{dc}", session.requests)
        });
        let ops = ops.into_iter().map(|(id, mutation)| (key_of(id), mutation)).collect();
        (Plan::Write { fact, cas }, Ask::Write { id, conditions, ops })
    }

    /// An element of a cart that the session knows and has not removed.
    fn known_element(&self, number: usize, slot: u64) -> Option<usize> {
        let (session, ledger) = (&self.clients.sessions[number], &self.clients.ledger);
        let mut facts = ledger.facts.iter().enumerate().rev();
        let free = |fact: &super::facts::Fact| {
            fact.keys == [(Group::Cart, slot)]
                && fact.removes.is_none()
                && !fact.removed_by.iter().any(|removal| session.knowledge.facts.contains(*removal))
        };
        facts.find(|(n, fact)| session.knowledge.facts.contains(*n) && free(fact)).map(|(n, _)| n)
    }

    fn draw_loose(&mut self, number: usize, env: &mut SimEnv<'_>) -> (Plan, Ask) {
        let mut ops = Vec::new();
        for _ in 0..1 + env.rng.below(4) {
            let index = env.rng.below(LOOSE_KEYS);
            ops.push((key(&format!("loose/{index}")), draw::mutation(env.rng, index)));
        }
        let mut conditions = Vec::new();
        if env.rng.chance(1, 4) {
            let key = key(&format!("loose/{}", env.rng.below(LOOSE_KEYS)));
            conditions.push((key, if env.rng.chance(1, 2) { Condition::Absent } else { Condition::Exists }));
        }
        let session = &mut self.clients.sessions[number];
        session.requests += 1;
        let id = Some(format!("loose-{number}-{}", session.requests));
        (Plan::Loose, Ask::Write { id, conditions, ops })
    }

    /// Sends what is pending to some node.
    fn send(&mut self, number: usize, env: &mut SimEnv<'_>) {
        let lost = env.rng.chance(self.options.answers_lost, 1000);
        let session = &mut self.clients.sessions[number];
        session.attempt += 1;
        let attempt = session.attempt;
        let Some(pending) = &mut session.pending else { return };
        pending.tries += 1;
        self.clients.tally.retries += u64::from(pending.tries > 1);
        let dc = pending.dc;
        let node = 1 + env.rng.below(self.options.nodes[dc]);
        pending.asked.node = node;
        let wait_ms = [0, 50, 500][env.rng.below(3) as usize];
        let token = session.knowledge.token.to_text();
        let request =
            Box::new(Request { session: number, attempt, token, wait_ms, ask: pending.ask.clone() });
        env.note(&format!("s{number} #{attempt} to {dc}/{node}: {:?}", pending.ask));
        if !lost {
            let delay = 1 + env.rng.below(5);
            env.after(delay, Ev::Arrive { at: At { dc, node }, request });
        }
        env.after(GIVE_UP_MS, Ev::GiveUp { session: number, attempt });
    }

    pub(super) fn give_up(&mut self, number: usize, attempt: u64, env: &mut SimEnv<'_>) {
        if let Some(number) = number.checked_sub(self.options.sessions) {
            return self.give_up_txn(number, attempt, env);
        }
        let session = &self.clients.sessions[number];
        if session.attempt == attempt && session.pending.is_some() {
            self.answered(number, attempt, Answered { said: Said::Unknown, token: None }, env);
        }
    }

    pub(super) fn answered(&mut self, number: usize, attempt: u64, answered: Answered, env: &mut SimEnv<'_>) {
        if let Some(number) = number.checked_sub(self.options.sessions) {
            return self.txn_answered(number, attempt, answered, env);
        }
        let session = &mut self.clients.sessions[number];
        if session.attempt != attempt {
            return;
        }
        let Some(mut pending) = session.pending.take() else { return };
        env.note(&format!("s{number} #{attempt} is told {:?}", answered.said));
        if let Some(token) = answered.token {
            session.knowledge.take(token);
        }
        let who = format!("session {number} at {}, request {attempt}", pending.dc);
        match answered.said {
            Said::Values(values) => self.take_values(number, pending, values, env.now_ms, &who),
            Said::Keys(keys) => self.take_listing(number, &pending, &keys, &who),
            Said::Done { dot, versions } => {
                self.clients.tally.writes += 1;
                self.clients.sessions[number].knowledge.is_served();
                self.ended(&pending, Ended::Ok, env.now_ms);
                let Plan::Write { fact, cas } = pending.plan else { return };
                self.clients.ledger.done(fact, dot);
                self.clients.sessions[number].knowledge.facts.insert(fact);
                self.clients.settled[pending.dc].insert(fact);
                self.check_unique(number, pending.dc, fact, cas, versions, &who);
            }
            Said::Refused(error) => {
                self.clients.tally.refused += 1;
                let expected = [ErrorCode::PreconditionFailed, ErrorCode::WrongType, ErrorCode::Overflow];
                assert!(expected.contains(&error.code), "{who}: refused with {error}");
                self.ended(&pending, Ended::Failed, env.now_ms);
                if let Plan::Write { fact, cas } = pending.plan {
                    assert!(error.code == ErrorCode::PreconditionFailed, "{who}: refused with {error}");
                    self.clients.ledger.facts[fact].outcome = Outcome::Not;
                    if let (Some(_), Some((_, slot))) = (cas, self.clients.ledger.facts[fact].keys.first()) {
                        self.clients.sessions[number].versions.remove(slot);
                    }
                }
            }
            Said::NotDone(error) => {
                self.clients.tally.not_done += 1;
                self.stuck(number, error.code);
                // Where it would have to wait for long, a session does something else, unless it must know.
                if error.code == ErrorCode::NotCaughtUp && !pending.unknown {
                    pending.tries = TRIES_MAX;
                }
                self.again_or_end(number, pending, env);
            }
            Said::Begun { .. } | Said::Noted => panic!("{who}: it has no transaction"),
            Said::Unknown => {
                pending.unknown = true;
                self.again_or_end(number, pending, env);
            }
        }
    }

    fn stuck(&mut self, number: usize, code: ErrorCode) {
        let session = &mut self.clients.sessions[number];
        if session.knowledge.is_not_served(code) {
            session.versions.clear();
            self.clients.record.begin_anew(number);
        }
    }

    /// Repeats a write that has an id in its datacenter, some times; else it ends, and only one of which no attempt
    /// can have been done is known not to be there.
    fn again_or_end(&mut self, number: usize, pending: Pending, env: &mut SimEnv<'_>) {
        let repeatable = matches!(&pending.ask, Ask::Write { id: Some(_), .. });
        if repeatable && pending.tries < TRIES_MAX {
            self.clients.sessions[number].pending = Some(pending);
            self.send(number, env);
            return;
        }
        let outcome = if pending.unknown { Ended::Unknown } else { Ended::Failed };
        self.ended(&pending, outcome, env.now_ms);
        if let Plan::Write { fact, .. } = pending.plan {
            self.clients.tally.unknown += u64::from(pending.unknown);
            if !pending.unknown {
                self.clients.ledger.facts[fact].outcome = Outcome::Not;
            }
        }
    }

    /// A write has ended.
    fn ended(&mut self, pending: &Pending, outcome: Ended, now_ms: u64) {
        let actions = actions(&self.clients.ledger, &pending.plan);
        let (fact, asked) = (pending.plan.fact(), pending.asked.clone());
        self.clients.record.end_write(fact, asked, now_ms, outcome, actions);
    }

    fn take_values(
        &mut self,
        number: usize,
        pending: Pending,
        values: Vec<Option<Content>>,
        now_ms: u64,
        who: &str,
    ) {
        self.clients.tally.reads += 1;
        let Plan::Read { keys, level, mut must } = pending.plan else { return };
        let session = &mut self.clients.sessions[number];
        session.knowledge.is_served();
        if level != Consistency::Eventual {
            must.join(&session.knowledge.facts);
        }
        for (id, content) in keys.iter().zip(&values).filter(|(id, _)| id.0 == Group::Cas) {
            session.versions.insert(id.1, content.as_ref().map_or(Version(0), |c| c.version));
        }
        let snapshot: Vec<_> = keys.into_iter().zip(values).collect();
        let actions: Vec<_> = snapshot.iter().filter_map(|(id, c)| read_action(*id, c.as_ref())).collect();
        let demands = level != Consistency::Eventual;
        self.clients.record.end(pending.asked, now_ms, Ended::Ok, demands, actions);
        let who = format!("{who}, {} read", level.as_str());
        self.clients.ledger.check(&must, &snapshot, &who);
        let shown = shown(&self.clients.ledger, &snapshot);
        self.clients.sessions[number].knowledge.facts.join(&shown);
        if level == Consistency::Linearizable {
            self.clients.settled[pending.dc].join(&shown);
        }
    }

    /// A listing shows every key of which the session knows that it exists.
    fn take_listing(&mut self, number: usize, pending: &Pending, keys: &[String], who: &str) {
        self.clients.tally.reads += 1;
        let Plan::List { level } = pending.plan else { return };
        let session = &self.clients.sessions[number];
        if level == Consistency::Eventual {
            return;
        }
        for (fact, of) in self.clients.ledger.facts.iter().enumerate() {
            for id in of.keys.iter().filter(|id| id.0 == Group::Log && session.knowledge.facts.contains(fact))
            {
                let name = key_of(*id).key;
                assert!(keys.contains(&name), "{who}: the listing lacks {name}, which holds {fact}");
            }
        }
    }

    /// Of all that claim a key, or replace one version of it, one in each datacenter succeeds.
    fn check_unique(
        &mut self,
        number: usize,
        dc: usize,
        fact: usize,
        cas: Option<Version>,
        versions: Vec<Version>,
        who: &str,
    ) {
        let Some(id) = self.clients.ledger.facts[fact].keys.first().copied() else { return };
        let clients = &mut self.clients;
        if id.0 == Group::Claim {
            let winner = *clients.claims.entry((dc, id)).or_insert(fact);
            assert_eq!(winner, fact, "{who}: {id:?} is claimed twice");
        }
        if let Some(version) = cas {
            let winner = *clients.swaps.entry((dc, id, version.0)).or_insert(fact);
            assert_eq!(winner, fact, "{who}: version {version} of {id:?} is replaced twice");
            if let Some(version) = versions.first() {
                clients.sessions[number].versions.insert(id.1, *version);
            }
        }
    }
}

/// What a snapshot tells whoever reads it: the facts that it shows and what these depend on.
fn shown(ledger: &Ledger, snapshot: &[(KeyId, Option<Content>)]) -> Facts {
    ledger.check(&Facts::default(), snapshot, "the same snapshot")
}
