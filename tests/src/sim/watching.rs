//! Simulated watchers: they take changes from a cursor onward, lose their connection, come back late, at another node or in
//! another datacenter, and are told when their cursor has expired.
//!
//! What a node does for them is the production code of [`meridian::watch::stream`]. A watcher keeps the cursor that it was
//! told last, as text, and what its session then depends on. Beside what the checker of streams finds in the history, it
//! is checked that every acknowledged txn was shown unless it lies in a gap that the watcher was told of.

use std::collections::BTreeSet;

use meridian::txn::oplog::ReadBounds;
use meridian::watch::recent::FetchError;
use meridian::watch::stream::{Shown, Step, Stream};
use meridian::watch::walk::{Expired, What};
use meridian_client::wire::{Cursor, Token};
use meridian_crdt::{Dot, Mutation, RegisterOp, SetOp, Value, Vector};
use meridian_gossip::sim::At;

use super::clients::{SPACE, key_of};
use super::facts::{Facts, Group, KeyId, Ledger};
use super::request::CLUSTER;
use super::world::{Cluster, Ev, SimEnv};
use crate::checkers::watch::{Event, Pasts};
use crate::checkers::{Law, Violation, watch};
use crate::history::History;

/// How often a watcher takes what there is, at most, in milliseconds.
const LOOK_MS_MAX: u64 = 60;
/// Txns that a watcher takes at a time.
const STEPS_MAX: u64 = 20;
/// What a node reads at a time.
const BOUNDS: ReadBounds = ReadBounds { bytes_max: 1_500, txns_max: 40 };

/// What watchers saw, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct WatchTally {
    /// Txns shown.
    pub shown: u64,
    /// Connections after the first.
    pub resumed: u64,
    /// Cursors that had expired.
    pub expired: u64,
}

/// One watcher.
#[derive(Debug)]
pub struct Watcher {
    /// Its number.
    pub number: usize,
    /// What it saw, in numbers.
    pub tally: WatchTally,
    what: What,
    /// The cursor that it was told last; none before the first.
    cursor: Option<String>,
    token: Token,
    /// The node in its life that it is connected to, and what that does for it.
    stream: Option<(At, u64, Stream)>,
    /// What was before its beginning.
    began: Vector,
    /// From where to where it was told that something may be missing.
    gaps: Vec<(Vector, Vector)>,
    shown: BTreeSet<Dot>,
    events: Vec<Event>,
}

impl Watcher {
    /// A watcher: of everything, of a group or of a key, from the first txn on; every fourth from when it comes.
    pub fn new(number: usize) -> Watcher {
        let what = match number % 4 {
            1 => What::Prefix("log/".into()),
            2 => What::Key(key_of((Group::Register, 0)).key),
            _ => What::Prefix(String::new()),
        };
        let everything = Cursor::new(CLUSTER, Vector::new()).to_text();
        Watcher {
            number,
            tally: WatchTally::default(),
            what,
            cursor: (number % 4 < 3).then_some(everything),
            token: Token::new(CLUSTER),
            stream: None,
            began: Vector::new(),
            gaps: Vec::new(),
            shown: BTreeSet::new(),
            events: Vec::new(),
        }
    }

    fn position(&self) -> Vector {
        let cursor = self.cursor.as_ref().map(|text| Cursor::from_text(text));
        cursor.map_or_else(Vector::new, |cursor| {
            cursor.unwrap_or_else(|e| panic!("a cursor that was told: {e}")).vector
        })
    }

    /// Whether it has been through all of it.
    pub fn has_seen(&self, vector: &Vector) -> bool {
        self.position().covers_all(vector)
    }

    fn watches(&self, key: &str) -> bool {
        match &self.what {
            What::Key(own) => key == own,
            What::Prefix(prefix) => key.starts_with(prefix.as_str()),
        }
    }

    /// It is told where it stands.
    fn told(&mut self) {
        if let Some((_, _, stream)) = &self.stream {
            let before = self.position();
            assert!(stream.cursor().covers_all(&before), "the cursor of watcher {} falls", self.number);
            self.cursor = Some(Cursor::new(CLUSTER, stream.cursor().clone()).to_text());
            self.token.dots.join(stream.session());
        }
    }

