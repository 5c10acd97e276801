//! Reading a key as a value.
//!
//! Losers are filtered here and nowhere else: of concurrent values of a register the winner is chosen, a `-` hides an
//! element, and of several live types (or types of a field) the one with the smallest code is shown.

use std::collections::BTreeMap;

use crate::cell::Cell;
use crate::cells::{ReadCells, Table, prefix_end};
use crate::codec::{DecodeError, Reader, Writer};
use crate::collect::{Chosen, Item, Page, PageBounds, collect};
use crate::document;
use crate::error::StoreError;
use crate::header::{Header, LoneRegister, Version};
use crate::keys::Key;
use crate::path;
use crate::types::doc::DocContent;
use crate::types::{Type, counter, doc};
use crate::value::Value;
use crate::vector::Vector;
use crate::view::KeyView;

/// How many bytes of paths and values a page comes to, but for its last value.
pub const PAGE_BYTES_MAX: usize = 4 << 20;

/// How much to read.
#[derive(Clone, Debug, PartialEq)]
pub struct Query {
    /// How many elements of a set, or values below a map, a page may have; at least 1.
    pub limit: usize,
    /// After how many bytes of paths and values a page of a set or a map takes no other value.
    pub bytes_max: usize,
    /// Where to go on: the cursor of the page before. Check one that comes from outside with [`check_cursor`].
    pub cursor: Option<Vec<u8>>,
    /// Ask only whether this element (of a set) or field (of a map) is there.
    pub element: Option<Value>,
}

impl Default for Query {
    fn default() -> Self {
        Self { limit: 10_000, bytes_max: PAGE_BYTES_MAX, cursor: None, element: None }
    }
}

/// A key as it is read.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// What it reads as; `None` if it is absent.
    pub content: Option<Content>,
    /// The dots that last touched the key, also when it is absent; without those that were stable already.
    pub touched: Vector,
    /// The local index of its last change; 0 if that is forgotten.
    pub changed_index: u64,
}

/// What a key reads as.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// The type it is shown as.
    pub ty: Type,
    /// Its version, over all that it holds.
    pub version: Version,
    /// The value, or one page of it.
    pub value: ReadValue,
    /// How many elements or fields there are, on all pages.
    pub size: Option<u64>,
    /// Where the next page goes on; `None` on the last one.
    pub cursor: Option<Vec<u8>>,
    /// Whether the element that was asked for is there; the value is then left empty.
    pub present: Option<bool>,
}

/// A value by type.
#[derive(Clone, Debug, PartialEq)]
pub enum ReadValue {
    /// The winner.
    Register(Value),
    /// The concurrent values, sorted, equal ones once.
    MvRegister(Vec<Value>),
    /// The sum; at the end of the range where merging carried it beyond.
    Counter(i64),
    /// Always true: a flag that is off is absent. False stands in an empty page only.
    Flag(bool),
    /// The elements, sorted by type and value.
    Set(Vec<Value>),
    /// The fields.
    Map(BTreeMap<String, (Type, ReadValue)>),
    /// What a document says.
    Doc(DocContent),
}

impl ReadValue {
    /// As one value: sets as arrays, map fields as `{type, value}`, a document as its root types by name, and as nothing if
    /// it nests deeper than [`NESTING_READ_MAX`](crate::NESTING_READ_MAX).
    pub fn to_value(&self) -> Value {
        match self {
            ReadValue::Register(value) => value.clone(),
            ReadValue::MvRegister(values) | ReadValue::Set(values) => Value::Array(values.clone()),
            ReadValue::Counter(sum) => Value::Int(*sum),
            ReadValue::Flag(on) => Value::Bool(*on),
            ReadValue::Map(fields) => {
                let field = |(name, (ty, value)): (&String, &(Type, ReadValue))| {
                    let ty = ("type".to_owned(), Value::Str(ty.name().to_owned()));
                    let value = ("value".to_owned(), value.to_value());
                    (name.clone(), Value::Map([ty, value].into()))
                };
                Value::Map(fields.iter().map(field).collect())
            }
            ReadValue::Doc(content) => document::to_value(content),
        }
    }

