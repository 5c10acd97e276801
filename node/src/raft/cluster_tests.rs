//! Three nodes over loopback TCP: failover, restart from disk, catch-up by snapshot, wiped nodes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::test_machine::{Gate, TestMachine, all_rows, count};
use super::{KnownPeers, Parts, ProposeError, RaftConfig, RaftGroup};
use crate::peer::{PeerClient, PeerConfig, PeerHandler, PeerIdentity, PeerServer, Secret, serve};
use crate::seams::{BoxStream, Executor, Job, Seams, ThreadExecutor, Urgency, Worker, WorkerStopped};
use crate::storage::{Folder, FolderConfig, Identity, StorageError};

const LIMIT: Duration = Duration::from_secs(30);

struct NoForward;

impl PeerHandler for NoForward {
    fn forward(&self, _from: u64, request: Bytes) -> BoxFuture<'_, Bytes> {
        Box::pin(async move { request })
    }

    fn gossip(&self, _stream: BoxStream, _from: PeerIdentity) {}

    fn presence<'a>(&'a self, _from: &'a PeerIdentity, request: Bytes) -> BoxFuture<'a, Bytes> {
        Box::pin(async move { request })
    }
}

type Addrs = Arc<Mutex<BTreeMap<u64, String>>>;

struct Node {
    group: RaftGroup,
    peers: PeerClient,
    server: PeerServer,
}

impl Node {
    async fn stop(self) {
        self.group.shutdown().await;
        self.server.shutdown().await;
    }
}

/// Threads as in production, but what is written to the log passes a gate.
struct GatedLog(Arc<Gate>);

struct GatedWorker {
    worker: Box<dyn Worker>,
    gate: Arc<Gate>,
}

impl Executor for GatedLog {
    fn worker(&self, name: &str, urgency: Urgency) -> Box<dyn Worker> {
        let worker = ThreadExecutor.worker(name, urgency);
        if name == "log" { Box::new(GatedWorker { worker, gate: self.0.clone() }) } else { worker }
    }
}

impl Worker for GatedWorker {
    fn submit(&self, job: Job) -> Result<(), WorkerStopped> {
        let gate = self.gate.clone();
        self.worker.submit(Box::new(move || {
            gate.pass();
            job();
        }))
    }
}

struct Cluster {
    dir: tempfile::TempDir,
    addrs: Addrs,
    members: u64,
    config: RaftConfig,
    /// What all nodes apply passes it.
    gate: Arc<Gate>,
    /// What each writes to its log passes its own.
    disks: BTreeMap<u64, Arc<Gate>>,
    nodes: BTreeMap<u64, Node>,
}

impl Cluster {
    async fn start(members: u64, config: RaftConfig) -> Self {
        let addrs = Addrs::default();
        let dir = tempfile::tempdir().unwrap();
        let disks = (1..=members).map(|id| (id, Arc::default())).collect();
        let mut cluster =
            Self { dir, addrs, members, config, gate: Arc::default(), disks, nodes: BTreeMap::new() };
        for id in 1..=members {
            cluster.start_node(id).await;
        }
        cluster
    }

