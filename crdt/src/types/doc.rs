//! The document: updates of Yjs under the incarnations that they were made in.
//!
//! ```text
//! path     9 | 0 | origin u32 | seq u64                an incarnation, by the dot of the txn that began it
//!          9 | 1 | origin u32 | seq u64 | index u32    an update, by the dot of its txn and its place there
//! payload  of an incarnation: nothing
//!          of an update: count varint | (origin u32, seq varint) ... | the update, byte for byte as it came
//! ```
//!
//! An update names the incarnations that lived where it was made; if none did, its txn begins one. It counts while all
//! of them live, so a delete, which ends the incarnations that it observed, wins over the updates to them that it did
//! not observe. Incarnations that were begun concurrently are read together.
//!
//! No mark is needed for that. Whoever made an update had observed its incarnations, so wherever the update is applied
//! they have been applied before; one that is not there has ended, for ever, since dots are not used twice. An update of
//! an ended incarnation is dropped on arrival, and the end of an incarnation drops those that are there.
//!
//! Nothing here knows what an update says.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::cell::Held;
use crate::cells::{Cells, ReadCells, Table};
use crate::codec::{DecodeError, Reader, Writer};
use crate::edit::KeyEdit;
use crate::error::StoreError;
use crate::id::{Dot, Origin};
use crate::keys::Key;
use crate::path::{self, Leaf};
use crate::plan::{PlanError, Planner, Refusal, at_most};
use crate::txn::Add;
use crate::types::{DocOp, Type};
use crate::value::Value;
use crate::view::{KeyView, scan_cells};

const INCARNATION: u8 = 0;
const UPDATE: u8 = 1;

/// What a cell of a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Incarnation(Dot),
    Update(Dot, u32),
}

impl Place {
    /// Reads what follows the type's code.
    pub fn take(input: &mut Reader<'_>) -> Result<Place, DecodeError> {
        let kind = input.u8()?;
        let dot = Dot::new(Origin(input.u32()?), input.u64()?);
        match kind {
            INCARNATION => Ok(Place::Incarnation(dot)),
            UPDATE => Ok(Place::Update(dot, input.u32()?)),
            _ => Err(DecodeError::Malformed),
        }
    }

    /// Reads a whole path of a document's cell.
    fn of(path: &[u8]) -> Result<Place, DecodeError> {
        Place::take(&mut Reader::new(path.get(1..).unwrap_or_default()))
    }

    fn dot(self) -> Dot {
        match self {
            Place::Incarnation(dot) | Place::Update(dot, _) => dot,
        }
    }

    fn path(self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(Type::Doc.code());
        out.u8(if matches!(self, Place::Incarnation(_)) { INCARNATION } else { UPDATE });
        out.u32(self.dot().origin.0);
        out.u64(self.dot().seq);
        if let Place::Update(_, index) = self {
            out.u32(index);
        }
        out.finish()
    }
}

/// Where the cells of one kind are.
fn kind_prefix(kind: u8) -> [u8; 2] {
    [Type::Doc.code(), kind]
}

/// What the cell of an update holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Payload {
    /// The incarnations that lived where it was made, sorted; at least one.
    of: Vec<Dot>,
    update: Bytes,
}

impl Payload {
    fn encode(of: &[Dot], update: &[u8]) -> Vec<u8> {
        let mut out = Writer::new();
        out.varint(of.len() as u64);
        for dot in of {
            out.u32(dot.origin.0);
            out.varint(dot.seq);
        }
        out.raw(update);
        out.finish()
    }

    /// The update stays a slice of `payload`.
    fn decode(payload: &Bytes) -> Result<Payload, DecodeError> {
        let mut input = Reader::new(payload);
        let mut of: Vec<Dot> = Vec::new();
        for _ in 0..input.varint()? {
            let dot = Dot::new(Origin(input.u32()?), input.varint()?);
            if of.last().is_some_and(|last| *last >= dot) {
                return Err(DecodeError::Malformed);
            }
            of.push(dot);
        }
        if of.is_empty() || input.is_empty() {
            return Err(DecodeError::Malformed);
        }
        Ok(Payload { of, update: payload.slice_ref(input.rest()) })
    }
}

/// One update of a document, as it came from its editor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocUpdate {
    /// The txn that brought it.
    pub dot: Dot,
    /// Its place among the updates of that txn.
    pub index: u32,
    /// The stamp of that txn.
    pub hlc: u64,
    /// The update, in Yjs' encoding v1.
    pub bytes: Bytes,
}

