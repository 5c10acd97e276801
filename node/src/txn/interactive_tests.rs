//! Interactive transactions one by one: what they show, what they record, what they refuse.

use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{
    CounterOp, Key, MapOp, MemCells, Mutation, Query, ReadValue, Reading, RegisterOp, SetOp, Value,
};

use super::bounds::TXN_SCANNED_ROWS_MAX;
use super::entry::{Answer, ClientTxn};
use super::interactive::{Commit, Interactive, InteractiveBounds, InteractiveError, Isolation};
use super::reads::ReadCheck;
use super::world_tests::{TestDc, key};

pub(super) const BOUNDS: InteractiveBounds = InteractiveBounds { ops_max: 100, bytes_max: 100_000 };

/// A datacenter alone, and transactions over its rows as they are at one moment.
pub(super) struct Store {
    pub dc: TestDc,
}

pub(super) type Txn = Interactive<MemCells>;

impl Store {
    pub fn new() -> Self {
        Self { dc: TestDc::new("eu", 1, &["eu"]) }
    }

    pub fn begin(&self, isolation: Isolation) -> Txn {
        Interactive::begin(self.dc.cells().clone(), isolation, BOUNDS).expect("has a life")
    }

    pub fn serializable(&self) -> Txn {
        self.begin(Isolation::Serializable)
    }

    pub fn snapshot(&self) -> Txn {
        self.begin(Isolation::Snapshot)
    }

    /// Commits as the shard does: what has written nothing is not proposed.
    pub fn commit(&mut self, mut txn: Txn) -> Result<(), ErrorCode> {
        let Commit { ops, reads, bytes } = txn.commit(Vec::new()).expect("within its bounds");
        if ops.is_empty() {
            assert!(reads.is_empty());
            return Ok(());
        }
        let parts = ClientTxn::part_bytes(&ops, &reads).expect("encodes");
        assert!(bytes >= parts, "the size is not underrated: {bytes} < {parts}");
        match self.dc.submit(ClientTxn { ops, reads, ..ClientTxn::default() }) {
            Answer::Done { .. } => Ok(()),
            Answer::Refused { error, .. } => Err(error.code),
        }
    }

    /// Writes outside of any transaction.
    pub fn put(&mut self, ops: Vec<(Key, Mutation)>) {
        let answer = self.dc.client(None, ops);
        assert!(matches!(answer, Answer::Done { .. }), "{answer:?}");
    }

    /// An integer as everybody reads it; 0 if it is absent.
    pub fn int(&self, k: &str) -> i64 {
        int_of(&self.dc.read(k))
    }
}

fn int_of(reading: &Reading) -> i64 {
    match reading.content.as_ref().map(|content| &content.value) {
        None => 0,
        Some(ReadValue::Register(Value::Int(n)) | ReadValue::Counter(n)) => *n,
        Some(other) => panic!("{other:?} is no integer"),
    }
}

pub(super) fn set(k: &str, n: i64) -> (Key, Mutation) {
    (key(k), Mutation::Register(RegisterOp::Set(Value::Int(n))))
}

pub(super) fn add(k: &str, n: i64) -> (Key, Mutation) {
    (key(k), Mutation::Counter(CounterOp::Add(n)))
}

pub(super) fn delete(k: &str) -> (Key, Mutation) {
    (key(k), Mutation::Delete(None))
}

pub(super) fn element(k: &str, op: fn(Value) -> SetOp, e: i64) -> (Key, Mutation) {
    (key(k), Mutation::Set(op(Value::Int(e))))
}

pub(super) fn get(txn: &mut Txn, k: &str) -> i64 {
    int_of(&txn.read(&key(k), &Query::default()).expect("within its bounds"))
}

pub(super) fn put(txn: &mut Txn, ops: Vec<(Key, Mutation)>) {
    txn.write(ops).expect("is accepted");
}

