//! What waits to be written to the log file, and how a batch of it becomes one commit.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use redb::{Database, Durability};

use super::StorageError;
use super::checksum::sealed;
use super::tables::{ENTRIES, ENTRIES_NUMBER, META, META_NUMBER};

/// Called when an operation is on disk, or will never be.
pub(super) type Done = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// One operation on the log file.
pub(super) enum Op {
    Append(Vec<(u64, Bytes)>),
    Put(Vec<u8>, Vec<u8>),
    Remove(Range<u64>, Option<(Vec<u8>, Vec<u8>)>),
    Flush,
}

/// What waits. Its bound is the caller's: Raft keeps a bounded number of appends in flight.
#[derive(Default)]
pub(super) struct Queue {
    ops: Vec<Op>,
    done: Vec<Done>,
    /// Rows that go with the next batch.
    pub(super) lazy: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Whether a worker's job is looking after the queue.
    pub(super) draining: bool,
}

impl Queue {
    pub(super) fn push(&mut self, op: Op, done: Done) {
        self.ops.push(op);
        self.done.push(done);
    }

    /// Everything that waits; `None`, and nobody draining, if nothing does.
    pub(super) fn take(&mut self) -> Option<Batch> {
        if self.ops.is_empty() {
            self.draining = false;
            return None;
        }
        let lazy = std::mem::take(&mut self.lazy);
        Some(Batch { ops: std::mem::take(&mut self.ops), done: std::mem::take(&mut self.done), lazy })
    }

    /// Fails everything that waits.
    pub(super) fn fail(&mut self) {
        self.draining = false;
        self.ops.clear();
        for done in self.done.drain(..) {
            done(Err(StorageError::Stopped));
        }
    }
}

/// Operations that become one commit.
pub(super) struct Batch {
    ops: Vec<Op>,
    done: Vec<Done>,
    lazy: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Batch {
    /// Writes the batch durably; says where the last appended entry ends.
    pub(super) fn write(&self, db: &Database) -> Result<Option<u64>, StorageError> {
        let mut txn = db.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        // The second phase protects against a torn commit that happens to look whole.
        txn.set_two_phase_commit(true);
        let mut end = None;
        {
            let mut entries = txn.open_table(ENTRIES)?;
            let mut meta = txn.open_table(META)?;
            let mut put = |key: &[u8], value: &[u8]| -> Result<(), StorageError> {
                meta.insert(key, sealed(META_NUMBER, key, value).as_slice())?;
                Ok(())
            };
            for (key, value) in &self.lazy {
                put(key, value)?;
            }
            for op in &self.ops {
                match op {
                    Op::Append(appended) => {
                        for (index, entry) in appended {
                            let key = index.to_be_bytes();
                            let row = sealed(ENTRIES_NUMBER, &key, entry);
                            entries.insert(key.as_slice(), row.as_slice())?;
                            end = end.max(Some(index + 1));
                        }
                    }
                    Op::Put(key, value) => put(key, value)?,
                    Op::Remove(range, mark) => {
                        let (from, to) = (range.start.to_be_bytes(), range.end.to_be_bytes());
                        entries.retain_in::<&[u8], _>(from.as_slice()..to.as_slice(), |_, _| false)?;
                        if let Some((key, value)) = mark {
                            put(key, value)?;
                        }
                        // Entries appended before a removal of the tail are gone again.
                        end = end.filter(|end| *end <= range.start || range.start == 0);
                    }
                    Op::Flush => {}
                }
            }
        }
        txn.commit()?;
        Ok(end)
    }

    /// Calls back everybody.
    pub(super) fn finish(self, written: bool) {
        for done in self.done {
            done(if written { Ok(()) } else { Err(StorageError::Stopped) });
        }
    }
}
