//! Who this node is and where the others are: `[cluster]`, `[dc]`, `[nodes.*]`, `[remotes.*]`.
//!
//! Addresses stay text (`host:port`): names are resolved again on each connect, so that a moved node is found.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use config::Value;

use super::reader::{Findings, Reader};

/// The sizes that a DC may have: one node, or an odd number that keeps a majority when one or two are lost.
const NODE_COUNTS: [usize; 3] = [1, 3, 5];
/// Shortest secret that is accepted; `openssl rand -hex 32` gives 64 characters.
const SECRET_BYTES_MIN: usize = 16;
/// Longest name of a cluster, DC or node.
const NAME_BYTES_MAX: usize = 64;
/// What the secrets in the files shipped with the project start with.
pub(super) const PLACEHOLDER_SECRET: &str = "change-me";

pub(super) const CLUSTER_KEYS: &[&str] = &["name", "secret", "secret_file", "insecure"];
pub(super) const DC_KEYS: &[&str] = &["name"];
pub(super) const NODE_KEYS: &[&str] =
    &["id", "data_dir", "client_listen", "peer_listen", "client_advertise", "peer_advertise"];
pub(super) const REMOTE_KEYS: &[&str] = &["peers"];

/// `[cluster]`: what all DCs have in common.
#[derive(Clone, PartialEq)]
pub struct ClusterConfig {
    /// The cluster's name, 1 to 64 of `a-z A-Z 0-9 _ -`. A node of another cluster is refused. No default; never change it.
    pub name: String,
    /// What proves membership on the peer port, from `secret` or the file named by `secret_file`; at least 16 bytes,
    /// the same everywhere. Empty when the cluster has none, which is refused beyond loopback unless `insecure`.
    pub secret: Vec<u8>,
    /// Allows listening beyond loopback without a secret. Default false; true only on a network that you trust wholly.
    pub insecure: bool,
}

/// The secret does not reach logs by accident.
impl std::fmt::Debug for ClusterConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterConfig")
            .field("name", &self.name)
            .field("secret", &if self.secret.is_empty() { "none" } else { "given" })
            .field("insecure", &self.insecure)
            .finish()
    }
}

/// `[nodes.NAME]`: one node of this DC; here the one that this process is.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    /// The table's name.
    pub name: String,
    /// The node's number in its DC, from 1, never used again by another machine or after a wiped disk. No default.
    pub id: u64,
    /// The folder of its files; created when absent. Relative to the working directory. No default.
    pub data_dir: PathBuf,
    /// Where clients are listened for. Default `127.0.0.1:7400`; `0.0.0.0:7400` for every interface.
    pub client_listen: String,
    /// Where nodes are listened for. Default `127.0.0.1:7500`.
    pub peer_listen: String,
    /// The address that clients are told. Default `client_listen`; needed when that is a wildcard.
    pub client_advertise: String,
    /// The address that the other nodes dial. Default `peer_listen`; needed when that is a wildcard.
    pub peer_advertise: String,
}

/// The parts of a node's table before one is chosen as this process.
struct NodeTable {
    name: String,
    id: Option<u64>,
    data_dir: Option<String>,
    client_listen: String,
    peer_listen: String,
    client_advertise: Option<String>,
    peer_advertise: Option<String>,
}

/// All that these sections say.
pub(super) struct Topology {
    pub(super) node: NodeConfig,
    pub(super) peers: BTreeMap<u64, String>,
    pub(super) client_addrs: BTreeMap<u64, String>,
}

