//! The state of one shard: rows in 32 numbered tables, and how far the log has been applied to them.
//!
//! Writes commit without an fsync and are visible to views at once; [`StateStore::checkpoint`] makes everything so
//! far durable. A crash takes the file back to its last checkpoint, never to a place in between.

use std::cell::OnceCell;
use std::ops::{Bound, ControlFlow};
use std::sync::{Arc, OnceLock, RwLock};

use bytes::Bytes;
use meridian_crdt::cells::Visit;
use meridian_crdt::codec::{Reader, Writer};
use meridian_crdt::{Cells, ReadCells, Table};
use redb::{
    Database, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, WriteTransaction,
};

use super::checksum::{SEAL_LEN, seal, sealed, unseal};
use super::tables::{META, META_NUMBER, read_meta, rows_of};
use super::{Fatal, Folder, LogPosition, StorageError};

const APPLIED: &[u8] = b"applied";

type Key = &'static [u8];

/// How far the log is applied, and the membership then.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The last applied entry; `None` before the first.
    pub position: Option<LogPosition>,
    /// Where the membership was set and its encoding, which only the Raft layer reads.
    pub membership: Option<(Option<LogPosition>, Bytes)>,
}

impl Applied {
    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        put_position(&mut w, self.position);
        match &self.membership {
            None => w.u8(0),
            Some((at, members)) => {
                w.u8(1);
                put_position(&mut w, *at);
                w.bytes(members);
            }
        }
        w.finish()
    }

    fn decode(row: &[u8]) -> Result<Self, StorageError> {
        let mut r = Reader::new(row);
        let position = get_position(&mut r)?;
        let membership = match r.u8()? {
            0 => None,
            _ => Some((get_position(&mut r)?, Bytes::copy_from_slice(r.bytes()?))),
        };
        r.finish()?;
        Ok(Self { position, membership })
    }
}

fn put_position(w: &mut Writer, position: Option<LogPosition>) {
    match position {
        None => w.u8(0),
        Some(at) => {
            w.u8(1);
            w.u64(at.term);
            w.u64(at.index);
        }
    }
}

fn get_position(r: &mut Reader<'_>) -> Result<Option<LogPosition>, StorageError> {
    Ok(match r.u8()? {
        0 => None,
        _ => Some(LogPosition { term: r.u64()?, index: r.u64()? }),
    })
}

/// The state file of a shard. Clones are handles to the same file.
#[derive(Clone)]
pub struct StateStore {
    db: Arc<RwLock<Arc<Database>>>,
    fatal: Fatal,
    // Declared last: the folder stays locked until the file is closed.
    _folder: Arc<Folder>,
}

impl std::fmt::Debug for StateStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateStore")
    }
}

impl StateStore {
    pub(super) fn new(db: Database, folder: Arc<Folder>, fatal: Fatal) -> Self {
        Self { db: Arc::new(RwLock::new(Arc::new(db))), fatal, _folder: folder }
    }

    fn db(&self) -> Arc<Database> {
        // A poisoned lock still guards a whole handle: the only write under it is one assignment.
        self.db.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    pub(super) fn replace(&self, db: Database) {
        *self.db.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = Arc::new(db);
    }

    /// The rows as they are now. A view that is kept pins the pages of its moment: drop it soon.
    pub fn view(&self) -> Result<StateView, StorageError> {
        StateView::new(&self.db())
    }

    /// How far the log is applied now.
    pub fn applied(&self) -> Result<Applied, StorageError> {
        Ok(self.view()?.applied)
    }

    /// Runs `work` in one write transaction and commits it without an fsync. An error of `work` leaves the rows as
    /// they were; an error of the commit is fatal.
    pub fn write<T>(
        &self,
        work: impl FnOnce(&mut StateWrite<'_>) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        self.commit(Durability::None, work)
    }

    /// Makes everything committed so far durable.
    pub fn checkpoint(&self) -> Result<Applied, StorageError> {
        self.commit(Durability::Immediate, |rows| rows.applied())
    }

    fn commit<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&mut StateWrite<'_>) -> Result<T, StorageError>,
    ) -> Result<T, StorageError> {
        if self.fatal.told().is_some() {
            return Err(StorageError::Stopped);
        }
        let db = self.db();
        commit(&db, durability, work)
            .inspect_err(|error| self.fatal.report(format!("the state file: {error}")))
    }
}

/// Commits `work` to a state database.
pub(super) fn commit<T>(
    db: &Database,
    durability: Durability,
    work: impl FnOnce(&mut StateWrite<'_>) -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    let mut txn = db.begin_write()?;
    txn.set_durability(durability)?;
    // The allocator's state is written with each checkpoint, so that opening after a crash need not walk the file.
    txn.set_quick_repair(matches!(durability, Durability::Immediate));
    let done = {
        let mut rows = StateWrite::new(&txn);
        work(&mut rows)?
    };
    txn.commit()?;
    Ok(done)
}

/// The rows at one moment, and how far the log was applied then.
pub struct StateView {
    txn: ReadTransaction,
    // Boxed because an open table is large and most stay closed.
    tables: [OnceLock<Box<ReadOnlyTable<Key, Key>>>; Table::COUNT],
    applied: Applied,
}

impl std::fmt::Debug for StateView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateView").field("applied", &self.applied).finish_non_exhaustive()
    }
}

