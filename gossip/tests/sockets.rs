//! The driver over real sockets on loopback: in-process DCs replicate, are cut, and heal.
//!
//! The model of a DC here is a single node whose log is a mutex; time is real, so every wait polls a condition under one
//! generous limit.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use meridian_crdt::{Add, Dot, KeyEffect, OriginName, Txn, TxnHead, Vector, txn_hash};
use meridian_gossip::{
    BoxStream, GossipConfig, GossipHandle, Host, HostError, Identity, OplogChunk, Remote, RemoteOutcome,
    View, start,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use uuid::Uuid;

const WAIT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Log {
    view: View,
    oplog: Vec<(Dot, Bytes)>,
    tips: BTreeMap<meridian_crdt::Origin, u64>,
    own_deps: Vector,
    reports: usize,
}

impl Log {
    fn take(&mut self, dot: Dot, bytes: Bytes) {
        self.view.vector.advance(dot);
        self.tips.insert(dot.origin, txn_hash(&bytes));
        self.oplog.push((dot, bytes));
        self.view.oplog_end = self.oplog.len() as u64;
    }

    fn apply_txn(&mut self, bytes: Bytes) -> RemoteOutcome {
        let refused = |why: &str| RemoteOutcome::Refused { why: why.to_owned() };
        let Ok(Txn { head, .. }) = Txn::decode(&bytes) else { return refused("cannot be decoded") };
        if self.view.vector.covers(head.dot) {
            return RemoteOutcome::Duplicate;
        }
        if head.dot.seq != self.view.vector.get(head.dot.origin) + 1
            || !self.view.vector.covers_all(&head.deps)
        {
            return refused("a gap");
        }
        if head.prev != self.tips.get(&head.dot.origin).copied().unwrap_or(0) {
            return refused("the chain is broken");
        }
        self.take(head.dot, bytes);
        RemoteOutcome::Applied
    }
}

/// One DC of one node.
struct Model {
    dc: &'static str,
    log: Mutex<Log>,
    published: watch::Sender<Arc<View>>,
    addresses: Arc<Mutex<BTreeMap<String, SocketAddr>>>,
    /// While set, new connections fail and present ones are ended.
    cut: Arc<AtomicBool>,
    now_ms: AtomicU64,
}

impl Model {
    fn publish(&self, log: &Log) {
        self.published.send_replace(Arc::new(log.view.clone()));
    }

    fn write(&self, size: usize) {
        let mut log = self.log.lock().unwrap();
        let origin = log.view.own.as_ref().unwrap().origin();
        let dot = Dot::new(origin, log.view.vector.get(origin) + 1);
        let mut deps = log.view.vector.above(&log.own_deps);
        deps.set(origin, 0);
        log.own_deps.join(&deps);
        let head = TxnHead { dot, hlc: 0, prev: log.tips.get(&origin).copied().unwrap_or(0), deps };
        let add = Add { path: Bytes::from_static(b"p"), payload: vec![7; size].into() };
        let effect = KeyEffect { space: "s".into(), key: "k".into(), removes: vec![], adds: vec![add] };
        log.take(dot, Txn { head, effects: vec![effect] }.encode());
        self.publish(&log);
    }

    fn vector(&self) -> Vector {
        self.log.lock().unwrap().view.vector.clone()
    }
}

impl Host for Model {
    fn view(&self) -> watch::Receiver<Arc<View>> {
        self.published.subscribe()
    }

    fn read_oplog(
        &self,
        from: u64,
        lacking: Vector,
        want: Vector,
        bytes_max: u64,
    ) -> BoxFuture<'_, Result<OplogChunk, HostError>> {
        Box::pin(async move {
            let log = self.log.lock().unwrap();
            let mut chunk = OplogChunk { entries: Vec::new(), next: log.oplog.len() as u64 + 1 };
            let mut bytes = 0;
            for (position, (dot, txn)) in (1..).zip(&log.oplog).skip(from.saturating_sub(1) as usize) {
                if lacking.covers(*dot) || !want.covers(*dot) {
                    continue;
                }
                bytes += txn.len() as u64;
                if bytes > bytes_max && !chunk.entries.is_empty() {
                    chunk.next = position;
                    break;
                }
                chunk.entries.push((position, txn.clone()));
            }
            Ok(chunk)
        })
    }

    fn propose(&self, remote: Remote) -> BoxFuture<'_, Result<Vec<RemoteOutcome>, HostError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut log = self.log.lock().unwrap();
            let outcomes = match remote {
                Remote::Txns(txns) => txns.into_iter().map(|txn| log.apply_txn(txn)).collect(),
                Remote::Register(name) => {
                    log.view.origins.push(name);
                    vec![RemoteOutcome::Applied]
                }
                Remote::Admit { .. } => unreachable!("nobody has lost anything"),
                Remote::Report { .. } => {
                    log.reports += 1;
                    vec![RemoteOutcome::Applied]
                }
            };
            self.publish(&log);
            Ok(outcomes)
        })
    }

    fn dial<'a>(&'a self, dc: &'a str, _node: u64) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(async move {
            if self.cut.load(Ordering::Relaxed) {
                return Err(io::Error::other("cut"));
            }
            let address = self.addresses.lock().unwrap().get(dc).copied();
            let stream = TcpStream::connect(address.ok_or_else(|| io::Error::other("unknown"))?).await?;
            Ok(Box::new(stream) as BoxStream)
        })
    }

    fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    fn unix_ms(&self) -> u64 {
        1_760_000_000_000 + self.now_ms()
    }

    fn jitter_seed(&self) -> u64 {
        self.dc.bytes().map(u64::from).sum()
    }

    fn lost_tail(&self, lost: Dot) {
        panic!("{} lost nothing, but {lost} was seen", self.dc);
    }
}

