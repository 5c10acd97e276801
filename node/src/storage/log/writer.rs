//! Writes batches to the last segment, begins the next one when it is full, and lets those go that nobody needs.
//!
//! A batch is one write and one sync. Each segment begins with everything the log holds besides entries, so that the
//! segments before it may go as soon as the entries in them have been purged; what goes is kept for the next segment.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use redb::StorageBackend;
use uuid::Uuid;

use super::super::StorageError;
use super::contents::{Change, Contents};
use super::lock;
use super::pages::{BUFFER_BYTES_MAX, Pages};
use super::queue::Batch;
use super::record::{Encoder, Kind, record_len};
use super::replay::encode_opening;
use super::segment::{Blank, Filling, RECORDS_FROM, Segment, path_of, spare_path};
use crate::count::Histogram;
use crate::seams::{Clock, DIRECT_ALIGN, Disk};

/// Files kept for coming segments.
const SPARES_MAX: usize = 2;
/// How much of a spare is filled at once: a millisecond's worth.
const SPARE_PIECE: u64 = 256 << 10;
/// Upper bounds of the histogram of syncs, in microseconds: from the fastest disks to one that hangs.
const SYNC_BUCKETS_US: [u64; 12] =
    [100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_000_000];
/// Files are made in whole pages.
const PAGE: u64 = DIRECT_ALIGN as u64;

/// What readers share with the writer. The writer alone changes it, and only to what is on disk.
pub(super) struct Shared {
    pub(super) contents: Contents,
    pub(super) segments: BTreeMap<u32, Arc<Segment>>,
    pub(super) counts: LogCounts,
    pub(super) sync_us: SyncTimes,
}

impl Shared {
    pub(super) fn new(contents: Contents, segments: BTreeMap<u32, Arc<Segment>>) -> Self {
        let (counts, sync_us) = (LogCounts::default(), Histogram::new(&SYNC_BUCKETS_US));
        Self { contents, segments, counts, sync_us }
    }

    /// Shows readers what is on disk now.
    fn publish(&mut self, changes: Vec<Change>, bytes: u64, took_us: u64) -> Result<(), StorageError> {
        self.sync_us.record(took_us);
        self.counts.bytes += bytes;
        for change in changes {
            self.counts.entries += u64::from(matches!(change, Change::Entry(..)));
            self.contents.apply(change)?;
        }
        Ok(())
    }
}

/// Where the segments are, and how large.
pub(in crate::storage) struct Site {
    pub(in crate::storage) disk: Arc<dyn Disk>,
    pub(in crate::storage) clock: Arc<dyn Clock>,
    pub(in crate::storage) folder: PathBuf,
    /// How large a segment is made; one that a larger batch begins is larger.
    pub(in crate::storage) segment_bytes: u32,
    /// Bytes that must stay free on the disk when a file is made ahead of its use.
    pub(in crate::storage) headroom_bytes: u64,
}

/// Files that are ready to become segments.
#[derive(Default)]
struct Ready {
    blanks: Vec<Blank>,
    /// How many there have been: they are named by that.
    named: u32,
}

/// Makes files for coming segments and keeps them.
pub(super) struct Spares {
    site: Arc<Site>,
    ready: Mutex<Ready>,
    /// The one that is being made.
    filling: Mutex<Option<Filling>>,
}

impl Spares {
    pub(super) fn new(site: Arc<Site>) -> Self {
        Self { site, ready: Mutex::default(), filling: Mutex::default() }
    }

    fn is_empty(&self) -> bool {
        lock(&self.ready).blanks.is_empty()
    }

    fn next_path(&self) -> PathBuf {
        let mut ready = lock(&self.ready);
        ready.named += 1;
        spare_path(&self.site.folder, ready.named)
    }

    fn take(&self, capacity: u64) -> Option<Blank> {
        let mut ready = lock(&self.ready);
        let at = ready.blanks.iter().position(|blank| u64::from(blank.capacity) >= capacity)?;
        Some(ready.blanks.swap_remove(at))
    }

