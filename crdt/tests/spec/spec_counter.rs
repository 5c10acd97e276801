//! Counters: the sum of the adds that no `reset` or `delete` observed; absent when there is none, also if they sum
//! to zero.

use meridian_crdt::{CounterOp, Mutation, ReadValue};

use super::history::{Act, survivors};

/// The exact sum; `None` if no add is left.
pub fn sum(acts: &[Act<'_>]) -> Option<i128> {
    let adds = survivors(
        acts,
        |m| matches!(m, Mutation::Counter(CounterOp::Add(_))),
        |m| matches!(m, Mutation::Counter(CounterOp::Reset) | Mutation::Delete(_)),
    );
    (!adds.is_empty()).then(|| adds.into_iter().map(added).sum())
}

pub fn counter(acts: &[Act<'_>]) -> Option<ReadValue> {
    sum(acts).map(|sum| ReadValue::Counter(sum.clamp(i64::MIN.into(), i64::MAX.into()) as i64))
}

fn added(act: Act<'_>) -> i128 {
    match act.mutation {
        Mutation::Counter(CounterOp::Add(by)) => i128::from(*by),
        other => panic!("{other:?} is not an add"),
    }
}