impl StateView {
    pub(super) fn new(db: &Database) -> Result<Self, StorageError> {
        let txn = db.begin_read()?;
        let meta = txn.open_table(META)?;
        let applied =
            read_meta(&meta, APPLIED)?.map(|row| Applied::decode(&row)).transpose()?.unwrap_or_default();
        Ok(Self { txn, tables: std::array::from_fn(|_| OnceLock::new()), applied })
    }

    /// How far the log was applied.
    pub fn applied(&self) -> &Applied {
        &self.applied
    }

    /// The index of the last applied entry; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        self.applied.position.map_or(0, |at| at.index)
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
}

impl ReadCells for StateView {
    type Error = StorageError;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        get(self.table(table)?, table, key)
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        scan(self.table(table)?, table, from, to, visit)
    }
}

/// One write transaction. What it writes is seen by its own reads, and by nobody else until it is committed.
pub struct StateWrite<'t> {
    txn: &'t WriteTransaction,
    tables: [OnceCell<Box<redb::Table<'t, Key, Key>>>; Table::COUNT],
}

impl std::fmt::Debug for StateWrite<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateWrite")
    }
}

impl<'t> StateWrite<'t> {
    fn new(txn: &'t WriteTransaction) -> Self {
        Self { txn, tables: std::array::from_fn(|_| OnceCell::new()) }
    }

    fn table(&self, table: Table) -> Result<&redb::Table<'t, Key, Key>, StorageError> {
        let slot = &self.tables[usize::from(table.0) % Table::COUNT];
        if slot.get().is_none() {
            // The slot is empty, so the set succeeds.
            let _ = slot.set(Box::new(self.txn.open_table(rows_of(table))?));
        }
        slot.get().map(Box::as_ref).ok_or(StorageError::Stopped)
    }

    fn table_mut(&mut self, table: Table) -> Result<&mut redb::Table<'t, Key, Key>, StorageError> {
        self.table(table)?;
        self.tables[usize::from(table.0) % Table::COUNT]
            .get_mut()
            .map(Box::as_mut)
            .ok_or(StorageError::Stopped)
    }

    /// How far the log is applied, as this transaction sees it.
    pub fn applied(&self) -> Result<Applied, StorageError> {
        let meta = self.txn.open_table(META)?;
        Ok(read_meta(&meta, APPLIED)?.map(|row| Applied::decode(&row)).transpose()?.unwrap_or_default())
    }

    /// Moves the applied position; belongs to the Raft layer.
    pub fn set_applied(&mut self, applied: &Applied) -> Result<(), StorageError> {
        let mut meta = self.txn.open_table(META)?;
        meta.insert(APPLIED, sealed(META_NUMBER, APPLIED, &applied.encode()).as_slice())?;
        Ok(())
    }
}

impl ReadCells for StateWrite<'_> {
    type Error = StorageError;

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        get(self.table(table)?, table, key)
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        scan(self.table(table)?, table, from, to, visit)
    }
}

impl Cells for StateWrite<'_> {
    fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let rows = self.table_mut(table)?;
        let mut row = rows.insert_reserve(key, SEAL_LEN + value.len())?;
        let (head, body) = row.as_mut().split_at_mut(SEAL_LEN);
        head.copy_from_slice(&seal(table.0, key, value));
        body.copy_from_slice(value);
        Ok(())
    }

    fn remove(&mut self, table: Table, key: &[u8]) -> Result<(), StorageError> {
        self.table_mut(table)?.remove(key)?;
        Ok(())
    }
}

fn get(rows: &impl ReadableTable<Key, Key>, table: Table, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
    match rows.get(key)? {
        Some(row) => Ok(Some(Bytes::copy_from_slice(unseal(table.0, key, row.value())?))),
        None => Ok(None),
    }
}

fn scan(
    rows: &impl ReadableTable<Key, Key>,
    table: Table,
    from: &[u8],
    to: Option<&[u8]>,
    visit: &mut Visit<'_>,
) -> Result<(), StorageError> {
    if to.is_some_and(|to| to <= from) {
        return Ok(());
    }
    let end = to.map_or(Bound::Unbounded, Bound::Excluded);
    for row in rows.range::<&[u8]>((Bound::Included(from), end))? {
        let (key, value) = row?;
        if let ControlFlow::Break(()) = visit(key.value(), unseal(table.0, key.value(), value.value())?) {
            break;
        }
    }
    Ok(())
}