    /// Fills one up to `upto` bytes ahead of its use, and has it ready when that is all of it, unless the disk is down to its
    /// headroom. Whoever begins a segment without one makes it himself, so that a failure here delays nothing but that.
    pub(super) fn fill(&self, upto: u32) {
        let mut filling = lock(&self.filling);
        if let Err(error) = self.fill_on(&mut filling, upto) {
            tracing::warn!(%error, "cannot make a file for the next segment of the log");
            if let Some(unfinished) = filling.take()
                && let Err(error) = self.site.disk.remove(&unfinished.path)
            {
                tracing::warn!(%error, "cannot remove an unfinished file of the log");
            }
        }
    }

    fn fill_on(&self, filling: &mut Option<Filling>, upto: u32) -> io::Result<()> {
        let Site { disk, folder, segment_bytes, headroom_bytes, .. } = &*self.site;
        let mut begun = match filling.take() {
            Some(begun) => begun,
            None => {
                let needed = headroom_bytes.saturating_add((*segment_bytes).into());
                if !self.is_empty() || disk.free_bytes(folder)? < needed {
                    return Ok(());
                }
                Filling::begin(disk.as_ref(), self.next_path(), *segment_bytes)?
            }
        };
        let filled = begun.fill(upto);
        if filled.is_ok() && begun.is_full() {
            lock(&self.ready).blanks.push(begun.into_blank());
        } else {
            *filling = Some(begun);
        }
        filled
    }
}

/// How long batches take to be written and synced, in microseconds.
pub type SyncTimes = Histogram<{ SYNC_BUCKETS_US.len() }>;

/// What has been written since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounts {
    /// Batches, each with one sync.
    pub batches: u64,
    /// Entries in them.
    pub entries: u64,
    /// Their bytes, with all that the log adds.
    pub bytes: u64,
    /// Segments that the log consists of now.
    pub segments: u64,
    /// Bytes of entries that wait to be on disk now.
    pub backlog: u64,
}

/// The writing end of the log: one worker's job at a time holds it.
pub(super) struct Writer {
    site: Arc<Site>,
    store_id: Uuid,
    life: u32,
    current: Arc<Segment>,
    pages: Pages,
    buffer: Vec<u8>,
    /// The segment for whose successor a spare has been asked for, and how much of that.
    asked: (u32, u32),
}

impl Writer {
    /// Goes on at `at` of the last segment, in a new life.
    pub(super) fn new(
        site: Arc<Site>,
        store_id: Uuid,
        life: u32,
        current: Arc<Segment>,
        at: u32,
    ) -> Result<Self, StorageError> {
        let pages = Pages::open(&current.file, at)?;
        Ok(Self { site, store_id, life, current, pages, buffer: Vec::new(), asked: (0, 0) })
    }

    /// Where the next record goes in the last segment.
    pub(super) fn at(&self) -> u32 {
        self.pages.at()
    }

    /// Puts a batch on disk, and only then into what readers see.
    pub(super) fn write(
        &mut self,
        batch: &mut Batch,
        shared: &Mutex<Shared>,
        spares: &Spares,
    ) -> Result<(), StorageError> {
        if batch.is_empty() {
            return Ok(());
        }
        let room = u64::from(self.current.capacity - self.at());
        let begins = self.at() == RECORDS_FROM || batch.bytes_max > room;
        let opening = begins.then(|| {
            let shared = lock(shared);
            encode_opening(shared.contents.bounds(), &shared.contents.rows)
        });
        if let Some(opening) = &opening {
            let bytes = batch.bytes_max + record_len(opening.len());
            if self.at() != RECORDS_FROM || bytes > room {
                self.roll(bytes, shared, spares)?;
            }
        }
        let mut encoder =
            Encoder::new(std::mem::take(&mut self.buffer), self.current.seed, self.at(), self.life);
        if let Some(opening) = &opening {
            encoder.put(Kind::Opening, 0, |out| out.extend_from_slice(opening));
        }
        let bounds = lock(shared).contents.bounds();
        let changes = batch.encode(bounds, self.current.number, &mut encoder)?;
        let bytes = encoder.finish();
        let from_us = self.site.clock.monotonic_us();
        // The batch was measured to fit into the segment.
        self.pages.write(&self.current.file, self.current.capacity, &bytes)?;
        self.current.file.sync_data()?;
        let took_us = self.site.clock.monotonic_us().saturating_sub(from_us);
        let bytes_written = bytes.len() as u64;
        if bytes.capacity() <= BUFFER_BYTES_MAX {
            self.buffer = bytes;
        }
        lock(shared).publish(changes, bytes_written, took_us)
    }

