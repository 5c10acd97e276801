//! A document as a tree: what it holds, apart from how it came about. It is what a document is compared with and turned
//! into.
//!
//! A tree keeps what JSON does not: which type holds what, formatting, elements of XML with their attributes.

use std::collections::BTreeMap;

use yrs::branch::BranchPtr;
use yrs::types::map::MapRef;
use yrs::types::text::YChange;
use yrs::{
    Any, Array, ArrayRef, GetString, Map, Out, ReadTxn, Text, TextRef, Xml, XmlFragment, XmlFragmentRef,
    XmlOut,
};

use super::render;
use super::rewrite::RewriteError;
use crate::codec::Writer;
use crate::value::Value;

/// How deep a tree may be.
pub(super) const DEPTH_MAX: usize = 64;

/// Formatting, by name.
pub(super) type Marks = BTreeMap<String, Any>;

/// A piece of text with one formatting, or one thing that stands in it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    pub insert: Piece,
    pub marks: Marks,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Chars(String),
    Embed(Any),
}

/// A part of a document.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    /// A root type of which nothing says what it is.
    Nothing,
    /// A plain value.
    Any(Any),
    /// The shared types of Yjs.
    Text(Vec<Run>),
    Array(Vec<Node>),
    Map(BTreeMap<String, Node>),
    Fragment(Vec<Node>),
    Element {
        tag: String,
        attributes: BTreeMap<String, Node>,
        children: Vec<Node>,
    },
    XmlText {
        runs: Vec<Run>,
        attributes: BTreeMap<String, Node>,
    },
    /// A document within the document, by its name.
    Subdocument(String),
}

/// The root types by name.
pub(super) fn roots<T: ReadTxn>(txn: &T) -> Result<BTreeMap<String, Node>, RewriteError> {
    txn.root_refs().map(|(name, root)| Ok((name.to_owned(), Node::of(root, txn, 0)?))).collect()
}

impl Node {
    /// What a part of a document holds.
    pub fn of<T: ReadTxn>(part: Out, txn: &T, depth: usize) -> Result<Node, RewriteError> {
        if depth > DEPTH_MAX {
            return Err(RewriteError::TooDeep);
        }
        Ok(match part {
            Out::Any(value) => Node::Any(value),
            Out::YText(text) => Node::Text(runs(&text, txn)?),
            Out::YArray(array) => Node::Array(items(&array, txn, depth)?),
            Out::YMap(map) => Node::Map(fields(&map, txn, depth)?),
            Out::YXmlElement(element) => Node::Element {
                tag: element.tag().to_string(),
                attributes: attributes(&element, txn, depth)?,
                children: children(&element, txn, depth)?,
            },
            Out::YXmlFragment(fragment) => Node::Fragment(children(&fragment, txn, depth)?),
            Out::YXmlText(text) => {
                Node::XmlText { runs: runs(&text, txn)?, attributes: attributes(&text, txn, depth)? }
            }
            Out::YDoc(doc) => Node::Subdocument(doc.guid().to_string()),
            Out::UndefinedRef(branch) => undefined(branch, txn, depth)?,
        })
    }

    /// What a value of JSON is as a part of a document.
    pub fn of_json(value: &Value, depth: usize) -> Result<Node, RewriteError> {
        if depth > DEPTH_MAX {
            return Err(RewriteError::TooDeep);
        }
        Ok(match value {
            Value::Nil => Node::Any(Any::Null),
            Value::Bool(value) => Node::Any(Any::Bool(*value)),
            Value::Int(value) => Node::Any(Any::from(*value)),
            Value::Float(value) => Node::Any(Any::from(*value)),
            Value::Str(text) => Node::Any(Any::from(text.as_str())),
            Value::Bytes(bytes) => Node::Any(Any::from(bytes.clone())),
            Value::Array(items) => {
                let items: Result<_, _> = items.iter().map(|item| Node::of_json(item, depth + 1)).collect();
                Node::Array(items?)
            }
            Value::Map(fields) => {
                let field =
                    |(name, value): (&String, &Value)| Ok((name.clone(), Node::of_json(value, depth + 1)?));
                Node::Map(fields.iter().map(field).collect::<Result<_, RewriteError>>()?)
            }
        })
    }

