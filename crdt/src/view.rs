//! One key as it stands: its header, and its cells wherever they are kept.
//!
//! Everything that reads a key goes through here, so that nothing else knows that the cells of single-valued types
//! stand in the header row, and that those of a collection stand under its generation. The codes of the former types
//! are the smallest, so scans keep the order of paths. What a clear has left for the sweep is never looked at.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::cell::{Cell, Stored};
use crate::cells::{ReadCells, Table, prefix_end};
use crate::codec::DecodeError;
use crate::error::StoreError;
use crate::header::Header;
use crate::keys::{CellPrefix, Key, cell_row};
use crate::path;
use crate::types::Type;

/// Visits one cell of a scan: path, cell; breaks to stop.
pub(crate) type VisitCell<'v> = dyn FnMut(&[u8], Stored) -> ControlFlow<()> + 'v;

/// Whether cells with this path stand in the header row.
pub(crate) fn is_inline(path: &[u8]) -> bool {
    path.first().copied().and_then(Type::from_code).is_some_and(Type::is_inline)
}

/// Visits cells by `scan`, each of which `take` decodes. The first that it cannot ends the scan: the cell is corrupt.
pub(crate) fn decoding<E>(
    scan: impl FnOnce(&mut VisitCell<'_>) -> Result<(), StoreError<E>>,
    mut take: impl FnMut(&[u8], Stored) -> Result<(), DecodeError>,
) -> Result<(), StoreError<E>> {
    let mut failed = None;
    scan(&mut |path, stored| match take(path, stored) {
        Ok(()) => ControlFlow::Continue(()),
        Err(why) => {
            failed = Some(StoreError::corrupt(Table::CELL, path)(why));
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

pub(crate) fn load_header<C: ReadCells>(
    cells: &C,
    row: &[u8],
) -> Result<Option<Header>, StoreError<C::Error>> {
    match cells.get(Table::HEADER, row)? {
        Some(bytes) => Ok(Some(Header::decode(&bytes).map_err(StoreError::corrupt(Table::HEADER, row))?)),
        None => Ok(None),
    }
}

pub(crate) fn get_cell<C: ReadCells>(
    cells: &C,
    header: &Header,
    cell_prefix: &CellPrefix<'_>,
    path: &[u8],
) -> Result<Option<Stored>, StoreError<C::Error>> {
    if is_inline(path) {
        return Ok(header.inline.get(path).cloned());
    }
    // A path without a type is not one of a cell, so it has no row either.
    let Some(ty) = path.first().copied().and_then(Type::from_code) else { return Ok(None) };
    let row = cell_row(cell_prefix, header.collection(ty).generation, path);
    match cells.get(Table::CELL, &row)? {
        Some(bytes) => Ok(Some(Stored::decode(&bytes).map_err(StoreError::corrupt(Table::CELL, &row))?)),
        None => Ok(None),
    }
}

/// Visits the cells with `from <= path`, and `path < to` where given, in the order of their paths.
pub(crate) fn scan_cells<C: ReadCells>(
    cells: &C,
    header: &Header,
    cell_prefix: &CellPrefix<'_>,
    from: &[u8],
    to: Option<&[u8]>,
    visit: &mut VisitCell<'_>,
) -> Result<(), StoreError<C::Error>> {
    for (path, stored) in header.inline.range_from(from) {
        if to.is_some_and(|to| &path[..] >= to) || visit(path, stored.clone()).is_break() {
            return Ok(());
        }
    }
    for (ty, collection) in header.collections.iter() {
        if collection.rows == 0 {
            continue;
        }
        // What of the range lies in this collection. The row of its end is that of the first path behind it.
        let (low, high) = ([ty.code()], [ty.code() + 1]);
        let (from, to) = (from.max(low.as_slice()), to.unwrap_or(&high).min(high.as_slice()));
        if from < to && scan_rows(cells, cell_prefix, collection.generation, from, to, visit)?.is_break() {
            return Ok(());
        }
    }
    Ok(())
}

/// Visits the rows of one generation of one collection.
fn scan_rows<C: ReadCells>(
    cells: &C,
    cell_prefix: &[u8],
    generation: u64,
    from: &[u8],
    to: &[u8],
    visit: &mut VisitCell<'_>,
) -> Result<ControlFlow<()>, StoreError<C::Error>> {
    let start = cell_row(cell_prefix, generation, from);
    let end = cell_row(cell_prefix, generation, to);
    let path_at = start.len() - from.len();
    let mut flow = ControlFlow::Continue(());
    let mut failed = None;
    cells.scan(Table::CELL, &start, Some(&end), &mut |row, value| {
        flow = match Stored::decode(&Bytes::copy_from_slice(value)) {
            Ok(stored) => visit(&row[path_at..], stored),
            Err(why) => {
                failed = Some(StoreError::corrupt(Table::CELL, row)(why));
                ControlFlow::Break(())
            }
        };
        flow
    })?;
    failed.map_or(Ok(flow), Err)
}

/// Whether anything with this prefix reads as a value, and then the first path that does.
pub(crate) fn first_visible<C: ReadCells>(
    cells: &C,
    header: &Header,
    cell_prefix: &CellPrefix<'_>,
    prefix: &[u8],
) -> Result<Option<Vec<u8>>, StoreError<C::Error>> {
    let mut found = None;
    let mut failed = None;
    let end = prefix_end(prefix);
    scan_cells(cells, header, cell_prefix, prefix, end.as_deref(), &mut |path, stored| {
        match path::parse(path) {
            Ok(leaf) if leaf.floor || !stored.cell.is_visible(leaf.ty) => return ControlFlow::Continue(()),
            Ok(_) => found = Some(path.to_vec()),
            Err(why) => failed = Some(StoreError::corrupt(Table::CELL, path)(why)),
        }
        ControlFlow::Break(())
    })?;
    failed.map_or(Ok(found), Err)
}

/// A key for reading.
#[derive(Debug)]
pub(crate) struct KeyView<'c, C> {
    cells: &'c C,
    cell_prefix: CellPrefix<'c>,
    /// What the key's header says; that of a key never touched if it has none.
    pub header: Header,
}

impl<'c, C: ReadCells> KeyView<'c, C> {
    pub fn open(cells: &'c C, key: &'c Key) -> Result<Self, StoreError<C::Error>> {
        let header = load_header(cells, &key.header_row())?.unwrap_or_default();
        Ok(Self::with_header(cells, key, header))
    }

    /// A key whose header was read a moment ago, and is still as it was read.
    pub fn with_header(cells: &'c C, key: &'c Key, header: Header) -> Self {
        Self { cells, cell_prefix: CellPrefix::new(key), header }
    }

    pub fn get(&self, path: &[u8]) -> Result<Option<Cell>, StoreError<C::Error>> {
        Ok(get_cell(self.cells, &self.header, &self.cell_prefix, path)?.map(|stored| stored.cell))
    }

    pub fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut VisitCell<'_>,
    ) -> Result<(), StoreError<C::Error>> {
        scan_cells(self.cells, &self.header, &self.cell_prefix, from, to, visit)
    }

    pub fn scan_prefix(&self, prefix: &[u8], visit: &mut VisitCell<'_>) -> Result<(), StoreError<C::Error>> {
        self.scan(prefix, prefix_end(prefix).as_deref(), visit)
    }

    /// Whether any cell, read or not, stands below a prefix.
    pub fn has_any(&self, prefix: &[u8]) -> Result<bool, StoreError<C::Error>> {
        let mut any = false;
        self.scan_prefix(prefix, &mut |_, _| {
            any = true;
            ControlFlow::Break(())
        })?;
        Ok(any)
    }

    /// The type shown at `at`: the key itself, or a field of a map.
    pub fn shown_at(&self, at: &[u8]) -> Result<Option<Type>, StoreError<C::Error>> {
        if at.is_empty() {
            return Ok(self.header.shown());
        }
        let found = first_visible(self.cells, &self.header, &self.cell_prefix, at)?;
        Ok(found.and_then(|path| path.get(at.len()).copied()).and_then(Type::from_code))
    }
}
