//! A running node: puts the parts together in order, and takes them apart again.
//!
//! Order matters. Both ports are bound before the data folder is touched, so that a port in use changes nothing; the
//! client port is served from the first moment, so that health can be asked while the node recovers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use meridian_client::wire::token::cluster_id;
use meridian_crdt::hlc::Clock;
use meridian_gossip::{GossipConfig, Identity as GossipIdentity};
use thiserror::Error;
use tokio::sync::{mpsc, watch};

use crate::api::{self, Api, ApiBounds, Metrics, RequestLimits, ServeBounds, SessionBounds, VersionBounds};
use crate::config::Config;
use crate::count::Count;
use crate::docs::presence::{self, Neighbours, PeerPort, Presence};
use crate::docs::{DocBounds, Docs};
use crate::peer::{self, PeerClient, PeerConfig, PeerIdentity, Secret};
use crate::raft::{KnownPeers, Parts, RaftConfig, RaftGroup, StartError};
use crate::seams::{Listener, Seams};
use crate::shard::Shard;
use crate::shard::clock::{ClockGuard, SteadyClock};
use crate::shard::health::Health;
use crate::shard::host::ShardHost;
use crate::shard::keeper::Keeper;
use crate::shard::machine::ShardMachine;
use crate::shard::open::{TransactionBounds, Transactions};
use crate::shard::proposer::{Proposer, ProposerBounds};
use crate::shard::published::Publisher;
use crate::shard::write_room::WriteRoom;
use crate::storage::{Folder, FolderConfig, Identity, Opened, StorageError};
use crate::txn::InteractiveBounds;
use crate::watch::{WatchBounds, Watches};

/// How long a handshake on the peer port may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(3);

/// What `serve` was told beside the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServeOptions {
    /// Whether faults may be injected through the client port.
    pub allow_faults: bool,
}

/// Why a node did not start, or had to stop.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A port cannot be listened on.
    #[error("cannot listen on {addr}: {error}; is another process using the port?")]
    Listen {
        /// The address.
        addr: String,
        /// What the operating system said.
        error: std::io::Error,
    },
    /// The data folder cannot be opened.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// The shard did not start.
    #[error("{0}")]
    Start(#[from] StartError),
    /// A durable write failed while the node ran. What was acknowledged is safe; what this disk holds from now on is
    /// not known.
    #[error("storage failed and the node stops: {0}")]
    Fatal(String),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals: {0}")]
    Signal(std::io::Error),
}

/// Runs a node until SIGINT or SIGTERM.
pub async fn serve(config: Config, options: ServeOptions) -> Result<(), ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signal)?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run(config, options, Seams::production(), stop.boxed()).await
}

/// Runs a node over the given seams until `stop` ends or storage fails.
pub async fn run(
    config: Config,
    options: ServeOptions,
    seams: Seams,
    stop: BoxFuture<'static, ()>,
) -> Result<(), ServeError> {
    let client_port = listen(&seams, &config.node.client_listen).await?;
    let peer_port = listen(&seams, &config.node.peer_listen).await?;
    let node = Node::start(&config, &options, &seams, client_port, peer_port).await?;
    tracing::info!(
        cluster = %config.cluster.name, dc = %config.dc, node = config.node.id,
        client = %config.node.client_listen, peer = %config.node.peer_listen, "serving"
    );
    node.until(stop).await
}

/// Listens on an address of the configuration.
pub(crate) async fn listen(seams: &Seams, addr: &str) -> Result<Box<dyn Listener>, ServeError> {
    seams.net.listen(addr).await.map_err(|error| ServeError::Listen { addr: addr.to_owned(), error })
}

/// A node whose parts run.
pub(crate) struct Node {
    shard: Arc<Shard>,
    fatal: crate::storage::Fatal,
    stop: watch::Sender<bool>,
    client_port: tokio::task::JoinHandle<()>,
    keeper: tokio::task::JoinHandle<()>,
    versions: tokio::task::JoinHandle<()>,
    presence: tokio::task::JoinHandle<()>,
    _peer_port: peer::PeerServer,
}

