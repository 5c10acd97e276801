//! The state machine as openraft wants it: batches of entries become one write transaction of the state.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use openraft::entry::{RaftEntry, RaftPayload};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use tokio::sync::watch;

use super::codec;
use super::types::{Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig, entry_position};
use super::{Machine, RaftConfig};
use crate::seams::{Clock, Worker, run_on};
use crate::storage::{Fatal, Folder, Incoming, StateStore, StateView, StorageError};
use crate::txn::Reply;

/// Entries of one write.
const BATCH_MAX: usize = 1024;
/// Bytes of the entries of one write, unless a single one is larger: what a write may exceed the bound of the state's
/// memory by.
const BATCH_BYTES_MAX: usize = 4 << 20;

pub(super) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// A snapshot at either end of its way.
#[derive(Debug)]
pub(super) enum SnapshotData {
    /// The rows of this node as its last checkpoint left them on disk.
    Local(StateView),
    /// A file received from the leader, not yet in its place.
    Received(Box<Incoming>),
}

/// A checkpoint is made for the log's sake once the log has grown by so many times what the last checkpoint wrote.
const CHECKPOINT_PAYS: u64 = 2;

/// The state machine; clones share it.
#[derive(Clone)]
pub(super) struct StateMachine(Arc<Inner>);

struct Inner {
    machine: Mutex<Box<dyn Machine>>,
    state: StateStore,
    folder: Arc<Folder>,
    worker: Box<dyn Worker>,
    clock: Arc<dyn Clock>,
    fatal: Fatal,
    checkpoint_log_bytes: u64,
    checkpoint_interval: Duration,
    snapshot_entries: u64,
    /// Up to which entry the last snapshot is: at first the one that is found on the disk.
    built: AtomicU64,
    // When the last checkpoint was started, and the bytes of the log applied since: the worker alone writes them.
    started_at_ms: AtomicU64,
    log_bytes: AtomicU64,
}

type Item = EntryResponder<TypeConfig>;

impl StateMachine {
    pub(super) fn new(
        machine: Box<dyn Machine>,
        state: StateStore,
        folder: Arc<Folder>,
        worker: Box<dyn Worker>,
        clock: Arc<dyn Clock>,
        fatal: Fatal,
        config: &RaftConfig,
    ) -> Self {
        let started_at_ms = AtomicU64::new(clock.monotonic_ms());
        let built = AtomicU64::new(state.durable().index());
        Self(Arc::new(Inner {
            machine: Mutex::new(machine),
            snapshot_entries: config.snapshot_entries,
            built,
            state,
            folder,
            worker,
            clock,
            fatal,
            checkpoint_log_bytes: config.checkpoint_log_bytes,
            checkpoint_interval: config.checkpoint_interval,
            started_at_ms,
            log_bytes: AtomicU64::new(0),
        }))
    }

    /// Runs blocking work on the state's worker, after everything before it; a failure is fatal.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, io::Error> {
        let inner = self.0.clone();
        let done = run_on(self.0.worker.as_ref(), move || work(&inner)).await;
        let result = done.unwrap_or(Err(StorageError::Stopped));
        Ok(result.inspect_err(|error| self.0.fatal.report(format!("applying the log: {error}")))?)
    }

    /// Applies entries as one write, answers who waits for them, and begins a checkpoint if one is due.
    async fn apply_batch(&self, batch: Vec<Item>) -> Result<(), io::Error> {
        // What is in memory is bounded: when the disk does not keep up, applying waits for it.
        self.0.state.room().await?;
        self.run(move |inner| {
            let replies = inner.apply(&batch)?;
            let bytes: usize = batch.iter().map(|(entry, _)| entry_bytes(entry)).sum();
            inner.log_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
            for ((_, responder), reply) in batch.into_iter().zip(replies) {
                if let Some(responder) = responder {
                    responder.send(reply);
                }
            }
            if inner.is_checkpoint_due() {
                inner.start_checkpoint()?;
            }
            Ok(())
        })
        .await
    }

    /// Makes what is applied durable, if anything is not. Applying goes on meanwhile.
    pub(super) async fn checkpoint(&self) -> Result<(), io::Error> {
        // After the work that was submitted before.
        self.run(|inner| inner.start_checkpoint()).await?;
        Ok(self.0.state.checkpoint().await.map(drop)?)
    }

    /// Tells whoever waits on it of each checkpoint that was written, and of some other changes.
    pub(super) fn checkpoints(&self) -> watch::Receiver<()> {
        self.0.state.checkpoints()
    }

    /// Whether checkpoints have covered so many entries since the last snapshot that there should be one.
    pub(super) fn is_snapshot_due(&self) -> bool {
        let covered = self.0.state.durable().index();
        covered.saturating_sub(self.0.built.load(Ordering::Relaxed)) >= self.0.snapshot_entries
    }

    /// How long ago the last checkpoint was started.
    pub(super) fn since_checkpoint(&self) -> Duration {
        self.0.since_checkpoint()
    }

    /// The state as it is on disk, and where in the log it stands.
    fn durable(&self) -> Result<Snapshot, io::Error> {
        let view = self.0.state.durable_view();
        let (last_log_id, last_membership) = codec::from_applied(view.applied())?;
        let meta = SnapshotMeta { last_log_id, last_membership };
        Ok(Snapshot { meta, snapshot: SnapshotData::Local(view) })
    }

    /// Reads the machine's caches from the rows.
    pub(super) async fn reset(&self) -> Result<(), io::Error> {
        self.run(|inner| inner.machine().reset(&inner.state.view())).await
    }
}