    /// It is told that what comes after its cursor is no longer kept, and where to go on.
    fn gap(&mut self, Expired(fresh): Expired) {
        let before = self.position();
        assert!(fresh.covers_all(&before), "watcher {} is sent back", self.number);
        self.tally.expired += 1;
        self.stream = None;
        self.cursor = Some(Cursor::new(CLUSTER, (*fresh).clone()).to_text());
        self.gaps.push((before, *fresh));
    }

    /// It receives a txn. The facts that it shows.
    fn receive(&mut self, shown: &Shown) -> BTreeSet<usize> {
        self.tally.shown += 1;
        let event: Event = shown.changes.iter().flat_map(|(key, ops)| values(key, ops)).collect();
        assert!(self.shown.insert(shown.dot), "watcher {} is shown {} twice", self.number, shown.dot);
        for (key, _) in &shown.changes {
            assert!(self.watches(key), "watcher {} is shown {key}", self.number);
        }
        let facts = event.iter().map(|(_, value)| *value as usize).collect();
        if !event.is_empty() {
            self.events.push(event);
        }
        facts
    }

    fn may_lack(&self, dot: Dot) -> bool {
        self.began.covers(dot) || self.gaps.iter().any(|(from, to)| !from.covers(dot) && to.covers(dot))
    }

    /// Every way in which what it was shown contradicts what clients were told.
    pub fn violations(
        &self,
        history: &History,
        pasts: &Pasts,
        ledger: &Ledger,
        tail_lost: bool,
    ) -> Vec<Violation> {
        let told = |key: &str| self.watches(key) && group_of(key).is_some();
        let mut violations = watch::check_among(history, pasts, told, &self.events);
        let whole = self.began.is_empty() && self.gaps.is_empty();
        // Sessions of a datacenter that has lost its tail repeat nothing, but their order is no longer that of its txns.
        violations.retain(|found| {
            (whole || found.law != Law::Lost) && (!tail_lost || found.law != Law::StreamOrder)
        });
        for (number, fact) in ledger.facts.iter().enumerate() {
            let Some(dot) = fact.dot else { continue };
            let concerned = fact.keys.iter().any(|id: &KeyId| self.watches(&key_of(*id).key));
            if concerned && !self.shown.contains(&dot) && !self.may_lack(dot) {
                let story = format!("{number}, which is {dot}, was never shown, and no gap was told");
                violations.push(Violation::new(Law::Lost, story));
            }
        }
        violations
    }
}

/// The group of a key for whose writes the history has words with values of their own.
fn group_of(key: &str) -> Option<&str> {
    let (group, _) = key.split_once('/')?;
    ["log", "register", "claim", "cas", "grave", "list", "cell"].contains(&group).then_some(group)
}

/// The writes of facts among the mutations of a key.
fn values(key: &str, ops: &[Mutation]) -> Event {
    if group_of(key).is_none() {
        return Event::new();
    }
    let number = |value: &Value| match value {
        Value::Int(number) => Some(*number),
        Value::Array(values) => match values.last() {
            Some(Value::Int(number)) => Some(*number),
            _ => None,
        },
        _ => None,
    };
    let mut found = Event::new();
    for op in ops {
        let written = match op {
            Mutation::Register(RegisterOp::Set(value)) | Mutation::Set(SetOp::Add(value)) => number(value),
            _ => None,
        };
        found.extend(written.map(|number| (key.to_owned(), number)));
    }
    found
}

impl Cluster {
    /// A watcher takes what there is, or connects to some node.
    pub(super) fn look(&mut self, number: usize, env: &mut SimEnv<'_>) {
        let mut delay = 1 + env.rng.below(LOOK_MS_MAX);
        let connected = self.watchers[number].stream.as_ref().map(|(at, life, _)| (*at, *life));
        match connected {
            Some((at, life)) if self.node(at).up && self.node(at).life == life => {
                if self.chaos && env.rng.chance(1, 15) {
                    env.note(&format!("w{number} leaves {at}"));
                    self.watchers[number].stream = None;
                    delay = 1 + env.rng.below(self.options.away_ms);
                } else {
                    self.read_on(number, at, env);
                }
            }
            _ => {
                self.watchers[number].stream = None;
                self.connect(number, env);
            }
        }
        env.after(delay, Ev::Look { watcher: number });
    }

