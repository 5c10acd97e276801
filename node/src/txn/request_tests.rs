//! Request ids, refusals and the bytes on disk, each by itself.

use bytes::Bytes;
use meridian_client::wire::ErrorCode;
use meridian_crdt::{
    Add, Condition, CounterOp, Dot, KeyEffect, Mutation, Origin, RegisterOp, SetOp, Txn, TxnHead, Value,
    Vector, txn_hash,
};

use super::ShardState;
use super::bounds::{LOG_TIME_STEP_MS_MAX, OPLOG_KEPT_TXNS, REQUESTS_KEPT_MAX, REQUESTS_KEPT_MS};
use super::entry::{Answer, ClientTxn, Item, Outcome, RemoteOutcome};
use super::state::tables;
use super::world_tests::{TestDc, key, name};

fn add(by: i64) -> Vec<(meridian_crdt::Key, Mutation)> {
    vec![(key("n"), Mutation::Counter(CounterOp::Add(by)))]
}

fn code(answer: &Answer) -> Option<ErrorCode> {
    match answer {
        Answer::Refused { error, .. } => Some(error.code),
        Answer::Done { .. } => None,
    }
}

fn alone() -> TestDc {
    TestDc::new("eu", 1, &["eu"])
}

#[test]
fn a_failure_is_remembered_and_repeated_also_when_the_request_would_succeed_by_now() {
    let mut dc = alone();
    let wants_key = vec![(key("n"), Condition::Exists)];
    let first = dc.conditional(Some("r"), wants_key.clone(), add(1));
    assert_eq!(code(&first), Some(ErrorCode::PreconditionFailed));
    dc.client(None, add(1));
    assert_eq!(dc.conditional(Some("r"), wants_key.clone(), add(1)), first);
    assert_eq!(code(&dc.conditional(Some("r2"), wants_key, add(1))), None);
}

#[test]
fn a_retry_much_later_returns_the_first_answer_and_does_nothing() {
    let mut dc = alone();
    let first = dc.client(Some("r"), add(5));
    for i in 0..REQUESTS_KEPT_MAX - 1 {
        dc.client(Some(&format!("other{i}")), add(1));
    }
    let before = dc.state().vector.clone();
    assert_eq!(dc.client(Some("r"), add(5)), first);
    assert_eq!(dc.state().vector, before);
}

#[test]
fn an_id_that_was_used_for_another_request_is_refused_and_stays_usable_for_the_first() {
    let mut dc = alone();
    let first = dc.client(Some("r"), add(5));
    assert_eq!(code(&dc.client(Some("r"), add(6))), Some(ErrorCode::RequestIdReused));
    let with_condition = dc.conditional(Some("r"), vec![(key("n"), Condition::Exists)], add(5));
    assert_eq!(code(&with_condition), Some(ErrorCode::RequestIdReused));
    assert_eq!(dc.client(Some("r"), add(5)), first);
}

#[test]
fn ids_are_forgotten_by_count_oldest_first_and_their_rows_go() {
    let mut dc = alone();
    dc.client(Some("oldest"), add(5));
    for i in 0..REQUESTS_KEPT_MAX {
        dc.client(Some(&format!("other{i}")), add(1));
    }
    let before = dc.state().vector.clone();
    dc.client(Some("oldest"), add(5));
    assert_ne!(dc.state().vector, before, "a forgotten id is a new one");
    assert_eq!(dc.cells().count(tables::REQUESTS) as u64, REQUESTS_KEPT_MAX);
    assert_eq!(dc.cells().count(tables::REQUEST_ORDER) as u64, REQUESTS_KEPT_MAX);
}

#[test]
fn ids_are_forgotten_by_log_time_which_moves_by_bounded_steps() {
    let mut dc = alone();
    let first = dc.client(Some("r"), add(5));
    dc.now_ms += 100 * REQUESTS_KEPT_MS;
    let steps = REQUESTS_KEPT_MS / LOG_TIME_STEP_MS_MAX;
    for i in 0..steps {
        dc.client(None, add(1));
        if i % 10 == 0 {
            assert_eq!(dc.client(Some("r"), add(5)), first, "one wild clock expires nothing at once");
        }
    }
    for _ in 0..2 {
        dc.apply(vec![Item::Tidy { rows_max: 10 }]);
    }
    assert_ne!(dc.client(Some("r"), add(5)), first);
}

#[test]
fn nothing_is_remembered_before_the_first_life() {
    let mut node = ShardState::new();
    let mut cells = meridian_crdt::MemCells::new();
    let txn = ClientTxn { id: Some("r".into()), hlc: 1, ops: add(1), ..ClientTxn::default() };
    let mint = Item::Mint { name: name("eu", 1), lost: None, ends: None };
    let items = vec![Item::Client(txn.clone()), mint.clone(), mint, Item::Client(txn)];
    let reply = super::apply_entry(&mut node, &mut cells, super::Entry { now_ms: 1, items }).expect("memory");
    let codes: Vec<_> =
        reply.outcomes.iter().map(|o| if let Outcome::Client(a) = o { code(a) } else { None }).collect();
    assert_eq!(codes, [Some(ErrorCode::NoLeader), None, None, None]);
    let Outcome::Client(Answer::Refused { error, .. }) = &reply.outcomes[0] else { panic!("refused") };
    assert_eq!(error.retry_after_ms, Some(200), "it is done when it is repeated");
    assert!(matches!(&reply.outcomes[2], Outcome::Refused(_)), "a repeated proposal begins no second life");
}