fn entry_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        EntryPayload::Normal(data) => data.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    }
}

/// How many of `sizes` from the front are within `bytes_max` together; the first one in any case.
fn count_within(sizes: impl Iterator<Item = usize>, bytes_max: usize) -> usize {
    let mut sum = 0usize;
    let fits = |size: &usize| {
        sum = sum.saturating_add(*size);
        sum <= bytes_max
    };
    sizes.take_while(fits).count().max(1)
}

impl Inner {
    fn machine(&self) -> std::sync::MutexGuard<'_, Box<dyn Machine>> {
        // After a panic inside the machine its worker is dead and this is never reached again.
        self.machine.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn apply(&self, batch: &[Item]) -> Result<Vec<Reply>, StorageError> {
        let mut machine = self.machine();
        let Some(last) = batch.last().map(|(entry, _)| entry_position(entry)) else { return Ok(Vec::new()) };
        let replies = self.state.write(|rows| {
            let mut applied = rows.applied().clone();
            let mut replies = Vec::with_capacity(batch.len());
            for (entry, _) in batch {
                let at = entry_position(entry);
                applied.position = Some(at);
                replies.push(match &entry.payload {
                    EntryPayload::Normal(data) => machine.apply(rows, at, &data.0)?,
                    EntryPayload::Blank => Reply::default(),
                    EntryPayload::Membership(_) => {
                        let members = entry.payload.get_membership().unwrap_or_default();
                        let stored = StoredMembership::new(Some(entry.log_id()), members);
                        applied = codec::to_applied(Some(entry.log_id()), &stored);
                        Reply::default()
                    }
                });
            }
            rows.set_applied(applied);
            Ok(replies)
        })?;
        machine.committed(last);
        tracing::trace!(term = last.term, index = last.index, "applied");
        Ok(replies)
    }

    /// Whether something was applied and the time has come, or so much of the log that a checkpoint pays: it writes whole
    /// pages, so where each write lands on a page of its own it is worth waiting until it writes less than the log did.
    fn is_checkpoint_due(&self) -> bool {
        let worth = self.checkpoint_log_bytes.max(CHECKPOINT_PAYS * self.state.checkpoint_cost());
        self.since_checkpoint() >= self.checkpoint_interval || self.log_bytes.load(Ordering::Relaxed) >= worth
    }

    fn since_checkpoint(&self) -> Duration {
        let started_at_ms = self.started_at_ms.load(Ordering::Relaxed);
        Duration::from_millis(self.clock.monotonic_ms().saturating_sub(started_at_ms))
    }

