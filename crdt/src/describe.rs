//! What a txn did to one key, told in the words in which clients ask for it.
//!
//! A watcher is told mutations, not effects: it must not have to know what paths, dots and floors are. The description
//! is a function of the effect alone, so it is the same in every datacenter, whatever else has been applied there. An
//! add subsumes the removals that made room for it; floors are told by the removal that they belong to; what only one
//! type's own removal and a delete have in common is told as that type's. It reads no state.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::cell::PLUS;
use crate::codec::DecodeError;
use crate::path;
use crate::txn::{Add, KeyEffect, Removal};
use crate::types::counter::{Tally, saturate};
use crate::types::{CounterOp, DocOp, FlagOp, MapOp, Mutation, RegisterOp, SetOp, Type, doc};
use crate::value::Value;

/// Where something happened: the key itself, or a field of a map.
type Place = Vec<String>;

/// Elements that are added to or removed from one set, by its place and type.
type Elements = BTreeMap<(Place, Type), Vec<Value>>;

/// A path, taken apart.
struct At {
    place: Place,
    /// What follows the place: nothing for a whole field.
    ty: Option<Type>,
    /// What follows the type.
    rest: Vec<u8>,
}

fn locate(path: &[u8]) -> Result<At, DecodeError> {
    let fields = path::fields(path)?;
    let rest = &path[fields.last().map_or(0, |(_, end)| *end)..];
    let ty = rest.first().map(|code| Type::from_code(*code).ok_or(DecodeError::Malformed)).transpose()?;
    let place = fields.into_iter().map(|(name, _)| name).collect();
    Ok(At { place, ty, rest: rest.get(1..).unwrap_or_default().to_vec() })
}

/// The mutation of a field, asked of the key.
fn nested(place: Place, mutation: Mutation) -> Mutation {
    place
        .into_iter()
        .rev()
        .fold(mutation, |inner, field| Mutation::Map(MapOp::Update { field, mutation: Box::new(inner) }))
}

fn of_set(ty: Type, op: SetOp) -> Mutation {
    if ty == Type::RwSet { Mutation::RwSet(op) } else { Mutation::Set(op) }
}

/// Takes out all that is there of one type.
fn emptying(ty: Type) -> Mutation {
    match ty {
        Type::Register => Mutation::Register(RegisterOp::Clear),
        Type::MvRegister => Mutation::MvRegister(RegisterOp::Clear),
        Type::Counter => Mutation::Counter(CounterOp::Reset),
        Type::Flag => Mutation::Flag(FlagOp::Disable),
        Type::DwFlag => Mutation::DwFlag(FlagOp::Disable),
        Type::Set | Type::RwSet => of_set(ty, SetOp::Clear),
        Type::Map => Mutation::Map(MapOp::Clear),
        Type::Doc => Mutation::Delete(Some(Type::Doc)),
    }
}

/// What is told of one effect, while it is gathered: first what takes out, then what puts in.
#[derive(Default)]
struct Told {
    /// Types of the key itself that are emptied.
    emptied: BTreeSet<Type>,
    out: Vec<Mutation>,
    removed: Elements,
    disabled: Vec<Mutation>,
    put: Vec<Mutation>,
    added: Elements,
    updates: Vec<Vec<Bytes>>,
}

/// What the txn of `effect` did to its key, as mutations in an order in which they can be asked for again. (Where one
/// txn leaves a `-` mark on a key beside cells of another type, that order is not known.)
///
/// Fails only on an effect that no [`validate`](crate::validate)d txn has.
///
/// ```
/// # use bytes::Bytes;
/// use meridian_crdt::{Add, KeyEffect, Mutation, RegisterOp, Value, describe};
///
/// let add = Add { path: Bytes::from_static(&[1]), payload: Value::Int(7).to_bytes().into() };
/// let effect = KeyEffect { space: "s".into(), key: "k".into(), removes: vec![], adds: vec![add] };
/// assert_eq!(describe(&effect), Ok(vec![Mutation::Register(RegisterOp::Set(Value::Int(7)))]));
/// ```
pub fn describe(effect: &KeyEffect) -> Result<Vec<Mutation>, DecodeError> {
    let mut told = Told::default();
    let replaced: BTreeSet<&[u8]> = effect.adds.iter().map(|add| add.path.as_ref()).collect();
    // A remove-wins flag is replaced whole by each mutation: that says nothing about the rest of the key.
    let whole = |removal: &&Removal| removal.path.len() == 1 && removal.path[0] != Type::DwFlag.code();
    let added: BTreeSet<Option<&u8>> = effect.adds.iter().map(|add| add.path.first()).collect();
    // Only a delete takes out several types at once, or makes room for another type: what it takes out is told also
    // where a later add takes the place of it.
    let is_delete = effect.removes.iter().filter(whole).count() > 1 || added.len() > 1;
    for removal in &effect.removes {
        let subsumed = !removal.prefix && replaced.contains(removal.path.as_ref());
        if !subsumed || (is_delete && whole(&removal)) {
            told.remove(removal)?;
        }
    }
    for add in &effect.adds {
        told.add(add)?;
    }
    Ok(told.finish())
}

