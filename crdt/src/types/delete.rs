//! Delete: every type that the key has is removed by that type's own rule, also where concurrent creations left
//! several of them.

use crate::cells::ReadCells;
use crate::path;
use crate::plan::{PlanError, Planner};
use crate::types::{FlagOp, RegisterOp, SetOp, Type, counter, flag, register, set};
use crate::value::Value;

pub(crate) fn plan<C: ReadCells>(p: &mut Planner<'_, C>) -> Result<Option<Value>, PlanError<C::Error>> {
    let dwflag_is_live = p.view.header.visible.contains_key(&Type::DwFlag);
    for ty in Type::ALL {
        match ty {
            Type::Register | Type::MvRegister => {
                register::plan(p, &[], ty, &RegisterOp::Clear)?;
            }
            Type::Flag => {
                flag::plan(p, &[], ty, FlagOp::Disable)?;
            }
            // A disable leaves a mark; a flag that is off needs none.
            Type::DwFlag if dwflag_is_live => {
                flag::plan(p, &[], ty, FlagOp::Disable)?;
            }
            Type::DwFlag => {}
            Type::Set | Type::RwSet => {
                set::plan(p, &[], ty, &SetOp::Clear)?;
            }
            Type::Counter | Type::Map | Type::Doc => counter::remove_below(p, &path::of_type(&[], ty))?,
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use crate::testkit::{Replica, text};
    use crate::{CounterOp, Mutation, Refusal, RegisterOp, SetOp, Type};

    #[test]
    fn delete_removes_every_type_that_concurrent_creations_left() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let one = a.write(1, Mutation::RwSet(SetOp::Add(text("x"))));
        let other = b.write(2, Mutation::Register(RegisterOp::Set(text("v"))));
        a.receive(&other);
        b.receive(&one);
        assert_eq!(a.value(), Some(text("v")));
        let wrong = Refusal::WrongType { live: Type::Register, asked: Type::RwSet };
        assert_eq!(a.refusal(Mutation::Delete(Some(Type::RwSet))), wrong);
        let gone = a.write(3, Mutation::Delete(Some(Type::Register)));
        b.receive(&gone);
        assert_eq!((a.value(), b.value(), a.digest(), b.digest()), (None, None, 0, 0));
        assert!(a.execute(&[(crate::testkit::key(), Mutation::Counter(CounterOp::Add(1)))]).is_ok());
    }

    #[test]
    fn deleting_what_is_not_there_is_nothing_to_commit() {
        let mut a = Replica::new(1);
        assert!(a.write(1, Mutation::Delete(None)).effects.is_empty());
        assert!(a.write(1, Mutation::Delete(Some(Type::Map))).effects.is_empty());
    }
}