    /// What it reads as in JSON. Only parts that came from JSON are asked.
    pub fn shown(&self) -> Value {
        match self {
            Node::Any(value) => render::any(value, 1),
            Node::Array(items) => Value::Array(items.iter().map(Node::shown).collect()),
            Node::Map(fields) => {
                Value::Map(fields.iter().map(|(name, node)| (name.clone(), node.shown())).collect())
            }
            Node::Text(runs) => Value::Str(runs.iter().map(|run| run.insert.chars()).collect()),
            Node::Nothing | Node::Fragment(_) | Node::Element { .. } | Node::XmlText { .. } => Value::Nil,
            Node::Subdocument(guid) => Value::Str(guid.clone()),
        }
    }

    /// Bytes that two parts have in common exactly if they are alike.
    pub fn key(&self) -> Vec<u8> {
        let mut out = Writer::new();
        self.write_key(&mut out);
        out.finish()
    }

    fn write_key(&self, out: &mut Writer) {
        match self {
            Node::Nothing => out.u8(0),
            Node::Any(value) => {
                out.u8(1);
                out.bytes(&any_key(value));
            }
            Node::Text(runs) => {
                out.u8(2);
                write_runs(runs, out);
            }
            Node::Array(items) => {
                out.u8(3);
                write_nodes(items, out);
            }
            Node::Map(fields) => {
                out.u8(4);
                write_fields(fields, out);
            }
            Node::Fragment(nodes) => {
                out.u8(5);
                write_nodes(nodes, out);
            }
            Node::Element { tag, attributes, children } => {
                out.u8(6);
                out.bytes(tag.as_bytes());
                write_fields(attributes, out);
                write_nodes(children, out);
            }
            Node::XmlText { runs, attributes } => {
                out.u8(7);
                write_fields(attributes, out);
                write_runs(runs, out);
            }
            Node::Subdocument(guid) => {
                out.u8(8);
                out.bytes(guid.as_bytes());
            }
        }
    }
}

impl Piece {
    fn chars(&self) -> &str {
        match self {
            Piece::Chars(text) => text,
            Piece::Embed(_) => "",
        }
    }
}

/// Bytes that two plain values have in common exactly if they are alike, whatever order their fields have in memory.
pub(super) fn any_key(value: &Any) -> Vec<u8> {
    let mut out = Writer::new();
    write_any(value, &mut out);
    out.finish()
}

fn write_any(value: &Any, out: &mut Writer) {
    match value {
        Any::Array(items) => {
            out.u8(1);
            out.varint(items.len() as u64);
            items.iter().for_each(|item| write_any(item, out));
        }
        Any::Map(fields) => {
            out.u8(2);
            out.varint(fields.len() as u64);
            for (name, value) in fields.iter().collect::<BTreeMap<_, _>>() {
                out.bytes(name.as_bytes());
                write_any(value, out);
            }
        }
        scalar => {
            out.u8(0);
            out.bytes(&render::any(scalar, 0).to_bytes());
        }
    }
}

/// Bytes that two formattings have in common exactly if they are alike.
pub(super) fn marks_key(marks: &Marks) -> Vec<u8> {
    let mut out = Writer::new();
    write_marks(marks, &mut out);
    out.finish()
}

fn write_marks(marks: &Marks, out: &mut Writer) {
    out.varint(marks.len() as u64);
    for (name, value) in marks {
        out.bytes(name.as_bytes());
        out.bytes(&any_key(value));
    }
}

fn write_runs(runs: &[Run], out: &mut Writer) {
    out.varint(runs.len() as u64);
    for run in runs {
        match &run.insert {
            Piece::Chars(text) => {
                out.u8(0);
                out.bytes(text.as_bytes());
            }
            Piece::Embed(value) => {
                out.u8(1);
                out.bytes(&any_key(value));
            }
        }
        write_marks(&run.marks, out);
    }
}

fn write_nodes(nodes: &[Node], out: &mut Writer) {
    out.varint(nodes.len() as u64);
    nodes.iter().for_each(|node| node.write_key(out));
}

