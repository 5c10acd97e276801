//! Applying entries, on rows in memory and on the state file, and reading what was applied.

use std::sync::Arc;

use meridian::seams::{InlineExecutor, Seams};
use meridian::storage::{Folder, FolderConfig, Identity, Opened};
use meridian::txn::oplog::{self, ReadBounds};
use meridian::txn::{Answer, ClientTxn, Entry, Item, Outcome, Reply, ShardState, apply_entry};
use meridian_crdt::{
    Cells, CounterOp, Key, MapOp, MemCells, Mutation, OriginName, Query, ReadCells, RegisterOp, SetOp, Value,
    Vector, read,
};

use super::{Case, measured, measured_in_batches, told};
use crate::op::{Random, element_name, key_name, value};

/// Keys that are written.
const KEYS: u64 = 1_000;
/// Operations of one entry where many share one.
const BATCH: u64 = 32;
/// Elements of the set that is added to.
const SET_SIZE: u64 = 10_000;
/// Elements that one operation adds while the set is filled.
const FILL: u64 = 500;
/// Txns of one read of the oplog.
const OPLOG_TXNS: u64 = 256;
/// Log time of the first entry.
const START_MS: u64 = 1_800_000_000_000;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "apply-register-mem",
        step: "an entry that sets one register, in memory",
        run: |n| mem(n, 1, register),
    },
    Case {
        name: "apply-counter-mem",
        step: "an entry that adds to one counter",
        run: |n| mem(n, 1, counter),
    },
    Case { name: "apply-set-mem", step: "an entry that adds to a set of 10,000", run: |n| mem(n, 1, set) },
    Case { name: "apply-map-mem", step: "an entry that updates a map's field", run: |n| mem(n, 1, map) },
    Case {
        name: "apply-register-mem-of-32",
        step: "an entry that sets 32 registers",
        run: |n| mem(n, BATCH, register),
    },
    Case {
        name: "apply-register-file-of-32",
        step: "the same on the state store, where the rows of a checkpoint are below",
        run: |n| file(n, register),
    },
    Case {
        name: "apply-counter-file-of-32",
        step: "32 additions to counters, on the state store",
        run: |n| file(n, counter),
    },
    Case {
        name: "apply-set-file-of-32",
        step: "32 additions to a set of 10,000, on the state store",
        run: |n| file(n, set),
    },
    Case {
        name: "apply-map-file-of-32",
        step: "32 updates of maps' fields, on the state store",
        run: |n| file(n, map),
    },
    Case {
        name: "checkpoint-of-1024",
        step: "a checkpoint after 1,024 registers were set, in the background of writes",
        run: checkpoint,
    },
    Case { name: "entry-encode-of-32", step: "encoding an entry of 32 registers", run: encode },
    Case { name: "entry-decode-of-32", step: "decoding it", run: decode },
    Case { name: "read-register-mem", step: "reading a register, in memory", run: read_mem },
    Case {
        name: "read-register-file",
        step: "reading a register from the state store, on a view",
        run: |n| read_file(n, false),
    },
    Case {
        name: "read-register-file-view",
        step: "the same, opening the view as well",
        run: |n| read_file(n, true),
    },
    Case { name: "oplog-read-256", step: "reading 256 txns of the oplog, in memory", run: oplog_read },
];

type Make = fn(&mut Random, u64) -> (Key, Mutation);

fn key(name: String) -> Key {
    Key::new("default", name).unwrap_or_else(|e| unreachable!("the names of this suite are keys: {e}"))
}

fn register(random: &mut Random, n: u64) -> (Key, Mutation) {
    let k = random.below(KEYS);
    (key(key_name(k)), Mutation::Register(RegisterOp::Set(Value::Str(value(k, n)))))
}

fn counter(random: &mut Random, _: u64) -> (Key, Mutation) {
    (key(format!("counter-{}", random.below(KEYS))), Mutation::Counter(CounterOp::Add(1)))
}

fn set(_: &mut Random, n: u64) -> (Key, Mutation) {
    (key("set".into()), Mutation::Set(SetOp::Add(Value::Str(element_name(SET_SIZE + n)))))
}

fn map(random: &mut Random, n: u64) -> (Key, Mutation) {
    let inner = Box::new(Mutation::Register(RegisterOp::Set(Value::Str(value(n, n)))));
    let update = MapOp::Update { field: format!("field-{}", n % 16), mutation: inner };
    (key(format!("map-{}", random.below(KEYS))), Mutation::Map(update))
}