    fn empty(ty: Type) -> ReadValue {
        match ty {
            Type::Register => ReadValue::Register(Value::Nil),
            Type::MvRegister => ReadValue::MvRegister(Vec::new()),
            Type::Counter => ReadValue::Counter(0),
            Type::Flag | Type::DwFlag => ReadValue::Flag(false),
            Type::Set | Type::RwSet => ReadValue::Set(Vec::new()),
            Type::Map => ReadValue::Map(BTreeMap::new()),
            Type::Doc => ReadValue::Doc(DocContent::default()),
        }
    }
}

/// Reads a key. A cursor that no page of this key gave starts from the front.
pub fn read<C: ReadCells>(cells: &C, key: &Key, query: &Query) -> Result<Reading, StoreError<C::Error>> {
    let row = key.header_row();
    let seen = cells.look(Table::HEADER, &row, |row| match row {
        Some(row) => match LoneRegister::decode(row)? {
            Some(register) => read_lone(register).map(Seen::Read),
            None => Header::decode(row).map(Seen::Header),
        },
        None => Ok(Seen::Header(Header::default())),
    });
    let header = match seen?.map_err(StoreError::corrupt(Table::HEADER, &row))? {
        Seen::Read(reading) => return Ok(reading),
        Seen::Header(header) => header,
    };
    read_with_header(cells, key, header, query)
}

/// Reads a key whose header was read a moment ago.
fn read_with_header<C: ReadCells>(
    cells: &C,
    key: &Key,
    header: Header,
    query: &Query,
) -> Result<Reading, StoreError<C::Error>> {
    let view = KeyView::with_header(cells, key, header);
    let content = match view.header.shown() {
        Some(ty) => Some(read_as(&view, ty, query)?),
        None => None,
    };
    Ok(Reading { content, touched: view.header.touched, changed_index: view.header.changed })
}

/// What a look at a header row comes to.
enum Seen {
    /// All that there is to be read.
    Read(Reading),
    /// The header; the value is still to be read.
    Header(Header),
}

fn read_lone(register: LoneRegister<'_>) -> Result<Reading, DecodeError> {
    let LoneRegister { changed, digest, touched, payload } = register;
    let value = ReadValue::Register(Value::from_bytes(payload)?);
    let version = Version(digest);
    let content = Content { ty: Type::Register, version, value, size: None, cursor: None, present: None };
    Ok(Reading { content: Some(content), touched, changed_index: changed })
}

fn read_as<C: ReadCells>(
    view: &KeyView<'_, C>,
    ty: Type,
    query: &Query,
) -> Result<Content, StoreError<C::Error>> {
    let size = match ty {
        Type::Set | Type::RwSet => view.header.visible.get(&ty).copied(),
        Type::Map => Some(view.header.fields),
        _ => None,
    };
    let version = Version(view.header.digest);
    let mut content = Content { ty, version, value: ReadValue::empty(ty), size, cursor: None, present: None };
    match (&query.element, size) {
        _ if ty == Type::Doc => {
            content.value = ReadValue::Doc(doc::content(view)?);
        }
        (Some(element), Some(_)) => content.present = Some(is_present(view, ty, element)?),
        _ => (content.value, content.cursor) = read_page(view, ty, query)?,
    }
    Ok(content)
}

/// Whether a set has an element, or a map a field.
pub(crate) fn is_present<C: ReadCells>(
    view: &KeyView<'_, C>,
    ty: Type,
    element: &Value,
) -> Result<bool, StoreError<C::Error>> {
    match (ty, element) {
        (Type::Map, Value::Str(field)) => Ok(view.shown_at(&path::of_field(&[], field))?.is_some()),
        (Type::Set | Type::RwSet, _) if element.is_storable() => {
            let cell = view.get(&path::of_element(&[], ty, element))?;
            Ok(cell.is_some_and(|cell| cell.is_visible(ty)))
        }
        _ => Ok(false),
    }
}

/// A page of a value, and the cursor of the next one.
type ValuePage = (ReadValue, Option<Vec<u8>>);

