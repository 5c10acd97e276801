//! The data folder of a node: who may open it, and what is in it: the state's file and the segments of the log.
//!
//! A file is created under a temporary name, synced and renamed, because a crash inside redb's own creation leaves a
//! file that no longer opens. The log is created before the state: a state without a log means that files were lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use redb::Database;
use uuid::Uuid;

use super::incoming;
use super::log::{self, Files};
use super::state_backend::StateBackend;
use super::tables::{self, Owner, OwnerError};
use super::{Fatal, Incoming, LogStore, StateStore, StorageError};
use crate::seams::{Disk, FolderLock, Seams, Urgency};

/// The format that this program writes. In format 1 the log was a database too. In format 2 every txn of the oplog had a
/// row in its index, and up to format 3 every txn one in the oplog itself and every bucket of digests one of its own: what is
/// there is read as it is, and goes as it would have gone.
pub const FORMAT_VERSION: u32 = 4;
/// The oldest format that is read. The folder becomes one of the newest.
const FORMAT_OLDEST: u32 = 2;

const STATE: &str = "state.redb";
/// The log of format 1.
const LOG_OF_1: &str = "log.redb";
const NEW_SUFFIX: &str = ".new";
/// What the names of state files that are not whole yet begin with.
const INCOMING: &str = "state.incoming";

/// Whose data it is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// The datacenter's name.
    pub dc: String,
    /// The node's id in its datacenter.
    pub node: u64,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {}/{} of cluster {}", self.dc, self.node, self.cluster)
    }
}

/// How to open a data folder.
#[derive(Clone, Debug)]
pub struct FolderConfig {
    /// The folder; made if it does not exist.
    pub path: PathBuf,
    /// Who opens it.
    pub identity: Identity,
    /// Page cache of the state file, in bytes (default 64 MiB). More makes reads of a large state faster.
    pub state_cache_bytes: usize,
    /// Changed rows of the state that are kept in memory until a checkpoint puts them into the file, in bytes (default
    /// 64 MiB). As much again may be on its way into the file; when both are full, applying waits for the disk.
    pub overlay_bytes: usize,
    /// How large a segment of the log is made, in bytes (default 16 MiB). Larger ones are begun less often.
    pub log_segment_bytes: u32,
    /// Log entries kept in memory for replication and apply, in bytes (default 16 MiB).
    pub entry_cache_bytes: usize,
    /// Bytes that must stay free on the disk (default 256 MiB); writes are refused below that.
    pub headroom_bytes: u64,
}

impl FolderConfig {
    /// The defaults for a folder of this owner.
    pub fn new(path: impl Into<PathBuf>, identity: Identity) -> Self {
        Self {
            path: path.into(),
            identity,
            state_cache_bytes: 64 << 20,
            overlay_bytes: 64 << 20,
            log_segment_bytes: 16 << 20,
            entry_cache_bytes: 16 << 20,
            headroom_bytes: 256 << 20,
        }
    }
}

/// An open data folder; other processes are kept out until it is dropped.
pub struct Folder {
    disk: Arc<dyn Disk>,
    config: FolderConfig,
    store_id: Uuid,
    state_written: Arc<AtomicU64>,
    /// How many state files were begun to be received since it was opened.
    incoming_begun: AtomicU64,
    _lock: Box<dyn FolderLock>,
}

impl std::fmt::Debug for Folder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folder").field("path", &self.config.path).finish_non_exhaustive()
    }
}

/// What is in an open folder.
#[derive(Debug)]
pub struct Opened {
    /// The folder itself.
    pub folder: Arc<Folder>,
    /// The state file.
    pub state: StateStore,
    /// The log.
    pub log: LogStore,
    /// Whether the folder was made just now.
    pub created: bool,
    /// Where a failure that must stop the process is told.
    pub fatal: Fatal,
}

