//! The handle of one shard's Raft: start, propose, read, transfer, stop.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, InitializeError, LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use openraft::{Config, EmptyNode, Raft, SnapshotPolicy};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use super::apply::{Snapshot, SnapshotData, StateMachine};
use super::leadership::{self, Leadership, RaftStatus};
use super::log_adapter::LogAdapter;
use super::network::Network;
use super::types::{EntryData, TypeConfig};
use super::{Machine, ProposeError, RaftConfig, StartError, bootstrap, network, runtime, snapshot};
use crate::peer::{PeerClient, RaftHandler};
use crate::seams::{BoxStream, Random, Seams, Urgency, Worker};
use crate::storage::{Fatal, Folder, LogCounts, LogStore, Opened, StateStore, SyncTimes};
use crate::txn::{ENTRY_BYTES_MAX, Reply};

/// How many entries openraft puts into one message: of the largest, they still fit a frame of the peer port.
const MESSAGE_ENTRIES_MAX: u64 = 16;

/// What a shard runs on.
pub struct Parts<M> {
    /// The open data folder.
    pub opened: Opened,
    /// What the entries mean.
    pub machine: M,
    /// The dialling end of the peer port.
    pub peers: PeerClient,
    /// Clock and storage executor.
    pub seams: Seams,
}

/// One shard's Raft. Clones are handles to the same one.
#[derive(Clone)]
pub struct RaftGroup(Arc<Inner>);

struct Inner {
    raft: Raft<TypeConfig, StateMachine>,
    machine: StateMachine,
    config: RaftConfig,
    id: u64,
    members: BTreeSet<u64>,
    state: StateStore,
    log: LogStore,
    folder: Arc<Folder>,
    fatal: Fatal,
    peers: PeerClient,
    leadership: watch::Receiver<Leadership>,
    snapshot_worker: Box<dyn Worker>,
    // One snapshot at a time: each takes as much of the disk as the state.
    snapshot_room: Arc<Semaphore>,
    tasks: std::sync::Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for RaftGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftGroup").field("id", &self.0.id).finish_non_exhaustive()
    }
}

impl RaftConfig {
    fn to_openraft(&self, name: String) -> Result<Config, StartError> {
        let ms = |d: Duration| d.as_millis() as u64;
        let config = Config {
            cluster_name: name,
            heartbeat_interval: ms(self.heartbeat),
            election_timeout_min: ms(self.election_min),
            election_timeout_max: ms(self.election_max),
            max_payload_entries: MESSAGE_ENTRIES_MAX,
            // A snapshot is a checkpoint, and those have a rhythm of their own: `keep_snapshots` tells of them.
            snapshot_policy: SnapshotPolicy::Never,
            replication_lag_threshold: self.snapshot_entries.saturating_mul(2),
            max_in_snapshot_log_to_keep: self.keep_entries,
            purge_batch_size: 256,
            install_snapshot_timeout: ms(self.snapshot_stall),
            enable_pre_vote: Some(true),
            // Followers write while the leader does, not after it.
            broadcast_submitted_on_append: Some(true),
            // SUBTLE: therefore followers may hold, and have committed, entries that a leader that was killed has lost.
            // If it led on in the same term it would write other entries under the same ids, and the logs would
            // differ for ever without anybody noticing. Elected anew, it leads only with a log as long as a majority's.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        config.validate().map_err(|error| StartError::Config(error.to_string()))
    }
}

impl RaftGroup {
    /// Starts the shard of node `id` among `members`: reloads the machine, replays what was committed, and joins or
    /// initialises the group in the background.
    pub async fn start<M: Machine>(
        config: RaftConfig,
        id: u64,
        members: BTreeMap<u64, ()>,
        parts: Parts<M>,
    ) -> Result<Self, StartError> {
        let Parts { opened, machine, peers, seams } = parts;
        let Opened { folder, state, log, fatal, .. } = opened;
        let identity = folder.identity();
        let core_config = Arc::new(config.to_openraft(format!("{}/{}", identity.cluster, identity.dc))?);
        let machine = StateMachine::new(
            Box::new(machine),
            state.clone(),
            folder.clone(),
            seams.executor.worker("state", Urgency::Foreground),
            seams.clock.clone(),
            fatal.clone(),
            &config,
        );
        let core = |error: &dyn std::fmt::Display| StartError::Core(error.to_string());
        machine.reset().await.map_err(|error| core(&error))?;
        let network = Network {
            me: id,
            peers: peers.clone(),
            append_limit: config.election_min,
            snapshot_stall: config.snapshot_stall,
        };
        let raft = Raft::new(id, core_config, network, LogAdapter(log.clone()), machine.clone());
        let raft = runtime::with_random(seams.random.clone(), raft).await;
        let raft = raft.map_err(|error| core(&error))?;
        let (tx, leadership) = watch::channel(Leadership::default());
        let group = Self(Arc::new(Inner {
            raft: raft.clone(),
            machine: machine.clone(),
            id,
            members: members.into_keys().collect(),
            state,
            log,
            folder,
            fatal: fatal.clone(),
            peers,
            leadership,
            snapshot_worker: seams.executor.worker("snapshot", Urgency::Background),
            snapshot_room: Arc::new(Semaphore::new(1)),
            tasks: std::sync::Mutex::default(),
            config: config.clone(),
        }));
        group.spawn(keep_snapshots(raft.clone(), machine.clone()));
        group.spawn(leadership::follow(raft, tx, config.election_max, config.heartbeat, fatal));
        group.spawn(keep_checkpoints(machine, config.checkpoint_interval, seams.random.clone()));
        group.spawn(bootstrap::run(group.clone()));
        Ok(group)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.tasks.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).spawn(task);
    }