pub(super) fn read_cluster(
    value: Option<Value>,
    warnings: &mut Vec<String>,
    findings: &mut Findings<'_>,
) -> ClusterConfig {
    let mut reader = Reader::open("cluster", value, findings);
    let name = read_name(&mut reader, "name", "a name shared by all DCs, such as \"shop\"");
    let insecure = reader.optional("insecure").unwrap_or(false);
    let inline: Option<String> = reader.optional("secret");
    let file: Option<String> = reader.optional("secret_file");
    let secret = match (inline, file) {
        (Some(_), Some(_)) => {
            reader.findings.add(
                "cluster.secret",
                "both secret and secret_file are given",
                "keep one; secret_file is the safer place",
            );
            None
        }
        (Some(secret), None) => Some(secret.into_bytes()),
        (None, Some(path)) => read_secret(Path::new(&path), reader.findings),
        (None, None) => None,
    };
    reader.close(CLUSTER_KEYS);
    if let Some(secret) = &secret {
        if secret.len() < SECRET_BYTES_MIN {
            findings.add(
                "cluster.secret",
                format!("it has {} bytes", secret.len()),
                format!("at least {SECRET_BYTES_MIN} are needed: openssl rand -hex 32"),
            );
        }
        if secret.starts_with(PLACEHOLDER_SECRET.as_bytes()) {
            warnings.push(
                "cluster.secret is still the placeholder that everybody can read: put the output of \
                 `openssl rand -hex 32` in its place on every node"
                    .into(),
            );
        }
    }
    ClusterConfig { name, secret: secret.unwrap_or_default(), insecure }
}

/// Reads a secret's file; the line end that editors add is not part of it.
fn read_secret(path: &Path, findings: &mut Findings<'_>) -> Option<Vec<u8>> {
    match std::fs::read(path) {
        Ok(bytes) => Some(bytes.trim_ascii_end().to_vec()),
        Err(e) => {
            findings.add(
                "cluster.secret_file",
                format!("{} cannot be read: {e}", path.display()),
                "make it with `openssl rand -hex 32`, readable by the user that runs the node",
            );
            None
        }
    }
}

pub(super) fn read_dc(value: Option<Value>, findings: &mut Findings<'_>) -> String {
    let mut reader = Reader::open("dc", value, findings);
    let name = read_name(&mut reader, "name", "this DC's name, such as \"eu-west\"");
    reader.close(DC_KEYS);
    name
}

fn read_name(reader: &mut Reader<'_, '_>, key: &str, what: &str) -> String {
    let path = reader.path(key);
    match reader.optional::<String>(key) {
        None => {
            reader.findings.add(&path, "it is missing", format!("give {what}"));
            String::new()
        }
        Some(name) => {
            check_name(&path, &name, reader.findings);
            name
        }
    }
}

/// Names appear in variables, logs, metrics and file names, so few letters are allowed.
fn check_name(path: &str, name: &str, findings: &mut Findings<'_>) {
    let fine = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !fine {
        let right = format!("use 1 to {NAME_BYTES_MAX} of a-z, A-Z, 0-9, - and _");
        findings.add(path, format!("{name:?} is not a valid name"), right);
    }
}

/// Reads every node's table and picks this process' own.
pub(super) fn read_nodes(
    tables: BTreeMap<String, Value>,
    chosen: Option<&str>,
    findings: &mut Findings<'_>,
) -> Option<Topology> {
    let mut nodes = Vec::new();
    for (name, value) in tables {
        let path = format!("nodes.{name}");
        check_name(&path, &name, findings);
        nodes.push(read_node(name, &path, value, findings));
    }
    if !NODE_COUNTS.contains(&nodes.len()) {
        findings.add(
            "nodes",
            format!("the DC has {} nodes", nodes.len()),
            "a DC has 1, 3 or 5 [nodes.NAME] tables",
        );
    }
    check_ids(&nodes, findings);
    let own = choose(&nodes, chosen, findings)?;
    let (peers, client_addrs) = addresses(&nodes, findings);
    let Some(data_dir) = &own.data_dir else {
        let key = format!("nodes.{}.data_dir", own.name);
        findings.add(&key, "it is missing", "give the folder for this node's files");
        return None;
    };
    let id = own.id?;
    Some(Topology {
        node: NodeConfig {
            name: own.name.clone(),
            id,
            data_dir: PathBuf::from(data_dir),
            client_listen: own.client_listen.clone(),
            peer_listen: own.peer_listen.clone(),
            client_advertise: client_addrs.get(&id).cloned().unwrap_or_default(),
            peer_advertise: peers.get(&id).cloned().unwrap_or_default(),
        },
        peers,
        client_addrs,
    })
}

