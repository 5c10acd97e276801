//! A running geo-cluster: its processes, the network between its DCs, and the file that describes it.
//!
//! It keeps one promise: from the moment it is published until the cluster stops, `cluster.json` is true. A node that
//! dies stays dead until somebody restarts it. It knows the nodes only from outside: their program, their files and
//! their HTTP interface.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::Method;
use nix::fcntl::Flock;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::children::{Children, Process, Start, tail};
use super::description::{self, DcDescription, Description, NodeDescription};
use super::layout::{self, Shape, dc_name, node_name};
use super::setup::{Node, claim, decide_shape, io_error, locked, place};
use super::wan::Wan;
use crate::cli::http::{Call, HttpClient};

/// How long a node may take to stop when it is restarted, before it is killed.
const RESTART_GRACE: Duration = Duration::from_secs(3);
/// How long a restarted node may take to listen.
const LISTEN_PATIENCE: Duration = Duration::from_secs(6);
/// How long nodes may take to stop when all of them do, before they are killed.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Pause between two looks at whether something has come about.
const POLL: Duration = Duration::from_millis(100);
/// How long a node may take to answer about itself.
const ASK_DEADLINE: Duration = Duration::from_secs(2);
/// Lines of a dead node's log that are shown.
const TAIL_LINES: usize = 12;

/// Why something could not be done to a cluster.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevError {
    /// The folder's cluster runs already. Nothing was changed.
    #[error("a dev runs in {0} already; choose another folder with --data, or control that one")]
    InUse(PathBuf),
    /// The folder holds a cluster of another size. Nothing was changed.
    #[error("{folder} holds {} DCs of {} nodes; start it as that, or choose another folder with --data", held.dcs, held.nodes)]
    OtherShape {
        /// The folder.
        folder: PathBuf,
        /// What it holds.
        held: Shape,
    },
    /// A shape that cannot be built.
    #[error("{0}")]
    BadShape(String),
    /// The folder or a port could not be used.
    #[error("{what}: {cause}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        cause: io::Error,
    },
    /// A name that nothing has.
    #[error("{0}")]
    Unknown(String),
    /// The node is not in the state that was asked for; the text says why.
    #[error("{0}")]
    Failed(String),
}

/// What to run.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// The program of the nodes; it is started as `PROGRAM serve --config FILE --node NAME --allow-faults`.
    pub binary: PathBuf,
    /// Where everything of the cluster is.
    pub folder: PathBuf,
    /// DCs; `None` for what the folder holds, else 3.
    pub dcs: Option<usize>,
    /// Nodes in each, 1, 3 or 5; `None` for what the folder holds, else 3.
    pub nodes: Option<usize>,
    /// The one-way delay between DCs.
    pub latency: Duration,
    /// Whether ports 7400 ... and 7500 ... are taken when all are free; else the system chooses.
    pub usual_ports: bool,
    /// Whether the nodes of a DC reach each other through proxies too, so that tests can cut a DC in itself.
    pub network_inside: bool,
    /// Lines added to each node's configuration file, such as `[raft]` with other settings.
    pub extra_config: String,
}

