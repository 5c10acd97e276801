//! Contents are a function of the set of txns applied: not of the order of their arrival, of how often they or a
//! snapshot came, nor of which snapshot was merged into which.

mod spec;

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_crdt::{Dot, Origin, Txn, TxnHead};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use spec::compare;
use spec::draw::Subject;
use spec::replica::Replica;
use spec::seeds;
use spec::world::World;

/// How many orders of one history are tried.
const ORDERS_MAX: usize = 100;

/// A few txns at three replicas, of which some saw others.
fn small_world(seed: u64) -> World {
    let subject =
        |rng: &mut SmallRng| if seed.is_multiple_of(2) { Subject::mixed(rng) } else { Subject::any(rng) };
    let mut world = World::with_replicas(seed, 3, subject);
    world.scatter(7);
    world
}

fn committed(world: &World) -> BTreeMap<Dot, Bytes> {
    world.replicas.iter().flat_map(|replica| replica.log.clone()).collect()
}

/// Applies what may be applied in every order, depth first, up to the bound.
fn orders(observer: &Replica, txns: &BTreeMap<Dot, Bytes>, done: &mut Vec<Replica>) {
    let mut last = true;
    for (dot, bytes) in txns {
        if observer.vector.covers(*dot) || !observer.ready(&TxnHead::decode(bytes).expect("a head")) {
            continue;
        }
        last = false;
        if done.len() == ORDERS_MAX {
            return;
        }
        let mut next = observer.clone();
        next.receive(bytes);
        orders(&next, txns, done);
    }
    if last {
        done.push(observer.clone());
    }
}

#[test]
fn every_causal_order_of_delivery_gives_the_same_contents() {
    seeds::each(40, |seed| {
        let world = small_world(seed);
        let mut ends = Vec::new();
        orders(&Replica::new(Origin(99), &[], 0), &committed(&world), &mut ends);
        let who = format!("seed {seed}");
        for end in &ends {
            compare::equal(&who, &ends[0], end, world.subject());
        }
        compare::everything(&who, &ends[0], &world.history, world.subject());
    });
}

#[test]
fn a_second_delivery_changes_nothing() {
    seeds::each(40, |seed| {
        let mut world = small_world(seed);
        world.settle();
        let before = world.replicas.clone();
        for (bytes, replica) in committed(&world).values().flat_map(|b| (0..3).map(move |at| (b, at))) {
            assert!(!world.replicas[replica].receive(bytes));
            assert_eq!(before[replica].cells, world.replicas[replica].cells);
        }
    });
}

#[test]
fn txns_come_back_from_their_bytes() {
    seeds::each(40, |seed| {
        for bytes in committed(&small_world(seed)).values() {
            assert_eq!(Txn::decode(bytes).expect("an own encoding").encode(), *bytes);
        }
    });
}

/// `into` after a merge of `from`.
fn merged(into: &Replica, from: &Replica) -> Replica {
    let mut merged = into.clone();
    merged.merge(from);
    merged
}

#[test]
fn merging_a_snapshot_with_itself_or_twice_changes_no_contents() {
    seeds::each(80, |seed| {
        let world = small_world(seed);
        let (a, b) = (&world.replicas[0], &world.replicas[1]);
        let who = format!("seed {seed}");
        compare::equal(&who, a, &merged(a, a), world.subject());
        let once = merged(a, b);
        compare::equal(&who, &once, &merged(&once, b), world.subject());
        compare::equal(&who, &once, &merged(&once, a), world.subject());
        compare::equal(&who, &once, &merged(b, &once), world.subject());
    });
}

#[test]
fn merges_commute_and_associate() {
    seeds::each(80, |seed| {
        let world = small_world(seed);
        let [a, b, c] = &world.replicas[..] else { panic!("three replicas") };
        let who = format!("seed {seed}");
        compare::equal(&who, &merged(a, b), &merged(b, a), world.subject());
        let left = merged(&merged(a, b), c);
        compare::equal(&who, &left, &merged(a, &merged(b, c)), world.subject());
        compare::equal(&who, &left, &merged(&merged(c, b), a), world.subject());
        compare::everything(&who, &left, &world.history, world.subject());
    });
}

#[test]
fn the_mutations_of_one_txn_add_up_to_the_same_as_one_txn_each() {
    seeds::each(80, |seed| {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut world = small_world(seed);
        world.settle();
        let base = world.replicas[0].clone();
        let ops: Vec<_> = (0..rng.random_range(2..6)).flat_map(|_| world.subject().ops(&mut rng)).collect();
        let (mut together, mut apart) = (base.clone(), base);
        let hlc = together.stamp(1_000);
        let Ok(executed) = together.execute(hlc, &ops) else { return };
        together.commit(hlc, executed);
        for op in ops {
            let hlc = apart.stamp(1_000);
            let executed = apart.execute(hlc, &[op]).expect("taken together, so taken apart");
            apart.commit(hlc, executed);
        }
        compare::same_values(&format!("seed {seed}"), &together, &apart, world.subject());
    });
}
