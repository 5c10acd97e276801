//! The document: updates of Yjs under the incarnations that they were made in.
//!
//! An update names the incarnations that lived where it was made; if none did, its txn begins one. It counts while all
//! of them live, so a delete, which ends the incarnations that it observed, wins over the updates to them that it did
//! not observe. Incarnations that were begun concurrently are read together.
//!
//! No mark is needed for that. Whoever made an update had observed its incarnations, so wherever the update is applied
//! they have been applied before; one that is not there has ended, for ever, since dots are not used twice. An update of
//! an ended incarnation is dropped on arrival, and the end of an incarnation drops those that are there.
//!
//! `place` says where all of it is kept, and `compact` how many updates become one snapshot. Nothing here knows what an
//! update says.

mod compact;
mod explained;
mod place;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::cell::Held;
use crate::cells::{Cells, ReadCells};
use crate::codec::DecodeError;
use crate::edit::KeyEdit;
use crate::error::StoreError;
use crate::id::Dot;
use crate::keys::Key;
use crate::path::{self, Leaf};
use crate::plan::{PlanError, Planner, Refusal, at_most};
use crate::txn::Add;
use crate::types::{DocOp, Type};
use crate::value::Value;
use crate::view::{KeyView, VisitCell, decoding};

pub use compact::{
    CompactRefusal, DOC_PART_BYTES_MAX, DOC_PARTS_MAX, DocCompaction, DocSnapshot, DocTail, compact_doc,
    doc_long_tails, doc_tail, stage_doc_part, unstage_doc_parts,
};
pub(crate) use compact::{merge_apart, observed};
pub(crate) use explained::explained;
use place::{INCARNATION, Payload, UPDATES, kind_prefix};
pub(crate) use place::{Place, is_kept_apart};

/// The most bytes of updates that share a cell. A larger one has a cell of its own.
const RUN_BYTES_MAX: usize = 4096;
/// The most updates that share a cell: how long a document is known by its cells.
const RUN_UPDATES_MAX: usize = 16;

/// One update of a document, as it came from its editor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocUpdate {
    /// The txn that brought it.
    pub dot: Dot,
    /// The place of its cell among those of that txn. Updates of one cell stand together, in their order.
    pub row: u32,
    /// The stamp of that txn.
    pub hlc: u64,
    /// The incarnations that it names.
    pub of: Arc<[Dot]>,
    /// The update, in Yjs' encoding v1.
    pub bytes: Bytes,
}

/// What a document consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocState {
    /// The incarnations that live, sorted. None: the document does not exist.
    pub incarnations: Vec<Dot>,
    /// What was compacted.
    pub snapshots: Vec<DocSnapshot>,
    /// The updates that count and were not compacted, by (hlc, origin, seq, row), which is nearly the order in which they
    /// were made.
    pub updates: Vec<DocUpdate>,
}

impl DocState {
    /// What it says, and how it came to say that left out.
    pub fn content(&self) -> DocContent {
        DocContent {
            snapshots: self.snapshots.iter().map(|snapshot| snapshot.bytes.clone()).collect(),
            updates: self.updates.iter().map(|update| update.bytes.clone()).collect(),
        }
    }
}

/// What a document says: all of these together, in any order and each as often as one likes. How much of it stands in
/// snapshots depends on where it is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocContent {
    /// Encoded [`Snapshot`](crate::Snapshot)s.
    pub snapshots: Vec<Bytes>,
    /// Updates, by (hlc, origin, seq) and in the order in which their txn has them.
    pub updates: Vec<Bytes>,
}

impl DocContent {
    /// Bytes of all of it.
    pub fn bytes(&self) -> usize {
        self.snapshots.iter().chain(&self.updates).map(Bytes::len).sum()
    }
}

/// Whether a txn has brought an update to a document that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocCounts {
    /// It has.
    Yes,
    /// It has not: there is none, or its incarnation has ended.
    No,
    /// If it has, the update stands in a snapshot by now.
    Perhaps,
}

/// All of a document, whatever else lives under its key. The cost is that of reading every update.
pub fn doc_state<C: ReadCells>(cells: &C, key: &Key) -> Result<DocState, StoreError<C::Error>> {
    state_of(&KeyView::open(cells, key)?)
}