impl ClusterOptions {
    /// Three DCs of three nodes in `folder`, 80 ms apart, on ports chosen by the system.
    pub fn new(binary: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> Self {
        Self {
            binary: binary.into(),
            folder: folder.into(),
            dcs: None,
            nodes: None,
            latency: Duration::from_millis(80),
            usual_ports: false,
            network_inside: false,
            extra_config: String::new(),
        }
    }
}

/// A running cluster. Dropping it kills its processes; [`Cluster::stop`] ends them in good order.
#[derive(Debug)]
pub struct Cluster {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    binary: PathBuf,
    folder: PathBuf,
    shape: Shape,
    nodes: Vec<Node>,
    wan: Wan,
    inside: Option<Wan>,
    children: Children,
    http: HttpClient,
    /// Whether `cluster.json` is there. Held while it is written, so that an older state never replaces a newer one.
    published: Mutex<bool>,
    _lock: Flock<std::fs::File>,
}

impl Cluster {
    /// Writes the configuration files and starts every process; does not wait until they are ready.
    ///
    /// # Errors
    /// [`DevError`]; no process is left running.
    pub async fn start(options: ClusterOptions) -> Result<Self, DevError> {
        let (folder, lock) = claim(&options.folder)?;
        let shape = decide_shape(&folder, &options)?;
        description::remove(&folder).map_err(io_error("cannot remove the old cluster.json"))?;
        layout::write_shape(&folder, shape).map_err(io_error("cannot write into the folder"))?;
        let secret = layout::secret_file(&folder).map_err(io_error("cannot make the secret"))?;
        let count = shape.dcs * shape.nodes;
        let ports =
            layout::choose_ports(count, options.usual_ports).await.map_err(io_error("cannot get ports"))?;
        let wan = Wan::new(options.latency);
        let inside = options.network_inside.then(|| Wan::new(Duration::ZERO));
        let extra = &options.extra_config;
        let nodes = place(&folder, &secret, shape, ports, &wan, inside.as_ref(), extra).await?;
        let inner = Arc::new(Inner {
            binary: options.binary,
            folder,
            shape,
            nodes,
            wan,
            inside,
            children: Children::new().map_err(io_error("cannot start a thread"))?,
            http: HttpClient::new(),
            published: Mutex::new(false),
            _lock: lock,
        });
        for node in 0..inner.nodes.len() {
            Inner::start_node(&inner, node).await?;
        }
        Ok(Self { inner })
    }

    /// How many DCs and nodes there are.
    pub fn shape(&self) -> Shape {
        self.inner.shape
    }

    /// The folder, as an absolute path.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// The network between the DCs.
    pub fn wan(&self) -> &Wan {
        &self.inner.wan
    }

    /// The network between the nodes of a DC, whose places are nodes such as `eu-west/1`; none unless asked for with
    /// [`ClusterOptions::network_inside`].
    pub fn inside(&self) -> Option<&Wan> {
        self.inner.inside.as_ref()
    }

    /// Where the nodes are and which of them run, as in `cluster.json`.
    pub fn description(&self) -> Description {
        self.inner.description()
    }

    /// The client address of a node such as `eu-west/1`.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn client(&self, node: &str) -> Result<SocketAddr, DevError> {
        Ok(self.inner.nodes[self.inner.find(node)?].ports.client)
    }

    /// What still keeps the cluster from being ready: empty when every node answers 200 on `/readyz` and each DC's
    /// leader has all its links.
    pub async fn missing(&self) -> Vec<String> {
        self.inner.missing().await
    }

