//! The anomalies of the literature, one by one: each is prevented at the level that prevents it. (Berenson et al. 1995,
//! Adya 1999, Fekete et al. 2004.)

use meridian_client::wire::ErrorCode;
use meridian_crdt::{SetOp, Txn as ShippedTxn};

use super::interactive::Isolation;
use super::interactive_tests::{Store, add, delete, element, get, has, put, scan, set};

const BOTH: [Isolation; 2] = [Isolation::Serializable, Isolation::Snapshot];
const CONFLICT: Result<(), ErrorCode> = Err(ErrorCode::Conflict);

/// Two accounts that hold 50 each.
fn accounts() -> Store {
    let mut store = Store::new();
    store.put(vec![set("x", 50), set("y", 50)]);
    store
}

#[test]
fn dirty_write_interleaved_writers_of_the_same_keys_leave_the_writes_of_one_of_them_whole() {
    for level in BOTH {
        let mut store = accounts();
        let (mut one, mut two) = (store.begin(level), store.begin(level));
        put(&mut one, vec![set("x", 1)]);
        put(&mut two, vec![set("x", 2)]);
        put(&mut two, vec![set("y", 2)]);
        put(&mut one, vec![set("y", 1)]);
        let _ = (store.commit(two), store.commit(one));
        let left = (store.int("x"), store.int("y"));
        assert!(left == (1, 1) || left == (2, 2), "{level:?}: {left:?} is of both");
    }
}

#[test]
fn dirty_read_the_writes_of_an_open_transaction_are_seen_by_nobody_else() {
    for level in BOTH {
        let mut store = accounts();
        let mut writer = store.begin(level);
        put(&mut writer, vec![set("x", 101), set("new", 1)]);
        let mut reader = store.begin(level);
        assert_eq!((get(&mut reader, "x"), store.int("x")), (50, 50));
        assert_eq!(scan(&mut reader, "", 10), ["x", "y"]);
        assert_eq!((store.commit(writer), store.commit(reader)), (Ok(()), Ok(())));
    }
}

#[test]
fn aborted_read_the_writes_of_an_aborted_transaction_are_never_seen() {
    for level in BOTH {
        let store = accounts();
        let mut aborted = store.begin(level);
        put(&mut aborted, vec![set("x", 101)]);
        let mut during = store.begin(level);
        drop(aborted);
        let mut after = store.begin(level);
        assert_eq!((get(&mut during, "x"), get(&mut after, "x"), store.int("x")), (50, 50, 50));
    }
}

#[test]
fn aborted_read_the_writes_of_a_transaction_that_lost_a_conflict_are_never_seen() {
    for level in BOTH {
        let mut store = accounts();
        let mut loser = store.begin(level);
        get(&mut loser, "x");
        put(&mut loser, vec![set("x", 101), set("z", 1)]);
        store.put(vec![set("x", 7)]);
        assert_eq!(store.commit(loser), CONFLICT);
        assert_eq!((store.int("x"), store.int("z")), (7, 0));
    }
}

#[test]
fn intermediate_read_only_the_last_write_of_a_transaction_is_ever_seen_or_shipped() {
    for level in BOTH {
        let mut store = accounts();
        let mut writer = store.begin(level);
        put(&mut writer, vec![set("x", 101)]);
        let mut reader = store.begin(level);
        assert_eq!(get(&mut reader, "x"), 50);
        put(&mut writer, vec![set("x", 11)]);
        assert_eq!((store.commit(writer), get(&mut reader, "x"), store.int("x")), (Ok(()), 50, 11));
        let shipped = ShippedTxn::decode(store.dc.history.last().expect("it committed")).expect("decodes");
        assert_eq!(shipped.effects.iter().map(|effect| effect.adds.len()).sum::<usize>(), 1);
    }
}

#[test]
fn circular_information_flow_two_transactions_never_see_each_others_writes() {
    for level in BOTH {
        let mut store = accounts();
        let (mut one, mut two) = (store.begin(level), store.begin(level));
        put(&mut one, vec![set("x", 1)]);
        put(&mut two, vec![set("y", 2)]);
        assert_eq!((get(&mut one, "y"), get(&mut two, "x")), (50, 50));
        assert_eq!(store.commit(one), Ok(()));
        let second = if level == Isolation::Serializable { CONFLICT } else { Ok(()) };
        assert_eq!(store.commit(two), second, "{level:?}");
    }
}

#[test]
fn lost_update_of_two_that_read_and_write_a_key_the_second_is_refused() {
    for level in BOTH {
        let mut store = accounts();
        let (mut one, mut two) = (store.begin(level), store.begin(level));
        let (a, b) = (get(&mut one, "x"), get(&mut two, "x"));
        put(&mut one, vec![set("x", a + 10)]);
        put(&mut two, vec![set("x", b + 20)]);
        assert_eq!((store.commit(one), store.commit(two)), (Ok(()), CONFLICT), "{level:?}");
        let mut again = store.begin(level);
        let c = get(&mut again, "x");
        put(&mut again, vec![set("x", c + 20)]);
        assert_eq!((store.commit(again), store.int("x")), (Ok(()), 80));
    }
}

