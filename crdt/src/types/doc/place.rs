//! Where the cells of a document are, and what those of updates hold.
//!
//! ```text
//! path     9 | 0 | origin u32 | seq u64                an incarnation, by the dot of the txn that began it
//!          9 | 1 | origin u32 | seq u64 | row u32      updates, by the dot of their txn and the place of their cell there
//!          9 | 2 | of                                  what of a set of incarnations stands in snapshots
//!          9 | 3 | of | number u64                     a snapshot
//!          9 | 4 | of | number u64 | part u32          a part of a snapshot
//! of       count varint | (origin u32 | seq u64) ...   a set of incarnations, sorted
//! payload  of an incarnation: nothing
//!          of one update: count varint | (origin u32, seq varint) ... | the update, byte for byte as it came
//!          of several: 0 | count varint | (origin u32, seq varint) ... | (length varint | the update) ...
//!          the others': see `compact`
//! ```

use bytes::Bytes;

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Dot, Origin};
use crate::types::Type;

pub(super) const INCARNATION: u8 = 0;
pub(super) const UPDATES: u8 = 1;
pub(super) const SUMS: u8 = 2;
pub(super) const SNAPSHOT: u8 = 3;
pub(super) const PART: u8 = 4;
/// What stands in the payload of several updates where that of one has a count, which is never 0.
const SEVERAL: u8 = 0;

/// What a cell of a document is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Incarnation(Dot),
    Updates(Dot, u32),
    Sums(Vec<Dot>),
    Snapshot(Vec<Dot>, u64),
    Part(Vec<Dot>, u64, u32),
}

impl Place {
    /// Reads what follows the type's code.
    pub fn take(input: &mut Reader<'_>) -> Result<Place, DecodeError> {
        match input.u8()? {
            INCARNATION => Ok(Place::Incarnation(take_dot(input)?)),
            UPDATES => Ok(Place::Updates(take_dot(input)?, input.u32()?)),
            SUMS => Ok(Place::Sums(take_dots(input)?)),
            SNAPSHOT => Ok(Place::Snapshot(take_dots(input)?, input.u64()?)),
            PART => Ok(Place::Part(take_dots(input)?, input.u64()?, input.u32()?)),
            _ => Err(DecodeError::Malformed),
        }
    }

    /// Reads a whole path of a document's cell.
    pub fn of(path: &[u8]) -> Result<Place, DecodeError> {
        Place::take(&mut Reader::new(path.get(1..).unwrap_or_default()))
    }

    pub fn path(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.u8(Type::Doc.code());
        match self {
            Place::Incarnation(dot) => {
                out.u8(INCARNATION);
                write_dot(&mut out, *dot);
            }
            Place::Updates(dot, row) => {
                out.u8(UPDATES);
                write_dot(&mut out, *dot);
                out.u32(*row);
            }
            Place::Sums(of) => {
                out.u8(SUMS);
                write_dots(&mut out, of);
            }
            Place::Snapshot(of, number) => {
                out.u8(SNAPSHOT);
                write_dots(&mut out, of);
                out.u64(*number);
            }
            Place::Part(of, number, part) => {
                out.u8(PART);
                write_dots(&mut out, of);
                out.u64(*number);
                out.u32(*part);
            }
        }
        out.finish()
    }
}

/// Whether a path of a document is of bookkeeping: it holds what the txns have said, but no txn puts it there.
pub(crate) fn is_kept_apart(path: &[u8]) -> bool {
    matches!(path, [code, kind, ..] if *code == Type::Doc.code() && (SUMS..=PART).contains(kind))
}

/// Where the cells of one kind are.
pub(super) fn kind_prefix(kind: u8) -> [u8; 2] {
    [Type::Doc.code(), kind]
}

/// Where the cells of one kind are that belong to a set of incarnations.
pub(super) fn of_prefix(kind: u8, of: &[Dot]) -> Vec<u8> {
    let mut out = Writer::new();
    out.raw(&kind_prefix(kind));
    write_dots(&mut out, of);
    out.finish()
}

/// Where the parts of a snapshot are.
pub(super) fn parts_prefix(of: &[Dot], number: u64) -> Vec<u8> {
    let mut out = of_prefix(PART, of);
    out.extend_from_slice(&number.to_be_bytes());
    out
}

/// The first path that an update of `dot` may have.
pub(super) fn updates_from(dot: Dot) -> Vec<u8> {
    Place::Updates(dot, 0).path()
}

fn take_dot(input: &mut Reader<'_>) -> Result<Dot, DecodeError> {
    Ok(Dot::new(Origin(input.u32()?), input.u64()?))
}

fn write_dot(out: &mut Writer, dot: Dot) {
    out.u32(dot.origin.0);
    out.u64(dot.seq);
}

