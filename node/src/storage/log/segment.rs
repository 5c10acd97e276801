//! One file of the log: a header in a sector of its own, and room for records, filled with zeros before it is used.
//!
//! All blocks of the file are written before its first record is, so that a record needs no change of the file
//! system's own data and a sync waits for the record alone. A segment gets its name only when its header is on disk.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::StorageBackend;
use uuid::Uuid;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::super::{FORMAT_VERSION, StorageError};
use super::contents::Place;
use super::pages::Aligned;
use super::record::{HEAD_LEN, Head, Kind};
use crate::seams::{Backend, Disk};

/// Where the first record begins. The header has the sector before that for itself.
pub(super) const RECORDS_FROM: u32 = 512;

const MAGIC: &[u8; 8] = b"meridlog";
const HEADER_LEN: usize = 8 + 4 + 16 + 4 + 4 + 4 + 8;
const ZEROS: u32 = 1 << 20;

const PREFIX: &str = "log.";
const NUMBER_DIGITS: usize = 8;
/// A segment that is being made.
const NEW: &str = "log.new";
/// A file of the right size for the next segment.
const SPARE_PREFIX: &str = "log.spare.";

/// The names in a folder that belong to the log.
#[derive(Debug, Default)]
pub(in crate::storage) struct Files {
    /// The numbers of the segments, in order.
    pub(super) segments: Vec<u32>,
    /// What an earlier process prepared and did not come to use.
    pub(super) leftovers: Vec<String>,
}

impl Files {
    /// Looks into a folder.
    pub(in crate::storage) fn list(disk: &dyn Disk, folder: &Path) -> io::Result<Self> {
        let mut files = Self::default();
        for name in disk.list(folder)? {
            if name == NEW || name.starts_with(SPARE_PREFIX) {
                files.leftovers.push(name);
            } else if let Some(number) = number_of(&name) {
                files.segments.push(number);
            }
        }
        files.segments.sort_unstable();
        Ok(files)
    }

    /// Whether there is a log.
    pub(in crate::storage) fn is_log(&self) -> bool {
        !self.segments.is_empty()
    }
}

fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix(PREFIX)?;
    (digits.len() == NUMBER_DIGITS).then(|| u32::from_str_radix(digits, 16).ok())?
}

fn name_of(number: u32) -> String {
    format!("{PREFIX}{number:0NUMBER_DIGITS$x}")
}

/// The file of a segment.
pub(super) fn path_of(folder: &Path, number: u32) -> PathBuf {
    folder.join(name_of(number))
}

/// The file of a spare.
pub(super) fn spare_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{SPARE_PREFIX}{number}"))
}

/// A file that is filled with zeros or with what a former segment held, all of it on disk.
#[derive(Debug)]
pub(super) struct Blank {
    pub(super) path: PathBuf,
    pub(super) file: Backend,
    pub(super) capacity: u32,
}

/// A file that is being filled, to become a [`Blank`].
pub(super) struct Filling {
    pub(super) path: PathBuf,
    file: Backend,
    capacity: u32,
    filled: u32,
    zeros: Aligned,
}

impl Filling {
    /// Begins a file of `capacity` bytes.
    pub(super) fn begin(disk: &dyn Disk, path: PathBuf, capacity: u32) -> io::Result<Self> {
        let file = disk.open_direct(&path, true)?;
        Ok(Self { path, file, capacity, filled: 0, zeros: Aligned::default() })
    }

    /// Fills it at least up to `upto`, or to its end; then all of it is on disk.
    pub(super) fn fill(&mut self, upto: u32) -> io::Result<()> {
        if self.filled == 0 {
            self.file.set_len(self.capacity.into())?;
        }
        while self.filled < upto.min(self.capacity) {
            let len = (self.capacity - self.filled).min(upto - self.filled).min(ZEROS);
            self.file.write(self.filled.into(), self.zeros.bytes(len as usize))?;
            self.filled += len;
        }
        if self.is_full() { self.file.sync_data() } else { Ok(()) }
    }

    /// Whether nothing is left to be filled.
    pub(super) fn is_full(&self) -> bool {
        self.filled == self.capacity
    }

    /// What it is once it is full.
    pub(super) fn into_blank(self) -> Blank {
        Blank { path: self.path, file: self.file, capacity: self.capacity }
    }
}

impl Blank {
    /// Makes a file of `capacity` bytes under a name that is not a segment's.
    pub(super) fn make(disk: &dyn Disk, path: PathBuf, capacity: u32) -> io::Result<Self> {
        let mut filling = Filling::begin(disk, path, capacity)?;
        filling.fill(capacity)?;
        Ok(filling.into_blank())
    }

    /// The same under the name of a segment that is being made.
    pub(super) fn make_new(disk: &dyn Disk, folder: &Path, capacity: u32) -> io::Result<Self> {
        Self::make(disk, folder.join(NEW), capacity)
    }