fn read_node(name: String, path: &str, value: Value, findings: &mut Findings<'_>) -> NodeTable {
    let mut reader = Reader::open(path, Some(value), findings);
    let id = reader.optional::<u64>("id");
    let data_dir = reader.optional("data_dir");
    let client_listen: String = reader.optional("client_listen").unwrap_or_else(|| "127.0.0.1:7400".into());
    let peer_listen: String = reader.optional("peer_listen").unwrap_or_else(|| "127.0.0.1:7500".into());
    let client_advertise: Option<String> = reader.optional("client_advertise");
    let peer_advertise: Option<String> = reader.optional("peer_advertise");
    if id.is_none_or(|id| id == 0) {
        let key = reader.path("id");
        let right = "give each node of the DC its own number from 1, and never reuse one";
        reader.findings.add(&key, if id.is_none() { "it is missing" } else { "0 is not a node id" }, right);
    }
    for (key, address) in [
        ("client_listen", Some(&client_listen)),
        ("peer_listen", Some(&peer_listen)),
        ("client_advertise", client_advertise.as_ref()),
        ("peer_advertise", peer_advertise.as_ref()),
    ] {
        let Some(address) = address else { continue };
        let path = reader.path(key);
        match split_address(address) {
            Err(wrong) => reader.findings.add(&path, wrong, "write host:port, such as \"10.0.0.1:7400\""),
            Ok((host, port)) if key.ends_with("advertise") && (is_wildcard(host) || port == 0) => {
                let right = "give the address under which others reach this node";
                reader.findings.add(&path, format!("nobody can connect to {address:?}"), right);
            }
            Ok(_) => {}
        }
    }
    reader.close(NODE_KEYS);
    NodeTable { name, id, data_dir, client_listen, peer_listen, client_advertise, peer_advertise }
}

fn check_ids(nodes: &[NodeTable], findings: &mut Findings<'_>) {
    let mut seen: BTreeMap<u64, &str> = BTreeMap::new();
    for node in nodes {
        let Some(id) = node.id else { continue };
        if let Some(other) = seen.insert(id, &node.name) {
            let right = "every node of a DC has its own id";
            findings.add(&format!("nodes.{}.id", node.name), format!("{other} has the id {id} too"), right);
        }
    }
}

fn choose<'n>(
    nodes: &'n [NodeTable],
    chosen: Option<&str>,
    findings: &mut Findings<'_>,
) -> Option<&'n NodeTable> {
    let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    match chosen {
        Some(name) => {
            let found = nodes.iter().find(|node| node.name == name);
            if found.is_none() {
                findings.add(
                    "nodes",
                    format!("there is no node {name:?}"),
                    super::reader::suggestion(name, &names),
                );
            }
            found
        }
        None if nodes.len() == 1 => nodes.first(),
        None => {
            if !nodes.is_empty() {
                findings.add(
                    "nodes",
                    "the file describes several nodes and none was chosen",
                    format!("pass --node or set MERIDIAN_NODE to one of {}", names.join(", ")),
                );
            }
            None
        }
    }
}

/// The addresses that others use, per node id: (peer, client).
fn addresses(
    nodes: &[NodeTable],
    findings: &mut Findings<'_>,
) -> (BTreeMap<u64, String>, BTreeMap<u64, String>) {
    let mut peers = BTreeMap::new();
    let mut clients = BTreeMap::new();
    let mut taken: BTreeMap<String, String> = BTreeMap::new();
    for node in nodes {
        let Some(id) = node.id else { continue };
        for (port, listen, advertise, into) in [
            ("peer", &node.peer_listen, &node.peer_advertise, &mut peers),
            ("client", &node.client_listen, &node.client_advertise, &mut clients),
        ] {
            let advertised = advertise.as_ref().unwrap_or(listen).clone();
            let key = format!("nodes.{}.{port}_advertise", node.name);
            if advertise.is_none() && split_address(listen).is_ok_and(|(host, p)| is_wildcard(host) || p == 0)
            {
                findings.add(
                    &key,
                    format!("{port}_listen is {listen:?}, which nobody can connect to"),
                    format!("give {port}_advertise, the address under which others reach this node"),
                );
            }
            if let Some(other) = taken.insert(advertised.clone(), key.clone()) {
                findings.add(
                    &key,
                    format!("{advertised} is used by {other} too"),
                    "give each its own address",
                );
            }
            into.insert(id, advertised);
        }
    }
    (peers, clients)
}

