//! The cell: the smallest piece of replicated state, and what of it can be observed.
//!
//! ```text
//! cell    version=1 | queued varint | count varint | held ...
//! held    origin u32 | seq varint | hlc u64 | payload bytes
//! ```
//!
//! A cell holds at most one dot per origin, sorted by origin. `queued` is local bookkeeping: the number of the cell's
//! row in the sweep queue, 0 for none. A cell knows nothing of the vector that decides what it may drop.

use bytes::Bytes;
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_128;

use crate::codec::{DecodeError, Reader, Writer, varint_bytes};
use crate::id::{Dot, Origin};
use crate::types::Type;
use crate::types::{counter, doc};

const VERSION: u8 = 1;

/// What a dot takes among what is observed, beside its payload; with the lengths of all that is observed, nearly enough.
const OBSERVED_DOT_BYTES: usize = 40;

/// The payload of a dot that adds to a remove-wins cell.
pub(crate) const PLUS: &[u8] = b"+";
/// The payload of a dot that removes from a remove-wins cell.
pub(crate) const MINUS: &[u8] = b"-";

/// A dot in a cell, with what its txn put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The txn.
    pub dot: Dot,
    /// The stamp of that txn.
    pub hlc: u64,
    /// What the type keeps.
    pub payload: Bytes,
}

/// The live dots of one path: at most one per origin, in the order of origins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// The dots. There is mostly one.
    pub dots: SmallVec<[Held; 1]>,
}

impl Cell {
    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.dots.is_empty()
    }

    /// Drops the dots that `covered` names.
    pub fn drop_covered(&mut self, covered: impl Fn(Dot) -> bool) {
        self.dots.retain(|held| !covered(held.dot));
    }

    /// Puts a dot in the place of an earlier one of its origin. A later one that is there stays.
    pub fn put(&mut self, held: Held) {
        match self.dots.binary_search_by_key(&held.dot.origin, |h| h.dot.origin) {
            Ok(i) if self.dots[i].dot.seq <= held.dot.seq => self.dots[i] = held,
            Ok(_) => {}
            Err(i) => self.dots.insert(i, held),
        }
    }

    /// The dot that last-writer-wins reads: the highest (hlc, origin).
    pub fn winner(&self) -> Option<&Held> {
        self.dots.iter().max_by_key(|held| (held.hlc, held.dot.origin))
    }

    /// Whether a dot of another origin than `own` is held.
    pub(crate) fn has_foreign(&self, own: Origin) -> bool {
        self.dots.iter().any(|held| held.dot.origin != own)
    }

    /// Whether a removal stands here, so that stability may drop the cell.
    pub(crate) fn is_marked(&self, ty: Type) -> bool {
        ty.remove_wins() && self.dots.iter().any(|held| held.payload != PLUS)
    }

    /// Whether the cell reads as something.
    pub(crate) fn is_visible(&self, ty: Type) -> bool {
        !self.dots.is_empty() && !self.is_marked(ty)
    }
}

/// A cell as it is kept: with its place in the sweep queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stored {
    pub cell: Cell,
    pub queued: u64,
}

/// The row of a cell.
pub(crate) fn encode_cell(cell: &Cell, queued: u64) -> Vec<u8> {
    let mut out = Writer::with_capacity(cell_bytes(cell, queued));
    write_cell(&mut out, cell, queued);
    out.finish()
}

/// Appends what [`encode_cell`] makes.
pub(crate) fn write_cell(out: &mut Writer, cell: &Cell, queued: u64) {
    out.u8(VERSION);
    out.varint(queued);
    out.varint(cell.dots.len() as u64);
    for held in &cell.dots {
        out.u32(held.dot.origin.0);
        out.varint(held.dot.seq);
        out.u64(held.hlc);
        out.bytes(&held.payload);
    }
}

/// How many bytes [`encode_cell`] makes.
pub(crate) fn cell_bytes(cell: &Cell, queued: u64) -> usize {
    let held = |held: &Held| {
        let payload = held.payload.len();
        12 + varint_bytes(held.dot.seq) + varint_bytes(payload as u64) + payload
    };
    let dots: usize = cell.dots.iter().map(held).sum();
    1 + varint_bytes(queued) + varint_bytes(cell.dots.len() as u64) + dots
}

impl Stored {
    #[cfg(test)]
    pub fn encode(&self) -> Vec<u8> {
        encode_cell(&self.cell, self.queued)
    }

    /// Payloads stay slices of `row`.
    pub fn decode(row: &Bytes) -> Result<Stored, DecodeError> {
        Self::decode_part(row, row)
    }

    /// Decodes what a part of `row` holds. Payloads stay slices of `row`.
    pub fn decode_part(row: &Bytes, part: &[u8]) -> Result<Stored, DecodeError> {
        let mut dots: SmallVec<[Held; 1]> = SmallVec::new();
        let queued = read_cell(part, |dot, hlc, payload| {
            dots.push(Held { dot, hlc, payload: row.slice_ref(payload) });
        })?;
        Ok(Stored { cell: Cell { dots }, queued })
    }
}

