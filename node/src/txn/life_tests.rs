//! A datacenter that has lost its newest txns: no number that may be in use is given out again.

use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{CounterOp, Dot, Mutation, OriginName, SetOp, Value};

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

/// What `dc` says of itself to another one: that it has what it has.
fn report(of: &TestDc) -> Item {
    let state = of.state();
    Item::Report { member: state.own.expect("it lives"), vector: state.vector.clone() }
}

/// `at` begins the life `new`, because `lost` is missing.
fn mint(at: &mut TestDc, new: &OriginName, lost: Dot) -> Outcome {
    let ends = at.state().own;
    at.apply(vec![Item::Mint { name: new.clone(), lost: Some(lost), ends }]).remove(0)
}

/// `to` is told by `member` that it has logged the present life.
fn admit(to: &mut TestDc, member: &TestDc) -> Outcome {
    let life = to.state().own.expect("it lives");
    let (member, stable) = (member.name.origin(), member.state().stable.clone());
    to.apply(vec![Item::Admit { life, member, stable }]).remove(0)
}

fn refused(answer: Answer) -> bool {
    let waits = |error: &ApiError| error.code == ErrorCode::NotCaughtUp && error.retry_after_ms.is_some();
    matches!(answer, Answer::Refused { error, .. } if waits(&error))
}

#[test]
fn a_datacenter_that_lost_its_newest_txns_numbers_the_next_ones_in_a_new_life() {
    let (mut eu, mut us) = after_a_loss(1, 3);
    let (old, new) = (eu.name.origin(), name("eu", 9));
    // Before the loss eu had told to have all three, and us took them for stable.
    let vector = [Dot::new(old, 3)].into_iter().collect();
    us.apply(vec![Item::Report { member: old, vector }]);
    assert_eq!(us.state().stable.get(old), 3);

    assert_eq!(mint(&mut eu, &new, Dot::new(old, 3)), Outcome::Done);
    let (content, add_ten) = (eu.digest(), vec![(key("k"), Mutation::Counter(CounterOp::Add(10)))]);
    assert!(refused(eu.client(Some("r"), add_ten.clone())), "it may have told others to have what it lacks");
    us.apply(vec![Item::Register(new.clone()), report(&eu)]);
    assert_eq!(admit(&mut eu, &us), Outcome::Done);
    assert!(refused(eu.client(Some("r"), add_ten)), "us holds for stable what is missing here");
    assert_eq!(eu.digest(), content);

    for tail in &us.history[1..] {
        assert_eq!(eu.remote(tail), RemoteOutcome::Applied, "the lost txns come back like a stranger's");
    }
    assert_eq!(eu.state().vector.get(new.origin()), 1, "its first txn says that it has begun");
    assert_eq!(add(&mut eu, 10), Dot::new(new.origin(), 2), "the second of the old life is somebody else's");
    for txn in &eu.history[3..] {
        assert_eq!(us.remote(txn), RemoteOutcome::Applied);
    }
    assert_eq!((eu.digest(), &eu.state().vector), (us.digest(), &us.state().vector));
}

/// Found by the simulation (seed 100015): a datacenter that had lost its tail added an element to a remove-wins set. Its
/// removal it had had before, and told so; the others had dropped the mark of the removal, since it was stable, and showed
/// the element. The mark came back to the datacenter itself with its tail, and it did not show it: they differed for ever.
#[test]
fn a_new_life_adds_to_a_remove_wins_set_only_when_it_has_back_the_removals_that_were_stable() {
    let element = || Value::Int(7);
    let set = |op| vec![(key("s"), Mutation::RwSet(op))];
    let mut us = TestDc::new("us", 2, &MEMBERS);
    let [mut before, mut eu] = [(), ()].map(|()| TestDc::new("eu", 1, &MEMBERS));
    us.apply(vec![Item::Register(eu.name.clone())]);
    for dc in [&mut before, &mut eu] {
        dc.apply(vec![Item::Register(us.name.clone())]);
    }
    us.client(None, set(SetOp::Add(element())));
    us.client(None, set(SetOp::Remove(element())));
    let written = us.history.clone();
    assert_eq!(eu.remote(&written[0]), RemoteOutcome::Applied);
    for txn in &written {
        assert_eq!(before.remote(txn), RemoteOutcome::Applied);
    }
    us.apply(vec![report(&before), Item::Tidy { rows_max: 100 }]);
    assert_eq!(us.state().stable, us.state().vector);

    // eu goes back to where it had but the first, and hears that it has told to have the second.
    let new = name("eu", 9);
    assert_eq!(mint(&mut eu, &new, Dot::new(us.name.origin(), 2)), Outcome::Done);
    us.apply(vec![Item::Register(new), report(&eu)]);
    admit(&mut eu, &us);
    assert!(refused(eu.client(None, set(SetOp::Add(element())))));
    assert_eq!(eu.remote(&written[1]), RemoteOutcome::Applied);
    assert!(matches!(eu.client(None, set(SetOp::Add(element()))), Answer::Done { dot: Some(_), .. }));
    for txn in &eu.history[2..] {
        assert_eq!(us.remote(txn), RemoteOutcome::Applied);
    }
    assert_eq!(eu.read("s").content, us.read("s").content);
    assert_eq!(eu.digest(), us.digest());
}

