//! The Raft log on disk: entries by index, the vote, and a few rows beside them.
//!
//! Everything is queued to one storage worker, which packs all that waits into one write and one sync and then calls
//! back. Entries can be read as soon as they are submitted, from memory; the youngest stay there, within a bound, and an
//! index knows where the others stand.
//!
//! The log is a row of segments (`segment`): files whose blocks are all written before they are used, so that a sync
//! has nothing to do but the batch itself. `record` has the bytes, `replay` what they come to after a crash, `writer`
//! how segments follow one another. Invariants: what has been called back about is found again; a batch is written only
//! when all before it is on disk; what is found torn at the end was never called back about; after an error nothing more
//! is written. A disk is taken to write a sector whole or not at all, and to leave alone the sectors that it does not write.
//!
//! Why not a crate: raft-engine, the one that is kept well, has a memory table for thousands of groups, threads of its own at
//! recovery, and protobuf, a scripting language and a compressor in C among its dependencies; okaywal and commitlog reach the
//! disk past any seam, where a simulation cannot cut the power.

mod contents;
mod pages;
mod queue;
mod record;
mod replay;
mod segment;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use redb::StorageBackend;
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use self::contents::Bounds;
use self::queue::{Done, Op, Queue};
use self::replay::Found;
pub(super) use self::segment::Files;
use self::segment::{Blank, RECORDS_FROM, Segment};
pub(super) use self::writer::Site;
pub use self::writer::{LogCounts, SyncTimes};
use self::writer::{Shared, Spares, Writer};
use super::{Fatal, Folder, StorageError};
use crate::seams::{Disk, Executor, Urgency, Worker};

/// The log of a shard. Clones are handles to the same one.
#[derive(Clone)]
pub struct LogStore(Arc<Inner>);

struct Inner {
    worker: Box<dyn Worker>,
    spare_worker: Box<dyn Worker>,
    queue: Mutex<Queue>,
    tail: Mutex<Tail>,
    shared: Mutex<Shared>,
    writer: Mutex<Writer>,
    spares: Spares,
    backlog: Backlog,
    fatal: Fatal,
    // Declared last: the folder stays locked until the segments are closed.
    _folder: Arc<Folder>,
}

/// A log that has been read and is not in use yet.
pub(super) struct Read(Found);

impl Read {
    /// Reads the log of a folder. Blocking.
    pub(super) fn of(disk: &dyn Disk, folder: &Path, files: &Files) -> Result<Self, StorageError> {
        replay::replay(disk, folder, files).map(Self)
    }

    /// The folder that it was made with.
    pub(super) fn store_id(&self) -> Uuid {
        self.0.store_id
    }

    /// Whether anything has ever been written to it.
    pub(super) fn is_used(&self) -> bool {
        self.0.contents.bounds().end > 0 || !self.0.contents.rows.is_empty() || self.0.segments.len() > 1
    }
}

