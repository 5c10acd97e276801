//! Compaction: many updates of a document become one snapshot.
//!
//! ```text
//! 9 | 2 | of                 for each origin its newest update that stands in snapshots, as a dot with its stamp, and
//!                            with count varint | bytes varint | digest u128 of it and all before it
//! 9 | 3 | of | number        parts u32 | bytes u64
//! 9 | 4 | of | number | part bytes
//! ```
//!
//! It is local: every datacenter compacts when it likes, and contents do not change by it. So the updates of an origin to a
//! set of incarnations go into snapshots from the first one onward, without gaps, and what they added to the digest is
//! kept as their sum. What stands in the snapshots of a set is then known by the newest update of each origin, and a sum
//! covers that of every state that has compacted less. Deletion needs nothing more: the updates of a set count together or
//! not at all, and their snapshots with them.
//!
//! Nothing here knows what a snapshot says. Whoever has it made (`document`) puts everything into it that stands in the
//! updates and snapshots that it replaces; here it is checked that it replaces just those.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use super::place::{
    PART, Payload, Place, SNAPSHOT, SUMS, kind_prefix, of_prefix, parts_prefix, updates_from,
};
use super::{DocContent, DocState, DocUpdate, all_live, state_of};
use crate::cell::{Cell, Held, Stored, observe};
use crate::cells::{Cells, ReadCells, Table};
use crate::codec::{DecodeError, Reader, Writer};
use crate::edit::KeyEdit;
use crate::error::StoreError;
use crate::header::Header;
use crate::id::Dot;
use crate::keys::Key;
use crate::types::Type;
use crate::vector::Vector;
use crate::view::{KeyView, VisitCell, decoding};

/// The most bytes of one part of a snapshot.
pub const DOC_PART_BYTES_MAX: usize = 512 << 10;
/// The most parts of a snapshot.
pub const DOC_PARTS_MAX: u32 = 1024;

/// What of one origin stands in snapshots, up to a dot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    pub count: u64,
    pub bytes: u64,
    pub digest: u128,
}

impl Sum {
    fn encode(self) -> Bytes {
        let mut out = Writer::new();
        out.varint(self.count);
        out.varint(self.bytes);
        out.u128(self.digest);
        out.finish().into()
    }

    pub fn decode(payload: &[u8]) -> Result<Sum, DecodeError> {
        let mut input = Reader::new(payload);
        let sum = Sum { count: input.varint()?, bytes: input.varint()?, digest: input.u128()? };
        input.finish()?;
        Ok(sum)
    }

    /// Adds what updates hold.
    pub fn add<'u>(&mut self, updates: impl IntoIterator<Item = &'u Bytes>) {
        for update in updates {
            self.count += 1;
            self.bytes += update.len() as u64;
        }
    }
}

/// What cells that are kept apart add to the digest: what their updates added.
pub(crate) fn observed(path: &[u8], cell: &Cell) -> u128 {
    if path.get(1) != Some(&SUMS) {
        return 0;
    }
    // Its own encoding: a row that does not decode is found by whoever reads it.
    let sums = cell.dots.iter().filter_map(|held| Sum::decode(&held.payload).ok());
    sums.fold(0, |sum, one| sum.wrapping_add(one.digest))
}

/// A snapshot that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocSnapshot {
    /// The incarnations that its updates named.
    pub of: Vec<Dot>,
    /// Its number; in this datacenter alone.
    pub number: u64,
    /// What was put together, as its parts one after the other.
    pub bytes: Bytes,
}

/// A compaction that may be done: what it replaces, and what has to be in the snapshot that does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocTail {
    /// What is to be replaced, and by which number.
    pub compaction: DocCompaction,
    /// Everything that the snapshot must hold.
    pub content: DocContent,
}

