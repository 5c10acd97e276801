//! Meridian: one datacenter or several, three nodes each, started as plain `serve --config` processes of this very
//! program, with a network between the datacenters that delays and counts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::process::{Process, Usage, usage_of};
use super::wan::Wan;
use super::{NODES, POLL, READY_PATIENCE, System, empty, free_addresses, http};
use crate::args::Suite;
use crate::driver::Kind;
use crate::load::Target;

/// Datacenters and the network between them.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    dcs: Vec<Dc>,
    /// The network.
    pub wan: Wan,
}

/// One datacenter.
#[derive(Debug)]
struct Dc {
    addresses: Vec<String>,
    processes: Vec<Process>,
}

impl Cluster {
    /// Starts datacenters of these names with their files in `folder`, which is emptied, and waits until all nodes are
    /// ready and all links are up.
    pub async fn start(
        suite: &Suite,
        folder: &Path,
        names: &[&str],
        delay: Duration,
    ) -> Result<Self, String> {
        empty(folder)?;
        let mut wan = Wan::new(delay);
        let program = suite.program_of_nodes()?;
        let addresses = free_addresses(2 * NODES * names.len())?;
        let of_dc: Vec<(&[String], &[String])> =
            addresses.chunks(2 * NODES).map(|chunk| chunk.split_at(NODES)).collect();
        let mut dcs = Vec::new();
        for (dc, name) in names.iter().enumerate() {
            let (clients, peers) = of_dc[dc];
            let mut text = format!("[cluster]\nname = \"bench\"\n\n[dc]\nname = \"{name}\"\n");
            for (i, (client, peer)) in clients.iter().zip(peers).enumerate() {
                let id = i + 1;
                let data = Value::from(folder.join(format!("{name}-{id}")).to_string_lossy());
                text.push_str(&format!(
                    "\n[nodes.n{id}]\nid = {id}\ndata_dir = {data}\nclient_listen = \"{client}\"\n\
                     peer_listen = \"{peer}\"\n"
                ));
            }
            for (other, _) in names.iter().enumerate().filter(|(other, _)| *other != dc) {
                let mut ways = Vec::new();
                for (i, peer) in of_dc[other].1.iter().enumerate() {
                    ways.push(format!("{}={}", i + 1, wan.open(peer.clone()).await?));
                }
                text.push_str(&format!("\n[remotes.{}]\npeers = \"{}\"\n", names[other], ways.join(", ")));
            }
            let config = folder.join(format!("{name}.toml"));
            std::fs::write(&config, text).map_err(|e| e.to_string())?;
            let mut processes = Vec::new();
            for id in 1..=NODES {
                let config = config.to_string_lossy().into_owned();
                let args = ["serve", "--config", &config, "--node", &format!("n{id}")];
                let args = args.iter().map(ToString::to_string).collect();
                processes.push(Process::start(&program, args, folder.join(format!("{name}-{id}.log")))?);
            }
            dcs.push(Dc { addresses: clients.to_vec(), processes });
        }
        let mut cluster = Self { folder: folder.to_owned(), dcs, wan };
        cluster.wait_ready().await?;
        Ok(cluster)
    }

    async fn wait_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_PATIENCE;
        let links = self.dcs.len() - 1;
        for dc in &mut self.dcs {
            while let Some(missing) = missing_with_links(&dc.addresses, links).await {
                if let Some(words) = dc.processes.iter_mut().find_map(Process::words_if_ended) {
                    return Err(format!("a node has ended: {words}"));
                }
                if Instant::now() > deadline {
                    return Err(format!("Meridian does not get ready: {missing}"));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// The only datacenter as a system like the others.
    pub(super) fn into_system(self) -> System {
        let (addresses, processes) =
            self.dcs.into_iter().next().map(|dc| (dc.addresses, dc.processes)).unwrap_or_default();
        System { kind: Kind::Meridian, folder: self.folder, addresses, processes }
    }

    /// The leader of a datacenter, for clients.
    pub async fn target(&self, dc: usize) -> Result<Target, String> {
        let addresses = &self.dcs[dc].addresses;
        let leader = leader(addresses).await.ok_or("there is no leader")?;
        Ok(Target { kind: Kind::Meridian, addresses: vec![addresses[leader].clone()] })
    }

    /// What all nodes of a datacenter have used, and what the disk that all share has written.
    pub fn usage(&self, dc: usize) -> Usage {
        usage_of(&self.dcs[dc].processes, &self.folder)
    }

    /// How many txns of the datacenter called `origin` the leader of `dc` has applied.
    pub async fn applied(&self, dc: usize, origin: &str) -> Result<u64, String> {
        let address = &self.target(dc).await?.addresses[0];
        let status = http::get_json(address, "/v1/status").await?;
        Ok(status["vector"][origin].as_u64().unwrap_or(0))
    }

    /// Waits until no node has more changed rows in memory than that.
    pub async fn checkpointed(&self, bytes_max: u64, limit: Duration) -> Result<(), String> {
        let deadline = Instant::now() + limit;
        for address in self.dcs.iter().flat_map(|dc| &dc.addresses) {
            loop {
                let bytes = http::metric(address, "meridian_state_memory_bytes").await?;
                if bytes <= bytes_max as f64 {
                    break;
                }
                if Instant::now() > deadline {
                    return Err(format!("{bytes} bytes at {address} still wait for a checkpoint"));
                }
                tokio::time::sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Ends all nodes and removes their files.
    pub async fn stop(mut self) -> Result<(), String> {
        for process in self.dcs.iter_mut().flat_map(|dc| &mut dc.processes) {
            process.stop().await?;
        }
        std::fs::remove_dir_all(&self.folder).map_err(|e| e.to_string())
    }
}

/// What keeps a datacenter on its own from being ready.
pub async fn missing(addresses: &[String]) -> Option<String> {
    missing_with_links(addresses, 0).await
}

async fn missing_with_links(addresses: &[String], links: usize) -> Option<String> {
    for address in addresses {
        match http::get(address, "/readyz").await {
            Ok((200, _)) => {}
            Ok((status, body)) => return Some(format!("{address} answers {status}: {body}")),
            Err(why) => return Some(why),
        }
    }
    let Some(leader) = leader(addresses).await else { return Some("there is no leader".into()) };
    match http::get_json(&addresses[leader], "/v1/status").await {
        Ok(status) => {
            let listed = status["links"].as_array().map(Vec::as_slice).unwrap_or_default();
            let up = listed.iter().filter(|link| link["connected"] == true).count();
            (up < links).then(|| format!("{up} of {links} links are up"))
        }
        Err(why) => Some(why),
    }
}

/// Which node leads.
pub async fn leader(addresses: &[String]) -> Option<usize> {
    for (node, address) in addresses.iter().enumerate() {
        if http::get_json(address, "/v1/status").await.is_ok_and(|status| status["role"] == "leader") {
            return Some(node);
        }
    }
    None
}