/// Reads the peers of each other DC.
pub(super) fn read_remotes(
    tables: BTreeMap<String, Value>,
    dc: &str,
    findings: &mut Findings<'_>,
) -> BTreeMap<String, BTreeMap<u64, String>> {
    let mut remotes = BTreeMap::new();
    for (name, value) in tables {
        let section = format!("remotes.{name}");
        check_name(&section, &name, findings);
        if name == dc {
            findings.add(&section, "this is the DC itself", "list only the other DCs under [remotes]");
        }
        let mut reader = Reader::open(&section, Some(value), findings);
        let path = reader.path("peers");
        let text: Option<String> = reader.optional("peers");
        match text {
            None => {
                reader.findings.add(&path, "it is missing", "write \"1=host:7500, 2=host:7500, 3=host:7500\"")
            }
            Some(text) => {
                let peers = parse_peers(&text).unwrap_or_else(|wrong| {
                    let right = "write \"1=host:7500, 2=host:7500, 3=host:7500\": node id = peer address";
                    reader.findings.add(&path, wrong, right);
                    BTreeMap::new()
                });
                remotes.insert(name, peers);
            }
        }
        reader.close(REMOTE_KEYS);
    }
    remotes
}

/// Reads `1=host:7500, 2=host:7500`.
fn parse_peers(text: &str) -> Result<BTreeMap<u64, String>, String> {
    let mut peers = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (id, address) = part.split_once('=').ok_or_else(|| format!("{part:?} has no ="))?;
        let (id, address) = (id.trim(), address.trim());
        let number: u64 = id.parse().map_err(|_| format!("{id:?} is not a node id"))?;
        if number == 0 {
            return Err("0 is not a node id".into());
        }
        let (host, port) = split_address(address)?;
        if is_wildcard(host) || port == 0 {
            return Err(format!("nobody can connect to {address:?}"));
        }
        if peers.insert(number, address.to_string()).is_some() {
            return Err(format!("the id {number} appears twice"));
        }
    }
    if !NODE_COUNTS.contains(&peers.len()) {
        return Err(format!("it names {} nodes, and a DC has 1, 3 or 5", peers.len()));
    }
    Ok(peers)
}

/// Without a secret anybody who reaches a port could write; so only this machine may reach it.
pub(super) fn check_exposure(cluster: &ClusterConfig, node: &NodeConfig, findings: &mut Findings<'_>) {
    if !cluster.secret.is_empty() || cluster.insecure {
        return;
    }
    for (key, address) in [("client_listen", &node.client_listen), ("peer_listen", &node.peer_listen)] {
        if split_address(address).is_ok_and(|(host, _)| !is_loopback(host)) {
            findings.add(
                &format!("nodes.{}.{key}", node.name),
                format!("{address} is beyond loopback, and the cluster has no secret"),
                "set cluster.secret_file, or cluster.insecure = true on a network that you trust wholly",
            );
        }
    }
}

/// Splits `host:port` or `[v6]:port`.
pub fn split_address(address: &str) -> Result<(&str, u16), String> {
    let (host, port) = address.rsplit_once(':').ok_or_else(|| format!("{address:?} has no port"))?;
    let port: u16 = port.parse().map_err(|_| format!("{port:?} is not a port (0 to 65535)"))?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host = match bare {
        Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
        Some(v6) => return Err(format!("{v6:?} is not an IPv6 address")),
        None => host,
    };
    let named = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if host.is_empty() || (bare.is_none() && !named) {
        return Err(format!("{address:?} has no valid host"));
    }
    Ok((host, port))
}

fn is_wildcard(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
