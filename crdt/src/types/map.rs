//! The map: no cells of its own, only the fields' paths. A field is there while anything below it reads as a value.
//! Removing a field is one removal by prefix, which drops what it observed below, `-` marks included; what a concurrent
//! update of the field wrote survives it and is all that is left.

use crate::cells::ReadCells;
use crate::path::{self, PATH_DEPTH_MAX};
use crate::plan::{PlanError, Planner, Refusal, at_most};
use crate::types::{MapOp, Type, counter};
use crate::value::Value;

pub(crate) fn plan<C: ReadCells>(
    p: &mut Planner<'_, C>,
    at: &[u8],
    depth: usize,
    op: &MapOp,
) -> Result<Option<Value>, PlanError<C::Error>> {
    match op {
        MapOp::Update { field, mutation } => {
            let limit = p.limits.depth_max.min(PATH_DEPTH_MAX);
            if depth >= limit {
                return Err(Refusal::TooDeep { limit }.into());
            }
            check_field(p, field)?;
            p.mutation(&path::of_field(at, field), depth + 1, mutation)
        }
        MapOp::Remove { field } => {
            check_field(p, field)?;
            counter::remove_below(p, &path::of_field(at, field)).map(|()| None)
        }
        MapOp::Clear => counter::remove_below(p, &path::of_type(at, Type::Map)).map(|()| None),
    }
}

fn check_field<C>(p: &Planner<'_, C>, field: &str) -> Result<(), Refusal> {
    at_most("the name of a field", field.len(), p.limits.field_bytes_max)
}
