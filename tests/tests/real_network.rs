//! Nine nodes on machines of a network of their own, without any proxy: packets vanish, wires are pulled. Each datacenter goes
//! on where it has a majority, and nothing that was acknowledged is lost.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meridian::cli::http::HttpClient;
use meridian_tests::acknowledged;
use meridian_tests::client::{Ask, Client};
use meridian_tests::fleet::{contents, converged};
use meridian_tests::namespaces::Network;
use meridian_tests::program::{Running, skipped};
use meridian_tests::wait;
use meridian_tests::workload::{Load, Workload};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const PATIENCE: Duration = Duration::from_secs(60);
const DCS: [&str; 3] = ["eu-west", "us-east", "ap-south"];
const NODES: u8 = 3;
/// Writes between two steps of the story: seconds of load, longer than silence is taken for a slow link.
const STEP: usize = 400;

/// The number of the machine of a node; nodes are counted from 1.
fn machine(dc: usize, node: u8) -> u8 {
    dc as u8 * NODES + node - 1
}

/// The cluster on its network.
struct Cluster {
    // Ended before their network is taken down.
    running: Vec<Running>,
    clients: BTreeMap<(usize, u8), Client>,
    network: Network,
}

fn config(network: &Network, folder: &Path, dc: usize) -> PathBuf {
    let peer = |dc, node| SocketAddr::from((network.address(machine(dc, node)), 7500));
    let mut text = format!(
        "[cluster]\nname = \"real\"\nsecret = \"a secret of some length for a test\"\n[dc]\nname = \"{}\"\n",
        DCS[dc]
    );
    for node in 1..=NODES {
        let data = folder.join(format!("{}-{node}", DCS[dc]));
        let client = SocketAddr::from((network.address(machine(dc, node)), 7400));
        let _ = writeln!(
            text,
            "[nodes.n{node}]\nid = {node}\ndata_dir = {}\nclient_listen = \"{client}\"\npeer_listen = \"{}\"",
            json!(data.to_string_lossy()),
            peer(dc, node)
        );
    }
    for other in (0..DCS.len()).filter(|other| *other != dc) {
        let peers: Vec<String> = (1..=NODES).map(|node| format!("{node}={}", peer(other, node))).collect();
        let _ = writeln!(text, "[remotes.{}]\npeers = \"{}\"", DCS[other], peers.join(", "));
    }
    let path = folder.join(format!("{}.toml", DCS[dc]));
    std::fs::write(&path, text).expect("written");
    path
}

impl Cluster {
    async fn start(network: Network, folder: &Path) -> Self {
        let http = HttpClient::new();
        let (mut running, mut clients) = (Vec::new(), BTreeMap::new());
        for (dc, name) in DCS.iter().enumerate() {
            let config = config(&network, folder, dc);
            let config = config.to_str().expect("a path of text");
            for node in 1..=NODES {
                let [ip, words @ ..] = network.run_on(machine(dc, node));
                let of_node = format!("n{node}");
                let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
                words.extend([BINARY, "serve", "--config", config, "--node", &of_node]);
                let log = folder.join(format!("{name}-{node}.log"));
                running.push(Running::start(&ip, &words, &[], &log));
                let address = SocketAddr::from((network.address(machine(dc, node)), 7400));
                clients.insert((dc, node), Client::new(http.clone(), address));
            }
        }
        let cluster = Self { running, clients, network };
        cluster.ready().await;
        cluster
    }

    async fn ready(&self) {
        wait::until("all nodes are ready and all links are up", PATIENCE, async || {
            for ((dc, node), client) in &self.clients {
                let reply = client.send(&Ask::get("/readyz")).await.map_err(|e| e.to_string())?;
                let status = client.status().await.map_err(|e| e.to_string())?;
                let links = status["links"].as_array().into_iter().flatten();
                if !reply.done() || !links.into_iter().all(|link| link["connected"] == true) {
                    return Err(format!("{}/{node}: {} {}", DCS[*dc], reply.body, status["links"]));
                }
            }
            Ok(())
        })
        .await;
    }

