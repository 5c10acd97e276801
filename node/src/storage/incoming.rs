//! A state file that is being received: nothing of it counts before it is whole, durable, and swapped in.

use meridian_crdt::Table;
use redb::{Database, Durability};

use super::state_file::commit;
use super::{Applied, Folder, StateStore, StorageError};

/// A state file under construction beside the state that it will replace. There is at most one at a time.
pub struct Incoming {
    db: Database,
    rows: u64,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl Incoming {
    pub(super) fn new(db: Database) -> Self {
        Self { db, rows: 0 }
    }

    /// Adds rows, all of a table together. Blocking.
    pub fn put_all<'r>(
        &mut self,
        rows: impl IntoIterator<Item = (Table, &'r [u8], &'r [u8])>,
    ) -> Result<(), StorageError> {
        self.rows += commit(&self.db, Durability::None, |file| {
            let mut count = 0;
            let mut open = None;
            for (table, key, value) in rows {
                if usize::from(table.0) >= Table::COUNT {
                    return Err(StorageError::corrupt(format!("a received row names table {}", table.0)));
                }
                let rows = match &mut open {
                    Some((number, rows)) if *number == table => rows,
                    _ => {
                        // A table can be open once at a time; rows of a table usually follow each other.
                        open = None;
                        &mut open.insert((table, file.table(table)?)).1
                    }
                };
                rows.put(key, value)?;
                count += 1;
            }
            Ok(count)
        })?;
        Ok(())
    }

    /// How many rows were added.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Makes the file durable with this applied position and puts it in the place of the state. Blocking.
    pub fn install(self, applied: &Applied, folder: &Folder, state: &StateStore) -> Result<(), StorageError> {
        commit(&self.db, Durability::Immediate, |file| file.set_applied(applied))?;
        folder.swap(self.db, state)
    }
}
