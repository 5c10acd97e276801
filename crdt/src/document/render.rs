//! Documents as values and text. Nothing here recurses further than a bound, however deep a document nests.

use yrs::branch::BranchPtr;
use yrs::types::map::MapRef;
use yrs::{
    Any, Array, ArrayRef, GetString, Map, Number, Out, ReadTxn, TextRef, Xml, XmlElementRef, XmlFragment,
    XmlFragmentRef, XmlOut,
};

use crate::value::Value;

/// How deep a document is shown; what is deeper is left out.
const DEPTH_MAX: usize = 32;
/// The largest whole number that JavaScript tells from its neighbours.
const WHOLE_MAX: f64 = 9_007_199_254_740_991.0;

/// The root types by name.
pub(super) fn roots<T: ReadTxn>(txn: &T) -> Value {
    Value::Map(txn.root_refs().map(|(name, root)| (name.to_owned(), out(root, txn, 1))).collect())
}

/// The text of one root type.
pub(super) fn text<T: ReadTxn>(txn: &T, name: &str) -> String {
    match txn.root_refs().find(|(root, _)| *root == name).map(|(_, root)| out(root, txn, 1)) {
        Some(Value::Str(text)) => text,
        _ => String::new(),
    }
}

pub(super) fn out<T: ReadTxn>(value: Out, txn: &T, depth: usize) -> Value {
    if depth > DEPTH_MAX {
        return Value::Nil;
    }
    match value {
        Out::Any(value) => any(&value, depth),
        Out::YText(text) => Value::Str(text.get_string(txn)),
        Out::YXmlText(text) => Value::Str(text.get_string(txn)),
        Out::YArray(array) => list(&array, txn, depth),
        Out::YMap(map) => fields(&map, txn, depth),
        Out::YXmlElement(element) => Value::Str(xml(XmlOut::Element(element), txn, depth)),
        Out::YXmlFragment(fragment) => Value::Str(xml(XmlOut::Fragment(fragment), txn, depth)),
        Out::YDoc(doc) => Value::Str(doc.guid().to_string()),
        Out::UndefinedRef(branch) => undefined(branch, txn, depth),
    }
}

/// A root type of which only the content says what it is: the editors know, and updates do not tell.
fn undefined<T: ReadTxn>(branch: BranchPtr, txn: &T, depth: usize) -> Value {
    let map = MapRef::from(branch);
    if map.len(txn) > 0 {
        return fields(&map, txn, depth);
    }
    let text = TextRef::from(branch).get_string(txn);
    if !text.is_empty() {
        return Value::Str(text);
    }
    let array = ArrayRef::from(branch);
    match array.iter(txn).next() {
        None => Value::Str(String::new()),
        Some(Out::YXmlElement(_) | Out::YXmlText(_)) => {
            Value::Str(xml(XmlOut::Fragment(XmlFragmentRef::from(branch)), txn, depth))
        }
        Some(_) => list(&array, txn, depth),
    }
}

fn list<T: ReadTxn>(array: &ArrayRef, txn: &T, depth: usize) -> Value {
    Value::Array(array.iter(txn).map(|item| out(item, txn, depth + 1)).collect())
}

fn fields<T: ReadTxn>(map: &MapRef, txn: &T, depth: usize) -> Value {
    Value::Map(map.iter(txn).map(|(name, value)| (name.to_owned(), out(value, txn, depth + 1))).collect())
}

/// As Yjs prints it.
fn xml<T: ReadTxn>(node: XmlOut, txn: &T, depth: usize) -> String {
    if depth > DEPTH_MAX {
        return String::new();
    }
    let children = |nodes: &mut dyn Iterator<Item = XmlOut>| {
        nodes.map(|node| xml(node, txn, depth + 1)).collect::<Vec<_>>().concat()
    };
    match node {
        XmlOut::Text(text) => text.get_string(txn),
        XmlOut::Fragment(fragment) => children(&mut fragment.children(txn)),
        XmlOut::Element(element) => {
            let (tag, inside) = (element.tag().to_string(), children(&mut element.children(txn)));
            format!("<{tag}{}>{inside}</{tag}>", attributes(&element, txn, depth))
        }
    }
}

/// The attributes of an element, sorted by name.
fn attributes<T: ReadTxn>(element: &XmlElementRef, txn: &T, depth: usize) -> String {
    let shown = |value| match out(value, txn, depth + 1) {
        Value::Str(text) => text,
        Value::Int(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        _ => String::new(),
    };
    let mut all: Vec<String> =
        element.attributes(txn).map(|(name, value)| format!(" {name}=\"{}\"", shown(value))).collect();
    all.sort();
    all.concat()
}

pub(super) fn any(value: &Any, depth: usize) -> Value {
    if depth > DEPTH_MAX {
        return Value::Nil;
    }
    match value {
        Any::Null | Any::Undefined => Value::Nil,
        Any::Bool(value) => Value::Bool(*value),
        Any::Number(Number::Int(value)) => Value::Int(*value),
        Any::Number(Number::Float(value)) if value.trunc() == *value && value.abs() <= WHOLE_MAX => {
            Value::Int(*value as i64)
        }
        // JSON has no other numbers.
        Any::Number(Number::Float(value)) if value.is_finite() => Value::Float(*value),
        Any::Number(Number::Float(_)) => Value::Nil,
        Any::String(text) => Value::Str(text.to_string()),
        Any::Buffer(bytes) => Value::Bytes(bytes.to_vec()),
        Any::Array(items) => Value::Array(items.iter().map(|item| any(item, depth + 1)).collect()),
        Any::Map(fields) => {
            Value::Map(fields.iter().map(|(name, value)| (name.clone(), any(value, depth + 1))).collect())
        }
    }
}
