//! Seeded runs of several datacenters: whatever arrives in whatever order, apply keeps its invariants, and equal
//! vectors come to equal contents.

use meridian_crdt::{
    Condition, CounterOp, DocCompaction, DocOp, FlagOp, Key, MapOp, Mutation, RegisterOp, SetOp, TxnHead,
    Type, Value, Vector, Version,
};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::bounds::OPLOG_KEPT_TXNS;
use super::entry::{Answer, Item, Outcome, RemoteOutcome};
use super::oplog::{self, ReadBounds};
use super::world_tests::{TestDc, key};

const KEYS: [&str; 8] = ["a", "b", "c", "d", "e", "f/g", "h\0i", "j"];

fn value(rng: &mut SmallRng) -> Value {
    match rng.random_range(0..4) {
        0 => Value::Int(rng.random_range(-3..4)),
        1 => Value::Str(["x", "y", "z"].choose(rng).expect("some").to_string()),
        2 => Value::Nil,
        _ => Value::Array(vec![Value::Bool(rng.random()), Value::Float(0.5)]),
    }
}

fn register(rng: &mut SmallRng) -> RegisterOp {
    if rng.random_ratio(3, 4) { RegisterOp::Set(value(rng)) } else { RegisterOp::Clear }
}

fn flag(rng: &mut SmallRng) -> FlagOp {
    if rng.random() { FlagOp::Enable } else { FlagOp::Disable }
}

fn set(rng: &mut SmallRng) -> SetOp {
    match rng.random_range(0..6) {
        0..3 => SetOp::Add(value(rng)),
        3 => SetOp::Remove(value(rng)),
        4 => SetOp::AddAll((0..3).map(|_| value(rng)).collect()),
        _ => SetOp::Clear,
    }
}

fn mutation(rng: &mut SmallRng, ty: Type, depth: usize) -> Mutation {
    match ty {
        Type::Register => Mutation::Register(register(rng)),
        Type::MvRegister => Mutation::MvRegister(register(rng)),
        Type::Counter if rng.random_ratio(1, 40) => Mutation::Counter(CounterOp::Add(i64::MAX)),
        Type::Counter if rng.random_ratio(1, 5) => Mutation::Counter(CounterOp::Reset),
        Type::Counter => Mutation::Counter(CounterOp::Add(rng.random_range(-5..6))),
        Type::Flag => Mutation::Flag(flag(rng)),
        Type::DwFlag => Mutation::DwFlag(flag(rng)),
        Type::Set => Mutation::Set(set(rng)),
        Type::RwSet => Mutation::RwSet(set(rng)),
        Type::Doc => Mutation::Doc(DocOp::Update(vec![0u8, rng.random_range(0..3)].into())),
        Type::Map => Mutation::Map(match rng.random_range(0..6) {
            0 => MapOp::Remove { field: ["p", "q"].choose(rng).expect("some").to_string() },
            1 => MapOp::Clear,
            _ => {
                let inner = *Type::ALL[..if depth < 2 { 8 } else { 7 }].choose(rng).expect("some");
                let mutation = Box::new(mutation(rng, inner, depth + 1));
                MapOp::Update { field: ["p", "q"].choose(rng).expect("some").to_string(), mutation }
            }
        }),
    }
}

fn ops(rng: &mut SmallRng) -> Vec<(Key, Mutation)> {
    (0..rng.random_range(1..4))
        .map(|_| {
            let at = rng.random_range(0..KEYS.len());
            // Most keys keep to a type of their own, so that both successes and wrong types are met.
            let ty = if rng.random_ratio(1, 6) {
                *Type::ALL.choose(rng).expect("some")
            } else {
                Type::ALL[at + 1]
            };
            let mutation =
                if rng.random_ratio(1, 12) { Mutation::Delete(None) } else { mutation(rng, ty, 0) };
            (key(KEYS[at]), mutation)
        })
        .collect()
}