/// Entries of a single shard, one after the other.
struct Entries {
    random: Random,
    made: u64,
    make: Make,
}

impl Entries {
    fn new(make: Make) -> Self {
        Self { random: Random::new(7), made: 0, make }
    }

    /// What begins the shard's life and fills the set.
    fn first(&self) -> Vec<Entry> {
        let name = OriginName { dc: "home".into(), epoch: uuid::Uuid::from_u128(1) };
        let mint = Entry { now_ms: START_MS, items: vec![Item::Mint { name, lost: None, ends: None }] };
        let fill = (0..SET_SIZE / FILL).map(|n| {
            let elements = (n * FILL..(n + 1) * FILL).map(|e| Value::Str(element_name(e))).collect();
            client(vec![(key("set".into()), Mutation::Set(SetOp::AddAll(elements)))], n)
        });
        std::iter::once(mint).chain(fill.map(|item| Entry { now_ms: START_MS, items: vec![item] })).collect()
    }

    fn next(&mut self, items: u64) -> Entry {
        let items = (0..items).map(|_| {
            self.made += 1;
            client(vec![(self.make)(&mut self.random, self.made)], self.made)
        });
        let items = items.collect();
        Entry { now_ms: START_MS + self.made, items }
    }
}

fn client(ops: Vec<(Key, Mutation)>, n: u64) -> Item {
    Item::Client(ClientTxn { hlc: (START_MS + n) << 16, ops, ..ClientTxn::default() })
}

/// Whether everything in a reply was done.
fn check(reply: &Reply) -> Result<(), String> {
    let done = |outcome: &Outcome| matches!(outcome, Outcome::Done | Outcome::Client(Answer::Done { .. }));
    match reply.outcomes.iter().find(|outcome| !done(outcome)) {
        None => Ok(()),
        Some(other) => Err(format!("{other:?}")),
    }
}

fn apply_all<C: Cells>(state: &mut ShardState, cells: &mut C, entries: Vec<Entry>) -> Result<(), String> {
    entries.into_iter().try_for_each(|entry| check(&apply_entry(state, cells, entry).map_err(told)?))
}

fn mem(times: u64, items: u64, make: Make) -> Result<(), String> {
    let (mut state, mut cells, mut entries) = (ShardState::new(), MemCells::new(), Entries::new(make));
    apply_all(&mut state, &mut cells, entries.first())?;
    // So that keys exist already when it is measured.
    let warm_up = (0..KEYS / 4).map(|_| entries.next(8)).collect();
    apply_all(&mut state, &mut cells, warm_up)?;
    for _ in 0..times {
        let entry = entries.next(items);
        check(&measured(|| apply_entry(&mut state, &mut cells, entry)).map_err(told)?)?;
    }
    Ok(())
}

/// A state file in a folder that goes with it. Checkpoints are written in this thread.
fn open() -> Result<(Opened, tempfile::TempDir), String> {
    let seams = Seams { executor: Arc::new(InlineExecutor), ..Seams::production() };
    let folder = tempfile::tempdir().map_err(told)?;
    let identity = Identity { cluster: "bench".into(), dc: "home".into(), node: 1 };
    let config = FolderConfig::new(folder.path().join("data"), identity);
    Ok((Folder::open(config, &seams).map_err(told)?, folder))
}

/// The state after what is done before measuring, in the file.
fn prepare(opened: &Opened, entries: &mut Entries) -> Result<ShardState, String> {
    let mut state = ShardState::new();
    let warm_up: Vec<Entry> =
        entries.first().into_iter().chain((0..KEYS / 4).map(|_| entries.next(8))).collect();
    let applied = opened.state.write(|rows| Ok(apply_all(&mut state, rows, warm_up)));
    applied.map_err(told)??;
    opened.state.start_checkpoint().map_err(told)?;
    // The first write afterwards takes down what was in memory, in this thread here.
    opened.state.write(|_| Ok(())).map_err(told)?;
    Ok(state)
}

fn file(times: u64, make: Make) -> Result<(), String> {
    let (opened, _folder) = open()?;
    let mut entries = Entries::new(make);
    let mut state = prepare(&opened, &mut entries)?;
    for _ in 0..times {
        let entry = entries.next(BATCH);
        let reply = measured(|| opened.state.write(|rows| Ok(apply_entry(&mut state, rows, entry))));
        check(&reply.map_err(told)?.map_err(told)?)?;
    }
    Ok(())
}

