//! Logs that were torn, rotted, outgrown or left half made, as they are found again.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use redb::StorageBackend;

use super::super::{Folder, FolderConfig, Identity, LogCounts, Opened, StorageError};
use super::record::{HEAD_LEN, record_len};
use super::replay::{Found, replay};
use super::segment::{Files, RECORDS_FROM, path_of};
use crate::seams::{DIRECT_ALIGN, Disk, InlineExecutor, Seams, SimDisk};

const FOLDER: &str = "/data";
const SEGMENT: u32 = 4 << 10;
const SECTOR: usize = 512;

fn open(disk: &SimDisk) -> Result<Opened, StorageError> {
    open_of(disk, SEGMENT)
}

/// The same with segments of `segment_bytes`.
fn open_of(disk: &SimDisk, segment_bytes: u32) -> Result<Opened, StorageError> {
    let seams =
        Seams { disk: Arc::new(disk.clone()), executor: Arc::new(InlineExecutor), ..Seams::production() };
    let identity = Identity { cluster: "c".into(), dc: "eu".into(), node: 1 };
    let config = FolderConfig::new(FOLDER, identity);
    Folder::open(FolderConfig { log_segment_bytes: segment_bytes, entry_cache_bytes: 0, ..config }, &seams)
}

/// The entry at `index`: its length is a multiple of 8, so that no bit of its record is padding.
fn entry(index: u64) -> Bytes {
    Bytes::from(vec![index as u8; 8 * (20 + index as usize % 50)])
}

fn try_append(opened: &Opened, entries: Vec<(u64, Bytes)>) -> Result<(), StorageError> {
    let (tx, mut rx) = tokio::sync::oneshot::channel();
    opened.log.append(entries, move |done| {
        let _ = tx.send(done);
    });
    // The worker runs inline.
    rx.try_recv().unwrap()
}

fn append(opened: &Opened, indexes: std::ops::Range<u64>) {
    for index in indexes {
        try_append(opened, vec![(index, entry(index))]).unwrap();
    }
}

fn purge(opened: &Opened, end: u64) {
    opened.log.purge(end, b"purged", vec![end as u8]).now_or_never().unwrap().unwrap();
}

fn entries(opened: &Opened) -> Vec<(u64, Bytes)> {
    opened.log.read(0..u64::MAX, usize::MAX).unwrap()
}

fn expected(indexes: std::ops::Range<u64>) -> Vec<(u64, Bytes)> {
    indexes.map(|index| (index, entry(index))).collect()
}

fn names(disk: &SimDisk) -> Vec<String> {
    let mut names = disk.list(Path::new(FOLDER)).unwrap();
    names.retain(|name| name.starts_with("log."));
    names
}

fn found(disk: &SimDisk) -> Result<Found, StorageError> {
    let folder = Path::new(FOLDER);
    replay(disk, folder, &Files::list(disk, folder)?)
}

/// All entries of a log, each read from its segment and verified.
fn read(found: &Found) -> Result<Vec<(u64, Bytes)>, StorageError> {
    let bounds = found.contents.bounds();
    (bounds.base..bounds.end)
        .map(|index| {
            let place = found.contents.place(index).unwrap();
            Ok((index, found.segments[&place.segment].read_entry(index, place)?))
        })
        .collect()
}

/// Zeros where a write has not arrived.
fn lose(disk: &SimDisk, segment: u32, range: std::ops::Range<usize>) {
    let file = disk.open(&path_of(Path::new(FOLDER), segment), false).unwrap();
    file.write(range.start as u64, &vec![0; range.len()]).unwrap();
}

