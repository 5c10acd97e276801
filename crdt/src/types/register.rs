//! Registers: one cell whose payload is the value. A set replaces what it observed, whatever its date; values set
//! concurrently stand side by side in the cell, and reading picks one (`register`) or shows all (`mvregister`).

use crate::cells::ReadCells;
use crate::path;
use crate::plan::{PlanError, Planner};
use crate::types::{RegisterOp, Type};
use crate::value::Value;

pub(crate) fn plan<C: ReadCells>(
    p: &mut Planner<'_, C>,
    at: &[u8],
    ty: Type,
    op: &RegisterOp,
) -> Result<Option<Value>, PlanError<C::Error>> {
    let path = path::of_type(at, ty);
    match op {
        RegisterOp::Set(value) => {
            let payload = p.check_value(value)?;
            p.replace(path, ty, payload)?;
        }
        RegisterOp::Clear => p.take(path)?,
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use crate::testkit::{Replica, text};
    use crate::{Mutation, Refusal, RegisterOp, SetOp, Table, Type, Value};

    fn set(s: &str) -> Mutation {
        Mutation::Register(RegisterOp::Set(text(s)))
    }

    #[test]
    fn a_later_set_replaces_what_it_observed_whatever_its_date() {
        let mut a = Replica::new(1);
        a.write(900, set("from the future"));
        a.write(5, set("later"));
        assert_eq!(a.value(), Some(text("later")));
    }

    #[test]
    fn the_loser_stays_in_the_cell_until_a_set_that_observed_it() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let (one, other) = (a.write(1, set("a")), b.write(2, set("b")));
        a.receive(&other);
        b.receive(&one);
        let header =
            |r: &Replica| r.cells.rows.iter().find(|(t, ..)| *t == Table::HEADER).map(|(.., v)| v.len());
        let crowded = header(&a);
        let third = a.write(3, set("c"));
        b.receive(&third);
        assert!(header(&a) < crowded);
        assert_eq!((a.value(), a.digest()), (b.value(), b.digest()));
    }

    #[test]
    fn a_set_over_ones_own_value_ships_no_removal() {
        let mut a = Replica::new(1);
        a.write(1, set("a"));
        assert!(a.write(2, set("b")).effects[0].removes.is_empty());
    }

    #[test]
    fn clearing_what_is_not_there_is_nothing_to_commit() {
        let mut a = Replica::new(1);
        assert!(a.write(1, Mutation::Register(RegisterOp::Clear)).effects.is_empty());
        assert_eq!(a.rows(Table::HEADER), 0);
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let mut a = Replica::new(1);
        let bad = Mutation::Register(RegisterOp::Set(Value::Float(f64::NAN)));
        assert_eq!(a.refusal(bad), Refusal::BadValue);
        let large = Mutation::Register(RegisterOp::Set(Value::Bytes(vec![1; 2 << 20])));
        assert!(matches!(a.refusal(large), Refusal::TooLarge { .. }));
        a.write(1, set("a"));
        let wrong = Refusal::WrongType { live: Type::Register, asked: Type::Set };
        assert_eq!(a.refusal(Mutation::Set(SetOp::Clear)), wrong);
    }
}