#[test]
fn lost_update_a_write_outside_of_transactions_is_not_lost_either() {
    for level in BOTH {
        let mut store = accounts();
        let mut txn = store.begin(level);
        let n = get(&mut txn, "x");
        put(&mut txn, vec![set("x", n + 10)]);
        store.put(vec![set("x", 7)]);
        assert_eq!((store.commit(txn), store.int("x")), (CONFLICT, 7), "{level:?}");
    }
}

#[test]
fn lost_update_of_counters_is_no_conflict_at_all_where_nothing_was_read() {
    let mut store = Store::new();
    let (mut one, mut two) = (store.serializable(), store.serializable());
    put(&mut one, vec![add("n", 10)]);
    put(&mut two, vec![add("n", 20)]);
    assert_eq!((store.commit(one), store.commit(two), store.int("n")), (Ok(()), Ok(()), 30));
}

#[test]
fn read_skew_the_keys_of_a_snapshot_are_all_of_one_moment() {
    for level in BOTH {
        let mut store = accounts();
        let mut reader = store.begin(level);
        let x = get(&mut reader, "x");
        let mut transfer = store.begin(level);
        put(&mut transfer, vec![set("x", 25), set("y", 75)]);
        assert_eq!(store.commit(transfer), Ok(()));
        assert_eq!(x + get(&mut reader, "y"), 100, "{level:?}");
        assert_eq!(store.commit(reader), Ok(()), "what has only read is consistent by its snapshot");
    }
}

#[test]
fn read_skew_what_was_computed_from_an_overtaken_snapshot_does_not_commit() {
    let mut store = accounts();
    let mut report = store.serializable();
    let sum = get(&mut report, "x") + get(&mut report, "y");
    put(&mut report, vec![set("sum", sum)]);
    store.put(vec![set("y", 0)]);
    assert_eq!(store.commit(report), CONFLICT);
}

#[test]
fn non_repeatable_read_a_key_reads_the_same_however_often_and_whatever_others_commit() {
    for level in BOTH {
        let mut store = accounts();
        let mut reader = store.begin(level);
        assert_eq!(get(&mut reader, "x"), 50);
        for n in 0..3 {
            store.put(vec![set("x", n)]);
            assert_eq!(get(&mut reader, "x"), 50, "{level:?}");
        }
        store.put(vec![delete("x")]);
        assert_eq!((get(&mut reader, "x"), scan(&mut reader, "x", 1)), (50, vec!["x".to_owned()]));
    }
}

/// Two doctors are on call; each goes home if the other stays.
fn both_go_home(level: Isolation) -> (Store, [Result<(), ErrorCode>; 2]) {
    let mut store = Store::new();
    store.put(vec![
        element("on call", SetOp::Add, 1),
        element("on call", SetOp::Add, 2),
        set("x", 1),
        set("y", 1),
    ]);
    let (mut one, mut two) = (store.begin(level), store.begin(level));
    if get(&mut one, "x") + get(&mut one, "y") >= 2 {
        put(&mut one, vec![set("x", 0)]);
    }
    if get(&mut two, "x") + get(&mut two, "y") >= 2 {
        put(&mut two, vec![set("y", 0)]);
    }
    let answers = [store.commit(one), store.commit(two)];
    (store, answers)
}

#[test]
fn write_skew_is_prevented_at_serializable() {
    let (store, answers) = both_go_home(Isolation::Serializable);
    assert_eq!(answers, [Ok(()), CONFLICT]);
    assert_eq!(store.int("x") + store.int("y"), 1);
}

#[test]
fn write_skew_is_possible_at_snapshot_and_so_the_test_before_can_fail() {
    let (store, answers) = both_go_home(Isolation::Snapshot);
    assert_eq!(answers, [Ok(()), Ok(())]);
    assert_eq!(store.int("x") + store.int("y"), 0);
}

#[test]
fn write_skew_on_the_elements_of_one_set_is_prevented_at_serializable() {
    let mut store = Store::new();
    store.put(vec![element("on call", SetOp::Add, 1), element("on call", SetOp::Add, 2)]);
    let (mut one, mut two) = (store.serializable(), store.serializable());
    assert!(has(&mut one, "on call", 2) && has(&mut two, "on call", 1));
    put(&mut one, vec![element("on call", SetOp::Remove, 1)]);
    put(&mut two, vec![element("on call", SetOp::Remove, 2)]);
    assert_eq!((store.commit(one), store.commit(two)), (Ok(()), CONFLICT));
}

