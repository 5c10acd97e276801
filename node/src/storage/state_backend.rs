//! The state file as the database writes it: what it writes is counted, goes to the disk in pieces, and no page goes there twice
//! for one commit.
//!
//! A commit of redb keeps its pages in memory, half a cache full of them. Those beyond are written early, and when it comes to the
//! checksums it fetches every page again and writes it once more, though only the upper ones have changed since. So a checkpoint
//! that touches more than half a cache writes twice what it has to. Here a page that was written since the database last asked for
//! a sync, and is to be written again as it stands, is left alone: it is durable, or made so by the same sync.
//!
//! A sync of a hundred megabytes keeps the disk from everybody else until it is done, and the next entry of the log waits. So
//! what a commit writes is synced piece by piece, and the log has its turn in between.

use std::collections::HashSet;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use crate::seams::Backend;

/// Pages of which it is known that they were written since the database last asked for a sync: some 32 MiB of memory at most.
/// Further ones are written as often as it says.
const PAGES_KNOWN_MAX: usize = 1 << 20;

/// How many bytes are written before they are synced: a few milliseconds' worth.
const PIECE_BYTES: u64 = 4 << 20;

/// The state file.
#[derive(Debug)]
pub(super) struct StateBackend {
    file: Backend,
    /// Bytes written so far.
    written: Arc<AtomicU64>,
    /// Where something was written since the database last asked for a sync.
    unsynced: Mutex<HashSet<u64>>,
    /// Bytes written since the last sync of either kind.
    piece: AtomicU64,
    /// Whether a sync has failed. Nobody knows then what is on the disk, and the system tells of it only once.
    failed: AtomicBool,
}

impl StateBackend {
    /// The file, which adds the bytes that are written into it to `written`.
    pub fn new(file: Backend, written: Arc<AtomicU64>) -> Self {
        let (unsynced, piece, failed) = (Mutex::default(), AtomicU64::new(0), AtomicBool::new(false));
        Self { file, written, unsynced, piece, failed }
    }

    fn unsynced(&self) -> MutexGuard<'_, HashSet<u64>> {
        // Under the lock nothing is done by halves.
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers that something was written at `offset`.
    fn note(&self, offset: u64) {
        let mut unsynced = self.unsynced();
        if unsynced.len() < PAGES_KNOWN_MAX {
            unsynced.insert(offset);
        }
    }

    /// Syncs what was written. The database passes over what fails while it only makes room in its memory: so a sync that has
    /// failed fails every later one.
    fn sync(&self) -> io::Result<()> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(io::Error::other("an earlier sync of the state file has failed"));
        }
        self.piece.store(0, Ordering::Relaxed);
        self.file.sync_data().inspect_err(|_| self.failed.store(true, Ordering::Relaxed))
    }

    /// Whether `data` stands at `offset` already. Whoever cannot tell writes it.
    fn stands(&self, offset: u64, data: &[u8]) -> bool {
        let mut there = vec![0; data.len()];
        self.file.read(offset, &mut there).is_ok() && there == data
    }
}

impl StorageBackend for StateBackend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()?;
        self.unsynced().clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let is_again = self.unsynced().contains(&offset);
        if is_again && self.stands(offset, data) {
            return Ok(());
        }
        self.file.write(offset, data)?;
        self.note(offset);
        let bytes = data.len() as u64;
        self.written.fetch_add(bytes, Ordering::Relaxed);
        match self.piece.fetch_add(bytes, Ordering::Relaxed) + bytes {
            ..PIECE_BYTES => Ok(()),
            _ => self.sync(),
        }
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

#[cfg(test)]
mod tests {
    use redb::{Database, TableDefinition};

    use super::*;
    use crate::seams::{Disk, SimDisk};

    fn file(disk: &SimDisk, create: bool) -> Backend {
        disk.open("/state".as_ref(), create).expect("a file")
    }

    #[test]
    fn what_was_written_since_the_last_sync_is_written_again_only_if_it_changed() {
        let written = Arc::<AtomicU64>::default();
        let state = StateBackend::new(file(&SimDisk::new(), true), written.clone());
        state.set_len(16).expect("grows");
        let after = |offset: u64, data: &[u8]| {
            state.write(offset, data).expect("written");
            let mut there = vec![0; data.len()];
            state.read(offset, &mut there).expect("read");
            assert_eq!(there, data);
            written.load(Ordering::Relaxed)
        };
        assert_eq!(after(0, &[1; 8]), 8);
        assert_eq!(after(0, &[1; 8]), 8, "it stands there");
        assert_eq!(after(0, &[2; 8]), 16, "it has changed");
        assert_eq!(after(0, &[2; 8]), 16);
        assert_eq!(after(4, &[2; 4]), 20, "nothing was written at this place");
        assert_eq!(after(0, &[2; 16]), 36, "more than stands there");
        state.sync_data().expect("synced");
        assert_eq!(after(0, &[2; 16]), 52, "the disk is only trusted with what it was just given");
    }

