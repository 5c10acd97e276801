//! A machine for tests: each entry is a row, and the rows have a count.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex};

use meridian_crdt::{Cells, ReadCells, Table};

use super::Machine;
use crate::storage::{LogPosition, StateView, StateWrite, StorageError};
use crate::txn::Reply;

/// Where the entries go.
pub(crate) const ROWS: Table = Table(20);
/// Where their count goes.
pub(crate) const COUNT: Table = Table(21);

/// Keeps each entry as a row: entry -> index.
#[derive(Default)]
pub(crate) struct TestMachine {
    /// The count, as a cache that must be reset with a snapshot.
    count: u64,
    pub(crate) seen: Arc<Mutex<Vec<u64>>>,
    gate: Arc<Gate>,
}

/// Holds up what has to pass it while it is closed.
#[derive(Default)]
pub(crate) struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn close(&self) {
        *self.is_closed.lock().unwrap() = true;
    }

    pub(crate) fn open(&self) {
        *self.is_closed.lock().unwrap() = false;
        self.opened.notify_all();
    }

    /// Waits until it is open.
    pub(crate) fn pass(&self) {
        drop(self.opened.wait_while(self.is_closed.lock().unwrap(), |is_closed| *is_closed).unwrap());
    }
}

impl TestMachine {
    /// One whose entries pass a gate.
    pub(crate) fn behind(gate: Arc<Gate>) -> Self {
        Self { gate, ..Self::default() }
    }
}

impl Machine for TestMachine {
    fn apply(&mut self, rows: &mut StateWrite, at: LogPosition, entry: &[u8]) -> Result<Reply, StorageError> {
        self.gate.pass();
        rows.put(ROWS, entry, at.index.to_be_bytes().to_vec().into())?;
        self.count += 1;
        rows.put(COUNT, b"count", self.count.to_be_bytes().to_vec().into())?;
        Ok(Reply::default())
    }

    fn committed(&mut self, last: LogPosition) {
        self.seen.lock().unwrap().push(last.index);
    }

    fn reset(&mut self, rows: &StateView) -> Result<(), StorageError> {
        let count = rows.get(COUNT, b"count")?;
        self.count = count.map_or(0, |row| u64::from_be_bytes(row[..].try_into().unwrap()));
        Ok(())
    }
}

/// All rows of a view: entry -> index.
pub(crate) fn all_rows(view: &StateView) -> BTreeMap<Vec<u8>, u64> {
    let mut rows = BTreeMap::new();
    view.scan(ROWS, &[], None, &mut |key, value| {
        rows.insert(key.to_vec(), u64::from_be_bytes(value.try_into().unwrap()));
        ControlFlow::Continue(())
    })
    .unwrap();
    rows
}

/// The count of a view.
pub(crate) fn count(view: &StateView) -> u64 {
    view.get(COUNT, b"count").unwrap().map_or(0, |row| u64::from_be_bytes(row[..].try_into().unwrap()))
}
