//! Holds what the implementation shows against what the specification says.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::fmt::Write as _;

use meridian_crdt::{
    Condition, Content, DocContent, ExecuteError, Executed, ExplainedDot, Key, Query, ReadValue, Reading,
    Snapshot, Table, Type, Value, Version, bucket_digests, check, digest, explain, list, read, sweep_pending,
};

use super::draw::Subject;
use super::history::{self, Event, History};
use super::replica::Replica;
use super::spec_slot::{self, Refusal};

/// What a key must show to `replica`.
pub fn expected(replica: &Replica, history: &History, key: &Key) -> Option<(Type, ReadValue)> {
    spec_slot::slot(&history.view(key, &replica.vector))
}

fn reading(replica: &Replica, key: &Key, query: &Query) -> Reading {
    read(&replica.cells, key, query).expect("memory does not fail")
}

/// The whole content of a key; of a document that which does not depend on what of it was compacted.
pub fn content(replica: &Replica, key: &Key) -> Option<Content> {
    let content = reading(replica, key, &Query::default()).content?;
    Some(Content { value: told(content.value), ..content })
}

/// A document as the set of its updates: a snapshot of the tests holds updates as they came, and may hold those of several
/// sets of incarnations.
fn told(value: ReadValue) -> ReadValue {
    let ReadValue::Doc(DocContent { snapshots, updates }) = value else { return value };
    let apart = snapshots.iter().flat_map(|bytes| Snapshot::decode(bytes).expect("a snapshot").apart);
    let updates: BTreeSet<_> = updates.into_iter().chain(apart).collect();
    ReadValue::Doc(DocContent { updates: updates.into_iter().collect(), ..DocContent::default() })
}

/// Everything that can be seen of one key.
pub fn compare_key(who: &str, replica: &Replica, history: &History, key: &Key) {
    let expected = expected(replica, history, key);
    let content = content(replica, key);
    let shown = content.as_ref().map(|content| (content.ty, content.value.clone()));
    let exactly = expected.clone().map(|(_, value)| value);
    let expected = expected.map(|(ty, value)| (ty, told(value)));
    if shown != expected {
        let story = story(replica, history, key);
        panic!("{who}: {key} reads\n  {shown:?}, must read\n  {expected:?}, after\n{story}");
    }
    let who = format!("{who}, {key}");
    if let Some(content) = &content {
        assert_eq!(content.size, size(&content.value), "{who}: size");
        pages(&who, replica, key, content);
        elements(&who, replica, key, content);
    }
    conditions(&who, replica, key, content.as_ref());
    explained(&who, replica, key, content.as_ref(), exactly.as_ref());
    touched(&who, replica, history, key);
}

/// What happened to a key, for whoever has to find out why it reads wrongly.
pub fn story(replica: &Replica, history: &History, key: &Key) -> String {
    let mut story = String::new();
    for event in history.events().filter(|event| replica.vector.covers(event.dot)) {
        let ops: Vec<_> = event.ops.iter().filter(|op| op.key == *key).map(|op| &op.mutation).collect();
        if !ops.is_empty() {
            writeln!(story, "  {} hlc {} deps {:?}: {ops:?}", event.dot, event.hlc, event.deps)
                .expect("a string takes all");
        }
    }
    story
}

fn size(value: &ReadValue) -> Option<u64> {
    match value {
        ReadValue::Set(elements) => Some(elements.len() as u64),
        ReadValue::Map(fields) => Some(fields.len() as u64),
        _ => None,
    }
}