    /// Waits until nothing is missing, then writes `cluster.json`.
    ///
    /// # Errors
    /// When it takes longer than `patience`, or no process runs any more; the text says what is missing.
    pub async fn wait_ready(&self, patience: Duration) -> Result<(), DevError> {
        let deadline = Instant::now() + patience;
        loop {
            let missing = self.missing().await;
            if missing.is_empty() {
                return self.publish();
            }
            if self.inner.nodes.iter().all(|node| node.process().is_none()) {
                return Err(DevError::Failed(format!("every node has ended: {}", missing.join("; "))));
            }
            if Instant::now() >= deadline {
                return Err(DevError::Failed(missing.join("; ")));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Writes `cluster.json`, which from now on is kept true.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn publish(&self) -> Result<(), DevError> {
        *locked(&self.inner.published) = true;
        self.inner.describe().map_err(io_error("cannot write cluster.json"))
    }

    /// Stops the bytes between two DCs, both ways.
    ///
    /// # Errors
    /// When a name is unknown or both are the same.
    pub fn cut(&self, a: &str, b: &str) -> Result<(), DevError> {
        self.inner.check_pair(a, b)?;
        self.inner.wan.cut(a, b);
        Ok(())
    }

    /// Lets the bytes pass between two DCs again, or between all.
    ///
    /// # Errors
    /// When a name is unknown or both are the same.
    pub fn heal(&self, pair: Option<(&str, &str)>) -> Result<(), DevError> {
        match pair {
            None => self.inner.wan.heal_all(),
            Some((a, b)) => {
                self.inner.check_pair(a, b)?;
                self.inner.wan.heal(a, b);
            }
        }
        Ok(())
    }

    /// Kills a node such as `eu-west/1` with SIGKILL; it stays dead.
    ///
    /// # Errors
    /// When there is no such node or it is dead already.
    pub async fn kill(&self, node: &str) -> Result<(), DevError> {
        let index = self.inner.find(node)?;
        let _busy = self.inner.nodes[index].busy.lock().await;
        let Some(process) = self.inner.nodes[index].process() else {
            return Err(DevError::Failed(format!("{node} does not run")));
        };
        process.signal(Signal::SIGKILL).await;
        process.wait().await;
        self.inner.buried(index, process.pid).map_err(io_error("cannot write cluster.json"))
    }

    /// Stops a node for a while without its noticing (SIGSTOP), until it is resumed, restarted or killed.
    ///
    /// # Errors
    /// When there is no such node or it does not run.
    pub async fn pause(&self, node: &str) -> Result<(), DevError> {
        self.inner.signal(node, Signal::SIGSTOP).await
    }

    /// Lets a paused node go on (SIGCONT).
    ///
    /// # Errors
    /// When there is no such node or it does not run.
    pub async fn resume(&self, node: &str) -> Result<(), DevError> {
        self.inner.signal(node, Signal::SIGCONT).await
    }

    /// Kills all nodes at once, as a power cut does. Nodes that are dead already are passed over.
    ///
    /// # Errors
    /// When `cluster.json` cannot be written.
    pub async fn kill_all(&self) -> Result<(), DevError> {
        self.kill_where(|_| true).await
    }

    /// Kills all nodes of a DC at once. Nodes that are dead already are passed over.
    ///
    /// # Errors
    /// When `cluster.json` cannot be written.
    pub async fn kill_dc(&self, dc: &str) -> Result<(), DevError> {
        self.kill_where(|node| node.dc == dc).await
    }

    async fn kill_where(&self, chosen: impl Fn(&Node) -> bool) -> Result<(), DevError> {
        let nodes = self.inner.nodes.iter().enumerate().filter(|(_, node)| chosen(node));
        let running: Vec<(usize, Process)> =
            nodes.filter_map(|(i, node)| Some((i, node.process()?))).collect();
        join_all(running.iter().map(|(_, process)| process.signal(Signal::SIGKILL))).await;
        for (index, process) in running {
            process.wait().await;
            self.inner.buried(index, process.pid).map_err(io_error("cannot write cluster.json"))?;
        }
        Ok(())
    }

    /// Stops a node if it runs, starts it with its ports and data, and returns when it listens on both ports.
    ///
    /// # Errors
    /// When there is no such node, or its process ends or does not listen in time; the end of its log is in the text.
    pub async fn restart(&self, node: &str) -> Result<(), DevError> {
        let index = self.inner.find(node)?;
        let _busy = self.inner.nodes[index].busy.lock().await;
        if let Some(process) = self.inner.nodes[index].process() {
            process.stop(RESTART_GRACE).await;
            self.inner.buried(index, process.pid).map_err(io_error("cannot write cluster.json"))?;
        }
        let process = Inner::start_node(&self.inner, index).await?;
        self.inner.wait_listening(index, &process).await
    }

    /// Moves a node's clock by so much from the true time.
    ///
    /// # Errors
    /// When there is no such node, or it refuses or does not answer.
    pub async fn clock(&self, node: &str, offset_ms: i64) -> Result<(), DevError> {
        let server = self.client(node)?.to_string();
        let call = Call {
            method: Method::POST,
            server: &server,
            path: "/v1/faults/clock",
            headers: &[],
            body: Bytes::from(json!({ "offset_ms": offset_ms }).to_string()),
            deadline: ASK_DEADLINE,
        };
        match self.inner.http.send(call).await {
            Ok(answer) if answer.status == 200 => Ok(()),
            Ok(answer) => {
                let body = String::from_utf8_lossy(&answer.body).into_owned();
                Err(DevError::Failed(format!("{node} answers {}: {body}", answer.status)))
            }
            Err(e) => Err(DevError::Failed(e.to_string())),
        }
    }

    /// Asks each node that runs for `/v1/status`; `None` where there is no answer. In the order of the description.
    pub async fn statuses(&self) -> Vec<Option<Value>> {
        self.inner.statuses().await
    }

    /// Ends all nodes in good order, then removes `cluster.json`, which is no longer true.
    ///
    /// # Errors
    /// When the file cannot be removed; the nodes have ended all the same.
    pub async fn stop(&self) -> Result<(), DevError> {
        *locked(&self.inner.published) = false;
        let running: Vec<Process> = self.inner.nodes.iter().filter_map(Node::process).collect();
        join_all(running.iter().map(|process| process.stop(STOP_GRACE))).await;
        description::remove(&self.inner.folder).map_err(io_error("cannot remove cluster.json"))
    }
}

impl Inner {
    /// Starts a node's process and watches for its end.
    async fn start_node(inner: &Arc<Self>, index: usize) -> Result<Process, DevError> {
        let node = &inner.nodes[index];
        let words = [
            "serve",
            "--config",
            &node.config.to_string_lossy(),
            "--node",
            &node_name(&node.dc, node.id),
            "--allow-faults",
        ];
        let args = words.iter().map(ToString::to_string).collect();
        let start = Start { program: inner.binary.clone(), args, log: node.log.clone() };
        let process = inner.children.start(start).await;
        let process = process.map_err(io_error(format!("cannot start {}", node.name())))?;
        *locked(&node.process) = Some(process.clone());
        inner.describe().map_err(io_error("cannot write cluster.json"))?;
        let (weak, watched): (Weak<Self>, Process) = (Arc::downgrade(inner), process.clone());
        tokio::spawn(async move {
            watched.wait().await;
            if let Some(inner) = weak.upgrade()
                && let Err(e) = inner.buried(index, watched.pid)
            {
                crate::cli::complain(&format!("cannot write cluster.json: {e}"));
            }
        });
        Ok(process)
    }

    /// Notes that a node's process has ended, unless a newer one runs.
    fn buried(&self, index: usize, pid: u32) -> io::Result<()> {
        let mut process = locked(&self.nodes[index].process);
        if process.as_ref().is_some_and(|p| p.pid == pid) {
            *process = None;
        }
        drop(process);
        self.describe()
    }

    /// Writes `cluster.json`, if it is published.
    fn describe(&self) -> io::Result<()> {
        let published = locked(&self.published);
        if *published { description::write(&self.folder, &self.description()) } else { Ok(()) }
    }

    fn description(&self) -> Description {
        let dcs = (0..self.shape.dcs).map(|dc| DcDescription {
            name: dc_name(dc),
            nodes: self.nodes[dc * self.shape.nodes..(dc + 1) * self.shape.nodes]
                .iter()
                .map(|node| NodeDescription {
                    id: node.id,
                    client: node.ports.client.to_string(),
                    peer: node.ports.peer.to_string(),
                    pid: node.process().map(|process| process.pid),
                })
                .collect(),
        });
        Description { dcs: dcs.collect() }
    }

    fn find(&self, name: &str) -> Result<usize, DevError> {
        self.nodes.iter().position(|node| node.name() == name).ok_or_else(|| {
            let names: Vec<String> = self.nodes.iter().map(Node::name).collect();
            DevError::Unknown(format!("there is no node {name:?}; the nodes are {}", names.join(", ")))
        })
    }

    async fn signal(&self, node: &str, signal: Signal) -> Result<(), DevError> {
        let index = self.find(node)?;
        let Some(process) = self.nodes[index].process() else {
            return Err(DevError::Failed(format!("{node} does not run")));
        };
        process.signal(signal).await;
        Ok(())
    }

    fn check_pair(&self, a: &str, b: &str) -> Result<(), DevError> {
        let names: Vec<String> = (0..self.shape.dcs).map(dc_name).collect();
        for name in [a, b] {
            if !names.iter().any(|n| n == name) {
                return Err(DevError::Unknown(format!(
                    "there is no DC {name:?}; the DCs are {}",
                    names.join(", ")
                )));
            }
        }
        if a == b { Err(DevError::Unknown(format!("{a:?} is named twice; name two DCs"))) } else { Ok(()) }
    }

    async fn wait_listening(&self, index: usize, process: &Process) -> Result<(), DevError> {
        let node = &self.nodes[index];
        let deadline = Instant::now() + LISTEN_PATIENCE;
        loop {
            if let Some(how) = process.ended() {
                let log = tail(&node.log, TAIL_LINES);
                return Err(DevError::Failed(format!("{} has ended ({how}):\n{log}", node.name())));
            }
            let (client, peer) =
                tokio::join!(TcpStream::connect(node.ports.client), TcpStream::connect(node.ports.peer));
            if client.is_ok() && peer.is_ok() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let after = LISTEN_PATIENCE.as_secs();
                return Err(DevError::Failed(format!("{} does not listen after {after} s", node.name())));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn statuses(&self) -> Vec<Option<Value>> {
        join_all(self.nodes.iter().map(|node| async move {
            node.process()?;
            let answer =
                self.http.get(&node.ports.client.to_string(), "/v1/status", ASK_DEADLINE).await.ok()?;
            if answer.status == 200 { answer.json() } else { None }
        }))
        .await
    }

    async fn missing(&self) -> Vec<String> {
        let mut missing: Vec<String> = join_all(self.nodes.iter().map(|node| async move {
            if node.process().is_none() {
                return Some(format!("{} has ended:\n{}", node.name(), tail(&node.log, TAIL_LINES)));
            }
            match self.http.get(&node.ports.client.to_string(), "/readyz", ASK_DEADLINE).await {
                Ok(answer) if answer.status == 200 => None,
                Ok(answer) => Some(format!("{} is not ready ({})", node.name(), answer.status)),
                Err(e) => Some(format!("{} is not ready ({e})", node.name())),
            }
        }))
        .await
        .into_iter()
        .flatten()
        .collect();
        if missing.is_empty() {
            let statuses = self.statuses().await;
            for (dc, statuses) in statuses.chunks(self.shape.nodes).enumerate() {
                missing.extend(missing_in_dc(&dc_name(dc), statuses, self.shape.dcs - 1));
            }
        }
        missing
    }
}

/// What a DC lacks by its nodes' own words.
fn missing_in_dc(dc: &str, statuses: &[Option<Value>], links_wanted: usize) -> Option<String> {
    let is_leader = |status: &&Value| status.get("role").and_then(Value::as_str) == Some("leader");
    let Some(leader) = statuses.iter().flatten().find(is_leader) else {
        return Some(format!("{dc} has no leader"));
    };
    let links = leader.get("links").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let up = |link: &&Value| link.get("connected").and_then(Value::as_bool) == Some(true);
    let connected = links.iter().filter(up).count();
    (connected < links_wanted).then(|| format!("{dc} has {connected} of {links_wanted} links"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dc_is_ready_when_its_leader_has_all_links() {
        let follower = Some(json!({"role":"follower","links":[]}));
        let leader = |up| Some(json!({"role":"leader","links":[{"connected":true},{"connected":up}]}));
        assert_eq!(missing_in_dc("eu", &[follower.clone(), None], 2), Some("eu has no leader".into()));
        assert_eq!(
            missing_in_dc("eu", &[follower.clone(), leader(false)], 2),
            Some("eu has 1 of 2 links".into())
        );
        assert_eq!(missing_in_dc("eu", &[leader(true), follower], 2), None);
        assert_eq!(missing_in_dc("eu", &[Some(json!({"role":"leader","links":[]}))], 0), None);
    }
}
