//! What stability may drop: remove-wins cells with a `-`, floors of dead runs, headers of absent keys. And what
//! clears left behind (`cleared`), for which nobody has to wait.
//!
//! ```text
//! SWEEP   index u64 | cell prefix of the key | path -> version=1        no path: the key's header
//! SWEEP   ff x 8 -> version=1 | dropped u8 | next row bytes | stable vector                      the lap under way
//! ```
//!
//! A row is queued when such a thing arises, at most once while it stands, under the local index of that moment, which
//! the cell or header repeats. A sweep is a step of the log like any other: bounded, deterministic, and without any
//! effect on what can be observed.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::cell::Stored;
use crate::cells::{Cells, ReadCells, Table};
use crate::cleared::{self, sweep_cleared};
use crate::codec::{DecodeError, Reader, Writer};
use crate::edit::KeyEdit;
use crate::error::StoreError;
use crate::header::Header;
use crate::keys::Key;
use crate::path;
use crate::types::counter::{self, Floor};
use crate::vector::Vector;

const CURSOR: &[u8] = &[0xff; 8];
const VERSION: &[u8] = &[1];

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many rows were looked at: of the queue, and of cells that were cleared.
    pub examined: usize,
    /// How many cells, floors and headers were dropped.
    pub removed: usize,
    /// Whether a further sweep at the same stable vector may find more to drop. It turns false after a bounded number
    /// of sweeps, whatever is in the queue.
    pub ripe_left: bool,
}

/// Queues a cell, or with an empty path a header.
pub(crate) fn enqueue<C: Cells>(
    cells: &mut C,
    index: u64,
    cell_prefix: &[u8],
    path: &[u8],
) -> Result<(), StoreError<C::Error>> {
    let row = [&index.to_be_bytes(), cell_prefix, path].concat();
    Ok(cells.put(Table::SWEEP, &row, Bytes::from_static(VERSION))?)
}

/// Whether anything waits to be swept.
pub fn sweep_pending<C: ReadCells>(cells: &C) -> Result<bool, StoreError<C::Error>> {
    Ok(!rows_from(cells, &[], 1)?.is_empty() || cleared::pending(cells)?)
}

/// Drops what is ripe: all its dots are covered by `stable`, and of an absent key's header also that it last changed
/// before the local index `keep_from_index`; and rows of cleared collections, which always are. Looks at no more than
/// `limit` rows (at least 2).
///
/// Cleared rows get half of the limit, and what the others leave of theirs. Of those the oldest come first, for as long
/// as they are ripe. A quarter of the limit goes to the rows behind the first unripe one, in turn, so that it holds
/// nobody up.
pub fn sweep<C: Cells>(
    cells: &mut C,
    stable: &Vector,
    keep_from_index: u64,
    limit: usize,
) -> Result<Swept, StoreError<C::Error>> {
    let limit = limit.max(2);
    let mut swept = Swept::default();
    sweep_cleared(cells, stable, keep_from_index, limit / 2, &mut swept)?;
    match limit - swept.examined {
        left if left >= 2 => sweep_queue(cells, stable, keep_from_index, left, &mut swept)?,
        // The cleared rows go first where there is no room for both.
        _ => swept.ripe_left = true,
    }
    let left = limit.saturating_sub(swept.examined);
    sweep_cleared(cells, stable, keep_from_index, left, &mut swept)?;
    swept.ripe_left |= cleared::pending(cells)?;
    Ok(swept)
}

fn sweep_queue<C: Cells>(
    cells: &mut C,
    stable: &Vector,
    keep_from_index: u64,
    limit: usize,
    swept: &mut Swept,
) -> Result<(), StoreError<C::Error>> {
    let behind = (limit / 4).max(1);
    let rows = rows_from(cells, &[], limit - behind)?;
    let full = rows.len() == limit - behind;
    for row in rows {
        swept.examined += 1;
        match examine(cells, &row, stable, keep_from_index)? {
            Found::Ripe => swept.removed += 1,
            Found::Settled => {}
            Found::Unripe => return sweep_behind(cells, &row, stable, keep_from_index, behind, swept),
        }
    }
    swept.ripe_left = full && !rows_from(cells, &[], 1)?.is_empty();
    if !swept.ripe_left {
        cells.remove(Table::SWEEP, CURSOR)?;
    }
    Ok(())
}

