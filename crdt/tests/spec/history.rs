//! Histories: what was committed, by whom, and what each commit had observed.
//!
//! A specification sees nothing else. It knows no cells, no vectors of replicas and no order of arrival; "observed"
//! is the whole of causality here.

use std::collections::{BTreeMap, BTreeSet};

use meridian_crdt::{CounterOp, Dot, Key, MapOp, Mutation, Origin, Value, Vector};

use super::spec_slot::{self, Refusal};
use super::{spec_counter, spec_map};

/// One committed txn.
#[derive(Clone, Debug)]
pub struct Event {
    pub dot: Dot,
    pub hlc: u64,
    /// Everything that its origin had applied, its own txns included.
    pub deps: Vector,
    pub ops: Vec<Op>,
    /// The keys that read otherwise at its origin than before it.
    pub changed: BTreeSet<Key>,
}

/// One mutation of a txn. Those of one txn follow each other.
#[derive(Clone, Debug)]
pub struct Op {
    pub key: Key,
    pub mutation: Mutation,
    pub found: Found,
}

/// What a mutation found at its origin, in the slot that it changes. The remove-wins types write one mark for each
/// thing that they found present, so a `clear` means no more than these.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The encoded elements of a present `rwset`.
    pub elements: BTreeSet<Vec<u8>>,
    /// Whether a `dwflag` was enabled.
    pub enabled: bool,
}

/// One mutation in its place in history, seen from the slot (a key, or a field of a map) that is being specified.
#[derive(Clone, Copy, Debug)]
pub struct Act<'h> {
    event: &'h Event,
    index: usize,
    /// The mutation of this slot: inside a map, what the `update` carries.
    pub mutation: &'h Mutation,
}

impl<'h> Act<'h> {
    /// Whether this act was made where `other` could be seen: applied at its origin, or earlier in the same txn.
    pub fn observed(self, other: Act<'_>) -> bool {
        self.event.deps.covers(other.dot()) || (self.dot() == other.dot() && other.index < self.index)
    }

    pub fn dot(self) -> Dot {
        self.event.dot
    }

    /// Which act of which txn this is.
    pub fn place(self) -> (Dot, usize) {
        (self.dot(), self.index)
    }

    /// The order of concurrent last-writer-wins values.
    pub fn rank(self) -> (u64, Origin) {
        (self.event.hlc, self.event.dot.origin)
    }

    pub fn found(self) -> &'h Found {
        &self.event.ops[self.index].found
    }

    /// The same act, seen from the field that it updates.
    pub fn inside(self, mutation: &'h Mutation) -> Act<'h> {
        Act { mutation, ..self }
    }
}

/// The acts for which `makes` holds and that no act with `unmakes` has observed: what every add-wins type consists of.
pub fn survivors<'h>(
    acts: &[Act<'h>],
    makes: impl Fn(&Mutation) -> bool,
    unmakes: impl Fn(&Mutation) -> bool,
) -> Vec<Act<'h>> {
    acts.iter()
        .filter(|made| makes(made.mutation))
        .filter(|made| !acts.iter().any(|other| unmakes(other.mutation) && other.observed(**made)))
        .copied()
        .collect()
}

/// Every txn that was committed anywhere.
#[derive(Clone, Debug, Default)]
pub struct History {
    events: BTreeMap<Dot, Event>,
}

impl History {
    pub fn add(&mut self, event: Event) {
        let before = self.events.insert(event.dot, event);
        assert!(before.is_none(), "a dot is used once");
    }

    pub fn event(&self, dot: Dot) -> &Event {
        &self.events[&dot]
    }

    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.values()
    }

    /// What was done to `key` by the txns that `vector` covers.
    pub fn view<'h>(&'h self, key: &Key, vector: &Vector) -> Vec<Act<'h>> {
        let visible = self.events.values().filter(|event| vector.covers(event.dot));
        visible.flat_map(|event| acts_of(event, key)).collect()
    }

    /// The txn that `ops` must become at a replica whose vector is `deps`, or why it must be refused.
    pub fn propose(
        &self,
        dot: Dot,
        hlc: u64,
        deps: &Vector,
        ops: &[(Key, Mutation)],
    ) -> Result<Event, Refusal> {
        let mut event = Event { dot, hlc, deps: deps.clone(), ops: Vec::new(), changed: BTreeSet::new() };
        for (key, mutation) in ops {
            let mut view = self.view(key, deps);
            view.extend(acts_of(&event, key));
            spec_slot::admit(&view, mutation)?;
            let found = found(&view, mutation);
            event.ops.push(Op { key: key.clone(), mutation: mutation.clone(), found });
        }
        for (key, _) in ops {
            let before = self.view(key, deps);
            let after = [before.clone(), acts_of(&event, key)].concat();
            if spec_slot::slot(&before) != spec_slot::slot(&after) {
                event.changed.insert(key.clone());
            }
        }
        Ok(event)
    }
}

fn acts_of<'h>(event: &'h Event, key: &Key) -> Vec<Act<'h>> {
    let ops = event.ops.iter().enumerate().filter(|(_, op)| op.key == *key);
    ops.map(|(index, op)| Act { event, index, mutation: &op.mutation }).collect()
}

fn found(view: &[Act<'_>], mutation: &Mutation) -> Found {
    match mutation {
        Mutation::Map(MapOp::Update { field, mutation }) => found(&spec_map::field(view, field), mutation),
        _ => spec_slot::found(view),
    }
}

/// What a mutation of a counter, at any depth, must answer: the sum after it.
pub fn answer(history: &History, event: &Event, index: usize) -> Option<i128> {
    let op = &event.ops[index];
    let mut view = history.view(&op.key, &event.deps);
    view.extend(acts_of(event, &op.key).into_iter().filter(|act| act.index <= index));
    let mut mutation = &op.mutation;
    while let Mutation::Map(MapOp::Update { field, mutation: inner }) = mutation {
        view = spec_map::field(&view, field);
        mutation = inner;
    }
    matches!(mutation, Mutation::Counter(CounterOp::Add(_))).then(|| spec_counter::sum(&view).unwrap_or(0))
}

/// Values in the order of their encoding, as sets are read.
pub fn sorted(encoded: impl IntoIterator<Item = Vec<u8>>) -> Vec<Value> {
    let distinct: BTreeSet<Vec<u8>> = encoded.into_iter().collect();
    distinct.iter().map(|bytes| Value::from_bytes(bytes).expect("an encoded value")).collect()
}
