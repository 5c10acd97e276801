//! Flags: one cell. `flag` holds a dot for each concurrent enable and none when disabled; `dwflag` holds `+` and `-`
//! dots like an element of a remove-wins set, so that a disable can win.

use crate::cell::{MINUS, PLUS};
use crate::cells::ReadCells;
use crate::path;
use crate::plan::{PlanError, Planner};
use crate::types::{FlagOp, Type};
use crate::value::Value;

pub(crate) fn plan<C: ReadCells>(
    p: &mut Planner<'_, C>,
    at: &[u8],
    ty: Type,
    op: FlagOp,
) -> Result<Option<Value>, PlanError<C::Error>> {
    let path = path::of_type(at, ty);
    match (op, ty.remove_wins()) {
        (FlagOp::Enable, false) => p.replace(path, ty, Vec::new())?,
        (FlagOp::Disable, false) => p.take(path)?,
        (FlagOp::Enable, true) => p.replace(path, ty, PLUS.to_vec())?,
        (FlagOp::Disable, true) => p.replace(path, ty, MINUS.to_vec())?,
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use crate::testkit::Replica;
    use crate::{FlagOp, Mutation, Table, Value};

    #[test]
    fn a_disable_wins_flag_keeps_its_mark_until_it_is_stable() {
        let mut a = Replica::new(1);
        a.write(1, Mutation::DwFlag(FlagOp::Enable));
        assert_eq!(a.value(), Some(Value::Bool(true)));
        a.write(2, Mutation::DwFlag(FlagOp::Disable));
        assert_eq!((a.value(), a.digest()), (None, 0));
        assert_eq!(a.rows(Table::HEADER), 1);
        a.settle();
        assert_eq!((a.rows(Table::HEADER), a.rows(Table::SWEEP)), (0, 0));
    }

    #[test]
    fn a_flag_that_is_switched_off_leaves_nothing() {
        let mut a = Replica::new(1);
        a.write(1, Mutation::Flag(FlagOp::Enable));
        a.write(2, Mutation::Flag(FlagOp::Disable));
        assert_eq!((a.value(), a.digest()), (None, 0));
        assert!(a.write(3, Mutation::Flag(FlagOp::Disable)).effects.is_empty());
        a.settle();
        assert_eq!((a.rows(Table::HEADER), a.rows(Table::SWEEP)), (0, 0));
    }
}
