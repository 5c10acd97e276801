//! The redb tables of the state's file, and the rows about the file itself.

use meridian_crdt::Table;
use meridian_crdt::codec::{Reader, Writer};
use redb::{Database, Durability, ReadableTable, StorageBackend, TableDefinition};
use uuid::Uuid;

use super::checksum::{sealed, unseal};
use super::{FORMAT_VERSION, Identity, StorageError};

/// A table of rows: bytes to bytes.
pub(super) type Rows = TableDefinition<'static, &'static [u8], &'static [u8]>;

/// Rows about the file itself.
pub(super) const META: Rows = TableDefinition::new("meta");
/// The number under which checksums know [`META`].
pub(super) const META_NUMBER: u8 = 0xff;

/// Who owns the file and in which format it is.
pub(super) const IDENTITY: &[u8] = b"identity";

const NAMES: [&str; Table::COUNT] = [
    "t00", "t01", "t02", "t03", "t04", "t05", "t06", "t07", "t08", "t09", "t10", "t11", "t12", "t13", "t14",
    "t15", "t16", "t17", "t18", "t19", "t20", "t21", "t22", "t23", "t24", "t25", "t26", "t27", "t28", "t29",
    "t30", "t31",
];

/// The redb table of a numbered one.
pub(super) fn rows_of(table: Table) -> Rows {
    TableDefinition::new(NAMES[usize::from(table.0) % Table::COUNT])
}

/// The owner row of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) format: u32,
    pub(super) identity: Identity,
    pub(super) store_id: Uuid,
}

impl Owner {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        // The format stands first, so that every later program can read at least that.
        w.u32(self.format);
        w.bytes(self.identity.cluster.as_bytes());
        w.bytes(self.identity.dc.as_bytes());
        w.u64(self.identity.node);
        w.raw(self.store_id.as_bytes());
        w.finish()
    }

    /// Decodes a row; `Err(Some(format))` is a newer format.
    pub(super) fn decode(row: &[u8]) -> Result<Self, OwnerError> {
        let mut r = Reader::new(row);
        let format = r.u32().map_err(StorageError::from)?;
        if format > FORMAT_VERSION {
            return Err(OwnerError::Newer(format));
        }
        let cluster = r.str().map_err(StorageError::from)?.to_owned();
        let dc = r.str().map_err(StorageError::from)?.to_owned();
        let node = r.u64().map_err(StorageError::from)?;
        let store_id = Uuid::from_u128(r.u128().map_err(StorageError::from)?);
        r.finish().map_err(StorageError::from)?;
        Ok(Self { format, identity: Identity { cluster, dc, node }, store_id })
    }
}

/// Why an owner row was not read.
#[derive(Debug)]
pub(super) enum OwnerError {
    Newer(u32),
    Storage(StorageError),
}

impl From<StorageError> for OwnerError {
    fn from(error: StorageError) -> Self {
        OwnerError::Storage(error)
    }
}

/// Opens the database in `backend` with `cache` bytes of page cache; an empty backend becomes an empty database.
pub(super) fn open_database(backend: impl StorageBackend, cache: usize) -> Result<Database, StorageError> {
    let mut builder = Database::builder();
    builder.set_cache_size(cache);
    Ok(builder.create_with_backend(backend)?)
}

/// Writes the first rows of a new file, durably: its owner and all tables, empty. Of a file that has an owner this one takes
/// the place.
pub(super) fn initialise(db: &Database, owner: &Owner, tables: &[Rows]) -> Result<(), StorageError> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(true);
    {
        let mut meta = txn.open_table(META)?;
        meta.insert(IDENTITY, sealed(META_NUMBER, IDENTITY, &owner.encode()).as_slice())?;
        for table in tables {
            txn.open_table(*table)?;
        }
    }
    Ok(txn.commit()?)
}

/// The owner of a file; `None` if the file holds nothing at all.
pub(super) fn owner(db: &Database) -> Result<Option<Owner>, OwnerError> {
    match meta_row(db, IDENTITY)? {
        Some(row) => Owner::decode(&row).map(Some),
        None => Ok(None),
    }
}

/// One row of [`META`], verified.
pub(super) fn meta_row(db: &Database, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
    use redb::ReadableDatabase;
    let txn = db.begin_read()?;
    let meta = match txn.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    read_meta(&meta, key)
}

/// One row of an open [`META`], verified.
pub(super) fn read_meta(
    meta: &impl ReadableTable<&'static [u8], &'static [u8]>,
    key: &[u8],
) -> Result<Option<Vec<u8>>, StorageError> {
    match meta.get(key)? {
        Some(row) => Ok(Some(unseal(META_NUMBER, key, row.value())?.to_vec())),
        None => Ok(None),
    }
}

/// The tables of the state file beside [`META`].
pub(super) fn state_tables() -> Vec<Rows> {
    (0..Table::COUNT).map(|n| rows_of(Table(n as u8))).collect()
}