/// Visits the dots of an encoded cell in the order of their origins, each with its stamp and its payload, and returns the
/// number of its row in the sweep queue.
fn read_cell<'c>(cell: &'c [u8], mut visit: impl FnMut(Dot, u64, &'c [u8])) -> Result<u64, DecodeError> {
    let mut input = Reader::new(cell);
    match input.u8()? {
        VERSION => {}
        other => return Err(DecodeError::UnknownVersion(other)),
    }
    let queued = input.varint()?;
    let mut last = None;
    for _ in 0..input.varint()? {
        let origin = Origin(input.u32()?);
        let dot = Dot::new(origin, input.varint()?);
        if last.replace(origin).is_some_and(|last| last >= origin) {
            return Err(DecodeError::Malformed);
        }
        let hlc = input.u64()?;
        visit(dot, hlc, input.bytes()?);
    }
    input.finish()?;
    Ok(queued)
}

/// The payload of [`Cell::winner`], where it stands in an encoded cell.
pub(crate) fn winning_payload(cell: &[u8]) -> Result<Option<&[u8]>, DecodeError> {
    let mut winner = None;
    read_cell(cell, |dot, hlc, payload| {
        let stamp = (hlc, dot.origin);
        if winner.is_none_or(|(highest, _)| stamp > highest) {
            winner = Some((stamp, payload));
        }
    })?;
    Ok(winner.map(|(_, payload)| payload))
}

/// What a cell adds to the digest of its key; 0 if it reads as nothing.
///
/// Of a counter's cell only what is above its floor counts, so that stability may drop the floor of a dead run, and of
/// a remove-wins cell nothing counts while a removal stands in it, so that stability may drop it whole. What of a document
/// stands in snapshots adds what its updates added, so that compaction changes nothing.
pub(crate) fn observe(key_row: &[u8], path: &[u8], ty: Type, cell: &Cell, floor: &Cell) -> u128 {
    if !cell.is_visible(ty) {
        return 0;
    }
    if ty == Type::Doc && doc::is_kept_apart(path) {
        return doc::observed(path, cell);
    }
    let payloads: usize = cell.dots.iter().map(|held| OBSERVED_DOT_BYTES + held.payload.len()).sum();
    let mut out = Writer::with_capacity(key_row.len() + path.len() + payloads);
    out.bytes(key_row);
    out.bytes(path);
    for held in &cell.dots {
        out.u32(held.dot.origin.0);
        out.u64(held.dot.seq);
        out.u64(held.hlc);
        match counter::net(ty, held, floor) {
            Some((run, net)) => {
                out.u64(run);
                out.u128(net as u128);
            }
            None => out.bytes(&held.payload),
        }
    }
    xxh3_128(out.as_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(origin: u32, seq: u64, hlc: u64, payload: &'static [u8]) -> Held {
        Held { dot: Dot::new(Origin(origin), seq), hlc, payload: Bytes::from_static(payload) }
    }

    #[test]
    fn golden_bytes_do_not_change() {
        let cell = Cell { dots: smallvec::smallvec![held(1, 300, 5, b"p"), held(2, 1, 6, b"")] };
        let golden = [
            1, 9, 2, 0, 0, 0, 1, 0xac, 2, 0, 0, 0, 0, 0, 0, 0, 5, 1, b'p', 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0,
            0, 6, 0,
        ];
        let stored = Stored { cell, queued: 9 };
        assert_eq!(stored.encode(), golden);
        assert_eq!(cell_bytes(&stored.cell, stored.queued), golden.len());
        assert_eq!(Stored::decode(&Bytes::copy_from_slice(&golden)), Ok(stored));
    }

    #[test]
    fn the_digest_of_a_cell_never_changes_between_versions() {
        let cell = Cell { dots: smallvec::smallvec![held(1, 300, 5, b"p")] };
        let digest = observe(b"s\0k", &[1], Type::Register, &cell, &Cell::default());
        assert_eq!(digest, 127_277_909_329_833_148_791_318_232_021_768_305_328);
    }

    #[test]
    fn every_truncation_is_refused() {
        let cell = Cell { dots: smallvec::smallvec![held(1, 300, 5, b"p")] };
        let row = Bytes::from(Stored { cell, queued: 0 }.encode());
        for n in 0..row.len() {
            assert!(Stored::decode(&row.slice(..n)).is_err());
        }
    }

    #[test]
    fn a_cell_keeps_one_dot_per_origin_in_their_order() {
        let mut cell = Cell::default();
        cell.put(held(2, 1, 0, b"a"));
        cell.put(held(1, 4, 0, b"b"));
        cell.put(held(1, 5, 0, b"c"));
        cell.put(held(1, 3, 0, b"late"));
        assert_eq!(cell.dots[..], [held(1, 5, 0, b"c"), held(2, 1, 0, b"a")]);
        cell.drop_covered(|dot| dot.origin == Origin(1));
        assert_eq!(cell.dots[..], [held(2, 1, 0, b"a")]);
    }

    #[test]
    fn the_winner_has_the_highest_stamp_and_then_the_highest_origin() {
        let cell =
            Cell { dots: smallvec::smallvec![held(1, 1, 9, b""), held(2, 1, 5, b""), held(3, 1, 9, b"")] };
        assert_eq!(cell.winner().map(|h| h.dot.origin), Some(Origin(3)));
    }
}