    fn load(&self) -> Workload {
        let load = |(dc, name): (usize, &&str)| Load {
            dc: (*name).into(),
            nodes: (1..=NODES).map(|node| self.clients[&(dc, node)].clone()).collect(),
            writers: 4,
            operations_max: 100_000,
            run: "real".into(),
            repeat: true,
        };
        Workload::start(DCS.iter().enumerate().map(load).collect())
    }

    /// What the nodes of one DC send to those of another is lost, or arrives again.
    fn cut(&self, from: usize, to: usize, cut: bool) {
        for (a, b) in (1..=NODES).flat_map(|a| (1..=NODES).map(move |b| (a, b))) {
            let (a, b) = (machine(from, a), machine(to, b));
            if cut { self.network.cut_one_way(a, b) } else { self.network.heal_one_way(a, b) }
        }
    }

    async fn leader(&self, dc: usize, but: Option<u8>) -> u8 {
        let (leader, _) = wait::until("a leader", PATIENCE, async || {
            for node in (1..=NODES).filter(|node| Some(*node) != but) {
                let status = self.clients[&(dc, node)].status().await.map_err(|e| e.to_string())?;
                if status["role"] == "leader" {
                    return Ok(node);
                }
            }
            Err("nobody leads".to_owned())
        })
        .await;
        leader
    }

    /// Waits until the leader of a DC has noticed that it hears nothing of another one.
    async fn misses(&self, dc: usize, other: usize) {
        wait::until("silence is noticed", PATIENCE, async || {
            let mut seen = Vec::new();
            for node in 1..=NODES {
                let status = self.clients[&(dc, node)].status().await.map_err(|e| e.to_string())?;
                seen.extend(status["links"].as_array().cloned().unwrap_or_default());
            }
            let missed = |link: &Value| link["dc"] == DCS[other] && link["connected"] == false;
            if seen.iter().any(missed) { Ok(()) } else { Err(format!("{seen:?}")) }
        })
        .await;
    }

    /// Waits until all nodes agree, and returns what they hold.
    async fn agreed(&self) -> BTreeMap<String, Value> {
        let nodes: Vec<Client> = self.clients.values().cloned().collect();
        converged(&nodes, PATIENCE).await;
        contents(&self.clients[&(0, 1)]).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datacenters_go_on_and_merge_where_packets_vanish_and_wires_are_pulled() {
    let network = match Network::new(3 * NODES) {
        Ok(network) => network,
        Err(why) => return skipped("a network of our own", &why),
    };
    let folder = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::start(network, folder.path()).await;
    let load = cluster.load();
    load.progress(STEP, PATIENCE).await;

    // Both ways between two, and one way only between others: each DC writes on.
    cluster.cut(0, 1, true);
    cluster.cut(1, 0, true);
    cluster.cut(2, 1, true);
    for (dc, other) in [(0, 1), (1, 0), (1, 2)] {
        cluster.misses(dc, other).await;
    }
    load.progress(STEP * 2, PATIENCE).await;
    for (from, to) in [(0, 1), (1, 0), (2, 1)] {
        cluster.cut(from, to, false);
    }
    load.progress(STEP, PATIENCE).await;

    // The wire of a leader is pulled: its DC elects another, and it comes back as a follower.
    let leader = cluster.leader(0, None).await;
    cluster.network.plug(machine(0, leader), false);
    let next = cluster.leader(0, Some(leader)).await;
    assert_ne!(leader, next);
    load.progress(STEP, PATIENCE).await;
    cluster.network.plug(machine(0, leader), true);
    load.progress(STEP, PATIENCE).await;

    // A whole DC is unplugged: nobody reaches it, and the others write on.
    let unplugged = |plugged| (1..=NODES).for_each(|node| cluster.network.plug(machine(2, node), plugged));
    unplugged(false);
    load.progress(STEP, PATIENCE).await;
    unplugged(true);

    let history = load.finish().await;
    cluster.ready().await;
    let contents = cluster.agreed().await;
    let violations = acknowledged::check(&history, &contents);
    assert!(violations.is_empty(), "{violations:#?}");
    println!(
        "{} acknowledged, {} unknown, {} nodes agree",
        history.acked(),
        history.unknown(),
        cluster.running.len()
    );
}