    /// Makes it segment `number` of a store, after one that ends at `previous_end`.
    pub(super) fn into_segment(
        self,
        disk: &dyn Disk,
        folder: &Path,
        store_id: Uuid,
        number: u32,
        previous_end: u32,
    ) -> io::Result<Segment> {
        let Self { path, file, capacity } = self;
        file.write(0, &encode_header(FORMAT_VERSION, store_id, number, capacity, previous_end))?;
        file.sync_data()?;
        disk.rename(&path, &path_of(folder, number))?;
        disk.sync_dir(folder)?;
        Ok(Segment { number, capacity, seed: seed(store_id, number), previous_end, file })
    }
}

/// The seed of all checksums in a segment.
fn seed(store_id: Uuid, number: u32) -> u64 {
    xxh3_64_with_seed(store_id.as_bytes(), number.into())
}

fn encode_header(format: u32, store_id: Uuid, number: u32, capacity: u32, previous_end: u32) -> Vec<u8> {
    let mut header = Vec::with_capacity(HEADER_LEN);
    header.extend_from_slice(MAGIC);
    // The format stands first, so that every later program can read at least that.
    header.extend_from_slice(&format.to_be_bytes());
    header.extend_from_slice(store_id.as_bytes());
    for number in [number, capacity, previous_end] {
        header.extend_from_slice(&number.to_be_bytes());
    }
    let sum = xxh3_64(&header);
    header.extend_from_slice(&sum.to_be_bytes());
    header
}

/// An open segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u32,
    pub(super) capacity: u32,
    pub(super) seed: u64,
    /// Where the records of the segment before end.
    pub(super) previous_end: u32,
    pub(super) file: Backend,
}

impl Segment {
    /// Opens segment `number`, and says whose it is.
    pub(super) fn open(disk: &dyn Disk, folder: &Path, number: u32) -> Result<(Self, Uuid), StorageError> {
        let wrong = |what: &str| StorageError::corrupt(format!("{}: {what}", name_of(number)));
        let file = disk.open_direct(&path_of(folder, number), false)?;
        let len = file.len()?;
        if len < u64::from(RECORDS_FROM) {
            return Err(wrong("the file is too short for a header"));
        }
        let mut header = [0; HEADER_LEN];
        file.read(0, &mut header)?;
        let u32_at = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        if !header.starts_with(MAGIC) {
            return Err(wrong("the file is no part of a log"));
        }
        let format = u32_at(8);
        if format > FORMAT_VERSION {
            let folder = folder.display().to_string();
            return Err(StorageError::NewerFormat { folder, found: format, known: FORMAT_VERSION });
        }
        let store_id = header[12..].first_chunk().map_or(Uuid::nil(), |bytes| Uuid::from_bytes(*bytes));
        let (capacity, previous_end) = (u32_at(32), u32_at(36));
        if encode_header(format, store_id, number, capacity, previous_end) != header {
            return Err(wrong("the checksum of the header does not fit"));
        }
        if u64::from(capacity) > len {
            return Err(wrong("the file is shorter than it was made"));
        }
        let seed = seed(store_id, number);
        Ok((Self { number, capacity, seed, previous_end, file }, store_id))
    }

    /// The entry with this index, verified.
    pub(super) fn read_entry(&self, index: u64, place: Place) -> Result<Bytes, StorageError> {
        let mut bytes = vec![0; (HEAD_LEN + place.len) as usize];
        self.file.read(place.at.into(), &mut bytes)?;
        let head = Head::decode(&bytes, self.seed, place.at);
        let bytes = Bytes::from(bytes).slice(HEAD_LEN as usize..);
        match head {
            Some(head)
                if head.kind == Kind::Entry
                    && head.index == index
                    && head.fits(&bytes, self.seed, place.at) =>
            {
                Ok(bytes)
            }
            _ => Err(self.wrong(place.at, &format!("entry {index} does not fit its checksum"))),
        }
    }

    /// A corruption at some place in here.
    pub(super) fn wrong(&self, at: impl Into<u64>, what: &str) -> StorageError {
        StorageError::corrupt(format!("{}, byte {}: {what}", name_of(self.number), at.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_these_bytes() {
        let golden = [
            (
                2,
                "6d657269646c6f67000000020000000000000000000000000000000500000003\
                 00100000000010005eb3ccbf18aee6e9",
            ),
            (
                3,
                "6d657269646c6f67000000030000000000000000000000000000000500000003\
                 0010000000001000fc46ffd077044138",
            ),
            (
                FORMAT_VERSION,
                "6d657269646c6f67000000040000000000000000000000000000000500000003\
                 00100000000010000319c635ea0721eb",
            ),
        ];
        for (format, bytes) in golden {
            let header = encode_header(format, Uuid::from_u128(5), 3, 1 << 20, 4096);
            let hex: String = header.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, bytes, "format {format}");
        }
    }

    #[test]
    fn names_say_what_a_file_is() {
        assert_eq!(name_of(0x1234), "log.00001234");
        assert_eq!(number_of("log.00001234"), Some(0x1234));
        for other in ["log.new", "log.spare.1", "log.redb", "log.1234", "log.0000123g", "state.redb"] {
            assert_eq!(number_of(other), None, "{other}");
        }
    }
}
