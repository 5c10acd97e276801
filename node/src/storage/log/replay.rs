//! What a log holds when it is opened: its records, read from the first segment to the last.
//!
//! The last write before a crash may be torn: of one batch any part may be missing. What is there of it up to the
//! first gap is kept, since nobody was told of it and nobody may be told that it is not; the rest is cut off. A gap that
//! is followed by anything written after it had been synced is no torn write but rot, and an error.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use meridian_crdt::codec::{Reader, Writer};
use redb::StorageBackend;
use uuid::Uuid;

use super::super::StorageError;
use super::contents::{Bounds, Change, Contents, Place, Rows};
use super::record::{ALIGN, HEAD_LEN, Head, Kind};
use super::segment::{Files, RECORDS_FROM, Segment};
use crate::seams::Disk;

/// How much is read from a segment at once.
const WINDOW: usize = 256 << 10;
/// So much is passed over at once where nothing was ever written.
const BLOCK: u32 = 4 << 10;
const ZEROS: [u8; BLOCK as usize] = [0; BLOCK as usize];
/// Stands for the segment of entries whose own segment is gone, as it may be once they are purged.
const GONE: Place = Place { segment: 0, at: 0, len: 0 };
/// The number of a log's first segment.
pub(super) const FIRST: u32 = 1;

/// An opened log.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) store_id: Uuid,
    pub(super) contents: Contents,
    pub(super) segments: BTreeMap<u32, Arc<Segment>>,
    /// Where the next record goes in the last segment.
    pub(super) at: u32,
    /// The highest life of any record.
    pub(super) life: u32,
}

/// Reads the segments of a folder; there is at least one.
pub(super) fn replay(disk: &dyn Disk, folder: &Path, files: &Files) -> Result<Found, StorageError> {
    let mut segments = BTreeMap::new();
    let mut owner = None;
    for number in &files.segments {
        let (segment, store_id) = Segment::open(disk, folder, *number)?;
        if *owner.get_or_insert(store_id) != store_id {
            return Err(segment.wrong(0u32, "the segment belongs to another log"));
        }
        segments.insert(*number, Arc::new(segment));
    }
    let (Some(store_id), Some(first), Some(last)) =
        (owner, files.segments.first().copied(), files.segments.last().copied())
    else {
        return Err(StorageError::corrupt(format!("{} has no log", folder.display())));
    };
    let mut replay = Replay { contents: Contents::default(), is_begun: first == FIRST, life: 0 };
    let mut at = RECORDS_FROM;
    for number in first..=last {
        let missing = || StorageError::corrupt(format!("segment {number} of the log is missing"));
        let segment = segments.get(&number).ok_or_else(missing)?;
        let limit = match number == last {
            true => None,
            false => Some(segments.get(&(number + 1)).ok_or_else(missing)?.previous_end),
        };
        at = replay.segment(segment, limit)?;
    }
    let Replay { contents, is_begun, life } = replay;
    let lost = contents.first_place().is_some_and(|place| place == GONE);
    if lost || !is_begun {
        return Err(StorageError::corrupt("the log's first segments are missing"));
    }
    Ok(Found { store_id, contents, segments, at, life })
}

struct Replay {
    contents: Contents,
    /// Whether what stood in the segments before is known.
    is_begun: bool,
    life: u32,
}

impl Replay {
    /// Reads the records of one segment, up to where the next one says that they end, and says where that is.
    fn segment(&mut self, segment: &Segment, limit: Option<u32>) -> Result<u32, StorageError> {
        let mut scan = Scan::new(segment, limit);
        while let Some((at, head)) = scan.next()? {
            let is_first = at == RECORDS_FROM;
            if is_first != (head.kind == Kind::Opening) {
                return Err(segment.wrong(at, "a record in the place of another one"));
            }
            let wrong = |error: StorageError| segment.wrong(at, &error.to_string());
            match head.kind {
                Kind::Opening => self.opening(scan.body(at, &head)?).map_err(wrong)?,
                Kind::Entry => {
                    let place = Place { segment: segment.number, at, len: head.len };
                    self.contents.apply(Change::Entry(head.index, place)).map_err(wrong)?;
                }
                Kind::Row => self.row(scan.body(at, &head)?)?,
                Kind::Truncate => self.contents.apply(Change::Truncate(head.index))?,
                Kind::Purge => {
                    self.row(scan.body(at, &head)?)?;
                    self.contents.apply(Change::Purge(head.index))?;
                }
            }
        }
        let end = scan.at;
        self.life = self.life.max(match limit {
            Some(_) => scan.life,
            None => scan.rest()?,
        });
        Ok(end)
    }

    fn row(&mut self, body: &[u8]) -> Result<(), StorageError> {
        let mut r = Reader::new(body);
        let (key, value) = (r.bytes()?.to_vec(), r.bytes()?.to_vec());
        r.finish()?;
        self.contents.apply(Change::Row(key, value))
    }

    fn opening(&mut self, body: &[u8]) -> Result<(), StorageError> {
        let (bounds, rows) = decode_opening(body)?;
        if !self.is_begun {
            self.is_begun = true;
            self.contents = Contents::opened(bounds, rows, GONE);
        } else if (bounds, &rows) != (self.contents.bounds(), &self.contents.rows) {
            return Err(StorageError::corrupt("the segments before do not hold what they held"));
        }
        Ok(())
    }
}

