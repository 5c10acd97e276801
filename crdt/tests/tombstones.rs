//! What is gone leaves nothing behind: at once where adds win, and once it is stable where a mark or a floor must
//! stay until then.

mod spec;

use meridian_crdt::{CounterOp, FlagOp, Key, MapOp, Mutation, SetOp, Table, Type, Value};

use spec::draw::Subject;
use spec::world::World;

const CYCLES: i64 = 60;

fn key() -> Key {
    Key::new("default", "k").expect("well formed")
}

fn world(ty: Type) -> World {
    World::with_replicas(0, 3, |_| Subject { keys: vec![(key(), vec![ty])], fields: vec![], depth: 1 })
}

fn cells(world: &World) -> Vec<usize> {
    world.replicas.iter().map(|replica| replica.cells.count(Table::CELL)).collect()
}

/// Commits each mutation at a replica of its own choice, and tells everybody before the next.
fn one_after_the_other(world: &mut World, mutations: impl IntoIterator<Item = Mutation>) {
    for (n, mutation) in mutations.into_iter().enumerate() {
        assert!(world.write_at(n % 3, &[(key(), mutation)]));
        world.settle();
    }
}

fn in_field(mutation: Mutation) -> Mutation {
    Mutation::Map(MapOp::Update { field: "f".into(), mutation: Box::new(mutation) })
}

fn element(n: i64) -> Value {
    Value::Int(n)
}

#[test]
fn elements_that_were_added_and_removed_leave_no_cells() {
    let mut world = world(Type::Set);
    for n in 0..CYCLES {
        let add = Mutation::Set(SetOp::Add(element(n % 10)));
        let remove = Mutation::Set(SetOp::Remove(element(n % 10)));
        one_after_the_other(&mut world, [add, remove]);
    }
    assert_eq!(cells(&world), [0, 0, 0]);
    world.quiesce();
}

#[test]
fn the_marks_of_a_remove_wins_set_go_once_they_are_stable() {
    let mut world = world(Type::RwSet);
    for n in 0..CYCLES / 10 {
        let add = Mutation::RwSet(SetOp::AddAll((0..10).map(|e| element(e + n)).collect()));
        one_after_the_other(&mut world, [add, Mutation::RwSet(SetOp::Clear)]);
    }
    assert_ne!(cells(&world), [0, 0, 0]);
    world.quiesce();
    assert_eq!(cells(&world), [0, 0, 0]);
}

#[test]
fn a_counter_that_was_reset_leaves_no_floors_once_they_are_stable() {
    for (ty, wrap) in [(Type::Counter, None), (Type::Map, Some(in_field as fn(Mutation) -> Mutation))] {
        let mut world = world(ty);
        let wrap = |m: Mutation| wrap.map_or(m.clone(), |wrap| wrap(m));
        for n in 0..CYCLES / 10 {
            let add = |by| wrap(Mutation::Counter(CounterOp::Add(by)));
            one_after_the_other(&mut world, [add(n + 1), add(2), add(3)]);
            one_after_the_other(&mut world, [wrap(Mutation::Counter(CounterOp::Reset))]);
        }
        world.quiesce();
        assert_eq!(cells(&world), [0, 0, 0]);
        assert!(world.replicas.iter().all(|replica| replica.cells.count(Table::HEADER) == 0));
    }
}

#[test]
fn a_map_whose_fields_were_removed_leaves_nothing_once_that_is_stable() {
    let mut world = world(Type::Map);
    for n in 0..CYCLES / 10 {
        one_after_the_other(
            &mut world,
            [
                in_field(Mutation::RwSet(SetOp::Add(element(n)))),
                in_field(Mutation::RwSet(SetOp::Remove(element(n)))),
                in_field(Mutation::DwFlag(FlagOp::Enable)),
                Mutation::Map(MapOp::Remove { field: "f".into() }),
            ],
        );
    }
    world.quiesce();
    assert_eq!(cells(&world), [0, 0, 0]);
    assert!(world.replicas.iter().all(|replica| replica.cells.count(Table::HEADER) == 0));
}