/// What a document consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocState {
    /// The incarnations that live, sorted. None: the document does not exist.
    pub incarnations: Vec<Dot>,
    /// The updates that count, by (hlc, origin, seq, index), which is nearly the order in which they were made.
    pub updates: Vec<DocUpdate>,
}

/// All of a document, whatever else lives under its key. The cost is that of reading every update.
pub fn doc_state<C: ReadCells>(cells: &C, key: &Key) -> Result<DocState, StoreError<C::Error>> {
    let view = KeyView::open(cells, key)?;
    Ok(DocState { incarnations: incarnations(&view)?, updates: updates(&view)? })
}

/// The incarnations of a document that live, and whether the txn `dot` has brought an update to it that counts. The
/// cost does not depend on how large the document is.
pub fn doc_glance<C: ReadCells>(
    cells: &C,
    key: &Key,
    dot: Dot,
) -> Result<(Vec<Dot>, bool), StoreError<C::Error>> {
    let view = KeyView::open(cells, key)?;
    let counts = view.get(&Place::Update(dot, 0).path())?.is_some();
    Ok((incarnations(&view)?, counts))
}

pub(crate) fn plan<C: ReadCells>(
    p: &mut Planner<'_, C>,
    at: &[u8],
    op: &DocOp,
) -> Result<Option<Value>, PlanError<C::Error>> {
    if !at.is_empty() {
        return Err(Refusal::Nested.into());
    }
    let updates = op.updates();
    for update in updates {
        if update.is_empty() {
            return Err(Refusal::BadValue.into());
        }
        at_most("an update", update.len(), p.limits.value_bytes_max)?;
    }
    if updates.is_empty() {
        return Ok(None);
    }
    let rows = usize::try_from(p.view.header.collection(Type::Doc).rows).unwrap_or(usize::MAX);
    let after = rows.saturating_add(updates.len());
    at_most("a document's count of updates", after, p.limits.doc_updates_max)?;
    let own = p.ctx.dot;
    let mut of = incarnations(&p.view)?;
    if of.is_empty() {
        of.push(own);
        p.plan.add(Place::Incarnation(own).path(), Vec::new());
    }
    let first = own_updates(&p.view, own)?;
    for (update, index) in updates.iter().zip(first..) {
        p.plan.add(Place::Update(own, index).path(), Payload::encode(&of, update));
        p.check_count()?;
    }
    Ok(None)
}

/// How many updates the txn itself has brought already. They are numbered without gaps, so the last is found without
/// looking at all of them.
fn own_updates<C: ReadCells>(view: &KeyView<'_, C>, own: Dot) -> Result<u32, StoreError<C::Error>> {
    let is_there = |index| view.get(&Place::Update(own, index).path()).map(|cell| cell.is_some());
    let mut absent = 0;
    let mut step = 1;
    while is_there(absent)? {
        absent += step;
        step *= 2;
    }
    let mut present = absent.saturating_sub(step / 2);
    while absent - present > 1 {
        let middle = present + (absent - present) / 2;
        if is_there(middle)? {
            present = middle;
        } else {
            absent = middle;
        }
    }
    Ok(absent)
}

