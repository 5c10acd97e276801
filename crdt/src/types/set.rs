//! Sets: one cell per element, the element itself in the path, so that no mutation reads more than the elements it
//! names. In a `set` a removal drops the dots it observed and leaves nothing. In an `rwset` a removal leaves a `-`
//! that beats concurrent adds, until everything that it could beat has arrived.

use std::ops::ControlFlow;

use crate::cell::{MINUS, PLUS};
use crate::cells::ReadCells;
use crate::path;
use crate::plan::{PlanError, Planner};
use crate::types::{SetOp, Type};
use crate::value::Value;

pub(crate) fn plan<C: ReadCells>(
    p: &mut Planner<'_, C>,
    at: &[u8],
    ty: Type,
    op: &SetOp,
) -> Result<Option<Value>, PlanError<C::Error>> {
    match op {
        SetOp::Add(element) => add(p, at, ty, element)?,
        SetOp::Remove(element) => remove(p, at, ty, element)?,
        SetOp::AddAll(elements) => elements.iter().try_for_each(|e| add(p, at, ty, e))?,
        SetOp::RemoveAll(elements) => elements.iter().try_for_each(|e| remove(p, at, ty, e))?,
        SetOp::Clear => clear(p, at, ty)?,
    }
    Ok(None)
}

fn add<C: ReadCells>(
    p: &mut Planner<'_, C>,
    at: &[u8],
    ty: Type,
    element: &Value,
) -> Result<(), PlanError<C::Error>> {
    p.check_element(element)?;
    let payload = if ty.remove_wins() { PLUS } else { &[] };
    p.replace(path::of_element(at, ty, element), ty, payload)
}

fn remove<C: ReadCells>(
    p: &mut Planner<'_, C>,
    at: &[u8],
    ty: Type,
    element: &Value,
) -> Result<(), PlanError<C::Error>> {
    p.check_element(element)?;
    let path = path::of_element(at, ty, element);
    if ty.remove_wins() { p.replace(path, ty, MINUS) } else { p.take(path) }
}

/// Removes what is there: a `set` with one prefix, an `rwset` element by element, because each needs its own `-`.
pub(crate) fn clear<C: ReadCells>(
    p: &mut Planner<'_, C>,
    at: &[u8],
    ty: Type,
) -> Result<(), PlanError<C::Error>> {
    let base = path::of_type(at, ty);
    if !ty.remove_wins() {
        if p.view.has_any(&base)? {
            p.plan.remove_prefix(base);
        }
        return Ok(());
    }
    let room = p.limits.effects_max;
    let mut present = Vec::new();
    p.view.scan_prefix(&base, &mut |path, stored| {
        if stored.cell.is_visible(ty) {
            present.push(path.to_vec());
        }
        if present.len() > room { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    present.into_iter().try_for_each(|path| p.replace(path, ty, MINUS))
}
