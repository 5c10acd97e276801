//! The replicated types: what each can be asked, and what each writes for it.
//!
//! A type turns a mutation into effects at its origin, once, from what that origin has applied. Applying effects and
//! reading cells know of types only what [`crate::path`] says of the last part of a path.

pub mod counter;
pub(crate) mod delete;
pub(crate) mod doc;
pub(crate) mod flag;
pub(crate) mod map;
pub(crate) mod register;
pub(crate) mod set;

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::value::Value;

/// A replicated type. The number is the first byte of every path and part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Type {
    /// One value; of concurrent ones the highest (hlc, origin) is read.
    Register = 1,
    /// One value; concurrent ones are all read.
    MvRegister = 2,
    /// A sum of signed numbers.
    Counter = 3,
    /// A boolean; enable wins.
    Flag = 4,
    /// A boolean; disable wins.
    DwFlag = 5,
    /// A set; add wins.
    Set = 6,
    /// A set; remove wins.
    RwSet = 7,
    /// Fields of any of these types; an update wins over the removal of its field.
    Map = 8,
    /// A document of collaborative editors (Yjs); a delete wins over concurrent updates. Never a field of a map.
    Doc = 9,
}

impl Type {
    /// Every type, in the order of their codes.
    pub const ALL: [Type; 9] = [
        Type::Register,
        Type::MvRegister,
        Type::Counter,
        Type::Flag,
        Type::DwFlag,
        Type::Set,
        Type::RwSet,
        Type::Map,
        Type::Doc,
    ];

    /// The number in paths.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The type with this number.
    pub fn from_code(code: u8) -> Option<Type> {
        Type::ALL.into_iter().find(|t| t.code() == code)
    }

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Type::Register => "register",
            Type::MvRegister => "mvregister",
            Type::Counter => "counter",
            Type::Flag => "flag",
            Type::DwFlag => "dwflag",
            Type::Set => "set",
            Type::RwSet => "rwset",
            Type::Map => "map",
            Type::Doc => "doc",
        }
    }

    /// The type with this name.
    pub fn from_name(name: &str) -> Option<Type> {
        Type::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Whether a key of this type keeps its cells in its header row.
    pub(crate) fn is_inline(self) -> bool {
        self.code() <= Type::DwFlag.code()
    }

    /// Whether a key of this type has a single cell.
    pub(crate) fn has_one_cell(self) -> bool {
        self.is_inline() && self != Type::Counter
    }

    /// Whether cells of this type hold `+` and `-` dots, and the removal wins.
    pub(crate) fn remove_wins(self) -> bool {
        matches!(self, Type::DwFlag | Type::RwSet)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a client asks of one key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Mutation {
    /// Of a register.
    Register(RegisterOp),
    /// Of a multi-value register.
    MvRegister(RegisterOp),
    /// Of a counter.
    Counter(CounterOp),
    /// Of an enable-wins flag.
    Flag(FlagOp),
    /// Of a disable-wins flag.
    DwFlag(FlagOp),
    /// Of an add-wins set.
    Set(SetOp),
    /// Of a remove-wins set.
    RwSet(SetOp),
    /// Of a map.
    Map(MapOp),
    /// Removes the key with all its types. With a type given, only if no other type is shown.
    Delete(Option<Type>),
    /// Of a document.
    Doc(DocOp),
}

impl Mutation {
    /// The type that the mutation is of; `None` for a delete of any type.
    pub fn ty(&self) -> Option<Type> {
        Some(match self {
            Mutation::Register(_) => Type::Register,
            Mutation::MvRegister(_) => Type::MvRegister,
            Mutation::Counter(_) => Type::Counter,
            Mutation::Flag(_) => Type::Flag,
            Mutation::DwFlag(_) => Type::DwFlag,
            Mutation::Set(_) => Type::Set,
            Mutation::RwSet(_) => Type::RwSet,
            Mutation::Map(_) => Type::Map,
            Mutation::Doc(_) => Type::Doc,
            Mutation::Delete(ty) => return *ty,
        })
    }
}

/// What a register can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RegisterOp {
    /// Replaces what is there.
    Set(Value),
    /// Takes out what is there.
    Clear,
}

/// What a counter can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CounterOp {
    /// Adds a number, which may be negative.
    Add(i64),
    /// Takes out what was added so far; the counter is then absent.
    Reset,
}

/// What a flag can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlagOp {
    /// Makes it true.
    Enable,
    /// Makes it false, which is absent.
    Disable,
}

/// What a set can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum SetOp {
    /// Adds one element.
    Add(Value),
    /// Removes one element.
    Remove(Value),
    /// Adds elements.
    AddAll(Vec<Value>),
    /// Removes elements.
    RemoveAll(Vec<Value>),
    /// Removes every element that is there.
    Clear,
}

/// What a map can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum MapOp {
    /// Mutates one field. A [`Mutation::Delete`] in here removes the field.
    Update {
        /// The name of the field.
        field: String,
        /// What to do with it.
        mutation: Box<Mutation>,
    },
    /// Removes one field with everything below it.
    Remove {
        /// The name of the field.
        field: String,
    },
    /// Removes every field that is there.
    Clear,
}

/// What a document can be asked. An update is kept byte for byte as it came; whether it decodes is
/// [checked](crate::document::check_update) where it is taken in, since state must not depend on a decoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DocOp {
    /// Takes in one update of Yjs, in its encoding v1.
    Update(Bytes),
    /// Takes in updates in order, each into a cell of its own. Only entries of logs that were written earlier ask for it: what
    /// these say must come to the same cells for ever.
    #[serde(rename = "UpdateAll")]
    UpdateEach(Vec<Bytes>),
    /// Takes in updates in order, into as few cells as hold them.
    #[serde(rename = "UpdateTogether")]
    UpdateAll(Vec<Bytes>),
}

impl DocOp {
    /// The updates, in order.
    pub fn updates(&self) -> &[Bytes] {
        match self {
            DocOp::Update(update) => std::slice::from_ref(update),
            DocOp::UpdateEach(updates) | DocOp::UpdateAll(updates) => updates,
        }
    }

    /// The updates, in order, to be changed.
    pub fn updates_mut(&mut self) -> &mut [Bytes] {
        match self {
            DocOp::Update(update) => std::slice::from_mut(update),
            DocOp::UpdateEach(updates) | DocOp::UpdateAll(updates) => updates,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_lead_back_to_their_type() {
        for (i, ty) in Type::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(ty.code()), i + 1);
            assert_eq!(Type::from_code(ty.code()), Some(ty));
            assert_eq!(Type::from_name(ty.name()), Some(ty));
        }
        assert_eq!(Type::from_code(0), None);
        assert_eq!(Type::from_code(10), None);
        assert_eq!(Type::from_name("Register"), None);
    }
}
