//! Whole pages, in which batches are written.
//!
//! A batch goes past the operating system's cache where the file system can do that, for which it has to be whole pages.
//! So the first page has once more what stands in it already, which is on disk and stays what it is, and the last one
//! ends in zeros, over which the next batch writes. The cache would be of no use, since the youngest entries are in
//! memory anyway, and filling it takes more processor time than the write.

use std::io;

use redb::StorageBackend;

use crate::seams::{Backend, DIRECT_ALIGN};

/// The buffer of a larger batch is given back.
pub(super) const BUFFER_BYTES_MAX: usize = 8 << 20;

/// Memory that begins at a multiple of [`DIRECT_ALIGN`].
#[derive(Debug, Default)]
pub(super) struct Aligned(Vec<u8>);

impl Aligned {
    /// The first `len` bytes, whatever is in them.
    pub(super) fn bytes(&mut self, len: usize) -> &mut [u8] {
        if self.0.len() < len + DIRECT_ALIGN {
            self.0 = vec![0; len + DIRECT_ALIGN];
        }
        let from = self.0.as_ptr().align_offset(DIRECT_ALIGN);
        &mut self.0[from..from + len]
    }
}

/// The end of a segment's records, and what stands before it in its page.
#[derive(Debug)]
pub(super) struct Pages {
    /// Where the next record goes.
    at: u32,
    /// From the beginning of the page up to there.
    begun: Vec<u8>,
    buffer: Aligned,
}

impl Pages {
    /// For records from `at` on, behind what `file` has there.
    pub(super) fn open(file: &Backend, at: u32) -> io::Result<Self> {
        let mut begun = vec![0; at as usize % DIRECT_ALIGN];
        file.read(u64::from(at) - begun.len() as u64, &mut begun)?;
        Ok(Self { at, begun, buffer: Aligned::default() })
    }

    /// Where the next record goes.
    pub(super) fn at(&self) -> u32 {
        self.at
    }

    /// Writes `bytes` behind what is there, which ends below `capacity` with them.
    pub(super) fn write(&mut self, file: &Backend, capacity: u32, bytes: &[u8]) -> io::Result<()> {
        let (begun, from) = (self.begun.len(), self.at as usize - self.begun.len());
        let end = begun + bytes.len();
        let len = end.next_multiple_of(DIRECT_ALIGN).min(capacity as usize - from);
        let pages = self.buffer.bytes(len);
        pages[..begun].copy_from_slice(&self.begun);
        pages[begun..end].copy_from_slice(bytes);
        pages[end..].fill(0);
        file.write(from as u64, pages)?;
        self.begun.clear();
        self.begun.extend_from_slice(&pages[end - end % DIRECT_ALIGN..end]);
        self.at += bytes.len() as u32;
        if len > BUFFER_BYTES_MAX {
            self.buffer = Aligned::default();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::seams::{Disk, FileDisk, SimDisk};

    const CAPACITY: u32 = 10 * DIRECT_ALIGN as u32 + 512;

    /// Writes batches of many lengths up to the end, opened anew now and then, behind 512 bytes that were there; what comes
    /// after them is old. Looks at the whole file after each.
    fn write_to_the_end(disk: &dyn Disk, path: &Path) {
        let file = disk.open_direct(path, true).unwrap();
        file.set_len(CAPACITY.into()).unwrap();
        let mut expected = vec![7; CAPACITY as usize];
        file.write(0, &expected).unwrap();
        let mut pages = Pages::open(&file, 512).unwrap();
        for n in 0.. {
            let room = (CAPACITY - pages.at()) as usize;
            if room == 0 {
                break;
            }
            let bytes = vec![n as u8; (n * 379 % 9000 + 8).min(room)];
            let (from, to) = (pages.at() as usize, pages.at() as usize + bytes.len());
            pages.write(&file, CAPACITY, &bytes).unwrap();
            file.sync_data().unwrap();
            assert_eq!(pages.at() as usize, to);
            expected[from..to].copy_from_slice(&bytes);
            let page_end = to.next_multiple_of(DIRECT_ALIGN).min(CAPACITY as usize);
            expected[to..page_end].fill(0);
            let mut found = vec![0; CAPACITY as usize];
            file.read(0, &mut found).unwrap();
            assert!(found == expected, "{} bytes at {from}", bytes.len());
            assert_eq!(file.len().unwrap(), u64::from(CAPACITY));
            if n % 3 == 0 {
                pages = Pages::open(&file, pages.at()).unwrap();
            }
        }
    }

    #[test]
    fn batches_stand_one_behind_the_other_and_nothing_before_them_changes() {
        write_to_the_end(&SimDisk::new(), "/file".as_ref());
        let dir = tempfile::tempdir().unwrap();
        write_to_the_end(&FileDisk, &dir.path().join("file"));
    }

    #[test]
    fn memory_for_pages_begins_where_direct_writes_ask_for() {
        let mut aligned = Aligned::default();
        for len in [1, DIRECT_ALIGN, 3, 5 * DIRECT_ALIGN, DIRECT_ALIGN + 1] {
            let bytes = aligned.bytes(len);
            assert_eq!((bytes.len(), bytes.as_ptr().addr() % DIRECT_ALIGN), (len, 0));
        }
    }
}