impl Node {
    /// Starts the parts on ports that are bound already.
    pub(crate) async fn start(
        config: &Config,
        options: &ServeOptions,
        seams: &Seams,
        client_port: Box<dyn Listener>,
        peer_port: Box<dyn Listener>,
    ) -> Result<Self, ServeError> {
        let opened = Folder::open(folder_config(config), seams)?;
        let (folder, store, fatal) = (opened.folder.clone(), opened.state.clone(), opened.fatal.clone());
        let peer_config = peer_config(config, &opened);
        let peers = peer_client(config, &peer_config, seams);
        let publisher = Arc::new(Publisher::new(config.node.id, !config.remotes.is_empty()));
        let machine = ShardMachine::new(publisher.clone());
        let members: BTreeMap<u64, ()> = config.peers.keys().map(|id| (*id, ())).collect();
        let parts = Parts { opened, machine, peers: peers.clone(), seams: seams.clone() };
        let raft = RaftGroup::start(raft_config(config), config.node.id, members, parts).await?;
        let raft_port = Arc::new(raft.clone());
        let raft = Arc::new(raft);
        let clock = Arc::new(Mutex::new(Clock::restore(0)));
        let steady = Arc::new(SteadyClock::new(seams.clock.clone(), ms(config.clock.max_clock_drift)));
        let steady_seams = Seams { clock: steady.clone(), ..seams.clone() };
        let proposer = Proposer::start(raft.clone(), &steady_seams, clock.clone(), proposer_bounds(config));
        let (lost_tail, lost_tail_told) = mpsc::channel(1);
        let peers = Arc::new(peers);
        let room = watch::Sender::new(true);
        let host = Arc::new(ShardHost {
            publisher: publisher.clone(),
            proposer: proposer.clone(),
            store: store.clone(),
            clock: clock.clone(),
            drift_ms_max: ms(config.clock.max_clock_drift),
            peers: peers.clone(),
            remotes: config.remotes.clone(),
            seams: steady_seams,
            lost_tail,
            room: room.subscribe(),
        });
        let gossip = meridian_gossip::start(gossip_identity(config), gossip_config(config), host);
        let stop = watch::Sender::new(false);
        let shard = Arc::new(Shard {
            dc: config.dc.clone(),
            node: config.node.id,
            raft,
            store,
            folder,
            publisher,
            proposer,
            write_room: WriteRoom::new(config.limits.writing_max.as_usize()),
            peers,
            seams: seams.clone(),
            gossip,
            lag: watch::Sender::default(),
            ready: watch::Sender::new(false),
            health: Health::default(),
            room,
            transactions: Transactions::new(transaction_bounds(config)),
            watches: Arc::new(Watches::new(
                cluster_id(&config.cluster.name),
                watch_bounds(config),
                stop.subscribe(),
            )),
        });
        let keeper = Keeper {
            shard: shard.clone(),
            clock,
            members: config.remotes.keys().cloned().collect(),
            lost_tail: lost_tail_told,
            tidy_rows_max: u32::try_from(config.storage.sweep_cells_max).unwrap_or(u32::MAX),
            compact_rows_min: config.documents.compact_rows_min,
            clock_guard: clock_guard(config, steady),
            scrub_interval: config.storage.scrub_interval,
            disk_check: config.storage.disk_check_interval,
        };
        let keeper = tokio::spawn(keeper.run(stop.subscribe()));
        let neighbours = neighbours(config, &shard.peers);
        let who_is_there = Presence::new(&config.dc, config.node.id, seams, neighbours);
        let presence = tokio::spawn(presence::run(who_is_there.clone(), stop.subscribe()));
        let docs = Docs::new(shard.clone(), doc_bounds(config), who_is_there);
        let answers = Arc::new(PeerPort(docs.clone()));
        let api = make_api(config, options, shard.clone(), docs);
        let versions = tokio::spawn(api::docs::versions::keep(api.clone(), stop.subscribe()));
        let router = api::router(api);
        let client_port =
            tokio::spawn(api::serve(client_port, router, serve_bounds(config), stop.subscribe()));
        let peer_port = peer::serve(peer_port, peer_config, seams, answers, raft_port);
        Ok(Self { shard, fatal, stop, client_port, keeper, versions, presence, _peer_port: peer_port })
    }

    /// Turns true when everything that was committed is applied here, and stays so.
    pub(crate) fn ready(&self) -> watch::Receiver<bool> {
        self.shard.ready.subscribe()
    }

    /// Runs until `stop` ends or storage fails, and takes the parts apart.
    pub(crate) async fn until(self, stop: impl Future<Output = ()>) -> Result<(), ServeError> {
        let ended = tokio::select! {
            () = stop => Ok(()),
            what = self.fatal.wait() => Err(ServeError::Fatal(what)),
        };
        tracing::info!("stopping");
        self.stop().await;
        ended
    }