    fn folder(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    async fn start_node(&mut self, id: u64) {
        let executor = Arc::new(GatedLog(self.disks[&id].clone()));
        let seams = Seams { executor, ..Seams::production() };
        let identity = Identity { cluster: "c".into(), dc: "eu".into(), node: id };
        let config = FolderConfig::new(self.folder(id), identity);
        // The last of a stopped node's tasks may still hold its folder for a moment.
        let opening = async {
            loop {
                match Folder::open(config.clone(), &seams) {
                    Err(StorageError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                    opened => return opened.unwrap(),
                }
            }
        };
        let opened = timeout(LIMIT, opening).await.unwrap();
        let me = PeerIdentity {
            cluster: "c".into(),
            dc: "eu".into(),
            node: id,
            store_id: opened.folder.store_id(),
        };
        let known = KnownPeers::new("eu", opened.log.clone());
        let config = PeerConfig {
            me,
            secret: Secret::new("secret"),
            handshake_limit: Duration::from_secs(3),
            admission: Arc::new(known),
        };
        let addrs = self.addrs.clone();
        let resolver = Arc::new(move |node: u64| addrs.lock().unwrap().get(&node).cloned());
        let peers = PeerClient::new(config.clone(), seams.clone(), resolver);
        let listener = seams.net.listen("127.0.0.1:0").await.unwrap();
        self.addrs.lock().unwrap().insert(id, listener.local_addr().unwrap().to_string());
        let machine = TestMachine::behind(self.gate.clone());
        let parts = Parts { opened, machine, peers: peers.clone(), seams: seams.clone() };
        let members = (1..=self.members).map(|id| (id, ())).collect();
        let group = RaftGroup::start(self.config.clone(), id, members, parts).await.unwrap();
        let server = serve(listener, config, &seams, Arc::new(NoForward), Arc::new(group.clone()));
        self.nodes.insert(id, Node { group, peers, server });
    }

    async fn stop_node(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap().stop().await;
    }

    async fn leader(&self) -> u64 {
        let any = async {
            loop {
                let waits = self.nodes.iter().map(|(id, node)| {
                    let mut leadership = node.group.leadership();
                    Box::pin(async move { leadership.wait_for(|now| now.leading).await.map(|_| *id) })
                });
                if let (Ok(id), ..) = futures_util::future::select_all(waits).await {
                    return id;
                }
            }
        };
        timeout(LIMIT, any).await.unwrap()
    }

    /// Proposes until somebody takes it.
    async fn put(&self, row: &str) {
        loop {
            let leader = self.leader().await;
            match self.nodes[&leader].group.propose(Bytes::copy_from_slice(row.as_bytes())).await {
                Ok(_) => return,
                Err(ProposeError::NotLeader { .. } | ProposeError::NoQuorum | ProposeError::Unknown) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn wait_equal(&self, rows: usize) {
        let leader = self.leader().await;
        let index = self.nodes[&leader].group.read_index(LIMIT).await.unwrap();
        for node in self.nodes.values() {
            assert!(node.group.wait_applied(index, LIMIT).await);
            let view = node.group.state().view();
            assert_eq!(all_rows(&view).len(), rows);
            assert_eq!(count(&view), rows as u64);
        }
    }
}

fn quick() -> RaftConfig {
    RaftConfig {
        heartbeat: Duration::from_millis(80),
        election_min: Duration::from_millis(400),
        election_max: Duration::from_millis(800),
        ..RaftConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_serves_at_once_and_finds_everything_after_a_restart() {
    let mut cluster = Cluster::start(1, quick()).await;
    for i in 0..20 {
        cluster.put(&format!("row {i}")).await;
    }
    cluster.wait_equal(20).await;
    cluster.stop_node(1).await;
    cluster.start_node(1).await;
    assert!(cluster.nodes[&1].group.wait_recovered(LIMIT).await);
    cluster.wait_equal(20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_after_the_leader_is_gone_and_it_catches_up_when_it_returns() {
    let mut cluster = Cluster::start(3, quick()).await;
    for i in 0..20 {
        cluster.put(&format!("before {i}")).await;
    }
    cluster.wait_equal(20).await;
    let leader = cluster.leader().await;
    cluster.stop_node(leader).await;
    for i in 0..20 {
        cluster.put(&format!("without {i}")).await;
    }
    cluster.start_node(leader).await;
    cluster.wait_equal(40).await;
    for id in 1..=3 {
        cluster.stop_node(id).await;
    }
    for id in 1..=3 {
        cluster.start_node(id).await;
    }
    cluster.wait_equal(40).await;
}

/// Symptom: after `kill -9` and a quick restart of a leader under load, its followers held other contents than it, for
/// ever. Mechanism: followers get entries before they are on the leader's disk; the leader lost its last ones, led on in
/// its old term, and wrote others under the same ids. Fix: a leader that returns has to be elected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_returns_at_once_leads_only_in_a_later_term() {
    let mut cluster = Cluster::start(3, quick()).await;
    cluster.put("row").await;
    cluster.wait_equal(1).await;
    let leader = cluster.leader().await;
    let term = cluster.nodes[&leader].group.status().term;
    cluster.stop_node(leader).await;
    cluster.start_node(leader).await;
    let next = cluster.leader().await;
    let status = cluster.nodes[&next].group.status();
    assert!(status.term > term, "node {next} leads in term {} after {term}", status.term);
    cluster.put("another").await;
    cluster.wait_equal(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_the_log_gets_all_rows_in_a_snapshot() {
    let config = RaftConfig { snapshot_entries: 50, keep_entries: 1, ..quick() };
    let mut cluster = Cluster::start(3, config).await;
    cluster.put("first").await;
    cluster.wait_equal(1).await;
    let leader = cluster.leader().await;
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    cluster.stop_node(follower).await;
    for i in 0..400 {
        cluster.put(&format!("row {i:04}")).await;
    }
    let leader = cluster.leader().await;
    let group = &cluster.nodes[&leader].group;
    group.checkpoint_now().await.unwrap();
    // The log is cut when an acknowledgement finds that nothing of it is on its way to anybody. An attempt to reach the
    // follower that is down may be on its way at that moment; the next write's acknowledgement looks again.
    let mut rows = 401;
    let purged = async {
        while group.status().purged < 300 {
            cluster.put(&format!("row {rows:04}")).await;
            rows += 1;
        }
    };
    timeout(LIMIT, purged).await.unwrap();
    cluster.start_node(follower).await;
    cluster.wait_equal(rows).await;
    cluster.stop_node(follower).await;
    cluster.start_node(follower).await;
    cluster.put("last").await;
    cluster.wait_equal(rows + 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_majority_refuses_and_never_hangs() {
    let mut cluster = Cluster::start(3, quick()).await;
    cluster.put("row").await;
    let leader = cluster.leader().await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.stop_node(id).await;
    }
    let group = &cluster.nodes[&leader].group;
    let first = timeout(Duration::from_secs(5), group.propose(Bytes::from_static(b"lost"))).await.unwrap();
    assert!(matches!(first, Err(ProposeError::Unknown | ProposeError::NoQuorum)), "{first:?}");
    timeout(LIMIT, group.leadership().wait_for(|now| !now.quorum)).await.unwrap().unwrap();
    let second = group.propose(Bytes::from_static(b"lost")).await;
    assert!(matches!(second, Err(ProposeError::NoQuorum | ProposeError::NotLeader { .. })), "{second:?}");
    assert!(group.read_index(Duration::from_secs(1)).await.is_err());
}

/// Story: more is proposed than can be applied in time. Whoever waits is told that the outcome is not known, and the write is
/// done all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_applied_in_time_has_an_unknown_outcome_and_stands() {
    let limit = Duration::from_millis(100);
    let cluster = Cluster::start(1, RaftConfig { propose_limit: limit, ..quick() }).await;
    cluster.put("before").await;
    cluster.gate.close();
    let group = &cluster.nodes[&1].group;
    let late = timeout(LIMIT, group.propose(Bytes::from_static(b"late"))).await.unwrap();
    assert!(matches!(late, Err(ProposeError::Unknown)), "{late:?}");
    cluster.gate.open();
    cluster.wait_equal(2).await;
}

/// Story: the leader's disk hangs. What the others have on theirs is committed and answered, but the leader takes no more than a
/// bounded number of bytes that it has not on its own; and it goes on when its disk does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_hangs_takes_only_so_much() {
    const ROW_BYTES: usize = 50_000;
    const BACKLOG_MAX: u64 = 1 << 20;
    let limit = Duration::from_millis(500);
    let config = RaftConfig { propose_limit: limit, log_backlog_max: BACKLOG_MAX, ..quick() };
    let cluster = Cluster::start(3, config).await;
    cluster.put("before").await;
    let leader = cluster.leader().await;
    let group = &cluster.nodes[&leader].group;
    cluster.disks[&leader].close();
    let row = |n: u64| Bytes::from(format!("{n:0ROW_BYTES$}"));
    let mut done = 0;
    let refused = loop {
        match timeout(LIMIT, group.propose(row(done))).await.unwrap() {
            Ok(_) => done += 1,
            Err(error) => break error,
        }
        assert!(done < 100, "nothing holds it up");
    };
    assert!(matches!(refused, ProposeError::DiskBehind), "{refused:?}");
    let backlog = group.log_counts().backlog;
    assert!((BACKLOG_MAX..BACKLOG_MAX + 2 * ROW_BYTES as u64).contains(&backlog), "{backlog}");
    assert!(done >= BACKLOG_MAX / ROW_BYTES as u64, "{done}");
    cluster.disks[&leader].open();
    timeout(LIMIT, group.propose(row(done))).await.unwrap().unwrap();
    cluster.wait_equal(done as usize + 2).await;
    timeout(LIMIT, group.log().room(0)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_where_it_is_asked_to() {
    let cluster = Cluster::start(3, quick()).await;
    cluster.put("row").await;
    cluster.wait_equal(1).await;
    let leader = cluster.leader().await;
    let to = (1..=3).find(|id| *id != leader).unwrap();
    cluster.nodes[&leader].group.transfer_leadership(to).await.unwrap();
    let mut there = cluster.nodes[&to].group.leadership();
    timeout(LIMIT, there.wait_for(|now| now.leading)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_refused_under_its_old_id() {
    let mut cluster = Cluster::start(3, quick()).await;
    cluster.put("row").await;
    cluster.wait_equal(1).await;
    let leader = cluster.leader().await;
    let wiped = (1..=3).find(|id| *id != leader).unwrap();
    // Everybody has met everybody: a forwarded request needs a handshake of its own.
    for (from, to) in [(leader, wiped), (wiped, leader)] {
        cluster.nodes[&from].peers.forward(to, Bytes::from_static(b"x"), LIMIT).await.unwrap();
    }
    cluster.stop_node(wiped).await;
    std::fs::remove_dir_all(cluster.folder(wiped)).unwrap();
    cluster.start_node(wiped).await;
    cluster.put("another").await;
    let refused = cluster.nodes[&wiped].peers.forward(leader, Bytes::from_static(b"x"), LIMIT).await;
    let why = refused.unwrap_err().to_string();
    assert!(why.contains("wiped"), "{why}");
    let told = timeout(LIMIT, cluster.nodes[&wiped].group.fatal().wait()).await.unwrap();
    assert!(told.contains("new id"), "{told}");
    let view = cluster.nodes[&wiped].group.state().view();
    assert!(all_rows(&view).is_empty());
}

/// Story: very many small entries come between two checkpoints. Each checkpoint writes whole pages, so none is made on their account; the
/// next one lets the log go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_goes_behind_the_next_checkpoint_however_many_entries_come_before_it() {
    let hour = Duration::from_secs(3_600);
    let config = RaftConfig { snapshot_entries: 50, keep_entries: 1, checkpoint_interval: hour, ..quick() };
    let cluster = Cluster::start(1, config).await;
    let leader = cluster.leader().await;
    let group = &cluster.nodes[&leader].group;
    let durable = group.durable_index();
    for i in 0..300 {
        cluster.put(&format!("row {i:04}")).await;
    }
    assert_eq!(group.durable_index(), durable, "a checkpoint was made for them");
    group.checkpoint_now().await.unwrap();
    let mut rows = 300;
    let purged = async {
        while group.status().purged < 250 {
            cluster.put(&format!("row {rows:04}")).await;
            rows += 1;
        }
    };
    timeout(LIMIT, purged).await.unwrap();
}
