//! A state file that is being received: nothing of it counts before it is whole, durable, and swapped in.

use std::path::PathBuf;
use std::sync::Arc;

use meridian_crdt::Table;
use redb::{Database, Durability};
use tokio::sync::OwnedSemaphorePermit;

use super::state_file::commit;
use super::{Applied, Folder, StateStore, StorageError};

/// A state file under construction beside the state that it will replace. It has a name of its own, for whoever received the
/// one before may have given up while that is still being installed.
pub struct Incoming {
    // Declared before its name: it is closed before that is removed.
    db: Database,
    name: Name,
    rows: u64,
    /// The right to receive one, kept as long as this one is there.
    room: Option<OwnedSemaphorePermit>,
}

/// The name of a file that is not the state yet. What is there under it when this is dropped is removed: its space may be what
/// the next one needs.
pub(super) struct Name {
    pub(super) path: PathBuf,
    pub(super) folder: Arc<Folder>,
}

impl Drop for Name {
    fn drop(&mut self) {
        self.folder.remove_incoming(&self.path);
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming")
            .field("path", &self.name.path)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

impl Incoming {
    pub(super) fn new(name: Name, db: Database) -> Self {
        Self { db, name, rows: 0, room: None }
    }

    /// The same, holding this right as long as it is there.
    pub fn holding(self, room: OwnedSemaphorePermit) -> Self {
        Self { room: Some(room), ..self }
    }

    /// Adds rows, all of a table together. Refuses with [`StorageError::Full`] when less than the headroom is free. Blocking.
    pub fn put_all<'r>(
        &mut self,
        rows: impl IntoIterator<Item = (Table, &'r [u8], &'r [u8])>,
    ) -> Result<(), StorageError> {
        self.name.folder.check_headroom()?;
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
    pub fn install(self, applied: &Applied, state: &StateStore) -> Result<(), StorageError> {
        commit(&self.db, Durability::Immediate, |file| file.set_applied(applied))?;
        let Self { db, name, room, .. } = self;
        name.folder.swap(&name.path, db, state)?;
        drop(room);
        Ok(())
    }
}
