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
    p.replace(path::of_element(at, ty, element), ty, payload.to_vec())
}

fn remove<C: ReadCells>(
    p: &mut Planner<'_, C>,
    at: &[u8],
    ty: Type,
    element: &Value,
) -> Result<(), PlanError<C::Error>> {
    p.check_element(element)?;
    let path = path::of_element(at, ty, element);
    if ty.remove_wins() { p.replace(path, ty, MINUS.to_vec()) } else { p.take(path) }
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
    present.into_iter().try_for_each(|path| p.replace(path, ty, MINUS.to_vec()))
}

#[cfg(test)]
mod tests {
    use crate::cells::ReadCells;
    use crate::testkit::{Replica, key, text};
    use crate::{Ctx, Dot, Limits, Mutation, Query, SetOp, Table, Value, execute, read};

    fn add(n: i64) -> Mutation {
        Mutation::Set(SetOp::Add(Value::Int(n)))
    }

    #[test]
    fn adding_to_a_set_of_a_hundred_thousand_elements_reads_a_handful_of_rows() {
        let mut a = Replica::new(1);
        for chunk in 0..10 {
            let elements = (0..10_000).map(|n| Value::Int(chunk * 10_000 + n)).collect();
            a.write(1, Mutation::Set(SetOp::AddAll(elements)));
        }
        a.cells.reads.set(0);
        a.cells.scanned.set(0);
        a.cells.writes = 0;
        a.write(2, add(200_000));
        a.write(3, Mutation::Set(SetOp::Remove(Value::Int(5))));
        assert!(a.cells.reads.get() <= 16, "{} reads", a.cells.reads.get());
        assert_eq!(a.cells.scanned.get(), 0);
        assert!(a.cells.writes <= 8, "{} writes", a.cells.writes);
        let query = Query { element: Some(Value::Int(200_000)), ..Query::default() };
        let content = read(&a.cells, &key(), &query).expect("memory").content.expect("is there");
        assert_eq!((content.present, content.size), (Some(true), Some(100_000)));
        assert_eq!(a.cells.scanned.get(), 0);
    }

    #[test]
    fn a_clear_of_any_size_ships_one_prefix() {
        let mut a = Replica::new(1);
        a.write(1, Mutation::Set(SetOp::AddAll((0..3_000).map(Value::Int).collect())));
        let txn = a.write(2, Mutation::Set(SetOp::Clear));
        assert_eq!((txn.effects[0].removes.len(), txn.effects[0].adds.len()), (1, 0));
        assert_eq!((a.digest(), a.value()), (0, None));
        a.settle();
        assert_eq!((a.rows(Table::CELL), a.rows(Table::HEADER), a.rows(Table::SWEEP)), (0, 0, 0));
    }

    #[test]
    fn add_and_remove_cycles_leave_no_cells() {
        let mut a = Replica::new(1);
        for n in 0..100 {
            a.write(n, add(1));
            a.write(n, Mutation::Set(SetOp::Remove(Value::Int(1))));
        }
        assert_eq!(a.rows(Table::CELL), 0);
        assert_eq!(a.rows(Table::SWEEP), 1);
        a.settle();
        assert_eq!((a.rows(Table::HEADER), a.rows(Table::SWEEP), a.rows(Table::BUCKET)), (0, 0, 0));
    }

    #[test]
    fn a_remove_wins_set_leaves_no_cells_once_its_marks_are_stable() {
        let mut a = Replica::new(1);
        for n in 0..100 {
            a.write(n, Mutation::RwSet(SetOp::Add(Value::Int(n as i64 % 7))));
            a.write(n, Mutation::RwSet(SetOp::Remove(Value::Int(n as i64 % 7))));
        }
        assert_eq!(a.rows(Table::CELL), 7);
        assert!(a.rows(Table::SWEEP) <= 8);
        a.settle();
        assert_eq!((a.rows(Table::CELL), a.rows(Table::HEADER), a.rows(Table::SWEEP)), (0, 0, 0));
    }

    #[test]
    fn an_add_beats_an_old_mark_that_was_swept_here_and_not_there() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let removed = a.write(1, Mutation::RwSet(SetOp::Remove(text("x"))));
        b.receive(&removed);
        a.settle();
        assert_eq!(a.rows(Table::CELL), 0);
        let added = a.write(2, Mutation::RwSet(SetOp::Add(text("x"))));
        b.receive(&added);
        assert_eq!(b.value(), Some(Value::Array(vec![text("x")])));
        assert_eq!((a.value(), a.digest()), (b.value(), b.digest()));
    }

    #[test]
    fn zero_and_negative_zero_are_one_element() {
        let mut a = Replica::new(1);
        a.write(1, Mutation::Set(SetOp::AddAll(vec![Value::Float(0.0), Value::Float(-0.0)])));
        assert_eq!(a.value(), Some(Value::Array(vec![Value::Float(0.0)])));
    }

    #[test]
    fn executing_changes_nothing() {
        let mut a = Replica::new(1);
        a.write(1, add(1));
        let before = a.cells.rows.clone();
        let dot = Dot::new(a.origin, 2);
        let ctx = Ctx { dot, hlc: 1, deps: &a.vector, index: 9, stable: &a.stable };
        let ops = [(key(), add(2)), (key(), Mutation::Set(SetOp::Clear)), (key(), add(3))];
        execute(&a.cells, &ctx, &ops, &Limits::default()).expect("is accepted");
        assert_eq!(a.cells.rows, before);
        assert!(a.cells.get(Table::SWEEP, &[]).expect("memory").is_none());
    }
}
