//! Sets, element by element.

use std::collections::BTreeSet;

use meridian_crdt::{Mutation, ReadValue, SetOp};

use super::history::{Act, sorted, survivors};

/// Add wins: an element is present while an add of it is left that no removal, clear or delete observed.
pub fn set(acts: &[Act<'_>]) -> Option<ReadValue> {
    let ops =
        acts.iter().filter_map(|act| if let Mutation::Set(op) = act.mutation { Some(op) } else { None });
    let present = named(ops).into_iter().filter(|element| {
        let adds = |m: &Mutation| matches!(m, Mutation::Set(op) if adds(op, element));
        let removes = |m: &Mutation| match m {
            Mutation::Set(op) => removes(op, element) || matches!(op, SetOp::Clear),
            other => matches!(other, Mutation::Delete(_)),
        };
        !survivors(acts, adds, removes).is_empty()
    });
    let present = sorted(present);
    (!present.is_empty()).then_some(ReadValue::Set(present))
}

/// Remove wins: of the adds and removals of an element that no later one observed, some adds and none removes.
pub fn rwset(acts: &[Act<'_>]) -> Option<ReadValue> {
    let present = sorted(rwset_elements(acts));
    (!present.is_empty()).then_some(ReadValue::Set(present))
}

/// The encoded elements of a remove-wins set.
pub fn rwset_elements(acts: &[Act<'_>]) -> BTreeSet<Vec<u8>> {
    let ops =
        acts.iter().filter_map(|act| if let Mutation::RwSet(op) = act.mutation { Some(op) } else { None });
    named(ops).into_iter().filter(|element| rwset_has(acts, element)).collect()
}

fn rwset_has(acts: &[Act<'_>], element: &[u8]) -> bool {
    let adding = |act: &Act<'_>| matches!(act.mutation, Mutation::RwSet(op) if adds(op, element));
    let removing = |act: &Act<'_>| match act.mutation {
        Mutation::RwSet(SetOp::Clear) | Mutation::Delete(_) => act.found().elements.contains(element),
        Mutation::RwSet(op) => removes(op, element),
        _ => false,
    };
    let touching: Vec<_> = acts.iter().copied().filter(|act| adding(act) || removing(act)).collect();
    let last = |act: &Act<'_>| !touching.iter().any(|later| later.observed(*act));
    let last: Vec<_> = touching.iter().copied().filter(last).collect();
    last.iter().any(adding) && !last.iter().any(removing)
}

fn named<'o>(ops: impl Iterator<Item = &'o SetOp>) -> BTreeSet<Vec<u8>> {
    let mut named = BTreeSet::new();
    for op in ops {
        match op {
            SetOp::Add(element) => drop(named.insert(element.to_bytes())),
            SetOp::AddAll(elements) => named.extend(elements.iter().map(|e| e.to_bytes())),
            _ => {}
        }
    }
    named
}

fn adds(op: &SetOp, element: &[u8]) -> bool {
    match op {
        SetOp::Add(added) => added.to_bytes() == element,
        SetOp::AddAll(added) => added.iter().any(|e| e.to_bytes() == element),
        _ => false,
    }
}

fn removes(op: &SetOp, element: &[u8]) -> bool {
    match op {
        SetOp::Remove(removed) => removed.to_bytes() == element,
        SetOp::RemoveAll(removed) => removed.iter().any(|e| e.to_bytes() == element),
        _ => false,
    }
}
