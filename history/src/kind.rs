//! Kinds of keys: how what a node shows becomes an action of a history.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{Action, History};

/// The root type of a document under which its elements are.
pub const ELEMENTS: &str = "a";

/// How a key reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A register that holds a number.
    Register,
    /// A set of numbers, or a document whose array [`ELEMENTS`] has each of them once.
    Set,
    /// A counter.
    Counter,
    /// A register that holds an array of numbers.
    List,
}

/// Each key's kind, by what was done to it; keys that were only deleted have none.
pub fn kinds(history: &History) -> BTreeMap<String, Kind> {
    let mut kinds = BTreeMap::new();
    for action in history.ops.iter().flat_map(|op| &op.actions) {
        let kind = match action {
            Action::Set { .. } | Action::Get { .. } => Kind::Register,
            Action::Append { .. } | Action::List { .. } => Kind::List,
            Action::Insert { .. } | Action::Members { .. } => Kind::Set,
            Action::Add { .. } | Action::Sum { .. } => Kind::Counter,
            Action::Delete { .. } => continue,
        };
        kinds.insert(action.key().to_string(), kind);
    }
    kinds
}

/// What a key shows, as an action; `None` for an absent key.
///
/// # Panics
/// When it shows what its kind cannot.
pub fn seen(key: &str, kind: Kind, value: Option<&Value>) -> Action {
    let key = key.to_string();
    let number = |value: &Value| value.as_i64().unwrap_or_else(|| panic!("{key} shows {value}, no number"));
    let numbers = || -> Vec<i64> {
        let array = |value: &Value| -> Vec<i64> {
            let value = value.get(ELEMENTS).unwrap_or(value);
            let array = value.as_array().unwrap_or_else(|| panic!("{key} shows {value}, no array"));
            array.iter().map(number).collect()
        };
        value.map(array).unwrap_or_default()
    };
    match kind {
        Kind::Register => Action::Get { value: value.map(number), key },
        Kind::Counter => Action::Sum { value: value.map_or(0, number), key },
        Kind::Set => {
            let shown = numbers();
            let elements: BTreeSet<i64> = shown.iter().copied().collect();
            assert_eq!(elements.len(), shown.len(), "{key} shows an element twice: {shown:?}");
            Action::Members { elements, key }
        }
        Kind::List => Action::List { values: numbers(), key },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_shows_its_elements_as_a_set_does() {
        let of = |value: Value| seen("k", Kind::Set, Some(&value));
        assert_eq!(of(json!({"a": [2, 1]})), of(json!([1, 2])));
    }

    #[test]
    #[should_panic(expected = "twice")]
    fn an_element_that_is_there_twice_is_no_element_of_a_set() {
        seen("k", Kind::Set, Some(&json!({"a": [1, 1]})));
    }
}
