//! Watchers that stop anywhere and resume anywhere, over datacenters that apply the same txns in different orders:
//! each txn once, in causal order, and a gap is never silent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use meridian_crdt::{CounterOp, Dot, Mutation, SetOp, TxnHead, Value, Vector};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::entry::{Answer, Item};
use super::oplog::ReadBounds;
use super::world_tests::{TestDc, key};
use crate::watch::recent::{FetchError, Recent, Upcoming};
use crate::watch::walk::{Expired, SeenTxn, Walk, What};

const NAMES: [&str; 3] = ["eu", "us", "ap"];

/// A watcher, and everything that it has been told.
struct Watcher {
    at: usize,
    what: What,
    walk: Walk,
    upcoming: VecDeque<Upcoming>,
    /// Where it began, or began anew after its cursor had expired.
    began: Vector,
    passed: BTreeSet<Dot>,
    shown: Vec<Dot>,
}

struct World {
    rng: SmallRng,
    dcs: Vec<TestDc>,
    recent: Vec<Recent>,
    watchers: Vec<Watcher>,
    /// The deps of every txn, and which keys it changed.
    deps: BTreeMap<Dot, Vector>,
    keys: BTreeMap<Dot, BTreeSet<String>>,
    resumed_elsewhere: usize,
    expired: usize,
    shared: usize,
}

impl World {
    fn new(seed: u64) -> World {
        let dcs: Vec<_> =
            NAMES.iter().enumerate().map(|(i, dc)| TestDc::new(dc, i as u128 + 1, &NAMES)).collect();
        let mut world = World {
            rng: SmallRng::seed_from_u64(seed),
            recent: dcs.iter().map(|_| Recent::default()).collect(),
            dcs,
            watchers: Vec::new(),
            deps: BTreeMap::new(),
            keys: BTreeMap::new(),
            resumed_elsewhere: 0,
            expired: 0,
            shared: 0,
        };
        for at in 0..NAMES.len() {
            for other in 0..NAMES.len() {
                let name = world.dcs[other].name.clone();
                world.dcs[at].apply(vec![Item::Register(name)]);
            }
        }
        for what in [What::Prefix(String::new()), What::Prefix("a".into()), What::Key("a1".into())] {
            for at in 0..2 {
                let walk = Walk::new("default".into(), what.clone(), Vector::new(), 0);
                world.watchers.push(Watcher {
                    at,
                    what: what.clone(),
                    walk,
                    upcoming: VecDeque::new(),
                    began: Vector::new(),
                    passed: BTreeSet::new(),
                    shown: Vec::new(),
                });
            }
        }
        world
    }

    fn step(&mut self, tidy: bool) {
        let at = self.rng.random_range(0..NAMES.len());
        match self.rng.random_range(0..100) {
            0..20 => self.write(at),
            20..55 => {
                let from = (at + self.rng.random_range(1..NAMES.len())) % NAMES.len();
                self.deliver(from, at);
            }
            55..65 => self.report(at),
            65..70 if tidy => {
                self.dcs[at].apply(vec![Item::Tidy { rows_max: 50 }]);
            }
            70..75 => self.resume(),
            _ => {
                let n = self.rng.random_range(0..self.watchers.len());
                let most = self.rng.random_range(1..20);
                self.watch(n, most);
            }
        }
    }

    fn write(&mut self, at: usize) {
        let names = ["a1", "a2", "b1", "b2"];
        let count = self.rng.random_range(1..=3);
        let mut ops = Vec::new();
        for _ in 0..count {
            let n = self.rng.random_range(0..names.len());
            let element = Value::Int(self.rng.random_range(0..1_000_000));
            ops.push(match n % 2 {
                0 => (key(names[n]), Mutation::Counter(CounterOp::Add(1))),
                _ => (key(names[n]), Mutation::Set(SetOp::Add(element))),
            });
        }
        let deps = self.dcs[at].state().vector.clone();
        let keys = ops.iter().map(|(key, _)| key.key.clone()).collect();
        let Answer::Done { dot: Some(dot), .. } = self.dcs[at].client(None, ops) else {
            panic!("nothing stands against it");
        };
        self.deps.insert(dot, deps);
        self.keys.insert(dot, keys);
    }

    /// The next txn of `from` that `to` lacks.
    fn deliver(&mut self, from: usize, to: usize) -> bool {
        let ours = self.dcs[to].state().vector.clone();
        let lacking = |txn: &&bytes::Bytes| !ours.covers(TxnHead::decode(txn).expect("own").dot);
        let Some(txn) = self.dcs[from].history.iter().find(lacking).cloned() else { return false };
        self.dcs[to].remote(&txn);
        true
    }

    fn report(&mut self, at: usize) {
        for from in (0..NAMES.len()).filter(|from| *from != at) {
            let (member, vector) = (self.dcs[from].name.origin(), self.dcs[from].state().vector.clone());
            self.dcs[at].apply(vec![Item::Report { member, vector }]);
        }
    }

