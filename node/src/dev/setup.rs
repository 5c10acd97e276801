//! Everything of a cluster that is there before its first process: the locked folder, its shape, the ports, the proxies
//! and the configuration files.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::fcntl::{Flock, FlockArg};

use super::children::Process;
use super::cluster::{ClusterOptions, DevError};
use super::layout::{self, NodeFile, Ports, Shape, dc_name, node_folder};
use super::wan::Wan;

/// The file whose lock says that a folder is in use.
const LOCK_FILE: &str = "lock";
/// The file in a node's folder that its output goes to.
const LOG_FILE: &str = "log";

/// One node: where it is, and its process while it runs.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) dc: String,
    pub(super) id: u64,
    pub(super) ports: Ports,
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
    pub(super) process: Mutex<Option<Process>>,
    /// Held while the node is killed or restarted: one at a time.
    pub(super) busy: tokio::sync::Mutex<()>,
}

impl Node {
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.dc, self.id)
    }

    pub(super) fn process(&self) -> Option<Process> {
        locked(&self.process).clone()
    }
}

/// The lock, also after a panic elsewhere: what it guards is never left half changed.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn io_error(what: impl Into<String>) -> impl FnOnce(io::Error) -> DevError {
    let what = what.into();
    move |cause| DevError::Io { what, cause }
}

/// Makes the folder and locks it for this process; returns its absolute path.
pub(super) fn claim(folder: &Path) -> Result<(PathBuf, Flock<std::fs::File>), DevError> {
    std::fs::create_dir_all(folder).map_err(io_error(format!("cannot make {}", folder.display())))?;
    let folder = folder.canonicalize().map_err(io_error(format!("cannot use {}", folder.display())))?;
    let path = folder.join(LOCK_FILE);
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(io_error(format!("cannot write into {}", folder.display())))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok((folder, lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(DevError::InUse(folder)),
        Err((_, e)) => Err(DevError::Io { what: format!("cannot lock {}", path.display()), cause: e.into() }),
    }
}

pub(super) fn decide_shape(folder: &Path, options: &ClusterOptions) -> Result<Shape, DevError> {
    let held = layout::read_shape(folder).map_err(io_error("cannot read shape.json"))?;
    let usual = held.unwrap_or(Shape { dcs: 3, nodes: 3 });
    let shape = Shape { dcs: options.dcs.unwrap_or(usual.dcs), nodes: options.nodes.unwrap_or(usual.nodes) };
    if let Some(held) = held.filter(|held| *held != shape) {
        return Err(DevError::OtherShape { folder: folder.into(), held });
    }
    if shape.dcs == 0 || ![1, 3, 5].contains(&shape.nodes) {
        return Err(DevError::BadShape("there must be at least one DC, and 1, 3 or 5 nodes in each".into()));
    }
    Ok(shape)
}

/// Opens a proxy for each pair of DCs and node, and with a network inside DCs for each pair of nodes there, and writes
/// each node's configuration file.
pub(super) async fn place(
    folder: &Path,
    secret_file: &Path,
    shape: Shape,
    ports: Vec<Ports>,
    wan: &Wan,
    inside: Option<&Wan>,
    extra: &str,
) -> Result<Vec<Node>, DevError> {
    let addresses: Vec<(SocketAddr, SocketAddr)> = ports.iter().map(|p| (p.client, p.peer)).collect();
    // The nodes of one DC: id, client address, peer address.
    let of_dc = |dc: usize| {
        (1..)
            .zip(&addresses[dc * shape.nodes..(dc + 1) * shape.nodes])
            .map(|(id, (client, peer))| (id, *client, *peer))
    };
    let mut ports = ports.into_iter();
    let mut nodes = Vec::new();
    for from in 0..shape.dcs {
        let dc = dc_name(from);
        let mut remotes = Vec::new();
        for to in (0..shape.dcs).filter(|to| *to != from) {
            let mut proxies = Vec::new();
            for (id, _, peer) in of_dc(to) {
                let proxy =
                    wan.open(&dc, &dc_name(to), peer).await.map_err(io_error("cannot open a proxy"))?;
                proxies.push((id, proxy));
            }
            remotes.push((dc_name(to), proxies));
        }
        for ((id, _, _), ports) in of_dc(from).zip(ports.by_ref().take(shape.nodes)) {
            let nodes_of_dc = of_dc(from).collect();
            let proxies = match inside {
                Some(inside) => proxies_of_node(inside, &dc, id, of_dc(from)).await?,
                None => BTreeMap::new(),
            };
            let file = NodeFile {
                folder,
                secret_file,
                dc: &dc,
                id,
                nodes: nodes_of_dc,
                inside: proxies,
                remotes: remotes.clone(),
                extra,
            };
            let config = file.write().map_err(io_error("cannot write a configuration file"))?;
            let log = node_folder(folder, &dc, id).join(LOG_FILE);
            let (process, busy) = (Mutex::default(), tokio::sync::Mutex::default());
            nodes.push(Node { dc: dc.clone(), id, ports, config, log, process, busy });
        }
    }
    Ok(nodes)
}

/// The proxies by which one node reaches the others of its DC.
async fn proxies_of_node(
    inside: &Wan,
    dc: &str,
    id: u64,
    nodes: impl Iterator<Item = (u64, SocketAddr, SocketAddr)>,
) -> Result<BTreeMap<u64, SocketAddr>, DevError> {
    let mut proxies = BTreeMap::new();
    for (other, _, peer) in nodes.filter(|(other, _, _)| *other != id) {
        let (from, to) = (format!("{dc}/{id}"), format!("{dc}/{other}"));
        let proxy = inside.open(&from, &to, peer).await.map_err(io_error("cannot open a proxy"))?;
        proxies.insert(other, proxy);
    }
    Ok(proxies)
}
