//! Starts and stops each system the same way: three nodes on loopback, their files on the same disk, every write synced.

pub mod etcd;
pub mod http;
pub mod meridian;
pub mod process;
pub mod redis;
pub mod wan;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::args::Suite;
use crate::driver::Kind;
use crate::load::Target;
use process::{Process, Usage, disk_bytes, usage_of};

/// Nodes of a system.
pub const NODES: usize = 3;
/// How long a system may take to be ready.
pub const READY_PATIENCE: Duration = Duration::from_secs(90);
/// Pause between two looks at whether it is.
const POLL: Duration = Duration::from_millis(20);

/// A running system of three nodes.
#[derive(Debug)]
pub struct System {
    kind: Kind,
    folder: PathBuf,
    /// Client addresses by node.
    addresses: Vec<String>,
    processes: Vec<Process>,
}

impl System {
    /// Starts a fresh one with its files in `folder`, which is emptied, and waits until it takes writes.
    pub async fn start(suite: &Suite, kind: Kind, folder: &Path) -> Result<Self, String> {
        empty(folder)?;
        let (addresses, processes) = match kind {
            Kind::Meridian => {
                let cluster = meridian::Cluster::start(suite, folder, &["home"], Duration::ZERO).await?;
                return Ok(cluster.into_system());
            }
            Kind::Etcd => etcd::start(folder).await?,
            Kind::Redis => redis::start(folder).await?,
        };
        let mut system = Self { kind, folder: folder.to_owned(), addresses, processes };
        system.wait_ready().await?;
        Ok(system)
    }

    /// Which system it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What keeps it from taking writes with its full durability; nothing once it is ready.
    async fn missing(&self) -> Option<String> {
        match self.kind {
            Kind::Meridian => meridian::missing(&self.addresses).await,
            Kind::Etcd => etcd::missing(&self.addresses).await,
            Kind::Redis => redis::missing(&self.addresses).await,
        }
    }

    /// Waits until it is ready.
    pub async fn wait_ready(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + READY_PATIENCE;
        while let Some(missing) = self.missing().await {
            if let Some(words) = self.processes.iter_mut().find_map(Process::words_if_ended) {
                return Err(format!("a node of {} has ended: {words}", self.kind.name()));
            }
            if Instant::now() > deadline {
                return Err(format!("{} does not get ready: {missing}", self.kind.name()));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Which node leads.
    pub async fn leader(&self) -> Result<usize, String> {
        let found = match self.kind {
            Kind::Meridian => meridian::leader(&self.addresses).await,
            Kind::Etcd => etcd::leader(&self.addresses).await,
            Kind::Redis => Some(0),
        };
        found.ok_or_else(|| format!("{} has no leader", self.kind.name()))
    }

    /// Where clients go: to the leader, or spread over all nodes. Redis takes writes at its primary only.
    pub async fn target(&self, spread: bool) -> Result<Target, String> {
        let addresses = match spread && self.kind != Kind::Redis {
            true => self.addresses.clone(),
            false => vec![self.addresses[self.leader().await?].clone()],
        };
        Ok(Target { kind: self.kind, addresses })
    }

    /// The client addresses of all nodes.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// What all nodes have used.
    pub fn usage(&self) -> Usage {
        usage_of(&self.processes, &self.folder)
    }

    /// How often the leader's log has been synced, of systems that say so.
    pub async fn log_syncs(&self) -> Result<Option<f64>, String> {
        let metric = match self.kind {
            Kind::Meridian => "meridian_log_syncs_total",
            Kind::Etcd => "etcd_disk_wal_fsync_duration_seconds_count",
            Kind::Redis => return Ok(None),
        };
        http::metric(&self.addresses[self.leader().await?], metric).await.map(Some)
    }

    /// What the files of all nodes occupy.
    pub fn disk_bytes(&self) -> u64 {
        disk_bytes(&self.folder)
    }

    /// Kills one node as a crash would.
    pub async fn kill(&mut self, node: usize) -> Result<(), String> {
        self.processes[node].kill().await
    }

    /// Starts a killed node again.
    pub fn start_again(&mut self, node: usize) -> Result<(), String> {
        self.processes[node].start_again()
    }

    /// Ends all nodes and removes their files.
    pub async fn stop(mut self) -> Result<(), String> {
        for process in &mut self.processes {
            process.stop().await?;
        }
        std::fs::remove_dir_all(&self.folder).map_err(|e| format!("{}: {e}", self.folder.display()))
    }
}

/// Makes a folder that is there and empty.
pub fn empty(folder: &Path) -> Result<(), String> {
    let told = |e: std::io::Error| format!("{}: {e}", folder.display());
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(told(e)),
        _ => {}
    }
    std::fs::create_dir_all(folder).map_err(told)
}

/// Addresses on loopback that are free now.
pub fn free_addresses(count: usize) -> Result<Vec<String>, String> {
    // All are held until the last is found, so that none is found twice.
    let held: Result<Vec<_>, _> = (0..count).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect();
    let addresses = held.and_then(|held| held.iter().map(|one| Ok(one.local_addr()?.to_string())).collect());
    addresses.map_err(|e: std::io::Error| e.to_string())
}

/// The first line that a program says with `--version`.
pub fn version_of(program: &Path) -> Result<String, String> {
    let said = std::process::Command::new(program).arg("--version").output();
    let said = said.map_err(|e| format!("{}: {e}", program.display()))?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