    /// Stops in order: no new requests, no links, then the log.
    async fn stop(self) {
        self.stop.send_replace(true);
        for task in [self.client_port, self.keeper, self.versions, self.presence] {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the node failed");
            }
        }
        self.shard.gossip.shutdown().await;
        self.shard.raft.shutdown().await;
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn folder_config(config: &Config) -> FolderConfig {
    let identity =
        Identity { cluster: config.cluster.name.clone(), dc: config.dc.clone(), node: config.node.id };
    let mut folder = FolderConfig::new(&config.node.data_dir, identity);
    folder.state_cache_bytes = config.storage.state_cache.as_usize();
    folder.overlay_bytes = config.storage.overlay.as_usize();
    folder.log_segment_bytes = u32::try_from(config.storage.log_segment.bytes()).unwrap_or(u32::MAX);
    folder.headroom_bytes = config.storage.disk_headroom.bytes();
    folder
}

fn peer_config(config: &Config, opened: &Opened) -> PeerConfig {
    PeerConfig {
        me: PeerIdentity {
            cluster: config.cluster.name.clone(),
            dc: config.dc.clone(),
            node: config.node.id,
            store_id: opened.folder.store_id(),
        },
        secret: Secret::new(config.cluster.secret.clone()),
        handshake_limit: HANDSHAKE_LIMIT,
        admission: Arc::new(KnownPeers::new(config.dc.clone(), opened.log.clone())),
    }
}

fn peer_client(config: &Config, peer_config: &PeerConfig, seams: &Seams) -> PeerClient {
    let addrs = config.peers.clone();
    PeerClient::new(peer_config.clone(), seams.clone(), Arc::new(move |node| addrs.get(&node).cloned()))
}

fn raft_config(config: &Config) -> RaftConfig {
    RaftConfig {
        heartbeat: config.raft.heartbeat,
        election_min: config.raft.election_min,
        election_max: config.raft.election_max,
        snapshot_entries: config.raft.snapshot_every,
        keep_entries: config.raft.snapshot_every / 2,
        checkpoint_interval: config.storage.checkpoint_interval,
        checkpoint_log_bytes: config.storage.checkpoint_log.0,
        propose_limit: config.raft.propose_timeout,
        log_backlog_max: config.storage.log_backlog.0,
        snapshot_stall: config.raft.snapshot_timeout,
    }
}

fn clock_guard(config: &Config, steady: Arc<SteadyClock>) -> ClockGuard {
    ClockGuard {
        steady,
        others: config.peers.keys().copied().filter(|id| *id != config.node.id).collect(),
        drift_ms_max: ms(config.clock.max_clock_drift),
    }
}

fn proposer_bounds(config: &Config) -> ProposerBounds {
    ProposerBounds {
        queue_max: count(config.limits.in_flight_max),
        entry_bytes_max: config.raft.entry_bytes_max.as_usize(),
        entry_items_max: count(config.raft.entry_requests_max),
        entry_items_gathered: count(config.raft.entry_requests_gathered),
        entries_in_flight_max: count(config.raft.entries_in_flight_max),
    }
}

fn gossip_identity(config: &Config) -> GossipIdentity {
    GossipIdentity {
        cluster: u64::from(cluster_id(&config.cluster.name)),
        dc: config.dc.clone(),
        node: config.node.id,
        members: config
            .remotes
            .iter()
            .map(|(dc, nodes)| (dc.clone(), nodes.keys().copied().collect()))
            .collect(),
    }
}

fn gossip_config(config: &Config) -> GossipConfig {
    let ours = &config.gossip;
    let mut gossip = GossipConfig::default();
    gossip.heartbeat_ms = ms(ours.heartbeat);
    gossip.silence_ms_max = ms(ours.silence_max);
    gossip.backoff_ms_min = ms(ours.reconnect_min);
    gossip.backoff_ms_max = ms(ours.reconnect_max);
    gossip.connect_ms_max = ms(ours.connect_timeout);
    gossip.read_bytes_max = ours.message_bytes_max.bytes();
    gossip.credit_bytes = ours.link_credit_bytes.bytes();
    gossip.gate_bytes_max = ours.gate_bytes.bytes();
    gossip.relay_ms_min = ms(ours.relay_after);
    gossip.ack_interval_ms = ms(ours.ack_interval);
    gossip.report_interval_ms = ms(ours.stability_interval);
    gossip.clock_drift_ms_max = ms(config.clock.max_clock_drift);
    gossip
}

/// The other nodes, by datacenter, and the way to each.
fn neighbours(config: &Config, peers: &PeerClient) -> Vec<Neighbours> {
    let others = config.peers.keys().copied().filter(|id| *id != config.node.id).collect();
    let mut all = vec![Neighbours { dc: config.dc.clone(), nodes: others, client: peers.clone() }];
    for (dc, nodes) in &config.remotes {
        let addrs = nodes.clone();
        let client = peers.of_dc(dc, Arc::new(move |node| addrs.get(&node).cloned()));
        all.push(Neighbours { dc: dc.clone(), nodes: nodes.keys().copied().collect(), client });
    }
    all
}

fn make_api(config: &Config, options: &ServeOptions, shard: Arc<Shard>, docs: Arc<Docs>) -> Api {
    Api {
        shard,
        docs,
        access: Arc::new(config.access.clone()),
        metrics: Arc::new(Metrics::default()),
        cluster: cluster_id(&config.cluster.name),
        bounds: ApiBounds {
            body_bytes_max: config.limits.body_max.as_usize(),
            request: request_limits(config),
            body_timeout: config.limits.read_timeout,
            page_max: count(config.limits.page_max),
            in_flight_max: count(config.limits.in_flight_max),
            wait_default: config.sessions.wait_default,
            wait_max: config.sessions.wait_max,
            request_timeout: config.limits.request_timeout,
            session: session_bounds(config),
            versions: VersionBounds {
                interval: config.documents.version_interval,
                kept: count(config.documents.versions_kept),
                named_max: count(config.documents.versions_named_max),
            },
        },
        in_flight: Count::default(),
        allow_faults: options.allow_faults,
    }
}

fn doc_bounds(config: &Config) -> DocBounds {
    let documents = &config.documents;
    DocBounds {
        rooms_max: count(documents.rooms_max),
        editors_max: count(documents.editors_max),
        update_bytes_max: config.limits.value_max.as_usize(),
        doc_bytes_max: documents.bytes_max.as_usize(),
        idle: documents.idle,
        keep_alive: documents.keep_alive,
        unheard: documents.unheard,
        write_timeout: documents.write_timeout,
        fanout: documents.fanout,
        gather: documents.gather,
    }
}

fn session_bounds(config: &Config) -> SessionBounds {
    SessionBounds {
        frame_bytes_max: config.limits.body_max.as_usize(),
        in_flight_max: count(config.sessions.in_flight_max),
        ping_interval: config.sessions.ping_interval,
        hello_timeout: config.limits.read_timeout,
        drain_timeout: config.limits.drain_timeout,
        txn_life: config.transactions.life_max,
        watch_slow_after: config.watch.slow_after,
    }
}

/// A bound from the configuration as a number of things in memory.
fn count(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn watch_bounds(config: &Config) -> WatchBounds {
    WatchBounds {
        watches_max: count(config.watch.watches_max),
        chunk_bytes: config.watch.chunk_bytes.as_usize(),
        progress_interval: config.watch.progress_interval,
        keep_alive: config.watch.keep_alive,
    }
}

fn request_limits(config: &Config) -> RequestLimits {
    let limits = &config.limits;
    RequestLimits {
        key_bytes_max: limits.key_max.as_usize(),
        value_bytes_max: limits.value_max.as_usize(),
        depth_max: count(limits.depth_max),
        ops_max: count(limits.txn_ops_max),
        txn_bytes_max: limits.txn_bytes_max.as_usize(),
        elements_max: count(limits.elements_max),
    }
}

fn transaction_bounds(config: &Config) -> TransactionBounds {
    TransactionBounds {
        open_max: count(config.transactions.open_max),
        life_ms: ms(config.transactions.life_max),
        memory_bytes_max: config.transactions.memory_max.as_usize(),
        each: InteractiveBounds {
            ops_max: count(config.limits.txn_ops_max),
            bytes_max: config.limits.txn_bytes_max.as_usize(),
        },
    }
}

fn serve_bounds(config: &Config) -> ServeBounds {
    ServeBounds {
        connections_max: count(config.limits.connections_max),
        read_timeout: config.limits.read_timeout,
        drain_timeout: config.limits.drain_timeout,
    }
}

#[cfg(test)]
mod tests;