    /// Begins the next segment, with room for a batch of so many bytes.
    fn roll(&mut self, bytes: u64, shared: &Mutex<Shared>, spares: &Spares) -> Result<(), StorageError> {
        let Site { disk, folder, segment_bytes, .. } = &*self.site;
        let needed = (u64::from(RECORDS_FROM) + bytes).next_multiple_of(PAGE);
        let capacity = u32::try_from(needed.max((*segment_bytes).into()));
        let capacity = capacity.map_err(|_| StorageError::corrupt("a batch larger than a segment can be"))?;
        let blank = match spares.take(needed) {
            Some(blank) => blank,
            None => Blank::make_new(disk.as_ref(), folder, capacity)?,
        };
        let number = self.current.number + 1;
        let segment = blank.into_segment(disk.as_ref(), folder, self.store_id, number, self.at())?;
        self.pages = Pages::open(&segment.file, RECORDS_FROM)?;
        self.current = Arc::new(segment);
        lock(shared).segments.insert(number, self.current.clone());
        Ok(())
    }

    /// How many bytes of a file for the next segment are to be there by now; says so once for each piece. It grows with the third
    /// quarter of this one: filled in one go it would keep the disk from the log, on all nodes of a datacenter at the same time.
    pub(super) fn spare_due(&mut self, spares: &Spares) -> Option<u32> {
        let capacity = u64::from(self.current.capacity);
        let beyond = u64::from(self.at()).checked_sub(capacity / 2).filter(|beyond| *beyond > 0)?;
        let whole = u64::from(self.site.segment_bytes);
        let due = (beyond * 4 * whole / capacity).next_multiple_of(SPARE_PIECE).min(whole);
        let due = (self.current.number, u32::try_from(due).unwrap_or(u32::MAX));
        if due <= self.asked || !spares.is_empty() {
            return None;
        }
        self.asked = due;
        Some(due.1)
    }

    /// Lets the segments go whose entries have all been purged.
    pub(super) fn reclaim(&self, shared: &Mutex<Shared>, spares: &Spares) -> Result<(), StorageError> {
        if self.at() == RECORDS_FROM {
            // The last segment does not tell yet what stands in those before it.
            return Ok(());
        }
        let gone = {
            let mut shared = lock(shared);
            let needed = shared.contents.first_place().map_or(self.current.number, |place| place.segment);
            let kept = shared.segments.split_off(&needed);
            std::mem::replace(&mut shared.segments, kept)
        };
        if gone.is_empty() {
            return Ok(());
        }
        let Site { disk, folder, segment_bytes, .. } = &*self.site;
        let mut blanks = Vec::new();
        // The oldest first: what is there after a crash is a whole log.
        for (number, segment) in gone {
            let path = path_of(folder, number);
            let has_room = lock(&spares.ready).blanks.len() + blanks.len() < SPARES_MAX;
            // One that somebody still reads from must not be written over.
            match Arc::try_unwrap(segment) {
                Ok(Segment { capacity, file, .. }) if has_room && capacity == *segment_bytes => {
                    let spare = spares.next_path();
                    disk.rename(&path, &spare)?;
                    blanks.push(Blank { path: spare, file, capacity });
                }
                _ => disk.remove(&path)?,
            }
        }
        // Before any of them is written over it must have lost its name for good.
        disk.sync_dir(folder)?;
        lock(&spares.ready).blanks.append(&mut blanks);
        Ok(())
    }
}