pub(super) fn has(txn: &mut Txn, k: &str, e: i64) -> bool {
    let query = Query { element: Some(Value::Int(e)), ..Query::default() };
    let content = txn.read(&key(k), &query).expect("within its bounds").content;
    content.is_some_and(|content| content.present == Some(true))
}

pub(super) fn scan(txn: &mut Txn, prefix: &str, limit: usize) -> Vec<String> {
    let listing = txn.scan("default", prefix, None, limit).expect("within its bounds");
    listing.keys.into_iter().map(|listed| listed.key).collect()
}

fn refused<T: std::fmt::Debug>(result: Result<T, InteractiveError<std::convert::Infallible>>) -> ApiError {
    match result {
        Err(InteractiveError::Refused(error)) => error,
        other => panic!("{other:?} and not refused"),
    }
}

#[test]
fn own_writes_show_in_every_later_read_and_nowhere_else_before_the_commit() {
    let mut store = Store::new();
    store.put(vec![set("a", 1), add("n", 5), element("s", SetOp::Add, 1)]);
    let mut txn = store.serializable();
    put(&mut txn, vec![set("a", 2), add("n", 1), add("new", 7)]);
    put(&mut txn, vec![add("n", 1), element("s", SetOp::Remove, 1), element("s", SetOp::Add, 2)]);
    put(&mut txn, vec![element("s", SetOp::Add, 3), delete("a")]);
    assert_eq!((get(&mut txn, "a"), get(&mut txn, "n"), get(&mut txn, "new")), (0, 7, 7));
    assert_eq!((has(&mut txn, "s", 1), has(&mut txn, "s", 2), has(&mut txn, "s", 3)), (false, true, true));
    assert_eq!(scan(&mut txn, "", 10), ["n", "new", "s"]);
    assert_eq!((store.int("a"), store.int("n"), store.int("new")), (1, 5, 0));
    assert_eq!(store.commit(txn), Ok(()));
    assert_eq!((store.int("a"), store.int("n"), store.int("new")), (0, 7, 7));
    assert_eq!(store.dc.state().oplog_end, 2, "it is one txn");
}

#[test]
fn no_dot_of_a_provisional_txn_is_ever_told() {
    let mut store = Store::new();
    store.put(vec![set("a", 1)]);
    let vector = store.dc.state().vector.clone();
    let mut txn = store.serializable();
    put(&mut txn, vec![set("a", 2), set("b", 1)]);
    for k in ["a", "b", "c"] {
        let reading = txn.read(&key(k), &Query::default()).expect("is read");
        assert!(vector.covers_all(&reading.touched) && reading.changed_index <= store.dc.state().oplog_end);
    }
    scan(&mut txn, "", 10);
    assert_eq!(txn.touched(), &vector);
}

#[test]
fn what_cannot_be_done_is_told_at_once_and_leaves_the_transaction_as_it_was() {
    let mut store = Store::new();
    store.put(vec![set("a", 1)]);
    let mut txn = store.serializable();
    put(&mut txn, vec![add("n", 1)]);
    let error = refused(txn.write(vec![add("n", 1), add("a", 1)]));
    assert_eq!((error.code, error.details.get("op")), (ErrorCode::WrongType, Some(&1.into())));
    assert_eq!(refused(txn.write(vec![set("n", 1)])).code, ErrorCode::WrongType, "also over its own writes");
    assert_eq!(get(&mut txn, "n"), 1, "nothing of a refused call is done");
    put(&mut txn, vec![add("n", 1)]);
    assert_eq!(store.commit(txn), Ok(()));
    assert_eq!(store.int("n"), 2);
}

#[test]
fn a_refusal_was_a_read() {
    let mut store = Store::new();
    store.put(vec![set("a", 1)]);
    let mut txn = store.serializable();
    refused(txn.write(vec![add("a", 1)]));
    put(&mut txn, vec![set("b", 1)]);
    store.put(vec![delete("a")]);
    assert_eq!(store.commit(txn), Err(ErrorCode::Conflict));
}

