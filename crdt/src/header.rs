//! The header of a key: local bookkeeping, and the cells of a single-valued type.
//!
//! ```text
//! header  version=1 | queued varint | changed varint | digest u128 | touched vector | fields varint
//!         | count | (type u8, visible varint) ...
//!         | count | (type u8, generation varint, rows varint, counters varint, floors varint,
//!           unswept varint) ...
//!         | count | (path bytes, cell bytes) ...
//! ```
//!
//! A header is not content: nothing in it is compared between datacenters but the digest, which is computed from what
//! can be observed in the cells. It says in O(1) what types are live, how many elements are there, and who last
//! touched the key, also when the key is absent.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::cell::{Stored, cell_bytes, winning_payload, write_cell};
use crate::codec::{DecodeError, Reader, Writer};
use crate::path::Leaf;
use crate::small::SmallMap;
use crate::types::Type;
use crate::vector::Vector;

const VERSION: u8 = 1;
/// Room for a header without cells and dots, nearly always enough.
const FRAME_BYTES: usize = 64;
/// Room for the two lengths before an inline cell.
const CELL_FRAME_BYTES: usize = 12;

/// The digest of what can be observed in a key: opaque, equal in all datacenters at equal contents, 0 for an absent
/// key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version(pub u128);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.digits().as_str())
    }
}

/// The two digits of each byte.
const HEX: [[u8; 2]; 256] = {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [DIGITS[byte >> 4], DIGITS[byte & 15]];
        byte += 1;
    }
    pairs
};

/// A version as text, which needs no allocation.
#[derive(Clone, Copy, Debug)]
pub struct Digits([u8; 32]);

impl Digits {
    /// 32 digits of lower-case hexadecimal.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_else(|_| unreachable!("digits are ASCII"))
    }
}

impl Version {
    /// What `Display` writes.
    pub fn digits(self) -> Digits {
        let mut text = [0; 32];
        let (pairs, _) = text.as_chunks_mut();
        for (pair, byte) in pairs.iter_mut().zip(self.0.to_be_bytes()) {
            *pair = HEX[usize::from(byte)];
        }
        Digits(text)
    }

    /// Reads what `Display` writes: 32 digits of lower-case hexadecimal.
    pub fn parse(text: &str) -> Option<Version> {
        let digits = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 32 || !text.bytes().all(digits) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(Version)
    }
}

/// Where the cells of a collection stand, and what a clear has left behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Collection {
    /// The number in the rows of its cells. A clear that leaves its cells for the sweep raises it; it starts again from
    /// 0 when no row of any generation is left.
    pub generation: u64,
    /// How many rows this generation has.
    pub rows: u64,
    /// How many of these are cells of counters.
    pub counters: u64,
    /// How many of these are floors of counters.
    pub floors: u64,
    /// How many earlier generations still wait to be swept.
    pub unswept: u64,
}

impl Collection {
    /// Counts a row that came to be or ceased to be.
    pub fn count_row(&mut self, leaf: Leaf, is: bool) {
        let counter = leaf.counter.is_some();
        let step = |count: &mut u64, counts: bool| {
            let by = u64::from(counts);
            *count = if is { *count + by } else { count.saturating_sub(by) };
        };
        step(&mut self.rows, true);
        step(&mut self.counters, counter && !leaf.floor);
        step(&mut self.floors, leaf.floor);
    }
}

/// The path of a cell in its header, mostly a single byte.
pub(crate) type Path = SmallVec<[u8; 16]>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    /// The number of the header's row in the sweep queue; 0 for none.
    pub queued: u64,
    /// The local index of the last change.
    pub changed: u64,
    /// The sum of what the cells add.
    pub digest: u128,
    /// The dots that last touched the key, without what was stable then.
    pub touched: Vector,
    /// How many fields of the map read as something.
    pub fields: u64,
    /// How many cells of each type read as something; never 0.
    pub visible: SmallMap<Type, u64, 1>,
    /// The types whose cells have rows of their own, if there are any rows.
    pub collections: SmallMap<Type, Collection, 1>,
    /// The cells of single-valued types.
    pub inline: SmallMap<Path, Stored, 1>,
}

