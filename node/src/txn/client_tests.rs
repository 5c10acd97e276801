//! Numbered request ids: every way in which a number can be known, new or forgotten, and how memory stays bounded.

use std::collections::BTreeMap;

use meridian_client::wire::ErrorCode;
use meridian_crdt::{CounterOp, Mutation, Table};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::bounds::{
    CLIENT_ANSWERS_KEPT, CLIENT_SLOTS_MAX, CLIENT_USE_NOTED_MS, CLIENTS_KEPT_MAX, CLIENTS_KEPT_MS,
    LOG_TIME_STEP_MS_MAX, REQUESTS_KEPT_MS,
};
use super::entry::{Answer, ClientTxn, Item, Numbered};
use super::state::tables;
use super::world_tests::{TestDc, key};

fn txn(client: u128, number: u64, by: i64) -> ClientTxn {
    ClientTxn {
        ops: vec![(key("n"), Mutation::Counter(CounterOp::Add(by)))],
        number: Some(Numbered { client, number }),
        ..ClientTxn::default()
    }
}

/// The code of the refusal; none if it was done now or before.
fn code(answer: &Answer) -> Option<ErrorCode> {
    match answer {
        Answer::Refused { error, .. } => Some(error.code),
        Answer::Done { .. } => None,
    }
}

fn alone() -> TestDc {
    TestDc::new("eu", 1, &["eu"])
}

/// Submits, and says whether it was applied now.
fn applies(dc: &mut TestDc, txn: ClientTxn) -> (bool, Answer) {
    let before = dc.state().oplog_end;
    let answer = dc.submit(txn);
    (dc.state().oplog_end > before, answer)
}

/// Lets log time pass, in the bounded steps in which it moves.
fn pass(dc: &mut TestDc, ms: u64) {
    for _ in 0..ms.div_ceil(LOG_TIME_STEP_MS_MAX) {
        dc.now_ms += LOG_TIME_STEP_MS_MAX;
        dc.apply(vec![Item::Tidy { rows_max: 1 }]);
    }
}

fn count(dc: &TestDc, table: Table) -> u64 {
    dc.cells().count(table) as u64
}

/// The counts that the state keeps are those of the rows.
fn check_counts(dc: &TestDc) {
    let clients = dc.state().clients;
    assert_eq!(count(dc, tables::CLIENT_SLOTS), clients.slots);
    assert_eq!(count(dc, tables::CLIENTS), clients.known);
    assert_eq!(count(dc, tables::CLIENT_ORDER), clients.known, "every client has one place in the order");
}

#[test]
fn an_equal_number_is_a_retry_and_returns_the_first_answer() {
    let mut dc = alone();
    let (done, first) = applies(&mut dc, txn(1, 7, 5));
    assert!(done && code(&first).is_none());
    assert_eq!(applies(&mut dc, txn(1, 7, 5)), (false, first.clone()));
    assert!(applies(&mut dc, txn(2, 7, 5)).0, "another client's number is another request");
    assert_eq!(applies(&mut dc, txn(1, 7, 5)), (false, first));
    check_counts(&dc);
}

#[test]
fn a_failure_is_repeated_for_its_number_also_when_the_request_would_succeed_by_now() {
    let mut dc = alone();
    let conditional =
        || ClientTxn { conditions: vec![(key("n"), meridian_crdt::Condition::Exists)], ..txn(1, 1, 5) };
    let (_, first) = applies(&mut dc, conditional());
    assert_eq!(code(&first), Some(ErrorCode::PreconditionFailed));
    applies(&mut dc, txn(1, 2, 1));
    assert_eq!(applies(&mut dc, conditional()), (false, first));
}

#[test]
fn an_equal_number_for_another_request_is_refused_and_stays_usable_for_the_first() {
    let mut dc = alone();
    let (_, first) = applies(&mut dc, txn(1, 7, 5));
    let (done, reused) = applies(&mut dc, txn(1, 7, 6));
    assert_eq!((done, code(&reused)), (false, Some(ErrorCode::RequestIdReused)));
    assert_eq!(applies(&mut dc, txn(1, 7, 5)), (false, first));
}

#[test]
fn numbers_may_arrive_out_of_order_within_the_window_and_each_is_applied_once() {
    let mut dc = alone();
    for number in [300, 45, 299, 46, 100] {
        assert!(applies(&mut dc, txn(1, number, 1)).0, "{number} is new");
    }
    for number in [300, 45, 299, 46, 100] {
        assert!(!applies(&mut dc, txn(1, number, 1)).0, "{number} was applied");
    }
}

