//! Slots: what a key, or a field of a map, reads as when several types may have been written to it.

use meridian_crdt::{CounterOp, MapOp, Mutation, ReadValue, Type};

use super::history::{Act, Found};
use super::{spec_counter, spec_doc, spec_flag, spec_map, spec_register, spec_set};

/// Why a mutation must be refused at its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    WrongType,
    Overflow,
}

/// The content of the slot: that of the smallest type code that has one.
pub fn slot(acts: &[Act<'_>]) -> Option<(Type, ReadValue)> {
    live(acts).into_iter().next()
}

/// The contents of every type that is live.
pub fn live(acts: &[Act<'_>]) -> Vec<(Type, ReadValue)> {
    Type::ALL.iter().filter_map(|ty| content(*ty, acts).map(|value| (*ty, value))).collect()
}

fn content(ty: Type, acts: &[Act<'_>]) -> Option<ReadValue> {
    match ty {
        Type::Register => spec_register::register(acts),
        Type::MvRegister => spec_register::mvregister(acts),
        Type::Counter => spec_counter::counter(acts),
        Type::Flag => spec_flag::flag(acts),
        Type::DwFlag => spec_flag::dwflag(acts),
        Type::Set => spec_set::set(acts),
        Type::RwSet => spec_set::rwset(acts),
        Type::Map => spec_map::map(acts),
        Type::Doc => spec_doc::doc(acts),
    }
}

/// What a mutation made after `acts` finds present.
pub fn found(acts: &[Act<'_>]) -> Found {
    Found { elements: spec_set::rwset_elements(acts), enabled: spec_flag::dwflag(acts).is_some() }
}

/// Whether `mutation` may follow `acts`.
pub fn admit(acts: &[Act<'_>], mutation: &Mutation) -> Result<(), Refusal> {
    let Some(ty) = mutation.ty() else { return Ok(()) };
    if slot(acts).is_some_and(|(shown, _)| shown != ty) {
        return Err(Refusal::WrongType);
    }
    match mutation {
        Mutation::Map(MapOp::Update { field, mutation }) => admit(&spec_map::field(acts, field), mutation),
        Mutation::Counter(CounterOp::Add(by)) => {
            let sum = spec_counter::sum(acts).unwrap_or(0) + i128::from(*by);
            i64::try_from(sum).map(drop).map_err(|_| Refusal::Overflow)
        }
        _ => Ok(()),
    }
}