/// The body of a segment's first record.
pub(super) fn encode_opening(bounds: Bounds, rows: &Rows) -> Vec<u8> {
    let mut w = Writer::new();
    w.u64(bounds.base);
    w.u64(bounds.end);
    for (key, value) in rows {
        w.raw(&encode_row(key, value));
    }
    w.finish()
}

fn decode_opening(body: &[u8]) -> Result<(Bounds, Rows), StorageError> {
    let mut r = Reader::new(body);
    let bounds = Bounds { base: r.u64()?, end: r.u64()? };
    let mut rows = Rows::new();
    while !r.is_empty() {
        rows.insert(r.bytes()?.to_vec(), r.bytes()?.to_vec());
    }
    Ok((bounds, rows))
}

/// The body of a row's record.
pub(super) fn encode_row(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut w = Writer::new();
    w.bytes(key);
    w.bytes(value);
    w.finish()
}

/// Walks over the records of a segment.
struct Scan<'a> {
    segment: &'a Segment,
    /// Where the records end, if that is known. They are whole up to there, or something has rotted.
    limit: Option<u32>,
    /// Where the next record begins.
    at: u32,
    batch: u32,
    life: u32,
    window: Vec<u8>,
    window_at: u32,
}

impl<'a> Scan<'a> {
    fn new(segment: &'a Segment, limit: Option<u32>) -> Self {
        let (at, batch) = (RECORDS_FROM, RECORDS_FROM);
        Self { segment, limit, at, batch, life: 0, window: Vec::new(), window_at: 0 }
    }

    /// The next record; `None` behind the last one.
    fn next(&mut self) -> Result<Option<(u32, Head)>, StorageError> {
        let (at, seed) = (self.at, self.segment.seed);
        if self.limit == Some(at) {
            return Ok(None);
        }
        let head = self.head(at)?.filter(|head| self.continues(at, head));
        // Entries of a segment that is closed are verified when they are read.
        let is_whole = match &head {
            Some(head) if self.limit.is_some() && head.kind == Kind::Entry => true,
            Some(head) => head.fits(self.body(at, head)?, seed, at),
            None => false,
        };
        match head {
            Some(head) if is_whole => {
                (self.batch, self.life) = (head.batch, head.life);
                self.at = u32::try_from(head.end(at)).unwrap_or(self.segment.capacity);
                Ok(Some((at, head)))
            }
            _ if self.limit.is_some() => Err(self.segment.wrong(at, "a record does not fit its checksum")),
            _ => Ok(None),
        }
    }

    /// Whether a record at `at` was written behind the last one, and not left there by an earlier life.
    fn continues(&self, at: u32, head: &Head) -> bool {
        let same_batch = head.batch == self.batch && head.life == self.life;
        let next_batch = head.batch == at && head.life >= self.life;
        (same_batch || next_batch) && head.end(at) <= u64::from(self.segment.capacity)
    }

    /// Looks behind the last record for anything that was written after it had been synced; the highest life there.
    fn rest(mut self) -> Result<u32, StorageError> {
        let gap = self.at;
        let last = self.segment.capacity.saturating_sub(HEAD_LEN);
        let mut at = gap;
        while at <= last {
            // Most of a segment has never been written to. A head does not begin with zeros.
            if at.is_multiple_of(BLOCK) && self.bytes(at, BLOCK)? == Some(&ZEROS[..]) {
                at += BLOCK;
                continue;
            }
            if let Some(head) = self.head(at)? {
                if head.batch > gap {
                    let what = format!("no record, but there is one at {at} that was written later");
                    return Err(self.segment.wrong(gap, &what));
                }
                self.life = self.life.max(head.life);
            }
            at += ALIGN;
        }
        Ok(self.life)
    }

    fn head(&mut self, at: u32) -> Result<Option<Head>, StorageError> {
        let seed = self.segment.seed;
        Ok(self.bytes(at, HEAD_LEN)?.and_then(|bytes| Head::decode(bytes, seed, at)))
    }

    /// The body of a record that ends within the segment.
    fn body(&mut self, at: u32, head: &Head) -> Result<&[u8], StorageError> {
        Ok(self.bytes(at + HEAD_LEN, head.len)?.unwrap_or_default())
    }

    /// Some bytes of the segment; `None` if they are not all within it.
    fn bytes(&mut self, at: u32, len: u32) -> Result<Option<&[u8]>, StorageError> {
        let capacity = self.segment.capacity as usize;
        let (from, len) = (at as usize, len as usize);
        if from + len > capacity {
            return Ok(None);
        }
        let window_end = self.window_at as usize + self.window.len();
        if at < self.window_at || from + len > window_end {
            self.window.resize(len.max(WINDOW).min(capacity - from), 0);
            self.segment.file.read(at.into(), &mut self.window)?;
            self.window_at = at;
        }
        let start = from - self.window_at as usize;
        Ok(Some(&self.window[start..start + len]))
    }
}