    /// Some node is asked to go on from the watcher's cursor.
    fn connect(&mut self, number: usize, env: &mut SimEnv<'_>) {
        let dc = env.rng.below(self.dcs.len() as u64) as usize;
        let at = At { dc, node: 1 + env.rng.below(self.options.nodes[dc]) };
        let node = self.dcs[at.dc].node(at.node);
        let watcher = &mut self.watchers[number];
        if !node.up || !node.ready {
            return;
        }
        if !node.state.vector.covers_all(&watcher.token.dots) {
            if self.tail_lost {
                // What its session has seen may be gone for good.
                watcher.token = Token::new(CLUSTER);
            }
            return;
        }
        let from = watcher.cursor.is_some().then(|| watcher.position());
        if let Some(dot) = from.as_ref().and_then(|from| node.state.foreign_dot(from)) {
            assert!(self.tail_lost, "a cursor of this cluster is refused because of {dot}");
            return;
        }
        let session = watcher.token.dots.clone();
        let stream = Stream::begin(SPACE.into(), watcher.what.clone(), from, session, &node.state);
        let life = node.life;
        let watcher = &mut self.watchers[number];
        match stream {
            Ok(stream) => {
                env.note(&format!("w{number} watches at {at} from {:?}", stream.cursor()));
                if watcher.cursor.is_none() {
                    watcher.began = stream.cursor().clone();
                }
                watcher.tally.resumed += 1;
                watcher.stream = Some((at, life, stream));
                watcher.told();
            }
            Err(expired) => {
                env.note(&format!("w{number} has expired at {at}, and goes on from {:?}", expired.0));
                watcher.gap(expired);
            }
        }
    }

    /// The node reads on for the watcher and tells it some of what it finds, until the connection breaks.
    fn read_on(&mut self, number: usize, at: At, env: &mut SimEnv<'_>) {
        let Cluster { watchers, dcs, .. } = self;
        let (node, watcher) = (dcs[at.dc].node(at.node), &mut watchers[number]);
        let Some((_, _, stream)) = &mut watcher.stream else { return };
        if stream.is_behind(node.state.oplog_end) {
            match stream.fetch(&node.recent, || Ok(&node.rows), BOUNDS) {
                Ok(_) => {}
                Err(FetchError::Expired(expired)) => {
                    env.note(&format!("w{number} expires at {at}, and goes on from {:?}", expired.0));
                    return watcher.gap(expired);
                }
                Err(error) => panic!("a watch cannot be read: {error}"),
            }
        }
        let mut facts = BTreeSet::new();
        for _ in 0..1 + env.rng.below(STEPS_MAX) {
            let Some((_, _, stream)) = &mut watcher.stream else { break };
            match stream.step().unwrap_or_else(|e| panic!("a txn of the oplog: {e}")) {
                None => break,
                Some(Step::Known | Step::Unwatched) => {}
                Some(Step::Shown(_)) if self.chaos && env.rng.chance(1, 60) => {
                    env.note(&format!("w{number} loses its connection to {at}"));
                    watcher.stream = None;
                }
                Some(Step::Shown(shown)) => {
                    env.note(&format!("w{number} is shown {}", shown.dot));
                    facts.extend(watcher.receive(&shown));
                    watcher.told();
                }
            }
        }
        if !self.chaos || env.rng.chance(1, 5) {
            watcher.told();
        }
        self.tell_seen(number, &facts, env);
    }

    /// Somebody else takes the watcher's token over and must see what it was shown.
    fn tell_seen(&mut self, number: usize, facts: &BTreeSet<usize>, env: &mut SimEnv<'_>) {
        if facts.is_empty() || self.tail_lost || !env.rng.chance(1, 4) {
            return;
        }
        let mut known = Facts::default();
        for fact in facts {
            known.insert(*fact);
            known.join(&self.clients.ledger.facts[*fact].deps);
        }
        let to = env.rng.below(self.options.sessions as u64) as usize;
        let token = self.watchers[number].token.clone();
        self.clients.tell(to, &token, &known);
    }
}
