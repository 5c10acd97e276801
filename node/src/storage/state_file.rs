//! The state as it stands in its file: the rows of the last checkpoint, and the transaction that writes the next one.
//!
//! Every row carries a seal here, which reads verify; rows in memory have none.

use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use meridian_crdt::Table;
use meridian_crdt::cells::Visit;
use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, WriteTransaction,
};

use super::checksum::{SEAL_LEN, seal, sealed, unseal};
use super::overlay::Layer;
use super::tables::{META, META_NUMBER, read_meta, rows_of, state_tables};
use super::{Applied, StorageError};

const APPLIED: &[u8] = b"applied";

type Key = &'static [u8];

/// The rows of the last checkpoint: one read transaction and its open tables, shared by every view until the next
/// checkpoint. While it lives the file keeps the pages of its moment, which a crash would go back to anyway.
pub(super) struct Base {
    txn: ReadTransaction,
    // Boxed because an open table is large and most stay closed.
    tables: [OnceLock<Box<ReadOnlyTable<Key, Key>>>; Table::COUNT],
    /// The last key of each table that has rows.
    last: [Option<Box<[u8]>>; Table::COUNT],
    pub(super) applied: Applied,
    // Declared last: the file is closed behind all that reads it.
    _outlived: Outlived,
}

/// Where a file is put that another one has taken the place of, until no view shows it any more: to close it would end these.
/// All bases of a file share one.
pub(super) type Outlived = Arc<OnceLock<Arc<Database>>>;

impl Base {
    pub(super) fn open(db: &Database, outlived: &Outlived) -> Result<Self, StorageError> {
        let txn = db.begin_read()?;
        let meta = txn.open_table(META)?;
        let applied =
            read_meta(&meta, APPLIED)?.map(|row| Applied::decode(&row)).transpose()?.unwrap_or_default();
        let mut last = [const { None }; Table::COUNT];
        for (last, rows) in last.iter_mut().zip(state_tables()) {
            *last = txn.open_table(rows)?.last()?.map(|(key, _)| key.value().into());
        }
        Ok(Self {
            txn,
            tables: std::array::from_fn(|_| OnceLock::new()),
            last,
            applied,
            _outlived: outlived.clone(),
        })
    }

    /// Whether there may be such a row: false for keys behind the last one, which is where those go that are numbered. It
    /// asks the memory alone.
    pub(super) fn may_have(&self, table: Table, key: &[u8]) -> bool {
        self.last[usize::from(table.0) % Table::COUNT].as_deref().is_some_and(|last| key <= last)
    }

    /// How many rows `table` has.
    pub(super) fn count(&self, table: Table) -> Result<u64, StorageError> {
        Ok(self.table(table)?.len()?)
    }

    fn table(&self, table: Table) -> Result<&ReadOnlyTable<Key, Key>, StorageError> {
        let slot = &self.tables[usize::from(table.0) % Table::COUNT];
        if let Some(open) = slot.get() {
            return Ok(open);
        }
        let open = Box::new(self.txn.open_table(rows_of(table))?);
        Ok(slot.get_or_init(|| open))
    }

    pub(super) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        match self.table(table)?.get(key)? {
            Some(row) => Ok(Some(Bytes::copy_from_slice(unseal(table.0, key, row.value())?))),
            None => Ok(None),
        }
    }

    /// Visits the rows of a range in the order of their keys.
    pub(super) fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        let rows = self.table(table)?;
        if to.is_some_and(|to| to <= from) || rows.is_empty()? {
            return Ok(());
        }
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        for row in rows.range::<&[u8]>((Bound::Included(from), end))? {
            let (key, value) = row?;
            let visited = visit(key.value(), unseal(table.0, key.value(), value.value())?);
            if let ControlFlow::Break(()) = visited {
                break;
            }
        }
        Ok(())
    }
}

/// Commits `work` to a state database.
pub(super) fn commit<T>(
    db: &Database,
    durability: Durability,
    work: impl FnOnce(&FileWrite<'_>) -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    let mut txn = db.begin_write()?;
    txn.set_durability(durability)?;
    // The allocator's state is written with each checkpoint, so that opening after a crash need not walk the file.
    txn.set_quick_repair(matches!(durability, Durability::Immediate));
    let done = work(&FileWrite { txn: &txn })?;
    txn.commit()?;
    Ok(done)
}

/// One write transaction of the file.
pub(super) struct FileWrite<'t> {
    txn: &'t WriteTransaction,
}

impl FileWrite<'_> {
    /// Opens a table for writing. One table can be open once at a time.
    pub(super) fn table(&self, table: Table) -> Result<FileTable<'_>, StorageError> {
        Ok(FileTable { number: table.0, rows: self.txn.open_table(rows_of(table))? })
    }

    pub(super) fn set_applied(&self, applied: &Applied) -> Result<(), StorageError> {
        let mut meta = self.txn.open_table(META)?;
        meta.insert(APPLIED, sealed(META_NUMBER, APPLIED, &applied.encode()).as_slice())?;
        Ok(())
    }

    /// Writes every change of a layer, in the order of tables and keys.
    pub(super) fn put_layer(&self, layer: &Layer) -> Result<(), StorageError> {
        for number in (0..Table::COUNT).map(|n| n as u8) {
            let mut changes = layer.changes(Table(number)).peekable();
            if changes.peek().is_none() {
                continue;
            }
            let mut rows = self.table(Table(number))?;
            for (key, value) in changes {
                match value {
                    Some(value) => rows.put(key, value)?,
                    None => rows.remove(key)?,
                }
            }
        }
        Ok(())
    }
}

/// An open table of a write transaction.
pub(super) struct FileTable<'t> {
    number: u8,
    rows: redb::Table<'t, Key, Key>,
}

impl FileTable<'_> {
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let mut row = self.rows.insert_reserve(key, SEAL_LEN + value.len())?;
        let (head, body) = row.as_mut().split_at_mut(SEAL_LEN);
        head.copy_from_slice(&seal(self.number, key, value));
        body.copy_from_slice(value);
        Ok(())
    }

    fn remove(&mut self, key: &[u8]) -> Result<(), StorageError> {
        self.rows.remove(key)?;
        Ok(())
    }
}
