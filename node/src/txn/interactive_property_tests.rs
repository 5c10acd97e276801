//! Seeded interleavings of open transactions with each other, with plain writes and with txns from elsewhere.
//!
//! Under `serializable` whoever commits must have seen what it would have seen if it had run alone where it committed,
//! and must leave what it would have left. Under `snapshot` the first committer wins.

use std::collections::BTreeSet;

use meridian_client::wire::ErrorCode;
use meridian_crdt::{
    Content, CounterOp, Key, MemCells, Mutation, Query, RegisterOp, SetOp, Txn as ShippedTxn, Type, Value,
    Version, read,
};
use rand::rngs::SmallRng;
use rand::seq::{IndexedMutRandom, IndexedRandom};
use rand::{Rng, SeedableRng};

use super::entry::{Answer, ClientTxn, Item, RemoteOutcome};
use super::interactive::{Commit, Interactive, InteractiveError, Isolation};
use super::interactive_tests::{BOUNDS, Txn};
use super::world_tests::{TestDc, key};

const KEYS: [&str; 7] = ["a", "b", "c/1", "c/2", "c/3", "c/4", "d"];

#[derive(Clone, Debug)]
enum Act {
    Read(Key, Option<Value>),
    Scan { prefix: &'static str, after: Option<String>, limit: usize },
    Write(Vec<(Key, Mutation)>),
}

/// What an act has shown. Versions of keys that the transaction wrote itself are provisional and left out.
#[derive(Clone, Debug, PartialEq)]
enum Shown {
    Content(Option<Content>),
    Keys(Vec<(String, Type, Option<Version>)>),
    Written(Result<(), ErrorCode>),
}

/// A transaction with everything that it did and saw.
struct Script {
    txn: Txn,
    isolation: Isolation,
    base: MemCells,
    begun_at: u64,
    acts: Vec<(Act, Shown)>,
    written: BTreeSet<Key>,
}

fn act_on(txn: &mut Txn, written: &mut BTreeSet<Key>, act: &Act) -> Shown {
    match act {
        Act::Read(key, element) => {
            let query = Query { element: element.clone(), ..Query::default() };
            let mut content = txn.read(key, &query).expect("within its bounds").content;
            if let Some(content) = content.as_mut().filter(|_| written.contains(key)) {
                content.version = Version::default();
            }
            Shown::Content(content)
        }
        Act::Scan { prefix, after, limit } => {
            let listing = txn.scan("default", prefix, after.as_deref(), *limit).expect("within its bounds");
            let shown = listing.keys.into_iter().map(|listed| {
                let own = written.contains(&key(&listed.key));
                (listed.key, listed.ty, (!own).then_some(listed.version))
            });
            Shown::Keys(shown.collect())
        }
        Act::Write(ops) => Shown::Written(match txn.write(ops.clone()) {
            Ok(()) => {
                written.extend(ops.iter().map(|(key, _)| key.clone()));
                Ok(())
            }
            Err(InteractiveError::Refused(error)) => Err(error.code),
            Err(error) => panic!("{error}"),
        }),
    }
}

fn mutation(rng: &mut SmallRng, at: usize) -> Mutation {
    let element = Value::Int(rng.random_range(0..3));
    // Most keys keep to a type of their own, so that both successes and wrong types are met.
    match if rng.random_ratio(1, 12) { rng.random_range(0..3) } else { at % 3 } {
        _ if rng.random_ratio(1, 8) => Mutation::Delete(None),
        0 => Mutation::Register(RegisterOp::Set(Value::Int(rng.random_range(0..100)))),
        1 => Mutation::Counter(CounterOp::Add(rng.random_range(1..5))),
        _ if rng.random_ratio(1, 3) => Mutation::Set(SetOp::Remove(element)),
        _ => Mutation::Set(SetOp::Add(element)),
    }
}

fn ops(rng: &mut SmallRng, most: usize) -> Vec<(Key, Mutation)> {
    let count = rng.random_range(1..=most);
    let pick = |_| {
        let at = rng.random_range(0..KEYS.len());
        (key(KEYS[at]), mutation(rng, at))
    };
    (0..count).map(pick).collect()
}

fn some_act(rng: &mut SmallRng) -> Act {
    match rng.random_range(0..10) {
        0..3 => Act::Read(key(KEYS.choose(rng).expect("some")), None),
        3..5 => {
            let element = Value::Int(rng.random_range(0..3));
            Act::Read(key(KEYS.choose(rng).expect("some")), Some(element))
        }
        5..7 => {
            let prefix = *["", "c/", "c/2"].choose(rng).expect("some");
            let after = rng.random_ratio(1, 3).then(|| KEYS.choose(rng).expect("some").to_string());
            Act::Scan { prefix, after, limit: rng.random_range(1..5) }
        }
        _ => Act::Write(ops(rng, 2)),
    }
}

struct World {
    rng: SmallRng,
    eu: TestDc,
    us: TestDc,
    delivered: usize,
    open: Vec<Script>,
    committed: [usize; 2],
    conflicts: [usize; 2],
}

impl World {
    fn new(seed: u64) -> Self {
        let members = ["eu", "us"];
        let (mut eu, us) = (TestDc::new("eu", 1, &members), TestDc::new("us", 2, &members));
        eu.apply(vec![Item::Register(us.name.clone())]);
        let rng = SmallRng::seed_from_u64(seed);
        Self { rng, eu, us, delivered: 0, open: Vec::new(), committed: [0; 2], conflicts: [0; 2] }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..15 if self.open.len() < 4 => self.begin(),
            0..80 => self.act(),
            80..90 => self.commit(),
            90..94 => {
                let ops = ops(&mut self.rng, 2);
                self.eu.client(None, ops);
            }
            94..97 => {
                let ops = ops(&mut self.rng, 2);
                self.us.client(None, ops);
            }
            _ => self.deliver(),
        }
    }