impl Header {
    /// The type that the key is shown as: of the live ones the one with the smallest code.
    pub fn shown(&self) -> Option<Type> {
        self.visible.keys().next().copied()
    }

    pub fn is_absent(&self) -> bool {
        self.visible.is_empty()
    }

    /// Whether a single cell of the key reads as something, and no other has a row. That is how most keys are.
    pub fn has_one_visible_cell(&self) -> bool {
        self.collections.is_empty() && self.visible.iter().map(|(_, count)| *count).sum::<u64>() == 1
    }

    /// Counts a cell of `ty` that came to be visible or ceased to be.
    pub fn count(&mut self, ty: Type, was: bool, is: bool) {
        if was == is {
            return;
        }
        let count = self.visible.get(&ty).copied().unwrap_or_default();
        match if is { count + 1 } else { count.saturating_sub(1) } {
            0 => self.visible.remove(&ty),
            count => self.visible.insert(ty, count),
        };
    }

    /// Whether there is no cell left for which the header would be needed, nor a row of one that is gone: the header
    /// keeps later cells apart from those.
    pub fn is_bare(&self) -> bool {
        self.is_absent() && self.collections.is_empty() && self.inline.is_empty()
    }

    /// Where the cells of `ty` stand.
    pub fn collection(&self, ty: Type) -> Collection {
        self.collections.get(&ty).copied().unwrap_or_default()
    }

    /// Changes what is noted of a collection, and forgets one that has no row left.
    pub fn change_collection(&mut self, ty: Type, change: impl FnOnce(&mut Collection)) {
        let mut collection = self.collection(ty);
        change(&mut collection);
        if collection.rows == 0 && collection.unswept == 0 {
            self.collections.remove(&ty);
        } else {
            self.collections.insert(ty, collection);
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let cells = self
            .inline
            .iter()
            .map(|(path, stored)| CELL_FRAME_BYTES + path.len() + cell_bytes(&stored.cell, stored.queued));
        let mut out = Writer::with_capacity(FRAME_BYTES + 14 * self.touched.len() + cells.sum::<usize>());
        out.u8(VERSION);
        out.varint(self.queued);
        out.varint(self.changed);
        out.u128(self.digest);
        self.touched.encode(&mut out);
        out.varint(self.fields);
        out.varint(self.visible.len() as u64);
        for (ty, count) in self.visible.iter() {
            out.u8(ty.code());
            out.varint(*count);
        }
        out.varint(self.collections.len() as u64);
        for (ty, collection) in self.collections.iter() {
            out.u8(ty.code());
            out.varint(collection.generation);
            out.varint(collection.rows);
            out.varint(collection.counters);
            out.varint(collection.floors);
            out.varint(collection.unswept);
        }
        out.varint(self.inline.len() as u64);
        for (path, stored) in self.inline.iter() {
            out.bytes(path);
            out.varint(cell_bytes(&stored.cell, stored.queued) as u64);
            write_cell(&mut out, &stored.cell, stored.queued);
        }
        out.finish()
    }

    pub fn decode(row: &Bytes) -> Result<Header, DecodeError> {
        let mut input = Reader::new(row);
        let mut header = Self::decode_beginning(&mut input)?;
        for _ in 0..input.varint()? {
            let path = Path::from_slice(input.bytes()?);
            let stored = Stored::decode_part(row, input.bytes()?)?;
            header.inline.insert(path, stored);
        }
        input.finish()?;
        Ok(header)
    }

    /// Reads all but the cells, which may be a thousand times as long, and leaves these out.
    pub fn decode_without_cells(row: &[u8]) -> Result<Header, DecodeError> {
        Self::decode_beginning(&mut Reader::new(row))
    }

    fn decode_beginning(input: &mut Reader<'_>) -> Result<Header, DecodeError> {
        let Front { queued, changed, digest, touched, fields } = Front::decode(input)?;
        let mut header = Header { queued, changed, digest, touched, fields, ..Header::default() };
        for _ in 0..input.varint()? {
            let ty = Type::from_code(input.u8()?).ok_or(DecodeError::Malformed)?;
            header.visible.insert(ty, input.varint()?);
        }
        for _ in 0..input.varint()? {
            let ty = Type::from_code(input.u8()?).ok_or(DecodeError::Malformed)?;
            let collection = Collection {
                generation: input.varint()?,
                rows: input.varint()?,
                counters: input.varint()?,
                floors: input.varint()?,
                unswept: input.varint()?,
            };
            header.collections.insert(ty, collection);
        }
        Ok(header)
    }
}

/// What every header row begins with.
struct Front {
    queued: u64,
    changed: u64,
    digest: u128,
    touched: Vector,
    fields: u64,
}

impl Front {
    fn decode(input: &mut Reader<'_>) -> Result<Front, DecodeError> {
        match input.u8()? {
            VERSION => {}
            other => return Err(DecodeError::UnknownVersion(other)),
        }
        Ok(Front {
            queued: input.varint()?,
            changed: input.varint()?,
            digest: input.u128()?,
            touched: Vector::decode(input)?,
            fields: input.varint()?,
        })
    }
}

/// A key that is a register and nothing else, as most keys are, in its header row.
pub(crate) struct LoneRegister<'r> {
    /// As in [`Header`].
    pub changed: u64,
    /// As in [`Header`].
    pub digest: u128,
    /// As in [`Header`].
    pub touched: Vector,
    /// The payload of the value that is read.
    pub payload: &'r [u8],
}

