//! Histories that broke something once, or that break the simpler rule that one is tempted to write.

mod spec;

use meridian_crdt::{CounterOp, FlagOp, Key, MapOp, Mutation, SetOp, Table, Type, Value};

use spec::compare;
use spec::draw::Subject;
use spec::world::World;

fn key() -> Key {
    Key::new("default", "k").expect("well formed")
}

fn world(ty: Type) -> World {
    World::with_replicas(0, 3, |_| Subject { keys: vec![(key(), vec![ty])], fields: vec![], depth: 1 })
}

fn write(world: &mut World, at: usize, mutation: Mutation) {
    assert!(world.write_at(at, &[(key(), mutation)]), "the write is taken");
}

fn report_all(world: &mut World, to: usize) {
    let vectors: Vec<_> = world.replicas.iter().map(|r| (r.origin, r.vector.clone())).collect();
    for (member, vector) in vectors {
        if member != world.replicas[to].origin {
            world.replicas[to].hear(member, vector);
        }
    }
    world.replicas[to].stabilize();
    world.replicas[to].sweep_all(2);
}

/// Symptom: an element whose removal had won came back in one datacenter. Mechanism: the mark was swept when all
/// members had acknowledged it, while a concurrent write of one of them was still on its way. What counts is a report
/// whose own txns have arrived.
#[test]
fn a_mark_that_all_have_acknowledged_still_beats_a_write_on_its_way() {
    let mut world = world(Type::DwFlag);
    write(&mut world, 0, Mutation::DwFlag(FlagOp::Enable));
    write(&mut world, 1, Mutation::DwFlag(FlagOp::Disable));
    // Everybody has the disable; the third replica does not have the enable, which is concurrent with it.
    world.give(1, 0);
    world.give(1, 2);
    report_all(&mut world, 2);
    world.give(0, 2);
    let shown = compare::content(&world.replicas[2], &key());
    assert_eq!(shown, None, "disable wins");
    world.settle();
    world.quiesce();
}

/// Symptom: after a reset, adds counted too little in one datacenter. Mechanism: the floor of the reset was dropped
/// when it was stable, while the run under it went on.
#[test]
fn a_stable_floor_stays_for_as_long_as_its_run_goes_on() {
    let mut world = world(Type::Counter);
    write(&mut world, 0, Mutation::Counter(CounterOp::Add(5)));
    world.settle();
    write(&mut world, 1, Mutation::Counter(CounterOp::Reset));
    write(&mut world, 0, Mutation::Counter(CounterOp::Add(2)));
    world.settle();
    for at in 0..3 {
        report_all(&mut world, at);
        world.check(at);
    }
    write(&mut world, 0, Mutation::Counter(CounterOp::Add(1)));
    world.settle();
    world.quiesce();
}

/// Symptom: marks stayed in the sweep queue although everything was stable and the sweep said that it was done.
/// Mechanism: the walk behind the first unripe row is spread over many sweeps. It reached the end of the queue and
/// reported the end, although stability had moved since it passed the rows before. The first row here is the header of
/// an absent key that a long transaction may still ask for.
#[test]
fn a_sweep_that_is_done_leaves_no_mark_that_was_ripe() {
    const KEEP_HEADERS: u64 = 0;
    for (limit, early_sweeps) in (1..6).flat_map(|limit| (0..14).map(move |sweeps| (limit, sweeps))) {
        let absent = Key::new("default", "absent").expect("well formed");
        let keys = vec![(key(), vec![Type::RwSet]), (absent.clone(), vec![Type::Flag])];
        let mut world = World::with_replicas(0, 3, |_| Subject { keys, fields: vec![], depth: 1 });
        write(&mut world, 0, Mutation::RwSet(SetOp::Add(Value::Int(0))));
        for op in [FlagOp::Enable, FlagOp::Disable] {
            assert!(world.write_at(0, &[(absent.clone(), Mutation::Flag(op))]));
        }
        for n in 1..9 {
            write(&mut world, 0, Mutation::RwSet(SetOp::Remove(Value::Int(n))));
        }
        world.settle();
        let vector = world.replicas[0].vector.clone();
        let members: Vec<_> = world.replicas[1..].iter().map(|replica| replica.origin).collect();
        let replica = &mut world.replicas[0];
        for _ in 0..early_sweeps {
            assert_eq!(replica.sweep(KEEP_HEADERS, limit).removed, 0, "nothing is stable yet");
        }
        for member in members {
            replica.hear(member, vector.clone());
        }
        replica.stabilize();
        while replica.sweep(KEEP_HEADERS, limit).ripe_left {}
        // The element that is there, and no mark.
        assert_eq!(replica.cells.count(Table::CELL), 1, "after {early_sweeps} early sweeps of {limit}");
    }
}

/// Symptom: a flag in a map was enabled after its disable in one datacenter, and stayed off in another. Mechanism: the
/// `-` was swept where the enable was made. The enable ships its removal all the same; but earlier in that txn the field
/// was removed, whose prefix swallowed the removal, and was then left out because nothing was there.
#[test]
fn an_enable_ships_the_removal_of_a_mark_that_was_swept_also_after_a_removal_of_its_field() {
    let mut world = world(Type::Map);
    let update = |mutation| Mutation::Map(MapOp::Update { field: "f".into(), mutation: Box::new(mutation) });
    write(&mut world, 0, update(Mutation::DwFlag(FlagOp::Disable)));
    world.settle();
    report_all(&mut world, 1);
    assert_eq!(world.replicas[1].cells.count(Table::CELL), 0, "the mark is swept here");
    let ops = [
        update(Mutation::RwSet(SetOp::Add(Value::Int(2)))),
        Mutation::Map(MapOp::Remove { field: "f".into() }),
        update(Mutation::DwFlag(FlagOp::Enable)),
    ];
    assert!(world.write_at(1, &ops.map(|op| (key(), op))));
    world.settle();
    world.quiesce();
}