impl Folder {
    /// Opens the folder, or makes it. Blocking, but only at start. A folder that it refuses keeps all its data; the
    /// database may have been recovered from its last crash, as its owner would have done.
    pub fn open(config: FolderConfig, seams: &Seams) -> Result<Opened, StorageError> {
        let disk = seams.disk.clone();
        let path = config.path.clone();
        disk.create_dir(&path)?;
        let lock = disk.lock_dir(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => StorageError::Locked { folder: path.display().to_string() },
            _ => error.into(),
        })?;
        if disk.exists(&path.join(LOG_OF_1))? {
            return Err(StorageError::OldFormat {
                folder: path.display().to_string(),
                found: 1,
                known: FORMAT_OLDEST,
            });
        }
        let created = match (disk.exists(&path.join(STATE))?, Files::list(disk.as_ref(), &path)?) {
            (true, files) if files.is_log() => false,
            (true, _) => {
                return Err(StorageError::corrupt(format!("{} has a state but no log", path.display())));
            }
            (false, files) => {
                create(disk.as_ref(), &config, seams.random.uuid(), &files)?;
                true
            }
        };
        for name in disk.list(&path)?.iter().filter(|name| name.starts_with(INCOMING)) {
            disk.remove(&path.join(name))?;
        }
        let fatal = Fatal::new();
        let state_written = Arc::<AtomicU64>::default();
        let (state, state_owner) = open_state(disk.as_ref(), &config, state_written.clone())?;
        let files = Files::list(disk.as_ref(), &path)?;
        let read = log::Read::of(disk.as_ref(), &path, &files)?;
        if state_owner.store_id != read.store_id() {
            return Err(StorageError::corrupt(format!(
                "the state and the log in {} were not made together",
                path.display()
            )));
        }
        let site = log::Site {
            disk: disk.clone(),
            clock: seams.clock.clone(),
            folder: path,
            segment_bytes: config.log_segment_bytes,
            headroom_bytes: config.headroom_bytes,
        };
        let cache_bytes = config.entry_cache_bytes;
        let folder = Arc::new(Self {
            disk,
            config,
            store_id: state_owner.store_id,
            state_written,
            incoming_begun: AtomicU64::new(0),
            _lock: lock,
        });
        let executor = seams.executor.as_ref();
        let log = LogStore::open(read, &files, site, cache_bytes, executor, folder.clone(), fatal.clone())?;
        let state = StateStore::new(
            state,
            executor.worker("checkpoint", Urgency::Background),
            folder.config.overlay_bytes,
            folder.clone(),
            fatal.clone(),
        )?;
        Ok(Opened { state, log, created, fatal, folder })
    }

    /// Bytes that have been written into state files since the folder was opened.
    pub(super) fn state_written(&self) -> u64 {
        self.state_written.load(Ordering::Relaxed)
    }

    /// Who owns the folder.
    pub fn identity(&self) -> &Identity {
        &self.config.identity
    }

    /// The id minted when the folder was made; a wiped node comes back with another one.
    pub fn store_id(&self) -> Uuid {
        self.store_id
    }

    /// Refuses with [`StorageError::Full`] when less than the headroom is free. Ask before taking a write.
    pub fn check_headroom(&self) -> Result<(), StorageError> {
        let free = self.disk.free_bytes(&self.config.path)?;
        let headroom = self.config.headroom_bytes;
        if free < headroom { Err(StorageError::Full { free, headroom }) } else { Ok(()) }
    }

    /// Starts a state file that is received from elsewhere. Blocking.
    pub fn incoming(self: &Arc<Self>) -> Result<Incoming, StorageError> {
        self.check_headroom()?;
        let number = self.incoming_begun.fetch_add(1, Ordering::Relaxed);
        let path = self.config.path.join(format!("{INCOMING}.{number}"));
        let name = incoming::Name { path, folder: self.clone() };
        let backend = StateBackend::new(self.disk.open(&name.path, true)?, self.state_written.clone());
        let db = tables::open_database(backend, self.config.state_cache_bytes)?;
        let owner = owner_of(&self.config, self.store_id);
        tables::initialise(&db, &owner, &tables::state_tables())?;
        Ok(Incoming::new(name, db))
    }

    /// Removes a received file that did not become the state. One that cannot be removed is when the folder is opened again.
    pub(super) fn remove_incoming(&self, path: &Path) {
        if let Err(error) = self.disk.remove(path) {
            tracing::warn!(path = %path.display(), %error, "a received file that is not used cannot be removed");
        }
    }

    /// Puts a complete received state file, already durable, in the place of the state. Blocking.
    ///
    /// After a crash in here the folder holds either the old state or the whole new one.
    pub(super) fn swap(
        &self,
        path: &Path,
        incoming: Database,
        state: &StateStore,
    ) -> Result<(), StorageError> {
        self.disk.rename(path, &self.config.path.join(STATE))?;
        self.disk.sync_dir(&self.config.path)?;
        state.replace(incoming)
    }
}

fn owner_of(config: &FolderConfig, store_id: Uuid) -> Owner {
    Owner { format: FORMAT_VERSION, identity: config.identity.clone(), store_id }
}

fn create(disk: &dyn Disk, config: &FolderConfig, store_id: Uuid, files: &Files) -> Result<(), StorageError> {
    if files.is_log() && log::Read::of(disk, &config.path, files)?.is_used() {
        let path = config.path.display();
        return Err(StorageError::corrupt(format!("{path} has a log with entries but no state")));
    }
    log::create(disk, &config.path, store_id, config.log_segment_bytes)?;
    create_state(disk, &config.path, &owner_of(config, store_id))
}

fn create_state(disk: &dyn Disk, folder: &Path, owner: &Owner) -> Result<(), StorageError> {
    const CREATE_CACHE_BYTES: usize = 1 << 20;
    let new = folder.join(format!("{STATE}{NEW_SUFFIX}"));
    let db = tables::open_database(disk.open(&new, true)?, CREATE_CACHE_BYTES)?;
    tables::initialise(&db, owner, &tables::state_tables())?;
    // Closing marks the file clean; the rename must not overtake that.
    drop(db);
    disk.rename(&new, &folder.join(STATE))?;
    Ok(disk.sync_dir(folder)?)
}

fn open_state(
    disk: &dyn Disk,
    config: &FolderConfig,
    written: Arc<AtomicU64>,
) -> Result<(Database, Owner), StorageError> {
    let folder = || config.path.display().to_string();
    let backend = StateBackend::new(disk.open(&config.path.join(STATE), false)?, written);
    let db = tables::open_database(backend, config.state_cache_bytes)?;
    let owner = tables::owner(&db).map_err(|error| match error {
        OwnerError::Newer(found) => {
            StorageError::NewerFormat { folder: folder(), found, known: FORMAT_VERSION }
        }
        OwnerError::Storage(error) => error,
    })?;
    let owner =
        owner.ok_or_else(|| StorageError::corrupt(format!("the state in {} has no owner", folder())))?;
    if owner.format < FORMAT_OLDEST {
        let (found, known) = (owner.format, FORMAT_OLDEST);
        return Err(StorageError::OldFormat { folder: folder(), found, known });
    }
    if owner.identity != config.identity {
        return Err(StorageError::Foreign {
            folder: folder(),
            found: owner.identity.to_string(),
            expected: config.identity.to_string(),
        });
    }
    if owner.format < FORMAT_VERSION {
        // From now on no older program may open it: it would not find what the newer one has written.
        tables::initialise(&db, &Owner { format: FORMAT_VERSION, ..owner.clone() }, &[])?;
    }
    Ok((db, owner))
}
