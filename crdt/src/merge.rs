//! The one merge: two states that have applied different sets of txns become the state that has applied both.
//!
//! A dot that both hold stays. A dot that one holds stays if the other's vector does not cover it: the other has not
//! seen it yet. If it does, the other has seen it and its removal. What stability dropped counts as removed, which is
//! right because stability only drops what nothing can tell from absent.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use crate::cell::Cell;
use crate::cells::{Cells, ReadCells, Table};
use crate::digest::DigestDeltas;
use crate::edit::KeyEdit;
use crate::error::StoreError;
use crate::keys::Key;
use crate::path;
use crate::types::doc;
use crate::vector::Vector;
use crate::view::KeyView;

/// Merges two states of one cell, each with the vector of the state it stands in.
pub fn merge(a: &Cell, va: &Vector, b: &Cell, vb: &Vector) -> Cell {
    let mut merged = Cell::default();
    for (one, other, seen) in [(a, b, vb), (b, a, va)] {
        for held in &one.dots {
            if other.dots.iter().any(|h| h.dot == held.dot) || !seen.covers(held.dot) {
                merged.put(held.clone());
            }
        }
    }
    merged
}

/// Merges all of `from`, whose vector is `from_vector`, into `into`, whose vector is `into_vector`. The caller joins the
/// vectors. `index` is the local index of this step, under which the changed keys and the sweep queue note it.
pub fn merge_state<A: ReadCells<Error = B::Error>, B: Cells>(
    from: &A,
    from_vector: &Vector,
    into: &mut B,
    into_vector: &Vector,
    index: u64,
) -> Result<(), StoreError<B::Error>> {
    let mut deltas = DigestDeltas::default();
    let mut next: Vec<u8> = Vec::new();
    loop {
        let row = match (first_header(from, &next)?, first_header(into, &next)?) {
            (Some(a), Some(b)) => a.min(b),
            (Some(row), None) | (None, Some(row)) => row,
            (None, None) => break,
        };
        let key = Key::from_header_row(&row).map_err(StoreError::corrupt(Table::HEADER, &row))?;
        merge_key(from, from_vector, into, into_vector, &key, index, &mut deltas)?;
        next = [row.as_slice(), &[0]].concat();
    }
    deltas.write(into)
}

fn first_header<C: ReadCells>(cells: &C, from: &[u8]) -> Result<Option<Vec<u8>>, StoreError<C::Error>> {
    let mut found = None;
    cells.scan(Table::HEADER, from, None, &mut |row, _| {
        found = Some(row.to_vec());
        ControlFlow::Break(())
    })?;
    Ok(found)
}

fn merge_key<A: ReadCells<Error = B::Error>, B: Cells>(
    from: &A,
    va: &Vector,
    into: &mut B,
    vb: &Vector,
    key: &Key,
    index: u64,
    deltas: &mut DigestDeltas,
) -> Result<(), StoreError<B::Error>> {
    let theirs = KeyView::open(from, key)?;
    let ours = KeyView::open(&*into, key)?;
    let mut units = unit_paths(&theirs)?;
    units.append(&mut unit_paths(&ours)?);
    drop(ours);
    let mut edit = KeyEdit::open(into, key, index)?;
    let touched = edit.header.touched.clone();
    edit.header.touched.join(&theirs.header.touched);
    let mut changed = edit.header.touched != touched;
    for path in units {
        let cell = theirs.get(&path)?.unwrap_or_default();
        let counter = path::parse(&path).is_ok_and(|leaf| leaf.counter.is_some());
        let floor = if counter { theirs.get(&path::floor_of(&path))? } else { None };
        edit.unit(&path, |unit| {
            let before = unit.clone();
            unit.cell = merge(&cell, va, &unit.cell, vb);
            unit.floor = merge(&floor.unwrap_or_default(), va, &unit.floor, vb);
            changed |= *unit != before;
        })?;
    }
    changed |= doc::merge_apart(&theirs, &mut edit)?;
    changed |= doc::drop_orphans(&mut edit, &doc::whole())?;
    if changed {
        edit.header.changed = index;
        let (_, bucket, delta) = edit.finish()?;
        deltas.add(bucket, delta);
    }
    Ok(())
}

/// The paths of a key's cells, and for floors those of the cells they belong to; without what a document has kept apart.
fn unit_paths<C: ReadCells>(view: &KeyView<'_, C>) -> Result<BTreeSet<Vec<u8>>, StoreError<C::Error>> {
    let mut units = BTreeSet::new();
    let mut failed = None;
    view.scan(&[], None, &mut |path, _| match path::parse(path) {
        Ok(_) if doc::is_kept_apart(path) => ControlFlow::Continue(()),
        Ok(leaf) => {
            let end = path.len() - usize::from(leaf.floor);
            units.insert(path[..end].to_vec());
            ControlFlow::Continue(())
        }
        Err(why) => {
            failed = Some(StoreError::corrupt(Table::CELL, path)(why));
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(units), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Held;
    use crate::id::{Dot, Origin};
    use crate::testkit::{Replica, text};
    use crate::{Mutation, SetOp};

    fn held(origin: u32, seq: u64) -> Held {
        Held { dot: Dot::new(Origin(origin), seq), hlc: 0, payload: Default::default() }
    }

    fn vector(entries: &[(u32, u64)]) -> Vector {
        entries.iter().map(|(o, s)| Dot::new(Origin(*o), *s)).collect()
    }

    #[test]
    fn a_dot_that_one_side_has_seen_and_no_longer_holds_is_gone() {
        let a = Cell { dots: smallvec::smallvec![held(1, 2), held(2, 1)] };
        let b = Cell { dots: smallvec::smallvec![held(2, 1), held(3, 5)] };
        let merged = merge(&a, &vector(&[(1, 2), (2, 1)]), &b, &vector(&[(1, 2), (2, 1), (3, 5)]));
        assert_eq!(merged.dots[..], [held(2, 1), held(3, 5)]);
    }

    #[test]
    fn a_later_dot_of_an_origin_takes_the_place_of_its_earlier_one() {
        let (a, b) =
            (Cell { dots: smallvec::smallvec![held(1, 2)] }, Cell { dots: smallvec::smallvec![held(1, 7)] });
        let (va, vb) = (vector(&[(1, 2)]), vector(&[(1, 7)]));
        assert_eq!(merge(&a, &va, &b, &vb), b);
        assert_eq!(merge(&b, &vb, &a, &va), b);
    }

    #[test]
    fn a_removed_element_stays_removed_after_a_snapshot_merge() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let added = a.write(1, Mutation::Set(SetOp::AddAll(vec![text("x"), text("y")])));
        b.receive(&added);
        a.write(2, Mutation::Set(SetOp::Remove(text("x"))));
        let other = b.write(3, Mutation::Set(SetOp::Add(text("z"))));
        merge_state(&a.cells, &a.vector, &mut b.cells, &b.vector, 9).expect("memory");
        a.receive(&other);
        assert_eq!((a.value(), a.digest()), (b.value(), b.digest()));
    }
}
