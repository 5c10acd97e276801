//! New edits that make a document hold something else: the difference to what it holds, so that what is edited at the same
//! time merges with them, and what stays the same is not touched.
//!
//! The edits are those of an author of their own. Where they follow from the document and the content alone, so does the
//! identity of their author: whoever makes the same of the same document makes the very same edits, and together they count
//! once. Content that is put into a document in which there is nothing has an identity made from the content alone, so that
//! this holds wherever and however often it is put in. Edits with formatting, whose order is not fixed, are those of an author
//! who is an argument.

mod text;

use std::collections::BTreeMap;

use bytes::Bytes;
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;
use yrs::updates::decoder::Decode;
use yrs::{
    Any, Array, ArrayPrelim, ArrayRef, ClientID, Doc, Map, MapPrelim, MapRef, OffsetKind, Options, Out,
    ReadTxn, TextPrelim, TextRef, Transact, TransactionMut, Update, WriteTxn, Xml, XmlElementPrelim,
    XmlElementRef, XmlFragment, XmlTextPrelim,
};

use super::compare::{self, Change};
use super::tree::{self, Marks, Node, Piece, Run};
use super::{Document, FROM_NOTHING, UpdateError, YrsDocument, render};
use crate::codec::Writer;
use crate::value::Value;

/// About how many bytes of content one update brings; a single larger value goes alone.
const UPDATE_BYTES: usize = 128 << 10;
/// How many edits one update brings.
const UPDATE_EDITS: usize = 1_000;

/// What a document is to hold.
#[derive(Clone, Copy, Debug)]
pub enum Content<'c> {
    /// This text under one root, without formatting; things that stand in the text there stay. Other roots stay.
    Text {
        /// The root type.
        root: &'c str,
        /// The text.
        text: &'c str,
    },
    /// These roots, and nothing under others: text under a text, a map under an object, an array under an array.
    Json(&'c BTreeMap<String, Value>),
    /// What another document holds, with formatting and XML.
    Document(&'c YrsDocument),
}

/// Why there are no such edits.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RewriteError {
    /// A root holds another type than it would have to, and Yjs knows no way from one to the other.
    #[error("the root {root:?} holds {is} and cannot hold {asked}")]
    OtherType {
        /// The root.
        root: String,
        /// What it is.
        is: &'static str,
        /// What was asked for.
        asked: &'static str,
    },
    /// The content, or the document, has something that this does not know how to write.
    #[error("{0} cannot be written here")]
    Unsupported(&'static str),
    /// The content, or the document, nests too deeply.
    #[error("the content nests deeper than {}", tree::DEPTH_MAX)]
    TooDeep,
    /// The decoder does not take the document.
    #[error("{0}")]
    Update(#[from] UpdateError),
}

/// Edits that make a document hold something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// Updates in encoding v1, each building on those before it; none if the document holds it already.
    pub updates: Vec<Bytes>,
    /// Whether nothing but these has ever been in the document. Then they may be put in one by one, and are gone on with when that
    /// was broken off; those without formatting, whose author is the content itself, may be put in as often as one likes.
    pub is_import: bool,
}

impl YrsDocument {
    /// The edits that make this document hold `content`. `author`, an identity of at most 53 bits that nobody else has or
    /// ever had, is theirs where they do not follow from document and content alone: where formatting may be among them.
    ///
    /// # Errors
    /// [`RewriteError`]; the document is never changed by this.
    pub fn rewritten(&self, content: &Content<'_>, author: u64) -> Result<Rewritten, RewriteError> {
        let wanted = Wanted::of(content)?;
        let own = wanted.author();
        let here = self.doc.transact().snapshot();
        let is_empty = here.state_map.is_empty();
        // Whoever only deletes leaves no author behind, and what is put in again then is not what was put in at first.
        let is_begun =
            here.delete_set.is_empty() && here.state_map.iter().all(|(client, _)| client.get() == own);
        let is_import = is_begun && (is_empty || wanted.sight == Sight::Json);
        let before = self.diff(FROM_NOTHING)?;
        let author = match (is_import, wanted.sight) {
            (true, Sight::Json) => own,
            (false, Sight::Json) => identity(&[&own.to_be_bytes()[..], &before].concat()),
            (_, Sight::Whole) => author & AUTHOR_MASK,
        };
        let mut updates = edits(Some(&before), author, &wanted)?;
        if is_import && !is_empty && !updates.is_empty() {
            // An import that was broken off goes on as it began. What is missing, worked out from what is there, could be made in
            // another order, and be other edits under the same identities.
            updates = edits(None, author, &wanted)?;
        }
        Ok(Rewritten { updates, is_import })
    }
}

/// The edits of `author` that make what is `before`, or nothing, into what is wanted.
fn edits(before: Option<&[u8]>, author: u64, wanted: &Wanted) -> Result<Vec<Bytes>, RewriteError> {
    let mut options = Options::with_guid_and_client_id("".into(), ClientID::new(author));
    options.offset_kind = OffsetKind::Utf16;
    let doc = Doc::with_options(options);
    if let Some(before) = before {
        let all = Update::decode_v1(before).map_err(super::refused)?;
        doc.transact_mut().apply_update(all).map_err(super::refused)?;
    }
    let mut edits = Edits { doc: &doc, txn: None, bytes: 0, edits: 0, updates: Vec::new() };
    wanted.write(&mut edits)?;
    edits.end();
    Ok(edits.updates)
}

/// Identities of Yjs have 53 bits.
const AUTHOR_MASK: u64 = (1 << 53) - 1;

/// The identity that follows from these bytes; never that of a document that only reads.
fn identity(of: &[u8]) -> u64 {
    (xxh3_64(of) & AUTHOR_MASK).max(1)
}

/// Whether parts are compared as JSON shows them, or with everything that they are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sight {
    Json,
    Whole,
}