fn conditions(rng: &mut SmallRng, dc: &TestDc) -> Vec<(Key, Condition)> {
    let k = *KEYS.choose(rng).expect("some");
    let content = dc.read(k).content;
    match rng.random_range(0..8) {
        0 => vec![(key(k), Condition::Exists)],
        1 => vec![(key(k), Condition::Absent)],
        2 => vec![(key(k), Condition::Version(content.map_or(Version(0), |c| c.version)))],
        3 => vec![(key(k), content.map_or(Condition::Absent, |c| Condition::Value(c.value.to_value())))],
        4 => vec![(key(k), Condition::Contains(value(rng)))],
        _ => Vec::new(),
    }
}

struct World {
    rng: SmallRng,
    dcs: Vec<TestDc>,
    /// What is staged in each of these.
    staged: Vec<Option<(Key, DocCompaction)>>,
    compacted: usize,
    refused: usize,
    early: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let names = &["eu", "us", "ap", "sa", "af"][..rng.random_range(3..=5)];
        let dcs: Vec<TestDc> =
            names.iter().enumerate().map(|(i, dc)| TestDc::new(dc, i as u128 + 1, names)).collect();
        let staged = vec![None; dcs.len()];
        Self { rng, dcs, staged, compacted: 0, refused: 0, early: 0 }
    }

    fn some_dc(&mut self) -> usize {
        self.rng.random_range(0..self.dcs.len())
    }

    fn step(&mut self) {
        let at = self.some_dc();
        let elapsed_ms = self.rng.random_range(0..300);
        self.dcs[at].now_ms += elapsed_ms;
        match self.rng.random_range(0..112) {
            100.. => self.compact(at),
            0..35 => self.write(at),
            35..85 => self.deliver(at),
            85..88 => self.meet(at),
            88..94 => self.report(at),
            94..97 => {
                let rows_max = self.rng.random_range(1..30);
                assert_eq!(self.dcs[at].apply(vec![Item::Tidy { rows_max }]), vec![Outcome::Done]);
            }
            _ => self.read_oplog(at),
        }
    }

    fn write(&mut self, at: usize) {
        let conditions = conditions(&mut self.rng, &self.dcs[at]);
        let ops = ops(&mut self.rng);
        let id = self.rng.random_ratio(1, 2).then(|| self.rng.random_range(0..1_000_000u32).to_string());
        let before = self.dcs[at].state().vector.clone();
        let keys = conditions.iter().map(|(key, _)| key).chain(ops.iter().map(|(key, _)| key));
        let looked_at: Vector = keys.flat_map(|key| self.dcs[at].touched(key)).collect();
        let answer = self.dcs[at].conditional(id.as_deref(), conditions.clone(), ops.clone());
        let (Answer::Done { touched, .. } | Answer::Refused { touched, .. }) = &answer;
        assert!(self.dcs[at].state().vector.covers_all(touched), "I7: the token is ahead of what is applied");
        let mut depends = touched.clone();
        // What was stable may have been forgotten, and is demanded of nobody.
        depends.join(&self.dcs[at].state().stable);
        assert!(depends.covers_all(&looked_at), "the token lacks {looked_at:?}, which the answer tells of");
        if let Answer::Refused { .. } = answer {
            assert_eq!(self.dcs[at].state().vector, before);
            self.refused += 1;
        }
        if let Some(id) = id {
            let content = super::world_tests::content_rows(self.dcs[at].cells());
            let again = self.dcs[at].conditional(Some(&id), conditions, ops);
            let bytes = |answer| rmp_serde::to_vec(answer).expect("encodes");
            assert_eq!(bytes(&again), bytes(&answer), "a retry gets the first answer");
            assert_eq!(super::world_tests::content_rows(self.dcs[at].cells()), content);
        }
    }

    /// A document's updates are staged as a snapshot, or what was staged takes their place; much may happen in between. Nothing
    /// that can be observed changes.
    fn compact(&mut self, at: usize) {
        let before = (self.dcs[at].digest(), self.shown(at));
        match self.staged[at].take() {
            Some((key, compaction)) if self.rng.random_ratio(3, 4) => {
                let done = self.dcs[at].apply(vec![Item::Compact { key, compaction }]);
                self.compacted += usize::from(done == [Outcome::Done]);
                assert_eq!(self.dcs[at].state().staging, None, "done or refused, nothing is staged any more");
            }
            // Given up: whatever is staged next takes its parts out.
            _ => {
                let updates_max = self.rng.random_range(1..5);
                self.staged[at] = super::compaction_tests::stage(&mut self.dcs[at], KEYS[7], updates_max, 7);
            }
        }
        assert_eq!((self.dcs[at].digest(), self.shown(at)), before, "compaction changes nothing");
    }

    fn shown(&self, at: usize) -> Vec<(Option<Version>, Option<meridian_crdt::Explained>)> {
        let dc = &self.dcs[at];
        let explained = |k| meridian_crdt::explain(dc.cells(), &key(k), 1_000).expect("memory");
        KEYS.iter().map(|k| (dc.read(k).content.map(|content| content.version), explained(k))).collect()
    }

    /// Some txn of anybody arrives: next in line, long known, far ahead, or of an origin that nobody has introduced.
    fn deliver(&mut self, to: usize) {
        let from = self.some_dc();
        let len = self.dcs[from].history.len();
        if from == to || len == 0 {
            return;
        }
        let ours = self.dcs[to].state().vector.clone();
        let next = self.dcs[from]
            .history
            .iter()
            .position(|txn| !ours.covers(TxnHead::decode(txn).expect("own encoding").dot))
            .unwrap_or(0);
        let jitter = if self.rng.random_ratio(1, 2) { 0 } else { self.rng.random_range(0..6) };
        let txn = self.dcs[from].history[(next + jitter).min(len - 1)].clone();
        let head = TxnHead::decode(&txn).expect("own encoding");
        let known = self.dcs[to].state().chains.contains_key(&head.dot.origin);
        let outcome = self.dcs[to].remote(&txn);
        match &outcome {
            RemoteOutcome::Applied => assert_eq!(head.dot.seq, ours.get(head.dot.origin) + 1),
            RemoteOutcome::Duplicate => assert!(ours.covers(head.dot)),
            RemoteOutcome::Early => {
                self.early += 1;
                assert!(head.dot.seq > ours.get(head.dot.origin) + 1 || !ours.covers_all(&head.deps));
            }
            RemoteOutcome::Refused(why) => assert!(!known, "{why}"),
        }
    }

    fn meet(&mut self, at: usize) {
        let other = self.some_dc();
        if other != at {
            let name = self.dcs[other].name.clone();
            assert_eq!(self.dcs[at].apply(vec![Item::Register(name)]), vec![Outcome::Done]);
        }
    }

    fn report(&mut self, at: usize) {
        let from = self.some_dc();
        if from == at {
            return;
        }
        // Reports may be old: any prefix of what the member has applied was true once.
        let history = &self.dcs[from].history;
        let upto = self.rng.random_range(0..=history.len());
        let vector = history[..upto].iter().map(|txn| TxnHead::decode(txn).expect("own").dot).collect();
        let member = self.dcs[from].name.origin();
        let known = self.dcs[at].state().chains.contains_key(&member);
        let outcome = self.dcs[at].apply(vec![Item::Report { member, vector }]).pop();
        assert_eq!(outcome == Some(Outcome::Done), known);
    }

    /// A read of the oplog has exactly what is wanted, in the order in which it was applied.
    fn read_oplog(&mut self, at: usize) {
        let other = self.some_dc();
        let (have, want) = (self.dcs[other].state().vector.clone(), self.dcs[at].state().vector.clone());
        let (dc, state) = (&self.dcs[at], self.dcs[at].state());
        let expected: Vec<_> = (state.oplog_first..=state.oplog_end)
            .map(|position| (position, dc.history[usize::try_from(position - 1).expect("small")].clone()))
            .filter(|(_, txn)| !have.covers(TxnHead::decode(txn).expect("own").dot))
            .collect();
        let bounds =
            ReadBounds { bytes_max: self.rng.random_range(1..500), txns_max: self.rng.random_range(1..20) };
        let (mut from, mut got) = (0, Vec::new());
        loop {
            let chunk = oplog::read(dc.cells(), state, from, &have, &want, bounds).expect("memory");
            if chunk.next == from {
                break;
            }
            from = chunk.next;
            got.extend(chunk.entries);
        }
        assert_eq!(got, expected);
    }

    /// Everything arrives everywhere, all report, and what is stable goes.
    fn settle(&mut self) {
        for at in 0..self.dcs.len() {
            for other in 0..self.dcs.len() {
                if other != at {
                    let name = self.dcs[other].name.clone();
                    self.dcs[at].apply(vec![Item::Register(name)]);
                }
            }
        }
        let mut progress = true;
        while progress {
            progress = false;
            for from in 0..self.dcs.len() {
                for to in 0..self.dcs.len() {
                    for txn in self.dcs[from].history.clone() {
                        if !self.dcs[to].state().vector.covers(TxnHead::decode(&txn).expect("own").dot) {
                            progress |= self.dcs[to].remote(&txn) == RemoteOutcome::Applied;
                        }
                    }
                }
            }
        }
        for _ in 0..2 {
            let reports: Vec<_> =
                self.dcs.iter().map(|dc| (dc.name.origin(), dc.state().vector.clone())).collect();
            for (at, dc) in self.dcs.iter_mut().enumerate() {
                for (from, (member, vector)) in reports.iter().enumerate() {
                    if from != at {
                        let report = Item::Report { member: *member, vector: vector.clone() };
                        assert_eq!(dc.apply(vec![report]), vec![Outcome::Done]);
                    }
                }
                for _ in 0..20 {
                    dc.apply(vec![Item::Tidy { rows_max: 1000 }]);
                }
            }
        }
    }

    fn check_convergence(&self) {
        let first = &self.dcs[0];
        for dc in &self.dcs {
            let state = dc.state();
            assert_eq!(state.vector, first.state().vector);
            assert_eq!(state.stable, state.vector, "everything is stable at the end");
            assert_eq!(state.acked, state.vector);
            assert_eq!(dc.digest(), first.digest(), "I9: {} and {} differ", dc.name, first.name);
            for k in KEYS {
                let plain = super::compaction_tests::plain;
                assert_eq!(plain(dc.read(k).content), plain(first.read(k).content), "I9: {k:?}");
            }
            let kept = state.oplog_end + 1 - state.oplog_first;
            assert!(
                kept <= OPLOG_KEPT_TXNS.max(state.oplog_end.min(OPLOG_KEPT_TXNS)),
                "{kept} txns are kept"
            );
        }
    }
}