fn state_of<C: ReadCells>(view: &KeyView<'_, C>) -> Result<DocState, StoreError<C::Error>> {
    Ok(DocState {
        incarnations: incarnations(view)?,
        snapshots: compact::snapshots(view)?,
        updates: updates(view)?,
    })
}

/// The incarnations of a document that live, sorted; none if it does not exist.
pub fn doc_incarnations<C: ReadCells>(cells: &C, key: &Key) -> Result<Vec<Dot>, StoreError<C::Error>> {
    incarnations(&KeyView::open(cells, key)?)
}

/// What a key that is a document says.
pub(crate) fn content<C: ReadCells>(view: &KeyView<'_, C>) -> Result<DocContent, StoreError<C::Error>> {
    Ok(state_of(view)?.content())
}

/// The incarnations of a document that live, and whether the txn `dot` has brought an update to it that counts. The
/// cost does not depend on how large the document is.
pub fn doc_glance<C: ReadCells>(
    cells: &C,
    key: &Key,
    dot: Dot,
) -> Result<(Vec<Dot>, DocCounts), StoreError<C::Error>> {
    let view = KeyView::open(cells, key)?;
    let incarnations = incarnations(&view)?;
    let counts = if view.get(&Place::Updates(dot, 0).path())?.is_some() {
        DocCounts::Yes
    } else if compact::covers(&view, dot)? {
        DocCounts::Perhaps
    } else {
        DocCounts::No
    };
    Ok((incarnations, counts))
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
    let runs = match op {
        DocOp::UpdateEach(updates) => updates.chunks(1).collect(),
        DocOp::Update(_) | DocOp::UpdateAll(_) => runs(updates),
    };
    let rows = usize::try_from(p.view.header.collection(Type::Doc).rows).unwrap_or(usize::MAX);
    let after = rows.saturating_add(runs.len());
    at_most("a document's count of cells", after, p.limits.doc_cells_max)?;
    let own = p.ctx.dot;
    let mut of = incarnations(&p.view)?;
    if of.is_empty() {
        of.push(own);
        p.plan.add(Place::Incarnation(own).path(), Vec::new());
    }
    let first = own_rows(&p.view, own)?;
    for (run, row) in runs.into_iter().zip(first..) {
        p.plan.add(Place::Updates(own, row).path(), Payload::encode(&of, run));
        p.check_count()?;
    }
    Ok(None)
}

/// The updates in runs that share a cell: what a cell costs beside its content is much more than a keystroke.
fn runs(updates: &[Bytes]) -> Vec<&[Bytes]> {
    let (mut runs, mut rest) = (Vec::new(), updates);
    while !rest.is_empty() {
        let mut bytes = 0;
        let fits = |update: &&Bytes| {
            bytes += update.len();
            bytes <= RUN_BYTES_MAX
        };
        let (run, after) = rest.split_at(rest.iter().take(RUN_UPDATES_MAX).take_while(fits).count().max(1));
        runs.push(run);
        rest = after;
    }
    runs
}

/// In how many cells the txn itself has brought updates already. They are numbered without gaps, so the last is found
/// without looking at all of them.
fn own_rows<C: ReadCells>(view: &KeyView<'_, C>, own: Dot) -> Result<u32, StoreError<C::Error>> {
    let is_there = |row| view.get(&Place::Updates(own, row).path()).map(|cell| cell.is_some());
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
    let scan = |visit: &mut VisitCell<'_>| view.scan_prefix(&kind_prefix(INCARNATION), visit);
    decoding(scan, |path, _| {
        if let Place::Incarnation(dot) = Place::of(path)? {
            dots.push(dot);
        }
        Ok(())
    })?;
    Ok(dots)
}

/// Whether all of these are incarnations that live.
pub(crate) fn have<C: ReadCells>(view: &KeyView<'_, C>, dots: &[Dot]) -> Result<bool, StoreError<C::Error>> {
    are_all_there(dots, |path| Ok(view.get(path)?.is_some()))
}

