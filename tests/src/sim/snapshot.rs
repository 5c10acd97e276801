//! What an open transaction must be shown: one snapshot of what others have written, and its own writes above it.
//!
//! The model keeps what the snapshot shows of each key once it is known, and takes the transaction's own writes off
//! whatever is read later. What is left must be the same every time, and the ledger checks all of it as one snapshot.

use std::collections::BTreeMap;

use meridian_crdt::{Content, ReadValue, Value};

use super::facts::{Group, KeyId};
use super::record::read_action;
use crate::history::Action;

/// What one transaction has seen and written.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The fact that it becomes if it commits.
    pub fact: Option<usize>,
    /// What it adds to a counter.
    pub by: i64,
    /// The keys that it has written.
    pub written: Vec<KeyId>,
    /// What the snapshot shows, without own writes.
    pub base: BTreeMap<KeyId, Option<Content>>,
    /// Keys by prefix, as it has listed them without own writes.
    pub listed: BTreeMap<&'static str, Vec<String>>,
    /// Reads and writes in their order, own writes included.
    pub actions: Vec<Action>,
}

impl Snapshot {
    /// A key is read: it must show own writes, and otherwise what it showed before.
    pub fn take(&mut self, id: KeyId, content: Option<Content>, who: &str) {
        self.actions.extend(read_action(id, content.as_ref()));
        let content = if self.written.contains(&id) {
            match self.without_own(id, content, who) {
                Some(content) => content,
                None => return,
            }
        } else {
            content
        };
        let known = self.base.entry(id).or_insert_with(|| content.clone());
        let (known, shown) = (read_action(id, known.as_ref()), read_action(id, content.as_ref()));
        assert_eq!(known, shown, "{who}: {id:?} changes under the transaction");
    }

    /// What is left of a key without the own write; nothing if that hides the rest.
    fn without_own(&self, id: KeyId, content: Option<Content>, who: &str) -> Option<Option<Content>> {
        let own = self.fact.map_or(Value::Nil, |fact| Value::Int(fact as i64));
        let missing = || -> ! { panic!("{who}: the own write {own:?} is missing from {id:?}") };
        let Some(mut content) = content else { missing() };
        let left = match (&mut content.value, id.0) {
            (ReadValue::Set(values), Group::Log) => {
                let place = values.iter().position(|value| *value == own).unwrap_or_else(|| missing());
                values.remove(place);
                !values.is_empty()
            }
            (ReadValue::Counter(sum), Group::Count) => {
                *sum -= self.by;
                true
            }
            (ReadValue::Register(Value::Array(values)), Group::List) => {
                if values.pop() != Some(own.clone()) {
                    missing();
                }
                !values.is_empty()
            }
            (ReadValue::Register(value), _) if *value == own => return None,
            _ => missing(),
        };
        Some(left.then_some(content))
    }

    /// Keys are listed: all that it has written, and otherwise those that it listed before.
    pub fn list(
        &mut self,
        prefix: &'static str,
        mut keys: Vec<String>,
        named: &[(KeyId, String)],
        who: &str,
    ) {
        for (id, name) in named {
            if self.written.contains(id) && name.starts_with(prefix) {
                assert!(keys.contains(name), "{who}: the listing lacks {name}, which the transaction wrote");
                // Whether others had written it too is only known if it was read.
                if self.base.get(id).is_none_or(|content| content.is_none()) {
                    keys.retain(|key| key != name);
                }
            }
        }
        let own: Vec<&String> =
            self.written.iter().filter_map(|id| named.iter().find(|n| n.0 == *id)).map(|n| &n.1).collect();
        let known = self.listed.entry(prefix).or_insert_with(|| keys.clone());
        let others =
            |keys: &[String]| keys.iter().filter(|key| !own.contains(key)).cloned().collect::<Vec<_>>();
        assert_eq!(others(known), others(&keys), "{who}: the keys of {prefix} change under the transaction");
    }

    /// The list that it would append to, if it has read it.
    pub fn list_of(&self, id: KeyId) -> Option<Vec<Value>> {
        match self.base.get(&id)?.as_ref().map(|content| &content.value) {
            None => Some(Vec::new()),
            Some(ReadValue::Register(Value::Array(values))) => Some(values.clone()),
            Some(other) => panic!("{id:?} holds {other:?}"),
        }
    }

    /// All that it has seen of others, in the words of the history.
    pub fn reads(&self) -> Vec<Action> {
        self.base.iter().filter_map(|(id, content)| read_action(*id, content.as_ref())).collect()
    }

    /// All that it has written.
    pub fn writes(&self) -> Vec<Action> {
        self.actions.iter().filter(|action| action.is_write()).cloned().collect()
    }
}