    /// A file that knows how much was written into it at most from one sync to the next, and of which one sync may fail.
    #[derive(Debug)]
    struct Watched {
        file: Backend,
        bytes: AtomicU64,
        most: Arc<AtomicU64>,
        fails: AtomicBool,
    }

    fn watched(most: &Arc<AtomicU64>, fails: bool) -> Backend {
        let (file, fails) = (file(&SimDisk::new(), true), AtomicBool::new(fails));
        Backend::new(Watched { file, bytes: AtomicU64::new(0), most: most.clone(), fails })
    }

    impl StorageBackend for Watched {
        fn len(&self) -> io::Result<u64> {
            self.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            if self.fails.swap(false, Ordering::Relaxed) {
                return Err(io::Error::other("the disk"));
            }
            self.bytes.store(0, Ordering::Relaxed);
            self.file.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            let bytes = data.len() as u64;
            let sum = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.most.fetch_max(sum, Ordering::Relaxed);
            self.file.write(offset, data)
        }
    }

    #[test]
    fn a_large_commit_is_synced_in_pieces() {
        let (most, written) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let state = StateBackend::new(watched(&most, false), written.clone());
        let db = Database::builder().set_cache_size(256 << 20).create_with_backend(state).expect("opens");
        let txn = db.begin_write().expect("a transaction");
        let mut rows = txn.open_table(ROWS).expect("a table");
        for key in 0..COUNT {
            rows.insert(key, [1; 200].as_slice()).expect("inserted");
        }
        drop(rows);
        txn.commit().expect("committed");
        let (written, most) = (written.load(Ordering::Relaxed), most.load(Ordering::Relaxed));
        assert!(written > 4 * PIECE_BYTES, "{written}");
        assert!(most < PIECE_BYTES + (1 << 20), "{most} bytes were written before a sync");
    }

    /// Story: the disk fails while pages are written to make room, which the database passes over. What is then said to be
    /// durable might not be.
    #[test]
    fn after_a_piece_that_could_not_be_synced_nothing_is_called_durable() {
        let state = StateBackend::new(watched(&Arc::default(), true), Arc::default());
        let piece = vec![1; usize::try_from(PIECE_BYTES).expect("fits")];
        state.set_len(2 * PIECE_BYTES).expect("grows");
        assert!(state.write(0, &piece).is_err());
        assert!(state.write(0, &piece).is_ok(), "it stands there");
        assert!(state.sync_data().is_err());
        assert!(state.write(PIECE_BYTES, &piece).is_err() && state.sync_data().is_err());
    }

    const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");
    const COUNT: u64 = 100_000;

    fn open(disk: &SimDisk, create: bool, cache_bytes: usize, written: &Arc<AtomicU64>) -> Database {
        let state = StateBackend::new(file(disk, create), written.clone());
        Database::builder().set_cache_size(cache_bytes).create_with_backend(state).expect("opens")
    }

    /// Writes all rows twice, and says how many bytes went to the disk the second time.
    fn rewrite(disk: &SimDisk, cache_bytes: usize) -> u64 {
        let written = Arc::<AtomicU64>::default();
        let db = open(disk, true, cache_bytes, &written);
        let mut before = 0;
        for value in [1, 2] {
            before = written.load(Ordering::Relaxed);
            let txn = db.begin_write().expect("a transaction");
            let mut rows = txn.open_table(ROWS).expect("a table");
            for key in 0..COUNT {
                rows.insert(key, [value; 100].as_slice()).expect("inserted");
            }
            drop(rows);
            txn.commit().expect("committed");
        }
        written.load(Ordering::Relaxed) - before
    }

    /// Story: a commit touches far more pages than the database keeps in memory, and the power fails after it.
    #[test]
    fn a_commit_that_is_larger_than_the_cache_writes_its_pages_once_and_is_there_after_a_power_cut() {
        let disk = SimDisk::new();
        let (small, large) = (rewrite(&disk, 12 << 20), rewrite(&SimDisk::new(), 64 << 20));
        assert!(small <= large + large / 50, "{small} with a small cache, {large} with a large one");
        let db = open(&disk.restart(1), false, 1 << 20, &Arc::default());
        let txn = redb::ReadableDatabase::begin_read(&db).expect("a transaction");
        let rows = txn.open_table(ROWS).expect("a table");
        for key in 0..COUNT {
            assert_eq!(rows.get(key).expect("read").expect("there").value(), [2; 100]);
        }
    }
}