#[test]
fn whatever_arrives_in_whatever_order_the_datacenters_converge_and_their_nodes_stay_equal() {
    let (mut refused, mut early, mut compacted) = (0, 0, 0);
    for seed in 0..12 {
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.step();
        }
        world.settle();
        world.check_convergence();
        refused += world.refused;
        early += world.early;
        compacted += world.compacted;
    }
    assert!(compacted > 50, "the runs were too tame: {compacted} compactions");
    assert!(refused > 50 && early > 50, "the runs were too tame: {refused} refusals, {early} early txns");
}

#[test]
fn many_entries_at_once_come_to_the_same_as_one_by_one() {
    let mut world = World::new(77);
    for _ in 0..200 {
        world.write(0);
    }
    let txns: Vec<Item> = world.dcs[0].history.iter().cloned().map(Item::Remote).collect();
    let name = world.dcs[0].name.clone();
    let (digest, vector) = (world.dcs[0].digest(), world.dcs[0].state().vector.clone());
    let target = &mut world.dcs[1];
    let outcomes = target.apply([vec![Item::Register(name)], txns].concat());
    assert!(outcomes[1..].iter().all(|o| *o == Outcome::Remote(RemoteOutcome::Applied)));
    assert_eq!((target.digest(), &target.state().vector), (digest, &vector));
}
