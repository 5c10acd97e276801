//! Preconditions: what a request demands of a key before anything of it is done.

use serde::{Deserialize, Serialize};

use crate::cells::ReadCells;
use crate::error::StoreError;
use crate::header::Version;
use crate::id::Dot;
use crate::keys::Key;
use crate::read::{Query, ReadValue, is_present, read};
use crate::types::{Type, doc};
use crate::value::Value;
use crate::view::KeyView;

/// What a key must be like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Condition {
    /// It reads as nothing.
    Absent,
    /// It reads as something.
    Exists,
    /// Nothing about it has changed since this version was read; `Version(0)` is an absent key.
    Version(Version),
    /// It reads as this, in the form of [`ReadValue::to_value`]. Never holds of a document: compare its version.
    Value(Value),
    /// A set has this element, a map this field, a multi-value register this value.
    Contains(Value),
    /// A document has all of these incarnations: what was made in them still counts, whatever else was deleted and made again.
    Incarnations(Vec<Dot>),
}

/// Whether a key meets a condition. Costs no more than the condition itself is large.
pub fn check<C: ReadCells>(
    cells: &C,
    key: &Key,
    condition: &Condition,
) -> Result<bool, StoreError<C::Error>> {
    let view = KeyView::open(cells, key)?;
    let Some(ty) = view.header.shown() else {
        return Ok(matches!(condition, Condition::Absent | Condition::Version(Version(0))));
    };
    match condition {
        Condition::Absent => Ok(false),
        Condition::Exists => Ok(true),
        Condition::Version(version) => Ok(view.header.digest == version.0),
        // What a document reads as is a matter of its decoder, of which state must not depend.
        Condition::Value(_) if ty == Type::Doc => Ok(false),
        Condition::Value(value) => reads_as(cells, key, value),
        Condition::Contains(value) if ty == Type::MvRegister => {
            let content = read(cells, key, &Query::default())?.content;
            let has = |values: &[Value]| values.iter().any(|v| same(v, value));
            Ok(content.is_some_and(|c| matches!(&c.value, ReadValue::MvRegister(values) if has(values))))
        }
        Condition::Contains(value) => is_present(&view, ty, value),
        Condition::Incarnations(dots) => doc::have(&view, dots),
    }
}

fn reads_as<C: ReadCells>(cells: &C, key: &Key, value: &Value) -> Result<bool, StoreError<C::Error>> {
    let limit = count(value).saturating_add(1);
    let query = Query { limit, bytes_max: usize::MAX, ..Query::default() };
    let content = read(cells, key, &query)?.content;
    Ok(content.is_some_and(|c| c.cursor.is_none() && same(&c.value.to_value(), value)))
}

/// How many values a value is made of: a key that reads as it has no more than these.
fn count(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(count).sum::<usize>() + 1,
        Value::Map(fields) => fields.values().map(count).sum::<usize>() + 1,
        _ => 1,
    }
}

/// Equality as it is kept: zero is zero whatever its sign.
fn same(a: &Value, b: &Value) -> bool {
    a == b || a.to_bytes() == b.to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Replica, key, text};
    use crate::{DocOp, MapOp, Mutation, SetOp, Txn};

    #[test]
    fn a_value_is_compared_whole_however_much_another_type_hides_behind_it() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let update =
            |mutation| Mutation::Map(MapOp::Update { field: "f".into(), mutation: Box::new(mutation) });
        a.write(1, update(Mutation::Set(SetOp::Add(text("x")))));
        let hidden = b.write(1, update(Mutation::RwSet(SetOp::AddAll((0..50).map(Value::Int).collect()))));
        a.receive(&hidden);
        let value = a.value().expect("is there");
        assert!(check(&a.cells, &key(), &Condition::Value(value)).expect("memory"));
    }

    #[test]
    fn conditions_hold_for_what_is_read() {
        let mut a = Replica::new(1);
        let holds = |a: &Replica, condition| check(&a.cells, &key(), &condition).expect("memory");
        assert!(holds(&a, Condition::Absent) && holds(&a, Condition::Version(Version(0))));
        assert!(!holds(&a, Condition::Exists) && !holds(&a, Condition::Contains(text("x"))));
        a.write(1, Mutation::Set(SetOp::AddAll(vec![text("x"), text("y")])));
        let content = read(&a.cells, &key(), &Query::default()).expect("memory").content.expect("is there");
        assert!(holds(&a, Condition::Exists) && holds(&a, Condition::Version(content.version)));
        assert!(!holds(&a, Condition::Absent) && !holds(&a, Condition::Version(Version(0))));
        assert!(holds(&a, Condition::Contains(text("x"))) && !holds(&a, Condition::Contains(text("z"))));
        let array = |names: &[&str]| Condition::Value(Value::Array(names.iter().map(|n| text(n)).collect()));
        assert!(holds(&a, array(&["x", "y"])));
        assert!(!holds(&a, array(&["x"])) && !holds(&a, array(&["x", "y", "z"])));
        a.write(2, Mutation::Set(SetOp::Remove(text("y"))));
        assert!(!holds(&a, Condition::Version(content.version)));
    }

    #[test]
    fn a_document_that_was_made_again_has_other_incarnations() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let update = || Mutation::Doc(DocOp::Update([1, 1, 1, 0, 4, 1, 1, b't', 1, b'a', 0].to_vec().into()));
        let has = |replica: &Replica, made: &[&Txn]| {
            let dots = made.iter().map(|txn| txn.head.dot).collect();
            check(&replica.cells, &key(), &Condition::Incarnations(dots)).expect("memory")
        };
        let (one, other) = (a.write(1, update()), b.write(1, update()));
        assert!(has(&a, &[&one]) && !has(&a, &[&one, &other]));
        a.receive(&other);
        assert!(has(&a, &[&one, &other]) && has(&a, &[&other]));
        let gone = b.write(2, Mutation::Delete(None));
        a.receive(&gone);
        assert!(has(&a, &[&one]) && !has(&a, &[&one, &other]), "the other one alone was deleted");
        a.write(3, Mutation::Delete(None));
        assert!(!has(&a, &[&one]));
        let again = a.write(4, update());
        assert!(has(&a, &[&again]) && !has(&a, &[&one]) && has(&a, &[]));
    }
}