#[test]
fn a_later_operation_that_is_refused_undoes_the_earlier_ones_and_their_dot() {
    let mut dc = alone();
    dc.client(None, vec![(key("s"), Mutation::Set(SetOp::Add(Value::Int(1))))]);
    let mut ops = add(1);
    ops.push((key("s"), Mutation::Counter(CounterOp::Add(1))));
    let answer = dc.client(None, ops);
    assert_eq!(code(&answer), Some(ErrorCode::WrongType));
    let Answer::Refused { error, touched } = answer else { panic!("refused") };
    assert_eq!(error.details.get("op"), Some(&1.into()));
    assert_eq!(touched, dc.state().vector, "the session has seen what refused it");
    assert_eq!(dc.read("n").content, None);
    assert_eq!(dc.state().oplog_end, 1);
}

#[test]
fn a_txn_that_changes_nothing_takes_no_dot() {
    let mut dc = alone();
    let answer = dc.client(None, vec![(key("s"), Mutation::Set(SetOp::Remove(Value::Int(1))))]);
    assert!(matches!(answer, Answer::Done { dot: None, .. }));
    assert_eq!(dc.state().vector, Vector::new());
}

#[test]
fn stamps_of_an_origin_rise_whatever_its_leaders_say() {
    let mut dc = alone();
    let mut last = 0;
    for hlc in [500, 3, 0, 501, 501] {
        dc.hlc = hlc;
        dc.client(None, add(1));
        let stamp = TxnHead::decode(dc.history.last().expect("applied")).expect("own").hlc;
        assert!(stamp > last);
        last = stamp;
    }
}

fn crafted(head: TxnHead, path: &'static [u8]) -> Bytes {
    let add = Add { path: Bytes::from_static(path), payload: Value::Int(1).to_bytes().into() };
    let effect = KeyEffect { space: "default".into(), key: "x".into(), removes: Vec::new(), adds: vec![add] };
    Txn { head, effects: vec![effect] }.encode()
}

fn refusal(dc: &mut TestDc, txn: &Bytes) -> String {
    match dc.remote(txn) {
        RemoteOutcome::Refused(why) => why,
        other => panic!("{other:?} and not refused"),
    }
}

#[test]
fn txns_that_can_never_be_applied_are_refused_with_a_reason() {
    let mut dc = TestDc::new("eu", 1, &["eu", "us"]);
    dc.apply(vec![Item::Register(name("us", 2))]);
    let us = name("us", 2).origin();
    let head =
        |origin: Origin, seq, prev| TxnHead { dot: Dot::new(origin, seq), hlc: 9, prev, deps: Vector::new() };
    let register: &[u8] = &[1];
    let first = crafted(head(us, 1, 0), register);
    assert_eq!(dc.remote(&first), RemoteOutcome::Applied);
    assert!(refusal(&mut dc, &Bytes::from_static(b"garbage")).contains("decode"));
    assert!(refusal(&mut dc, &crafted(head(us, 2, 77), register)).contains("another history"));
    assert!(refusal(&mut dc, &crafted(head(dc_origin(), 1, 0), register)).contains("our own origin"));
    assert!(refusal(&mut dc, &crafted(head(Origin(5), 1, 0), register)).contains("not registered"));
    let undecodable = crafted(head(us, 2, txn_hash(&first)), &[99]);
    assert!(refusal(&mut dc, &undecodable).contains("does not decode"));
    assert_eq!(dc.remote(&first), RemoteOutcome::Duplicate);
    let next = crafted(head(us, 2, txn_hash(&first)), register);
    assert_eq!(dc.remote(&next), RemoteOutcome::Applied, "what was refused left the chain as it was");
}

fn dc_origin() -> Origin {
    name("eu", 1).origin()
}

#[test]
fn a_txn_ahead_of_its_deps_is_early_and_applied_when_they_are_here() {
    let mut dc = TestDc::new("eu", 1, &["eu", "us", "ap"]);
    let (us, ap) = (name("us", 2), name("ap", 3));
    dc.apply(vec![Item::Register(us.clone()), Item::Register(ap.clone())]);
    let head = |origin: Origin, deps| TxnHead { dot: Dot::new(origin, 1), hlc: 9, prev: 0, deps };
    let first = crafted(head(us.origin(), Vector::new()), &[1]);
    let second = crafted(head(ap.origin(), [Dot::new(us.origin(), 1)].into_iter().collect()), &[1]);
    assert_eq!(dc.remote(&second), RemoteOutcome::Early);
    assert_eq!(dc.remote(&first), RemoteOutcome::Applied);
    assert_eq!(dc.remote(&second), RemoteOutcome::Applied);
}