/// What is wanted of each root.
struct Wanted {
    sight: Sight,
    roots: BTreeMap<String, Node>,
    /// Whether roots that are not named are to be empty.
    is_all: bool,
}

impl Wanted {
    fn of(content: &Content<'_>) -> Result<Self, RewriteError> {
        Ok(match content {
            Content::Text { root, text } => {
                let roots = [((*root).to_owned(), plain(text))].into();
                Wanted { sight: Sight::Json, roots, is_all: false }
            }
            Content::Json(values) => {
                let root = |(name, value): (&String, &Value)| {
                    let node = match value {
                        Value::Str(text) => plain(text),
                        Value::Map(_) | Value::Array(_) => Node::of_json(value, 1)?,
                        _ => {
                            return Err(RewriteError::Unsupported("a root that is no text, object or array"));
                        }
                    };
                    Ok((name.clone(), node))
                };
                let roots = values.iter().map(root).collect::<Result<_, _>>()?;
                Wanted { sight: Sight::Json, roots, is_all: true }
            }
            Content::Document(document) => {
                let roots = tree::roots(&document.doc.transact())?;
                Wanted { sight: Sight::Whole, roots, is_all: true }
            }
        })
    }

    /// The identity of who puts this, and nothing else, into an empty document.
    fn author(&self) -> u64 {
        let mut out = Writer::new();
        out.u8(u8::from(self.sight == Sight::Whole));
        for (name, node) in &self.roots {
            out.bytes(name.as_bytes());
            out.bytes(&node.key());
        }
        identity(&out.finish())
    }

    fn write(&self, edits: &mut Edits<'_>) -> Result<(), RewriteError> {
        let sight = self.sight;
        let mut unnamed: Vec<String> = Vec::new();
        if self.is_all {
            let names = edits.txn().root_refs().map(|(name, _)| name.to_owned());
            unnamed = names.filter(|name| !self.roots.contains_key(name)).collect();
            unnamed.sort();
        }
        for name in unnamed {
            edits.root(&name, &Node::Nothing, sight)?;
        }
        for (name, node) in &self.roots {
            edits.root(name, node, sight)?;
        }
        Ok(())
    }
}

/// Text without formatting.
fn plain(text: &str) -> Node {
    let run = Run { insert: Piece::Chars(text.to_owned()), marks: Marks::new() };
    Node::Text(if text.is_empty() { Vec::new() } else { vec![run] })
}

/// Edits under way: a transaction for each update.
struct Edits<'d> {
    doc: &'d Doc,
    txn: Option<TransactionMut<'d>>,
    bytes: usize,
    edits: usize,
    updates: Vec<Bytes>,
}

