//! The one merge: two states that have applied different sets of txns become the state that has applied both.
//!
//! A dot that both hold stays. A dot that one holds stays if the other's vector does not cover it: the other has not
//! seen it yet. If it does, the other has seen it and its removal. What stability dropped counts as removed, which is
//! right because stability only drops what nothing can tell from absent.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use crate::cell::Cell;
use crate::cells::{Cells, ReadCells, Table};
use crate::digest;
use crate::edit::KeyEdit;
use crate::error::StoreError;
use crate::keys::Key;
use crate::path;
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
    let mut buckets: BTreeMap<u16, u128> = BTreeMap::new();
    let mut next: Vec<u8> = Vec::new();
    loop {
        let row = match (first_header(from, &next)?, first_header(into, &next)?) {
            (Some(a), Some(b)) => a.min(b),
            (Some(row), None) | (None, Some(row)) => row,
            (None, None) => break,
        };
        let key = Key::from_header_row(&row).map_err(StoreError::corrupt(Table::HEADER, &row))?;
        let delta = merge_key(from, from_vector, into, into_vector, &key, index)?;
        let bucket = buckets.entry(key.bucket()).or_default();
        *bucket = bucket.wrapping_add(delta);
        next = [row.as_slice(), &[0]].concat();
    }
    digest::add_to_buckets(into, &buckets)
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
) -> Result<u128, StoreError<B::Error>> {
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
    if changed {
        edit.header.changed = index;
        return edit.finish().map(|(_, delta)| delta);
    }
    Ok(0)
}

/// The paths of a key's cells, and for floors those of the cells they belong to.
fn unit_paths<C: ReadCells>(view: &KeyView<'_, C>) -> Result<BTreeSet<Vec<u8>>, StoreError<C::Error>> {
    let mut units = BTreeSet::new();
    let mut failed = None;
    view.scan(&[], None, &mut |path, _| match path::parse(path) {
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