/// Page after page adds up to the whole.
fn pages(who: &str, replica: &Replica, key: &Key, whole: &Content) {
    for limit in 1..=2 {
        let mut sum: Option<ReadValue> = None;
        let mut cursor = None;
        loop {
            let page = reading(replica, key, &Query { limit, cursor, ..Query::default() });
            let page = page.content.expect("it is there");
            assert_eq!((page.ty, page.version, page.size), (whole.ty, whole.version, whole.size), "{who}");
            let value = told(page.value);
            match &mut sum {
                Some(sum) => add_page(sum, value),
                None => sum = Some(value),
            }
            cursor = page.cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(sum.as_ref(), Some(&whole.value), "{who}: the pages of {limit}");
    }
}

fn add_page(sum: &mut ReadValue, page: ReadValue) {
    match (sum, page) {
        (ReadValue::Set(sum), ReadValue::Set(page)) => sum.extend(page),
        (ReadValue::Map(sum), ReadValue::Map(page)) => {
            for (name, (ty, value)) in page {
                match sum.get_mut(&name) {
                    Some((_, sum)) => add_page(sum, value),
                    None => drop(sum.insert(name, (ty, value))),
                }
            }
        }
        (sum, page) => panic!("{page:?} continues {sum:?}"),
    }
}

fn members(value: &ReadValue) -> Vec<Value> {
    match value {
        ReadValue::Set(elements) => elements.clone(),
        ReadValue::Map(fields) => fields.keys().map(|name| Value::Str(name.clone())).collect(),
        _ => Vec::new(),
    }
}

/// Asking for one element answers what the whole says.
fn elements(who: &str, replica: &Replica, key: &Key, content: &Content) {
    let present = |element: &Value| {
        let query = Query { element: Some(element.clone()), ..Query::default() };
        let answer = reading(replica, key, &query).content.expect("it is there");
        let contains = Condition::Contains(element.clone());
        let condition = check(&replica.cells, key, &contains).expect("memory does not fail");
        assert_eq!(answer.present, Some(condition), "{who}: {element:?}");
        condition
    };
    if matches!(content.value, ReadValue::Set(_) | ReadValue::Map(_)) {
        let members = members(&content.value);
        assert!(members.iter().all(present), "{who}: each element is present");
        for other in [Value::Int(1), Value::Int(2), Value::Str("a".into()), Value::Str("f".into())] {
            assert_eq!(present(&other), members.contains(&other), "{who}: {other:?}");
        }
    }
}

fn conditions(who: &str, replica: &Replica, key: &Key, content: Option<&Content>) {
    let holds = |condition: Condition| check(&replica.cells, key, &condition).expect("memory does not fail");
    assert_eq!(holds(Condition::Exists), content.is_some(), "{who}");
    assert_eq!(holds(Condition::Absent), content.is_none(), "{who}");
    let version = content.map_or(Version(0), |content| content.version);
    assert!(holds(Condition::Version(version)), "{who}");
    assert!(!holds(Condition::Version(Version(version.0 ^ 1))), "{who}");
    // Of a document no condition on its value holds.
    if let Some(content) = content.filter(|content| content.ty != Type::Doc) {
        assert!(holds(Condition::Value(content.value.to_value())), "{who}: reads as {:?}", content.value);
    }
    assert!(!holds(Condition::Value(Value::Str("no key reads as this".into()))), "{who}");
}

/// What `explain` calls visible is what is read; and it names no dot that the replica has not applied.
fn explained(
    who: &str,
    replica: &Replica,
    key: &Key,
    content: Option<&Content>,
    exactly: Option<&ReadValue>,
) {
    let explained = explain(&replica.cells, key, 10_000).expect("memory does not fail");
    let cells = explained.as_ref().map_or(&[][..], |explained| &explained.cells);
    assert_eq!(explained.as_ref().and_then(|e| e.ty), content.map(|content| content.ty), "{who}");
    let touched = reading(replica, key, &Query::default()).touched;
    for held in cells.iter().flat_map(|cell| &cell.dots) {
        assert!(replica.vector.covers(held.dot), "{who}: {} is explained and was not applied", held.dot);
        let known = touched.covers(held.dot) || replica.stable.covers(held.dot);
        assert!(known, "{who}: {} is held, and is not in {touched:?}", held.dot);
    }
    let visible = |dots: &[ExplainedDot]| dots.iter().filter(|dot| dot.visible).cloned().collect::<Vec<_>>();
    let shown: Vec<_> = cells.iter().map(|cell| (cell, visible(&cell.dots))).collect();
    let shown: Vec<_> = shown.into_iter().filter(|(_, dots)| !dots.is_empty()).collect();
    let values = || shown.iter().flat_map(|(_, dots)| dots.iter().map(|dot| dot.value.clone()));
    let heads = || shown.iter().filter_map(|(cell, _)| cell.path.first().cloned());
    match exactly {
        None => assert!(shown.is_empty(), "{who}: {shown:?}"),
        Some(ReadValue::Register(value)) => {
            assert!(values().eq([value.clone()]), "{who}: {value:?}")
        }
        Some(ReadValue::MvRegister(read)) => {
            assert_eq!(history::sorted(values().map(|value| value.to_bytes())), *read, "{who}");
        }
        Some(ReadValue::Counter(read)) => {
            let part = |value| if let Value::Int(part) = value { i128::from(part) } else { 0 };
            let parts: Vec<i128> = values().map(part).collect();
            // Each part is shown saturated, so huge ones need not add up.
            let huge = parts.iter().any(|part| part.abs() > i128::from(i64::MAX) / 8);
            assert!(huge || parts.iter().sum::<i128>() == i128::from(*read), "{who}: {parts:?}");
        }
        Some(ReadValue::Doc(read)) => {
            let (mut count, mut bytes) = (0, 0);
            for value in values() {
                let Value::Map(sums) = value else { continue };
                let [Value::Int(more), Value::Int(updates)] = [&sums["bytes"], &sums["count"]] else {
                    panic!("{who}: {sums:?}")
                };
                (count, bytes) = (count + *updates as usize, bytes + *more as usize);
            }
            assert_eq!((count, bytes), (read.updates.len(), read.bytes()), "{who}");
        }
        Some(ReadValue::Flag(read)) => assert_eq!(*read, !shown.is_empty(), "{who}"),
        Some(ReadValue::Set(read)) => assert_eq!(heads().collect::<Vec<_>>(), *read, "{who}"),
        Some(ReadValue::Map(read)) => {
            let fields = history::sorted(heads().map(|field| field.to_bytes()));
            let read: Vec<Value> = read.keys().map(|name| Value::Str(name.clone())).collect();
            assert_eq!(fields, read, "{who}");
        }
    }
}

/// Whoever reads a key, also an absent one, learns of every txn that made it what it is, unless all have it.
fn touched(who: &str, replica: &Replica, history: &History, key: &Key) {
    let touched = reading(replica, key, &Query::default()).touched;
    for event in history.events().filter(|event| replica.vector.covers(event.dot)) {
        let known = touched.covers(event.dot) || replica.stable.covers(event.dot);
        assert!(known || !event.changed.contains(key), "{who}: {} is missing in {touched:?}", event.dot);
    }
}

/// The listing names the keys that exist, in the order of their bytes, page by page.
pub fn listing(who: &str, replica: &Replica, history: &History, subject: &Subject) {
    let mut expected: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (key, _) in &subject.keys {
        let names = expected.entry(&key.space).or_default();
        if self::expected(replica, history, key).is_some() {
            names.insert(&key.key);
        }
    }
    for (space, names) in expected {
        let mut listed = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = list(&replica.cells, space, "", after.as_deref(), 1).expect("memory does not fail");
            listed.extend(page.keys);
            after = page.cursor;
            if !page.more {
                break;
            }
        }
        let keys: Vec<&str> = listed.iter().map(|listed| listed.key.as_str()).collect();
        assert_eq!(keys, names.into_iter().collect::<Vec<_>>(), "{who}: the keys of {space}");
        for listed in &listed {
            let key = Key::new(space, listed.key.as_str()).expect("well formed");
            let content = content(replica, &key).expect("it is listed");
            assert_eq!((listed.ty, listed.version), (content.ty, content.version), "{who}: {key}");
        }
    }
}