/// The updates that count and stand by themselves, in the order of [`DocState::updates`].
fn updates<C: ReadCells>(view: &KeyView<'_, C>) -> Result<Vec<DocUpdate>, StoreError<C::Error>> {
    let mut updates: Vec<DocUpdate> = Vec::new();
    // Nearly all name the same incarnations.
    let mut sets: BTreeSet<Arc<[Dot]>> = BTreeSet::new();
    let scan = |visit: &mut VisitCell<'_>| view.scan_prefix(&kind_prefix(UPDATES), visit);
    decoding(scan, |path, stored| {
        for held in &stored.cell.dots {
            take_updates(path, held, &mut sets, &mut updates)?;
        }
        Ok(())
    })?;
    updates.sort_by_key(|update| (update.hlc, update.dot, update.row));
    Ok(updates)
}

fn take_updates(
    path: &[u8],
    held: &Held,
    sets: &mut BTreeSet<Arc<[Dot]>>,
    into: &mut Vec<DocUpdate>,
) -> Result<(), DecodeError> {
    let Place::Updates(dot, row) = Place::of(path)? else { return Err(DecodeError::Malformed) };
    let Payload { of, updates } = Payload::decode(&held.payload)?;
    let of = match sets.get(&of[..]) {
        Some(same) => same.clone(),
        None => {
            let of: Arc<[Dot]> = of.into();
            sets.insert(of.clone());
            of
        }
    };
    let update = |bytes| DocUpdate { dot, row, hlc: held.hlc, of: of.clone(), bytes };
    into.extend(updates.into_iter().map(update));
    Ok(())
}

/// Whether an add to a document is one that an origin writes in the txn `dot`.
pub(crate) fn check_add(path: &[u8], payload: &Bytes, dot: Dot) -> Result<bool, DecodeError> {
    Ok(match Place::of(path)? {
        Place::Incarnation(own) => payload.is_empty() && own == dot,
        Place::Updates(own, _) => Payload::decode(payload).map(|_| own == dot)?,
        Place::Sums(_) | Place::Snapshot(..) | Place::Part(..) => false,
    })
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
        Ok(Place::Updates(..)) => match Payload::decode(&add.payload) {
            Ok(payload) => all_live(edit, &payload.of),
            Err(_) => Ok(false),
        },
        Ok(Place::Sums(_) | Place::Snapshot(..) | Place::Part(..)) | Err(_) => Ok(false),
    }
}

fn all_live<C: Cells>(edit: &KeyEdit<'_, C>, of: &[Dot]) -> Result<bool, StoreError<C::Error>> {
    are_all_there(of, |path| Ok(edit.get(path)?.is_some()))
}

