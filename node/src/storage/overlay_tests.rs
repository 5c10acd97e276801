//! Changes in memory above the file: what views see while generations are frozen, written and dropped.

use std::collections::{BTreeMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use meridian_crdt::{Cells, ReadCells, Table};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Applied, Folder, FolderConfig, Identity, LogPosition, Opened, StateView};
use crate::seams::{Executor, InlineExecutor, Job, Seams, SimDisk, Urgency, Worker, WorkerStopped};

const ROWS: Table = Table(9);
const OTHER: Table = Table(10);

/// Runs everything at once but the jobs of one worker, which wait until they are let go.
#[derive(Clone)]
pub(super) struct Held {
    worker: &'static str,
    jobs: Arc<Mutex<VecDeque<Job>>>,
}

impl Default for Held {
    fn default() -> Self {
        Self::of("checkpoint")
    }
}

impl Held {
    /// Holds the jobs of this worker.
    pub(super) fn of(worker: &'static str) -> Self {
        Self { worker, jobs: Arc::default() }
    }

    /// Does what waits; says whether anything did.
    pub(super) fn let_go(&self) -> bool {
        let mut any = false;
        while let Some(job) = self.next() {
            job();
            any = true;
        }
        any
    }

    fn next(&self) -> Option<Job> {
        self.jobs.lock().unwrap().pop_front()
    }
}

impl Executor for Held {
    fn worker(&self, name: &str, urgency: Urgency) -> Box<dyn Worker> {
        if name == self.worker { Box::new(self.clone()) } else { InlineExecutor.worker(name, urgency) }
    }
}

impl Worker for Held {
    fn submit(&self, job: Job) -> Result<(), WorkerStopped> {
        self.jobs.lock().unwrap().push_back(job);
        Ok(())
    }
}

fn open(disk: &SimDisk, held: &Held, overlay_bytes: usize) -> Opened {
    let identity = Identity { cluster: "c".into(), dc: "eu".into(), node: 1 };
    let mut config = FolderConfig::new("/data", identity);
    config.state_cache_bytes = 1 << 20;
    config.overlay_bytes = overlay_bytes;
    let seams =
        Seams { disk: Arc::new(disk.clone()), executor: Arc::new(held.clone()), ..Seams::production() };
    Folder::open(config, &seams).unwrap()
}

type Model = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

