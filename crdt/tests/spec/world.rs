//! A world of 3 to 5 replicas that runs at random from a seed, and is compared with the specification as it goes.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_crdt::{DocCompaction, Dot, Key, Mutation, Origin, TxnHead, Vector};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::compare;
use super::draw::Subject;
use super::history::History;
use super::replica::Replica;

/// How often each kind of step is taken; drawn anew for each run, so that some runs hardly ever deliver and others
/// sweep all the time.
#[derive(Clone, Debug)]
struct Habits {
    write: u32,
    deliver: u32,
    repeat: u32,
    merge: u32,
    report: u32,
    stabilize: u32,
    sweep: u32,
    /// Somebody begins to compact a document, or goes on to the end.
    compact: u32,
    /// Everybody reports, stabilizes and sweeps at once.
    collect: u32,
    /// A replica that hears nothing until the end of the round.
    laggard: Option<usize>,
    /// Somebody whose own txns do not get to somebody else until the end of the round, though its reports do: what
    /// is acknowledged by all is then not yet stable.
    withheld: Option<(Origin, usize)>,
}

impl Habits {
    fn draw(rng: &mut SmallRng, members: &[Origin]) -> Self {
        let replicas = members.len();
        let laggard = rng.random_bool(0.3).then(|| rng.random_range(0..replicas));
        let late = (members[rng.random_range(0..replicas)], rng.random_range(0..replicas));
        let withheld = rng.random_bool(0.6).then_some(late);
        Habits {
            write: rng.random_range(20..60),
            deliver: rng.random_range(10..80),
            repeat: 3,
            merge: if rng.random_bool(0.5) { rng.random_range(1..12) } else { 0 },
            report: rng.random_range(5..80),
            stabilize: rng.random_range(2..40),
            sweep: rng.random_range(1..40),
            compact: if rng.random_bool(0.7) { rng.random_range(1..40) } else { 0 },
            collect: if rng.random_bool(0.7) { rng.random_range(1..40) } else { 0 },
            laggard,
            withheld,
        }
    }
}

/// Replicas, what they committed, and what is on its way between them.
pub struct World {
    pub seed: u64,
    pub replicas: Vec<Replica>,
    pub history: History,
    subject: Subject,
    habits: Habits,
    rng: SmallRng,
    now: u64,
    /// Reports of vectors under way: to whom, from whom, what.
    mail: Vec<(usize, Origin, Vector)>,
    /// Compactions under way: where, of what; much may happen before they end.
    compacting: Vec<(usize, Key, DocCompaction)>,
}

/// Rounds of a run. Each ends with everything delivered, stable and swept, and the next begins from there.
const ROUNDS: usize = 2;

