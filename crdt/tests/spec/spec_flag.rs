//! Flags: enabled or absent.

use meridian_crdt::{FlagOp, Mutation, ReadValue};

use super::history::{Act, survivors};

/// Enable wins: enabled while an enable is left that no disable or delete observed.
pub fn flag(acts: &[Act<'_>]) -> Option<ReadValue> {
    let enables = survivors(
        acts,
        |m| matches!(m, Mutation::Flag(FlagOp::Enable)),
        |m| matches!(m, Mutation::Flag(FlagOp::Disable) | Mutation::Delete(_)),
    );
    (!enables.is_empty()).then_some(ReadValue::Flag(true))
}

/// Disable wins: of the acts that no later one observed, some enable and none disables.
pub fn dwflag(acts: &[Act<'_>]) -> Option<ReadValue> {
    let last: Vec<Act<'_>> = touching(acts);
    let enabled = last.iter().any(|act| enables(*act)) && last.iter().all(|act| enables(*act));
    enabled.then_some(ReadValue::Flag(true))
}

fn enables(act: Act<'_>) -> bool {
    matches!(act.mutation, Mutation::DwFlag(FlagOp::Enable))
}

/// A delete disables the flag that it found enabled, and is nothing to one that it did not.
fn touching<'h>(acts: &[Act<'h>]) -> Vec<Act<'h>> {
    let touches = |act: &Act<'_>| match act.mutation {
        Mutation::DwFlag(_) => true,
        Mutation::Delete(_) => act.found().enabled,
        _ => false,
    };
    let touching: Vec<Act<'h>> = acts.iter().copied().filter(touches).collect();
    touching.iter().copied().filter(|act| !touching.iter().any(|later| later.observed(*act))).collect()
}
