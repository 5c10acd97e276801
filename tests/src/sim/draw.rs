//! Draws mutations of every type, for keys of which nothing is checked but that all datacenters agree.

use meridian_crdt::{CounterOp, DocOp, FlagOp, MapOp, Mutation, RegisterOp, SetOp, Type, Value};
use meridian_gossip::sim::Rng;

/// How deep maps are nested.
const DEPTH_MAX: usize = 2;

fn value(rng: &mut Rng) -> Value {
    match rng.below(5) {
        0 => Value::Nil,
        1 => Value::Str(["x", "y", "z"][rng.below(3) as usize].into()),
        2 => Value::Array(vec![Value::Bool(rng.chance(1, 2)), Value::Float(0.5)]),
        _ => Value::Int(rng.below(7) as i64 - 3),
    }
}

fn register(rng: &mut Rng) -> RegisterOp {
    if rng.chance(3, 4) { RegisterOp::Set(value(rng)) } else { RegisterOp::Clear }
}

fn flag(rng: &mut Rng) -> FlagOp {
    if rng.chance(1, 2) { FlagOp::Enable } else { FlagOp::Disable }
}

fn set(rng: &mut Rng) -> SetOp {
    match rng.below(8) {
        0..=3 => SetOp::Add(value(rng)),
        4 => SetOp::Remove(value(rng)),
        5 => SetOp::AddAll((0..3).map(|_| value(rng)).collect()),
        6 => SetOp::RemoveAll((0..2).map(|_| value(rng)).collect()),
        _ => SetOp::Clear,
    }
}

fn map(rng: &mut Rng, depth: usize) -> MapOp {
    let field = ["p", "q"][rng.below(2) as usize].to_owned();
    match rng.below(6) {
        0 => MapOp::Remove { field },
        1 => MapOp::Clear,
        _ => {
            let types = if depth < DEPTH_MAX { &Type::ALL[..8] } else { &Type::ALL[..7] };
            let ty = *rng.pick(types);
            let mutation = Box::new(of_type(rng, ty, depth + 1));
            MapOp::Update { field, mutation }
        }
    }
}

fn of_type(rng: &mut Rng, ty: Type, depth: usize) -> Mutation {
    match ty {
        Type::Register => Mutation::Register(register(rng)),
        Type::MvRegister => Mutation::MvRegister(register(rng)),
        Type::Counter if rng.chance(1, 40) => Mutation::Counter(CounterOp::Add(i64::MAX)),
        Type::Counter if rng.chance(1, 4) => Mutation::Counter(CounterOp::Reset),
        Type::Counter => Mutation::Counter(CounterOp::Add(rng.below(11) as i64 - 5)),
        Type::Flag => Mutation::Flag(flag(rng)),
        Type::DwFlag => Mutation::DwFlag(flag(rng)),
        Type::Set => Mutation::Set(set(rng)),
        Type::RwSet => Mutation::RwSet(set(rng)),
        Type::Map => Mutation::Map(map(rng, depth)),
        Type::Doc => Mutation::Doc(DocOp::Update(vec![0, rng.below(3) as u8].into())),
    }
}

/// A mutation for the `index`-th of such keys: mostly of one type, so that both successes and wrong types are met.
pub fn mutation(rng: &mut Rng, index: u64) -> Mutation {
    if rng.chance(1, 12) {
        return Mutation::Delete(None);
    }
    let ty = if rng.chance(1, 8) { rng.below(8) } else { index };
    of_type(rng, Type::ALL[ty as usize % 8], 0)
}