/// One walk over the rows behind the first unripe one, spread over as many sweeps as it takes.
struct Lap {
    /// The row at which it goes on.
    next: Vec<u8>,
    /// What was stable when it began.
    began: Vector,
    /// Whether it dropped anything, which may have made a row ripe that it had passed.
    dropped: bool,
}

impl Lap {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.raw(VERSION);
        out.u8(u8::from(self.dropped));
        out.bytes(&self.next);
        self.began.encode(&mut out);
        out.finish()
    }

    fn decode(row: &[u8]) -> Result<Lap, DecodeError> {
        let mut input = Reader::new(row);
        match input.u8()? {
            version if [version] == VERSION => {}
            other => return Err(DecodeError::UnknownVersion(other)),
        }
        let dropped = input.u8()? != 0;
        let next = input.bytes()?.to_vec();
        let began = Vector::decode(&mut input)?;
        input.finish()?;
        Ok(Lap { next, began, dropped })
    }
}

/// Goes on with the lap behind an unripe row, or begins one. A lap that ends is followed by another if more has become
/// stable since it began, or if it dropped anything; so a row that it passed too early is found by the next.
fn sweep_behind<C: Cells>(
    cells: &mut C,
    unripe: &[u8],
    stable: &Vector,
    keep_from_index: u64,
    limit: usize,
    swept: &mut Swept,
) -> Result<(), StoreError<C::Error>> {
    let lap = match cells.get(Table::SWEEP, CURSOR)? {
        Some(row) => Some(Lap::decode(&row).map_err(StoreError::corrupt(Table::SWEEP, CURSOR))?),
        None => None,
    };
    let mut lap = lap.filter(|lap| lap.next.as_slice() > unripe).unwrap_or_else(|| Lap {
        next: after(unripe),
        began: stable.clone(),
        dropped: false,
    });
    lap.dropped |= swept.removed > 0;
    let rows = rows_from(cells, &lap.next, limit)?;
    for row in &rows {
        swept.examined += 1;
        if examine(cells, row, stable, keep_from_index)? == Found::Ripe {
            swept.removed += 1;
            lap.dropped = true;
        }
    }
    match rows.last().filter(|_| rows.len() == limit) {
        Some(last) => {
            swept.ripe_left = true;
            lap.next = after(last);
            cells.put(Table::SWEEP, CURSOR, lap.encode().into())?;
        }
        None => {
            swept.ripe_left = lap.dropped || lap.began != *stable;
            cells.remove(Table::SWEEP, CURSOR)?;
        }
    }
    Ok(())
}

fn after(row: &[u8]) -> Vec<u8> {
    [row, &[0]].concat()
}