#[test]
fn blind_writes_never_conflict() {
    let mut store = Store::new();
    let mut txns = [store.serializable(), store.serializable(), store.serializable()];
    for txn in &mut txns {
        put(txn, vec![add("n", 1), set("a", 1), element("s", SetOp::Add, 1)]);
    }
    for txn in txns {
        assert_eq!(store.commit(txn), Ok(()));
    }
    assert_eq!(store.int("n"), 3);
}

#[test]
fn a_question_for_an_element_is_answered_anew_at_the_commit_and_others_may_change_the_rest() {
    let mut store = Store::new();
    store.put(vec![element("s", SetOp::Add, 1)]);
    let ask = |store: &Store, k, e| {
        let mut txn = store.serializable();
        has(&mut txn, k, e);
        put(&mut txn, vec![add("n", 1)]);
        txn
    };
    let txns = [ask(&store, "s", 1), ask(&store, "s", 2), ask(&store, "s", 3), ask(&store, "t", 1)];
    store.put(vec![element("s", SetOp::Remove, 1), element("s", SetOp::Add, 3), element("s", SetOp::Add, 4)]);
    store.put(vec![set("t", 1)]);
    let conflict = Err(ErrorCode::Conflict);
    let answers: Vec<_> = txns.into_iter().map(|txn| store.commit(txn)).collect();
    assert_eq!(answers, [conflict, Ok(()), conflict, conflict]);
}

#[test]
fn the_answer_to_a_question_for_an_element_tells_nothing_that_is_not_checked() {
    let mut store = Store::new();
    store.put(vec![element("s", SetOp::Add, 1)]);
    let mut txn = store.serializable();
    let query = Query { element: Some(Value::Int(1)), ..Query::default() };
    let content = txn.read(&key("s"), &query).expect("is read").content.expect("is there");
    assert_eq!((content.version.0, content.size, content.present), (0, None, Some(true)));
}

#[test]
fn a_field_that_a_map_has_is_a_question_for_an_element_too() {
    let mut store = Store::new();
    let update = |field: &str| {
        let mutation = Box::new(Mutation::Counter(CounterOp::Add(1)));
        (key("m"), Mutation::Map(MapOp::Update { field: field.into(), mutation }))
    };
    store.put(vec![update("f")]);
    let ask = |store: &Store, field: &str| {
        let mut txn = store.serializable();
        let query = Query { element: Some(Value::Str(field.into())), ..Query::default() };
        txn.read(&key("m"), &query).expect("is read");
        put(&mut txn, vec![add("n", 1)]);
        txn
    };
    let (f, g) = (ask(&store, "f"), ask(&store, "g"));
    store.put(vec![update("g")]);
    assert_eq!((store.commit(f), store.commit(g)), (Ok(()), Err(ErrorCode::Conflict)));
}

#[test]
fn a_conflict_names_what_has_changed_and_at_most_ten_of_it() {
    let mut store = Store::new();
    let mut txn = store.serializable();
    scan(&mut txn, "k", 5);
    for n in 0..12 {
        get(&mut txn, &format!("k{n:02}"));
    }
    put(&mut txn, vec![add("n", 1)]);
    let mut last = store.serializable();
    scan(&mut last, "k", 5);
    get(&mut last, "other");
    put(&mut last, vec![add("n", 1)]);
    store.put((0..12).map(|n| set(&format!("k{n:02}"), 1)).collect());
    let changed = |store: &mut Store, mut txn: Txn| {
        let Commit { ops, reads, .. } = txn.commit(Vec::new()).expect("within its bounds");
        let Answer::Refused { error, touched } =
            store.dc.submit(ClientTxn { ops, reads, ..ClientTxn::default() })
        else {
            panic!("refused")
        };
        assert_eq!((error.code, &touched), (ErrorCode::Conflict, &store.dc.state().vector));
        assert_eq!(error.details["reason"], "changed");
        error.details["changed"].as_array().expect("a list").clone()
    };
    let named = changed(&mut store, txn);
    assert_eq!((named.len(), named[0].as_str()), (10, Some("default/k00")));
    assert_eq!(changed(&mut store, last), ["default/k*"]);
}