#[test]
fn a_number_whose_slot_has_a_higher_one_is_of_unknown_outcome_and_not_applied_again() {
    let mut dc = alone();
    let (_, first) = applies(&mut dc, txn(1, 7, 5));
    for number in 8..7 + CLIENT_ANSWERS_KEPT {
        applies(&mut dc, txn(1, number, 1));
    }
    assert_eq!(applies(&mut dc, txn(1, 7, 5)), (false, first), "the last 256 answers are kept");
    assert!(applies(&mut dc, txn(1, 7 + CLIENT_ANSWERS_KEPT, 1)).0);
    let (done, late) = applies(&mut dc, txn(1, 7, 5));
    assert_eq!((done, code(&late)), (false, Some(ErrorCode::OutcomeUnknown)));
    assert_eq!(count(&dc, tables::CLIENT_SLOTS), CLIENT_ANSWERS_KEPT);
    check_counts(&dc);
}

#[test]
fn an_idle_client_loses_its_answers_and_its_late_numbers_are_of_unknown_outcome() {
    let mut dc = alone();
    for number in 1..=20 {
        applies(&mut dc, txn(1, number, 1));
    }
    pass(&mut dc, REQUESTS_KEPT_MS);
    assert!(!applies(&mut dc, txn(1, 20, 1)).0 && count(&dc, tables::CLIENT_SLOTS) == 20, "kept ten minutes");
    pass(&mut dc, 2 * CLIENT_USE_NOTED_MS);
    assert_eq!((count(&dc, tables::CLIENT_SLOTS), count(&dc, tables::CLIENTS)), (0, 1));
    for number in [1, 20] {
        let (done, late) = applies(&mut dc, txn(1, number, 1));
        assert_eq!((done, code(&late)), (false, Some(ErrorCode::OutcomeUnknown)), "{number}");
    }
    let (done, answer) = applies(&mut dc, txn(1, 21, 1));
    assert!(done && code(&answer).is_none(), "the client goes on where it was");
    assert_eq!(applies(&mut dc, txn(1, 21, 1)), (false, answer));
    assert!(!applies(&mut dc, txn(1, 20, 1)).0, "what was forgotten stays so");
    check_counts(&dc);
}

#[test]
fn a_client_that_is_used_now_and_then_keeps_its_answers() {
    let mut dc = alone();
    let (_, first) = applies(&mut dc, txn(1, 1, 1));
    for number in 2..8 {
        pass(&mut dc, REQUESTS_KEPT_MS / 2);
        assert!(applies(&mut dc, txn(1, number, 1)).0);
    }
    assert_eq!(applies(&mut dc, txn(1, 1, 1)), (false, first));
    check_counts(&dc);
}

#[test]
fn a_client_that_is_idle_for_a_day_is_forgotten_whole() {
    let mut dc = alone();
    applies(&mut dc, txn(1, 5, 1));
    pass(&mut dc, CLIENTS_KEPT_MS - LOG_TIME_STEP_MS_MAX);
    assert_eq!(code(&applies(&mut dc, txn(1, 5, 1)).1), Some(ErrorCode::OutcomeUnknown));
    pass(&mut dc, 3 * LOG_TIME_STEP_MS_MAX);
    assert_eq!((count(&dc, tables::CLIENTS), count(&dc, tables::CLIENT_ORDER)), (0, 0));
    check_counts(&dc);
}

#[test]
fn clients_are_bounded_and_the_longest_idle_go_first() {
    let mut dc = alone();
    for client in 0..=u128::from(CLIENTS_KEPT_MAX) {
        applies(&mut dc, txn(client, 1, 1));
    }
    assert_eq!(count(&dc, tables::CLIENTS), CLIENTS_KEPT_MAX);
    assert!(applies(&mut dc, txn(0, 1, 1)).0, "of the longest idle nothing is known any more");
    assert!(!applies(&mut dc, txn(u128::from(CLIENTS_KEPT_MAX), 1, 1)).0);
    check_counts(&dc);
}