fn write_fields(fields: &BTreeMap<String, Node>, out: &mut Writer) {
    out.varint(fields.len() as u64);
    for (name, node) in fields {
        out.bytes(name.as_bytes());
        node.write_key(out);
    }
}

/// The text of a type, piece by piece.
pub(super) fn runs<T: ReadTxn>(text: &impl Text, txn: &T) -> Result<Vec<Run>, RewriteError> {
    let run = |piece: yrs::types::text::Diff<YChange>| {
        let insert = match piece.insert {
            Out::Any(Any::String(text)) => Piece::Chars(text.to_string()),
            Out::Any(value) => Piece::Embed(value),
            _ => return Err(RewriteError::Unsupported("a shared type inside a text")),
        };
        let marks = piece.attributes.into_iter().flat_map(|marks| *marks);
        Ok(Run { insert, marks: marks.map(|(name, value)| (name.to_string(), value)).collect() })
    };
    let runs: Vec<Run> = text.diff(txn, YChange::identity).into_iter().map(run).collect::<Result<_, _>>()?;
    let length = |run: &Run| match &run.insert {
        Piece::Chars(text) => text.encode_utf16().count(),
        Piece::Embed(_) => 1,
    };
    // A text that stands in a text as one thing looks like characters, and takes another room.
    if runs.iter().map(length).sum::<usize>() != text.len(txn) as usize {
        return Err(RewriteError::Unsupported("a text that stands in a text as one thing"));
    }
    Ok(runs)
}

fn items<T: ReadTxn>(array: &ArrayRef, txn: &T, depth: usize) -> Result<Vec<Node>, RewriteError> {
    array.iter(txn).map(|item| Node::of(item, txn, depth + 1)).collect()
}

fn fields<T: ReadTxn>(map: &MapRef, txn: &T, depth: usize) -> Result<BTreeMap<String, Node>, RewriteError> {
    map.iter(txn).map(|(name, value)| Ok((name.to_owned(), Node::of(value, txn, depth + 1)?))).collect()
}

fn children<T: ReadTxn>(parent: &impl XmlFragment, txn: &T, depth: usize) -> Result<Vec<Node>, RewriteError> {
    parent.children(txn).map(|child| Node::of(xml_part(child), txn, depth + 1)).collect()
}

/// A child of a part of XML as a part of the document.
pub(super) fn xml_part(node: XmlOut) -> Out {
    match node {
        XmlOut::Element(element) => Out::YXmlElement(element),
        XmlOut::Fragment(fragment) => Out::YXmlFragment(fragment),
        XmlOut::Text(text) => Out::YXmlText(text),
    }
}

pub(super) fn attributes<T: ReadTxn>(
    of: &impl Xml,
    txn: &T,
    depth: usize,
) -> Result<BTreeMap<String, Node>, RewriteError> {
    of.attributes(txn).map(|(name, value)| Ok((name.to_owned(), Node::of(value, txn, depth + 1)?))).collect()
}

/// A root type of which only the content says what it is.
fn undefined<T: ReadTxn>(branch: BranchPtr, txn: &T, depth: usize) -> Result<Node, RewriteError> {
    let map = MapRef::from(branch);
    if map.len(txn) > 0 {
        return Ok(Node::Map(fields(&map, txn, depth)?));
    }
    let text = TextRef::from(branch);
    if !text.get_string(txn).is_empty() {
        return Ok(Node::Text(runs(&text, txn)?));
    }
    let array = ArrayRef::from(branch);
    Ok(match array.iter(txn).next() {
        None => Node::Nothing,
        Some(Out::YXmlElement(_) | Out::YXmlText(_)) => {
            Node::Fragment(children(&XmlFragmentRef::from(branch), txn, depth)?)
        }
        Some(_) => Node::Array(items(&array, txn, depth)?),
    })
}

/// What a type is called in messages.
pub(super) fn name_of(node: &Node) -> &'static str {
    match node {
        Node::Nothing => "empty",
        Node::Any(_) => "a plain value",
        Node::Text(_) => "text",
        Node::Array(_) => "an array",
        Node::Map(_) => "a map",
        Node::Fragment(_) | Node::Element { .. } | Node::XmlText { .. } => "XML",
        Node::Subdocument(_) => "a document",
    }
}
