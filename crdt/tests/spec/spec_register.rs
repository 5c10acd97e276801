//! Registers: a value is there from its `set` until a `set`, `clear` or `delete` that observed it.

use meridian_crdt::{Mutation, ReadValue, RegisterOp, Value};

use super::history::{Act, sorted, survivors};

/// Among the sets that nothing replaced, the highest (hlc, origin).
pub fn register(acts: &[Act<'_>]) -> Option<ReadValue> {
    let sets = survivors(
        acts,
        |m| matches!(m, Mutation::Register(RegisterOp::Set(_))),
        |m| matches!(m, Mutation::Register(_) | Mutation::Delete(_)),
    );
    sets.into_iter().max_by_key(|act| act.rank()).map(|act| ReadValue::Register(set_value(act).clone()))
}

/// All the values that nothing replaced.
pub fn mvregister(acts: &[Act<'_>]) -> Option<ReadValue> {
    let sets = survivors(
        acts,
        |m| matches!(m, Mutation::MvRegister(RegisterOp::Set(_))),
        |m| matches!(m, Mutation::MvRegister(_) | Mutation::Delete(_)),
    );
    let values = sorted(sets.into_iter().map(|act| set_value(act).to_bytes()));
    (!values.is_empty()).then_some(ReadValue::MvRegister(values))
}

fn set_value<'h>(act: Act<'h>) -> &'h Value {
    match act.mutation {
        Mutation::Register(RegisterOp::Set(value)) | Mutation::MvRegister(RegisterOp::Set(value)) => value,
        other => panic!("{other:?} is not a set"),
    }
}
