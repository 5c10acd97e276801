//! What a cluster of `dev` looks like on disk: names, folders, ports, and the configuration file of each node.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use rand::TryRngCore;
use rand::rngs::OsRng;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpSocket};

/// The names of the first DCs; from the fourth on they are dc4, dc5 ...
const DC_NAMES: [&str; 3] = ["eu-west", "us-east", "ap-south"];
/// First port for clients when all are free.
const CLIENT_PORT_FIRST: u16 = 7400;
/// First port for nodes when all are free.
const PEER_PORT_FIRST: u16 = 7500;
/// The file that remembers how large the cluster in a folder is.
const SHAPE_FILE: &str = "shape.json";
/// The file of the generated secret.
const SECRET_FILE: &str = "secret";
/// Random bytes of the generated secret.
const SECRET_BYTES: usize = 32;

/// The name of the `index`-th DC, from 0.
pub fn dc_name(index: usize) -> String {
    DC_NAMES.get(index).map_or_else(|| format!("dc{}", index + 1), ToString::to_string)
}

/// How many DCs and how many nodes in each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// DCs.
    pub dcs: usize,
    /// Nodes in each.
    pub nodes: usize,
}

/// The shape that a folder's cluster was made with; `None` in a fresh folder.
pub(super) fn read_shape(folder: &Path) -> io::Result<Option<Shape>> {
    match std::fs::read(folder.join(SHAPE_FILE)) {
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

pub(super) fn write_shape(folder: &Path, shape: Shape) -> io::Result<()> {
    std::fs::write(folder.join(SHAPE_FILE), serde_json::to_vec(&shape).map_err(io::Error::other)?)
}

/// The folder's secret, made at the first start and readable by its owner only.
pub(super) fn secret_file(folder: &Path) -> io::Result<PathBuf> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let path = folder.join(SECRET_FILE);
    match std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(path),
        Err(e) => return Err(e),
        Ok(mut file) => {
            let mut bytes = [0; SECRET_BYTES];
            OsRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
            let mut text = String::with_capacity(2 * SECRET_BYTES);
            for byte in bytes {
                write!(text, "{byte:02x}").map_err(io::Error::other)?;
            }
            file.write_all(text.as_bytes())?;
        }
    }
    Ok(path)
}

/// The two ports of one node, held for it also while it is dead.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) client: SocketAddr,
    pub(super) peer: SocketAddr,
    /// Bound but not listening sockets: they keep the system from giving the ports to anybody else, while the node,
    /// which sets `SO_REUSEADDR` as every server does, can listen on them.
    _held: Vec<TcpSocket>,
}

/// Ports for `count` nodes: the usual ones when all of them are free, else chosen by the system.
pub(super) async fn choose_ports(count: usize, usual: bool) -> io::Result<Vec<Ports>> {
    if usual && let Some(ports) = usual_ports(count).await? {
        return Ok(ports);
    }
    (0..count)
        .map(|_| {
            let (client, a) = hold(0)?;
            let (peer, b) = hold(0)?;
            Ok(Ports { client, peer, _held: vec![a, b] })
        })
        .collect()
}

async fn usual_ports(count: usize) -> io::Result<Option<Vec<Ports>>> {
    let Ok(count) = u16::try_from(count) else { return Ok(None) };
    if count > PEER_PORT_FIRST - CLIENT_PORT_FIRST {
        return Ok(None);
    }
    let wanted = |i: u16| [CLIENT_PORT_FIRST + i, PEER_PORT_FIRST + i];
    // Listening is the test; holding alone succeeds beside another socket that only holds.
    let mut probes = Vec::new();
    for port in (0..count).flat_map(wanted) {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => probes.push(listener),
            Err(_) => return Ok(None),
        }
    }
    drop(probes);
    let mut ports = Vec::new();
    for i in 0..count {
        let [client, peer] = wanted(i);
        let (Ok((client, a)), Ok((peer, b))) = (hold(client), hold(peer)) else { return Ok(None) };
        ports.push(Ports { client, peer, _held: vec![a, b] });
    }
    Ok(Some(ports))
}

fn hold(port: u16) -> io::Result<(SocketAddr, TcpSocket)> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    Ok((socket.local_addr()?, socket))
}

/// All that a node's configuration file says.
pub(super) struct NodeFile<'a> {
    pub(super) folder: &'a Path,
    pub(super) secret_file: &'a Path,
    pub(super) dc: &'a str,
    /// The node that the file is for.
    pub(super) id: u64,
    /// Every node of the DC: id, client address, peer address.
    pub(super) nodes: Vec<(u64, SocketAddr, SocketAddr)>,
    /// The proxies by which this node reaches others of its DC, by id; the others are reached directly.
    pub(super) inside: BTreeMap<u64, SocketAddr>,
    /// Every other DC, and the proxy of each of its nodes by id.
    pub(super) remotes: Vec<(String, Vec<(u64, SocketAddr)>)>,
    /// Further lines, for tests that tune settings.
    pub(super) extra: &'a str,
}