/// The incarnations that live, sorted.
fn incarnations<C: ReadCells>(view: &KeyView<'_, C>) -> Result<Vec<Dot>, StoreError<C::Error>> {
    let mut dots = Vec::new();
    let mut failed = None;
    view.scan_prefix(&kind_prefix(INCARNATION), &mut |path, _| match Place::of(path) {
        Ok(place) => {
            dots.push(place.dot());
            ControlFlow::Continue(())
        }
        Err(why) => {
            failed = Some(StoreError::corrupt(Table::CELL, path)(why));
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(dots), Err)
}

/// The updates that count, in the order of [`DocState::updates`].
pub(crate) fn updates<C: ReadCells>(view: &KeyView<'_, C>) -> Result<Vec<DocUpdate>, StoreError<C::Error>> {
    let mut updates = Vec::new();
    let mut failed = None;
    view.scan_prefix(&kind_prefix(UPDATE), &mut |path, stored| {
        for held in &stored.cell.dots {
            match update_of(path, held) {
                Ok(update) => updates.push(update),
                Err(why) => failed = Some(StoreError::corrupt(Table::CELL, path)(why)),
            }
        }
        if failed.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    updates.sort_by_key(|update| (update.hlc, update.dot, update.index));
    failed.map_or(Ok(updates), Err)
}

fn update_of(path: &[u8], held: &Held) -> Result<DocUpdate, DecodeError> {
    let Place::Update(dot, index) = Place::of(path)? else { return Err(DecodeError::Malformed) };
    let bytes = Payload::decode(&held.payload)?.update;
    Ok(DocUpdate { dot, index, hlc: held.hlc, bytes })
}

/// Whether an add to a document is one that an origin writes in the txn `dot`.
pub(crate) fn check_add(path: &[u8], payload: &Bytes, dot: Dot) -> Result<bool, DecodeError> {
    let place = Place::of(path)?;
    let fits = match place {
        Place::Incarnation(_) => payload.is_empty(),
        Place::Update(..) => Payload::decode(payload).map(|_| true)?,
    };
    Ok(fits && place.dot() == dot)
}

/// Cells of a document are removed all at once only.
pub(crate) fn check_removal(leaf: Leaf) -> Result<(), DecodeError> {
    if leaf.ty == Type::Doc { Err(DecodeError::Malformed) } else { Ok(()) }
}

/// Whether what is put into a document's cell counts here: all the incarnations that it names live.
pub(crate) fn counts<C: Cells>(
    edit: &KeyEdit<'_, C>,
    path: &[u8],
    add: Option<&Add>,
) -> Result<bool, StoreError<C::Error>> {
    let Some(add) = add else { return Ok(false) };
    match Place::of(path) {
        Ok(Place::Incarnation(_)) => Ok(true),
        Ok(Place::Update(..)) => match Payload::decode(&add.payload) {
            Ok(payload) => all_live(edit, &payload.of),
            Err(_) => Ok(false),
        },
        Err(_) => Ok(false),
    }
}

fn all_live<C: Cells>(edit: &KeyEdit<'_, C>, of: &[Dot]) -> Result<bool, StoreError<C::Error>> {
    for dot in of {
        if edit.get(&Place::Incarnation(*dot).path())?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Drops the updates of incarnations that have ended, if what was removed can have ended any. Says whether there were
/// some.
pub(crate) fn drop_orphans<C: Cells>(
    edit: &mut KeyEdit<'_, C>,
    removed: &[u8],
) -> Result<bool, StoreError<C::Error>> {
    if removed != [Type::Doc.code()] || edit.header.collection(Type::Doc).rows == 0 {
        return Ok(false);
    }
    let mut named: Vec<(Vec<u8>, Vec<Dot>)> = Vec::new();
    let mut failed = None;
    let from = kind_prefix(UPDATE);
    let prefix = edit.cell_prefix().to_vec();
    scan_cells(edit.cells, &edit.header, &prefix, &from, None, &mut |path, stored| {
        for held in &stored.cell.dots {
            match Payload::decode(&held.payload) {
                Ok(payload) => named.push((path.to_vec(), payload.of)),
                Err(why) => failed = Some(StoreError::corrupt(Table::CELL, path)(why)),
            }
        }
        if failed.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    let mut any = false;
    for (path, of) in named {
        if !all_live(edit, &of)? {
            edit.unit(&path, |unit| unit.cell.dots.clear())?;
            any = true;
        }
    }
    Ok(any)
}

/// How `explain` names a cell.
pub(crate) fn segments(path: &[u8]) -> Result<Vec<Value>, DecodeError> {
    let text = |text: &str| Value::Str(text.to_owned());
    Ok(match Place::of(path)? {
        Place::Incarnation(dot) => vec![text("incarnation"), text(&dot.to_string())],
        Place::Update(dot, index) => {
            vec![text("update"), text(&dot.to_string()), Value::Int(i64::from(index))]
        }
    })
}

/// What `explain` says of a cell's dot.
pub(crate) fn explained(path: &[u8], held: &Held) -> Result<Value, DecodeError> {
    match Place::of(path)? {
        Place::Incarnation(_) => Ok(Value::Bool(true)),
        Place::Update(..) => {
            let bytes = Payload::decode(&held.payload)?.update.len();
            Ok(Value::Int(i64::try_from(bytes).unwrap_or(i64::MAX)))
        }
    }
}

/// The update that an add puts in; nothing for the incarnation that stands beside it.
pub(crate) fn told(path: &[u8], payload: &Bytes) -> Result<Option<Bytes>, DecodeError> {
    match Place::of(path)? {
        Place::Incarnation(_) => Ok(None),
        Place::Update(..) => Ok(Some(Payload::decode(payload)?.update)),
    }
}

/// The path of a document as a whole.
pub(crate) fn whole() -> Vec<u8> {
    path::of_type(&[], Type::Doc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Replica, key, text};
    use crate::{MapOp, Mutation, RegisterOp, Txn, merge_state};

    const DELETE: Mutation = Mutation::Delete(None);

    /// An update that puts a character at the front of the text `t`.
    fn typed(client: u8, character: u8) -> Bytes {
        Bytes::copy_from_slice(&[1, 1, client, 0, 4, 1, 1, b't', 1, character, 0])
    }

    fn update(client: u8, character: u8) -> Mutation {
        Mutation::Doc(DocOp::Update(typed(client, character)))
    }

    fn reads(replica: &Replica) -> Option<String> {
        match replica.value()? {
            Value::Map(mut roots) => match roots.remove("t")? {
                Value::Str(text) => Some(text),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn golden_bytes_do_not_change() {
        let dot = Dot::new(Origin(7), 0x0102);
        let incarnation = [9, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 1, 2];
        assert_eq!(Place::Incarnation(dot).path(), incarnation);
        let update = [9, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3];
        assert_eq!(Place::Update(dot, 3).path(), update);
        for path in [&incarnation[..], &update] {
            assert_eq!(Place::of(path).map(Place::path), Ok(path.to_vec()));
            assert_eq!(path::parse(path).map(|leaf| leaf.ty), Ok(Type::Doc));
            assert!(path::parse(&path[..path.len() - 1]).is_err());
        }
        let payload = Payload::encode(&[dot], &[0, 0]);
        assert_eq!(payload, [1, 0, 0, 0, 7, 0x82, 2, 0, 0]);
        let decoded = Payload { of: vec![dot], update: Bytes::from_static(&[0, 0]) };
        assert_eq!(Payload::decode(&payload.into()), Ok(decoded));
    }

    #[test]
    fn an_update_that_arrives_after_the_end_of_its_incarnation_is_not_kept() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let made = a.write(1, update(1, b'a'));
        b.receive(&made);
        let (gone, late) = (a.write(2, DELETE), b.write(3, update(2, b'b')));
        let glance = |r: &Replica| doc_glance(&r.cells, &key(), late.head.dot).expect("memory");
        assert_eq!(glance(&b), (vec![made.head.dot], true));
        a.receive(&late);
        assert_eq!(glance(&a), (vec![], false));
        // The delete was of all that there was, so its rows are left to the sweep.
        assert_eq!((a.value(), a.digest()), (None, 0));
        a.settle();
        assert_eq!(a.rows(Table::CELL), 0);
        b.receive(&gone);
        assert_eq!((b.value(), b.digest(), b.rows(Table::CELL)), (None, 0, 0));
    }

    #[test]
    fn a_document_made_again_takes_nothing_over_from_the_one_that_was_deleted() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let made = a.write(1, update(1, b'a'));
        b.receive(&made);
        let late = b.write(2, update(2, b'b'));
        let ops = [(key(), DELETE), (key(), update(3, b'c'))];
        let again = a.commit(3, &ops).0;
        a.receive(&late);
        b.receive(&again);
        assert_eq!((reads(&a).as_deref(), reads(&b).as_deref()), (Some("c"), Some("c")));
        assert_eq!(a.digest(), b.digest());
    }

    #[test]
    fn a_delete_ends_only_the_incarnations_that_it_observed() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let one = a.write(1, update(1, b'a'));
        let other = b.write(1, update(2, b'b'));
        let gone = a.write(2, DELETE);
        b.receive(&one);
        // Made with both incarnations before its eyes, so it may build on either.
        let on_both = b.write(3, update(3, b'c'));
        b.receive(&gone);
        for txn in [&other, &on_both] {
            a.receive(txn);
        }
        assert_eq!((reads(&a).as_deref(), reads(&b).as_deref()), (Some("b"), Some("b")));
        assert_eq!(a.digest(), b.digest());
    }

    #[test]
    fn an_update_whose_incarnation_ended_on_the_other_side_is_dropped_by_a_merge() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let made = a.write(1, update(1, b'a'));
        b.receive(&made);
        a.write(2, DELETE);
        b.write(3, update(2, b'b'));
        merge_state(&a.cells, &a.vector, &mut b.cells, &b.vector, 9).expect("memory");
        assert_eq!((b.value(), b.digest(), b.rows(Table::CELL)), (None, 0, 0));
    }

    #[test]
    fn the_updates_of_one_txn_keep_their_order_however_many_operations_brought_them() {
        let mut a = Replica::new(1);
        let ops: Vec<_> = (0..40u8)
            .map(|n| {
                let all = (0..n % 4).map(|i| typed(n, b'a' + i)).collect();
                (key(), Mutation::Doc(DocOp::UpdateAll(all)))
            })
            .collect();
        let asked: Vec<Bytes> = ops
            .iter()
            .flat_map(|(_, m)| if let Mutation::Doc(op) = m { op.updates().to_vec() } else { vec![] })
            .collect();
        a.commit(1, &ops);
        let state = doc_state(&a.cells, &key()).expect("memory");
        assert_eq!(state.incarnations, [Dot::new(Origin(1), 1)]);
        assert_eq!(state.updates.iter().map(|update| update.bytes.clone()).collect::<Vec<_>>(), asked);
        let indexes: Vec<u32> = state.updates.iter().map(|update| update.index).collect();
        assert_eq!(indexes, (0..60).collect::<Vec<_>>());
    }

    #[test]
    fn a_keystroke_touches_a_handful_of_rows_however_long_the_document_is() {
        let mut a = Replica::new(1);
        for n in 0..2_000u32 {
            a.write(u64::from(n), update((n % 100) as u8, b'x'));
        }
        let (reads, scanned, writes) = (a.cells.reads.get(), a.cells.scanned.get(), a.cells.writes);
        let txn: Txn = a.write(9_000, update(1, b'y'));
        assert_eq!(txn.effects[0].adds.len(), 1);
        let used = (a.cells.reads.get() - reads, a.cells.scanned.get() - scanned, a.cells.writes - writes);
        assert!(used.0 <= 8 && used.1 <= 1 && used.2 <= 3, "{used:?}");
    }

    #[test]
    fn what_a_document_does_not_take_is_refused() {
        let mut a = Replica::new(1);
        let field = MapOp::Update { field: "f".into(), mutation: Box::new(update(1, b'a')) };
        assert_eq!(a.refusal(Mutation::Map(field)), Refusal::Nested);
        assert_eq!(a.refusal(Mutation::Doc(DocOp::Update(Bytes::new()))), Refusal::BadValue);
        let large = Mutation::Doc(DocOp::Update(vec![0; 2 << 20].into()));
        assert!(matches!(a.refusal(large), Refusal::TooLarge { .. }));
        assert!(a.write(1, Mutation::Doc(DocOp::UpdateAll(vec![]))).effects.is_empty());
        a.write(1, update(1, b'a'));
        let wrong = Refusal::WrongType { live: Type::Doc, asked: Type::Register };
        assert_eq!(a.refusal(Mutation::Register(RegisterOp::Set(text("v")))), wrong);
    }

    #[test]
    fn effects_that_no_origin_writes_are_not_valid() {
        let dot = Dot::new(Origin(1), 4);
        let other = Dot::new(Origin(1), 5);
        let payload = |bytes: Vec<u8>| Bytes::from(bytes);
        let good = payload(Payload::encode(&[dot], &[0, 0]));
        let is_valid = |place: Place, payload: &Bytes| check_add(&place.path(), payload, dot) == Ok(true);
        assert!(is_valid(Place::Update(dot, 0), &good) && is_valid(Place::Incarnation(dot), &Bytes::new()));
        assert!(!is_valid(Place::Update(other, 0), &good), "under the dot of another txn");
        assert!(!is_valid(Place::Incarnation(other), &Bytes::new()), "under the dot of another txn");
        assert!(!is_valid(Place::Incarnation(dot), &good), "an incarnation says nothing");
        for bad in
            [vec![0, 0], Payload::encode(&[dot], &[]), Payload::encode(&[other, dot], &[0]), vec![1, 0]]
        {
            assert!(!is_valid(Place::Update(dot, 0), &payload(bad)));
        }
        assert!(check_removal(path::parse(&Place::Incarnation(dot).path()).expect("a path")).is_err());
    }
}