impl<'r> LoneRegister<'r> {
    /// Reads a header row; nothing if the key is of another kind. What it says is what [`Header::decode`] says, at a fraction
    /// of the cost.
    pub fn decode(row: &'r [u8]) -> Result<Option<Self>, DecodeError> {
        let mut input = Reader::new(row);
        let Front { changed, digest, touched, .. } = Front::decode(&mut input)?;
        let code = Type::Register.code();
        // One type reads as something, which is a register, in one cell; nothing has rows of its own; one cell is here.
        for expected in [1, code, 1, 0, 1] {
            if input.u8()? != expected {
                return Ok(None);
            }
        }
        if input.bytes()? != [code] {
            return Ok(None);
        }
        let payload = winning_payload(input.bytes()?)?;
        input.finish()?;
        Ok(payload.map(|payload| LoneRegister { changed, digest, touched, payload }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::{Cell, Held};
    use crate::id::{Dot, Origin};

    fn sample() -> Header {
        let held = Held { dot: Dot::new(Origin(1), 2), hlc: 3, payload: Bytes::from_static(&[1]) };
        let stored = Stored { cell: Cell { dots: smallvec::smallvec![held] }, queued: 0 };
        let collection = Collection { generation: 9, rows: 300, counters: 3, floors: 2, unswept: 1 };
        Header {
            queued: 4,
            changed: 300,
            digest: 7,
            touched: [Dot::new(Origin(1), 2)].into_iter().collect(),
            fields: 0,
            visible: [(Type::Register, 1)].into_iter().collect(),
            collections: [(Type::Map, collection)].into_iter().collect(),
            inline: [(Path::from_slice(&[1]), stored)].into_iter().collect(),
        }
    }

    #[test]
    fn golden_bytes_do_not_change() {
        let mut golden = vec![1, 4, 0xac, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        golden.extend_from_slice(&[1, 0, 0, 0, 1, 2, 0, 1, 1, 1, 1, 8, 9, 0xac, 2, 3, 2, 1]);
        golden.extend_from_slice(&[1, 1, 1, 18, 1, 0, 1, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 3, 1, 1]);
        assert_eq!(sample().encode(), golden);
        let without_cells = Header { inline: SmallMap::default(), ..sample() };
        assert_eq!(Header::decode_without_cells(&golden), Ok(without_cells));
        assert_eq!(Header::decode(&golden.into()), Ok(sample()));
    }

    #[test]
    fn every_truncation_is_refused() {
        let row = Bytes::from(sample().encode());
        for n in 0..row.len() {
            assert!(Header::decode(&row.slice(..n)).is_err());
        }
    }

    #[test]
    fn versions_round_trip_as_text() {
        let version = Version(0xabc);
        assert_eq!(Version::parse(&version.to_string()), Some(version));
        for bad in ["", "abc", "+0000000000000000000000000000abc", &"A".repeat(32)] {
            assert_eq!(Version::parse(bad), None);
        }
    }
}
