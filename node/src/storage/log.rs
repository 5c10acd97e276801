//! The Raft log on disk: entries by index, the vote, and a few rows beside them.
//!
//! Everything is queued to one storage worker, which packs all that waits into one durable commit and then calls
//! back. Entries can be read as soon as they are submitted, from memory; the youngest stay there, within a bound.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata};
use tokio::sync::oneshot;

use super::checksum::unseal;
use super::log_queue::{Done, Op, Queue};
use super::tables::{ENTRIES, ENTRIES_NUMBER, IDENTITY, META, meta_row};
use super::{Fatal, Folder, StorageError};
use crate::seams::Worker;

/// The log file of a shard. Clones are handles to the same file.
#[derive(Clone)]
pub struct LogStore(Arc<Inner>);

struct Inner {
    db: Database,
    worker: Box<dyn Worker>,
    queue: Mutex<Queue>,
    tail: Mutex<Tail>,
    fatal: Fatal,
    // Declared last: the folder stays locked until the file is closed.
    _folder: Arc<Folder>,
}

/// The entries in memory: all that are not on disk yet, and the youngest of those that are.
struct Tail {
    entries: BTreeMap<u64, Bytes>,
    bytes: usize,
    bytes_max: usize,
    /// Entries below this index are on disk.
    durable_end: u64,
}

impl Tail {
    fn put(&mut self, index: u64, entry: Bytes) {
        self.bytes += entry.len();
        if let Some(old) = self.entries.insert(index, entry) {
            self.bytes -= old.len();
        }
    }

    fn remove(&mut self, range: Range<u64>) {
        let gone: Vec<u64> = self.entries.range(range).map(|(index, _)| *index).collect();
        for index in gone {
            if let Some(entry) = self.entries.remove(&index) {
                self.bytes -= entry.len();
            }
        }
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max
            && let Some(first) = self.entries.first_entry()
            && *first.key() < self.durable_end
        {
            self.bytes -= first.remove().len();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is guarded is whole between statements; a panic elsewhere must not spread.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl std::fmt::Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogStore")
    }
}

impl LogStore {
    pub(super) fn new(
        db: Database,
        worker: Box<dyn Worker>,
        bytes_max: usize,
        folder: Arc<Folder>,
        fatal: Fatal,
    ) -> Result<Self, StorageError> {
        let tail = Tail { entries: BTreeMap::new(), bytes: 0, bytes_max, durable_end: 0 };
        let store = Self(Arc::new(Inner {
            db,
            worker,
            queue: Mutex::new(Queue::default()),
            tail: Mutex::new(tail),
            fatal,
            _folder: folder,
        }));
        let end = store.last()?.map_or(0, |(index, _)| index + 1);
        lock(&store.0.tail).durable_end = end;
        Ok(store)
    }

    /// Whether a log file has ever been written to beyond its creation.
    pub(super) fn is_used(db: &Database) -> Result<bool, StorageError> {
        let txn = db.begin_read()?;
        let rows = txn.open_table(META)?;
        let only_owner = rows.len()? == 1 && rows.get(IDENTITY)?.is_some();
        Ok(!only_owner || txn.open_table(ENTRIES)?.len()? > 0)
    }

    /// Appends consecutive entries. They can be read when this returns; `done` is called when they are on disk.
    pub fn append(
        &self,
        entries: Vec<(u64, Bytes)>,
        done: impl FnOnce(Result<(), StorageError>) + Send + 'static,
    ) {
        {
            let mut tail = lock(&self.0.tail);
            for (index, entry) in &entries {
                tail.put(*index, entry.clone());
            }
        }
        self.submit(Op::Append(entries), Box::new(done));
    }

    /// Puts a row beside the entries and returns when it is on disk.
    pub async fn put(&self, key: &[u8], value: Vec<u8>) -> Result<(), StorageError> {
        self.durably(Op::Put(key.to_vec(), value)).await
    }

    /// Puts a row with the next durable commit, whenever that is. A read sees it at once.
    pub fn put_lazily(&self, key: &[u8], value: Vec<u8>) {
        lock(&self.0.queue).lazy.insert(key.to_vec(), value);
    }

    /// The row under `key` beside the entries.
    pub fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        if let Some(value) = lock(&self.0.queue).lazy.get(key) {
            return Ok(Some(value.clone()));
        }
        meta_row(&self.0.db, key)
    }

    /// Removes the entries from `from` on, and returns when that is on disk.
    pub async fn truncate(&self, from: u64) -> Result<(), StorageError> {
        let done = self.durably(Op::Remove(from..u64::MAX, None));
        {
            let mut tail = lock(&self.0.tail);
            tail.remove(from..u64::MAX);
            tail.durable_end = tail.durable_end.min(from);
        }
        done.await
    }