#[test]
fn a_torn_last_write_is_cut_off_wherever_it_tears() {
    let make = || {
        let disk = SimDisk::new();
        let opened = open(&disk).unwrap();
        append(&opened, 1..4);
        drop(opened);
        let start = found(&disk).unwrap().at as usize;
        let opened = open(&disk).unwrap();
        try_append(&opened, (4..8).map(|index| (index, entry(index))).collect()).unwrap();
        drop(opened);
        let end = found(&disk).unwrap().at as usize;
        (disk, start, end)
    };
    let (_, start, end) = make();
    let sectors: Vec<_> = (start / SECTOR..end.div_ceil(SECTOR))
        .map(|sector| (sector * SECTOR).max(start)..((sector + 1) * SECTOR).min(end))
        .collect();
    assert!((3..=5).contains(&sectors.len()), "{sectors:?}");
    for lost in 1u32..1 << sectors.len() {
        let (disk, ..) = make();
        let gaps: Vec<_> =
            sectors.iter().enumerate().filter(|(at, _)| lost & 1 << at != 0).map(|(_, gap)| gap).collect();
        for gap in &gaps {
            lose(&disk, 1, (*gap).clone());
        }
        let opened = open(&disk).unwrap_or_else(|error| panic!("{gaps:?}: {error}"));
        let kept = entries(&opened);
        let next = kept.last().unwrap().0 + 1;
        assert_eq!(kept, expected(1..next), "{gaps:?}");
        assert!((4..8).contains(&next), "{gaps:?}: {next}");
        // What comes next may be as long as what was cut off, shorter or longer: none of that is taken for a record again.
        for (index, len) in (next..).zip([entry(next).len(), 8, 0, 24, 152]) {
            try_append(&opened, vec![(index, Bytes::from(vec![0xee; len]))]).unwrap();
            let again = read(&found(&disk).unwrap()).unwrap();
            assert_eq!(again.last().unwrap(), &(index, Bytes::from(vec![0xee; len])), "{gaps:?}");
        }
    }
}

/// Story: of the last batch only the head of its first record did not arrive, so that all of it is cut off. The record that
/// is written in its place is as long, and behind it stands the rest of the old batch, whole: it begins where a page does, so
/// that no zeros were written over it.
#[test]
fn what_was_cut_off_does_not_come_back_behind_a_record_of_the_same_length() {
    let disk = SimDisk::new();
    let open = |disk: &SimDisk| open_of(disk, 4 * DIRECT_ALIGN as u32).unwrap();
    let opened = open(&disk);
    append(&opened, 1..2);
    let start = write_position(&opened);
    let end = start.next_multiple_of(DIRECT_ALIGN);
    let len = end - start - HEAD_LEN as usize;
    let old = |index| (index, Bytes::from(vec![index as u8; len]));
    try_append(&opened, (2..4).map(old).collect()).unwrap();
    drop(opened);
    let before = found(&disk).unwrap();
    assert_eq!(before.segments.len(), 1, "all of it stands in one segment");
    assert_eq!(read(&before).unwrap().last(), Some(&old(3)));
    lose(&disk, 1, start..(start / SECTOR + 1) * SECTOR);
    let opened = open(&disk);
    assert_eq!(entries(&opened), expected(1..2));
    let new = (2, Bytes::from(vec![0xee; len]));
    try_append(&opened, vec![new.clone()]).unwrap();
    assert_eq!(write_position(&opened), end, "the old record begins there");
    drop(opened);
    let again = entries(&open(&disk));
    assert_eq!(again.last(), Some(&new));
}

#[test]
fn every_flipped_bit_before_the_last_write_is_corruption_and_nothing_is_cut_off() {
    let disk = SimDisk::new();
    let opened = open(&disk).unwrap();
    append(&opened, 1..3);
    opened.log.put(b"vote", vec![7; 3]).now_or_never().unwrap().unwrap();
    let last = write_position(&opened);
    append(&opened, 3..4);
    drop(opened);
    let mut corrupt = 0;
    for bit in RECORDS_FROM as usize * 8..last * 8 {
        let path = path_of(Path::new(FOLDER), 1);
        assert!(disk.flip_bit(&path, bit));
        match found(&disk) {
            Err(StorageError::Corrupt { .. }) => corrupt += 1,
            Err(error) => panic!("bit {bit}: {error}"),
            // Zeros that fill a record up to a multiple of 8 mean nothing.
            Ok(found) => {
                assert_eq!(read(&found).unwrap(), expected(1..4), "bit {bit}");
                assert_eq!(found.contents.rows[&b"vote"[..]], [7; 3], "bit {bit}");
            }
        }
        assert!(disk.flip_bit(&path, bit));
    }
    let padding = 2 * 8 * 8;
    assert!(corrupt >= (last - RECORDS_FROM as usize) * 8 - padding, "{corrupt}");
}

