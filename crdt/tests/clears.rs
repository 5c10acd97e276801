//! Clears of whole collections: which of them leave their cells to the sweep, and that nobody can tell how far it is.

mod spec;

use std::cell::Cell;

use meridian_crdt::{CounterOp, Key, MapOp, Mutation, SetOp, Type, Value};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use spec::compare;
use spec::draw::{self, Subject};
use spec::seeds;
use spec::world::World;

fn key() -> Key {
    draw::key(0)
}

fn elements(rng: &mut SmallRng) -> Vec<Value> {
    let from = rng.random_range(0..12);
    (from..from + rng.random_range(1..9)).map(Value::Int).collect()
}

fn of_set(rng: &mut SmallRng) -> Mutation {
    Mutation::Set(match rng.random_range(0..10) {
        0..5 => SetOp::AddAll(elements(rng)),
        5..7 => SetOp::RemoveAll(elements(rng)),
        _ => SetOp::Clear,
    })
}

fn of_map(rng: &mut SmallRng, counters: bool) -> Mutation {
    let field = ["f", "g", "h"][rng.random_range(0..3)].to_owned();
    let inner = match rng.random_range(0..7) {
        0..2 => Mutation::Set(SetOp::AddAll(elements(rng))),
        2..4 => Mutation::RwSet(SetOp::AddAll(elements(rng))),
        4 => Mutation::RwSet(SetOp::RemoveAll(elements(rng))),
        5 if counters => Mutation::Counter(CounterOp::Add(rng.random_range(1..9))),
        6 if counters => Mutation::Counter(CounterOp::Reset),
        _ => return Mutation::Map(MapOp::Clear),
    };
    let field = if matches!(inner, Mutation::Counter(_)) { "n".to_owned() } else { field };
    Mutation::Map(MapOp::Update { field, mutation: Box::new(inner) })
}

fn mutation(rng: &mut SmallRng, ty: Type, counters: bool) -> Mutation {
    match ty {
        _ if rng.random_bool(0.1) => Mutation::Delete(None),
        Type::Set => of_set(rng),
        _ => of_map(rng, counters),
    }
}

/// Adds, clears, deliveries, snapshot merges and short sweeps in turn; the world compares after each. Says how many
/// collections were dropped without a look at their cells.
fn run(seed: u64, ty: Type) -> u64 {
    let mut rng = SmallRng::seed_from_u64(seed);
    let counters = rng.random_bool(0.5);
    let fields = vec![Type::Set, Type::RwSet, Type::Counter];
    let subject = Subject { keys: vec![(key(), vec![ty])], fields, depth: 1 };
    let mut world = World::with_replicas(seed, 3, |_| subject);
    for _ in 0..rng.random_range(20..80) {
        let (at, other) = (rng.random_range(0..3), rng.random_range(0..3));
        match rng.random_range(0..100) {
            0..45 => {
                let count = if rng.random_bool(0.7) { 1 } else { rng.random_range(2..5) };
                let ops: Vec<_> = (0..count).map(|_| (key(), mutation(&mut rng, ty, counters))).collect();
                world.write_at(at, &ops);
            }
            45..65 if at != other => world.give(other, at),
            65..70 if at != other => {
                let donor = world.replicas[other].clone();
                world.replicas[at].merge(&donor);
            }
            70..95 => {
                world.replicas[at].sweep(0, rng.random_range(2..12));
            }
            _ => world.settle(),
        }
        world.check(at);
    }
    world.settle();
    let halfway = world.replicas[1].clone();
    world.replicas[1].sweep_all(8);
    compare::equal(&format!("seed {seed}"), &halfway, &world.replicas[1], world.subject());
    world.quiesce();
    world.replicas.iter().map(|replica| replica.cleared).sum()
}

fn clears_often(ty: Type, seeds: u64) {
    let (runs, cleared) = (Cell::new(0), Cell::new(0));
    seeds::each(seeds, |seed| {
        runs.set(runs.get() + 1);
        cleared.set(cleared.get() + run(seed, ty));
    });
    assert!(cleared.get() >= 3 * runs.get(), "{} of {} worlds", cleared.get(), runs.get());
}

#[test]
fn clears_of_sets_read_as_specified_however_far_the_sweep_is() {
    clears_often(Type::Set, 100);
}

#[test]
fn clears_of_maps_read_as_specified_however_far_the_sweep_is() {
    clears_often(Type::Map, 100);
}

/// The worlds in which all types are compared take the short way often enough to have tested it.
#[test]
fn worlds_of_sets_and_maps_drop_collections_whole() {
    for ty in [Type::Set, Type::Map] {
        let cleared = Cell::new(0);
        seeds::each(20, |seed| {
            let mut world = World::new(seed, |rng| Subject::of(ty, rng));
            world.run();
            cleared.set(cleared.get() + world.replicas.iter().map(|replica| replica.cleared).sum::<u64>());
        });
        assert!(cleared.get() >= 20, "{ty}: {}", cleared.get());
    }
}