    /// Removes the entries below `end` and puts a row that says so, in one commit.
    pub async fn purge(&self, end: u64, key: &[u8], value: Vec<u8>) -> Result<(), StorageError> {
        let done = self.durably(Op::Remove(0..end, Some((key.to_vec(), value))));
        lock(&self.0.tail).remove(0..end);
        done.await
    }

    /// Writes what was put lazily and waits for everything submitted before.
    pub async fn flush(&self) -> Result<(), StorageError> {
        self.durably(Op::Flush).await
    }

    /// The youngest entry.
    pub fn last(&self) -> Result<Option<(u64, Bytes)>, StorageError> {
        if let Some((index, entry)) = lock(&self.0.tail).entries.last_key_value() {
            return Ok(Some((*index, entry.clone())));
        }
        let txn = self.0.db.begin_read()?;
        let table = txn.open_table(ENTRIES)?;
        match table.last()? {
            Some((key, value)) => Ok(Some(decode_row(key.value(), value.value())?)),
            None => Ok(None),
        }
    }

    /// The entries of `range` that exist, in order, up to `bytes_max` but at least one.
    pub fn read(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, StorageError> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let cached: Vec<(u64, Bytes)> = {
            let tail = lock(&self.0.tail);
            tail.entries.range(range.clone()).map(|(index, entry)| (*index, entry.clone())).collect()
        };
        // What is not in memory is older than what is, and on disk.
        let disk_end = cached.first().map_or(range.end, |(index, _)| *index);
        let mut entries = Vec::new();
        let mut bytes = 0;
        if range.start < disk_end {
            let txn = self.0.db.begin_read()?;
            let table = txn.open_table(ENTRIES)?;
            let (from, to) = (range.start.to_be_bytes(), disk_end.to_be_bytes());
            for row in table.range::<&[u8]>(from.as_slice()..to.as_slice())? {
                let (key, value) = row?;
                if !take(&mut entries, &mut bytes, bytes_max, decode_row(key.value(), value.value())?) {
                    return Ok(entries);
                }
            }
        }
        for entry in cached {
            if !take(&mut entries, &mut bytes, bytes_max, entry) {
                break;
            }
        }
        Ok(entries)
    }

    async fn durably(&self, op: Op) -> Result<(), StorageError> {
        let (tx, rx) = oneshot::channel();
        self.submit(
            op,
            Box::new(move |result| {
                // The waiter may have been cancelled; the write is done all the same.
                let _ = tx.send(result);
            }),
        );
        rx.await.map_err(|_| StorageError::Stopped)?
    }

    fn submit(&self, op: Op, done: Done) {
        {
            let mut queue = lock(&self.0.queue);
            queue.push(op, done);
            if queue.draining {
                return;
            }
            queue.draining = true;
        }
        let inner = self.0.clone();
        if self.0.worker.submit(Box::new(move || inner.drain())).is_err() {
            self.0.fatal.report("the log's storage worker has died");
            lock(&self.0.queue).fail();
        }
    }
}

impl Inner {
    /// Writes batch after batch until nothing waits.
    fn drain(&self) {
        loop {
            let Some(batch) = lock(&self.queue).take() else {
                return;
            };
            let stopped = self.fatal.told().is_some();
            match if stopped { Err(StorageError::Stopped) } else { batch.write(&self.db) } {
                Ok(appended_end) => {
                    let mut tail = lock(&self.tail);
                    if let Some(end) = appended_end {
                        tail.durable_end = tail.durable_end.max(end);
                    }
                    tail.evict();
                    drop(tail);
                    batch.finish(true);
                }
                Err(error) => {
                    // What is on disk is now unknown: nobody may be told that it is safe, and nothing more is written.
                    self.fatal.report(format!("the log file: {error}"));
                    batch.finish(false);
                }
            }
        }
    }
}

fn take(entries: &mut Vec<(u64, Bytes)>, bytes: &mut usize, bytes_max: usize, entry: (u64, Bytes)) -> bool {
    if !entries.is_empty() && *bytes + entry.1.len() > bytes_max {
        return false;
    }
    *bytes += entry.1.len();
    entries.push(entry);
    true
}

fn decode_row(key: &[u8], row: &[u8]) -> Result<(u64, Bytes), StorageError> {
    let index = key.try_into().map(u64::from_be_bytes);
    let index = index.map_err(|_| StorageError::corrupt("a log entry has no index"))?;
    Ok((index, Bytes::copy_from_slice(unseal(ENTRIES_NUMBER, key, row)?)))
}
