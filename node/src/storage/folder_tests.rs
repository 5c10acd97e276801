//! Folders that must be refused, and rot that must be found.

use std::path::Path;

use futures_util::FutureExt;
use meridian_crdt::{Cells, ReadCells, Table};
use redb::StorageBackend;

use super::tables::{self, Owner};
use super::{Applied, FORMAT_VERSION, Folder, FolderConfig, Identity, ScrubCursor, StorageError};
use crate::seams::{Disk, InlineExecutor, Seams, SimDisk};

fn identity(node: u64) -> Identity {
    Identity { cluster: "c".into(), dc: "eu".into(), node }
}

fn on(disk: &SimDisk) -> Seams {
    // Everything runs inline, so that nothing is ever waited for.
    let executor = std::sync::Arc::new(InlineExecutor);
    Seams { disk: std::sync::Arc::new(disk.clone()), executor, ..Seams::production() }
}

fn config(node: u64) -> FolderConfig {
    FolderConfig { log_segment_bytes: 64 << 10, ..FolderConfig::new("/data", identity(node)) }
}

#[test]
fn a_folder_is_refused_to_other_nodes_dcs_and_clusters_and_stays_as_it_is() {
    let disk = SimDisk::new();
    drop(Folder::open(config(1), &on(&disk)).unwrap());
    let others = [
        identity(2),
        Identity { dc: "us".into(), ..identity(1) },
        Identity { cluster: "d".into(), ..identity(1) },
    ];
    for other in others {
        let refused = Folder::open(FolderConfig::new("/data", other), &on(&disk)).unwrap_err();
        assert!(matches!(refused, StorageError::Foreign { .. }), "{refused}");
    }
    let opened = Folder::open(config(1), &on(&disk)).unwrap();
    assert!(!opened.created);
}

#[test]
fn a_folder_in_use_is_refused() {
    let disk = SimDisk::new();
    let opened = Folder::open(config(1), &on(&disk)).unwrap();
    let refused = Folder::open(config(1), &on(&disk)).unwrap_err();
    assert!(matches!(refused, StorageError::Locked { .. }), "{refused}");
    drop(opened);
    Folder::open(config(1), &on(&disk)).unwrap();
}

/// Story: a follower is installing a snapshot when its connection is lost, and the leader sends another one at once.
#[test]
fn a_state_that_is_received_leaves_alone_the_one_before_and_nothing_behind() {
    const ROWS: Table = Table(7);
    let disk = SimDisk::new();
    let opened = Folder::open(config(1), &on(&disk)).unwrap();
    let received = |value: &[u8]| {
        let mut incoming = opened.folder.incoming().unwrap();
        incoming.put_all([(ROWS, b"key".as_slice(), value)]).unwrap();
        incoming
    };
    let (first, second) = (received(b"first"), received(b"second"));
    first.install(&Applied::default(), &opened.state).unwrap();
    assert_eq!(opened.state.view().get(ROWS, b"key").unwrap().as_deref(), Some(b"first".as_slice()));
    let left = || disk.list(Path::new("/data")).unwrap().iter().filter(|n| n.contains("incoming")).count();
    assert_eq!(left(), 1);
    drop(second);
    assert_eq!(left(), 0);

    let mut third = received(b"third");
    disk.set_free_bytes(0);
    let refused = third.put_all([(ROWS, b"more".as_slice(), b"".as_slice())]).unwrap_err();
    assert!(matches!(refused, StorageError::Full { .. }), "the disk fills while it is received: {refused}");
    drop(third);
    assert_eq!(left(), 0, "its space is given back");
}

#[test]
fn a_newer_format_is_refused() {
    let disk = SimDisk::new();
    let opened = Folder::open(config(1), &on(&disk)).unwrap();
    let store_id = opened.folder.store_id();
    drop(opened);
    let db =
        tables::open_database(disk.open(Path::new("/data/state.redb"), false).unwrap(), 1 << 20).unwrap();
    let owner = Owner { format: FORMAT_VERSION + 1, identity: identity(1), store_id };
    tables::initialise(&db, &owner, &[]).unwrap();
    drop(db);
    let refused = Folder::open(config(1), &on(&disk)).unwrap_err();
    assert!(
        matches!(refused, StorageError::NewerFormat { found, .. } if found == FORMAT_VERSION + 1),
        "{refused}"
    );
}

#[test]
fn a_folder_of_format_2_or_3_becomes_one_of_the_newest_and_keeps_what_it_has() {
    for format in [2, 3] {
        becomes_one_of_the_newest(format);
    }
}

