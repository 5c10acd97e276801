//! A cluster that a fault can strike: with a network inside its DCs, and what else the fault needs.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian::dev::ClusterOptions;
use meridian::dev::wan::{Wan, Weather};
use tempfile::TempDir;

use super::Fault;
use super::bad_sync::BadSync;
use super::disk::{self, Disk};
use crate::fleet::Fleet;

/// DCs of a world.
pub(super) const DCS: [&str; 3] = ["eu-west", "us-east", "ap-south"];
/// Nodes of each.
const NODES: usize = 3;
/// The DC whose nodes have small disks, where the fault needs them.
pub(super) const SMALL_DISKS_DC: &str = DCS[0];
/// One-way delay between DCs.
const LATENCY: Duration = Duration::from_millis(20);
/// So that logs are purged, followers that were away need snapshots, kills meet checkpoints, and entries wait for requests of some
/// loads.
const SMALL: &str = "[raft]\nsnapshot_every = 200\nentry_requests_gathered = 4\n";

/// Three DCs of three nodes.
#[derive(Debug)]
pub struct World {
    fleet: Fleet,
    /// By node. Unmounted when the processes have ended.
    pub(super) disks: BTreeMap<String, Disk>,
    /// Whether nodes run behind the library of [`BadSync`].
    pub(super) bad_sync: bool,
    /// Holds that library.
    _folder: TempDir,
}

impl World {
    /// Starts the processes, prepared for a fault, and waits until they are ready.
    ///
    /// # Errors
    /// Why this machine cannot make the fault.
    ///
    /// # Panics
    /// When the cluster does not become ready.
    pub async fn start(binary: &str, fault: Fault) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mut extra = SMALL.to_string();
        if fault == Fault::FullDisk {
            extra.push_str(disk::CONFIG);
        } else {
            extra.push_str("[storage]\ncheckpoint_interval = \"300ms\"");
        }
        let mut program = binary.to_string();
        if fault == Fault::FailingSync {
            let built = BadSync::build(binary, folder.path())?;
            program = built.program.to_string_lossy().into_owned();
        }
        let mut disks = BTreeMap::new();
        let prepare = |cluster: &std::path::Path| {
            if fault == Fault::FullDisk {
                for node in (1..=NODES).map(|id| format!("{SMALL_DISKS_DC}/{id}")) {
                    disks.insert(node.clone(), Disk::of_node(cluster, &node)?);
                }
            }
            Ok(ClusterOptions {
                dcs: Some(DCS.len()),
                nodes: Some(NODES),
                latency: LATENCY,
                network_inside: true,
                extra_config: extra,
                ..ClusterOptions::new(program, cluster)
            })
        };
        let fleet = Fleet::start_prepared(prepare).await?;
        Ok(Self { fleet, disks, bad_sync: fault == Fault::FailingSync, _folder: folder })
    }

    /// The cluster.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Keeps the nodes' files and logs when the world ends, and says where.
    pub fn keep_files(&self) {
        self.fleet.keep_files();
    }

    /// The network inside DCs.
    ///
    /// # Panics
    /// Never: each world is made with one.
    pub(super) fn inside(&self) -> &Wan {
        self.fleet.cluster().inside().expect("made with a network inside")
    }

    /// Repairs everything that any fault may have broken, dead nodes included; returns when their processes listen.
    ///
    /// # Errors
    /// What could not be repaired: a node that does not start, for one.
    pub async fn heal_all(&self) -> Result<(), String> {
        let cluster = self.fleet.cluster();
        for wan in [cluster.wan(), self.inside()] {
            wan.heal_all();
        }
        cluster.wan().set_weather(Weather { latency: LATENCY, ..Weather::default() });
        self.inside().set_weather(Weather::default());
        for disk in self.disks.values() {
            disk.make_room()?;
        }
        let mut problems = Vec::new();
        for dc in cluster.description().dcs {
            for node in dc.nodes {
                let name = format!("{}/{}", dc.name, node.id);
                self.stop_bad_sync(&name);
                let healed = match node.pid {
                    None => cluster.restart(&name).await,
                    Some(_) => cluster.resume(&name).await,
                };
                if let Err(e) = healed {
                    problems.push(format!("{name} does not return: {e}"));
                }
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems.join("; ")) }
    }

    /// Lets the syncs of a node succeed again, once it is restarted.
    pub(super) fn stop_bad_sync(&self, node: &str) {
        if self.bad_sync
            && let Err(e) = std::fs::remove_file(BadSync::sign(self.fleet.folder(), node))
            && e.kind() != std::io::ErrorKind::NotFound
        {
            panic!("the sign of a bad sync cannot be removed: {e}");
        }
    }
}