/// The digest is the sum of the versions of what exists, bucket by bucket.
pub fn digests(who: &str, replica: &Replica, subject: &Subject) {
    let mut buckets: BTreeMap<u16, u128> = BTreeMap::new();
    for (key, _) in &subject.keys {
        let version = content(replica, key).map_or(0, |content| content.version.0);
        let bucket = buckets.entry(key.bucket()).or_default();
        *bucket = bucket.wrapping_add(version);
    }
    buckets.retain(|_, digest| *digest != 0);
    let sum = buckets.values().fold(0u128, |sum, digest| sum.wrapping_add(*digest));
    let kept = bucket_digests(&replica.cells).expect("memory does not fail");
    assert_eq!(kept, buckets.into_iter().collect::<Vec<_>>(), "{who}");
    assert_eq!(digest(&replica.cells).expect("memory does not fail"), sum, "{who}");
}

/// Everything that a replica shows.
pub fn everything(who: &str, replica: &Replica, history: &History, subject: &Subject) {
    for (key, _) in &subject.keys {
        compare_key(who, replica, history, key);
    }
    listing(who, replica, history, subject);
    digests(who, replica, subject);
}

/// Two replicas at equal vectors read the same, version and digest included.
pub fn equal(who: &str, one: &Replica, other: &Replica, subject: &Subject) {
    assert_eq!(one.vector, other.vector, "{who}");
    for (key, _) in &subject.keys {
        assert_eq!(content(one, key), content(other, key), "{who}: {key}");
        let explained =
            |replica: &Replica| explain(&replica.cells, key, 10_000).expect("memory does not fail");
        let docs = |replica: &Replica| -> Vec<_> {
            let cells = explained(replica).map(|told| told.cells).unwrap_or_default();
            cells.into_iter().filter(|cell| cell.ty == Type::Doc).collect()
        };
        assert_eq!(docs(one), docs(other), "{who}: {key}");
    }
    let digest = |replica: &Replica| digest(&replica.cells).expect("memory does not fail");
    assert_eq!(digest(one), digest(other), "{who}");
}

