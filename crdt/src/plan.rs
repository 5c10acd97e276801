//! What an operation will do to one key, while it is worked out at its origin.
//!
//! A [`Plan`] holds at most one removal and one add per path; absorbing a later step gives what both do together, so
//! intermediate states of a txn never ship.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use thiserror::Error;

use crate::cells::ReadCells;
use crate::error::StoreError;
use crate::execute::{Ctx, Limits};
use crate::keys::Key;
use crate::path;
use crate::txn::{Add, KeyEffect, Removal};
use crate::types::{Mutation, Type, counter, delete, doc, flag, map, register, set};
use crate::value::Value;
use crate::view::KeyView;

/// Why an operation is refused. Nothing was changed; asking the same again gives the same answer until someone changes
/// the key or the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The key (or the field of a map) is of another type.
    #[error("the key is a {live}, not a {asked}")]
    WrongType {
        /// What it is shown as.
        live: Type,
        /// What the operation is of.
        asked: Type,
    },
    /// The counter's sum would leave the range of 64 bits.
    #[error("the sum would leave the range of a 64-bit integer")]
    Overflow,
    /// Maps nested deeper than allowed.
    #[error("maps are nested deeper than {limit}")]
    TooDeep {
        /// The deepest nesting allowed.
        limit: usize,
    },
    /// Something is larger than allowed.
    #[error("{what} is above its limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its limit, in bytes or as a count.
        limit: u64,
    },
    /// A value that cannot be kept: not a number, or nested deeper than 32.
    #[error("the value cannot be kept: it has a NaN or is nested too deeply")]
    BadValue,
    /// A document as a field of a map.
    #[error("a document is a key of its own, never a field of a map")]
    Nested,
}

#[derive(Debug)]
pub(crate) enum PlanError<E> {
    Refused(Refusal),
    Store(StoreError<E>),
}

impl<E> From<Refusal> for PlanError<E> {
    fn from(refusal: Refusal) -> Self {
        PlanError::Refused(refusal)
    }
}

impl<E> From<StoreError<E>> for PlanError<E> {
    fn from(error: StoreError<E>) -> Self {
        PlanError::Store(error)
    }
}

/// Removals first, then net adds; at most one of each per path.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    prefixes: BTreeSet<Vec<u8>>,
    removes: BTreeSet<Vec<u8>>,
    adds: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Plan {
    pub fn add(&mut self, path: Vec<u8>, payload: Vec<u8>) {
        self.adds.insert(path, payload);
    }

    pub fn remove(&mut self, path: Vec<u8>) {
        self.removes.insert(path);
    }

    pub fn remove_prefix(&mut self, prefix: Vec<u8>) {
        self.prefixes.insert(prefix);
    }

    pub fn is_empty(&self) -> bool {
        self.prefixes.is_empty() && self.removes.is_empty() && self.adds.is_empty()
    }

    /// How many removals and adds there are.
    pub fn len(&self) -> usize {
        self.prefixes.len() + self.removes.len() + self.adds.len()
    }

    /// Adds what a later step does. Its removals take out adds of earlier steps too; floors stand, because a prefix
    /// never removes them.
    pub fn absorb(&mut self, step: Plan) {
        if self.is_empty() {
            *self = step;
            return;
        }
        for prefix in step.prefixes {
            self.adds.retain(|path, _| !path.starts_with(&prefix) || is_floor(path));
            self.removes.retain(|path| !path.starts_with(&prefix) || is_floor(path));
            self.prefixes.retain(|other| !other.starts_with(&prefix));
            if !self.prefixes.iter().any(|other| prefix.starts_with(other)) {
                self.prefixes.insert(prefix);
            }
        }
        for path in step.removes {
            self.adds.remove(&path);
            // SUBTLE: a prefix above may only be here because of what this txn itself added, and be pruned. The removal
            // of a remove-wins cell must ship all the same.
            let needed = path::parse(&path).is_ok_and(|leaf| leaf.floor || leaf.ty.remove_wins());
            if needed || !self.prefixes.iter().any(|prefix| path.starts_with(prefix)) {
                self.removes.insert(path);
            }
        }
        self.adds.extend(step.adds);
    }

    /// Leaves out the removals of what was not there before the txn: nothing that its deps cover can be in those cells
    /// anywhere. Of remove-wins cells that is not known: stability may have dropped them here first.
    pub fn prune<C: ReadCells>(&mut self, base: &KeyView<'_, C>) -> Result<(), StoreError<C::Error>> {
        for path in std::mem::take(&mut self.removes) {
            let kept = path::parse(&path).is_ok_and(|leaf| leaf.ty.remove_wins());
            if kept || base.get(&path)?.is_some() {
                self.removes.insert(path);
            }
        }
        for prefix in std::mem::take(&mut self.prefixes) {
            if base.has_any(&prefix)? {
                self.prefixes.insert(prefix);
            }
        }
        Ok(())
    }

    pub fn into_effect(self, key: &Key) -> KeyEffect {
        let mut removes = Vec::with_capacity(self.removes.len() + self.prefixes.len());
        removes.extend(self.removes.into_iter().map(|path| Removal { path: path.into(), prefix: false }));
        removes.extend(self.prefixes.into_iter().map(|path| Removal { path: path.into(), prefix: true }));
        removes.sort();
        let add =
            |(path, payload): (Vec<u8>, Vec<u8>)| Add { path: path.into(), payload: Bytes::from(payload) };
        let adds = self.adds.into_iter().map(add).collect();
        KeyEffect { space: key.space.clone(), key: key.key.clone(), removes, adds }
    }
}

