//! One key while it is changed: cells, and the bookkeeping that follows them.
//!
//! Every change of a cell goes through [`KeyEdit::unit`], which keeps the digest, the counts of what is visible and the
//! sweep queue true by the difference between before and after. So no change ever reads more than the cells it names;
//! [`KeyEdit::drop_collection`] reads none at all.

use std::collections::BTreeMap;

use crate::cell::{Cell, Stored, encode_cell, observe};
use crate::cells::{Cells, Table, prefix_end};
use crate::cleared;
use crate::error::StoreError;
use crate::header::{Collection, Header, Path};
use crate::keys::{CellPrefix, Key, bucket_of, cell_row};
use crate::path::{self, Leaf};
use crate::sweep;
use crate::types::{Type, counter};
use crate::view::{VisitCell, first_visible, get_cell, is_inline, load_header, scan_cells};

/// What belongs together: a cell, and for an origin's cell of a counter the floor under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unit {
    pub cell: Cell,
    pub floor: Cell,
}

/// Takes a cell out of its row: an empty one if there is none. Beside it, the row's number in the sweep queue.
fn place(row: Option<Stored>) -> (Cell, Option<u64>) {
    match row {
        Some(Stored { cell, queued }) => (cell, Some(queued)),
        None => (Cell::default(), None),
    }
}

#[derive(Debug)]
pub(crate) struct KeyEdit<'c, C> {
    pub cells: &'c mut C,
    pub header: Header,
    header_row: Vec<u8>,
    cell_prefix: CellPrefix<'c>,
    digest_before: u128,
    index: u64,
    /// Fields of the map of which something came to be visible or ceased to be: whether the field was visible before.
    fields: BTreeMap<Vec<u8>, bool>,
}

impl<'c, C: Cells> KeyEdit<'c, C> {
    /// Takes a key up. `index` is where rows that are queued for sweeping go.
    pub fn open(cells: &'c mut C, key: &'c Key, index: u64) -> Result<Self, StoreError<C::Error>> {
        let header_row = key.header_row();
        let header = load_header(cells, &header_row)?.unwrap_or_default();
        Ok(Self::with_header(cells, key, header_row, header, index))
    }

    /// Takes up a key whose header was read a moment ago, and is still as it was read.
    pub fn resume(cells: &'c mut C, key: &'c Key, header: Header, index: u64) -> Self {
        Self::with_header(cells, key, key.header_row(), header, index)
    }

    fn with_header(cells: &'c mut C, key: &'c Key, header_row: Vec<u8>, header: Header, index: u64) -> Self {
        Self {
            cells,
            digest_before: header.digest,
            header,
            header_row,
            cell_prefix: CellPrefix::new(key),
            index,
            fields: BTreeMap::new(),
        }
    }

    /// Visits the cells with `from <= path`, and `path < to` where given, as they stand now.
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