/// Whether each of these incarnations has its cell.
fn are_all_there<E>(dots: &[Dot], is_there: impl Fn(&[u8]) -> Result<bool, E>) -> Result<bool, E> {
    for dot in dots {
        if !is_there(&Place::Incarnation(*dot).path())? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Drops the updates and snapshots of incarnations that have ended, if what was removed can have ended any. Says whether there were
/// some.
pub(crate) fn drop_orphans<C: Cells>(
    edit: &mut KeyEdit<'_, C>,
    removed: &[u8],
) -> Result<bool, StoreError<C::Error>> {
    if removed != [Type::Doc.code()] || edit.header.collection(Type::Doc).rows == 0 {
        return Ok(false);
    }
    let mut named: Vec<(Vec<u8>, Vec<Dot>)> = Vec::new();
    let scan = |visit: &mut VisitCell<'_>| edit.scan_prefix(&kind_prefix(UPDATES), visit);
    decoding(scan, |path, stored| {
        for held in &stored.cell.dots {
            named.push((path.to_vec(), Payload::decode(&held.payload)?.of));
        }
        Ok(())
    })?;
    let mut any = compact::drop_ended(edit)?;
    for (path, of) in named {
        if !all_live(edit, &of)? {
            edit.unit(&path, |unit| unit.cell.dots.clear())?;
            any = true;
        }
    }
    Ok(any)
}

/// The updates that an add puts in; nothing for the incarnation that stands beside them.
pub(crate) fn told(path: &[u8], payload: &Bytes) -> Result<Option<Vec<Bytes>>, DecodeError> {
    match Place::of(path)? {
        Place::Updates(..) => Ok(Some(Payload::decode(payload)?.updates)),
        Place::Incarnation(_) | Place::Sums(_) | Place::Snapshot(..) | Place::Part(..) => Ok(None),
    }
}

/// The path of a document as a whole.
pub(crate) fn whole() -> Vec<u8> {
    path::of_type(&[], Type::Doc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::Table;
    use crate::testkit::{Replica, key, text};
    use crate::{MapOp, Mutation, Origin, RegisterOp, Txn, merge_state};

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
    fn an_update_that_arrives_after_the_end_of_its_incarnation_is_not_kept() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let made = a.write(1, update(1, b'a'));
        b.receive(&made);
        let (gone, late) = (a.write(2, DELETE), b.write(3, update(2, b'b')));
        let glance = |r: &Replica| doc_glance(&r.cells, &key(), late.head.dot).expect("memory");
        assert_eq!(glance(&b), (vec![made.head.dot], DocCounts::Yes));
        a.receive(&late);
        assert_eq!(glance(&a), (vec![], DocCounts::No));
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
        // A quarter of the operations brought none, and each of the others has a cell.
        let mut rows: Vec<u32> = state.updates.iter().map(|update| update.row).collect();
        rows.dedup();
        assert_eq!(rows, (0..30).collect::<Vec<_>>());
    }

    #[test]
    fn updates_that_are_written_together_share_cells_as_far_as_they_fit() {
        let of_bytes = |length: usize| Bytes::from(vec![7; length]);
        let lengths = [1000, 1000, 2096, 1, 4096, 1, 5000, 5000, 4095, 2];
        let updates = lengths.map(of_bytes);
        let shared = |runs: Vec<&[Bytes]>| {
            let of_run = |run: &[Bytes]| run.iter().map(Bytes::len).collect::<Vec<_>>();
            runs.into_iter().map(of_run).collect::<Vec<_>>()
        };
        let runs = shared(runs(&updates));
        let alone = |length| vec![length];
        assert_eq!(runs[0], [1000, 1000, 2096]);
        assert_eq!(runs[1..], [1, 4096, 1, 5000, 5000, 4095, 2].map(alone));
        let small = vec![of_bytes(1); 40];
        assert_eq!(super::runs(&small).into_iter().map(<[Bytes]>::len).collect::<Vec<_>>(), [16, 16, 8]);
        assert!(super::runs(&[]).is_empty());
    }

    #[test]
    fn what_older_logs_ask_for_comes_to_the_cells_of_then() {
        let cells = |op: DocOp| {
            let mut a = Replica::new(1);
            let txn = a.write(1, Mutation::Doc(op));
            let paths = txn.effects[0].adds.iter().map(|add| add.path.to_vec()).collect::<Vec<_>>();
            (paths, a.digest(), reads(&a))
        };
        let both = vec![typed(1, b'a'), typed(2, b'b')];
        let (each, together) = (cells(DocOp::UpdateEach(both.clone())), cells(DocOp::UpdateAll(both)));
        let own = Dot::new(Origin(1), 1);
        let [begun, first, second] =
            [Place::Incarnation(own), Place::Updates(own, 0), Place::Updates(own, 1)]
                .map(|place| place.path());
        assert_eq!(each.0, [&begun[..], &first, &second]);
        assert_eq!(together.0, [&begun[..], &first]);
        assert_eq!(each.2, together.2);
        // The digest of a state is what its entries made of it, so it must not change for those of then.
        assert_eq!(each.1, 200_303_888_743_378_230_166_203_291_299_399_835_229);
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
        let one = |update: &'static [u8]| [Bytes::from_static(update)];
        let good = payload(Payload::encode(&[dot], &one(&[0, 0])));
        let is_valid = |place: Place, payload: &Bytes| check_add(&place.path(), payload, dot) == Ok(true);
        assert!(is_valid(Place::Updates(dot, 0), &good) && is_valid(Place::Incarnation(dot), &Bytes::new()));
        assert!(!is_valid(Place::Updates(other, 0), &good), "under the dot of another txn");
        assert!(!is_valid(Place::Incarnation(other), &Bytes::new()), "under the dot of another txn");
        assert!(!is_valid(Place::Incarnation(dot), &good), "an incarnation says nothing");
        for bad in
            [vec![0, 0], Payload::encode(&[dot], &[]), Payload::encode(&[other, dot], &one(&[0])), vec![1, 0]]
        {
            assert!(!is_valid(Place::Updates(dot, 0), &payload(bad)));
        }
        assert!(check_removal(path::parse(&Place::Incarnation(dot).path()).expect("a path")).is_err());
    }
}