/// Which updates a snapshot replaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DocCompaction {
    /// The incarnations that they name.
    pub of: Vec<Dot>,
    /// The number of the new snapshot.
    pub number: u64,
    /// Of each origin the last one that is replaced; with it all before it.
    pub upto: Vector,
    /// How many updates that are.
    pub count: u64,
    /// What they add to the digest.
    pub digest: u128,
    /// The snapshots that are replaced: all of the set.
    pub replaces: Vec<u64>,
    /// How many parts the new snapshot has.
    pub parts: u32,
    /// How many bytes the new snapshot has.
    pub bytes: u64,
}

/// Why a part or a compaction is not taken. Nothing was changed; a later one may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CompactRefusal {
    /// An incarnation that it names has ended.
    #[error("an incarnation of the document has ended")]
    Ended,
    /// The updates or snapshots that it replaces are not those that are there.
    #[error("the updates and snapshots are others than were read")]
    Changed,
    /// Parts of the snapshot are missing, or are too large or too many.
    #[error("the parts of the snapshot are not there")]
    Parts,
}

/// The documents among the keys from the header row `from` on that have at least `rows_min` rows, and where to look on.
/// `looked_max` keys are looked at.
#[expect(clippy::type_complexity, reason = "it is what it says")]
pub fn doc_long_tails<C: ReadCells>(
    cells: &C,
    from: &[u8],
    looked_max: usize,
    rows_min: u64,
) -> Result<(Vec<Key>, Option<Vec<u8>>), StoreError<C::Error>> {
    let (mut keys, mut looked, mut next, mut failed) = (Vec::new(), 0, None, None);
    cells.scan(Table::HEADER, from, None, &mut |row, value| {
        if looked == looked_max {
            next = Some(row.to_vec());
            return ControlFlow::Break(());
        }
        looked += 1;
        let is_long = Header::decode_without_cells(value)
            .map(|header| header.collection(Type::Doc).rows >= rows_min)
            .and_then(|is_long| Ok((is_long, Key::from_header_row(row)?)));
        match is_long {
            Ok((is_long, key)) => keys.extend(is_long.then_some(key)),
            Err(why) => failed = Some(StoreError::corrupt(Table::HEADER, row)(why)),
        }
        if failed.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    failed.map_or(Ok((keys, next)), Err)
}

/// Works out a compaction of the set of incarnations with the most updates, of about `updates_max` of these. `None` if no
/// set has as many as `updates_min`.
pub fn doc_tail<C: ReadCells>(
    cells: &C,
    key: &Key,
    updates_min: usize,
    updates_max: usize,
) -> Result<Option<DocTail>, StoreError<C::Error>> {
    let view = KeyView::open(cells, key)?;
    let state = state_of(&view)?;
    let mut by_set: BTreeMap<&Arc<[Dot]>, usize> = BTreeMap::new();
    for update in &state.updates {
        *by_set.entry(&update.of).or_default() += 1;
    }
    let Some((of, count)) = by_set.into_iter().max_by_key(|(_, count)| *count) else { return Ok(None) };
    if count < updates_min.max(1) {
        return Ok(None);
    }
    let of = of.clone();
    let mut compaction = DocCompaction { of: of.to_vec(), ..DocCompaction::default() };
    let mut content = DocContent::default();
    // The updates are sorted by stamps, which rise with the txns of an origin, and those of one txn stand together.
    let mut last = None;
    for of_cell in state.updates.chunk_by(|one, next| (one.dot, one.row) == (next.dot, next.row)) {
        let DocUpdate { dot, row, hlc, of: named, .. } = &of_cell[0];
        let own = *named == of;
        let taken = (compaction.count as usize) < updates_max || last == Some(*dot);
        let updates: Vec<Bytes> = of_cell.iter().map(|update| update.bytes.clone()).collect();
        if own && taken {
            last = Some(*dot);
            let payload = Payload::encode(&of, &updates).into();
            let cell = Cell { dots: smallvec::smallvec![Held { dot: *dot, hlc: *hlc, payload }] };
            let path = Place::Updates(*dot, *row).path();
            let digest = observe(&key.header_row(), &path, Type::Doc, &cell, &Cell::default());
            compaction.count += updates.len() as u64;
            compaction.digest = compaction.digest.wrapping_add(digest);
            compaction.upto.advance(*dot);
        }
        // What counts whenever this set does belongs into the snapshot: without it the rest could not be used.
        if (own && taken) || (!own && is_subset(named, &of)) {
            content.updates.extend(updates);
        }
    }
    for snapshot in state.snapshots.iter().filter(|snapshot| is_subset(&snapshot.of, &of)) {
        content.snapshots.push(snapshot.bytes.clone());
    }
    compaction.replaces =
        numbers(|visit| view.scan_prefix(&of_prefix(SNAPSHOT, &of), visit))?.into_iter().collect();
    let taken = numbers(|visit| view.scan_prefix(&of_prefix(PART, &of), visit))?.last().copied();
    compaction.number = taken.max(compaction.replaces.last().copied()).map_or(1, |last| last + 1);
    Ok(Some(DocTail { compaction, content }))
}

fn is_subset(one: &[Dot], other: &[Dot]) -> bool {
    one.iter().all(|dot| other.binary_search(dot).is_ok())
}

/// The numbers of the snapshots, or of the parts, of a set, among the cells that `scan` visits.
fn numbers<E>(
    scan: impl FnOnce(&mut VisitCell<'_>) -> Result<(), StoreError<E>>,
) -> Result<BTreeSet<u64>, StoreError<E>> {
    let mut numbers = BTreeSet::new();
    decoding(scan, |path, _| {
        if let Place::Snapshot(_, number) | Place::Part(_, number, _) = Place::of(path)? {
            numbers.insert(number);
        }
        Ok(())
    })?;
    Ok(numbers)
}

/// The snapshots that count, in the order of their sets and numbers.
pub(super) fn snapshots<C: ReadCells>(
    view: &KeyView<'_, C>,
) -> Result<Vec<DocSnapshot>, StoreError<C::Error>> {
    let mut found = Vec::new();
    let scan = |visit: &mut VisitCell<'_>| view.scan_prefix(&kind_prefix(SNAPSHOT), visit);
    decoding(scan, |path, stored| {
        found.push(record(path, &stored)?);
        Ok(())
    })?;
    let mut snapshots = Vec::new();
    for (of, number, bytes) in found {
        let bytes = read_parts(view, &of, number, bytes)?;
        snapshots.push(DocSnapshot { of, number, bytes });
    }
    Ok(snapshots)
}

/// The set, the number and the bytes of a snapshot.
fn record(path: &[u8], stored: &Stored) -> Result<(Vec<Dot>, u64, u64), DecodeError> {
    let (Place::Snapshot(of, number), [held]) = (Place::of(path)?, &stored.cell.dots[..]) else {
        return Err(DecodeError::Malformed);
    };
    let mut input = Reader::new(&held.payload);
    let (_, bytes) = (input.u32()?, input.u64()?);
    input.finish()?;
    Ok((of, number, bytes))
}

fn read_parts<C: ReadCells>(
    view: &KeyView<'_, C>,
    of: &[Dot],
    number: u64,
    bytes: u64,
) -> Result<Bytes, StoreError<C::Error>> {
    let prefix = parts_prefix(of, number);
    let mut parts: Vec<Bytes> = Vec::new();
    view.scan_prefix(&prefix, &mut |_, stored| {
        parts.extend(stored.cell.dots.into_iter().map(|held| held.payload));
        ControlFlow::Continue(())
    })?;
    let whole = match &parts[..] {
        [part] => part.clone(),
        _ => parts.concat().into(),
    };
    if whole.len() as u64 != bytes {
        return Err(StoreError::corrupt(Table::CELL, &prefix)(DecodeError::Truncated));
    }
    Ok(whole)
}

/// Whether what a txn has brought may stand in a snapshot.
pub(super) fn covers<C: ReadCells>(view: &KeyView<'_, C>, dot: Dot) -> Result<bool, StoreError<C::Error>> {
    let mut covers = false;
    view.scan_prefix(&kind_prefix(SUMS), &mut |_, stored| {
        covers = stored.cell.dots.iter().any(|held| held.dot.origin == dot.origin && held.dot.seq >= dot.seq);
        if covers { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(covers)
}

/// Puts a part of a snapshot in its place. It counts only once [`compact_doc`] says so.
pub fn stage_doc_part<C: Cells>(
    cells: &mut C,
    key: &Key,
    of: &[Dot],
    number: u64,
    part: u32,
    bytes: &Bytes,
) -> Result<Result<(), CompactRefusal>, StoreError<C::Error>> {
    if bytes.len() > DOC_PART_BYTES_MAX || part >= DOC_PARTS_MAX {
        return Ok(Err(CompactRefusal::Parts));
    }
    let mut edit = KeyEdit::open(cells, key, 0)?;
    if of.is_empty() || !all_live(&edit, of)? {
        return Ok(Err(CompactRefusal::Ended));
    }
    if edit.get(&Place::Snapshot(of.to_vec(), number).path())?.is_some() {
        return Ok(Err(CompactRefusal::Changed));
    }
    put_apart(&mut edit, &Place::Part(of.to_vec(), number, part), of, bytes.clone())?;
    edit.finish_sweep(false)?;
    Ok(Ok(()))
}

/// Takes out the parts of a snapshot that came to nothing.
pub fn unstage_doc_parts<C: Cells>(
    cells: &mut C,
    key: &Key,
    of: &[Dot],
    number: u64,
) -> Result<(), StoreError<C::Error>> {
    let mut edit = KeyEdit::open(cells, key, 0)?;
    if edit.get(&Place::Snapshot(of.to_vec(), number).path())?.is_some() {
        return Ok(());
    }
    let removed = remove_apart(&mut edit, &parts_prefix(of, number))?;
    // Where nothing was, there need not be a header either.
    if removed > 0 {
        edit.finish_sweep(false)?;
    }
    Ok(())
}

/// Lets a staged snapshot take the place of updates and of earlier snapshots, if these are just those that it names.
/// Nothing that can be observed changes. The cost is that of the updates that are replaced.
pub fn compact_doc<C: Cells>(
    cells: &mut C,
    key: &Key,
    compaction: &DocCompaction,
) -> Result<Result<(), CompactRefusal>, StoreError<C::Error>> {
    let DocCompaction { of, number, upto, count, digest, replaces, parts, bytes } = compaction;
    let header_row = key.header_row();
    let mut edit = KeyEdit::open(cells, key, 0)?;
    let there = numbers(|visit| edit.scan_prefix(&of_prefix(SNAPSHOT, of), visit))?;
    if of.is_empty() || !all_live(&edit, of)? {
        return Ok(Err(CompactRefusal::Ended));
    }
    if !there.iter().eq(replaces) || replaces.contains(number) {
        return Ok(Err(CompactRefusal::Changed));
    }
    if staged(&edit, of, *number)? != (u64::from(*parts), *bytes) {
        return Ok(Err(CompactRefusal::Parts));
    }
    let sums_path = Place::Sums(of.clone()).path();
    let mut sums = edit.get(&sums_path)?.unwrap_or_default().cell;
    let mut gone: Vec<Vec<u8>> = Vec::new();
    let mut all = Sum::default();
    for last in upto.iter() {
        let (mut sum, newest) = replaced(&edit, &header_row, of, last, &mut gone)?;
        let Some((dot, hlc)) = newest.filter(|(dot, _)| *dot == last) else {
            return Ok(Err(CompactRefusal::Changed));
        };
        all.count += sum.count;
        all.digest = all.digest.wrapping_add(sum.digest);
        if let Some(held) = sums.dots.iter().find(|held| held.dot.origin == last.origin) {
            let before = Sum::decode(&held.payload).map_err(StoreError::corrupt(Table::CELL, &sums_path))?;
            sum.count += before.count;
            sum.bytes += before.bytes;
            sum.digest = sum.digest.wrapping_add(before.digest);
        }
        sums.put(Held { dot, hlc, payload: sum.encode() });
    }
    if (all.count, all.digest) != (*count, *digest) {
        return Ok(Err(CompactRefusal::Changed));
    }
    let before = edit.header.digest;
    for path in &gone {
        edit.unit(path, |unit| unit.cell.dots.clear())?;
    }
    edit.unit(&sums_path, |unit| unit.cell = sums)?;
    assert_eq!(edit.header.digest, before, "compaction of {key} changed what can be observed");
    for old in replaces {
        remove_apart(&mut edit, &Place::Snapshot(of.clone(), *old).path())?;
        remove_apart(&mut edit, &parts_prefix(of, *old))?;
    }
    put_apart(&mut edit, &Place::Snapshot(of.clone(), *number), of, record_payload(*parts, *bytes))?;
    edit.finish_sweep(false)?;
    Ok(Ok(()))
}

fn record_payload(parts: u32, bytes: u64) -> Bytes {
    let mut out = Writer::new();
    out.u32(parts);
    out.u64(bytes);
    out.finish().into()
}

/// The updates of the set and of one origin up to `last`: their sum, the newest of them, and their paths.
#[expect(clippy::type_complexity, reason = "it is taken apart where it is called")]
fn replaced<C: Cells>(
    edit: &KeyEdit<'_, C>,
    header_row: &[u8],
    of: &[Dot],
    last: Dot,
    gone: &mut Vec<Vec<u8>>,
) -> Result<(Sum, Option<(Dot, u64)>), StoreError<C::Error>> {
    let (mut sum, mut newest) = (Sum::default(), None);
    let from = updates_from(Dot::new(last.origin, 0));
    let to = updates_from(Dot::new(last.origin, last.seq + 1));
    let scan = |visit: &mut VisitCell<'_>| edit.scan(&from, Some(&to), visit);
    decoding(scan, |path, stored| {
        for held in &stored.cell.dots {
            let payload = Payload::decode(&held.payload)?;
            if payload.of == of {
                let digest = observe(header_row, path, Type::Doc, &stored.cell, &Cell::default());
                sum.add(&payload.updates);
                sum.digest = sum.digest.wrapping_add(digest);
                newest = Some((held.dot, held.hlc));
                gone.push(path.to_vec());
            }
        }
        Ok(())
    })?;
    Ok((sum, newest))
}

/// How many parts, and bytes of these, are there of a snapshot.
fn staged<C: Cells>(
    edit: &KeyEdit<'_, C>,
    of: &[Dot],
    number: u64,
) -> Result<(u64, u64), StoreError<C::Error>> {
    let (mut parts, mut bytes) = (0, 0);
    edit.scan_prefix(&parts_prefix(of, number), &mut |_, stored| {
        parts += 1;
        bytes += stored.cell.dots.iter().map(|held| held.payload.len() as u64).sum::<u64>();
        ControlFlow::Continue(())
    })?;
    Ok((parts, bytes))
}

/// Writes a cell that adds nothing to the digest and is not seen by itself.
fn put_apart<C: Cells>(
    edit: &mut KeyEdit<'_, C>,
    place: &Place,
    of: &[Dot],
    payload: Bytes,
) -> Result<(), StoreError<C::Error>> {
    let path = place.path();
    let existed = edit.get(&path)?.is_some();
    // Its dot says nothing: the set is in its path.
    let Some(dot) = of.first().copied() else { return Ok(()) };
    let cell = Cell { dots: smallvec::smallvec![Held { dot, hlc: 0, payload }] };
    edit.write(&path, existed, Some(Stored { cell, queued: 0 }))
}

/// Removes the cells with a prefix that [`put_apart`] wrote.
fn remove_apart<C: Cells>(edit: &mut KeyEdit<'_, C>, prefix: &[u8]) -> Result<usize, StoreError<C::Error>> {
    let mut paths: Vec<Vec<u8>> = Vec::new();
    edit.scan_prefix(prefix, &mut |path, _| {
        paths.push(path.to_vec());
        ControlFlow::Continue(())
    })?;
    for path in &paths {
        edit.write(path, true, None)?;
    }
    Ok(paths.len())
}

/// The sets of which anything stands in snapshots, or is staged.
fn sets<C: Cells>(edit: &KeyEdit<'_, C>) -> Result<BTreeSet<Vec<Dot>>, StoreError<C::Error>> {
    let mut sets = BTreeSet::new();
    let (from, to) = (kind_prefix(SUMS), kind_prefix(PART + 1));
    let scan = |visit: &mut VisitCell<'_>| edit.scan(&from, Some(&to), visit);
    decoding(scan, |path, _| {
        if let Place::Sums(of) | Place::Snapshot(of, _) | Place::Part(of, ..) = Place::of(path)? {
            sets.insert(of);
        }
        Ok(())
    })?;
    Ok(sets)
}

/// Drops what stands in snapshots of sets of which an incarnation has ended. Says whether there was any.
pub(super) fn drop_ended<C: Cells>(edit: &mut KeyEdit<'_, C>) -> Result<bool, StoreError<C::Error>> {
    let mut any = false;
    for of in sets(edit)? {
        if all_live(edit, &of)? {
            continue;
        }
        any = true;
        edit.unit(&Place::Sums(of.clone()).path(), |unit| unit.cell.dots.clear())?;
        remove_apart(edit, &of_prefix(SNAPSHOT, &of))?;
        remove_apart(edit, &of_prefix(PART, &of))?;
    }
    Ok(any)
}

/// Merges what stands in snapshots of another state, after the updates were merged: of each origin the larger sum stands,
/// and the snapshots that it is of come along. An update that one side has in a snapshot was dropped from the other side
/// like one that was removed.
pub(crate) fn merge_apart<A: ReadCells<Error = B::Error>, B: Cells>(
    theirs: &KeyView<'_, A>,
    edit: &mut KeyEdit<'_, B>,
) -> Result<bool, StoreError<B::Error>> {
    let mut any = false;
    let DocState { snapshots, .. } = state_of(theirs)?;
    let sets: BTreeSet<Vec<Dot>> = snapshots.iter().map(|snapshot| snapshot.of.clone()).collect();
    for of in sets {
        let path = Place::Sums(of.clone()).path();
        let ours = edit.get(&path)?.unwrap_or_default().cell;
        let mut merged = ours.clone();
        theirs.get(&path)?.unwrap_or_default().dots.into_iter().for_each(|held| merged.put(held));
        if merged == ours {
            continue;
        }
        any = true;
        edit.unit(&path, |unit| unit.cell = merged)?;
        for snapshot in snapshots.iter().filter(|snapshot| snapshot.of == of) {
            take_over(edit, snapshot)?;
        }
    }
    Ok(any)
}

fn take_over<C: Cells>(
    edit: &mut KeyEdit<'_, C>,
    snapshot: &DocSnapshot,
) -> Result<(), StoreError<C::Error>> {
    let of = &snapshot.of;
    let mut last = 0;
    for kind in [SNAPSHOT, PART] {
        let there = numbers(|visit| edit.scan_prefix(&of_prefix(kind, of), visit))?;
        last = there.last().copied().unwrap_or(0).max(last);
    }
    let number = last + 1;
    let mut parts = 0;
    let mut left = snapshot.bytes.clone();
    while !left.is_empty() {
        let part = left.split_to(left.len().min(DOC_PART_BYTES_MAX));
        put_apart(edit, &Place::Part(of.clone(), number, parts), of, part)?;
        parts += 1;
    }
    let record = record_payload(parts, snapshot.bytes.len() as u64);
    put_apart(edit, &Place::Snapshot(of.clone(), number), of, record)
}