    /// Proposes an entry once the log has room for it, and waits until it is applied here. Each is bounded by the
    /// configuration's `propose_limit`, the second also by the loss of the majority.
    pub async fn propose(&self, entry: Bytes) -> Result<Reply, ProposeError> {
        if entry.len() > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge);
        }
        // Others may have on disk what this node's does not take: nothing else would hold up what comes.
        let room = self.0.log.room(self.0.config.log_backlog_max);
        timeout(self.0.config.propose_limit, room).await.map_err(|_| ProposeError::DiskBehind)?;
        self.can_propose()?;
        let writing = self.0.raft.client_write(EntryData(entry));
        tokio::select! {
            biased;
            written = writing => written.map(|done| done.data).map_err(|error| match error {
                RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                    ProposeError::NotLeader { leader: to.leader_id }
                }
                RaftError::APIError(_) | RaftError::Fatal(_) => ProposeError::Unknown,
            }),
            () = self.quorum_lost() => Err(ProposeError::Unknown),
            () = sleep(self.0.config.propose_limit) => Err(ProposeError::Unknown),
        }
    }

    /// Whether a proposal would be taken now.
    pub fn can_propose(&self) -> Result<(), ProposeError> {
        let metrics = self.0.raft.metrics();
        let m = metrics.borrow_watched();
        let now = leadership::leadership(&m, self.0.config.election_max);
        match now.leader {
            _ if m.running_state.is_err() => Err(ProposeError::Stopped),
            Some(leader) if leader == self.0.id => {
                if now.quorum {
                    Ok(())
                } else {
                    Err(ProposeError::NoQuorum)
                }
            }
            leader => Err(ProposeError::NotLeader { leader }),
        }
    }

    /// Returns when this node no longer leads a majority.
    async fn quorum_lost(&self) {
        let mut watched = self.0.leadership.clone();
        // The watch may not have caught up yet with a leadership that is brand new.
        sleep(self.0.config.heartbeat).await;
        let lost = |now: &Leadership| now.leader != Some(self.0.id) || !now.quorum;
        let _ = watched.wait_for(lost).await;
        // A deposed leader's entry may still come through the new leader: give that a moment before giving up.
        sleep(self.0.config.election_min).await;
    }

    /// Who leads, as it changes.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// Who leads now.
    pub fn leadership_now(&self) -> Leadership {
        *self.0.leadership.borrow()
    }

    /// The index that must be applied on a node before a read there is linearizable. Only the leader knows it; it
    /// asks a majority whether it still leads.
    pub async fn read_index(&self, deadline: Duration) -> Result<u64, ProposeError> {
        self.can_propose()?;
        match timeout(deadline, self.0.raft.get_read_linearizer(ReadPolicy::ReadIndex)).await {
            Err(_) => Err(ProposeError::NoQuorum),
            Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
                Err(ProposeError::NotLeader { leader: to.leader_id })
            }
            Ok(Err(RaftError::APIError(_))) => Err(ProposeError::NoQuorum),
            Ok(Err(RaftError::Fatal(_))) => Err(ProposeError::Stopped),
        }
    }

    /// Waits until this node has applied `index`; false when `deadline` passes first.
    #[cfg(test)]
    pub(super) async fn wait_applied(&self, index: u64, deadline: Duration) -> bool {
        let wait = self.0.raft.wait(Some(deadline));
        wait.applied_index_at_least(Some(index), "a reader waits").await.is_ok()
    }

    /// Waits until this node, after a restart, has applied everything that may have been committed before; false when
    /// `deadline` passes first. Before that its reads may be older than what it has served already.
    #[cfg(test)]
    pub(super) async fn wait_recovered(&self, deadline: Duration) -> bool {
        self.0.raft.wait_for_recovery(Some(deadline)).await.is_ok()
    }

    /// Asks `to` to take over; leadership tells whether it did.
    pub async fn transfer_leadership(&self, to: u64) -> Result<(), ProposeError> {
        self.0.raft.trigger().transfer_leader(to).await.map_err(|_| ProposeError::Stopped)
    }

    /// How this shard's Raft is doing.
    pub fn status(&self) -> RaftStatus {
        leadership::status(&self.0.raft.metrics().borrow_watched())
    }

    /// The state of this shard, for views.
    pub fn state(&self) -> &StateStore {
        &self.0.state
    }

    /// What this node has written to its log.
    pub fn log_counts(&self) -> LogCounts {
        self.0.log.counts()
    }

    /// How long its batches took to be written and synced, in microseconds.
    pub fn log_sync_us(&self) -> SyncTimes {
        self.0.log.sync_us()
    }

    /// Where a failure that must stop the process is told.
    pub fn fatal(&self) -> &Fatal {
        &self.0.fatal
    }

    /// Makes a checkpoint now, behind which the log may go.
    #[cfg(test)]
    pub(super) async fn checkpoint_now(&self) -> Result<(), ProposeError> {
        self.0.machine.checkpoint().await.map_err(|_| ProposeError::Stopped)
    }

    /// Up to which entry the state is on disk.
    #[cfg(test)]
    pub(super) fn durable_index(&self) -> u64 {
        self.0.state.durable().index()
    }

    /// Stops: no more proposals, one last checkpoint.
    pub async fn shutdown(&self) {
        if let Err(error) = self.0.raft.shutdown().await {
            tracing::warn!(%error, "the Raft core did not stop cleanly");
        }
        let mut tasks =
            std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(|poisoned| poisoned.into_inner()));
        tasks.shutdown().await;
        if self.0.fatal.told().is_none() {
            if let Err(error) = self.0.machine.checkpoint().await {
                tracing::warn!(%error, "the last checkpoint failed");
            }
            if let Err(error) = self.0.log.flush().await {
                tracing::warn!(%error, "the last write of the log failed");
            }
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.0.id
    }

    pub(super) fn members(&self) -> &BTreeSet<u64> {
        &self.0.members
    }

    pub(super) fn log(&self) -> &LogStore {
        &self.0.log
    }

    pub(super) fn peers(&self) -> &PeerClient {
        &self.0.peers
    }

    pub(super) async fn initialise(&self) -> Result<(), StartError> {
        let members: BTreeMap<u64, EmptyNode> = self.0.members.iter().map(|id| (*id, EmptyNode {})).collect();
        match self.0.raft.initialize(members).await {
            // Somebody's log has reached this node in the meantime: just as well.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(StartError::Core(error.to_string())),
        }
    }

    async fn receive_snapshot(&self, stream: &mut BoxStream) -> std::io::Result<()> {
        let Ok(room) = self.0.snapshot_room.clone().try_acquire_owned() else {
            return Err(std::io::Error::other("another snapshot is being received"));
        };
        let (stall, worker) = (self.0.config.snapshot_stall, self.0.snapshot_worker.as_ref());
        // The connection may end while the snapshot is being installed: the room is that one's until then.
        let incoming = self.0.folder.incoming()?.holding(room);
        let snapshot::Received { vote, meta, rows } =
            snapshot::receive(stream, incoming, worker, stall).await?;
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Received(Box::new(rows)) };
        let installing = self.0.raft.install_full_snapshot(vote, snapshot);
        tokio::pin!(installing);
        let mut alive = interval(stall / 4);
        loop {
            tokio::select! {
                installed = &mut installing => {
                    let installed = installed.map_err(std::io::Error::other)?;
                    return snapshot::reply(stream, Some(installed.vote), stall).await;
                }
                _ = alive.tick() => snapshot::reply(stream, None, stall).await?,
            }
        }
    }
}

