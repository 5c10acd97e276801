//! The state machine as openraft wants it: batches of entries become one write transaction of the state.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use openraft::entry::{RaftEntry, RaftPayload};
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};

use super::codec;
use super::types::{LogId, SnapshotMeta, StoredMembership, TypeConfig, entry_position};
use super::{Machine, RaftConfig};
use crate::seams::{Clock, Worker, run_on};
use crate::storage::{Applied, Fatal, Folder, Incoming, LogPosition, StateStore, StateView, StorageError};
use crate::txn::Reply;

/// Entries of one write transaction.
const BATCH_MAX: usize = 1024;

pub(super) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// A snapshot at either end of its way.
#[derive(Debug)]
pub(super) enum SnapshotData {
    /// The rows of this node at the moment of a durable checkpoint.
    Local(Box<StateView>),
    /// A file received from the leader, not yet in its place.
    Received(Box<Incoming>),
}

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
    checkpoint_entries: u64,
    checkpoint_interval_ms: u64,
    // What the last checkpoint made durable, and when: the worker alone writes them.
    durable_end: AtomicU64,
    durable_at_ms: AtomicU64,
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
    ) -> Result<Self, StorageError> {
        let durable_at_ms = AtomicU64::new(clock.monotonic_ms());
        // What is found when the file is opened is its last checkpoint.
        let durable_end = AtomicU64::new(end(state.applied()?.position));
        Ok(Self(Arc::new(Inner {
            machine: Mutex::new(machine),
            state,
            folder,
            worker,
            clock,
            fatal,
            checkpoint_entries: config.checkpoint_entries,
            checkpoint_interval_ms: config.checkpoint_interval.as_millis() as u64,
            durable_end,
            durable_at_ms,
        })))
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

    /// Makes what is applied durable, if anything is not.
    pub(super) async fn checkpoint(&self) -> Result<(), io::Error> {
        self.run(|inner| inner.checkpoint().map(drop)).await
    }

    /// Reads the machine's caches from the rows.
    pub(super) async fn reset(&self) -> Result<(), io::Error> {
        self.run(|inner| inner.machine().reset(&inner.state.view()?)).await
    }
}

/// The index after this position.
fn end(at: Option<LogPosition>) -> u64 {
    at.map_or(0, |at| at.index + 1)
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
            let mut applied = rows.applied()?;
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
            rows.set_applied(&applied)?;
            Ok(replies)
        })?;
        machine.committed(last);
        tracing::trace!(term = last.term, index = last.index, "applied");
        Ok(replies)
    }

    fn is_checkpoint_due(&self, applied: LogPosition) -> bool {
        let entries = end(Some(applied)).saturating_sub(self.durable_end.load(Ordering::Relaxed));
        let age_ms = self.clock.monotonic_ms().saturating_sub(self.durable_at_ms.load(Ordering::Relaxed));
        entries >= self.checkpoint_entries || (entries > 0 && age_ms >= self.checkpoint_interval_ms)
    }

    fn checkpoint(&self) -> Result<Applied, StorageError> {
        let applied = self.state.applied()?;
        let applied_end = end(applied.position);
        if applied_end > self.durable_end.load(Ordering::Relaxed) {
            self.state.checkpoint()?;
            self.durable_end.store(applied_end, Ordering::Relaxed);
        }
        self.durable_at_ms.store(self.clock.monotonic_ms(), Ordering::Relaxed);
        Ok(applied)
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        self.checkpoint()?;
        let view = self.state.view()?;
        let (last_log_id, last_membership) = codec::from_applied(view.applied())?;
        let meta = SnapshotMeta { last_log_id, last_membership };
        Ok(Snapshot { meta, snapshot: SnapshotData::Local(Box::new(view)) })
    }

    fn install(&self, meta: &SnapshotMeta, data: SnapshotData) -> Result<(), StorageError> {
        let incoming = match data {
            SnapshotData::Received(incoming) => *incoming,
            SnapshotData::Local(view) => super::snapshot::copy(&view, self.folder.incoming()?)?,
        };
        let applied = codec::to_applied(meta.last_log_id, &meta.last_membership);
        let mut machine = self.machine();
        incoming.install(&applied, &self.folder, &self.state)?;
        self.durable_end.store(end(applied.position), Ordering::Relaxed);
        machine.reset(&self.state.view()?)
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok(codec::from_applied(&self.0.state.applied()?)?)
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> Result<(), io::Error>
    where
        Strm: futures_util::Stream<Item = Result<Item, io::Error>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(BATCH_MAX);
        while let Some(batch) = batches.next().await {
            let batch = batch.into_iter().collect::<Result<Vec<Item>, io::Error>>()?;
            self.run(move |inner| {
                let replies = inner.apply(&batch)?;
                let last = batch.last().map(|(entry, _)| entry_position(entry));
                for ((_, responder), reply) in batch.into_iter().zip(replies) {
                    if let Some(responder) = responder {
                        responder.send(reply);
                    }
                }
                if last.is_some_and(|last| inner.is_checkpoint_due(last)) {
                    inner.checkpoint()?;
                }
                Ok(())
            })
            .await?;
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
        let built = self.run(Inner::snapshot).await?;
        Ok(built.meta.last_log_id.is_some().then_some(built))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        self.run(Inner::snapshot).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::test_machine::{TestMachine, count};
    use super::super::types::{Entry, EntryData, log_id};
    use super::*;
    use crate::seams::{InlineExecutor, Seams, SimDisk};
    use crate::storage::{FolderConfig, Identity, Opened};

    fn seams(disk: &SimDisk) -> Seams {
        Seams { disk: Arc::new(disk.clone()), executor: Arc::new(InlineExecutor), ..Seams::production() }
    }

    fn open(disk: &SimDisk) -> Opened {
        let identity = Identity { cluster: "c".into(), dc: "eu".into(), node: 1 };
        Folder::open(FolderConfig::new("/data", identity), &seams(disk)).unwrap()
    }

    /// The log is purged up to a snapshot. A snapshot that a power cut takes back would leave a hole between the state
    /// and the log: the entries in it would be gone, and their numbers given to others.
    #[test]
    fn what_a_snapshot_covers_is_still_there_after_a_power_cut() {
        let disk = SimDisk::new();
        let Opened { folder, state, fatal, .. } = open(&disk);
        let seams = seams(&disk);
        let worker = seams.executor.worker("state");
        let (machine, config) = (Box::<TestMachine>::default(), RaftConfig::default());
        let machine = StateMachine::new(machine, state, folder, worker, seams.clock, fatal, &config).unwrap();
        let entry = |index: u64| {
            let data = EntryData(index.to_string().into());
            (Entry::new_normal(log_id(LogPosition { term: 1, index }), data), None)
        };
        machine.0.apply(&(1..=5).map(entry).collect::<Vec<Item>>()).unwrap();
        let snapshot = machine.0.snapshot().unwrap();
        assert_eq!(snapshot.meta.last_log_id.map(|id| id.index), Some(5));
        machine.0.apply(&[entry(6)]).unwrap();

        let again = open(&disk.restart(1));
        let found = again.state.view().unwrap();
        assert_eq!((found.applied_index(), count(&found)), (5, 5));
    }
}