fn read_page<C: ReadCells>(
    view: &KeyView<'_, C>,
    ty: Type,
    query: &Query,
) -> Result<ValuePage, StoreError<C::Error>> {
    if ty.has_one_cell() {
        return Ok((read_one(view, ty)?, None));
    }
    let base = path::of_type(&[], ty);
    let start = query.cursor.as_deref().and_then(|c| PageCursor::decode(c).ok());
    let start = start.filter(|cursor| cursor.after.starts_with(&base));
    let mut chosen = Chosen::new(ty);
    let mut from = base.clone();
    if let Some(cursor) = start {
        chosen.admit(&cursor.shown);
        from = cursor.next();
    }
    // What a shown type hides takes no room on the page.
    let mut shown = |item: &Item| item.cell.is_visible(item.leaf.ty) && chosen.admit(&item.path);
    let bounds = PageBounds { values: query.limit, bytes: query.bytes_max };
    let Page { items, stopped } = collect(view, &from, prefix_end(&base).as_deref(), bounds, &mut shown)?;
    let mut value = ReadValue::empty(ty);
    for group in items.chunk_by(Item::same_value) {
        put_leaf(&mut value, group)?;
    }
    let shown = chosen.path().to_vec();
    Ok((value, stopped.map(|after| PageCursor { shown, after }.encode())))
}

/// The value of a type with a single cell.
fn read_one<C: ReadCells>(view: &KeyView<'_, C>, ty: Type) -> Result<ReadValue, StoreError<C::Error>> {
    let path = [ty.code()];
    let leaf = path::parse(&path).map_err(StoreError::corrupt(Table::CELL, &path))?;
    let mut value = ReadValue::empty(ty);
    if let Some(cell) = view.get(&path)?.filter(|cell| cell.is_visible(ty)) {
        put_leaf(&mut value, &[Item { path: path.to_vec(), leaf, cell, floor: Cell::default() }])?;
    }
    Ok(value)
}

/// Where a page ended: the last path that was shown, which says what types were chosen on the way, and the last that
/// was looked at.
struct PageCursor {
    shown: Vec<u8>,
    after: Vec<u8>,
}

impl PageCursor {
    fn encode(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.bytes(&self.shown);
        out.bytes(&self.after);
        out.finish()
    }

    fn decode(cursor: &[u8]) -> Result<PageCursor, DecodeError> {
        let mut input = Reader::new(cursor);
        let shown = input.bytes()?.to_vec();
        let after = input.bytes()?.to_vec();
        input.finish()?;
        path::parse(&after)?;
        if !shown.is_empty() {
            path::parse(&shown)?;
        }
        Ok(PageCursor { shown, after })
    }

    /// The first path that the next page may show. The cells of one counter are never on two pages.
    fn next(&self) -> Vec<u8> {
        match path::parse(&self.after) {
            Ok(leaf) if leaf.ty == Type::Counter => prefix_end(&self.after[..leaf.base]).unwrap_or_default(),
            _ => [self.after.as_slice(), &[0]].concat(),
        }
    }
}

/// Whether a cursor is one that a page could have given.
pub fn check_cursor(cursor: &[u8]) -> Result<(), DecodeError> {
    PageCursor::decode(cursor).map(|_| ())
}

/// Puts one leaf into the tree of values.
fn put_leaf<E>(root: &mut ReadValue, group: &[Item]) -> Result<(), StoreError<E>> {
    let Item { path, leaf, .. } = &group[0];
    let corrupt = |why| StoreError::corrupt(Table::CELL, path)(why);
    let fields = path::fields(path).map_err(corrupt)?;
    let mut node = root;
    for (name, end) in fields {
        let ReadValue::Map(map) = node else { return Ok(()) };
        let ty = Type::from_code(path[end]).ok_or_else(|| corrupt(DecodeError::Malformed))?;
        node = &mut map.entry(name).or_insert_with(|| (ty, ReadValue::empty(ty))).1;
    }
    match node {
        ReadValue::Set(elements) => {
            elements.push(Value::from_bytes(&path[leaf.base..]).map_err(corrupt)?);
        }
        ReadValue::Register(value) => *value = winner(&group[0].cell).map_err(corrupt)?,
        ReadValue::MvRegister(values) => *values = all_values(&group[0].cell).map_err(corrupt)?,
        ReadValue::Counter(sum) => *sum = counter::saturate(counter_sum(group)),
        ReadValue::Flag(on) => *on = true,
        ReadValue::Map(_) | ReadValue::Doc(_) => return Err(corrupt(DecodeError::Malformed)),
    }
    Ok(())
}

fn winner(cell: &Cell) -> Result<Value, DecodeError> {
    let held = cell.winner().ok_or(DecodeError::Truncated)?;
    Value::from_bytes(&held.payload)
}

