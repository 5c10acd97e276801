//! What waits to be written to the log, and how a batch of it becomes records.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::super::StorageError;
use super::contents::{Bounds, Change, Place, Rows};
use super::record::{Encoder, Kind, record_len};
use super::replay::encode_row;

/// A batch takes no more when it has come to so many bytes. One operation may exceed it alone.
const BATCH_BYTES_MAX: u64 = 4 << 20;
/// What a row takes beyond its key and its value, at most.
const ROW_OVERHEAD_BYTES: usize = 20;

/// Called when an operation is on disk, or will never be.
pub(super) type Done = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// One operation on the log.
pub(super) enum Op {
    Append(Vec<(u64, Bytes)>),
    Put(Vec<u8>, Vec<u8>),
    /// Removes the entries from here on.
    Truncate(u64),
    /// Removes the entries below, and puts a row that says so.
    Purge(u64, Vec<u8>, Vec<u8>),
    Flush,
}

impl Op {
    /// About how many bytes its records take, and no less than they do.
    fn bytes_max(&self) -> u64 {
        match self {
            Op::Append(entries) => entries.iter().map(|(_, entry)| record_len(entry.len())).sum(),
            Op::Put(key, value) | Op::Purge(_, key, value) => row_bytes_max(key, value),
            Op::Truncate(_) => record_len(0),
            Op::Flush => 0,
        }
    }

    fn entry_bytes(&self) -> u64 {
        match self {
            Op::Append(entries) => bytes_of(entries),
            _ => 0,
        }
    }
}

/// Bytes of these entries.
pub(super) fn bytes_of(entries: &[(u64, Bytes)]) -> u64 {
    entries.iter().map(|(_, entry)| entry.len() as u64).sum()
}

fn row_bytes_max(key: &[u8], value: &[u8]) -> u64 {
    record_len(ROW_OVERHEAD_BYTES + key.len() + value.len())
}

/// What waits. Its bound is the caller's: a leader keeps a bounded number of appends to a follower in flight, and asks for
/// [`room`](super::LogStore::room) before it appends to its own log.
#[derive(Default)]
pub(super) struct Queue {
    ops: VecDeque<(Op, Done)>,
    /// Rows that go with the next batch that leaves nothing waiting, behind all else in it.
    pub(super) lazy: Rows,
    /// Whether a worker's job is looking after the queue.
    pub(super) draining: bool,
}

impl Queue {
    pub(super) fn push(&mut self, op: Op, done: Done) {
        self.ops.push_back((op, done));
    }

    /// What waits, as much as a batch takes; `None`, and nobody draining, if nothing does.
    pub(super) fn take(&mut self) -> Option<Batch> {
        if self.ops.is_empty() {
            self.draining = false;
            return None;
        }
        let (mut ops, mut done, mut bytes, mut entry_bytes) = (Vec::new(), Vec::new(), 0, 0);
        while bytes < BATCH_BYTES_MAX
            && let Some((op, called)) = self.ops.pop_front()
        {
            bytes += op.bytes_max();
            entry_bytes += op.entry_bytes();
            ops.push(op);
            done.push(called);
        }
        // A row may speak of whatever was submitted before it, as what is committed does of its entry.
        let lazy = if self.ops.is_empty() { std::mem::take(&mut self.lazy) } else { Rows::new() };
        bytes += lazy.iter().map(|(key, value)| row_bytes_max(key, value)).sum::<u64>();
        Some(Batch { entry_bytes, ops, done, lazy, bytes_max: bytes })
    }

    /// Fails everything that waits.
    pub(super) fn fail(&mut self) {
        self.draining = false;
        for (_, done) in self.ops.drain(..) {
            done(Err(StorageError::Stopped));
        }
    }
}

/// Operations that are written and synced together.
pub(super) struct Batch {
    /// Bytes of the entries that it appends.
    pub(super) entry_bytes: u64,
    ops: Vec<Op>,
    done: Vec<Done>,
    lazy: BTreeMap<Vec<u8>, Vec<u8>>,
    /// How many bytes its records take at most.
    pub(super) bytes_max: u64,
}

impl Batch {
    /// Whether there is anything to write.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes_max == 0
    }

    /// Encodes the batch for this segment, behind a log with these bounds; says what it changes once it is on disk.
    pub(super) fn encode(
        &mut self,
        mut bounds: Bounds,
        segment: u32,
        out: &mut Encoder,
    ) -> Result<Vec<Change>, StorageError> {
        let mut changes = Vec::new();
        for op in self.ops.drain(..) {
            match op {
                Op::Append(entries) => {
                    for (index, entry) in entries {
                        // Checked before it is written: what does not follow could not be read again.
                        bounds.append(index)?;
                        let (at, len) = out.put(Kind::Entry, index, |out| out.extend_from_slice(&entry));
                        changes.push(Change::Entry(index, Place { segment, at, len }));
                    }
                }
                Op::Put(key, value) => {
                    put_row(out, Kind::Row, 0, &key, &value);
                    changes.push(Change::Row(key, value));
                }
                Op::Truncate(from) => {
                    bounds.truncate(from);
                    out.put(Kind::Truncate, from, |_| {});
                    changes.push(Change::Truncate(from));
                }
                Op::Purge(end, key, value) => {
                    bounds.purge(end);
                    // One record for both, so that a torn write does not take one of them alone.
                    put_row(out, Kind::Purge, end, &key, &value);
                    changes.push(Change::Row(key, value));
                    changes.push(Change::Purge(end));
                }
                Op::Flush => {}
            }
        }
        for (key, value) in std::mem::take(&mut self.lazy) {
            put_row(out, Kind::Row, 0, &key, &value);
            changes.push(Change::Row(key, value));
        }
        Ok(changes)
    }

    /// Calls back everybody.
    pub(super) fn finish(self, written: bool) {
        for done in self.done {
            done(if written { Ok(()) } else { Err(StorageError::Stopped) });
        }
    }
}

fn put_row(out: &mut Encoder, kind: Kind, index: u64, key: &[u8], value: &[u8]) {
    out.put(kind, index, |out| out.extend_from_slice(&encode_row(key, value)));
}
