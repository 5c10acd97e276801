//! Registers: one cell whose payload is the value. A set replaces what it observed, whatever its date; values set
//! concurrently stand side by side in the cell, and reading picks one (`register`) or shows all (`mvregister`).

use crate::cells::ReadCells;
use crate::path;
use crate::plan::{PlanError, Planner};
use crate::types::{RegisterOp, Type};
use crate::value::Value;

pub(crate) fn plan<C: ReadCells>(
    p: &mut Planner<'_, C>,
    at: &[u8],
    ty: Type,
    op: &RegisterOp,
) -> Result<Option<Value>, PlanError<C::Error>> {
    let path = path::of_type(at, ty);
    match op {
        RegisterOp::Set(value) => {
            let payload = p.check_value(value)?;
            p.replace(path, ty, &payload)?;
        }
        RegisterOp::Clear => p.take(path)?,
    }
    Ok(None)
}