/// The folder of one node's data and log.
pub(super) fn node_folder(folder: &Path, dc: &str, id: u64) -> PathBuf {
    folder.join(dc).join(id.to_string())
}

/// A node's name in its configuration file.
pub(super) fn node_name(dc: &str, id: u64) -> String {
    format!("{dc}-{id}")
}

impl NodeFile<'_> {
    /// Writes `FOLDER/DC/ID.toml` and returns its path.
    pub(super) fn write(&self) -> io::Result<PathBuf> {
        let path = self.folder.join(self.dc).join(format!("{}.toml", self.id));
        std::fs::create_dir_all(node_folder(self.folder, self.dc, self.id))?;
        std::fs::write(&path, self.text())?;
        Ok(path)
    }

    fn text(&self) -> String {
        // Paths are written as JSON strings, which are TOML strings too.
        let quoted = |path: &Path| serde_json::Value::from(path.to_string_lossy()).to_string();
        let mut text = format!(
            "# Node {} of {}, written by `meridian dev` at each start. Addresses of other DCs are proxies that delay\n\
             # and cut; configs/ has files to start a real deployment from.\n\n\
             [cluster]\nname = \"dev\"\nsecret_file = {}\n\n[dc]\nname = \"{}\"\n",
            self.id,
            self.dc,
            quoted(self.secret_file),
            self.dc
        );
        for (id, client, peer) in &self.nodes {
            let data = node_folder(self.folder, self.dc, *id).join("data");
            text.push_str(&format!(
                "\n[nodes.{}]\nid = {id}\ndata_dir = {}\nclient_listen = \"{client}\"\npeer_listen = \"{peer}\"\n",
                node_name(self.dc, *id),
                quoted(&data),
            ));
            if let Some(proxy) = self.inside.get(id) {
                text.push_str(&format!("peer_advertise = \"{proxy}\"\n"));
            }
        }
        for (dc, peers) in &self.remotes {
            let peers: Vec<String> = peers.iter().map(|(id, address)| format!("{id}={address}")).collect();
            text.push_str(&format!("\n[remotes.{dc}]\npeers = \"{}\"\n", peers.join(", ")));
        }
        if !self.extra.is_empty() {
            text.push_str(&format!("\n{}\n", self.extra.trim_end()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn datacenters_have_the_documented_names() {
        let names: Vec<String> = (0..5).map(dc_name).collect();
        assert_eq!(names, ["eu-west", "us-east", "ap-south", "dc4", "dc5"]);
    }

    #[test]
    fn a_written_file_is_a_valid_configuration_with_the_proxies_as_remotes() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = secret_file(folder.path()).expect("made");
        assert_eq!(
            std::fs::read(&secret).expect("read"),
            std::fs::read(secret_file(folder.path()).expect("kept")).expect("read")
        );
        let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let file = NodeFile {
            folder: folder.path(),
            secret_file: &secret,
            dc: "eu-west",
            id: 2,
            nodes: (1..=3).map(|id| (id, address(7000 + id as u16), address(8000 + id as u16))).collect(),
            inside: BTreeMap::from([(3, address(9103))]),
            remotes: vec![("us-east".into(), vec![(1, address(9001))])],
            extra: "[raft]\nheartbeat = \"100ms\"",
        };
        let path = file.write().expect("written");
        assert_eq!(path, folder.path().join("eu-west/2.toml"));
        let config = Config::load(&path, Some("eu-west-2"), std::iter::empty(), &[]).expect("valid");
        assert_eq!((config.node.id, config.peers.len(), config.cluster.name.as_str()), (2, 3, "dev"));
        assert_eq!(config.remotes["us-east"][&1], "127.0.0.1:9001");
        assert_eq!((&*config.peers[&1], &*config.peers[&3]), ("127.0.0.1:8001", "127.0.0.1:9103"));
        assert_eq!(config.cluster.secret.len(), 2 * SECRET_BYTES);
        assert_eq!(config.node.data_dir, folder.path().join("eu-west/2/data"));
    }

    #[tokio::test]
    async fn a_held_port_can_be_listened_on_by_its_node_and_is_given_to_nobody_else() {
        let ports = choose_ports(2, false).await.expect("chosen");
        let listener = TcpListener::bind(ports[0].client).await.expect("the node may listen");
        drop(listener);
        TcpListener::bind(ports[0].client).await.expect("and again after a restart");
        let others = choose_ports(200, false).await.expect("chosen");
        let mut all: Vec<SocketAddr> = ports.iter().chain(&others).flat_map(|p| [p.client, p.peer]).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 404);
    }
}