fn checkpoint(times: u64) -> Result<(), String> {
    let (opened, _folder) = open()?;
    let mut entries = Entries::new(register);
    let mut state = prepare(&opened, &mut entries)?;
    for _ in 0..times {
        for _ in 0..1024 / BATCH {
            let entry = entries.next(BATCH);
            let reply = opened.state.write(|rows| Ok(apply_entry(&mut state, rows, entry)));
            check(&reply.map_err(told)?.map_err(told)?)?;
        }
        let begun = measured(|| opened.state.start_checkpoint()).map_err(told)?;
        if !begun || opened.state.bytes_in_memory() > 0 {
            return Err("the checkpoint was not written".into());
        }
    }
    Ok(())
}

fn encode(times: u64) -> Result<(), String> {
    let mut entries = Entries::new(register);
    let check = |encoded: Result<_, _>| encoded.map(drop).map_err(told);
    measured_in_batches(times, |_| Ok(entries.next(BATCH)), |entry| entry.encode(), check)
}

fn decode(times: u64) -> Result<(), String> {
    let mut entries = Entries::new(register);
    let input = |_| entries.next(BATCH).encode().map_err(told);
    measured_in_batches(times, input, |bytes| Entry::decode(bytes), |entry| entry.map(drop).map_err(told))
}

fn read_one<C: ReadCells>(cells: &C, key: &Key) -> Result<(), String> {
    let reading = read(cells, key, &Query::default()).map_err(told)?;
    reading.content.map(drop).ok_or_else(|| format!("{} is absent", key.key))
}

fn read_mem(times: u64) -> Result<(), String> {
    let (mut state, mut cells, mut entries) = (ShardState::new(), MemCells::new(), Entries::new(register));
    let first: Vec<Entry> = entries.first().into_iter().chain([entries.next(BATCH)]).collect();
    let keys = written(&first);
    apply_all(&mut state, &mut cells, first)?;
    measured_in_batches(times, |n| one_of(&keys, n), |key| read_one(&cells, key), |read| read)
}

fn read_file(times: u64, open_view: bool) -> Result<(), String> {
    let (opened, _folder) = open()?;
    let mut entries = Entries::new(register);
    let mut state = prepare(&opened, &mut entries)?;
    let last = entries.next(BATCH);
    let keys = written(std::slice::from_ref(&last));
    opened.state.write(|rows| Ok(apply_all(&mut state, rows, vec![last]))).map_err(told)??;
    let view = opened.state.view();
    let step = |key: &mut &Key| match open_view {
        true => read_one(&opened.state.view(), key),
        false => read_one(&view, key),
    };
    measured_in_batches(times, |n| one_of(&keys, n), step, |read| read)
}

fn one_of(keys: &[Key], n: u64) -> Result<&Key, String> {
    Ok(&keys[usize::try_from(n).map_err(told)? % keys.len()])
}

/// The registers that entries set.
fn written(entries: &[Entry]) -> Vec<Key> {
    let of = |item: &Item| match item {
        Item::Client(txn) => txn.ops.clone(),
        _ => Vec::new(),
    };
    let ops = entries.iter().flat_map(|entry| entry.items.iter().flat_map(of));
    ops.filter(|(_, mutation)| matches!(mutation, Mutation::Register(_))).map(|(key, _)| key).collect()
}

fn oplog_read(times: u64) -> Result<(), String> {
    let (mut state, mut cells, mut entries) = (ShardState::new(), MemCells::new(), Entries::new(register));
    let all = entries.first().into_iter().chain((0..2 * OPLOG_TXNS).map(|_| entries.next(1))).collect();
    apply_all(&mut state, &mut cells, all)?;
    let mut have = Vector::new();
    let own = state.own.ok_or("the shard has no origin")?;
    have.set(own, state.vector.get(own) - OPLOG_TXNS);
    let bounds = ReadBounds { bytes_max: usize::MAX, txns_max: usize::MAX };
    for _ in 0..times {
        let chunk =
            measured(|| oplog::read(&cells, &state, 0, &have, &state.vector, bounds)).map_err(told)?;
        if chunk.entries.len() as u64 != OPLOG_TXNS {
            return Err(format!("{} txns were read", chunk.entries.len()));
        }
    }
    Ok(())
}