#[test]
fn answers_are_bounded_and_the_longest_idle_clients_lose_theirs_but_not_their_place() {
    let mut dc = alone();
    for client in 0..4 {
        for number in 1..=200 {
            applies(&mut dc, txn(client, number, 1));
        }
    }
    assert!(count(&dc, tables::CLIENT_SLOTS) <= CLIENT_SLOTS_MAX);
    assert_eq!(code(&applies(&mut dc, txn(0, 200, 1)).1), Some(ErrorCode::OutcomeUnknown));
    assert!(applies(&mut dc, txn(0, 201, 1)).0);
    assert!(!applies(&mut dc, txn(3, 1, 1)).0 && count(&dc, tables::CLIENTS) == 4);
    check_counts(&dc);
}

#[test]
fn settling_tells_what_was_done_and_keeps_what_was_not_from_ever_being_done() {
    let mut dc = alone();
    let settle = |number| ClientTxn {
        number: Some(Numbered { client: 1, number }),
        settle: true,
        ..ClientTxn::default()
    };
    let (_, first) = applies(&mut dc, txn(1, 1, 5));
    assert_eq!(applies(&mut dc, settle(1)), (false, first), "it was done");
    let (_, never) = applies(&mut dc, settle(2));
    assert_eq!(code(&never), Some(ErrorCode::Conflict));
    assert_eq!(applies(&mut dc, txn(1, 2, 5)), (false, never.clone()), "it comes too late");
    assert_eq!(applies(&mut dc, settle(2)), (false, never));
    let free = |settle| ClientTxn { id: Some("r".into()), number: None, settle, ..txn(1, 1, 1) };
    let (done, first) = applies(&mut dc, free(false));
    assert!(done);
    assert_eq!(applies(&mut dc, free(true)), (false, first));
}

/// Found by the simulation (seed 42607): a client repeated its commit at another node, where it was settled, did not hear so,
/// and repeated it at the first node, where its transaction was still open. It was told that it had used its request id
/// for another request, and had not.
#[test]
fn a_commit_that_was_settled_elsewhere_hears_what_the_settlement_said() {
    let mut dc = alone();
    for (id, number) in [(None, Some(Numbered { client: 1, number: 1 })), (Some("r".to_owned()), None)] {
        let commit = |settle| ClientTxn { id: id.clone(), number, settle, ..txn(1, 1, 1) };
        let (_, settled) = applies(&mut dc, ClientTxn { ops: Vec::new(), ..commit(true) });
        assert_eq!(code(&settled), Some(ErrorCode::Conflict));
        assert_eq!(applies(&mut dc, commit(false)), (false, settled));
    }
}

#[test]
fn a_slot_that_does_not_decode_makes_its_numbers_unknown() {
    let mut dc = alone();
    applies(&mut dc, txn(1, 5, 1));
    let slot = [1u128.to_be_bytes().as_slice(), &[5]].concat();
    dc.put_row(tables::CLIENT_SLOTS, &slot, b"from another version");
    assert_eq!(code(&applies(&mut dc, txn(1, 5, 1)).1), Some(ErrorCode::OutcomeUnknown));
}

/// Clients that retry, fall silent and come back in any order, under time and memory that run out: whatever is
/// forgotten, nothing is applied twice, and whoever is told an answer is told the first one.
#[test]
fn no_number_is_ever_applied_twice_while_its_client_is_remembered() {
    let (mut repeated, mut unknown) = (0, 0);
    for seed in 0..3 {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut dc = alone();
        let mut next = [1u64; 6];
        let mut applied: BTreeMap<(u128, u64), Answer> = BTreeMap::new();
        for _ in 0..1_500 {
            if rng.random_ratio(1, 50) {
                let ms = rng.random_range(0..2 * REQUESTS_KEPT_MS);
                pass(&mut dc, ms);
            }
            let client = rng.random_range(0..next.len());
            let back = if rng.random_ratio(1, 3) { rng.random_range(0..2 * CLIENT_ANSWERS_KEPT) } else { 0 };
            let number = next[client].saturating_sub(back).max(1);
            next[client] = next[client].max(number + rng.random_range(1..20));
            let id = (client as u128, number);
            let (now, answer) = applies(&mut dc, txn(id.0, id.1, 1));
            if now {
                assert_eq!(applied.insert(id, answer), None, "{id:?} was applied before");
            } else if code(&answer) == Some(ErrorCode::OutcomeUnknown) {
                unknown += 1;
            } else {
                repeated += 1;
                assert_eq!(applied.get(&id), Some(&answer), "{id:?} gets the first answer");
            }
        }
        check_counts(&dc);
    }
    assert!(repeated > 50 && unknown > 50, "too tame: {repeated} repeated, {unknown} unknown");
}