fn becomes_one_of_the_newest(format: u32) {
    let disk = SimDisk::new();
    let opened = Folder::open(config(1), &on(&disk)).unwrap();
    let store_id = opened.folder.store_id();
    opened.state.write(|rows| rows.put(Table(3), b"key", b"value".as_slice().into())).unwrap();
    opened.state.checkpoint().now_or_never().unwrap().unwrap();
    drop(opened);
    let open =
        || tables::open_database(disk.open(Path::new("/data/state.redb"), false).unwrap(), 1 << 20).unwrap();
    let owner = Owner { format, identity: identity(1), store_id };
    tables::initialise(&open(), &owner, &[]).unwrap();
    let log = disk.open(Path::new("/data/log.00000001"), false).unwrap();
    let mut header = [0; 48];
    log.read(0, &mut header).unwrap();
    header[8..12].copy_from_slice(&format.to_be_bytes());
    let sum = xxhash_rust::xxh3::xxh3_64(&header[..40]);
    header[40..].copy_from_slice(&sum.to_be_bytes());
    log.write(0, &header).unwrap();
    drop(log);

    let opened = Folder::open(config(1), &on(&disk)).unwrap();
    let row = opened.state.view().get(Table(3), b"key").unwrap();
    assert_eq!(row.as_deref(), Some(&b"value"[..]));
    assert_eq!(opened.folder.store_id(), store_id);
    drop(opened);
    let owner = tables::owner(&open()).unwrap();
    assert_eq!(owner, Some(Owner { format: FORMAT_VERSION, identity: identity(1), store_id }));
}

#[test]
fn a_folder_of_an_older_format_is_refused_with_a_word_on_what_to_do() {
    let disk = SimDisk::new();
    drop(Folder::open(config(1), &on(&disk)).unwrap());
    let owner = Owner { format: 1, identity: identity(1), store_id: uuid::Uuid::nil() };
    let db =
        tables::open_database(disk.open(Path::new("/data/state.redb"), false).unwrap(), 1 << 20).unwrap();
    tables::initialise(&db, &owner, &[]).unwrap();
    drop(db);
    let refused = Folder::open(config(1), &on(&disk)).unwrap_err();
    assert!(matches!(refused, StorageError::OldFormat { found: 1, .. }), "{refused}");

    let disk = SimDisk::new();
    disk.open(Path::new("/data/log.redb"), true).unwrap();
    let refused = Folder::open(config(1), &on(&disk)).unwrap_err();
    assert!(matches!(refused, StorageError::OldFormat { found: 1, .. }), "{refused}");
    assert!(refused.to_string().contains("run the version that wrote it"), "{refused}");
    assert_eq!(disk.list(Path::new("/data")).unwrap(), ["log.redb"], "nothing was made beside it");
}

#[test]
fn a_state_without_its_log_is_corrupt_and_not_made_anew() {
    let disk = SimDisk::new();
    drop(Folder::open(config(1), &on(&disk)).unwrap());
    disk.remove(Path::new("/data/log.00000001")).unwrap();
    let refused = Folder::open(config(1), &on(&disk)).unwrap_err();
    assert!(matches!(refused, StorageError::Corrupt { .. }), "{refused}");
}

#[test]
fn a_full_disk_is_told_before_anything_is_written() {
    let disk = SimDisk::new();
    let opened = Folder::open(config(1), &on(&disk)).unwrap();
    opened.folder.check_headroom().unwrap();
    disk.set_free_bytes(1000);
    assert!(matches!(opened.folder.check_headroom(), Err(StorageError::Full { free: 1000, .. })));
    disk.set_free_bytes(1 << 40);
    opened.folder.check_headroom().unwrap();
}

#[test]
fn a_failed_write_is_fatal_and_nothing_is_written_after_it() {
    let disk = SimDisk::new();
    let opened = Folder::open(config(1), &on(&disk)).unwrap();
    opened.state.write(|rows| rows.put(Table(5), b"k", "v".into())).unwrap();
    disk.cut_after(0);
    assert!(opened.state.checkpoint().now_or_never().unwrap().is_err());
    assert!(opened.fatal.told().is_some());
    let refused = opened.state.write(|rows| rows.put(Table(5), b"k", "w".into()));
    assert!(matches!(refused, Err(StorageError::Stopped)));
}

#[test]
fn reads_and_the_scrubber_find_a_flipped_bit() {
    let disk = SimDisk::new();
    let path = Path::new("/data/state.redb");
    let opened = Folder::open(config(1), &on(&disk)).unwrap();
    let needle = [0xa7u8; 64];
    opened
        .state
        .write(|rows| {
            for i in 0..100u8 {
                rows.put(Table(5), &[i], if i == 50 { needle.to_vec().into() } else { "value".into() })?;
            }
            Ok(())
        })
        .unwrap();
    opened.state.checkpoint().now_or_never().unwrap().unwrap();
    let mut cursor = Some(ScrubCursor::default());
    let mut rows = 0;
    while let Some(from) = cursor {
        let step = opened.state.scrub(from, 7).unwrap();
        rows += step.rows;
        cursor = step.next;
    }
    assert_eq!(rows, 100);
    drop(opened);
    let at = disk.find(path, &needle).unwrap();
    assert!(disk.flip_bit(path, at * 8 + 3));
    let opened = Folder::open(config(1), &on(&disk)).unwrap();
    let view = opened.state.view();
    assert!(matches!(view.get(Table(5), &[50]), Err(StorageError::Corrupt { .. })));
    assert_eq!(view.get(Table(5), &[51]).unwrap().unwrap(), &b"value"[..]);
    let found = opened.state.scrub(ScrubCursor::default(), 1000);
    assert!(matches!(found, Err(StorageError::Corrupt { .. })));
}