/// Makes an empty log, in the place of one that was never used. Blocking.
pub(super) fn create(
    disk: &dyn Disk,
    folder: &Path,
    store_id: Uuid,
    segment_bytes: u32,
) -> Result<(), StorageError> {
    let blank = Blank::make_new(disk, folder, segment_bytes)?;
    blank.into_segment(disk, folder, store_id, replay::FIRST, RECORDS_FROM)?;
    Ok(())
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

/// The entries that are not on disk yet.
#[derive(Default)]
struct Backlog {
    bytes: AtomicU64,
    /// Told when there are fewer.
    written: Notify,
}

impl Backlog {
    fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.written.notify_waiters();
    }

    /// Returns once there are at most so many bytes.
    async fn at_most(&self, bytes: u64) {
        loop {
            let written = self.written.notified();
            if self.bytes.load(Ordering::Relaxed) <= bytes {
                return;
            }
            written.await;
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
    /// Takes a log into use: all that was found in it is on disk when this returns. Blocking.
    pub(super) fn open(
        read: Read,
        files: &Files,
        site: Site,
        cache_bytes_max: usize,
        executor: &dyn Executor,
        folder: Arc<Folder>,
        fatal: Fatal,
    ) -> Result<Self, StorageError> {
        let Read(Found { store_id, contents, segments, at, life }) = read;
        let Some(current) = segments.last_key_value().map(|(_, segment)| segment.clone()) else {
            return Err(StorageError::corrupt("a log without segments"));
        };
        // The process before may have died between a write and its sync: what was read may not be on disk.
        current.file.sync_data()?;
        for leftover in &files.leftovers {
            site.disk.remove(&site.folder.join(leftover))?;
        }
        site.disk.sync_dir(&site.folder)?;
        let site = Arc::new(site);
        let durable_end = contents.bounds().end;
        let tail = Tail { entries: BTreeMap::new(), bytes: 0, bytes_max: cache_bytes_max, durable_end };
        Ok(Self(Arc::new(Inner {
            worker: executor.worker("log", Urgency::Foreground),
            spare_worker: executor.worker("log-spare", Urgency::Foreground),
            queue: Mutex::new(Queue::default()),
            tail: Mutex::new(tail),
            writer: Mutex::new(Writer::new(site.clone(), store_id, life + 1, current, at)?),
            spares: Spares::new(site),
            backlog: Backlog::default(),
            shared: Mutex::new(Shared::new(contents, segments)),
            fatal,
            _folder: folder,
        })))
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
        self.0.backlog.add(queue::bytes_of(&entries));
        self.submit(Op::Append(entries), Box::new(done));
    }

    /// Returns once at most so many bytes of entries wait to be on disk. What others have on disk can be committed and applied
    /// before it is on this one, so that nothing else holds up a leader whose own disk has fallen behind.
    pub async fn room(&self, bytes_max: u64) {
        self.0.backlog.at_most(bytes_max).await;
    }

    /// Puts a row beside the entries and returns when it is on disk.
    pub async fn put(&self, key: &[u8], value: Vec<u8>) -> Result<(), StorageError> {
        self.durably(Op::Put(key.to_vec(), value)).await
    }

    /// Puts a row with a later batch, never before what was submitted until now. A read sees it at once.
    pub fn put_lazily(&self, key: &[u8], value: Vec<u8>) {
        lock(&self.0.queue).lazy.insert(key.to_vec(), value);
    }

    /// The row under `key` beside the entries.
    pub fn row(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        if let Some(value) = lock(&self.0.queue).lazy.get(key) {
            return Ok(Some(value.clone()));
        }
        Ok(lock(&self.0.shared).contents.rows.get(key).cloned())
    }

    /// Removes the entries from `from` on, and returns when that is on disk.
    pub async fn truncate(&self, from: u64) -> Result<(), StorageError> {
        let done = self.durably(Op::Truncate(from));
        {
            let mut tail = lock(&self.0.tail);
            tail.remove(from..u64::MAX);
            tail.durable_end = tail.durable_end.min(from);
        }
        done.await
    }

    /// Removes the entries below `end` and puts a row that says so, both or neither.
    pub async fn purge(&self, end: u64, key: &[u8], value: Vec<u8>) -> Result<(), StorageError> {
        let done = self.durably(Op::Purge(end, key.to_vec(), value));
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
        let bounds = lock(&self.0.shared).contents.bounds();
        if bounds.base == bounds.end {
            return Ok(None);
        }
        Ok(self.on_disk(bounds.end - 1..bounds.end, usize::MAX)?.pop())
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
        let mut entries = self.on_disk(range.start..disk_end, bytes_max)?;
        let mut bytes = entries.iter().map(|(_, entry)| entry.len()).sum();
        if entries.last().is_none_or(|(index, _)| index + 1 == disk_end) {
            for entry in cached {
                if !takes(&mut bytes, bytes_max, entries.is_empty(), entry.1.len()) {
                    break;
                }
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// The entries of `range` that are on disk, in order, up to `bytes_max` but at least one.
    fn on_disk(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<(u64, Bytes)>, StorageError> {
        let mut bytes = 0;
        let mut found = Vec::new();
        {
            let shared = lock(&self.0.shared);
            let Bounds { base, end } = shared.contents.bounds();
            for index in range.start.max(base)..range.end.min(end) {
                let Some(place) = shared.contents.place(index) else { break };
                if !takes(&mut bytes, bytes_max, found.is_empty(), place.len as usize) {
                    break;
                }
                let segment = shared.segments.get(&place.segment).cloned();
                let segment =
                    segment.ok_or_else(|| StorageError::corrupt(format!("entry {index} is nowhere")))?;
                found.push((index, place, segment));
            }
        }
        let read =
            |(index, place, segment): (u64, _, Arc<Segment>)| Ok((index, segment.read_entry(index, place)?));
        found.into_iter().map(read).collect()
    }

    /// What has been written since the log was opened.
    pub fn counts(&self) -> LogCounts {
        let shared = lock(&self.0.shared);
        let backlog = self.0.backlog.bytes.load(Ordering::Relaxed);
        let (batches, segments) = (shared.sync_us.count(), shared.segments.len() as u64);
        LogCounts { batches, segments, backlog, ..shared.counts }
    }

    /// How long its batches took to be written and synced, in microseconds, since the log was opened.
    pub fn sync_us(&self) -> SyncTimes {
        lock(&self.0.shared).sync_us
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
    fn drain(self: &Arc<Self>) {
        let _alarm = self.fatal.alarm("the log: writing panicked");
        let mut writer = lock(&self.writer);
        loop {
            let Some(mut batch) = lock(&self.queue).take() else {
                return;
            };
            let stopped = self.fatal.told().is_some();
            let written = match stopped {
                true => Err(StorageError::Stopped),
                false => writer.write(&mut batch, &self.shared, &self.spares),
            };
            self.backlog.remove(batch.entry_bytes);
            if let Err(error) = written {
                // What is on disk is now unknown: nobody may be told that it is safe, and nothing more is written.
                self.fatal.report(format!("the log: {error}"));
                batch.finish(false);
                continue;
            }
            {
                let mut tail = lock(&self.tail);
                tail.durable_end = lock(&self.shared).contents.bounds().end;
                tail.evict();
            }
            batch.finish(true);
            if let Err(error) = writer.reclaim(&self.shared, &self.spares) {
                self.fatal.report(format!("the log: {error}"));
            }
            if let Some(upto) = writer.spare_due(&self.spares) {
                self.fill_spare(upto);
            }
        }
    }

    fn fill_spare(self: &Arc<Self>, upto: u32) {
        let inner = self.clone();
        if self.spare_worker.submit(Box::new(move || inner.spares.fill(upto))).is_err() {
            tracing::warn!("the worker that makes files for the log has died");
        }
    }
}

/// Whether one more entry of so many bytes belongs to an answer; the first one always does.
fn takes(bytes: &mut usize, bytes_max: usize, is_first: bool, more: usize) -> bool {
    let takes = is_first || bytes.saturating_add(more) <= bytes_max;
    if takes {
        *bytes += more;
    }
    takes
}