#[test]
fn bounds_are_told_as_too_large_and_the_transaction_goes_on_without_the_step() {
    let store = Store::new();
    let mut txn = store.serializable();
    let large = Value::Str("x".repeat(60_000));
    let write = |k: &str| vec![(key(k), Mutation::Register(RegisterOp::Set(large.clone())))];
    put(&mut txn, write("a"));
    assert_eq!(refused(txn.write(write("b"))).code, ErrorCode::TooLarge);
    assert_eq!(refused(txn.write(vec![add("n", 1); 100])).code, ErrorCode::TooLarge);
    assert_eq!(refused(txn.commit(write("b"))).code, ErrorCode::TooLarge);
    let many = (0..1000).map(|n| "k".repeat(100) + &n.to_string());
    let too_many = many.map(|k| txn.read(&key(&k), &Query::default())).find(Result::is_err);
    assert_eq!(refused(too_many.expect("the reads have no more room")).code, ErrorCode::TooLarge);
    assert!(txn.write(write("b")).is_err() && txn.commit(Vec::new()).is_ok());
}

#[test]
fn listings_look_at_no_more_rows_than_a_commit_would_look_at_again() {
    let mut store = Store::new();
    store.put((0..4000).map(|n| set(&format!("k{n:04}"), 1)).collect());
    let mut txn = store.serializable();
    assert_eq!(scan(&mut txn, "k", 4000).len(), 4000);
    assert_eq!(scan(&mut txn, "k", 4000).len(), 4000, "the same again costs nothing");
    assert_eq!(scan(&mut txn, "", 4000).len(), 4000);
    assert_eq!((scan(&mut txn, "k0", 4000).len(), scan(&mut txn, "k1", 900).len()), (1000, 900));
    let error = refused(txn.scan("default", "k2", None, 4000));
    assert_eq!(error.code, ErrorCode::TooLarge);
    assert_eq!(error.details["limit"], TXN_SCANNED_ROWS_MAX);
    assert_eq!(scan(&mut txn, "k3", 10).len(), 10);
}

#[test]
fn operations_given_with_the_commit_are_done_last_and_under_snapshot_checked_too() {
    let mut store = Store::new();
    let mut txn = store.snapshot();
    put(&mut txn, vec![add("n", 1)]);
    let first = txn.commit(vec![add("m", 1)]).expect("within its bounds");
    assert_eq!(txn.commit(vec![add("m", 1)]).expect("once more"), first, "an attempt changes nothing");
    let keys: Vec<_> = first.reads.iter().filter_map(ReadCheck::key).cloned().collect();
    assert_eq!((keys, first.ops), (vec![key("m"), key("n")], vec![add("n", 1), add("m", 1)]));
    store.put(vec![add("m", 1)]);
    let refused = store.dc.submit(ClientTxn { ops: vec![], reads: first.reads, ..ClientTxn::default() });
    assert!(matches!(refused, Answer::Refused { .. }), "checks without operations are checked");
}

#[test]
fn a_commit_that_is_repeated_with_its_id_is_done_once() {
    let mut store = Store::new();
    let mut txn = store.serializable();
    let n = get(&mut txn, "a");
    put(&mut txn, vec![set("a", n + 1)]);
    let Commit { ops, reads, .. } = txn.commit(Vec::new()).expect("within its bounds");
    let request = ClientTxn { id: Some("r".into()), ops, reads, ..ClientTxn::default() };
    let first = store.dc.submit(request.clone());
    assert!(matches!(first, Answer::Done { .. }));
    assert_eq!(store.dc.submit(request.clone()), first, "although what it read has changed since, by itself");
    let other = ClientTxn { reads: Vec::new(), ..request };
    let Answer::Refused { error, .. } = store.dc.submit(other) else { panic!("refused") };
    assert_eq!(error.code, ErrorCode::RequestIdReused, "what was read belongs to the request");
}
