//! A node's disk that can be filled: a small file system in memory of its own, where its data folder points to.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::program::SmallDisk;

/// Several times what a node takes during a short run.
const DISK_BYTES: u64 = 400 << 20;
/// What is left free on a full disk: less than the headroom of [`CONFIG`], and enough for what is under way, which
/// redb's files take in steps of some MiB.
const LEFT_BYTES: u64 = 64 << 20;
/// How nodes on small disks are configured.
pub(super) const CONFIG: &str = "[storage]\ndisk_headroom = \"96MiB\"\ndisk_check_interval = \"100ms\"";

/// The disk of one node.
#[derive(Debug)]
pub(super) struct Disk {
    /// Unmounted before its folder is removed.
    _mounted: SmallDisk,
    folder: TempDir,
}

impl Disk {
    /// Makes a disk and lets the data folder of a node such as `eu-west/1` point to it, before the node starts.
    ///
    /// # Errors
    /// Why this cannot be done here.
    pub(super) fn of_node(cluster: &Path, node: &str) -> Result<Self, String> {
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let mounted = SmallDisk::mount(folder.path(), DISK_BYTES)?;
        let home = cluster.join(node);
        std::fs::create_dir_all(&home).map_err(|e| e.to_string())?;
        std::os::unix::fs::symlink(folder.path(), home.join("data")).map_err(|e| e.to_string())?;
        Ok(Self { _mounted: mounted, folder })
    }

    /// Fills it up to the last few MiB.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn fill(&self) -> Result<(), String> {
        let stat = nix::sys::statvfs::statvfs(self.folder.path()).map_err(|e| e.to_string())?;
        let free = stat.blocks_available() * stat.fragment_size();
        let len = usize::try_from(free.saturating_sub(LEFT_BYTES)).map_err(|e| e.to_string())?;
        std::fs::write(self.ballast(), vec![1; len]).map_err(|e| e.to_string())
    }

    /// Makes room again.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn make_room(&self) -> Result<(), String> {
        match std::fs::remove_file(self.ballast()) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.to_string()),
            _ => Ok(()),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.folder.path().join("ballast")
    }
}