impl Told {
    fn remove(&mut self, removal: &Removal) -> Result<(), DecodeError> {
        let At { mut place, ty, rest } = locate(&removal.path)?;
        let Some(ty) = ty else {
            let field = place.pop().ok_or(DecodeError::Malformed)?;
            self.out.push(nested(place, Mutation::Map(MapOp::Remove { field })));
            return Ok(());
        };
        match ty {
            Type::Set | Type::RwSet if !removal.prefix => {
                self.removed.entry((place, ty)).or_default().push(Value::from_bytes(&rest)?);
            }
            // The floor of a run that has ended: the add that begins the next one tells all.
            Type::Counter if !removal.prefix => {}
            _ if place.is_empty() => {
                self.emptied.insert(ty);
            }
            _ => self.out.push(nested(place, emptying(ty))),
        }
        Ok(())
    }

    fn add(&mut self, add: &Add) -> Result<(), DecodeError> {
        let At { place, ty, rest } = locate(&add.path)?;
        let payload = &add.payload;
        match ty.ok_or(DecodeError::Truncated)? {
            Type::Register => {
                let set = RegisterOp::Set(Value::from_bytes(payload)?);
                self.put.push(nested(place, Mutation::Register(set)));
            }
            Type::MvRegister => {
                let set = RegisterOp::Set(Value::from_bytes(payload)?);
                self.put.push(nested(place, Mutation::MvRegister(set)));
            }
            // A floor is longer than the cell that it stands under: it belongs to a removal that is told already.
            Type::Counter if rest.len() > size_of::<u32>() => {}
            Type::Counter => self.counter(&place, Tally::decode(payload)?),
            Type::Flag => self.put.push(nested(place, Mutation::Flag(FlagOp::Enable))),
            Type::DwFlag if payload == PLUS => {
                self.put.push(nested(place, Mutation::DwFlag(FlagOp::Enable)));
            }
            Type::DwFlag => self.disabled.push(nested(place, Mutation::DwFlag(FlagOp::Disable))),
            Type::Map => return Err(DecodeError::Malformed),
            Type::Doc => self.updates.extend(doc::told(&add.path, payload)?),
            ty => {
                let removes = ty.remove_wins() && payload != PLUS;
                let elements = if removes { &mut self.removed } else { &mut self.added };
                elements.entry((place, ty)).or_default().push(Value::from_bytes(&rest)?);
            }
        }
        Ok(())
    }

    /// An add of more than one mutation can name is told as several. Where the amount was not kept, the run's sum is
    /// all there is to tell; that is the amount if the run begins here.
    fn counter(&mut self, place: &Place, tally: Tally) {
        let mut left = tally.by.unwrap_or(i128::from(saturate(tally.sum)));
        loop {
            let by = saturate(left);
            let add = Mutation::Counter(CounterOp::Add(by));
            self.put.push(nested(place.clone(), add));
            left -= i128::from(by);
            if left == 0 {
                return;
            }
        }
    }

    fn finish(mut self) -> Vec<Mutation> {
        let mut all = Vec::new();
        let marks_flag = self.disabled.iter().any(|mutation| mutation.ty() == Some(Type::DwFlag));
        let marks_set = self.removed.keys().any(|(place, ty)| place.is_empty() && ty.remove_wins());
        let types = self.emptied.len() + usize::from(marks_flag) + usize::from(marks_set);
        if types > 1 && !self.emptied.is_empty() {
            all.push(Mutation::Delete(None));
        } else {
            all.extend(self.emptied.into_iter().map(emptying));
        }
        all.append(&mut self.out);
        all.extend(self.removed.into_iter().map(|((place, ty), mut elements)| {
            let one = if elements.len() == 1 { elements.pop() } else { None };
            nested(place, of_set(ty, one.map_or(SetOp::RemoveAll(elements), SetOp::Remove)))
        }));
        all.append(&mut self.disabled);
        all.append(&mut self.put);
        all.extend(self.added.into_iter().map(|((place, ty), mut elements)| {
            let one = if elements.len() == 1 { elements.pop() } else { None };
            nested(place, of_set(ty, one.map_or(SetOp::AddAll(elements), SetOp::Add)))
        }));
        // Cell by cell, so that who asks for it again comes to the same cells.
        all.extend(self.updates.into_iter().map(|mut updates| {
            let one = if updates.len() == 1 { updates.pop() } else { None };
            Mutation::Doc(one.map_or(DocOp::UpdateAll(updates), DocOp::Update))
        }));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Replica, key, text};

    fn told(replica: &mut Replica, mutations: &[Mutation]) -> Vec<Mutation> {
        let ops: Vec<_> = mutations.iter().map(|m| (key(), m.clone())).collect();
        let (txn, _) = replica.commit(1, &ops);
        txn.effects.iter().flat_map(|effect| describe(effect).expect("own effect")).collect()
    }

