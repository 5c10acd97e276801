//! Power cuts at every write and every sync of a seeded run.
//!
//! Each run is cut at its k-th change of the disk; a seeded subset of the sectors that were not synced survives. After
//! the restart nothing that was acknowledged may be missing from the log, nothing torn may be in it, and the state must
//! be exactly what a prefix of the run made.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use meridian_crdt::{Cells, ReadCells, Table};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::overlay_tests::Held;
use super::{Applied, Folder, FolderConfig, Identity, LogPosition, Opened, StateView, StorageError};
use crate::seams::{Disk, InlineExecutor, Seams, SimDisk};

const ROWS: Table = Table(7);
const STEPS: u64 = 24;
const CHECKPOINT_EVERY: u64 = 7;
/// How many entries the log keeps behind a checkpoint.
const KEPT: u64 = 3;

fn seams(disk: &SimDisk) -> Seams {
    Seams { disk: Arc::new(disk.clone()), executor: Arc::new(InlineExecutor), ..Seams::production() }
}

fn open(disk: &SimDisk) -> Result<Opened, StorageError> {
    open_on(&seams(disk))
}

fn open_on(seams: &Seams) -> Result<Opened, StorageError> {
    let identity = Identity { cluster: "c".into(), dc: "eu".into(), node: 1 };
    let mut config = FolderConfig::new("/data", identity);
    config.state_cache_bytes = 1 << 20;
    // So small that a run begins several segments, and uses some again.
    config.log_segment_bytes = 4 << 10;
    config.entry_cache_bytes = 256;
    Folder::open(config, seams)
}

/// The entry that a run with `seed` appends at `index`.
fn entry(seed: u64, index: u64) -> Bytes {
    let mut rng = SmallRng::seed_from_u64(seed ^ (index << 32));
    let len = rng.random_range(1..900);
    (0..len).map(|_| rng.random::<u8>()).collect::<Vec<_>>().into()
}

/// The rows after the entries up to `index`.
fn model(seed: u64, index: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    for i in 1..=index {
        let entry = entry(seed, i);
        rows.insert(vec![entry[0] % 16], entry.to_vec());
    }
    rows
}

