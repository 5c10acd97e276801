//! A disk in memory whose power can be cut, for tests and simulation.
//!
//! It keeps apart what was synced and what was only written. [`SimDisk::cut_after`] fails every operation after the
//! k-th that changes something; [`SimDisk::restart`] gives the disk that a machine finds after that: what was synced,
//! and a seeded subset of the 512-byte sectors, lengths and renames that were not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use redb::StorageBackend;

use super::{Backend, Disk, FolderLock};

const SECTOR: usize = 512;

/// Plenty, unless a test says otherwise.
const FREE_BYTES: u64 = 1 << 40;

/// A disk in memory. Clones are handles to the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    files: Vec<Contents>,
    names: BTreeMap<PathBuf, usize>,
    synced_names: BTreeMap<PathBuf, usize>,
    locked: BTreeSet<PathBuf>,
    changes: u64,
    changes_max: u64,
    free_bytes: u64,
}

#[derive(Clone, Debug, Default)]
struct Contents {
    now: Vec<u8>,
    synced: Vec<u8>,
    dirty: BTreeSet<usize>,
}

impl State {
    /// Counts an operation that changes something; fails when the power is off.
    fn change(&mut self) -> io::Result<()> {
        self.power()?;
        self.changes += 1;
        Ok(())
    }

    fn power(&self) -> io::Result<()> {
        if self.changes >= self.changes_max { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            files: Vec::new(),
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            locked: BTreeSet::new(),
            changes: 0,
            changes_max: u64::MAX,
            free_bytes: FREE_BYTES,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How many writes, syncs, renames and the like there were.
    pub fn changes(&self) -> u64 {
        self.state().changes
    }

    /// Lets this many more changes happen and fails everything after them.
    pub fn cut_after(&self, changes: u64) {
        let mut state = self.state();
        state.changes_max = state.changes.saturating_add(changes);
    }

    /// Sets what [`Disk::free_bytes`] says.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.state().free_bytes = bytes;
    }

    /// The disk as it is found after a power cut now; what was not synced is kept or lost by `seed`.
    pub fn restart(&self, seed: u64) -> Self {
        let state = self.state();
        let mut rng = SmallRng::seed_from_u64(seed);
        let files = state.files.iter().map(|file| survivor(file, &mut rng)).collect();
        // A journalling file system keeps renames in order: all of them, or what was synced.
        let names = if rng.random() { state.names.clone() } else { state.synced_names.clone() };
        let found = Self::new();
        {
            let mut after = found.state();
            after.files = files;
            after.synced_names = names.clone();
            after.names = names;
            after.free_bytes = state.free_bytes;
        }
        found
    }

    /// The disk as the next process finds it after the last one has died: all that was written, and the power is on. What
    /// was not synced still goes with the next power cut.
    pub fn handover(&self) -> Self {
        let state = self.state();
        let found = Self::new();
        {
            let mut after = found.state();
            after.files = state.files.clone();
            after.names = state.names.clone();
            after.synced_names = state.synced_names.clone();
            after.free_bytes = state.free_bytes;
        }
        found
    }

    /// Where some bytes first stand in a file.
    pub fn find(&self, path: &Path, bytes: &[u8]) -> Option<usize> {
        let state = self.state();
        let file = &state.files[*state.names.get(path)?];
        file.now.windows(bytes.len()).position(|window| window == bytes)
    }

    /// Changes one bit of a file, as a rotten disk does; says whether the file is that long.
    pub fn flip_bit(&self, path: &Path, bit: usize) -> bool {
        let mut state = self.state();
        let Some(id) = state.names.get(path).copied() else { return false };
        let Contents { now, synced, .. } = &mut state.files[id];
        for bytes in [now, synced] {
            match bytes.get_mut(bit / 8) {
                Some(byte) => *byte ^= 1 << (bit % 8),
                None => return false,
            }
        }
        true
    }
}

fn survivor(file: &Contents, rng: &mut SmallRng) -> Contents {
    let mut bytes = file.synced.clone();
    if file.now.len() != bytes.len() && rng.random() {
        bytes.resize(file.now.len(), 0);
    }
    for sector in &file.dirty {
        let start = sector * SECTOR;
        let end = (start + SECTOR).min(file.now.len()).min(bytes.len());
        if start < end && rng.random() {
            bytes[start..end].copy_from_slice(&file.now[start..end]);
        }
    }
    Contents { now: bytes.clone(), synced: bytes, dirty: BTreeSet::new() }
}

struct SimLock(SimDisk, PathBuf);

impl FolderLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.state().locked.remove(&self.1);
    }
}

impl Disk for SimDisk {
    fn create_dir(&self, _path: &Path) -> io::Result<()> {
        self.state().power()
    }

    fn lock_dir(&self, path: &Path) -> io::Result<Box<dyn FolderLock>> {
        if !self.state().locked.insert(path.to_owned()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock(self.clone(), path.to_owned())))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.state();
        state.power()?;
        Ok(state.names.contains_key(path))
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let state = self.state();
        state.power()?;
        let inside = state.names.keys().filter(|path| path.parent() == Some(folder));
        Ok(inside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Backend> {
        let mut state = self.state();
        state.power()?;
        let id = match (state.names.get(path).copied(), create) {
            (Some(id), false) => id,
            (None, false) => return Err(io::ErrorKind::NotFound.into()),
            (_, true) => {
                state.change()?;
                state.files.push(Contents::default());
                let id = state.files.len() - 1;
                state.names.insert(path.to_owned(), id);
                id
            }
        };
        Ok(Backend::new(SimFile { disk: self.clone(), id }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        let id = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), id);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.names.remove(path);
        Ok(())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        state.synced_names = state.names.clone();
        Ok(())
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.state().free_bytes)
    }
}

#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    id: usize,
}

impl StorageBackend for SimFile {
    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.power()?;
        Ok(state.files[self.id].now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.disk.state();
        state.power()?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let found = state.files[self.id].now.get(start..start + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        state.files[self.id].now.resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        let Contents { now, synced, dirty } = &mut state.files[self.id];
        synced.resize(now.len(), 0);
        for sector in std::mem::take(dirty) {
            let start = (sector * SECTOR).min(now.len());
            let end = (start + SECTOR).min(now.len());
            synced[start..end].copy_from_slice(&now[start..end]);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.change()?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let end = start + data.len();
        let file = &mut state.files[self.id];
        file.now.get_mut(start..end).ok_or(io::ErrorKind::UnexpectedEof)?.copy_from_slice(data);
        file.dirty.extend(start / SECTOR..end.div_ceil(SECTOR));
        Ok(())
    }
}