impl<'d> Edits<'d> {
    fn txn(&mut self) -> &mut TransactionMut<'d> {
        self.txn.get_or_insert_with(|| self.doc.transact_mut())
    }

    /// Ends the update that is being made.
    fn end(&mut self) {
        if let Some(txn) = self.txn.take()
            && self.edits > 0
        {
            self.updates.push(txn.encode_update_v1().into());
        }
        (self.bytes, self.edits) = (0, 0);
    }

    /// Counts an edit that has been made.
    fn made(&mut self, bytes: usize) {
        (self.bytes, self.edits) = (self.bytes + bytes, self.edits + 1);
        if self.bytes >= UPDATE_BYTES || self.edits >= UPDATE_EDITS {
            self.end();
        }
    }

    /// Makes a root hold `wanted`.
    fn root(&mut self, name: &str, wanted: &Node, sight: Sight) -> Result<(), RewriteError> {
        let found = self.txn().root_refs().find(|(root, _)| *root == name).map(|(_, root)| root);
        let is = match found {
            Some(root) => Node::of(root, self.txn(), 0)?,
            None => Node::Nothing,
        };
        match (&is, wanted) {
            (Node::Nothing, Node::Nothing) => {}
            (Node::Text(_) | Node::Nothing, Node::Text(runs)) => {
                let text = self.txn().get_or_insert_text(name);
                self.text(&text, runs, sight)?;
            }
            (Node::Map(_) | Node::Nothing, Node::Map(fields)) => {
                let map = self.txn().get_or_insert_map(name);
                self.map(&map, fields, sight)?;
            }
            (Node::Array(_) | Node::Nothing, Node::Array(items)) => {
                let array = self.txn().get_or_insert_array(name);
                self.array(&array, items, sight)?;
            }
            (Node::Fragment(_) | Node::Nothing, Node::Fragment(nodes)) => {
                let fragment = self.txn().get_or_insert_xml_fragment(name);
                self.children(&fragment, nodes)?;
            }
            (Node::Text(_), Node::Nothing) => {
                let text = self.txn().get_or_insert_text(name);
                self.text(&text, &[], Sight::Whole)?;
            }
            (Node::Map(_), Node::Nothing) => {
                let map = self.txn().get_or_insert_map(name);
                self.map(&map, &BTreeMap::new(), sight)?;
            }
            (Node::Array(_), Node::Nothing) => {
                let array = self.txn().get_or_insert_array(name);
                self.array(&array, &[], sight)?;
            }
            (Node::Fragment(_), Node::Nothing) => {
                let fragment = self.txn().get_or_insert_xml_fragment(name);
                self.children(&fragment, &[])?;
            }
            // JSON shows XML as a text: that is well as long as it stays as it is, and empties it.
            (Node::Fragment(_), Node::Text(runs)) if sight == Sight::Json => self.xml_as_text(name, runs)?,
            (is, asked) => {
                let (root, is, asked) = (name.to_owned(), tree::name_of(is), tree::name_of(asked));
                return Err(RewriteError::OtherType { root, is, asked });
            }
        }
        Ok(())
    }

    fn xml_as_text(&mut self, name: &str, runs: &[Run]) -> Result<(), RewriteError> {
        if render::text(self.txn(), name) == text_of(runs) {
            return Ok(());
        }
        if runs.is_empty() {
            let fragment = self.txn().get_or_insert_xml_fragment(name);
            return self.children(&fragment, &[]);
        }
        Err(RewriteError::OtherType { root: name.to_owned(), is: "XML", asked: "text" })
    }

    fn map(
        &mut self,
        map: &MapRef,
        wanted: &BTreeMap<String, Node>,
        sight: Sight,
    ) -> Result<(), RewriteError> {
        let mut gone: Vec<String> =
            map.keys(self.txn()).filter(|name| !wanted.contains_key(*name)).map(str::to_owned).collect();
        gone.sort();
        for name in gone {
            map.remove(self.txn(), &name);
            self.made(name.len());
        }
        for (name, node) in wanted {
            let is_there = match map.get(self.txn(), name) {
                Some(is) => self.grown(is, node, sight)?,
                None => false,
            };
            if !is_there {
                self.insert_field(map, name, node)?;
            }
        }
        Ok(())
    }

    /// Makes a part hold `wanted`, if it can: if it does already, or is of its kind. `false`: it has to be replaced.
    fn grown(&mut self, is: Out, wanted: &Node, sight: Sight) -> Result<bool, RewriteError> {
        if self.key(&is, sight)? == key_of(wanted, sight) {
            return Ok(true);
        }
        match (is, wanted) {
            (Out::YMap(map), Node::Map(fields)) => self.map(&map, fields, sight)?,
            (Out::YArray(array), Node::Array(items)) => self.array(&array, items, sight)?,
            (Out::YText(text), Node::Text(runs)) => self.text(&text, runs, sight)?,
            (Out::YText(text), Node::Any(Any::String(chars))) if sight == Sight::Json => {
                let Node::Text(runs) = plain(chars) else { return Ok(false) };
                self.text(&text, &runs, sight)?;
            }
            (Out::YXmlText(text), Node::XmlText { runs, attributes }) => {
                self.attributes(&text, attributes)?;
                self.text(&text, runs, sight)?;
            }
            (Out::YXmlElement(element), Node::Element { tag, attributes, children })
                if **element.tag() == **tag =>
            {
                self.attributes(&element, attributes)?;
                self.children(&element, children)?;
            }
            (Out::YXmlElement(_) | Out::YXmlFragment(_) | Out::YXmlText(_), _) if sight == Sight::Json => {
                return Err(RewriteError::Unsupported("XML as JSON shows it"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn key(&mut self, is: &Out, sight: Sight) -> Result<Vec<u8>, RewriteError> {
        Ok(match sight {
            Sight::Json => render::out(is.clone(), self.txn(), 1).to_bytes(),
            Sight::Whole => Node::of(is.clone(), self.txn(), 0)?.key(),
        })
    }

    fn insert_field(&mut self, map: &MapRef, name: &str, node: &Node) -> Result<(), RewriteError> {
        match node {
            Node::Any(value) => {
                map.insert(self.txn(), name, value.clone());
                self.made(name.len() + tree::any_key(value).len());
            }
            Node::Map(fields) => {
                let inner: MapRef = map.insert(self.txn(), name, MapPrelim::default());
                self.made(name.len());
                self.map(&inner, fields, Sight::Whole)?;
            }
            Node::Array(items) => {
                let inner: ArrayRef = map.insert(self.txn(), name, ArrayPrelim::default());
                self.made(name.len());
                self.array(&inner, items, Sight::Whole)?;
            }
            Node::Text(runs) => {
                let inner: TextRef = map.insert(self.txn(), name, TextPrelim::new(""));
                self.made(name.len());
                self.text(&inner, runs, Sight::Whole)?;
            }
            _ => return Err(RewriteError::Unsupported("XML or a document as the field of a map")),
        }
        Ok(())
    }

    fn array(&mut self, array: &ArrayRef, wanted: &[Node], sight: Sight) -> Result<(), RewriteError> {
        let is: Vec<Out> = array.iter(self.txn()).collect();
        let keys = is.iter().map(|item| self.key(item, sight)).collect::<Result<Vec<_>, _>>()?;
        let wanted_keys: Vec<Vec<u8>> = wanted.iter().map(|node| key_of(node, sight)).collect();
        for Change { before, after } in compare::sequences(&keys, &wanted_keys).into_iter().rev() {
            // What stands at the same place grows into what is wanted there, if it is of its kind.
            let pairs = before.len().min(after.len());
            let (kept, new) = (before.start + pairs, after.start + pairs);
            if kept < before.end {
                let length = index(before.end - kept);
                array.remove_range(self.txn(), index(kept), length);
                self.made(2);
            }
            self.insert_items(array, kept, &wanted[new..after.end])?;
            for (at, node) in (before.start..kept).zip(&wanted[after.start..new]).rev() {
                if !self.grown(is[at].clone(), node, sight)? {
                    array.remove(self.txn(), index(at));
                    self.made(2);
                    self.insert_items(array, at, std::slice::from_ref(node))?;
                }
            }
        }
        Ok(())
    }

    fn insert_items(&mut self, array: &ArrayRef, mut at: usize, nodes: &[Node]) -> Result<(), RewriteError> {
        let mut plain: Vec<Any> = Vec::new();
        let mut bytes = 0;
        for node in nodes {
            if let Node::Any(value) = node {
                bytes += tree::any_key(value).len();
                plain.push(value.clone());
                if bytes < UPDATE_BYTES {
                    continue;
                }
            }
            at = self.insert_plain(array, at, std::mem::take(&mut plain), std::mem::take(&mut bytes));
            let place = index(at);
            match node {
                Node::Any(_) => continue,
                Node::Map(fields) => {
                    let inner: MapRef = array.insert(self.txn(), place, MapPrelim::default());
                    self.made(4);
                    self.map(&inner, fields, Sight::Whole)?;
                }
                Node::Array(items) => {
                    let inner: ArrayRef = array.insert(self.txn(), place, ArrayPrelim::default());
                    self.made(4);
                    self.array(&inner, items, Sight::Whole)?;
                }
                Node::Text(runs) => {
                    let inner: TextRef = array.insert(self.txn(), place, TextPrelim::new(""));
                    self.made(4);
                    self.text(&inner, runs, Sight::Whole)?;
                }
                _ => return Err(RewriteError::Unsupported("XML or a document as an item of an array")),
            }
            at += 1;
        }
        self.insert_plain(array, at, plain, bytes);
        Ok(())
    }

    /// Inserts plain values as one; where the next one goes.
    fn insert_plain(&mut self, array: &ArrayRef, at: usize, values: Vec<Any>, bytes: usize) -> usize {
        if values.is_empty() {
            return at;
        }
        let behind = at + values.len();
        array.insert_range(self.txn(), index(at), values);
        self.made(bytes);
        behind
    }

    fn attributes(&mut self, of: &impl Xml, wanted: &BTreeMap<String, Node>) -> Result<(), RewriteError> {
        let is = tree::attributes(of, self.txn(), 0)?;
        for name in is.keys().filter(|name| !wanted.contains_key(*name)) {
            of.remove_attribute(self.txn(), name);
            self.made(name.len());
        }
        for (name, node) in wanted {
            if is.get(name).is_some_and(|is| is.key() == node.key()) {
                continue;
            }
            let Node::Any(value) = node else {
                return Err(RewriteError::Unsupported("a shared type as an attribute"));
            };
            of.insert_attribute(self.txn(), name.as_str(), value.clone());
            self.made(name.len() + tree::any_key(value).len());
        }
        Ok(())
    }

    /// Makes a part of XML have `wanted` as its children.
    fn children(&mut self, parent: &impl XmlFragment, wanted: &[Node]) -> Result<(), RewriteError> {
        let is: Vec<Out> = parent.children(self.txn()).map(tree::xml_part).collect();
        let keys = is.iter().map(|child| self.key(child, Sight::Whole)).collect::<Result<Vec<_>, _>>()?;
        let wanted_keys: Vec<Vec<u8>> = wanted.iter().map(Node::key).collect();
        for Change { before, after } in compare::sequences(&keys, &wanted_keys).into_iter().rev() {
            let pairs = before.len().min(after.len());
            let (kept, new) = (before.start + pairs, after.start + pairs);
            if kept < before.end {
                parent.remove_range(self.txn(), index(kept), index(before.end - kept));
                self.made(2);
            }
            for (at, node) in (kept..).zip(&wanted[new..after.end]) {
                self.insert_child(parent, at, node)?;
            }
            for (at, node) in (before.start..kept).zip(&wanted[after.start..new]).rev() {
                if !self.grown(is[at].clone(), node, Sight::Whole)? {
                    parent.remove_range(self.txn(), index(at), 1);
                    self.made(2);
                    self.insert_child(parent, at, node)?;
                }
            }
        }
        Ok(())
    }

    fn insert_child(
        &mut self,
        parent: &impl XmlFragment,
        at: usize,
        node: &Node,
    ) -> Result<(), RewriteError> {
        let place = index(at);
        match node {
            Node::Element { tag, attributes, children } => {
                let element: XmlElementRef =
                    parent.insert(self.txn(), place, XmlElementPrelim::empty(tag.as_str()));
                self.made(tag.len());
                self.attributes(&element, attributes)?;
                self.children(&element, children)?;
            }
            Node::XmlText { runs, attributes } => {
                let text = parent.insert(self.txn(), place, XmlTextPrelim::new(""));
                self.made(4);
                self.attributes(&text, attributes)?;
                self.text(&text, runs, Sight::Whole)?;
            }
            _ => return Err(RewriteError::Unsupported("something else than elements and text within XML")),
        }
        Ok(())
    }
}

/// What a wanted part is compared by.
fn key_of(node: &Node, sight: Sight) -> Vec<u8> {
    match sight {
        Sight::Json => node.shown().to_bytes(),
        Sight::Whole => node.key(),
    }
}

/// A place as Yjs counts. Nothing has more items than fit.
fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn text_of(runs: &[Run]) -> String {
    let chars = |run: &Run| if let Piece::Chars(text) = &run.insert { text.clone() } else { String::new() };
    runs.iter().map(chars).collect()
}

#[cfg(test)]
mod tests;