#[test]
fn a_txn_of_another_datacenter_is_there_as_a_whole_once_its_entry_is_applied() {
    let (mut eu, mut us) = (TestDc::new("eu", 1, &["eu", "us"]), TestDc::new("us", 2, &["eu", "us"]));
    eu.apply(vec![Item::Register(us.name.clone())]);
    let keys = ["a", "b", "c"];
    us.client(None, keys.map(|k| (key(k), Mutation::Counter(CounterOp::Add(1)))).to_vec());
    assert_eq!(eu.remote(&us.history[0]), RemoteOutcome::Applied);
    for k in keys {
        assert!(eu.read(k).content.is_some(), "I10: {k} is missing");
        assert_eq!(eu.read(k).content, us.read(k).content);
    }
    assert_eq!(eu.digest(), us.digest());
}

#[test]
fn the_oplog_is_never_cut_past_what_every_member_has() {
    let mut dc = TestDc::new("eu", 1, &["eu", "us"]);
    dc.apply(vec![Item::Register(name("us", 2))]);
    for _ in 0..3 * OPLOG_KEPT_TXNS {
        dc.client(None, add(1));
    }
    dc.apply(vec![Item::Tidy { rows_max: 1_000 }]);
    assert_eq!(dc.state().oplog_first, 1, "the other datacenter has acknowledged nothing");
    let acked = [Dot::new(dc_origin(), 7)].into_iter().collect();
    dc.apply(vec![Item::Report { member: name("us", 2).origin(), vector: acked }]);
    dc.apply(vec![Item::Tidy { rows_max: 3 }]);
    assert_eq!(dc.state().oplog_first, 4, "an entry cuts no more than it was told to");
    dc.apply(vec![Item::Tidy { rows_max: 1_000 }]);
    assert_eq!((dc.state().oplog_first, dc.state().oplog_floor.get(dc_origin())), (8, 7));
    dc.apply(vec![Item::Members(Vec::new())]);
    dc.apply(vec![Item::Tidy { rows_max: 1_000 }]);
    assert_eq!(dc.state().oplog_end + 1 - dc.state().oplog_first, OPLOG_KEPT_TXNS);
}

#[test]
fn an_answer_that_does_not_decode_counts_its_id_as_used() {
    let mut dc = alone();
    dc.put_row(tables::REQUESTS, b"r", b"from another version");
    assert_eq!(code(&dc.client(Some("r"), add(1))), Some(ErrorCode::RequestIdReused));
}

#[test]
fn the_bytes_of_the_state_row_do_not_change() {
    let mut dc = TestDc::new("eu", 1, &["eu", "us"]);
    dc.apply(vec![Item::Register(name("us", 2))]);
    dc.client(Some("r"), vec![(key("k"), Mutation::Register(RegisterOp::Set(Value::Int(1))))]);
    let vector = dc.state().vector.clone();
    dc.apply(vec![Item::Report { member: name("us", 2).origin(), vector }]);
    let (_, _, row) = dc.cells().iter().find(|(table, _, _)| *table == tables::META).expect("a state row");
    let hex: String = row.iter().map(|b| format!("{b:02x}")).collect();
    let clients = "94000000cf000001a3185c5000";
    assert_eq!(hex, format!("01dc0013{GOLDEN_STATE}{clients}c0c0"));
    let mut state = dc.state().clone();
    dc.put_row(tables::META, b"shard", &bytes(&format!("01dc0012{GOLDEN_STATE}{clients}c0")));
    assert_eq!(
        ShardState::load(dc.cells()).expect("memory").as_ref(),
        Ok(&state),
        "from before there was compaction"
    );
    dc.put_row(tables::META, b"shard", &bytes(&format!("01dc0011{GOLDEN_STATE}{clients}")));
    assert_eq!(
        ShardState::load(dc.cells()).expect("memory").as_ref(),
        Ok(&state),
        "from before there was recovery"
    );
    dc.put_row(tables::META, b"shard", &bytes(&format!("01dc0010{GOLDEN_STATE}")));
    state.clients = super::state::ClientCounts::default();
    assert_eq!(ShardState::load(dc.cells()).expect("memory"), Ok(state), "from before clients had numbers");
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(byte).collect()
}

/// A datacenter that has met another and has written one txn, which the other has.
const GOLDEN_STATE: &str = concat!(
    "01ce41c650f981ce41c650f90182ce41c650f99492a26575c41000000000000000000000000000000001cfa3f309",
    "9bce61f88c80ce40000001cec9d58c359492a27573c4100000000000000000000000000000000200800081a2757395cec9d5",
    "8c359081ce41c650f901c081ce41c650f90181ce41c650f90181ce41c650f901cf000001a3185c50000101800001c20000",
);
