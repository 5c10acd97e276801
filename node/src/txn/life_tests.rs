//! A datacenter that has lost its newest txns: no number that may be in use is given out again.

use meridian_crdt::{CounterOp, Dot, Mutation};

use super::entry::{Answer, Item, Outcome, RemoteOutcome};
use super::world_tests::{TestDc, key, name};

const MEMBERS: [&str; 2] = ["eu", "us"];

/// Adds to a counter; the dot that this became.
fn add(dc: &mut TestDc, by: i64) -> Dot {
    match dc.client(None, vec![(key("k"), Mutation::Counter(CounterOp::Add(by)))]) {
        Answer::Done { dot: Some(dot), .. } => dot,
        other => panic!("nothing was committed: {other:?}"),
    }
}

/// Two datacenters that know each other, and what eu has written: us has all of it, and eu has it up to `kept` after all
/// of its disks went back to an older state.
fn after_a_loss(kept: usize, written: usize) -> (TestDc, TestDc) {
    let [mut before, mut eu] = [(), ()].map(|()| TestDc::new("eu", 1, &MEMBERS));
    let mut us = TestDc::new("us", 2, &MEMBERS);
    us.apply(vec![Item::Register(eu.name.clone())]);
    eu.apply(vec![Item::Register(us.name.clone())]);
    for n in 0..written {
        add(&mut before, n as i64);
        assert_eq!(us.remote(&before.history[n]), RemoteOutcome::Applied);
        if n < kept {
            add(&mut eu, n as i64);
        }
    }
    assert_eq!(eu.history[..], before.history[..kept]);
    (eu, us)
}

#[test]
fn a_datacenter_that_lost_its_newest_txns_numbers_the_next_ones_in_a_new_life() {
    let (mut eu, mut us) = after_a_loss(1, 3);
    let (old, new) = (eu.name.origin(), name("eu", 9));
    let lost = Some(Dot::new(old, 3));
    assert_eq!(eu.apply(vec![Item::Mint { name: new.clone(), lost }]), [Outcome::Done]);
    assert_eq!(add(&mut eu, 10), Dot::new(new.origin(), 1), "the second of the old life is somebody else's");

    for tail in &us.history[1..] {
        assert_eq!(eu.remote(tail), RemoteOutcome::Applied, "the lost txns come back like a stranger's");
    }
    us.apply(vec![Item::Register(new)]);
    let newest = eu.history[1].clone();
    assert_eq!(us.remote(&newest), RemoteOutcome::Applied);
    assert_eq!((eu.digest(), &eu.state().vector), (us.digest(), &us.state().vector));
}

#[test]
fn a_life_goes_on_while_nothing_of_it_is_lost() {
    let (mut eu, _) = after_a_loss(3, 3);
    let old = eu.name.origin();
    for lost in [None, Some(Dot::new(old, 3)), Some(Dot::new(name("us", 2).origin(), 7))] {
        let outcome = eu.apply(vec![Item::Mint { name: name("eu", 9), lost }]);
        assert!(matches!(outcome[..], [Outcome::Refused(_)]), "{lost:?}: {outcome:?}");
    }
    assert_eq!(add(&mut eu, 10), Dot::new(old, 4));
}
