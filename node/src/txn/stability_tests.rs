//! What may be dropped when: the difference between what every datacenter has and what nothing can be concurrent with.

use meridian_crdt::{Mutation, SetOp, Table, Value};

use super::entry::{Answer, Item, Outcome, RemoteOutcome};
use super::world_tests::{TestDc, key};

/// Two datacenters that know each other.
fn two() -> (TestDc, TestDc) {
    let members = ["eu", "us"];
    let (mut eu, mut us) = (TestDc::new("eu", 1, &members), TestDc::new("us", 2, &members));
    eu.apply(vec![Item::Register(us.name.clone())]);
    us.apply(vec![Item::Register(eu.name.clone())]);
    (eu, us)
}

/// Changes one element of the remove-wins set `k`.
fn change(dc: &mut TestDc, op: fn(Value) -> SetOp) {
    let answer = dc.client(None, vec![(key("k"), Mutation::RwSet(op(Value::Int(1))))]);
    assert!(matches!(answer, Answer::Done { dot: Some(_), .. }), "{answer:?}");
}

/// `to` hears what `from` has, and sweeps as far as it may.
fn report_and_tidy(from: &TestDc, to: &mut TestDc) {
    let report = Item::Report { member: from.name.origin(), vector: from.state().vector.clone() };
    let done = to.apply(vec![report, Item::Tidy { rows_max: 100 }]);
    assert_eq!(done, [Outcome::Done, Outcome::Done]);
}

fn has_element(dc: &TestDc) -> bool {
    dc.read("k").content.is_some()
}

/// The story that makes `stable` more than `acked`: eu removes an element while us adds it. Then us has the removal and
/// says so, and the add is still on its way. If eu dropped the mark of its removal by then, since everybody has it, the
/// add would find nothing that beats it there, and the element would be present in eu alone.
#[test]
fn the_mark_of_a_removal_outlives_that_everybody_has_it() {
    let (mut eu, mut us) = two();
    change(&mut eu, SetOp::Remove);
    change(&mut us, SetOp::Add);
    let (removal, add) = (eu.history[0].clone(), us.history[0].clone());
    assert_eq!(us.remote(&removal), RemoteOutcome::Applied);
    assert!(!has_element(&us), "a removal wins over a concurrent add");

    report_and_tidy(&us, &mut eu);
    assert_eq!(eu.state().acked, eu.state().vector, "everybody has the removal");
    assert!(eu.state().stable.is_empty(), "and an add that is concurrent with it can still arrive");
    assert_eq!(eu.cells().count(Table::CELL), 1, "the mark stands");

    assert_eq!(eu.remote(&add), RemoteOutcome::Applied);
    assert!(!has_element(&eu), "I9: the removal wins wherever the two meet");
    assert_eq!(eu.digest(), us.digest());

    report_and_tidy(&us, &mut eu);
    report_and_tidy(&eu, &mut us);
    for dc in [&eu, &us] {
        assert_eq!(dc.state().stable, dc.state().vector);
        assert_eq!(dc.cells().count(Table::CELL), 0, "now nobody needs it any more");
    }
}