fn rows(view: &StateView) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = BTreeMap::new();
    view.scan(ROWS, &[], None, &mut |key, value| {
        rows.insert(key.to_vec(), value.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    rows
}

/// What a run was told before the power went.
#[derive(Clone, Debug, Default)]
struct Told {
    entries: u64,
    vote: u64,
    checkpoint: u64,
    /// Entries below this may be gone, since a purge of them was begun.
    purging: u64,
    /// Entries below this are gone.
    purged: u64,
}

fn now<T>(work: impl Future<Output = T>) -> T {
    // Everything runs inline, so that nothing is ever waited for.
    work.now_or_never().unwrap()
}

fn apply(opened: &Opened, seed: u64, index: u64) -> Result<(), StorageError> {
    opened.state.write(|rows| {
        let entry = entry(seed, index);
        rows.put(ROWS, &[entry[0] % 16], entry)?;
        let position = Some(LogPosition { term: 1, index });
        rows.set_applied(Applied { position, membership: None });
        Ok(())
    })
}

/// How a run makes its checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checkpoints {
    /// Each is waited for.
    Waited,
    /// Each is written so many steps after it was begun, in the middle of others' writes.
    Late(u64),
}

const ALL_CHECKPOINTS: [Checkpoints; 3] = [Checkpoints::Waited, Checkpoints::Late(1), Checkpoints::Late(4)];

fn append(opened: &Opened, index: u64, entry: Bytes) -> Result<(), StorageError> {
    let (tx, mut rx) = tokio::sync::oneshot::channel();
    opened.log.append(vec![(index, entry)], move |done| {
        let _ = tx.send(done);
    });
    rx.try_recv().unwrap()
}

/// Purges the log behind what is in the file.
fn purge(opened: &Opened, told: &mut Told) -> Result<(), StorageError> {
    told.checkpoint = opened.state.durable().index();
    told.purging = told.purging.max(told.checkpoint.saturating_sub(KEPT));
    now(opened.log.purge(told.purging, b"purged", told.purging.to_be_bytes().to_vec()))?;
    told.purged = told.purging;
    Ok(())
}

/// Goes on from wherever the log ends.
fn run(disk: &SimDisk, seed: u64, checkpoints: Checkpoints, told: &mut Told) -> Result<(), StorageError> {
    let held = Held::default();
    let opened = match checkpoints {
        Checkpoints::Waited => open(disk)?,
        Checkpoints::Late(_) => open_on(&Seams { executor: Arc::new(held.clone()), ..seams(disk) })?,
    };
    let mut begun = None;
    let from = opened.log.last()?.map_or(0, |(index, _)| index) + 1;
    for index in from..from + STEPS {
        if index % 4 == 0 {
            // A deposed leader's entry, which the next leader does not know.
            append(&opened, index, Bytes::from_static(&[0xde; 700]))?;
            now(opened.log.truncate(index))?;
        }
        append(&opened, index, entry(seed, index))?;
        told.entries = index;
        if index % 5 == 0 {
            now(opened.log.put(b"vote", index.to_be_bytes().to_vec()))?;
            told.vote = index;
        }
        apply(&opened, seed, index)?;
        match checkpoints {
            Checkpoints::Waited if index % CHECKPOINT_EVERY == 0 => {
                now(opened.state.checkpoint())?;
                purge(&opened, told)?;
            }
            Checkpoints::Late(_) if index % CHECKPOINT_EVERY == 0 => {
                assert!(opened.state.start_checkpoint()?);
                begun = Some(index);
            }
            Checkpoints::Late(steps) if begun.is_some_and(|begun| begun + steps == index) => {
                held.let_go();
                purge(&opened, told)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The number in a row beside the entries.
fn number(opened: &Opened, row: &[u8]) -> u64 {
    let row = opened.log.row(row).unwrap();
    row.map_or(0, |row| u64::from_be_bytes(row.try_into().unwrap()))
}

fn check(disk: &SimDisk, seed: u64, told: &Told, cut: u64) {
    let opened = open(disk).unwrap_or_else(|error| panic!("cut {cut}: {error}"));
    let mut entries = opened.log.read(0..u64::MAX, usize::MAX).unwrap();
    let last = entries.last().map_or(0, |(index, _)| *index);
    assert!(last >= told.entries, "cut {cut}: an acknowledged entry is lost: {told:?}");
    let first = entries.first().map_or(0, |(index, _)| *index);
    assert!(first <= told.purging.max(1), "cut {cut}: an entry is lost at the beginning: {told:?}");
    assert!(first >= told.purged, "cut {cut}: a purged entry is back: {told:?}");
    assert!(number(&opened, b"vote") >= told.vote, "cut {cut}: a saved vote is lost");
    let purged = number(&opened, b"purged");
    assert!(purged >= told.purged && purged <= first, "cut {cut}: {purged} does not say what was purged");
    let deposed = |(_, entry): &mut (u64, Bytes)| entry[..] == [0xde; 700];
    if last > told.entries && entries.pop_if(deposed).is_some() {
        now(opened.log.truncate(last)).unwrap();
    }
    for (at, (index, found)) in entries.iter().enumerate() {
        assert_eq!(*index, at as u64 + first, "cut {cut}: the log has a hole");
        assert_eq!(*found, entry(seed, *index), "cut {cut}: a torn entry");
    }
    let last = entries.last().map_or(0, |(index, _)| *index);
    let view = opened.state.view();
    let applied = view.applied_index();
    assert!(applied >= told.checkpoint, "cut {cut}: a checkpoint is lost");
    assert!(applied <= last, "cut {cut}: the state is ahead of the log");
    assert_eq!(rows(&view), model(seed, applied), "cut {cut}: the state is no prefix of the run");
    for index in applied + 1..=last {
        apply(&opened, seed, index).unwrap();
    }
    assert_eq!(rows(&opened.state.view()), model(seed, last));
}

#[test]
fn nothing_acknowledged_is_lost_or_torn_wherever_the_power_is_cut() {
    let seed = 42;
    for checkpoints in ALL_CHECKPOINTS {
        let whole = SimDisk::new();
        let mut told = Told::default();
        run(&whole, seed, checkpoints, &mut told).unwrap();
        assert!(told.checkpoint >= 2 * CHECKPOINT_EVERY, "checkpoints are made: {told:?}");
        let changes = whole.changes();
        assert!(changes > STEPS * 4, "the run changes the disk at every step: {changes}");
        let names = whole.list(Path::new("/data")).unwrap();
        assert!(names.iter().any(|name| name > &"log.00000003".to_owned()), "segments are begun: {names:?}");
        assert!(!names.contains(&"log.00000001".to_owned()), "and let go: {names:?}");
        for cut in 0..changes {
            let disk = SimDisk::new();
            disk.cut_after(cut);
            let mut told = Told::default();
            // A run that ends before the cut has nothing left to lose.
            let _ = run(&disk, seed, checkpoints, &mut told);
            check(&disk.restart(seed + cut), seed, &told, cut);
        }
    }
}

/// Story: a process dies between its last write and the sync of it. The next one finds the write, goes on behind it, and
/// then the power fails: what it had been told is on disk must not rest on what the first one never synced.
#[test]
fn nothing_acknowledged_is_lost_when_a_process_dies_and_then_the_power_is_cut() {
    let (seed, checkpoints) = (4711, Checkpoints::Waited);
    let whole = SimDisk::new();
    run(&whole, seed, checkpoints, &mut Told::default()).unwrap();
    for (first, again) in (0..whole.changes()).step_by(5).flat_map(|first| [(first, 3), (first, 17)]) {
        let disk = SimDisk::new();
        disk.cut_after(first);
        let mut told = Told::default();
        let _ = run(&disk, seed, checkpoints, &mut told);
        let disk = disk.handover();
        // Puts the log and the state in order, as a node does.
        check(&disk, seed, &told, first);
        disk.cut_after(again);
        let _ = run(&disk, seed, checkpoints, &mut told);
        check(&disk.restart(seed + first + again), seed, &told, first);
    }
}

/// Story: an entry is committed by two other nodes while this one still writes what came before it, and then the power fails.
/// A node that knew of it and did not have it could never start again.
#[test]
fn what_is_committed_is_never_known_without_its_entry() {
    // All in one batch, and in several.
    for (entries, bytes) in [(4, 700), (5, 3 << 20)] {
        let run = |disk: &SimDisk| {
            let held = Held::of("log");
            let opened = open_on(&Seams { executor: Arc::new(held.clone()), ..seams(disk) })?;
            for index in 1..=entries {
                opened.log.append(vec![(index, vec![index as u8; bytes].into())], |_| {});
            }
            opened.log.put_lazily(b"committed", entries.to_be_bytes().to_vec());
            held.let_go();
            Ok::<_, StorageError>(())
        };
        let known = |disk: &SimDisk| {
            let opened = open(disk).unwrap();
            (number(&opened, b"committed"), opened.log.last().unwrap().map_or(0, |(index, _)| index))
        };
        let whole = SimDisk::new();
        run(&whole).unwrap();
        assert_eq!(known(&whole.restart(0)), (entries, entries));
        for (cut, seed) in (0..whole.changes()).flat_map(|cut| (0..20).map(move |seed| (cut, seed))) {
            let disk = SimDisk::new();
            disk.cut_after(cut);
            // What is cut off early does not even open.
            let _ = run(&disk);
            let (committed, last) = known(&disk.restart(seed));
            assert!(
                committed <= last,
                "cut {cut}, seed {seed}: {committed} is committed, the log ends at {last}"
            );
        }
    }
}

#[test]
fn a_half_installed_snapshot_never_survives_a_power_cut() {
    let seed = 7;
    let prepare = || {
        let disk = SimDisk::new();
        let opened = open(&disk).unwrap();
        for index in 1..=3 {
            apply(&opened, seed, index).unwrap();
        }
        now(opened.state.checkpoint()).unwrap();
        (disk, opened)
    };
    let install = |opened: &Opened| -> Result<(), StorageError> {
        let mut incoming = opened.folder.incoming()?;
        let rows = model(seed, 9);
        incoming.put_all(rows.iter().map(|(key, value)| (ROWS, key.as_slice(), value.as_slice())))?;
        let position = Some(LogPosition { term: 2, index: 9 });
        incoming.install(&Applied { position, membership: None }, &opened.state)
    };
    let (disk, opened) = prepare();
    let before = disk.changes();
    install(&opened).unwrap();
    assert_eq!(rows(&opened.state.view()), model(seed, 9));
    let changes = disk.changes() - before;
    for cut in 0..=changes {
        let (disk, opened) = prepare();
        disk.cut_after(cut);
        let installed = install(&opened).is_ok();
        let found = open(&disk.restart(cut)).unwrap();
        let view = found.state.view();
        let index = view.applied_index();
        assert!(index == 9 || (index == 3 && !installed), "cut {cut}: {index}");
        assert_eq!(rows(&view), model(seed, index), "cut {cut}");
    }
}