/// The copy of a life that has ended long ago, or nothing: others know of a life that is not known here.
#[test]
fn a_datacenter_that_meets_a_life_of_its_own_that_it_has_forgotten_begins_another_one() {
    let set = vec![(key("k"), Mutation::Counter(CounterOp::Add(1)))];
    for written in [0, 1] {
        let (eu, mut us) = after_a_loss(2, 2);
        us.apply(vec![report(&eu)]);
        assert_eq!(us.state().stable, us.state().vector);
        let mut anew = TestDc::new("eu", 8, &MEMBERS);
        for _ in 0..written {
            add(&mut anew, 1);
        }
        anew.apply(vec![Item::Register(us.name.clone()), Item::Register(eu.name.clone())]);
        assert!(refused(anew.client(None, set.clone())), "another life is known");
        let lost = anew.state().forgotten().expect("the present life has to end");
        let new = name("eu", 9);
        assert_eq!(mint(&mut anew, &new, lost), Outcome::Done);
        assert_eq!(anew.state().forgotten(), None);
        us.apply(vec![Item::Register(name("eu", 8)), Item::Register(new.clone()), report(&anew)]);
        admit(&mut anew, &us);
        for txn in us.history.clone() {
            assert_eq!(anew.remote(&txn), RemoteOutcome::Applied);
        }
        assert_eq!(add(&mut anew, 1), Dot::new(new.origin(), 2), "its first txn said that it has begun");
        let early = anew.history.first().expect("some").clone();
        let outcome = us.remote(&early);
        match written {
            0 => assert_eq!(outcome, RemoteOutcome::Duplicate),
            _ => {
                assert!(matches!(outcome, RemoteOutcome::Refused(_)), "it was written too early: {outcome:?}")
            }
        }
        if written == 0 {
            for txn in &anew.history[2..] {
                assert_eq!(us.remote(txn), RemoteOutcome::Applied);
            }
            assert_eq!(anew.digest(), us.digest());
        }
    }
}

#[test]
fn what_is_concurrent_with_what_is_stable_is_refused_and_changes_nothing() {
    let (mut eu, mut us) = after_a_loss(1, 1);
    add(&mut us, 5);
    let mut told = us.state().vector.clone();
    us.apply(vec![Item::Report { member: eu.name.origin(), vector: std::mem::take(&mut told) }]);
    assert_eq!(us.state().stable, us.state().vector);
    // eu has told to have us's txn, and lost it; clients write before any member could say so.
    add(&mut eu, 7);
    let outcome = us.remote(&eu.history[1]);
    assert!(
        matches!(&outcome, RemoteOutcome::Refused(why) if why.contains("its datacenter has lost that")),
        "{outcome:?}"
    );
}

#[test]
fn stability_stands_still_until_everybody_is_known_to_know_of_the_new_life() {
    let members = ["eu", "us", "ap"];
    let [mut before, mut eu] = [(), ()].map(|()| TestDc::new("eu", 1, &members));
    let (mut us, mut ap) = (TestDc::new("us", 2, &members), TestDc::new("ap", 3, &members));
    let names = [eu.name.clone(), us.name.clone(), ap.name.clone()];
    for dc in [&mut before, &mut eu, &mut us, &mut ap] {
        dc.apply(names.iter().cloned().map(Item::Register).collect());
    }
    // ap writes, and everybody but eu's last txn has seen it. That txn reaches ap alone before eu loses it.
    add(&mut before, 1);
    let of_ap = add(&mut ap, 2);
    let (last, from_ap) = (before.history[0].clone(), ap.history[0].clone());
    us.remote(&from_ap);
    us.apply(vec![report(&ap)]);
    ap.remote(&last);
    eu.remote(&from_ap);
    let new = name("eu", 9);
    assert_eq!(mint(&mut eu, &new, Dot::new(names[0].origin(), 1)), Outcome::Done);
    us.apply(vec![Item::Register(new.clone()), report(&eu)]);
    assert!(!us.state().stable.covers(of_ap), "the ended life's last txn may be concurrent with it");
    assert_eq!(us.remote(&last), RemoteOutcome::Applied, "and so it is");

    ap.apply(vec![Item::Register(new), report(&eu)]);
    admit(&mut eu, &us);
    admit(&mut eu, &ap);
    let begun = eu.history.last().expect("some").clone();
    assert_eq!(eu.remote(&last), RemoteOutcome::Applied);
    for dc in [&mut us, &mut ap] {
        assert_eq!(dc.remote(&begun), RemoteOutcome::Applied);
    }
    let reports = [report(&eu), report(&us), report(&ap)];
    for (at, dc) in [&mut eu, &mut us, &mut ap].into_iter().enumerate() {
        let others = reports.iter().enumerate().filter(|(of, _)| *of != at).map(|(_, report)| report.clone());
        dc.apply(others.collect());
        assert_eq!(dc.state().stable, dc.state().vector, "it moves on once everybody has told");
    }
}

#[test]
fn a_life_goes_on_while_nothing_of_it_is_lost() {
    let (mut eu, _) = after_a_loss(3, 3);
    let old = eu.name.origin();
    for lost in [None, Some(Dot::new(old, 3)), Some(Dot::new(name("us", 2).origin(), 7))] {
        let outcome = eu.apply(vec![Item::Mint { name: name("eu", 9), lost, ends: None }]);
        assert!(matches!(outcome[..], [Outcome::Refused(_)]), "{lost:?}: {outcome:?}");
    }
    assert_eq!(add(&mut eu, 10), Dot::new(old, 4));
}