/// Lists at most `limit` of three keys, lets `others` do something, and commits what the listing led to.
fn after_listing(
    level: Isolation,
    limit: usize,
    others: Vec<(meridian_crdt::Key, meridian_crdt::Mutation)>,
) -> Result<(), ErrorCode> {
    let mut store = Store::new();
    store.put(vec![set("job/2", 1), set("job/4", 1), set("job/6", 1), set("jobs", 1)]);
    let mut txn = store.begin(level);
    let found = scan(&mut txn, "job/", limit);
    put(&mut txn, vec![add("found", found.len() as i64)]);
    store.put(others);
    assert_eq!(scan(&mut txn, "job/", limit), found, "the snapshot stands");
    store.commit(txn)
}

#[test]
fn phantom_an_insert_into_a_listed_range_is_a_conflict() {
    for k in ["job/1", "job/3", "job/7"] {
        assert_eq!(after_listing(Isolation::Serializable, 10, vec![set(k, 1)]), CONFLICT, "{k}");
    }
    for k in ["job", "jobs/1", "job0"] {
        assert_eq!(after_listing(Isolation::Serializable, 10, vec![set(k, 1)]), Ok(()), "{k} is outside");
    }
}

#[test]
fn phantom_a_delete_from_a_listed_range_is_a_conflict() {
    assert_eq!(after_listing(Isolation::Serializable, 10, vec![delete("job/4")]), CONFLICT);
    assert_eq!(after_listing(Isolation::Serializable, 10, vec![delete("jobs")]), Ok(()));
}

#[test]
fn phantom_an_update_in_a_listed_range_is_a_conflict() {
    assert_eq!(after_listing(Isolation::Serializable, 10, vec![set("job/4", 2)]), CONFLICT);
    assert_eq!(after_listing(Isolation::Serializable, 10, vec![set("jobs", 2)]), Ok(()));
}

#[test]
fn phantom_of_a_page_conflicts_inside_the_page_and_not_behind_it() {
    for (k, answer) in
        [("job/1", CONFLICT), ("job/3", CONFLICT), ("job/4", CONFLICT), ("job/5", Ok(())), ("job/6", Ok(()))]
    {
        assert_eq!(after_listing(Isolation::Serializable, 2, vec![set(k, 2)]), answer, "{k}");
    }
    assert_eq!(after_listing(Isolation::Serializable, 2, vec![delete("job/2")]), CONFLICT);
    assert_eq!(after_listing(Isolation::Serializable, 2, vec![delete("job/6")]), Ok(()));
}

#[test]
fn phantom_is_possible_at_snapshot_where_nothing_that_was_written_changed() {
    assert_eq!(after_listing(Isolation::Snapshot, 10, vec![set("job/3", 1)]), Ok(()));
}

#[test]
fn phantom_between_keys_that_the_transaction_wrote_itself_is_a_conflict() {
    // The page is filled by own writes; what it would have shown without them lies partly behind it.
    for (k, answer) in [("job/11", CONFLICT), ("job/15", Ok(()))] {
        let mut store = Store::new();
        store.put(vec![set("job/10", 1), set("job/20", 1)]);
        let mut txn = store.serializable();
        put(&mut txn, vec![set("job/12", 1)]);
        assert_eq!(scan(&mut txn, "job/", 2), ["job/10", "job/12"]);
        store.put(vec![set(k, 1)]);
        assert_eq!(store.commit(txn), answer, "{k}");
    }
}

#[test]
fn phantom_behind_keys_that_the_transaction_deleted_itself_is_a_conflict() {
    // The page reaches further into the snapshot than its limit says, because own deletions make room on it.
    for (k, answer) in [("job/25", CONFLICT), ("job/35", Ok(()))] {
        let mut store = Store::new();
        store.put(vec![set("job/10", 1), set("job/20", 1), set("job/30", 1), set("job/40", 1)]);
        let mut txn = store.serializable();
        put(&mut txn, vec![delete("job/10"), delete("job/20")]);
        assert_eq!(scan(&mut txn, "job/", 1), ["job/30"]);
        store.put(vec![set(k, 1)]);
        assert_eq!(store.commit(txn), answer, "{k}");
    }
}

#[test]
fn read_only_anomaly_what_has_only_read_fits_into_the_serial_order_of_the_rest() {
    // A report sees a deposit without the withdrawal that was decided before it: one of the three must give way.
    let mut store = Store::new();
    store.put(vec![set("savings", 0), set("checking", 0)]);
    let mut withdrawal = store.serializable();
    let total = get(&mut withdrawal, "savings") + get(&mut withdrawal, "checking");
    let mut deposit = store.serializable();
    let savings = get(&mut deposit, "savings");
    put(&mut deposit, vec![set("savings", savings + 20)]);
    assert_eq!(store.commit(deposit), Ok(()));
    let mut report = store.serializable();
    assert_eq!((get(&mut report, "savings"), get(&mut report, "checking")), (20, 0));
    assert_eq!(store.commit(report), Ok(()));
    put(&mut withdrawal, vec![set("checking", total - 11)]);
    assert_eq!(store.commit(withdrawal), CONFLICT, "it would have charged a fee that the report rules out");
}
