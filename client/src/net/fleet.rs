//! All datacenters and nodes as the client knows them, and which to ask next.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::error::Error;
use super::home::Home;
use super::ids::RequestIds;
use super::node::Node;
use super::settings::{Preference, Settings};

/// Latencies that differ by less than this count as equal, so that nodes side by side share the load.
const LATENCY_STEP: Duration = Duration::from_millis(2);
/// How long [`Fleet::ready`] waits for the first datacenter when another one is there already.
const FIRST_PATIENCE: Duration = Duration::from_millis(500);

/// A change of the datacenter that is asked first.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HomeChange {
    /// The datacenter that was home; none at the start.
    pub from: Option<String>,
    /// The datacenter that is home now.
    pub to: String,
}

pub(crate) struct Dc {
    pub name: String,
    pub nodes: Vec<Arc<Node>>,
}

impl Dc {
    /// Whether any node serves.
    pub fn is_up(&self) -> bool {
        self.nodes.iter().any(|node| node.is_ready())
    }

    fn latency(&self) -> Option<Duration> {
        let ready = self.nodes.iter().filter(|node| node.is_ready());
        ready.filter_map(|node| node.latency()).min()
    }
}

pub(crate) struct Fleet {
    pub dcs: Vec<Dc>,
    pub settings: Settings,
    pub ids: RequestIds,
    home: Mutex<Home>,
    changes: watch::Sender<HomeChange>,
    /// Turns the order of nodes that are equally fast, differently in each client.
    turn: usize,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    closed: watch::Sender<bool>,
    /// Whether home may be chosen: at the start the first datacenter is given some time to answer.
    settled: AtomicBool,
}

impl Fleet {
    /// Starts the tasks that keep connections.
    pub fn start(settings: Settings) -> Arc<Fleet> {
        let dc = |(name, nodes): &(String, Vec<String>)| Dc {
            name: name.clone(),
            nodes: nodes.iter().map(|address| Arc::new(Node::new(address.clone()))).collect(),
        };
        let dcs: Vec<Dc> = settings.dcs.iter().map(dc).collect();
        let home = Home::new(dcs.len(), settings.return_after, Instant::now());
        let first = HomeChange { from: None, to: dcs[0].name.clone() };
        let fleet = Arc::new(Fleet {
            dcs,
            settings,
            ids: RequestIds::new(),
            home: Mutex::new(home),
            changes: watch::Sender::new(first),
            turn: usize::from(rand::random::<u16>()),
            tasks: Mutex::default(),
            closed: watch::Sender::new(false),
            settled: AtomicBool::new(false),
        });
        let mut tasks = Vec::new();
        for (at, dc) in fleet.dcs.iter().enumerate() {
            for node in &dc.nodes {
                // The task must not keep the fleet alive: dropping the last client ends it.
                let (weak, node) = (Arc::downgrade(&fleet), Arc::clone(node));
                let (name, settings) = (dc.name.clone(), fleet.settings.clone());
                tasks.push(tokio::spawn(async move {
                    let observed = || {
                        if let Some(fleet) = weak.upgrade() {
                            fleet.observe(at);
                        }
                    };
                    node.keep(&name, &settings, observed).await;
                }));
            }
        }
        *fleet.tasks.lock().unwrap_or_else(PoisonError::into_inner) = tasks;
        fleet
    }

    /// Returns once a node of the first datacenter serves, or one of another if the first one's do not.
    pub async fn ready(&self) -> Result<(), Error> {
        let deadline = Instant::now() + self.settings.connect_timeout;
        let patience = Instant::now() + FIRST_PATIENCE;
        let poll = Duration::from_millis(5);
        loop {
            let now = Instant::now();
            if self.dcs[0].is_up() || (now >= patience && self.dcs.iter().any(Dc::is_up)) {
                self.settled.store(true, Ordering::Release);
                self.decide(now);
                return Ok(());
            }
            if now >= deadline {
                return Err(Error::Unavailable { reason: self.trouble(), error: None });
            }
            tokio::time::sleep_until((now + poll).min(deadline)).await;
        }
    }

    fn trouble(&self) -> String {
        let nodes = self.dcs.iter().flat_map(|dc| &dc.nodes);
        let troubles = nodes.map(|node| match node.connection() {
            Ok(_) => format!("{}: not ready", node.address),
            Err(trouble) => trouble,
        });
        troubles.collect::<Vec<_>>().join("; ")
    }

    fn observe(&self, dc: usize) {
        let now = Instant::now();
        self.home().observe(dc, self.dcs[dc].is_up(), now);
        self.decide(now);
    }

    fn decide(&self, now: Instant) {
        if !self.settled.load(Ordering::Acquire) {
            return;
        }
        let order = self.preferred();
        let mut home = self.home();
        let from = home.current();
        if let Some(to) = home.decide(&order, now) {
            let name = |dc: usize| self.dcs[dc].name.clone();
            self.changes.send_replace(HomeChange { from: Some(name(from)), to: name(to) });
        }
    }

    fn home(&self) -> MutexGuard<'_, Home> {
        self.home.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All datacenters, the preferred one first.
    fn preferred(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.dcs.len()).collect();
        if self.settings.prefer == Preference::Latency {
            let current = self.home().current();
            let cost = |dc: usize| {
                let latency = self.dcs[dc].latency().unwrap_or(Duration::MAX);
                // Whoever is home keeps it unless another one is clearly faster.
                if dc == current { latency.saturating_sub(latency / 4) } else { latency }
            };
            order.sort_by_key(|dc| cost(*dc));
        }
        order
    }

    /// All datacenters in the order in which a request asks them: home, the healthy ones, the others.
    pub fn order(&self) -> Vec<usize> {
        let mut order = self.preferred();
        let home = self.home();
        order.sort_by_key(|dc| (*dc != home.current() || !home.is_up(*dc), !home.is_up(*dc)));
        order
    }

    /// The datacenter that is home.
    pub fn current(&self) -> usize {
        self.home().current()
    }

    /// The nodes of a datacenter in the order in which a request asks them: the ready ones, the fastest first. Of nodes
    /// that are equally fast the leader comes first for what goes through the log anyway.
    pub fn nodes(&self, dc: usize, through_log: bool) -> Vec<Arc<Node>> {
        let mut nodes = self.dcs[dc].nodes.clone();
        let count = nodes.len();
        nodes.rotate_left(self.turn % count);
        let step =
            |node: &Node| node.latency().map_or(u128::MAX, |l| l.as_micros() / LATENCY_STEP.as_micros());
        nodes.sort_by_cached_key(|node| (!node.is_ready(), step(node), through_log && !node.leads()));
        nodes
    }

    /// Changes of home.
    pub fn changes(&self) -> watch::Receiver<HomeChange> {
        self.changes.subscribe()
    }

    /// Whether the client was closed.
    pub fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Returns when the client is closed, and not before `deadline` otherwise.
    pub async fn closed_or(&self, deadline: Instant) {
        let mut closed = self.closed.subscribe();
        // An elapsed time says that nothing was closed.
        let _ = timeout_at(deadline, closed.wait_for(|closed| *closed)).await;
    }

    /// Ends all tasks and connections.
    pub async fn close(&self) {
        self.closed.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
            // It ends by being aborted, which is the only error there can be.
            let _ = task.await;
        }
        for node in self.dcs.iter().flat_map(|dc| &dc.nodes) {
            if let Ok(connection) = node.connection() {
                connection.close("the client is closed");
            }
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().for_each(JoinHandle::abort);
    }
}