fn rows_from<C: ReadCells>(
    cells: &C,
    from: &[u8],
    limit: usize,
) -> Result<Vec<Vec<u8>>, StoreError<C::Error>> {
    let mut rows = Vec::new();
    if limit == 0 {
        return Ok(rows);
    }
    cells.scan(Table::SWEEP, from, Some(CURSOR), &mut |row, _| {
        rows.push(row.to_vec());
        if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(rows)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    /// It was dropped, and its row with it.
    Ripe,
    /// It is no longer there or no longer to be dropped; its row is gone.
    Settled,
    /// It stays queued.
    Unripe,
}

fn examine<C: Cells>(
    cells: &mut C,
    row: &[u8],
    stable: &Vector,
    keep_from_index: u64,
) -> Result<Found, StoreError<C::Error>> {
    let corrupt = |why| StoreError::corrupt(Table::SWEEP, row)(why);
    let (index, rest) = row.split_first_chunk::<8>().ok_or_else(|| corrupt(DecodeError::Truncated))?;
    let index = u64::from_be_bytes(*index);
    let (key, path) = Key::from_cell_row(rest).map_err(corrupt)?;
    let edit = KeyEdit::open(cells, &key, index)?;
    let found = if path.is_empty() {
        header(edit, index, stable, keep_from_index)?
    } else {
        cell(edit, index, path, stable, keep_from_index)?
    };
    if found != Found::Unripe {
        cells.remove(Table::SWEEP, row)?;
    }
    Ok(found)
}

fn header<C: Cells>(
    mut edit: KeyEdit<'_, C>,
    index: u64,
    stable: &Vector,
    keep_from_index: u64,
) -> Result<Found, StoreError<C::Error>> {
    if edit.header.queued != index {
        return Ok(Found::Settled);
    }
    // The header of a key that is there is not to be dropped; that of a key with marks or floors is queued again when
    // the last of them goes.
    if !edit.header.is_bare() {
        edit.header.queued = 0;
        edit.finish_sweep(false)?;
        return Ok(Found::Settled);
    }
    if !is_ripe(&edit.header, stable, keep_from_index) {
        return Ok(Found::Unripe);
    }
    edit.finish_sweep(true)?;
    Ok(Found::Ripe)
}

fn is_ripe(header: &Header, stable: &Vector, keep_from_index: u64) -> bool {
    header.is_bare() && header.changed < keep_from_index && stable.covers_all(&header.touched)
}

/// Writes the header after a cell was swept. If that was the last cell of an absent key the header goes with it, or is
/// queued until it may.
pub(crate) fn settle_header<C: Cells>(
    mut edit: KeyEdit<'_, C>,
    stable: &Vector,
    keep_from_index: u64,
) -> Result<(), StoreError<C::Error>> {
    let header = &edit.header;
    if header.queued != 0 || !header.is_bare() {
        return edit.finish_sweep(false);
    }
    if is_ripe(header, stable, keep_from_index) {
        return edit.finish_sweep(true);
    }
    let index = header.changed.max(1);
    edit.header.queued = index;
    let prefix = edit.cell_prefix().to_vec();
    enqueue(edit.cells, index, &prefix, &[])?;
    edit.finish_sweep(false)
}

fn cell<C: Cells>(
    mut edit: KeyEdit<'_, C>,
    index: u64,
    path: &[u8],
    stable: &Vector,
    keep_from_index: u64,
) -> Result<Found, StoreError<C::Error>> {
    let leaf = path::parse(path).map_err(StoreError::corrupt(Table::SWEEP, path))?;
    let Some(stored) = edit.get(path)?.filter(|stored| stored.queued == index) else {
        return Ok(Found::Settled);
    };
    let all_stable = |stored: &Stored| stored.cell.dots.iter().all(|held| stable.covers(held.dot));
    let (found, new) = if leaf.floor {
        let unit = edit.get(&path[..path.len() - 1])?.unwrap_or_default();
        let left = without_dead_floors(stored.clone(), counter::live_run(&unit.cell), stable);
        match left {
            left if left.cell.is_empty() => (Found::Ripe, None),
            // The rest is stable and holds for a run that lives. When that run ends, it is queued again.
            left if all_stable(&left) => (Found::Settled, Some(Stored { queued: 0, ..left })),
            left => (Found::Unripe, Some(left)),
        }
    } else if !stored.cell.is_marked(leaf.ty) {
        (Found::Settled, Some(Stored { queued: 0, ..stored.clone() }))
    } else if all_stable(&stored) {
        (Found::Ripe, None)
    } else {
        (Found::Unripe, Some(stored.clone()))
    };
    if new.as_ref() != Some(&stored) {
        edit.write(path, true, new)?;
        settle_header(edit, stable, keep_from_index)?;
    }
    Ok(found)
}

/// A floor that is stable and whose run is over takes nothing from anything that is here or may still arrive.
fn without_dead_floors(mut stored: Stored, live_run: Option<u64>, stable: &Vector) -> Stored {
    stored.cell.dots.retain(|held| {
        let run = Floor::decode(&held.payload).ok().map(|floor| floor.run);
        !stable.covers(held.dot) || (run.is_some() && run == live_run)
    });
    stored
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Replica, text};
    use crate::{Mutation, RegisterOp, SetOp, Value};

    fn at(name: &str) -> Key {
        Key::new("default", name).expect("well formed")
    }

    fn create_and_delete(a: &mut Replica, name: &str) {
        a.commit(1, &[(at(name), Mutation::Register(RegisterOp::Set(text("v"))))]);
        a.commit(1, &[(at(name), Mutation::Delete(None))]);
    }

    fn sweep_all(a: &mut Replica, keep_from_index: u64, limit: usize) -> (usize, usize) {
        let (mut sweeps, mut removed) = (0, 0);
        loop {
            let stable = a.stable.clone();
            let swept = sweep(&mut a.cells, &stable, keep_from_index, limit).expect("memory");
            assert!(swept.examined <= limit.max(2));
            sweeps += 1;
            removed += swept.removed;
            if !swept.ripe_left {
                return (sweeps, removed);
            }
        }
    }

    #[test]
    fn nothing_is_swept_before_it_is_stable() {
        let mut a = Replica::new(1);
        create_and_delete(&mut a, "k");
        a.commit(1, &[(at("s"), Mutation::RwSet(SetOp::Remove(text("x"))))]);
        assert!(sweep_pending(&a.cells).expect("memory"));
        assert_eq!(sweep_all(&mut a, u64::MAX, 100), (1, 0));
        assert_eq!((a.rows(Table::HEADER), a.rows(Table::CELL)), (2, 1));
    }

    #[test]
    fn the_header_of_an_absent_key_is_kept_for_as_long_as_asked() {
        let mut a = Replica::new(1);
        create_and_delete(&mut a, "k");
        a.stable = a.vector.clone();
        assert_eq!(sweep_all(&mut a, 2, 100).1, 0);
        assert_eq!(sweep_all(&mut a, 3, 100).1, 1);
        assert_eq!(a.rows(Table::HEADER), 0);
        assert!(!sweep_pending(&a.cells).expect("memory"));
    }

    #[test]
    fn an_unripe_row_holds_up_none_of_those_behind_it() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let unripe = b.commit(1, &[(at("b"), Mutation::RwSet(SetOp::Remove(text("x"))))]).0;
        a.receive(&unripe);
        for n in 0..100 {
            create_and_delete(&mut a, &format!("k{n:03}"));
        }
        a.stable.set(a.origin, a.vector.get(a.origin));
        let (sweeps, removed) = sweep_all(&mut a, u64::MAX, 16);
        assert_eq!(removed, 100);
        assert!(sweeps <= 30, "{sweeps} sweeps");
        assert!(sweep_pending(&a.cells).expect("memory"));
        a.stable = a.vector.clone();
        sweep_all(&mut a, u64::MAX, 16);
        assert_eq!((a.rows(Table::HEADER), a.rows(Table::CELL), a.rows(Table::SWEEP)), (0, 0, 0));
    }

    #[test]
    fn a_key_that_came_back_is_not_swept() {
        let mut a = Replica::new(1);
        create_and_delete(&mut a, "k");
        a.commit(1, &[(at("k"), Mutation::Register(RegisterOp::Set(text("back"))))]);
        assert_eq!(a.settle(), 0);
        assert_eq!((a.rows(Table::HEADER), a.rows(Table::SWEEP)), (1, 0));
        a.commit(1, &[(at("k"), Mutation::Delete(None))]);
        assert_eq!(a.settle(), 1);
    }

    #[test]
    fn golden_bytes_do_not_change() {
        let mut a = Replica::new(1);
        a.commit(1, &[(at("k"), Mutation::RwSet(SetOp::Remove(Value::Nil)))]);
        let rows: Vec<_> = a.cells.rows.iter().filter(|(t, ..)| *t == Table::SWEEP).collect();
        let row = |path: &[u8]| [&[0, 0, 0, 0, 0, 0, 0, 1][..], b"default\0k\0\0", path].concat();
        assert_eq!(rows.iter().map(|(_, key, _)| *key).collect::<Vec<_>>(), [row(&[]), row(&[7, 1])]);
        assert!(rows.iter().all(|(.., value)| value.as_ref() == VERSION));
    }

    #[test]
    fn golden_bytes_of_a_lap_do_not_change() {
        let began = [crate::Dot::new(crate::Origin(1), 2)].into_iter().collect();
        let lap = Lap { next: vec![9], began, dropped: true };
        assert_eq!(lap.encode(), [1, 1, 1, 9, 1, 0, 0, 0, 1, 2]);
        let again = Lap::decode(&lap.encode()).expect("own encoding");
        assert_eq!((again.next, again.began, again.dropped), (lap.next, lap.began, true));
    }
}
