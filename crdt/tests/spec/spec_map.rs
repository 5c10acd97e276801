//! Maps: a field is what the updates of it say that no removal of the field, clear or delete of the map observed.

use std::collections::{BTreeMap, BTreeSet};

use meridian_crdt::{MapOp, Mutation, ReadValue};

use super::history::Act;
use super::spec_slot;

/// The fields that exist. A map without one does not exist.
pub fn map(acts: &[Act<'_>]) -> Option<ReadValue> {
    let names: BTreeSet<&str> = acts.iter().filter_map(|act| update(*act)).map(|(name, _)| name).collect();
    let mut fields = BTreeMap::new();
    for name in names {
        if let Some(content) = spec_slot::slot(&field(acts, name)) {
            fields.insert(name.to_string(), content);
        }
    }
    (!fields.is_empty()).then_some(ReadValue::Map(fields))
}

/// The history of one field. A removal erases from it exactly what it observed, marks of removal included.
pub fn field<'h>(acts: &[Act<'h>], name: &str) -> Vec<Act<'h>> {
    let erases = |act: &Act<'_>| match act.mutation {
        Mutation::Map(MapOp::Remove { field }) => field == name,
        Mutation::Map(MapOp::Update { field, mutation }) => field == name && is_delete(mutation),
        Mutation::Map(MapOp::Clear) | Mutation::Delete(_) => true,
        _ => false,
    };
    let erasers: Vec<Act<'h>> = acts.iter().copied().filter(erases).collect();
    acts.iter()
        .filter(|act| !erasers.iter().any(|eraser| eraser.observed(**act)))
        .filter_map(|act| Some((act, update(*act)?)))
        .filter(|(_, (field, mutation))| *field == name && !is_delete(mutation))
        .map(|(act, (_, mutation))| act.inside(mutation))
        .collect()
}

/// To delete a field is to remove it.
fn is_delete(mutation: &Mutation) -> bool {
    matches!(mutation, Mutation::Delete(_))
}

fn update<'h>(act: Act<'h>) -> Option<(&'h str, &'h Mutation)> {
    match act.mutation {
        Mutation::Map(MapOp::Update { field, mutation }) => Some((field, mutation)),
        _ => None,
    }
}
