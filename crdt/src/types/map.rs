//! The map: no cells of its own, only the fields' paths. A field is there while anything below it reads as a value.
//! Removing a field is one removal by prefix, which drops what it observed below, `-` marks included; what a concurrent
//! update of the field wrote survives it and is all that is left.

use crate::cells::ReadCells;
use crate::path::{self, PATH_DEPTH_MAX};
use crate::plan::{PlanError, Planner, Refusal, at_most};
use crate::types::{MapOp, Type, counter};
use crate::value::Value;

pub(crate) fn plan<C: ReadCells>(
    p: &mut Planner<'_, C>,
    at: &[u8],
    depth: usize,
    op: &MapOp,
) -> Result<Option<Value>, PlanError<C::Error>> {
    match op {
        MapOp::Update { field, mutation } => {
            let limit = p.limits.depth_max.min(PATH_DEPTH_MAX);
            if depth >= limit {
                return Err(Refusal::TooDeep { limit }.into());
            }
            check_field(p, field)?;
            p.mutation(&path::of_field(at, field), depth + 1, mutation)
        }
        MapOp::Remove { field } => {
            check_field(p, field)?;
            counter::remove_below(p, &path::of_field(at, field)).map(|()| None)
        }
        MapOp::Clear => counter::remove_below(p, &path::of_type(at, Type::Map)).map(|()| None),
    }
}

fn check_field<C>(p: &Planner<'_, C>, field: &str) -> Result<(), Refusal> {
    at_most("the name of a field", field.len(), p.limits.field_bytes_max)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use crate::testkit::{Replica, key, text};
    use crate::{
        CounterOp, MapOp, Mutation, Query, ReadValue, Refusal, RegisterOp, SetOp, Table, Type, Value, read,
    };

    fn update(field: &str, mutation: Mutation) -> Mutation {
        Mutation::Map(MapOp::Update { field: field.into(), mutation: Box::new(mutation) })
    }

    fn remove(field: &str) -> Mutation {
        Mutation::Map(MapOp::Remove { field: field.into() })
    }

    fn add(by: i64) -> Mutation {
        Mutation::Counter(CounterOp::Add(by))
    }

    fn size(a: &Replica) -> Option<u64> {
        read(&a.cells, &key(), &Query::default()).expect("memory").content.and_then(|c| c.size)
    }

    #[test]
    fn fields_nest_and_are_counted_while_something_below_them_is_there() {
        let mut a = Replica::new(1);
        a.write(1, update("n", update("inner", add(2))));
        a.write(2, update("s", Mutation::Set(SetOp::AddAll(vec![text("x"), text("y")]))));
        assert_eq!(size(&a), Some(2));
        let content = read(&a.cells, &key(), &Query::default()).expect("memory").content.expect("is there");
        let inner = [("inner".to_owned(), (Type::Counter, ReadValue::Counter(2)))];
        let s = ReadValue::Set(vec![text("x"), text("y")]);
        let fields =
            [("n".to_owned(), (Type::Map, ReadValue::Map(inner.into()))), ("s".to_owned(), (Type::Set, s))];
        assert_eq!(content.value, ReadValue::Map(BTreeMap::from(fields)));
        a.write(3, update("s", Mutation::Set(SetOp::Remove(text("x")))));
        assert_eq!(size(&a), Some(2));
        a.write(4, update("s", Mutation::Set(SetOp::Clear)));
        assert_eq!(size(&a), Some(1));
        a.write(5, remove("n"));
        assert_eq!((size(&a), a.digest()), (None, 0));
    }

    #[test]
    fn a_field_has_one_type_at_a_time() {
        let mut a = Replica::new(1);
        a.write(1, update("f", add(2)));
        let set = update("f", Mutation::Register(RegisterOp::Set(Value::Nil)));
        assert_eq!(a.refusal(set.clone()), Refusal::WrongType { live: Type::Counter, asked: Type::Register });
        let delete = |ty| update("f", Mutation::Delete(ty));
        let wrong = Refusal::WrongType { live: Type::Counter, asked: Type::Set };
        assert_eq!(a.refusal(delete(Some(Type::Set))), wrong);
        a.write(2, delete(Some(Type::Counter)));
        a.write(3, set);
        assert_eq!(size(&a), Some(1));
    }

    #[test]
    fn nesting_beyond_the_limit_is_refused() {
        let a = Replica::new(1);
        let deep = (0..17).fold(add(1), |inner, _| update("f", inner));
        assert_eq!(a.refusal(deep), Refusal::TooDeep { limit: 16 });
        let deepest = (0..16).fold(add(1), |inner, _| update("f", inner));
        assert!(a.execute(&[(key(), deepest)]).is_ok());
    }

    #[test]
    fn removing_a_field_puts_floors_under_the_counters_of_others_below_it() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let first = a.write(1, update("f", update("g", add(5))));
        b.receive(&first);
        let removed = b.write(2, remove("f"));
        let late = a.write(3, update("f", update("g", add(2))));
        a.receive(&removed);
        b.receive(&late);
        assert_eq!((a.value(), a.digest()), (b.value(), b.digest()));
        let content = read(&a.cells, &key(), &Query::default()).expect("memory").content.expect("is there");
        let ReadValue::Map(fields) = content.value else { panic!("is a map") };
        let inner = [("g".to_owned(), (Type::Counter, ReadValue::Counter(2)))];
        assert_eq!(fields["f"], (Type::Map, ReadValue::Map(inner.into())));
    }

    #[test]
    fn fields_that_come_and_go_leave_nothing_once_stable() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        for n in 0..20 {
            let here = a.write(n, update("f", add(1)));
            b.receive(&here);
            let there = b.write(n, update("h", Mutation::RwSet(SetOp::Remove(text("x")))));
            a.receive(&there);
            let gone = b.write(n, remove("f"));
            a.receive(&gone);
        }
        let cleared = a.write(30, Mutation::Map(MapOp::Clear));
        b.receive(&cleared);
        for replica in [&mut a, &mut b] {
            replica.settle();
            assert_eq!(replica.rows(Table::CELL) + replica.rows(Table::HEADER), 0);
            assert_eq!(replica.rows(Table::SWEEP) + replica.rows(Table::BUCKET), 0);
        }
    }
}