fn is_floor(path: &[u8]) -> bool {
    path::parse(path).is_ok_and(|leaf| leaf.floor)
}

/// Works out what one operation does to one key. It reads, and changes nothing but its plan.
#[derive(Debug)]
pub(crate) struct Planner<'p, C> {
    pub view: KeyView<'p, C>,
    pub ctx: &'p Ctx<'p>,
    pub limits: &'p Limits,
    pub plan: Plan,
}

impl<C: ReadCells> Planner<'_, C> {
    /// Plans a mutation of the key (`at` empty, `depth` 0) or of a field (`at` the field's path).
    pub fn mutation(
        &mut self,
        at: &[u8],
        depth: usize,
        mutation: &Mutation,
    ) -> Result<Option<Value>, PlanError<C::Error>> {
        if let Some(asked) = mutation.ty() {
            self.check_type(at, asked)?;
        }
        match mutation {
            Mutation::Register(op) => register::plan(self, at, Type::Register, op),
            Mutation::MvRegister(op) => register::plan(self, at, Type::MvRegister, op),
            Mutation::Counter(op) => counter::plan(self, at, *op),
            Mutation::Flag(op) => flag::plan(self, at, Type::Flag, *op),
            Mutation::DwFlag(op) => flag::plan(self, at, Type::DwFlag, *op),
            Mutation::Set(op) => set::plan(self, at, Type::Set, op),
            Mutation::RwSet(op) => set::plan(self, at, Type::RwSet, op),
            Mutation::Map(op) => map::plan(self, at, depth, op),
            Mutation::Doc(op) => doc::plan(self, at, op),
            Mutation::Delete(_) if at.is_empty() => delete::plan(self),
            Mutation::Delete(_) => counter::remove_below(self, at).map(|()| None),
        }
    }

    fn check_type(&self, at: &[u8], asked: Type) -> Result<(), PlanError<C::Error>> {
        match self.view.shown_at(at)? {
            Some(live) if live != asked => Err(Refusal::WrongType { live, asked }.into()),
            _ => Ok(()),
        }
    }

    /// Puts a payload in the place of all that is observed at `path`. Where only this origin's dot stands no removal
    /// has to ship: the new dot takes its place.
    ///
    /// SUBTLE: a remove-wins cell may be gone here because stability dropped it, and still stand elsewhere. Its removal
    /// always ships, or an old `-` there would beat the new `+`.
    pub fn replace(&mut self, path: Vec<u8>, ty: Type, payload: Vec<u8>) -> Result<(), PlanError<C::Error>> {
        let own = self.ctx.dot.origin;
        if ty.remove_wins() || self.view.get(&path)?.is_some_and(|cell| cell.has_foreign(own)) {
            self.plan.remove(path.clone());
        }
        self.plan.add(path, payload);
        self.check_count()
    }

    /// Takes out all that is observed at `path`, if anything is.
    pub fn take(&mut self, path: Vec<u8>) -> Result<(), PlanError<C::Error>> {
        if self.view.get(&path)?.is_some() {
            self.plan.remove(path);
        }
        self.check_count()
    }

    pub fn check_value(&self, value: &Value) -> Result<Vec<u8>, Refusal> {
        let bytes = self.check_storable(value)?;
        at_most("a value", bytes.len(), self.limits.value_bytes_max)?;
        Ok(bytes)
    }

    pub fn check_element(&self, element: &Value) -> Result<(), Refusal> {
        let bytes = self.check_storable(element)?;
        at_most("an element", bytes.len(), self.limits.element_bytes_max)
    }

    fn check_storable(&self, value: &Value) -> Result<Vec<u8>, Refusal> {
        if value.is_storable() { Ok(value.to_bytes()) } else { Err(Refusal::BadValue) }
    }

    /// Stops a plan that has grown too large before it grows further.
    pub fn check_count(&self) -> Result<(), PlanError<C::Error>> {
        Ok(at_most("a transaction's count of effects", self.plan.len(), self.limits.effects_max)?)
    }
}

pub(crate) fn at_most(what: &'static str, size: usize, limit: usize) -> Result<(), Refusal> {
    if size <= limit { Ok(()) } else { Err(Refusal::TooLarge { what, limit: limit as u64 }) }
}
