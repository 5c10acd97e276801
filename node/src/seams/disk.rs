//! Files and folders, as little of them as a node needs.
//!
//! Files are opened as redb [`StorageBackend`]s, which read, write and sync at places; everything else is a listing, a
//! rename, a removal, or a sync of a folder.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use redb::StorageBackend;
use redb::backends::FileBackend;

/// Holds a folder for this process until it is dropped.
pub trait FolderLock: Send + Sync + 'static {}

/// The disk.
pub trait Disk: Send + Sync + 'static {
    /// Makes a folder and those above it, durably; one that exists is fine.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// Locks a folder against other processes; `WouldBlock` if another one holds it.
    fn lock_dir(&self, path: &Path) -> io::Result<Box<dyn FolderLock>>;

    /// Whether there is a file.
    fn exists(&self, path: &Path) -> io::Result<bool>;

    /// The names of the files in a folder, in order.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;

    /// Opens a file; `create` makes an empty one, replacing what is there.
    fn open(&self, path: &Path, create: bool) -> io::Result<Backend>;

    /// The same, for a file that is written past the operating system's cache, where the place, the length and the
    /// memory of a write are multiples of [`DIRECT_ALIGN`] and the file system can do it.
    fn open_direct(&self, path: &Path, create: bool) -> io::Result<Backend> {
        self.open(path, create)
    }

    /// Renames a file over another. Durable only after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; one that does not exist is fine.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes creations, renames and removals in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Bytes that can still be written in the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// What direct writes are aligned to, in bytes: what disks and file systems ask for, or a multiple of it.
pub const DIRECT_ALIGN: usize = 4096;

/// An open file, of any disk.
#[derive(Debug)]
pub struct Backend {
    storage: Box<dyn StorageBackend>,
    /// The same file once more, where writes can go past the operating system's cache, which keeps both in step.
    direct: Option<File>,
}

impl Backend {
    /// Wraps a disk's own storage.
    pub fn new(backend: impl StorageBackend) -> Self {
        Self { storage: Box::new(backend), direct: None }
    }
}

fn is_aligned(offset: u64, data: &[u8]) -> bool {
    let aligned = |n: usize| n.is_multiple_of(DIRECT_ALIGN);
    offset.is_multiple_of(DIRECT_ALIGN as u64) && aligned(data.len()) && aligned(data.as_ptr().addr())
}

// Locking is left at its default: the folder's lock already excludes every other process.
impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.storage.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.storage.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.storage.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.storage.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if let Some(direct) = self.direct.as_ref().filter(|_| is_aligned(offset, data)) {
            match direct.write_all_at(data, offset) {
                // Some file systems refuse only now.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                result => return result,
            }
        }
        self.storage.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.storage.close()
    }
}

/// The file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileDisk;

const LOCK_FILE: &str = "lock";

// The lock lives as long as the open file; the operating system drops it with the process, however that dies.
struct LockedFolder {
    _file: File,
}

impl FolderLock for LockedFolder {}

impl Disk for FileDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        // The name of each that is made stands in the one above. That of `path` may be there and not be durable yet.
        let mut made = vec![path];
        for above in path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
            if above.try_exists()? {
                break;
            }
            made.push(above);
        }
        std::fs::create_dir_all(path)?;
        for folder in made {
            match folder.parent() {
                Some(above) if above.as_os_str().is_empty() => self.sync_dir(Path::new("."))?,
                Some(above) => self.sync_dir(above)?,
                None => {}
            }
        }
        Ok(())
    }

    fn lock_dir(&self, path: &Path) -> io::Result<Box<dyn FolderLock>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK_FILE))?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(LockedFolder { _file: file })),
            Err(std::fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            // What has no readable name is nobody's of ours.
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Backend> {
        let file = OpenOptions::new().read(true).write(true).create(create).truncate(create).open(path)?;
        FileBackend::new(file).map(Backend::new).map_err(io::Error::other)
    }

    fn open_direct(&self, path: &Path, create: bool) -> io::Result<Backend> {
        let file = self.open(path, create)?;
        match OpenOptions::new().write(true).custom_flags(nix::libc::O_DIRECT).open(path) {
            Ok(direct) => Ok(Backend { direct: Some(direct), ..file }),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(file),
            Err(error) => Err(error),
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = nix::sys::statvfs::statvfs(path)?;
        Ok(stat.blocks_available().saturating_mul(stat.fragment_size()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_locked_once_and_free_again_when_the_lock_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let lock = FileDisk.lock_dir(dir.path()).unwrap();
        let again = FileDisk.lock_dir(dir.path()).err().unwrap();
        assert_eq!(again.kind(), io::ErrorKind::WouldBlock);
        drop(lock);
        FileDisk.lock_dir(dir.path()).unwrap();
    }

    /// Writes of either kind are seen by reads, wherever they meet in a page.
    #[test]
    fn direct_and_other_writes_go_to_the_same_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = FileDisk.open_direct(&dir.path().join("f"), true).unwrap();
        file.set_len(3 * DIRECT_ALIGN as u64).unwrap();
        let memory = vec![1; 3 * DIRECT_ALIGN];
        let page = &memory[memory.as_ptr().align_offset(DIRECT_ALIGN)..][..DIRECT_ALIGN];
        assert!(is_aligned(4096, page) && !is_aligned(512, page) && !is_aligned(4096, &page[..512]));
        let mut expected = vec![0; 3 * DIRECT_ALIGN];
        let mut found = expected.clone();
        for (offset, data) in [(4096, page), (4090, &[2; 9]), (4096, page), (4100, &[3; 2]), (0, page)] {
            file.write(offset, data).unwrap();
            expected[offset as usize..][..data.len()].copy_from_slice(data);
            file.read(0, &mut found).unwrap();
            assert!(found == expected, "after {} bytes at {offset}", data.len());
        }
        file.sync_data().unwrap();
    }

    #[test]
    fn a_folder_lists_its_files_in_order() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b", "a"] {
            FileDisk.open(&dir.path().join(name), true).unwrap();
        }
        assert_eq!(FileDisk.list(dir.path()).unwrap(), ["a", "b"]);
        FileDisk.list(&dir.path().join("nothing")).unwrap_err();
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let dir = tempfile::tempdir().unwrap();
        FileDisk.remove(&dir.path().join("nothing")).unwrap();
        assert!(FileDisk.free_bytes(dir.path()).unwrap() > 0);
    }
}