    fn begin(&mut self) {
        let isolation =
            if self.rng.random_ratio(2, 3) { Isolation::Serializable } else { Isolation::Snapshot };
        let base = self.eu.cells().clone();
        let txn = Interactive::begin(base.clone(), isolation, BOUNDS).expect("has a life");
        let begun_at = self.eu.state().oplog_end;
        self.open.push(Script { txn, isolation, base, begun_at, acts: Vec::new(), written: BTreeSet::new() });
    }

    fn act(&mut self) {
        let act = some_act(&mut self.rng);
        if let Some(script) = self.open.choose_mut(&mut self.rng) {
            let shown = act_on(&mut script.txn, &mut script.written, &act);
            assert!(self.eu.state().vector.covers_all(script.txn.touched()), "a provisional dot was told");
            script.acts.push((act, shown));
        }
    }

    fn deliver(&mut self) {
        if let Some(txn) = self.us.history.get(self.delivered) {
            assert_eq!(self.eu.remote(txn), RemoteOutcome::Applied);
            self.delivered += 1;
        }
    }

    fn commit(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let mut script = self.open.swap_remove(self.rng.random_range(0..self.open.len()));
        let Commit { ops, reads, .. } = script.txn.commit(Vec::new()).expect("within its bounds");
        if ops.is_empty() {
            return;
        }
        let before = self.eu.cells().clone();
        let answer = self.eu.submit(ClientTxn { ops, reads, ..ClientTxn::default() });
        let level = usize::from(script.isolation == Isolation::Snapshot);
        match answer {
            Answer::Done { touched, .. } => {
                self.committed[level] += 1;
                match script.isolation {
                    Isolation::Serializable => {
                        assert!(touched.covers_all(script.txn.touched()), "what was checked was looked at");
                        self.check_serial(&script, before);
                    }
                    Isolation::Snapshot => check_unchanged(&script, &before),
                }
            }
            Answer::Refused { error, .. } if error.code == ErrorCode::Conflict => {
                self.conflicts[level] += 1;
                if script.isolation == Isolation::Snapshot {
                    let written = self.written_since(script.begun_at);
                    assert!(!written.is_disjoint(&script.written), "nobody else wrote what it wrote");
                }
            }
            Answer::Refused { error, .. } => {
                assert_eq!(error.code, ErrorCode::WrongType);
                assert_eq!(script.isolation, Isolation::Serializable, "only of keys that it wrote blindly");
            }
        }
    }

    /// Runs the transaction once more, alone, where it committed: it sees the same and leaves the same.
    fn check_serial(&self, script: &Script, before: MemCells) {
        let mut alone = Interactive::begin(before, script.isolation, BOUNDS).expect("has a life");
        let mut written = BTreeSet::new();
        for (act, shown) in &script.acts {
            assert_eq!(&act_on(&mut alone, &mut written, act), shown, "{act:?} in {:?}", script.acts);
        }
        for k in KEYS {
            let unversioned =
                |content: Option<Content>| content.map(|c| Content { version: Version(0), ..c });
            let expected = alone.read(&key(k), &Query::default()).expect("within its bounds").content;
            assert_eq!(unversioned(self.eu.read(k).content), unversioned(expected), "{k}");
        }
    }

    fn written_since(&self, position: u64) -> BTreeSet<Key> {
        let txns = self.eu.history.iter().skip(usize::try_from(position).expect("small"));
        let effects = txns.flat_map(|txn| ShippedTxn::decode(txn).expect("decodes").effects);
        effects.map(|effect| Key::new(effect.space, effect.key).expect("valid")).collect()
    }
}

/// Nothing of what the transaction wrote reads otherwise than when it began.
fn check_unchanged(script: &Script, before: &MemCells) {
    for key in &script.written {
        let content = |cells| read(cells, key, &Query::default()).expect("memory").content;
        assert_eq!(content(before), content(&script.base), "the first committer wins");
    }
}

#[test]
fn whatever_interleaves_transactions_commit_as_if_they_had_run_alone_or_not_at_all() {
    let (mut committed, mut conflicts) = ([0; 2], [0; 2]);
    for seed in 0..40 {
        let mut world = World::new(seed);
        for _ in 0..500 {
            world.step();
        }
        for level in 0..2 {
            committed[level] += world.committed[level];
            conflicts[level] += world.conflicts[level];
        }
    }
    let enough = |counts: [usize; 2]| counts.iter().all(|n| *n > 100);
    assert!(
        enough(committed) && enough(conflicts),
        "too tame: {committed:?} committed, {conflicts:?} refused"
    );
}