/// Two replicas read the same values, whatever txns these came from.
pub fn same_values(who: &str, one: &Replica, other: &Replica, subject: &Subject) {
    for (key, _) in &subject.keys {
        let value = |replica| content(replica, key).map(|content| (content.ty, content.value));
        assert_eq!(value(one), value(other), "{who}: {key}");
    }
}

/// The answers of a request that was taken.
pub fn results(history: &History, event: &Event, executed: &Executed) {
    assert_eq!(executed.results.len(), event.ops.len());
    for (index, result) in executed.results.iter().enumerate() {
        let answer = history::answer(history, event, index).map(|sum| Value::Int(sum as i64));
        assert_eq!(*result, answer, "{:?} of {}", event.ops[index], event.dot);
    }
}

/// A request is refused for the reason that the specification gives.
pub fn refusal(expected: Refusal, error: &ExecuteError<Infallible>) {
    let ExecuteError::Refused { refusal, .. } = error else { panic!("{error}") };
    let same = match expected {
        Refusal::WrongType => matches!(refusal, meridian_crdt::Refusal::WrongType { .. }),
        Refusal::Overflow => matches!(refusal, meridian_crdt::Refusal::Overflow),
    };
    assert!(same, "{expected:?} is refused as {refusal}");
}

/// When all is stable and swept: no row of a key that does not exist, no mark of a removal, no floor but those that
/// a living run of a counter stands on, and nothing queued.
pub fn nothing_left(who: &str, replica: &Replica, subject: &Subject) {
    assert!(!sweep_pending(&replica.cells).expect("memory does not fail"), "{who}");
    assert_eq!(replica.cells.count(Table::SWEEP), 0, "{who}: the queue is empty");
    let existing = subject.keys.iter().filter(|(key, _)| content(replica, key).is_some()).count();
    assert_eq!(replica.cells.count(Table::HEADER), existing, "{who}: headers");
    let (mut cells, mut floors_max) = (0, 0);
    for (key, _) in &subject.keys {
        let Some(explained) = explain(&replica.cells, key, 10_000).expect("memory does not fail") else {
            continue;
        };
        for cell in explained.cells {
            if cell.ty == Type::Doc {
                continue;
            }
            let remove_wins = matches!(cell.ty, Type::RwSet | Type::DwFlag);
            assert!(
                !remove_wins || cell.dots.iter().all(|dot| dot.value == Value::Bool(true)),
                "{who}: marks"
            );
            let is_row = !cell.path.is_empty();
            let parts = if cell.ty == Type::Counter { cell.dots.len() } else { 1 };
            cells += if is_row { parts } else { 0 };
            floors_max += if is_row && cell.ty == Type::Counter { parts } else { 0 };
        }
    }
    let mut rows = 0;
    for (_, row, _) in replica.cells.iter().filter(|(table, ..)| *table == Table::CELL) {
        let (key, rest) = Key::from_cell_row(row).expect("an own row");
        let path = &rest[1 + usize::from(rest[0])..];
        if path[0] == Type::Doc.code() {
            // How many rows a document has depends on what of it was compacted.
            assert!(content(replica, &key).is_some(), "{who}: a row of {key}, which is gone");
        } else {
            rows += 1;
        }
    }
    assert!((cells..=cells + floors_max).contains(&rows), "{who}: {rows} rows for {cells} cells");
}