    pub fn cell_prefix(&self) -> &CellPrefix<'c> {
        &self.cell_prefix
    }

    pub fn get(&self, path: &[u8]) -> Result<Option<Stored>, StoreError<C::Error>> {
        get_cell(self.cells, &self.header, &self.cell_prefix, path)
    }

    /// Changes the cell at `path`, or the counter's cell and floor to which it belongs. Says what came of it.
    pub fn unit(
        &mut self,
        path: &[u8],
        change: impl FnOnce(&mut Unit),
    ) -> Result<Unit, StoreError<C::Error>> {
        let leaf = path::parse(path).map_err(StoreError::corrupt(Table::CELL, path))?;
        let path = if leaf.floor { &path[..path.len() - 1] } else { path };
        let floor_path = leaf.counter.map(|_| path::floor_of(path));
        let cell = self.get(path)?;
        let floor = match &floor_path {
            Some(path) => self.get(path)?,
            None => None,
        };
        let ((cell, cell_place), (floor, floor_place)) = (place(cell), place(floor));
        let before = Unit { cell, floor };
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(after);
        }
        self.account(path, leaf, &before, &after)?;
        let marked = after.cell.is_marked(leaf.ty);
        self.store(path, cell_place, &before.cell, &after.cell, marked)?;
        if let Some(floor_path) = floor_path {
            // A floor that stability spared for the sake of a live run is looked at again when that run ends.
            let run_changed = counter::live_run(&before.cell) != counter::live_run(&after.cell);
            let changed = before.floor != after.floor || run_changed;
            self.store(&floor_path, floor_place, &before.floor, &after.floor, changed)?;
        }
        Ok(after)
    }

    fn account(
        &mut self,
        path: &[u8],
        leaf: Leaf,
        before: &Unit,
        after: &Unit,
    ) -> Result<(), StoreError<C::Error>> {
        let was = before.cell.is_visible(leaf.ty);
        let is = after.cell.is_visible(leaf.ty);
        let top = path.first().copied().and_then(Type::from_code).unwrap_or(leaf.ty);
        if top == Type::Map && was != is {
            let end = path::first_field_end(path).map_err(StoreError::corrupt(Table::CELL, path))?;
            if !self.fields.contains_key(&path[..end]) {
                let visible = self.is_field_visible(&path[..end])?;
                self.fields.insert(path[..end].to_vec(), visible);
            }
        }
        let is_alone = was && self.header.has_one_visible_cell();
        self.header.count(top, was, is);
        let row = &self.header_row;
        let minus = match is_alone {
            // The digest is the sum of what is visible: of that which is visible alone it need not be worked out again.
            true => self.header.digest,
            false => observe(row, path, leaf.ty, &before.cell, &before.floor),
        };
        let plus = observe(row, path, leaf.ty, &after.cell, &after.floor);
        self.header.digest = self.header.digest.wrapping_sub(minus).wrapping_add(plus);
        Ok(())
    }

    fn is_field_visible(&self, field: &[u8]) -> Result<bool, StoreError<C::Error>> {
        Ok(first_visible(self.cells, &self.header, &self.cell_prefix, field)?.is_some())
    }

    /// Writes one cell, into the queue too if it is marked and not there yet.
    fn store(
        &mut self,
        path: &[u8],
        place: Option<u64>,
        before: &Cell,
        cell: &Cell,
        marked: bool,
    ) -> Result<(), StoreError<C::Error>> {
        let was_queued = place.unwrap_or(0);
        let mut queued = was_queued;
        if marked && queued == 0 && !cell.is_empty() {
            queued = self.index;
            sweep::enqueue(self.cells, self.index, &self.cell_prefix, path)?;
        }
        let is = !cell.is_empty();
        if is == place.is_some() && (!is || (cell == before && queued == was_queued)) {
            return Ok(());
        }
        self.put(path, place.is_some(), is.then_some((cell, queued)))
    }

    /// Writes the row of a cell as it is given.
    pub fn write(
        &mut self,
        path: &[u8],
        existed: bool,
        new: Option<Stored>,
    ) -> Result<(), StoreError<C::Error>> {
        self.put(path, existed, new.as_ref().map(|stored| (&stored.cell, stored.queued)))
    }

    fn put(
        &mut self,
        path: &[u8],
        existed: bool,
        new: Option<(&Cell, u64)>,
    ) -> Result<(), StoreError<C::Error>> {
        if is_inline(path) {
            let stored = new.map(|(cell, queued)| Stored { cell: cell.clone(), queued });
            match (stored, self.header.inline.get_mut(path)) {
                (Some(stored), Some(place)) => *place = stored,
                (Some(stored), None) => drop(self.header.inline.insert(Path::from_slice(path), stored)),
                (None, _) => drop(self.header.inline.remove(path)),
            }
            return Ok(());
        }
        // Nothing but cells is written, and all of these have a type.
        let Some(ty) = path.first().copied().and_then(Type::from_code) else { return Ok(()) };
        let row = cell_row(&self.cell_prefix, self.header.collection(ty).generation, path);
        if existed != new.is_some() {
            let leaf = path::parse(path).map_err(StoreError::corrupt(Table::CELL, path))?;
            self.header.change_collection(ty, |collection| collection.count_row(leaf, new.is_some()));
        }
        match new {
            Some((cell, queued)) => self.cells.put(Table::CELL, &row, encode_cell(cell, queued).into())?,
            None => self.cells.remove(Table::CELL, &row)?,
        }
        Ok(())
    }

    /// Drops all cells of a collection at once and leaves their rows to the sweep. The caller knows that all of them
    /// are to go, and that nothing of another type is visible.
    pub fn drop_collection(&mut self, ty: Type) -> Result<(), StoreError<C::Error>> {
        let Collection { generation, unswept, .. } = self.header.collection(ty);
        cleared::enqueue(self.cells, self.index, &self.cell_prefix, ty, generation)?;
        self.header.change_collection(ty, |collection| {
            let next =
                Collection { generation: generation + 1, unswept: unswept + 1, ..Collection::default() };
            *collection = next;
        });
        self.header.visible.clear();
        self.header.digest = 0;
        if ty == Type::Map {
            self.header.fields = 0;
            self.fields.clear();
        }
        Ok(())
    }

    /// Brings the count of the map's fields up to date with what was changed.
    fn settle_fields(&mut self) -> Result<(), StoreError<C::Error>> {
        for (field, was) in std::mem::take(&mut self.fields) {
            let is = self.is_field_visible(&field)?;
            let fields = self.header.fields;
            self.header.fields = match (was, is) {
                (false, true) => fields + 1,
                (true, false) => fields.saturating_sub(1),
                _ => fields,
            };
        }
        Ok(())
    }

    /// Writes the header, and says in which bucket and by how much the key's digest moved.
    pub fn finish(mut self) -> Result<(Header, u16, u128), StoreError<C::Error>> {
        self.settle_fields()?;
        if self.header.is_absent() && self.header.queued == 0 {
            self.header.queued = self.index;
            sweep::enqueue(self.cells, self.index, &self.cell_prefix, &[])?;
        }
        self.cells.put(Table::HEADER, &self.header_row, self.header.encode().into())?;
        let delta = self.header.digest.wrapping_sub(self.digest_before);
        Ok((self.header, bucket_of(&self.header_row), delta))
    }

    /// Writes the header, or removes it, after a sweep that changed nothing that can be observed.
    pub fn finish_sweep(self, remove: bool) -> Result<(), StoreError<C::Error>> {
        if remove {
            self.cells.remove(Table::HEADER, &self.header_row)?;
        } else {
            self.cells.put(Table::HEADER, &self.header_row, self.header.encode().into())?;
        }
        Ok(())
    }
}