    fn start_checkpoint(&self) -> Result<(), StorageError> {
        if self.state.start_checkpoint()? {
            self.started_at_ms.store(self.clock.monotonic_ms(), Ordering::Relaxed);
            self.log_bytes.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    fn install(&self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), StorageError> {
        let incoming = match data {
            SnapshotData::Received(incoming) => *incoming,
            SnapshotData::Local(view) => super::snapshot::copy(&view, self.folder.incoming()?)?,
        };
        let applied = codec::to_applied(meta.last_log_id, &meta.last_membership);
        let mut machine = self.machine();
        incoming.install(&applied, &self.state)?;
        machine.reset(&self.state.view())
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(codec::from_applied(&self.0.state.applied())?)
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: futures_util::Stream<Item = Result<Item, io::Error>> + Unpin + OptionalSend,
    {
        let mut chunks = entries.ready_chunks(BATCH_MAX);
        while let Some(chunk) = chunks.next().await {
            let mut rest = chunk.into_iter().collect::<Result<Vec<Item>, io::Error>>()?;
            while !rest.is_empty() {
                let count = count_within(rest.iter().map(|(entry, _)| entry_bytes(entry)), BATCH_BYTES_MAX);
                let later = rest.split_off(count);
                self.apply_batch(std::mem::replace(&mut rest, later)).await?;
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let meta = meta.clone();
        self.run(move |inner| inner.install(&meta, snapshot)).await
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        // The log is purged up to a snapshot that was built, which is what a checkpoint made durable: so the log goes on
        // from the last one, however far apply is ahead of it.
        let built = self.durable()?;
        Ok(built.meta.last_log_id.is_some().then_some(built))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        // The last checkpoint will do if it is worth a snapshot.
        if !self.is_snapshot_due() {
            self.checkpoint().await?;
        }
        let built = self.durable()?;
        let index = built.meta.last_log_id.as_ref().map_or(0, |id| id.index);
        self.0.built.store(index, Ordering::Relaxed);
        Ok(built)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::test_machine::{TestMachine, count};
    use super::super::types::{Entry, EntryData, log_id};
    use super::*;
    use crate::seams::{InlineExecutor, Seams, SimDisk, Urgency};
    use crate::storage::{FolderConfig, Identity, LogPosition, Opened};

    fn seams(disk: &SimDisk) -> Seams {
        Seams { disk: Arc::new(disk.clone()), executor: Arc::new(InlineExecutor), ..Seams::production() }
    }

    fn open(disk: &SimDisk) -> Opened {
        let identity = Identity { cluster: "c".into(), dc: "eu".into(), node: 1 };
        Folder::open(FolderConfig::new("/data", identity), &seams(disk)).unwrap()
    }

    #[test]
    fn a_write_takes_as_many_entries_as_its_bytes_allow_and_one_at_least() {
        let count = |sizes: &[usize]| count_within(sizes.iter().copied(), 10);
        assert_eq!(count(&[3, 3, 4, 1]), 3);
        assert_eq!(count(&[11, 1]), 1);
        assert_eq!(count(&[5]), 1);
        assert_eq!(count(&[usize::MAX, usize::MAX]), 1);
    }

    /// The log is purged up to a snapshot. A snapshot that a power cut takes back would leave a hole between the state
    /// and the log: the entries in it would be gone, and their numbers given to others.
    #[test]
    fn what_a_snapshot_covers_is_still_there_after_a_power_cut() {
        let disk = SimDisk::new();
        let Opened { folder, state, fatal, .. } = open(&disk);
        let seams = seams(&disk);
        let worker = seams.executor.worker("state", Urgency::Foreground);
        let (machine, config) = (Box::<TestMachine>::default(), RaftConfig::default());
        let mut machine = StateMachine::new(machine, state, folder, worker, seams.clock, fatal, &config);
        let entry = |index: u64| {
            let data = EntryData(index.to_string().into());
            (Entry::new_normal(log_id(LogPosition { term: 1, index }), data), None)
        };
        machine.0.apply(&(1..=5).map(entry).collect::<Vec<Item>>()).unwrap();
        let built = machine.build_snapshot().now_or_never().expect("everything runs inline");
        let snapshot = built.unwrap();
        assert_eq!(snapshot.meta.last_log_id.map(|id| id.index), Some(5));
        machine.0.apply(&[entry(6)]).unwrap();

        let again = open(&disk.restart(1));
        let found = again.state.view();
        assert_eq!((found.applied_index(), count(&found)), (5, 5));
    }

    #[test]
    fn a_checkpoint_is_made_once_the_log_has_grown_by_more_than_one_costs() {
        let disk = SimDisk::new();
        let Opened { folder, state, fatal, .. } = open(&disk);
        let seams = seams(&disk);
        let worker = seams.executor.worker("state", Urgency::Foreground);
        let config = RaftConfig { checkpoint_log_bytes: 10, ..RaftConfig::default() };
        let (counting, store) = (Box::<TestMachine>::default(), state.clone());
        let machine = StateMachine::new(counting, store, folder, worker, seams.clock, fatal, &config);
        let mut index = 0;
        let mut durable_after = |bytes: usize| {
            index += 1;
            let entry =
                Entry::new_normal(log_id(LogPosition { term: 1, index }), EntryData(vec![0; bytes].into()));
            let applied = machine.apply_batch(vec![(entry, None)]).now_or_never();
            applied.expect("everything runs inline").expect("is applied");
            state.durable().end().saturating_sub(1)
        };
        assert_eq!([9, 1].map(&mut durable_after), [0, 2]);
        let cost = usize::try_from(state.checkpoint_cost()).expect("some pages");
        assert!(cost > 4_096, "{cost}");
        assert_eq!([cost, cost - 1, 1].map(&mut durable_after), [2, 2, 5]);
    }
}