fn all_values(cell: &Cell) -> Result<Vec<Value>, DecodeError> {
    let mut payloads: Vec<_> = cell.dots.iter().map(|held| &held.payload).collect();
    payloads.sort();
    payloads.dedup();
    payloads.into_iter().map(|payload| Value::from_bytes(payload)).collect()
}

fn counter_sum(group: &[Item]) -> i128 {
    let nets = group.iter().flat_map(|item| {
        item.cell.dots.iter().filter_map(|held| counter::net(Type::Counter, held, &item.floor))
    });
    nets.fold(0, |sum: i128, (_, net)| sum.saturating_add(net))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Replica, key, text};
    use crate::{CounterOp, FlagOp, MapOp, Mutation, RegisterOp, SetOp};

    fn update(field: &str, mutation: Mutation) -> Mutation {
        Mutation::Map(MapOp::Update { field: field.into(), mutation: Box::new(mutation) })
    }

    fn pages(a: &Replica, limit: usize) -> Vec<ReadValue> {
        let mut query = Query { limit, ..Query::default() };
        let mut pages = Vec::new();
        loop {
            let content = read(&a.cells, &key(), &query).expect("memory").content.expect("is there");
            pages.push(content.value);
            match content.cursor {
                Some(cursor) => {
                    check_cursor(&cursor).expect("own cursor");
                    query.cursor = Some(cursor);
                }
                None => return pages,
            }
        }
    }

    /// The bound is for whoever asks, not for the state: what a page leaves for the next is all there.
    #[test]
    fn a_page_ends_after_so_many_bytes_but_has_one_value_at_least() {
        let mut a = Replica::new(1);
        for n in 0..20u64 {
            let large = Mutation::Register(RegisterOp::Set(text(&"x".repeat(1000))));
            a.write(n + 1, update(&format!("f{n:02}"), large));
        }
        for (bytes_max, of_page) in [(0, 1), (1, 1), (3500, 4), (1 << 20, 20)] {
            let mut query = Query { bytes_max, ..Query::default() };
            let mut fields = 0;
            loop {
                let content = read(&a.cells, &key(), &query).expect("memory").content.expect("is there");
                let ReadValue::Map(page) = content.value else { panic!("a map") };
                assert!(page.len() <= of_page, "{bytes_max}: {}", page.len());
                fields += page.len();
                query.cursor = content.cursor;
                if query.cursor.is_none() {
                    break;
                }
                assert_eq!(page.len(), of_page);
            }
            assert_eq!(fields, 20);
        }
    }

    #[test]
    fn an_absent_key_still_says_who_touched_it() {
        let mut a = Replica::new(1);
        let never = read(&a.cells, &key(), &Query::default()).expect("memory");
        assert_eq!((never.content, never.touched.len(), never.changed_index), (None, 0, 0));
        a.write(1, Mutation::Flag(FlagOp::Enable));
        let txn = a.write(1, Mutation::Flag(FlagOp::Disable));
        let reading = read(&a.cells, &key(), &Query::default()).expect("memory");
        assert_eq!(reading.content, None);
        assert!(reading.touched.covers(txn.head.dot));
        assert_eq!(reading.changed_index, 2);
    }

    /// Story: most keys are a register and nothing else, and are read without their header being taken apart. It makes no
    /// difference to what is read, and whatever else a key holds is never taken for one.
    #[test]
    fn a_lone_register_reads_as_it_does_through_its_header() {
        let (mut a, mut b, mut c) = (Replica::new(1), Replica::new(2), Replica::new(3));
        let agree = |at: &Replica, is_lone: bool| {
            let row = at.cells.get(Table::HEADER, &key().header_row()).expect("memory").expect("is there");
            let lone = LoneRegister::decode(&row).expect("well formed");
            assert_eq!(lone.is_some(), is_lone);
            let header = Header::decode(&row).expect("well formed");
            let through = read_with_header(&at.cells, &key(), header, &Query::default()).expect("memory");
            assert_eq!(read(&at.cells, &key(), &Query::default()).expect("memory"), through);
            for n in 0..row.len() {
                assert!(!matches!(LoneRegister::decode(&row[..n]), Ok(Some(_))), "cut after {n} bytes");
            }
        };
        let set = |value: Value| Mutation::Register(RegisterOp::Set(value));
        let values = [text("x"), Value::Int(7), Value::Map([("f".to_owned(), Value::Bytes(vec![0]))].into())];
        // The middle one wins, by its stamp.
        let txns = [(&mut a, 5, "x"), (&mut b, 900, "y"), (&mut c, 40, "z")]
            .map(|(at, hlc, value)| at.write(hlc, set(text(value))));
        agree(&a, true);
        txns.iter().skip(1).for_each(|txn| a.receive(txn));
        agree(&a, true);
        for value in values {
            a.write(1000, set(value));
            agree(&a, true);
        }
        let others = [Mutation::Counter(CounterOp::Add(1)), Mutation::Set(SetOp::AddAll(vec![text("e")]))];
        for (origin, other) in (4..).zip(others) {
            let mut at = Replica::new(origin);
            let txn = at.write(50, other);
            agree(&at, false);
            a.receive(&txn);
            agree(&a, false);
        }
    }

    #[test]
    fn a_set_is_read_page_by_page_in_its_order() {
        let mut a = Replica::new(1);
        a.write(1, Mutation::RwSet(SetOp::AddAll((0..25).map(Value::Int).collect())));
        a.write(2, Mutation::RwSet(SetOp::RemoveAll((5..15).map(Value::Int).collect())));
        let read: Vec<Value> = pages(&a, 4)
            .into_iter()
            .flat_map(|page| match page {
                ReadValue::Set(elements) => elements,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(read, (0..5).chain(15..25).map(Value::Int).collect::<Vec<_>>());
    }

    #[test]
    fn a_map_is_read_page_by_page_and_a_counter_never_in_parts() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        for (n, field) in ["a", "b", "c"].into_iter().enumerate() {
            let add = |by| update(field, update("n", Mutation::Counter(CounterOp::Add(by))));
            let here = a.write(1, add(1));
            b.receive(&here);
            let there = b.write(2, add(10 * n as i64));
            a.receive(&there);
        }
        let pages = pages(&a, 1);
        assert_eq!(pages.len(), 3);
        for (n, page) in pages.iter().enumerate() {
            let ReadValue::Map(fields) = page else { panic!("{page:?}") };
            let Some((Type::Map, ReadValue::Map(inner))) = fields.values().next() else { panic!("{page:?}") };
            assert_eq!(inner["n"], (Type::Counter, ReadValue::Counter(1 + 10 * n as i64)));
        }
    }

    #[test]
    fn a_field_of_two_types_shows_the_same_one_on_every_page() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let one = a.write(1, update("f", Mutation::Set(SetOp::AddAll(vec![text("x"), text("y")]))));
        let two = b.write(1, update("f", Mutation::RwSet(SetOp::AddAll(vec![text("p"), text("q")]))));
        let three = b.write(1, update("g", Mutation::Register(RegisterOp::Set(text("v")))));
        a.receive(&two);
        a.receive(&three);
        b.receive(&one);
        for page in pages(&a, 1) {
            let ReadValue::Map(fields) = page else { panic!("is a map") };
            assert!(fields.get("f").is_none_or(|(ty, _)| *ty == Type::Set), "{fields:?}");
        }
        assert_eq!(a.value(), b.value());
    }

    #[test]
    fn one_element_is_asked_for_without_reading_the_others() {
        let mut a = Replica::new(1);
        a.write(1, update("f", Mutation::Counter(CounterOp::Add(1))));
        for (element, present) in [(text("f"), true), (text("g"), false), (Value::Int(1), false)] {
            let query = Query { element: Some(element), ..Query::default() };
            let content = read(&a.cells, &key(), &query).expect("memory").content.expect("is there");
            assert_eq!((content.present, content.size), (Some(present), Some(1)));
            assert_eq!(content.value, ReadValue::Map(BTreeMap::new()));
        }
    }

    #[test]
    fn foreign_cursors_are_refused_and_harmless() {
        let mut a = Replica::new(1);
        a.write(1, Mutation::Set(SetOp::Add(text("x"))));
        for cursor in [&b"garbage"[..], &[], &[0, 1, 1], &[0, 1, 4]] {
            let query = Query { cursor: Some(cursor.to_vec()), ..Query::default() };
            let content = read(&a.cells, &key(), &query).expect("memory").content.expect("is there");
            assert_eq!(content.value, ReadValue::Set(vec![text("x")]));
        }
        assert!(check_cursor(b"garbage").is_err());
    }
}
