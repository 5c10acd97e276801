//! What apply and readers see of the state: the changes in memory above the rows of the last checkpoint.

use std::sync::Arc;

use bytes::Bytes;
use meridian_crdt::cells::Visit;
use meridian_crdt::{Cells, ReadCells, Table};

use super::overlay::{self, Changes, Layer, Layers};
use super::state_file::Base;
use super::{Applied, StorageError};

/// The rows at one moment, and how far the log was applied then. Copies are handles to the same rows.
///
/// A view that is kept holds on to what was in memory at its moment, at most two generations, and to the pages of the
/// checkpoint before it: drop it soon.
#[derive(Clone)]
pub struct StateView(Arc<Moment>);

struct Moment {
    applied: Applied,
    active: Layer,
    frozen: Option<Layer>,
    base: Arc<Base>,
}

impl Moment {
    fn layers(&self) -> Layers<'_> {
        [Some(&self.active), self.frozen.as_ref()]
    }
}

impl std::fmt::Debug for StateView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateView").field("applied", &self.0.applied).finish_non_exhaustive()
    }
}

impl StateView {
    pub(super) fn new(applied: Applied, active: Layer, frozen: Option<Layer>, base: Arc<Base>) -> Self {
        Self(Arc::new(Moment { applied, active, frozen, base }))
    }

    /// The rows of the last checkpoint, as they stand in the file.
    pub(super) fn of_file(base: Arc<Base>) -> Self {
        Self::new(base.applied.clone(), Layer::default(), None, base)
    }

    /// How far the log was applied.
    pub fn applied(&self) -> &Applied {
        &self.0.applied
    }

    /// The index of the last applied entry; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.0.applied.index()
    }

    /// How many rows of `table` the last checkpoint has.
    pub(super) fn count_in_file(&self, table: Table) -> Result<u64, StorageError> {
        self.0.base.count(table)
    }
}

impl ReadCells for StateView {
    type Error = StorageError;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        overlay::get(self.0.layers(), &self.0.base, table, key)
    }

    fn look<T>(
        &self,
        table: Table,
        key: &[u8],
        see: impl FnOnce(Option<&Bytes>) -> T,
    ) -> Result<T, StorageError> {
        overlay::look(self.0.layers(), &self.0.base, table, key, see)
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        overlay::scan(None, self.0.layers(), &self.0.base, table, from, to, visit)
    }
}

/// Rows that are about to change. What is written is seen by its own reads, and by nobody else until all of it becomes
/// visible at once.
pub struct StateWrite {
    pub(super) below: StateView,
    pub(super) changed: Changes,
    pub(super) applied: Option<Applied>,
}

impl std::fmt::Debug for StateWrite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateWrite")
    }
}

impl StateWrite {
    pub(super) fn new(below: StateView) -> Self {
        Self { below, changed: Changes::default(), applied: None }
    }

    /// How far the log is applied, as this write sees it.
    pub fn applied(&self) -> &Applied {
        self.applied.as_ref().unwrap_or(self.below.applied())
    }

    /// Moves the applied position; belongs to the Raft layer.
    pub fn set_applied(&mut self, applied: Applied) {
        self.applied = Some(applied);
    }
}

impl ReadCells for StateWrite {
    type Error = StorageError;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self.changed.get(table, key) {
            Some(row) => Ok(row),
            None => self.below.get(table, key),
        }
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        let below = &self.below.0;
        overlay::scan(Some(&self.changed), below.layers(), &below.base, table, from, to, visit)
    }
}

impl Cells for StateWrite {
    fn put(&mut self, table: Table, key: &[u8], value: Bytes) -> Result<(), StorageError> {
        self.changed.set(table, key, Some(value));
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StorageError> {
        self.changed.set(table, key, None);
        Ok(())
    }
}