fn scanned(view: &impl ReadCells, table: Table, from: &[u8], to: Option<&[u8]>, max: usize) -> Model {
    let mut rows = Model::new();
    view.scan(table, from, to, &mut |key, value| {
        assert!(rows.insert((table.0, key.to_vec()), value.to_vec()).is_none(), "a row is visited once");
        if rows.len() < max { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })
    .unwrap();
    rows
}

fn expected(model: &Model, table: Table, from: &[u8], to: Option<&[u8]>, max: usize) -> Model {
    let inside = |key: &[u8]| from <= key && to.is_none_or(|to| key < to);
    let rows = model.iter().filter(|((t, key), _)| *t == table.0 && inside(key));
    rows.take(max).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn check(view: &impl ReadCells, model: &Model, rng: &mut SmallRng) {
    for table in [ROWS, OTHER] {
        assert_eq!(
            scanned(view, table, &[], None, usize::MAX),
            expected(model, table, &[], None, usize::MAX)
        );
        let (from, to) = ([rng.random_range(0..40)], [rng.random_range(0..40)]);
        let max = rng.random_range(1..9);
        let to = rng.random_bool(0.8).then_some(to.as_slice());
        assert_eq!(scanned(view, table, &from, to, max), expected(model, table, &from, to, max));
        let key = [rng.random_range(0..40)];
        let row = model.get(&(table.0, key.to_vec())).map(Vec::as_slice);
        assert_eq!(view.get(table, &key).unwrap().as_deref(), row);
        view.look(table, &key, |seen| assert_eq!(seen.map(|seen| &**seen), row)).unwrap();
    }
}

fn change(rows: &mut impl Cells, model: &mut Model, rng: &mut SmallRng) {
    let table = if rng.random_bool(0.7) { ROWS } else { OTHER };
    let key = vec![rng.random_range(0..40)];
    if rng.random_bool(0.3) {
        assert!(rows.remove(table, &key).is_ok());
        model.remove(&(table.0, key));
    } else {
        let value = vec![rng.random::<u8>(); rng.random_range(0..700)];
        assert!(rows.put(table, &key, value.clone().into()).is_ok());
        model.insert((table.0, key), value);
    }
}

fn run(seed: u64) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let (disk, held) = (SimDisk::new(), Held::default());
    let mut opened = open(&disk, &held, 1 << 20);
    let (mut model, mut durable) = (Model::new(), Model::new());
    let mut frozen: Option<Model> = None;
    let mut kept: Vec<(StateView, Model)> = Vec::new();
    for index in 0..120 {
        match rng.random_range(0..10) {
            0 if opened.state.start_checkpoint().unwrap() => frozen = Some(model.clone()),
            1 if held.let_go() => durable = frozen.take().unwrap_or(durable),
            2 => kept.push((opened.state.view(), model.clone())),
            3 if !kept.is_empty() => drop(kept.swap_remove(rng.random_range(0..kept.len()))),
            4 if rng.random_bool(0.1) => {
                kept.clear();
                held.jobs.lock().unwrap().clear();
                drop(opened);
                opened = open(&disk.restart(seed ^ index), &held, 1 << 20);
                model = durable.clone();
                break;
            }
            _ => {
                let position = Some(LogPosition { term: 1, index });
                let written = opened.state.write(|rows| {
                    for _ in 0..rng.random_range(1..6) {
                        change(rows, &mut model, &mut rng);
                        check(rows, &model, &mut rng);
                    }
                    rows.set_applied(Applied { position, membership: None });
                    Ok(())
                });
                written.unwrap();
                assert_eq!(opened.state.applied().position, position);
            }
        }
        check(&opened.state.view(), &model, &mut rng);
        check(&opened.state.durable_view(), &durable, &mut rng);
        for (view, model) in &kept {
            check(view, model, &mut rng);
        }
    }
    check(&opened.state.view(), &model, &mut rng);
}

#[test]
fn every_view_shows_its_own_moment_whatever_is_written_frozen_or_in_the_file() {
    for seed in 0..40 {
        run(seed);
    }
}

fn put(opened: &Opened, key: &[u8], value: &[u8]) {
    opened.state.write(|rows| rows.put(ROWS, key, bytes::Bytes::copy_from_slice(value))).unwrap();
}

#[test]
fn writes_go_on_while_a_checkpoint_is_written_and_a_crash_in_it_loses_all_of_it() {
    let (disk, held) = (SimDisk::new(), Held::default());
    let opened = open(&disk, &held, 1 << 20);
    put(&opened, b"a", b"1");
    assert!(opened.state.start_checkpoint().unwrap());
    put(&opened, b"a", b"2");
    assert!(!opened.state.start_checkpoint().unwrap(), "one checkpoint at a time");
    assert_eq!(opened.state.view().get(ROWS, b"a").unwrap().unwrap(), &b"2"[..]);
    assert_eq!(opened.state.durable_view().get(ROWS, b"a").unwrap(), None);
    let crashed = open(&disk.restart(1), &Held::default(), 1 << 20);
    assert_eq!(crashed.state.view().get(ROWS, b"a").unwrap(), None);
    held.let_go();
    assert_eq!(opened.state.durable_view().get(ROWS, b"a").unwrap().unwrap(), &b"1"[..]);
    assert_eq!(opened.state.view().get(ROWS, b"a").unwrap().unwrap(), &b"2"[..]);
    let crashed = open(&disk.restart(2), &Held::default(), 1 << 20);
    assert_eq!(crashed.state.view().get(ROWS, b"a").unwrap().unwrap(), &b"1"[..]);
}

fn remove(opened: &Opened, key: &[u8]) {
    opened.state.write(|rows| rows.remove(ROWS, key)).unwrap();
}

#[test]
fn what_is_written_and_removed_again_before_a_checkpoint_leaves_nothing() {
    let (disk, held) = (SimDisk::new(), Held::default());
    let opened = open(&disk, &held, 1 << 20);
    let numbered = |n: u64| n.to_be_bytes();
    put(&opened, &numbered(1), b"first");
    for n in 2..1_000 {
        put(&opened, &numbered(n), &[7; 100]);
        remove(&opened, &numbered(n - 1));
    }
    assert!(opened.state.bytes_in_memory() < 1_000, "no marks: {}", opened.state.bytes_in_memory());
    // What is on its way into the file has to be hidden, and taken out again.
    assert!(opened.state.start_checkpoint().unwrap());
    remove(&opened, &numbered(999));
    put(&opened, &numbered(1_000), b"last");
    let shown =
        |opened: &Opened| scanned(&opened.state.view(), ROWS, &[], None, 10).into_keys().collect::<Vec<_>>();
    let last = vec![(ROWS.0, numbered(1_000).to_vec())];
    assert_eq!(shown(&opened), last);
    assert!(held.let_go());
    assert_eq!(shown(&opened), last, "the file has the row, and it is hidden");
    assert!(opened.state.start_checkpoint().unwrap() && held.let_go());
    assert_eq!(shown(&opened), last);
    assert_eq!(opened.state.view().count_in_file(ROWS).unwrap(), 1);
    remove(&opened, &numbered(1_000));
    assert_eq!(shown(&opened), vec![], "a row of the file is hidden by a mark");
}

#[test]
fn a_checkpoint_that_is_waited_for_has_everything_written_before_it_was_asked_for() {
    let (disk, held) = (SimDisk::new(), Held::default());
    let opened = open(&disk, &held, 1 << 20);
    put(&opened, b"a", b"1");
    assert!(opened.state.start_checkpoint().unwrap());
    put(&opened, b"b", b"2");
    let mut waiting = Box::pin(opened.state.checkpoint());
    assert!(waiting.as_mut().now_or_never().is_none());
    held.let_go();
    assert!(waiting.as_mut().now_or_never().is_none(), "the second one is still to be written");
    held.let_go();
    waiting.now_or_never().unwrap().unwrap();
    assert_eq!(opened.state.durable_view().get(ROWS, b"b").unwrap().unwrap(), &b"2"[..]);
}

#[test]
fn when_two_generations_are_full_a_writer_waits_for_the_disk() {
    let (disk, held) = (SimDisk::new(), Held::default());
    let bound = 64 << 10;
    let opened = open(&disk, &held, bound);
    let mut written = 0u64;
    let mut waiting = Box::pin(opened.state.room());
    while waiting.as_mut().now_or_never().is_some() {
        written += 1;
        put(&opened, &written.to_be_bytes(), &[7; 2000]);
        waiting = Box::pin(opened.state.room());
    }
    assert!(opened.state.bytes_in_memory() >= 2 * bound, "both are full");
    assert!(opened.state.bytes_in_memory() <= 2 * (bound + 4000));
    held.let_go();
    waiting.now_or_never().unwrap().unwrap();
    assert!(opened.state.bytes_in_memory() <= bound + 4000);
    for key in 1..=written {
        assert!(opened.state.view().get(ROWS, &key.to_be_bytes()).unwrap().is_some());
    }
}

#[test]
fn a_checkpoint_of_a_file_that_was_exchanged_meanwhile_changes_nothing() {
    let (disk, held) = (SimDisk::new(), Held::default());
    let opened = open(&disk, &held, 1 << 20);
    put(&opened, b"a", b"old");
    assert!(opened.state.start_checkpoint().unwrap());
    // The worker has taken the job up and is about to write when the other file comes.
    let late = held.next().unwrap();
    let mut incoming = opened.folder.incoming().unwrap();
    incoming.put_all([(ROWS, b"b".as_slice(), b"new".as_slice())]).unwrap();
    let applied = Applied { position: Some(LogPosition { term: 2, index: 9 }), membership: None };
    incoming.install(&applied, &opened.state).unwrap();
    put(&opened, b"c", b"newer");
    assert!(opened.state.start_checkpoint().unwrap());
    late();
    held.let_go();
    for view in [opened.state.view(), opened.state.durable_view()] {
        assert_eq!(view.get(ROWS, b"a").unwrap(), None);
        assert_eq!(view.get(ROWS, b"b").unwrap().unwrap(), &b"new"[..]);
        assert_eq!(view.get(ROWS, b"c").unwrap().unwrap(), &b"newer"[..]);
        assert_eq!(view.applied(), &applied);
    }
}

/// Story: a transaction reads from its snapshot, and the scrubber takes a step, while a follower installs what its leader sent.
#[test]
fn a_view_goes_on_after_its_file_was_exchanged() {
    let (disk, held) = (SimDisk::new(), Held::default());
    let opened = open(&disk, &held, 8 << 20);
    let checkpoint = || {
        assert!(opened.state.start_checkpoint().unwrap());
        held.let_go();
    };
    // More than the cache takes, so that what the view shows has to be read from the file.
    for key in 0..2000u32 {
        put(&opened, &key.to_be_bytes(), &[1; 1000]);
    }
    checkpoint();
    let older = opened.state.view();
    put(&opened, b"later", b"1");
    checkpoint();
    let views = [older, opened.state.view(), opened.state.durable_view()];
    let incoming = opened.folder.incoming().unwrap();
    incoming.install(&Applied::default(), &opened.state).unwrap();
    assert_eq!(opened.state.view().get(ROWS, &7u32.to_be_bytes()).unwrap(), None);
    for view in &views {
        assert_eq!(scanned(view, ROWS, &[], Some(b"l"), usize::MAX).len(), 2000);
    }
    drop(views);
    put(&opened, b"a", b"new");
    checkpoint();
    assert_eq!(opened.state.durable_view().get(ROWS, b"a").unwrap().unwrap(), &b"new"[..]);
}

#[test]
fn who_waits_for_a_disk_that_fails_is_told() {
    let (disk, held) = (SimDisk::new(), Held::default());
    let opened = open(&disk, &held, 1 << 20);
    put(&opened, b"a", b"1");
    let mut waiting = Box::pin(opened.state.checkpoint());
    assert!(waiting.as_mut().now_or_never().is_none());
    disk.cut_after(0);
    held.let_go();
    assert!(waiting.now_or_never().unwrap().is_err());
    assert!(opened.state.room().now_or_never().unwrap().is_err());
    assert_eq!(opened.state.view().get(ROWS, b"a").unwrap().unwrap(), &b"1"[..], "reads go on");
}