struct Running {
    model: Arc<Model>,
    gossip: Arc<GossipHandle>,
}

async fn run(
    dc: &'static str,
    all: &[&str],
    cluster: u64,
    addresses: &Arc<Mutex<BTreeMap<String, SocketAddr>>>,
    cut: &Arc<AtomicBool>,
) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    addresses.lock().unwrap().insert(dc.to_owned(), listener.local_addr().unwrap());
    let own = OriginName { dc: dc.to_owned(), epoch: Uuid::from_u128(u128::from(dc.as_bytes()[0])) };
    let view = View {
        leading: Some(1),
        leader_node: Some(1),
        origins: vec![own.clone()],
        own: Some(own),
        ..View::default()
    };
    let model = Arc::new(Model {
        dc,
        published: watch::Sender::new(Arc::new(view.clone())),
        log: Mutex::new(Log { view, ..Log::default() }),
        addresses: Arc::clone(addresses),
        cut: Arc::clone(cut),
        now_ms: AtomicU64::new(1),
    });
    let members = all.iter().filter(|d| **d != dc).map(|d| ((*d).to_owned(), vec![1])).collect();
    let identity = Identity { cluster, dc: dc.to_owned(), node: 1, members };
    let gossip = Arc::new(start(identity, GossipConfig::default(), Arc::clone(&model) as Arc<dyn Host>));
    tokio::spawn(tick(Arc::clone(&model)));
    tokio::spawn(listen(listener, Arc::clone(&gossip), Arc::clone(cut)));
    Running { model, gossip }
}

/// Moves the model's clock about as fast as the wall's.
async fn tick(model: Arc<Model>) {
    loop {
        tokio::time::sleep(Duration::from_millis(2)).await;
        model.now_ms.fetch_add(2, Ordering::Relaxed);
    }
}

/// Hands inbound streams over; each goes through a pipe that a cut ends.
async fn listen(listener: TcpListener, gossip: Arc<GossipHandle>, cut: Arc<AtomicBool>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let (mut ours, theirs) = tokio::io::duplex(64 << 10);
        gossip.accept(Box::new(theirs));
        let cut = Arc::clone(&cut);
        tokio::spawn(async move {
            let ended = async {
                while !cut.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut stream, &mut ours) => {}
                () = ended => {}
            }
        });
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(WAIT, waiting).await.is_ok(), "in vain: {what}");
}

#[tokio::test]
async fn three_dcs_replicate_over_sockets_and_recover_from_a_cut() {
    let (addresses, cut) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let names = ["a", "b", "c"];
    let mut dcs = Vec::new();
    for dc in names {
        dcs.push(run(dc, &names, 1, &addresses, &cut).await);
    }
    let linked = |dcs: &[Running]| {
        dcs.iter().all(|dc| {
            let status = dc.gossip.status().borrow().clone();
            status.links.len() == 2 && status.links.iter().all(|l| l.connected)
        })
    };
    until("all links stand", || linked(&dcs)).await;
    for n in 0..200 {
        dcs[n % 3].model.write(100);
    }
    // A txn of several messages.
    dcs[0].model.write(700 << 10);
    let equal = |dcs: &[Running]| {
        let all: Vec<Vector> = dcs.iter().map(|dc| dc.model.vector()).collect();
        all.iter().all(|v| *v == all[0] && v.txns_above(&Vector::new()) > 0)
    };
    until("all have all", || equal(&dcs) && dcs[0].model.vector().txns_above(&Vector::new()) == 201).await;

    cut.store(true, Ordering::Relaxed);
    until("no link stands", || {
        dcs.iter().all(|dc| dc.gossip.status().borrow().links.iter().all(|l| !l.connected))
    })
    .await;
    for n in 0..90 {
        dcs[n % 3].model.write(1000);
    }
    assert!(!equal(&dcs));
    cut.store(false, Ordering::Relaxed);
    until("all have all again", || equal(&dcs) && dcs[0].model.vector().txns_above(&Vector::new()) == 291)
        .await;
    until("acknowledgements are reported", || dcs.iter().all(|dc| dc.model.log.lock().unwrap().reports > 0))
        .await;
    for dc in &dcs {
        dc.gossip.shutdown().await;
    }
}

#[tokio::test]
async fn a_foreign_cluster_is_refused_and_both_sides_show_it() {
    let (addresses, cut) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let names = ["a", "b"];
    let a = run("a", &names, 1, &addresses, &cut).await;
    let b = run("b", &names, 2, &addresses, &cut).await;
    for dc in [&a, &b] {
        until("the refusal is shown", || {
            let status = dc.gossip.status().borrow().clone();
            status.links.iter().any(|l| l.refusal.as_ref().is_some_and(|why| why.contains("another cluster")))
        })
        .await;
        assert!(dc.gossip.status().borrow().links.iter().all(|l| !l.connected));
    }
}