impl RaftHandler for RaftGroup {
    fn rpc(&self, _from: u64, request: Bytes) -> BoxFuture<'_, Bytes> {
        Box::pin(async move { network::answer(&self.0.raft, &self.0.log, &request).await })
    }

    fn snapshot(&self, from: u64, mut stream: BoxStream) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            match self.receive_snapshot(&mut stream).await {
                Ok(()) => tracing::info!(from, "installed a Raft snapshot"),
                Err(error) => tracing::warn!(from, %error, "a Raft snapshot was not installed"),
            }
        })
    }
}

/// Makes a checkpoint now and then, also when no entries come that would: between three quarters of the interval and all of
/// it after the last one, so that nodes that were started together are not busy with it together.
async fn keep_checkpoints(machine: StateMachine, interval: Duration, random: Arc<dyn Random>) {
    loop {
        let more = (random.u64() % 256) as u32;
        let due = interval * 3 / 4 + interval / 4 * more / 256;
        sleep(due).await;
        // One that was made meanwhile because the log had grown counts too.
        while let Some(left) = due.checked_sub(machine.since_checkpoint()).filter(|left| !left.is_zero()) {
            sleep(left).await;
        }
        if machine.checkpoint().await.is_err() {
            // The failure has been told as fatal.
            return;
        }
    }
}

/// Tells the Raft core of each checkpoint that has covered [`RaftConfig::snapshot_entries`] more than the last snapshot, so that the log may
/// go behind it. None is made for its sake: where entries are small, so many of them come in seconds, and a checkpoint writes
/// whole pages.
async fn keep_snapshots(raft: Raft<TypeConfig, StateMachine>, machine: StateMachine) {
    let mut checkpoints = machine.checkpoints();
    loop {
        if machine.is_snapshot_due() && raft.trigger().snapshot().await.is_err() {
            // The core has stopped.
            return;
        }
        if checkpoints.changed().await.is_err() {
            return;
        }
    }
}