/// Where the next record goes.
fn write_position(opened: &Opened) -> usize {
    super::lock(&opened.log.0.writer).at() as usize
}

#[test]
fn rot_in_a_full_segment_is_found_when_it_is_opened_or_read() {
    let disk = SimDisk::new();
    let opened = open(&disk).unwrap();
    append(&opened, 1..30);
    drop(opened);
    let whole = found(&disk).unwrap();
    assert!(whole.segments.len() >= 3);
    let all = read(&whole).unwrap();
    assert_eq!(all, expected(1..30));
    let end = whole.segments[&2].previous_end as usize;
    for bit in (RECORDS_FROM as usize * 8..end * 8).step_by(13) {
        let path = path_of(Path::new(FOLDER), 1);
        assert!(disk.flip_bit(&path, bit));
        match found(&disk).and_then(|found| read(&found)) {
            Err(StorageError::Corrupt { .. }) => {}
            Err(error) => panic!("bit {bit}: {error}"),
            Ok(read) => assert_eq!(read, all, "bit {bit}"),
        }
        assert!(disk.flip_bit(&path, bit));
    }
}

#[test]
fn a_missing_segment_is_corruption_unless_all_its_entries_were_purged() {
    for missing in 1..=3 {
        let disk = SimDisk::new();
        append(&open(&disk).unwrap(), 1..40);
        assert!(names(&disk).contains(&"log.00000004".to_owned()), "{:?}", names(&disk));
        disk.remove(&path_of(Path::new(FOLDER), missing)).unwrap();
        assert!(matches!(found(&disk), Err(StorageError::Corrupt { .. })), "segment {missing}");
    }
    let disk = SimDisk::new();
    let opened = open(&disk).unwrap();
    append(&opened, 1..40);
    purge(&opened, 37);
    assert!(!names(&disk).contains(&"log.00000002".to_owned()), "{:?}", names(&disk));
    drop(opened);
    let opened = open(&disk).unwrap();
    assert_eq!(entries(&opened), expected(37..40));
    assert_eq!(opened.log.row(b"purged").unwrap(), Some(vec![37]));
}

#[test]
fn segments_are_used_again_and_what_they_held_is_never_read_again() {
    let disk = SimDisk::new();
    let mut opened = open(&disk).unwrap();
    for round in 0..60u64 {
        append(&opened, round * 5 + 1..round * 5 + 6);
        purge(&opened, (round * 5).saturating_sub(3));
        let names = names(&disk);
        assert!(names.len() <= 6, "{names:?}");
        if round % 7 == 0 {
            drop(opened);
            opened = open(&disk).unwrap();
        }
        assert_eq!(entries(&opened), expected((round * 5).saturating_sub(3).max(1)..round * 5 + 6));
    }
    let last = Files::list(&disk, Path::new(FOLDER)).unwrap().segments;
    assert!(last[0] > 15, "{last:?}");
}

#[test]
fn rows_outlive_the_segments_that_they_were_written_in() {
    let disk = SimDisk::new();
    let opened = open(&disk).unwrap();
    opened.log.put(b"vote", b"for 2".to_vec()).now_or_never().unwrap().unwrap();
    append(&opened, 1..40);
    purge(&opened, 38);
    opened.log.put_lazily(b"committed", b"39".to_vec());
    assert_eq!(opened.log.row(b"committed").unwrap().unwrap(), b"39", "a read sees it at once");
    opened.log.flush().now_or_never().unwrap().unwrap();
    drop(opened);
    let opened = open(&disk).unwrap();
    assert_eq!(opened.log.row(b"vote").unwrap().unwrap(), b"for 2");
    assert_eq!(opened.log.row(b"committed").unwrap().unwrap(), b"39");
    assert_eq!(entries(&opened), expected(38..40));
}

