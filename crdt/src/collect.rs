//! Collecting the cells of one key for reading, a bounded page at a time.

use std::ops::ControlFlow;

use crate::cell::Cell;
use crate::cells::{ReadCells, Table};
use crate::error::StoreError;
use crate::path::{self, Leaf};
use crate::types::Type;
use crate::view::KeyView;

/// How many cells a page may look at beyond those it has room for: cells that are not wanted.
const LOOKED_BEYOND_MAX: usize = 16_384;

/// One cell, and the floor that belongs to it.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub path: Vec<u8>,
    pub leaf: Leaf,
    pub cell: Cell,
    pub floor: Cell,
}

impl Item {
    /// What it takes on a page.
    fn bytes(&self) -> usize {
        self.path.len() + self.cell.dots.iter().map(|held| held.payload.len()).sum::<usize>()
    }

    /// Whether two neighbours are parts of one value: the cells of one counter.
    pub fn same_value(&self, next: &Item) -> bool {
        next.leaf.ty == Type::Counter && self.path[..self.leaf.base] == next.path[..next.leaf.base]
    }
}

#[derive(Debug)]
pub(crate) struct Page {
    pub items: Vec<Item>,
    /// The last path that was looked at, if there may be more behind it.
    pub stopped: Option<Vec<u8>>,
}

/// How much a page may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageBounds {
    /// Values; at least one goes.
    pub values: usize,
    /// Bytes of paths and payloads, after which it takes no other value.
    pub bytes: usize,
}

/// Collects the cells that are `wanted` from `from` up to `to`, within `bounds`, never a part of a counter.
pub(crate) fn collect<C: ReadCells>(
    view: &KeyView<'_, C>,
    from: &[u8],
    to: Option<&[u8]>,
    bounds: PageBounds,
    wanted: &mut dyn FnMut(&Item) -> bool,
) -> Result<Page, StoreError<C::Error>> {
    let mut items: Vec<Item> = Vec::new();
    let (mut values, mut bytes, mut looked) = (0, 0, 0);
    let mut last = Vec::new();
    let mut stopped = false;
    let mut failed = None;
    view.scan(from, to, &mut |path, stored| {
        let leaf = match path::parse(path) {
            Ok(leaf) => leaf,
            Err(why) => {
                failed = Some(StoreError::corrupt(Table::CELL, path)(why));
                return ControlFlow::Break(());
            }
        };
        if leaf.floor {
            if let Some(item) = items.last_mut().filter(|item| path.starts_with(&item.path)) {
                item.floor = stored.cell;
            }
            return ControlFlow::Continue(());
        }
        let item = Item { path: path.to_vec(), leaf, cell: stored.cell, floor: Cell::default() };
        let continues = items.last().is_some_and(|last| last.same_value(&item));
        let is_full = values >= bounds.values.max(1) || (values > 0 && bytes >= bounds.bytes);
        if !continues && (is_full || looked >= bounds.values.saturating_add(LOOKED_BEYOND_MAX)) {
            stopped = true;
            return ControlFlow::Break(());
        }
        looked += 1;
        last.clear();
        last.extend_from_slice(path);
        if wanted(&item) {
            values += usize::from(!continues);
            bytes += item.bytes();
            items.push(item);
        }
        ControlFlow::Continue(())
    })?;
    failed.map_or(Ok(Page { items, stopped: stopped.then_some(last) }), Err)
}

/// Which type is shown where, as paths come by in order: on every level the first one that reads as something.
#[derive(Debug)]
pub(crate) struct Chosen {
    top: Type,
    path: Vec<u8>,
}

impl Chosen {
    /// `top` is what the key is shown as.
    pub fn new(top: Type) -> Self {
        Self { top, path: Vec::new() }
    }

    /// Whether the leaf at `path` is shown; if so it decides for those that follow.
    pub fn admit(&mut self, path: &[u8]) -> bool {
        if path.first() != Some(&self.top.code()) {
            return false;
        }
        for (_, end) in path::fields(path).unwrap_or_default() {
            let decided = self.path.len() > end && self.path[..end] == path[..end];
            if decided && self.path[end] != path[end] {
                return false;
            }
        }
        self.path = path.to_vec();
        true
    }

    /// The last path that was shown.
    pub fn path(&self) -> &[u8] {
        &self.path
    }
}
