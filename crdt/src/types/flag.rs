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
        (FlagOp::Enable, false) => p.replace(path, ty, &[])?,
        (FlagOp::Disable, false) => p.take(path)?,
        (FlagOp::Enable, true) => p.replace(path, ty, PLUS)?,
        (FlagOp::Disable, true) => p.replace(path, ty, MINUS)?,
    }
    Ok(None)
}