impl World {
    pub fn new(seed: u64, subject: impl FnOnce(&mut SmallRng) -> Subject) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let subject = subject(&mut rng);
        let count = rng.random_range(3..=5);
        Self::build(seed, rng, count, subject)
    }

    /// A world of `count` replicas.
    pub fn with_replicas(seed: u64, count: u32, subject: impl FnOnce(&mut SmallRng) -> Subject) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let subject = subject(&mut rng);
        Self::build(seed, rng, count, subject)
    }

    fn build(seed: u64, mut rng: SmallRng, count: u32, subject: Subject) -> Self {
        let members: Vec<Origin> = (0..count).map(|n| Origin(n * 7 + 1)).collect();
        let replicas =
            members.iter().map(|origin| Replica::new(*origin, &members, rng.random_range(-20..20))).collect();
        let habits = Habits::draw(&mut rng, &members);
        World {
            seed,
            replicas,
            history: History::default(),
            subject,
            habits,
            rng,
            now: 100,
            mail: Vec::new(),
            compacting: Vec::new(),
        }
    }

    /// Runs to the end and checks everything on the way.
    pub fn run(&mut self) {
        for _ in 0..ROUNDS {
            for _ in 0..self.rng.random_range(10..60) {
                self.step();
            }
            self.habits.laggard = None;
            self.settle();
            self.quiesce();
            let members: Vec<Origin> = self.replicas.iter().map(|replica| replica.origin).collect();
            self.habits = Habits::draw(&mut self.rng, &members);
        }
    }

    /// Commits `txns` txns, each after a few deliveries.
    pub fn scatter(&mut self, txns: usize) {
        let mut committed = 0;
        while committed < txns {
            self.now += self.rng.random_range(0..4);
            let at = self.any();
            let ops = self.subject.ops(&mut self.rng);
            committed += usize::from(self.write_at(at, &ops));
            if self.rng.random_bool(0.5) {
                self.deliver();
            }
        }
    }

    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    fn step(&mut self) {
        self.now += self.rng.random_range(0..4);
        let Habits { write, deliver, repeat, merge, report, stabilize, sweep, compact, collect, .. } =
            self.habits;
        let all = write + deliver + repeat + merge + report + stabilize + sweep + compact + collect;
        let mut choice = self.rng.random_range(0..all);
        let mut is = |weight: u32| {
            let hit = choice < weight;
            choice = choice.wrapping_sub(weight);
            hit
        };
        let touched = if is(write) {
            Some(self.write())
        } else if is(deliver) {
            self.deliver()
        } else if is(repeat) {
            self.repeat()
        } else if is(merge) {
            self.merge()
        } else if is(report) {
            self.report();
            None
        } else if is(stabilize) {
            let at = self.any();
            self.hear(at);
            self.replicas[at].stabilize();
            None
        } else if is(sweep) {
            Some(self.sweep())
        } else if is(compact) {
            Some(self.compact())
        } else {
            self.collect();
            None
        };
        if let Some(at) = touched {
            self.check(at);
        }
    }

    fn any(&mut self) -> usize {
        self.rng.random_range(0..self.replicas.len())
    }

    /// Somebody who may hear from others, and somebody else.
    fn pair(&mut self) -> Option<(usize, usize)> {
        let (to, from) = (self.any(), self.any());
        (to != from && self.habits.laggard != Some(to)).then_some((to, from))
    }

    fn write(&mut self) -> usize {
        let at = self.any();
        let ops = self.subject.ops(&mut self.rng);
        self.write_at(at, &ops);
        at
    }

    /// Commits `ops`, if the specification admits them; demands that the implementation decides the same.
    pub fn write_at(&mut self, at: usize, ops: &[(Key, Mutation)]) -> bool {
        let replica = &mut self.replicas[at];
        let hlc = replica.stamp(self.now);
        let expected = self.history.propose(replica.next_dot(), hlc, &replica.vector, ops);
        let executed = replica.execute(hlc, ops);
        match (expected, executed) {
            (Ok(event), Ok(executed)) => {
                compare::results(&self.history, &event, &executed);
                if executed.effects.is_empty() && hlc.is_multiple_of(2) {
                    // A txn that does nothing need not be committed.
                    return false;
                }
                replica.commit(hlc, executed);
                self.history.add(event);
                true
            }
            (Err(refusal), Err(error)) => {
                compare::refusal(refusal, &error);
                false
            }
            (Ok(_), Err(error)) => panic!("seed {}: {ops:?} is refused: {error:?}", self.seed),
            (Err(refusal), Ok(_)) => panic!("seed {}: {ops:?} is taken despite {refusal:?}", self.seed),
        }
    }

    /// Gives one txn that may be applied, or a few, from whoever has it: also those of third parties.
    fn deliver(&mut self) -> Option<usize> {
        let (to, from) = self.pair()?;
        for _ in 0..self.rng.random_range(1..6) {
            let offers = self.replicas[from].offers(&self.replicas[to]);
            let late = |bytes: &&Bytes| {
                let origin = TxnHead::decode(bytes).expect("a head").dot.origin;
                self.habits.withheld == Some((origin, to))
            };
            let offers: Vec<_> = offers.filter(|bytes| !late(bytes)).cloned().collect();
            if offers.is_empty() {
                break;
            }
            let bytes = &offers[self.rng.random_range(0..offers.len())];
            assert!(self.replicas[to].receive(bytes));
        }
        Some(to)
    }

    /// Gives a txn again; it changes nothing.
    fn repeat(&mut self) -> Option<usize> {
        let at = self.any();
        let count = self.replicas[at].log.len();
        if count == 0 {
            return None;
        }
        let nth = self.rng.random_range(0..count);
        let bytes = self.replicas[at].log.values().nth(nth).cloned()?;
        let before = self.replicas[at].cells.clone();
        assert!(!self.replicas[at].receive(&bytes), "a duplicate is dropped");
        assert_eq!(before, self.replicas[at].cells);
        Some(at)
    }

    fn merge(&mut self) -> Option<usize> {
        let (to, from) = self.pair()?;
        let donor = self.replicas[from].clone();
        self.replicas[to].merge(&donor);
        Some(to)
    }

    /// Somebody says to all where it stands; some hear it at once, some much later, some never.
    fn report(&mut self) {
        let from = self.any();
        let (member, vector) = (self.replicas[from].origin, self.replicas[from].vector.clone());
        for to in (0..self.replicas.len()).filter(|to| *to != from) {
            match self.rng.random_range(0..10) {
                0..5 => self.replicas[to].hear(member, vector.clone()),
                5..9 => self.mail.push((to, member, vector.clone())),
                _ => {}
            }
        }
    }

    /// Delivers some of the late reports, in any order.
    fn hear(&mut self, at: usize) {
        let mut n = 0;
        while n < self.mail.len() {
            if self.mail[n].0 == at && self.rng.random_bool(0.5) {
                let (_, member, vector) = self.mail.swap_remove(n);
                self.replicas[at].hear(member, vector);
            } else {
                n += 1;
            }
        }
    }

    fn sweep(&mut self) -> usize {
        let at = self.any();
        let keep = self.rng.random_range(0..=self.replicas[at].index + 1);
        let limit = self.rng.random_range(1..8);
        for _ in 0..self.rng.random_range(1..4) {
            self.replicas[at].sweep(keep, limit);
        }
        at
    }

    /// Begins to compact a document, or ends what was begun, wherever its document has come to since. What cannot be done any
    /// more is given up; nothing that can be observed changes in any case.
    fn compact(&mut self) -> usize {
        let begun = (!self.compacting.is_empty() && self.rng.random_bool(0.6))
            .then(|| self.rng.random_range(0..self.compacting.len()));
        if let Some(begun) = begun {
            let (at, key, compaction) = self.compacting.swap_remove(begun);
            self.replicas[at].compact(&key, &compaction);
            return at;
        }
        let at = self.any();
        let (key, _) = self.subject.keys[self.rng.random_range(0..self.subject.keys.len())].clone();
        let (updates_max, part_bytes) = (self.rng.random_range(1..6), self.rng.random_range(1..40));
        if let Some(compaction) = self.replicas[at].stage(&key, updates_max, part_bytes) {
            self.compacting.push((at, key, compaction));
        }
        at
    }

    fn collect(&mut self) {
        let vectors: Vec<_> = self.replicas.iter().map(|r| (r.origin, r.vector.clone())).collect();
        for replica in &mut self.replicas {
            let own = replica.origin;
            for (member, vector) in vectors.iter().filter(|(member, _)| *member != own) {
                replica.hear(*member, vector.clone());
            }
            replica.stabilize();
            replica.sweep_all(64);
        }
    }

    /// Compares all that a replica shows with the specification of what it has seen.
    pub fn check(&self, at: usize) {
        let replica = &self.replicas[at];
        let who = format!("seed {}, replica {:?} at {:?}", self.seed, replica.origin, replica.vector);
        compare::everything(&who, replica, &self.history, &self.subject);
    }

    /// Gives `to` everything that `from` has and that may be applied.
    pub fn give(&mut self, from: usize, to: usize) {
        while let Some(bytes) = {
            let (giver, taker) = (&self.replicas[from], &self.replicas[to]);
            giver.offers(taker).next().cloned()
        } {
            self.replicas[to].receive(&bytes);
        }
        self.check(to);
    }

    /// Delivers everything to everybody.
    pub fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for to in 0..self.replicas.len() {
                for from in 0..self.replicas.len() {
                    loop {
                        let offers: Vec<_> =
                            self.replicas[from].offers(&self.replicas[to]).cloned().collect();
                        if offers.is_empty() {
                            break;
                        }
                        quiet = false;
                        let bytes = &offers[self.rng.random_range(0..offers.len())];
                        self.replicas[to].receive(bytes);
                        if self.rng.random_bool(0.3) {
                            self.check(to);
                        }
                    }
                }
            }
            if quiet {
                break;
            }
        }
        for at in 0..self.replicas.len() {
            self.check(at);
        }
    }

    /// A replica that has only ever applied txns: nothing was merged into it, and nothing swept.
    fn replayed(&mut self) -> Replica {
        let mut txns = BTreeMap::new();
        for replica in &self.replicas {
            txns.extend(replica.log.clone());
        }
        let mut fresh = Replica::new(Origin(u32::MAX), &[], 0);
        while !txns.is_empty() {
            let ready = |bytes: &Bytes| fresh.ready(&TxnHead::decode(bytes).expect("a head"));
            let ready: Vec<Dot> =
                txns.iter().filter(|(_, bytes)| ready(bytes)).map(|(dot, _)| *dot).collect();
            let dot = ready[self.rng.random_range(0..ready.len())];
            fresh.receive(&txns.remove(&dot).expect("it was just there"));
        }
        fresh
    }

    /// At equal vectors, after [`World::settle`], all is equal; when all is stable and swept, nothing is left of what is gone.
    pub fn quiesce(&mut self) {
        let replayed = self.replayed();
        let first = &self.replicas[0];
        for other in &self.replicas[1..] {
            assert_eq!(first.vector, other.vector, "seed {}: everything was delivered", self.seed);
            compare::equal(&format!("seed {}", self.seed), first, other, &self.subject);
        }
        compare::equal(&format!("seed {}", self.seed), first, &replayed, &self.subject);
        let vector = first.vector.clone();
        let members: Vec<Origin> = self.replicas.iter().map(|r| r.origin).collect();
        for replica in &mut self.replicas {
            let own = replica.origin;
            for member in members.iter().filter(|member| **member != own) {
                replica.hear(*member, vector.clone());
            }
            replica.stabilize();
            assert_eq!(replica.stable, vector);
            replica.sweep_all(self.rng.random_range(1..10));
        }
        for at in 0..self.replicas.len() {
            self.check(at);
            let replica = &self.replicas[at];
            compare::nothing_left(&format!("seed {}", self.seed), replica, &self.subject);
        }
    }
}