/// Story: all entries had been purged, and a process died when it had begun a segment and written nothing to it. The next one
/// wrote nothing either, found no entry in the segment before, and let it go with the vote in it.
#[test]
fn a_segment_is_kept_until_the_next_one_tells_what_was_in_it() {
    let disk = SimDisk::new();
    let opened = open(&disk).unwrap();
    opened.log.put(b"vote", b"for 2".to_vec()).now_or_never().unwrap().unwrap();
    append(&opened, 1..4);
    purge(&opened, 4);
    // A spare's header, its sync, its name, the folder's sync; the batch comes after that.
    let large = vec![(4, Bytes::from(vec![9; SEGMENT as usize - 1000]))];
    disk.cut_after(if names(&disk).iter().any(|name| name.starts_with("log.spare.")) { 4 } else { 7 });
    try_append(&opened, large).unwrap_err();
    let disk = disk.handover();
    assert!(names(&disk).contains(&"log.00000002".to_owned()), "{:?}", names(&disk));
    assert_eq!(found(&disk).unwrap().at, RECORDS_FROM, "nothing is in it");
    for _ in 0..2 {
        let opened = open(&disk).unwrap();
        opened.log.flush().now_or_never().unwrap().unwrap();
        assert_eq!(opened.log.row(b"vote").unwrap().unwrap(), b"for 2");
    }
}

#[test]
fn a_batch_larger_than_a_segment_gets_one_of_its_own() {
    let disk = SimDisk::new();
    let opened = open(&disk).unwrap();
    append(&opened, 1..3);
    let large: Vec<(u64, Bytes)> = (3..6).map(|index| (index, Bytes::from(vec![9; 5000]))).collect();
    try_append(&opened, large.clone()).unwrap();
    // What is left of that one, up to a whole page, has no room for this.
    let next = vec![(6, Bytes::from(vec![9; SEGMENT as usize - 1000]))];
    try_append(&opened, next.clone()).unwrap();
    let all: Vec<_> = expected(1..3).into_iter().chain(large).chain(next).collect();
    assert_eq!(entries(&opened), all);
    drop(opened);
    let found = found(&disk).unwrap();
    assert_eq!(read(&found).unwrap(), all);
    assert!(found.segments[&2].capacity > 3 * 5000);
    assert_eq!(found.segments[&3].capacity, SEGMENT);
}

#[test]
fn a_log_emptied_by_a_snapshot_goes_on_behind_it() {
    let disk = SimDisk::new();
    let opened = open(&disk).unwrap();
    append(&opened, 1..4);
    purge(&opened, 100);
    assert_eq!(opened.log.last().unwrap(), None);
    append(&opened, 100..103);
    opened.log.truncate(101).now_or_never().unwrap().unwrap();
    append(&opened, 101..105);
    drop(opened);
    let opened = open(&disk).unwrap();
    assert_eq!(entries(&opened), expected(100..105));
    assert_eq!(opened.log.last().unwrap().unwrap(), (104, entry(104)));
}

#[test]
fn reads_are_bounded_in_bytes_and_give_one_entry_at_least() {
    let disk = SimDisk::new();
    let opened = open(&disk).unwrap();
    append(&opened, 1..10);
    assert_eq!(opened.log.read(1..10, 0).unwrap(), expected(1..2));
    assert_eq!(opened.log.read(1..10, 3 * entry(9).len()).unwrap(), expected(1..4));
    assert_eq!(opened.log.read(3..5, usize::MAX).unwrap(), expected(3..5));
    assert_eq!(opened.log.read(9..20, usize::MAX).unwrap(), expected(9..10));
    assert!(opened.log.read(10..20, usize::MAX).unwrap().is_empty());
}

#[test]
fn an_entry_that_does_not_follow_is_never_written() {
    let disk = SimDisk::new();
    let opened = open(&disk).unwrap();
    append(&opened, 1..4);
    assert!(try_append(&opened, vec![(6, entry(6))]).is_err());
    assert!(opened.fatal.told().is_some());
    drop(opened);
    assert_eq!(entries(&open(&disk).unwrap()), expected(1..4));
}

