//! Random mutations, on few keys, fields and elements, so that most of them meet others.

use bytes::Bytes;
use meridian_crdt::{CounterOp, DocOp, FlagOp, Key, MapOp, Mutation, RegisterOp, SetOp, Type, Value};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;

/// What a run is about: the keys, and the types that may be written to each.
#[derive(Clone, Debug)]
pub struct Subject {
    pub keys: Vec<(Key, Vec<Type>)>,
    /// The types that fields of maps may have.
    pub fields: Vec<Type>,
    /// How deep maps nest.
    pub depth: usize,
}

/// What a field of a map may be.
const FIELDS: &[Type] = Type::ALL.split_at(Type::ALL.len() - 1).0;
const SPACES: [&str; 2] = ["default", "other"];
const NAMES: [&str; 3] = ["a", "a\u{0}b", "é"];

pub fn key(n: usize) -> Key {
    Key::new(SPACES[n % SPACES.len()], NAMES[n / SPACES.len() % NAMES.len()]).expect("well formed")
}

impl Subject {
    /// Keys of one type each, whose fields, if it is a map, may have all types.
    pub fn of(ty: Type, rng: &mut SmallRng) -> Self {
        let keys = (0..rng.random_range(1..=2)).map(|n| (key(n), vec![ty])).collect();
        let depth = rng.random_range(1..=3);
        let count = rng.random_range(1..=FIELDS.len());
        Subject { keys, fields: FIELDS.choose_multiple(rng, count).copied().collect(), depth }
    }

    /// Keys of one type, whichever.
    pub fn any(rng: &mut SmallRng) -> Self {
        let ty = *pick(rng, &Type::ALL);
        Self::of(ty, rng)
    }

    /// Keys to each of which several types are written.
    pub fn mixed(rng: &mut SmallRng) -> Self {
        let keys = (0..rng.random_range(1..=4)).map(|n| {
            let count = rng.random_range(1..=3);
            (key(n), Type::ALL.choose_multiple(rng, count).copied().collect())
        });
        let keys = keys.collect();
        let count = rng.random_range(1..=3);
        Subject { keys, fields: FIELDS.choose_multiple(rng, count).copied().collect(), depth: 2 }
    }

    /// The mutations of one txn.
    pub fn ops(&self, rng: &mut SmallRng) -> Vec<(Key, Mutation)> {
        let count = if rng.random_bool(0.6) { 1 } else { rng.random_range(2..=4) };
        (0..count).map(|_| self.op(rng)).collect()
    }

    fn op(&self, rng: &mut SmallRng) -> (Key, Mutation) {
        let (key, types) = pick(rng, &self.keys);
        let ty = *pick(rng, types);
        let mutation = match rng.random_range(0..100) {
            0..7 => Mutation::Delete(None),
            7..10 => Mutation::Delete(Some(ty)),
            _ => self.mutation(rng, ty, self.depth),
        };
        (key.clone(), mutation)
    }

    fn mutation(&self, rng: &mut SmallRng, ty: Type, depth: usize) -> Mutation {
        match ty {
            Type::Register => Mutation::Register(register_op(rng)),
            Type::MvRegister => Mutation::MvRegister(register_op(rng)),
            Type::Counter => Mutation::Counter(counter_op(rng)),
            Type::Flag => Mutation::Flag(flag_op(rng)),
            Type::DwFlag => Mutation::DwFlag(flag_op(rng)),
            Type::Set => Mutation::Set(set_op(rng)),
            Type::RwSet => Mutation::RwSet(set_op(rng)),
            Type::Map => Mutation::Map(self.map_op(rng, depth)),
            Type::Doc => Mutation::Doc(doc_op(rng)),
        }
    }

    fn map_op(&self, rng: &mut SmallRng, depth: usize) -> MapOp {
        let field = (*pick(rng, &["f", "g\u{0}", ""])).to_string();
        match rng.random_range(0..100) {
            0..14 => MapOp::Remove { field },
            14..20 => MapOp::Clear,
            _ => {
                let types: Vec<Type> =
                    self.fields.iter().copied().filter(|ty| depth > 1 || *ty != Type::Map).collect();
                let ty = types.choose(rng).copied().unwrap_or(Type::Counter);
                let mutation = match rng.random_range(0..100) {
                    0..4 => Mutation::Delete(None),
                    4..6 => Mutation::Delete(Some(ty)),
                    _ => self.mutation(rng, ty, depth - 1),
                };
                MapOp::Update { field, mutation: Box::new(mutation) }
            }
        }
    }
}

fn pick<'t, T>(rng: &mut SmallRng, of: &'t [T]) -> &'t T {
    of.choose(rng).expect("something to choose from")
}

fn value(rng: &mut SmallRng) -> Value {
    match rng.random_range(0..6) {
        0 => Value::Nil,
        1 => Value::Str(String::new()),
        2 => Value::Array(vec![Value::Int(1), Value::Map([("k".to_string(), Value::Bool(true))].into())]),
        n => Value::Int(n),
    }
}

fn element(rng: &mut SmallRng) -> Value {
    match rng.random_range(0..4) {
        0 => Value::Str("a".into()),
        1 => Value::Str("a\u{0}".into()),
        n => Value::Int(n),
    }
}

fn register_op(rng: &mut SmallRng) -> RegisterOp {
    if rng.random_bool(0.8) { RegisterOp::Set(value(rng)) } else { RegisterOp::Clear }
}

fn counter_op(rng: &mut SmallRng) -> CounterOp {
    match rng.random_range(0..100) {
        0..18 => CounterOp::Reset,
        18..20 => CounterOp::Add(i64::MAX),
        20..22 => CounterOp::Add(i64::MIN),
        22..30 => CounterOp::Add(0),
        _ => CounterOp::Add(rng.random_range(-5..=9)),
    }
}

fn flag_op(rng: &mut SmallRng) -> FlagOp {
    if rng.random_bool(0.6) { FlagOp::Enable } else { FlagOp::Disable }
}

fn set_op(rng: &mut SmallRng) -> SetOp {
    match rng.random_range(0..100) {
        0..50 => SetOp::Add(element(rng)),
        50..75 => SetOp::Remove(element(rng)),
        75..82 => SetOp::Clear,
        82..92 => SetOp::AddAll(elements(rng)),
        _ => SetOp::RemoveAll(elements(rng)),
    }
}

/// An update that puts a character at the front of a root type.
pub fn update(client: u8, character: u8) -> Bytes {
    Bytes::copy_from_slice(&[1, 1, client, 0, 4, 1, 1, b't', 1, character, 0])
}

fn doc_op(rng: &mut SmallRng) -> DocOp {
    let mut any = || update(rng.random_range(1..4), rng.random_range(b'a'..b'd'));
    let (one, all) = (any(), vec![any(), any(), any()]);
    match rng.random_range(0..14) {
        0..6 => DocOp::Update(one),
        n @ 6..10 => DocOp::UpdateAll(all[..n - 6].to_vec()),
        n => DocOp::UpdateEach(all[..n - 10].to_vec()),
    }
}

fn elements(rng: &mut SmallRng) -> Vec<Value> {
    (0..rng.random_range(0..=3)).map(|_| element(rng)).collect()
}