fn take_dots(input: &mut Reader<'_>) -> Result<Vec<Dot>, DecodeError> {
    let mut dots: Vec<Dot> = Vec::new();
    for _ in 0..input.varint()? {
        let dot = take_dot(input)?;
        if dots.last().is_some_and(|last| *last >= dot) {
            return Err(DecodeError::Malformed);
        }
        dots.push(dot);
    }
    if dots.is_empty() { Err(DecodeError::Malformed) } else { Ok(dots) }
}

fn write_dots(out: &mut Writer, dots: &[Dot]) {
    out.varint(dots.len() as u64);
    for dot in dots {
        write_dot(out, *dot);
    }
}

/// What the cell of updates holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    /// The incarnations that lived where they were made, sorted; at least one.
    pub of: Vec<Dot>,
    /// In their order; at least one, and none of them empty.
    pub updates: Vec<Bytes>,
}

impl Payload {
    pub fn encode(of: &[Dot], updates: &[Bytes]) -> Vec<u8> {
        let mut out = Writer::new();
        let write_of = |out: &mut Writer| {
            out.varint(of.len() as u64);
            for dot in of {
                out.u32(dot.origin.0);
                out.varint(dot.seq);
            }
        };
        if let [update] = updates {
            write_of(&mut out);
            out.raw(update);
        } else {
            out.u8(SEVERAL);
            write_of(&mut out);
            updates.iter().for_each(|update| out.bytes(update));
        }
        out.finish()
    }

    /// The updates stay slices of `payload`.
    pub fn decode(payload: &Bytes) -> Result<Payload, DecodeError> {
        let mut input = Reader::new(payload);
        let mut count = input.varint()?;
        let several = count == u64::from(SEVERAL);
        if several {
            count = input.varint()?;
        }
        let of = Self::take_of(&mut input, count)?;
        let mut updates = Vec::new();
        if several {
            while !input.is_empty() {
                updates.push(payload.slice_ref(input.bytes()?));
            }
        } else {
            updates.push(payload.slice_ref(input.rest()));
        }
        // One update alone has the other form, so that all of them have one.
        if of.is_empty() || several == (updates.len() < 2) || updates.iter().any(Bytes::is_empty) {
            return Err(DecodeError::Malformed);
        }
        Ok(Payload { of, updates })
    }

    fn take_of(input: &mut Reader<'_>, count: u64) -> Result<Vec<Dot>, DecodeError> {
        let mut of: Vec<Dot> = Vec::new();
        for _ in 0..count {
            let dot = Dot::new(Origin(input.u32()?), input.varint()?);
            if of.last().is_some_and(|last| *last >= dot) {
                return Err(DecodeError::Malformed);
            }
            of.push(dot);
        }
        Ok(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path;

    #[test]
    fn golden_bytes_do_not_change() {
        let dot = Dot::new(Origin(7), 0x0102);
        let dot_bytes = [0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 1, 2];
        let golden = |kind: u8, before: &[u8], after: &[u8]| [&[9, kind], before, &dot_bytes, after].concat();
        let number = [0, 0, 0, 0, 0, 0, 0, 5];
        let paths = [
            (Place::Incarnation(dot), golden(0, &[], &[])),
            (Place::Updates(dot, 3), golden(1, &[], &[0, 0, 0, 3])),
            (Place::Sums(vec![dot]), golden(2, &[1], &[])),
            (Place::Snapshot(vec![dot], 5), golden(3, &[1], &number)),
            (Place::Part(vec![dot], 5, 6), golden(4, &[1], &[&number[..], &[0, 0, 0, 6]].concat())),
        ];
        for (place, path) in paths {
            assert_eq!(place.path(), path);
            assert_eq!(Place::of(&path), Ok(place));
            assert_eq!(path::parse(&path).map(|leaf| leaf.ty), Ok(Type::Doc));
            assert!(path::parse(&path[..path.len() - 1]).is_err());
        }
        let update = |bytes: &'static [u8]| Bytes::from_static(bytes);
        let payloads: [(_, &[u8]); 2] = [
            (vec![update(&[0, 0])], &[1, 0, 0, 0, 7, 0x82, 2, 0, 0]),
            (vec![update(&[0, 0]), update(&[9])], &[0, 1, 0, 0, 0, 7, 0x82, 2, 2, 0, 0, 1, 9]),
        ];
        for (updates, golden) in payloads {
            assert_eq!(Payload::encode(&[dot], &updates), golden);
            let decoded = Payload { of: vec![dot], updates };
            assert_eq!(Payload::decode(&Bytes::from_static(golden)), Ok(decoded));
        }
        for bad in [&[0, 1, 0, 0, 0, 7, 1, 2, 0, 0][..], &[0, 1, 0, 0, 0, 7, 1, 0, 1, 9], &[0, 0, 1, 9, 1, 9]]
        {
            assert_eq!(Payload::decode(&Bytes::copy_from_slice(bad)), Err(DecodeError::Malformed), "{bad:?}");
        }
    }
}