    /// A watcher breaks off, whatever it had read ahead, and resumes in any datacenter.
    fn resume(&mut self) {
        let at = self.rng.random_range(0..NAMES.len());
        let n = self.rng.random_range(0..self.watchers.len());
        let watcher = &mut self.watchers[n];
        self.resumed_elsewhere += usize::from(watcher.at != at);
        watcher.at = at;
        watcher.upcoming.clear();
        watcher.walk = Walk::new("default".into(), watcher.what.clone(), watcher.walk.cursor().clone(), 0);
    }

    /// Lets a watcher take at most so many txns; says whether there is more.
    fn watch(&mut self, n: usize, most: usize) -> bool {
        let bounds =
            ReadBounds { bytes_max: self.rng.random_range(1..2_000), txns_max: self.rng.random_range(1..30) };
        let watcher = &mut self.watchers[n];
        if watcher.upcoming.is_empty() {
            let cells = || Ok(self.dcs[watcher.at].cells().clone());
            match self.recent[watcher.at].fetch(&mut watcher.walk, cells, bounds) {
                Ok(upcoming) => watcher.upcoming.extend(upcoming),
                Err(FetchError::Expired(Expired(now))) => {
                    assert!(!watcher.walk.cursor().covers_all(&self.dcs[watcher.at].state().oplog_floor));
                    self.expired += 1;
                    watcher.began = (*now).clone();
                    watcher.passed.clear();
                    watcher.walk = Walk::new("default".into(), watcher.what.clone(), *now, 0);
                }
                Err(other) => panic!("{other}"),
            }
        }
        for upcoming in watcher.upcoming.drain(..most.min(watcher.upcoming.len())) {
            let txn = match upcoming {
                Upcoming::Shared(txn) => {
                    self.shared += 1;
                    txn
                }
                Upcoming::Own(position, row) => SeenTxn::decode(position, &row).expect("own").into(),
            };
            let cursor = watcher.walk.cursor().clone();
            if !watcher.walk.pass(txn.dot) {
                continue;
            }
            assert!(cursor.covers_all(&self.deps[&txn.dot]), "{} came before its deps", txn.dot);
            assert!(watcher.passed.insert(txn.dot), "{} came twice", txn.dot);
            let told = txn.told_to(&watcher.walk).expect("own effects");
            let told: BTreeSet<String> = told.into_iter().map(|(key, _)| key.to_owned()).collect();
            assert_eq!(told, watched(&watcher.what, &self.keys[&txn.dot]), "{} is shown whole", txn.dot);
            if !told.is_empty() {
                watcher.shown.push(txn.dot);
            }
        }
        watcher.walk.next() <= self.dcs[watcher.at].state().oplog_end || !watcher.upcoming.is_empty()
    }

    /// Everything arrives everywhere and every watcher takes all there is.
    fn finish(&mut self) {
        for _ in 0..2 {
            for (from, to) in [(0, 1), (1, 2), (2, 0), (0, 2), (2, 1), (1, 0)] {
                while self.deliver(from, to) {}
            }
        }
        for n in 0..self.watchers.len() {
            while self.watch(n, usize::MAX) {}
            let watcher = &self.watchers[n];
            let all: BTreeSet<Dot> =
                self.deps.keys().copied().filter(|dot| !watcher.began.covers(*dot)).collect();
            assert_eq!(watcher.passed, all, "watcher {n} in {}", NAMES[watcher.at]);
            let shown: BTreeSet<Dot> = watcher.shown.iter().copied().collect();
            assert_eq!(shown.len(), watcher.shown.len(), "watcher {n} was shown a txn twice");
            let wanted = all.into_iter().filter(|dot| !watched(&watcher.what, &self.keys[dot]).is_empty());
            assert!(wanted.into_iter().all(|dot| shown.contains(&dot)), "watcher {n} missed a txn");
        }
    }
}

fn watched(what: &What, keys: &BTreeSet<String>) -> BTreeSet<String> {
    let is_watched = |key: &&String| match what {
        What::Key(wanted) => key == &wanted,
        What::Prefix(prefix) => key.starts_with(prefix.as_str()),
    };
    keys.iter().filter(is_watched).cloned().collect()
}

#[test]
fn a_watcher_that_resumes_in_any_datacenter_is_shown_each_txn_once_in_causal_order() {
    let (mut moves, mut shared) = (0, 0);
    for seed in 0..12 {
        let mut world = World::new(seed);
        for _ in 0..500 {
            world.step(false);
        }
        world.finish();
        assert_eq!(world.expired, 0, "nothing was cut off");
        moves += world.resumed_elsewhere;
        shared += world.shared;
    }
    assert!(moves > 100 && shared > 100, "the runs were too tame: {moves} moves, {shared} shared txns");
}

#[test]
fn where_the_oplog_was_cut_a_watcher_is_told_and_never_left_with_a_gap() {
    let mut expired = 0;
    for seed in 100..112 {
        let mut world = World::new(seed);
        for _ in 0..900 {
            world.step(true);
        }
        world.finish();
        expired += world.expired;
    }
    assert!(expired > 3, "the runs were too tame: {expired} expired");
}