    fn field(name: &str, mutation: Mutation) -> Mutation {
        nested(vec![name.to_owned()], mutation)
    }

    fn add(by: i64) -> Mutation {
        Mutation::Counter(CounterOp::Add(by))
    }

    fn set(op: SetOp) -> Mutation {
        Mutation::Set(op)
    }

    const RESET: Mutation = Mutation::Counter(CounterOp::Reset);

    #[test]
    fn a_mutation_is_told_as_it_was_asked() {
        let one = || Value::Int(1);
        let cases = [
            vec![Mutation::Register(RegisterOp::Set(text("a"))), Mutation::Register(RegisterOp::Clear)],
            vec![Mutation::MvRegister(RegisterOp::Set(text("a"))), Mutation::MvRegister(RegisterOp::Clear)],
            vec![add(5), add(-7), RESET, add(0)],
            vec![Mutation::Flag(FlagOp::Enable), Mutation::Flag(FlagOp::Disable)],
            vec![Mutation::DwFlag(FlagOp::Enable), Mutation::DwFlag(FlagOp::Disable)],
            vec![set(SetOp::Add(one())), set(SetOp::Remove(one()))],
            vec![set(SetOp::AddAll(vec![one(), text("x")])), set(SetOp::RemoveAll(vec![one(), text("x")]))],
            vec![set(SetOp::Add(one())), set(SetOp::Clear)],
            vec![Mutation::RwSet(SetOp::Add(one())), Mutation::RwSet(SetOp::Remove(one()))],
            vec![
                field("f", field("g", add(2))),
                field("f", Mutation::Map(MapOp::Remove { field: "g".into() })),
                field("s", set(SetOp::AddAll(vec![one(), text("x")]))),
                field("s", set(SetOp::Clear)),
                field("r", Mutation::Register(RegisterOp::Set(text("v")))),
                field("r", Mutation::Register(RegisterOp::Clear)),
                field("r", Mutation::Register(RegisterOp::Set(text("v")))),
                Mutation::Map(MapOp::Remove { field: "r".into() }),
                field("c", add(1)),
                field("c", RESET),
                field("c", add(1)),
                Mutation::Map(MapOp::Clear),
            ],
        ];
        for case in cases {
            let mut a = Replica::new(1);
            for mutation in case {
                assert_eq!(told(&mut a, std::slice::from_ref(&mutation)), [mutation]);
            }
        }
    }

    #[test]
    fn a_txn_is_told_by_what_its_mutations_come_to() {
        let mut a = Replica::new(1);
        assert_eq!(told(&mut a, &[add(5), add(-2)]), [add(3)]);
        assert_eq!(told(&mut a, &[add(5), RESET, add(2), add(4)]), [RESET, add(6)]);
        assert_eq!(told(&mut a, &[add(i64::MIN), add(-6)]), [add(i64::MIN), add(-6)]);
        assert_eq!(told(&mut a, &[add(i64::MAX), add(i64::MAX)]), [add(i64::MAX), add(i64::MAX)]);
        let register = Mutation::Register(RegisterOp::Set(text("v")));
        assert_eq!(told(&mut a, &[Mutation::Delete(None), register.clone()]), [RESET, register]);
    }

    #[test]
    fn a_set_that_replaces_a_concurrent_one_is_told_as_a_set_alone() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let there = b.write(1, Mutation::Register(RegisterOp::Set(text("b"))));
        a.write(1, Mutation::Register(RegisterOp::Set(text("a"))));
        a.receive(&there);
        let again = Mutation::Register(RegisterOp::Set(text("c")));
        assert_eq!(told(&mut a, std::slice::from_ref(&again)), [again]);
    }

    #[test]
    fn a_removal_of_several_types_at_once_is_told_as_a_delete() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let there = b.write(1, add(4));
        a.write(1, Mutation::Register(RegisterOp::Set(text("a"))));
        a.receive(&there);
        let again = Mutation::Register(RegisterOp::Set(text("c")));
        assert_eq!(told(&mut a, &[Mutation::Delete(None), again.clone()]), [Mutation::Delete(None), again]);
    }

    #[test]
    fn floors_are_told_by_their_reset() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let there = b.write(1, add(4));
        a.receive(&there);
        assert_eq!(told(&mut a, &[add(1), RESET]), [RESET]);
        let reset = a.write(9, add(1));
        assert_eq!(describe(&reset.effects[0]).expect("own effect"), [add(1)]);
    }

    #[test]
    fn an_add_whose_amount_was_not_kept_is_told_by_its_sum() {
        let mut a = Replica::new(1);
        let mut txn = a.write(1, add(4));
        let add_ = &mut txn.effects[0].adds[0];
        add_.payload =
            Tally { by: None, ..Tally::decode(&add_.payload).expect("own payload") }.encode().into();
        assert_eq!(describe(&txn.effects[0]).expect("validated"), [add(4)]);
    }
}
