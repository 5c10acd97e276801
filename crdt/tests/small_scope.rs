//! Every small history there is: for each type, each base, and each three mutations made concurrently on it, followed
//! by one that observed two of them. What breaks a CRDT mostly breaks it in a history as small as these.

mod spec;

use meridian_crdt::{CounterOp, DocOp, FlagOp, Key, MapOp, Mutation, RegisterOp, SetOp, Type, Value};

use spec::draw::{self, Subject};
use spec::world::World;

fn key() -> Key {
    draw::key(0)
}

fn register(wrap: fn(RegisterOp) -> Mutation) -> Vec<Mutation> {
    let set = |n| wrap(RegisterOp::Set(Value::Int(n)));
    vec![set(1), set(2), wrap(RegisterOp::Clear)]
}

fn flag(wrap: fn(FlagOp) -> Mutation) -> Vec<Mutation> {
    vec![wrap(FlagOp::Enable), wrap(FlagOp::Disable)]
}

fn set(wrap: fn(SetOp) -> Mutation) -> Vec<Mutation> {
    let (x, y) = (Value::Int(1), Value::Int(2));
    vec![
        wrap(SetOp::Add(x.clone())),
        wrap(SetOp::Remove(x.clone())),
        wrap(SetOp::AddAll(vec![x, y])),
        wrap(SetOp::Clear),
    ]
}

/// A few mutations of each kind that a type has.
fn alphabet(ty: Type) -> Vec<Mutation> {
    let mut all = match ty {
        Type::Register => register(Mutation::Register),
        Type::MvRegister => register(Mutation::MvRegister),
        Type::Counter => {
            vec![Mutation::Counter(CounterOp::Add(1)), Mutation::Counter(CounterOp::Reset)]
        }
        Type::Flag => flag(Mutation::Flag),
        Type::DwFlag => flag(Mutation::DwFlag),
        Type::Set => set(Mutation::Set),
        Type::RwSet => set(Mutation::RwSet),
        Type::Map => vec![Mutation::Map(MapOp::Clear)],
        Type::Doc => {
            let update = |client| draw::update(client, b'x');
            let all = DocOp::UpdateAll(vec![update(2), update(3)]);
            vec![Mutation::Doc(DocOp::Update(update(1))), Mutation::Doc(all)]
        }
    };
    all.push(Mutation::Delete(None));
    all
}

fn in_field(ty: Type) -> Vec<Mutation> {
    let inner = alphabet(ty).into_iter().filter(|m| !matches!(m, Mutation::Delete(_)));
    let update = |m| Mutation::Map(MapOp::Update { field: "f".into(), mutation: Box::new(m) });
    let mut all: Vec<Mutation> = inner.map(update).collect();
    all.push(Mutation::Map(MapOp::Remove { field: "f".into() }));
    all.push(Mutation::Map(MapOp::Clear));
    all.push(Mutation::Delete(None));
    all
}

/// Base at the first replica, seen by all; one mutation at each; the second sees the first's and goes on; then
/// everything is delivered, becomes stable, and is swept. The world compares as it goes.
fn history(ty: Type, base: &[Mutation], concurrent: [&Mutation; 3], then: &Mutation) {
    let subject = Subject { keys: vec![(key(), vec![ty])], fields: vec![], depth: 1 };
    let mut world = World::with_replicas(7, 3, |_| subject);
    for mutation in base {
        world.write_at(0, &[(key(), mutation.clone())]);
    }
    world.settle();
    for (at, mutation) in concurrent.into_iter().enumerate() {
        world.write_at(at, &[(key(), mutation.clone())]);
    }
    world.give(0, 1);
    world.write_at(1, &[(key(), then.clone())]);
    world.settle();
    world.quiesce();
}

/// All of them for a small alphabet, every n-th otherwise.
fn histories(ty: Type, alphabet: &[Mutation]) {
    let bases: Vec<Vec<Mutation>> = alphabet.iter().map(|m| vec![m.clone()]).collect();
    let total = bases.len() * alphabet.len().pow(4);
    let stride = total.div_ceil(HISTORIES_MAX);
    // A stride that shares a factor with the alphabet's size would always skip the same mutations.
    let stride = (stride..).find(|n| gcd(*n, alphabet.len()) == 1).expect("there is always a next one");
    for n in (0..total).step_by(stride) {
        let digit = |place: u32| &alphabet[n / alphabet.len().pow(place) % alphabet.len()];
        let base = &bases[n / alphabet.len().pow(4)];
        history(ty, base, [digit(0), digit(1), digit(2)], digit(3));
    }
}

/// How many histories of one alphabet are run.
const HISTORIES_MAX: usize = 200;

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[test]
fn small_histories_of_each_type_read_as_specified() {
    for ty in Type::ALL.into_iter().filter(|ty| *ty != Type::Map) {
        histories(ty, &alphabet(ty));
    }
}

#[test]
fn small_histories_of_a_field_of_each_type_read_as_specified() {
    for ty in Type::ALL.into_iter().filter(|ty| *ty != Type::Doc) {
        histories(Type::Map, &in_field(ty));
    }
}