#[test]
fn after_a_failed_write_nothing_more_is_written_and_the_process_must_stop() {
    // The write fails, or the sync of it.
    for changes in [0, 1] {
        let disk = SimDisk::new();
        let opened = open(&disk).unwrap();
        append(&opened, 1..3);
        disk.cut_after(changes);
        assert!(try_append(&opened, vec![(3, entry(3))]).is_err());
        assert!(opened.fatal.told().is_some());
        disk.cut_after(u64::MAX);
        let before = disk.changes();
        assert!(matches!(try_append(&opened, vec![(4, entry(4))]), Err(StorageError::Stopped)));
        let put = opened.log.put(b"vote", vec![1]).now_or_never().unwrap();
        assert!(matches!(put, Err(StorageError::Stopped)));
        assert_eq!(disk.changes(), before);
        drop(opened);
        let found = entries(&open(&disk.restart(1)).unwrap());
        assert!(found == expected(1..3) || found == expected(1..4), "{found:?}");
    }
}

#[test]
fn what_an_earlier_process_left_half_made_is_removed() {
    let disk = SimDisk::new();
    append(&open(&disk).unwrap(), 1..20);
    for name in ["log.new", "log.spare.7"] {
        disk.open(&Path::new(FOLDER).join(name), true).unwrap();
    }
    assert_eq!(entries(&open(&disk).unwrap()), expected(1..20));
    assert!(names(&disk).iter().all(|name| name.starts_with("log.0000")), "{:?}", names(&disk));
}

#[test]
fn no_spare_is_made_when_the_disk_is_down_to_its_headroom() {
    let spares = |free| {
        let disk = SimDisk::new();
        disk.set_free_bytes(free);
        append(&open(&disk).unwrap(), 1..12);
        names(&disk).into_iter().filter(|name| name.starts_with("log.spare.")).count()
    };
    assert_eq!(spares(1 << 40), 1);
    assert_eq!(spares(256 << 20), 0);
}

/// Story: on all nodes of a datacenter 16 MiB of zeros went to the disk at the same moment, and every write of the log waited.
#[test]
fn a_spare_grows_piece_by_piece_with_the_segment_before_it() {
    let disk = SimDisk::new();
    let opened = open_of(&disk, 1 << 20).unwrap();
    let has = |name: &str| names(&disk).iter().any(|known| known == name);
    let mut pieces = 0;
    for index in 1.. {
        let before = disk.changes();
        try_append(&opened, vec![(index, vec![1; 16 << 10].into())]).unwrap();
        if has("log.00000002") {
            break;
        }
        // A write and a sync are the batch's own.
        pieces += u64::from(disk.changes() - before > 2);
    }
    assert_eq!(pieces, 4, "256 KiB each");
    assert!(!has("log.spare.1") && !has("log.new"), "what was ready is used");
    let from = opened.log.last().unwrap().map_or(0, |(index, _)| index) + 1;
    for index in from..from + 140 {
        try_append(&opened, vec![(index, vec![2; 16 << 10].into())]).unwrap();
    }
    assert!(has("log.00000004"), "and so it goes on: {:?}", names(&disk));
}

#[test]
fn a_segment_of_another_log_is_refused() {
    let (disk, other) = (SimDisk::new(), SimDisk::new());
    append(&open(&disk).unwrap(), 1..3);
    append(&open(&other).unwrap(), 1..3);
    let path = path_of(Path::new(FOLDER), 1);
    let from = other.open(&path, false).unwrap();
    let mut bytes = vec![0; SEGMENT as usize];
    from.read(0, &mut bytes).unwrap();
    disk.open(&path, false).unwrap().write(0, &bytes).unwrap();
    assert!(matches!(open(&disk), Err(StorageError::Corrupt { .. })));
}

#[test]
fn records_take_what_they_are_measured_to_take() {
    assert_eq!(record_len(0), u64::from(HEAD_LEN));
    assert_eq!(record_len(1), u64::from(HEAD_LEN) + 8);
    let disk = SimDisk::new();
    let opened = open(&disk).unwrap();
    append(&opened, 1..2);
    let before = write_position(&opened);
    let counts = opened.log.counts();
    append(&opened, 2..3);
    let written = record_len(entry(2).len());
    assert_eq!(write_position(&opened) - before, written as usize);
    let expected =
        LogCounts { batches: 2, entries: 2, bytes: counts.bytes + written, segments: 1, backlog: 0 };
    assert_eq!(opened.log.counts(), expected);
    assert_eq!(opened.log.sync_us().count(), expected.batches, "each batch is timed");
}
