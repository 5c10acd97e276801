//! What clients have written, and what each session must therefore see.
//!
//! Every checked write is a fact with a number, which is also its value, so that a value that is read tells whose it
//! is. A fact remembers all facts that its session knew when it was written: whoever sees it must see these too, at
//! any node, in any datacenter. So one rule covers the four session guarantees, causal order (I2) and atomic
//! visibility (I10): what a snapshot shows, and what its session knows, is closed under "must see".

use std::collections::BTreeMap;

use meridian_crdt::{Content, Dot, ReadValue, Value, Vector};

/// A set of facts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts(Vec<u64>);

impl Facts {
    /// Adds a fact.
    pub fn insert(&mut self, fact: usize) {
        if self.0.len() <= fact / 64 {
            self.0.resize(fact / 64 + 1, 0);
        }
        self.0[fact / 64] |= 1 << (fact % 64);
    }

    /// Takes a fact out.
    pub fn remove(&mut self, fact: usize) {
        if let Some(word) = self.0.get_mut(fact / 64) {
            *word &= !(1 << (fact % 64));
        }
    }

    /// Whether a fact is in it.
    pub fn contains(&self, fact: usize) -> bool {
        self.0.get(fact / 64).is_some_and(|word| word >> (fact % 64) & 1 == 1)
    }

    /// Adds all facts of another set.
    pub fn join(&mut self, other: &Facts) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, more) in self.0.iter_mut().zip(&other.0) {
            *word |= more;
        }
    }
}

/// What a key is for, and so what holds of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// A set to which unique elements are added, never removed.
    Log,
    /// A set of unique elements, which are removed by sessions that know them.
    Cart,
    /// A register with unique values.
    Register,
    /// A counter to which positive numbers are added.
    Count,
    /// A register that is set if it is absent.
    Claim,
    /// A register that is set if its version is the one that was read.
    Cas,
    /// A register with unique values that is deleted now and then.
    Grave,
    /// A register with a list of unique values, to which interactive transactions of one datacenter append.
    List,
    /// A register with unique values that only interactive transactions of one datacenter set.
    Cell,
}

/// A checked key.
pub type KeyId = (Group, u64);

/// What became of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nobody knows, or nobody knows yet.
    Unknown,
    /// It is there.
    Done,
    /// It is not.
    Not,
}

/// One checked write.
#[derive(Clone, Debug)]
pub struct Fact {
    /// The keys that it wrote.
    pub keys: Vec<KeyId>,
    /// What its session knew.
    pub deps: Facts,
    /// What became of it.
    pub outcome: Outcome,
    /// The number that it added to a counter.
    pub by: i64,
    /// The element of a cart that it removed.
    pub removes: Option<usize>,
    /// What has tried to remove it.
    pub removed_by: Vec<usize>,
    /// The txn that it became.
    pub dot: Option<Dot>,
    /// Whether it was asked again without the token of what its session had known: a removal need not have found then what it
    /// was to remove.
    pub blind: bool,
}

/// All checked writes.
#[derive(Debug, Default)]
pub struct Ledger {
    /// By number.
    pub facts: Vec<Fact>,
    by_key: BTreeMap<KeyId, Vec<usize>>,
    dots: BTreeMap<Dot, usize>,
}

impl Ledger {
    /// The number of the next fact.
    pub fn next(&self) -> usize {
        self.facts.len()
    }

    /// Adds a fact that is about to be tried.
    pub fn begin(&mut self, keys: Vec<KeyId>, deps: Facts, by: i64, removes: Option<usize>) -> usize {
        let number = self.facts.len();
        for key in keys.iter().filter(|_| removes.is_none()) {
            self.by_key.entry(*key).or_default().push(number);
        }
        if let Some(target) = removes {
            self.facts[target].removed_by.push(number);
        }
        let outcome = Outcome::Unknown;
        self.facts.push(Fact {
            keys,
            deps,
            outcome,
            by,
            removes,
            removed_by: Vec::new(),
            dot: None,
            blind: false,
        });
        number
    }

    /// A fact that is about to be tried writes one more key.
    pub fn also(&mut self, number: usize, key: KeyId) {
        self.by_key.entry(key).or_default().push(number);
        self.facts[number].keys.push(key);
    }

    /// A fact was acknowledged with the txn that it became.
    pub fn done(&mut self, number: usize, dot: Option<Dot>) {
        let fact = &mut self.facts[number];
        fact.outcome = Outcome::Done;
        fact.dot = dot;
        assert!(
            dot.is_some() || fact.removes.is_some(),
            "the write {number} was acknowledged and changed nothing"
        );
        if let Some(dot) = dot {
            let known = *self.dots.entry(dot).or_insert(number);
            assert_eq!(known, number, "two writes became the txn {dot}");
        }
    }

