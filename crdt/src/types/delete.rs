//! Delete: every type that the key has is removed by that type's own rule, also where concurrent creations left
//! several of them.

use crate::cells::ReadCells;
use crate::path;
use crate::plan::{PlanError, Planner};
use crate::types::{FlagOp, RegisterOp, SetOp, Type, counter, flag, register, set};
use crate::value::Value;

pub(crate) fn plan<C: ReadCells>(p: &mut Planner<'_, C>) -> Result<Option<Value>, PlanError<C::Error>> {
    let dwflag_is_live = p.view.header.visible.contains_key(&Type::DwFlag);
    for ty in Type::ALL {
        match ty {
            Type::Register | Type::MvRegister => {
                register::plan(p, &[], ty, &RegisterOp::Clear)?;
            }
            Type::Flag => {
                flag::plan(p, &[], ty, FlagOp::Disable)?;
            }
            // A disable leaves a mark; a flag that is off needs none.
            Type::DwFlag if dwflag_is_live => {
                flag::plan(p, &[], ty, FlagOp::Disable)?;
            }
            Type::DwFlag => {}
            Type::Set | Type::RwSet => {
                set::plan(p, &[], ty, &SetOp::Clear)?;
            }
            Type::Counter | Type::Map => counter::remove_below(p, &path::of_type(&[], ty))?,
        }
    }
    Ok(None)
}