    /// What is no longer in `left` or in any of `elsewhere` may be gone: nobody knows.
    pub fn lose(&mut self, left: &Vector, elsewhere: &[Vector]) -> Vec<usize> {
        let gone = |dot: &Dot| !left.covers(*dot) && !elsewhere.iter().any(|v| v.covers(*dot));
        let mut lost = Vec::new();
        for (number, fact) in self.facts.iter_mut().enumerate() {
            if fact.dot.as_ref().is_some_and(gone) {
                fact.outcome = Outcome::Unknown;
                fact.dot = None;
                lost.push(number);
            }
        }
        self.dots.retain(|dot, _| !gone(dot));
        // A removal that found nothing left to remove may rest on one that is lost now.
        let rests_on_lost = |fact: &&Fact| {
            let others = fact.removes.map(|target| &self.facts[target].removed_by);
            fact.dot.is_none() && others.is_some_and(|others| others.iter().any(|other| lost.contains(other)))
        };
        let idle = self.facts.iter().enumerate().filter(|(_, fact)| fact.outcome == Outcome::Done);
        let idle: Vec<usize> =
            idle.filter(|(_, fact)| rests_on_lost(fact)).map(|(number, _)| number).collect();
        for number in &idle {
            self.facts[*number].outcome = Outcome::Unknown;
        }
        lost.extend(idle);
        // What changed nothing, and what is still under way, depends on nothing that its txn would bring along: whoever
        // did it may have known facts that are lost now.
        for fact in self.facts.iter_mut().filter(|fact| fact.dot.is_none()) {
            lost.iter().for_each(|number| fact.deps.remove(*number));
        }
        lost
    }

    /// Checks one snapshot of some keys, as read by somebody who must see `known`. What it shows, with all that must
    /// be seen by whoever sees it.
    pub fn check(&self, known: &Facts, snapshot: &[(KeyId, Option<Content>)], who: &str) -> Facts {
        let mut must = known.clone();
        let mut shown = BTreeMap::new();
        for (key, content) in snapshot {
            let numbers = numbers(*key, content.as_ref(), who);
            for number in &numbers {
                let fact = self.facts.get(*number).filter(|fact| fact.keys.contains(key));
                let Some(fact) = fact else { panic!("{who}: {number} was never written to {key:?}") };
                assert!(fact.outcome != Outcome::Not, "{who}: {number} is at {key:?} and was refused");
                must.insert(*number);
                must.join(&fact.deps);
            }
            shown.insert(*key, numbers);
        }
        for (key, content) in snapshot {
            self.check_key(&must, *key, content.as_ref(), &shown[key], who);
        }
        must
    }

    fn check_key(&self, must: &Facts, key: KeyId, content: Option<&Content>, shown: &[usize], who: &str) {
        let none = Vec::new();
        let written = self.by_key.get(&key).unwrap_or(&none);
        let due = written.iter().copied().filter(|number| must.contains(*number));
        match key.0 {
            Group::Log | Group::List => {
                for number in due {
                    assert!(shown.contains(&number), "{who}: {number} is missing from {key:?}");
                }
            }
            Group::Cart => {
                for number in due {
                    self.check_element(must, key, number, shown.contains(&number), who);
                }
            }
            Group::Register | Group::Claim | Group::Cas | Group::Cell => {
                for number in due {
                    let Some(winner) = shown.first() else {
                        panic!("{who}: {key:?} is absent, {number} was written to it");
                    };
                    let stale = self.facts[number].deps.contains(*winner);
                    assert!(!stale, "{who}: {key:?} shows {winner}, which {number} has replaced");
                }
            }
            // What was deleted stays deleted: the checker of resurrection sees to that.
            Group::Grave => {}
            Group::Count => {
                let least: i64 = due.map(|number| self.facts[number].by).sum();
                let possible = written.iter().map(|n| &self.facts[*n]).filter(|f| f.outcome != Outcome::Not);
                let most: i64 = possible.map(|fact| fact.by).sum();
                let value = match content.map(|content| &content.value) {
                    Some(ReadValue::Counter(value)) => *value,
                    None => 0,
                    Some(other) => panic!("{who}: {key:?} holds {other:?}"),
                };
                assert!(
                    least <= value && value <= most,
                    "{who}: {key:?} is {value}, not in {least}..={most}"
                );
            }
        }
    }

    fn check_element(&self, must: &Facts, key: KeyId, number: usize, there: bool, who: &str) {
        let removals = &self.facts[number].removed_by;
        let removed =
            removals.iter().find(|removal| must.contains(**removal) && !self.facts[**removal].blind);
        if let Some(removal) = removed {
            assert!(!there, "{who}: {number} is back in {key:?}, from where {removal} has removed it");
        }
        if removals.iter().all(|removal| self.facts[*removal].outcome == Outcome::Not) {
            assert!(there, "{who}: {number} is missing from {key:?}, and nobody has removed it");
        }
    }

    /// All facts that were acknowledged, with what must be seen by whoever sees them.
    pub fn acknowledged(&self) -> Facts {
        let mut all = Facts::default();
        for (number, fact) in self.facts.iter().enumerate() {
            if fact.outcome == Outcome::Done {
                all.insert(number);
                all.join(&fact.deps);
            }
        }
        all
    }

    /// All keys that were written.
    pub fn keys(&self) -> Vec<KeyId> {
        self.by_key.keys().copied().collect()
    }
}

/// The facts that a key shows.
fn numbers(key: KeyId, content: Option<&Content>, who: &str) -> Vec<usize> {
    let number = |value: &Value| match value {
        Value::Int(number) => *number as usize,
        other => panic!("{who}: {key:?} shows {other:?}"),
    };
    match content.map(|content| &content.value) {
        None => Vec::new(),
        Some(ReadValue::Set(values)) => values.iter().map(number).collect(),
        Some(ReadValue::Register(Value::Array(values))) => values.iter().map(number).collect(),
        Some(ReadValue::Register(value)) => vec![number(value)],
        Some(ReadValue::Counter(_)) => Vec::new(),
        Some(other) => panic!("{who}: {key:?} holds {other:?}"),
    }
}
