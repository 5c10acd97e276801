//! Whether bytes are an update, found out by walking over them: nothing is allocated, and nothing recurses further than
//! a bound.
//!
//! A decoder that builds what it reads is not asked before this: it would reserve memory by counts that the bytes only
//! claim, and recurse as deep as they nest. Yjs also still knows a kind of content (JSON as texts) that its present
//! versions do not write, and that the decoders of Yjs and yrs read differently: that is refused.

use crate::codec::{DecodeError, Reader};
use crate::document::UpdateError;

/// How deep values inside an update may nest.
const DEPTH_MAX: usize = 64;
/// Above the largest client id: these have at most 53 bits.
const CLIENT_END: u64 = 1 << 53;
/// Clocks are below this, so that no sum of one leaves 32 bits.
const CLOCK_END: u64 = 1 << 31;

pub(super) const HAS_ORIGIN: u8 = 0x80;
pub(super) const HAS_RIGHT_ORIGIN: u8 = 0x40;
pub(super) const HAS_PARENT_SUB: u8 = 0x20;

const GC: u8 = 0;
const DELETED: u8 = 1;
const JSON: u8 = 2;
const BINARY: u8 = 3;
pub(super) const STRING: u8 = 4;
const EMBED: u8 = 5;
const FORMAT: u8 = 6;
const TYPE: u8 = 7;
pub(super) const ANY: u8 = 8;
const SUBDOCUMENT: u8 = 9;
const SKIP: u8 = 10;

const TYPE_XML_ELEMENT: u8 = 3;
const TYPE_XML_HOOK: u8 = 5;
const TYPE_XML_TEXT: u8 = 6;

/// What an item is, as far as others may stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Deleted, or collected: what stood in it is gone.
    Gone,
    /// A shared type.
    Type,
    /// Anything else. Nothing can stand in it.
    Other,
}

/// Who made something, and when by its own count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub client: u64,
    pub clock: u32,
}

/// Where an item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stand {
    /// In a root type; or nowhere, since it was collected.
    Root,
    /// In a shared type.
    In(Id),
    /// Where the item on its left stands, or that on its right; at least one is named.
    Beside(Option<Id>, Option<Id>),
}

/// A block of an update; `None` for a gap that the update leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub clock: u32,
    pub length: u32,
    pub is: Option<(Kind, Stand)>,
}

/// The structure of an update: what is where, and nothing of what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Structure {
    /// The blocks of each client, whose clocks follow upon each other; sorted by client.
    pub clients: Vec<(u64, Vec<Block>)>,
    pub deletions: Vec<Deleted>,
}

/// A range of clocks of which an update deletes what they name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deleted {
    pub client: u64,
    pub clock: u32,
    /// The clock behind its end.
    pub end: u32,
}

/// Whether `update` may be kept as an update of a document: it is what Yjs writes in encoding v1, all of it, the decoder
/// takes it too, and its own types nest no deeper than [`NESTING_MAX`](super::NESTING_MAX).
pub fn check_update(update: &[u8]) -> Result<(), UpdateError> {
    use yrs::updates::decoder::Decode;
    let structure = structure(update)?;
    super::nesting::height(&structure)?;
    yrs::Update::decode_v1(update).map(drop).map_err(super::refused)
}

/// Whether an update puts a shared type where only its document can tell how deep that is.
pub fn nests_elsewhere(update: &[u8]) -> Result<bool, UpdateError> {
    let structure = structure(update)?;
    let types = structure.clients.iter().flat_map(|(_, blocks)| blocks).filter_map(|block| block.is);
    let mut stands = types.filter(|(kind, _)| *kind == Kind::Type).map(|(_, stand)| stand);
    Ok(stands.any(|stand| stand != Stand::Root))
}

/// The walk alone.
pub(super) fn structure(update: &[u8]) -> Result<Structure, UpdateError> {
    let mut walk = Walk(Reader::new(update));
    let mut structure = Structure::default();
    for _ in 0..walk.count()? {
        let client = walk.client()?;
        structure.clients.push(client);
    }
    structure.clients.sort_by_key(|(client, _)| *client);
    // Decoders differ in which of them they take.
    if structure.clients.windows(2).any(|pair| pair[0].0 == pair[1].0) {
        return Err(DecodeError::Malformed.into());
    }
    for _ in 0..walk.count()? {
        walk.deletions_of_client(|deleted| structure.deletions.push(deleted))?;
    }
    walk.0.finish()?;
    Ok(structure)
}

/// Whether `state_vector` is one in encoding v1.
pub(super) fn check_state_vector(state_vector: &[u8]) -> Result<(), UpdateError> {
    let mut walk = Walk(Reader::new(state_vector));
    for _ in 0..walk.count()? {
        walk.client_id()?;
        walk.clock()?;
    }
    Ok(walk.0.finish()?)
}

pub(super) struct Walk<'a>(pub(super) Reader<'a>);

impl Walk<'_> {
    /// A number of things that take at least a byte each.
    pub(super) fn count(&mut self) -> Result<u64, UpdateError> {
        let count = self.0.varint()?;
        if count > self.0.rest().len() as u64 {
            return Err(DecodeError::Truncated.into());
        }
        Ok(count)
    }

    fn below(&mut self, end: u64) -> Result<u64, UpdateError> {
        let number = self.0.varint()?;
        if number < end { Ok(number) } else { Err(DecodeError::TooLarge.into()) }
    }

    pub(super) fn client_id(&mut self) -> Result<u64, UpdateError> {
        self.below(CLIENT_END)
    }

    pub(super) fn clock(&mut self) -> Result<u64, UpdateError> {
        self.below(CLOCK_END)
    }

    pub(super) fn id(&mut self) -> Result<Id, UpdateError> {
        let client = self.client_id()?;
        // Below the bound of clocks, so it fits.
        Ok(Id { client, clock: self.clock()? as u32 })
    }

    /// The length of something that takes up clock.
    fn length(&mut self) -> Result<u64, UpdateError> {
        match self.clock()? {
            0 => Err(DecodeError::Malformed.into()),
            length => Ok(length),
        }
    }

    fn text(&mut self) -> Result<&str, UpdateError> {
        Ok(self.0.str()?)
    }

    /// The blocks of one client.
    pub(super) fn client(&mut self) -> Result<(u64, Vec<Block>), UpdateError> {
        let count = self.count()?;
        let client = self.client_id()?;
        let mut clock = self.clock()?;
        let mut blocks = Vec::new();
        for _ in 0..count {
            let (length, is) = self.block()?;
            let block = Block { clock: clock as u32, length: length as u32, is };
            clock += length;
            if clock >= CLOCK_END {
                return Err(DecodeError::TooLarge.into());
            }
            blocks.push(block);
        }
        Ok((client, blocks))
    }

    /// One block: how much clock it takes, and what it is.
    pub(super) fn block(&mut self) -> Result<(u64, Option<(Kind, Stand)>), UpdateError> {
        let info = self.0.u8()?;
        if matches!(info, GC | SKIP) {
            return Ok((self.length()?, (info == GC).then_some((Kind::Gone, Stand::Root))));
        }
        let left = if info & HAS_ORIGIN == 0 { None } else { Some(self.id()?) };
        let right = if info & HAS_RIGHT_ORIGIN == 0 { None } else { Some(self.id()?) };
        let mut stand = Stand::Beside(left, right);
        if left.is_none() && right.is_none() {
            stand = match self.0.varint()? {
                0 => Stand::In(self.id()?),
                1 => self.text().map(|_| Stand::Root)?,
                _ => return Err(DecodeError::Malformed.into()),
            };
            if info & HAS_PARENT_SUB != 0 {
                self.text()?;
            }
        }
        let content = info & 0x1f;
        let kind = match content {
            DELETED => Kind::Gone,
            TYPE => Kind::Type,
            _ => Kind::Other,
        };
        Ok((self.content(content)?, Some((kind, stand))))
    }

    fn content(&mut self, kind: u8) -> Result<u64, UpdateError> {
        match kind {
            DELETED => return self.length(),
            JSON => return Err(UpdateError::Unsupported("JSON in the form of old versions of Yjs")),
            BINARY => drop(self.0.bytes()?),
            STRING => return Ok(self.text()?.encode_utf16().count() as u64),
            EMBED => drop(self.text()?),
            FORMAT => {
                self.text()?;
                self.text()?;
            }
            TYPE => match self.0.u8()? {
                TYPE_XML_ELEMENT | TYPE_XML_HOOK => drop(self.text()?),
                other if other <= TYPE_XML_TEXT => {}
                _ => return Err(UpdateError::Unsupported("a shared type that Yjs 13 does not have")),
            },
            ANY => {
                let values = self.count()?;
                for _ in 0..values {
                    self.any(0)?;
                }
                return Ok(values);
            }
            SUBDOCUMENT => {
                self.text()?;
                self.any(0)?;
            }
            _ => return Err(DecodeError::Malformed.into()),
        }
        Ok(1)
    }

    /// A value of lib0.
    pub(super) fn any(&mut self, depth: usize) -> Result<(), UpdateError> {
        if depth > DEPTH_MAX {
            return Err(DecodeError::TooDeep.into());
        }
        match self.0.u8()? {
            // Undefined, null, false, true.
            127 | 126 | 121 | 120 => {}
            // An integer: its own kind of varint, of which only the end matters here.
            125 => while self.0.u8()? & 0x80 != 0 {},
            124 => drop(self.0.raw(4)?),
            123 | 122 => drop(self.0.raw(8)?),
            119 => drop(self.text()?),
            118 => {
                for _ in 0..self.count()? {
                    self.text()?;
                    self.any(depth + 1)?;
                }
            }
            117 => {
                for _ in 0..self.count()? {
                    self.any(depth + 1)?;
                }
            }
            116 => drop(self.0.bytes()?),
            _ => return Err(DecodeError::Malformed.into()),
        }
        Ok(())
    }

    /// Visits what of one client is deleted.
    pub(super) fn deletions_of_client(&mut self, mut visit: impl FnMut(Deleted)) -> Result<(), UpdateError> {
        let client = self.client_id()?;
        for _ in 0..self.count()? {
            let clock = self.clock()?;
            let end = clock + self.length()?;
            if end >= CLOCK_END {
                return Err(DecodeError::TooLarge.into());
            }
            visit(Deleted { client, clock: clock as u32, end: end as u32 });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::document::{Document, YrsDocument};

    /// As yjs 13.6.33 writes them: a text typed and partly deleted with a format and an embed; a map with values of every
    /// kind and an array in it; XML.
    const WRITTEN_BY_YJS: [&str; 3] = [
        include_str!("samples/text.hex"),
        include_str!("samples/values.hex"),
        include_str!("samples/xml.hex"),
    ];

    fn samples() -> Vec<Vec<u8>> {
        let byte = |pair: &[u8]| {
            let digits = std::str::from_utf8(pair).expect("ASCII");
            u8::from_str_radix(digits, 16).expect("hexadecimal")
        };
        WRITTEN_BY_YJS.map(|hex| hex.trim().as_bytes().chunks(2).map(byte).collect()).to_vec()
    }

    #[test]
    fn what_yjs_writes_is_taken_and_no_part_of_it_is() {
        for sample in samples() {
            assert_eq!(check_update(&sample), Ok(()));
            for n in 0..sample.len() {
                assert!(check_update(&sample[..n]).is_err(), "the first {n} bytes of {sample:?}");
            }
            assert!(check_update(&[sample.as_slice(), &[0]].concat()).is_err(), "something behind it");
        }
        assert_eq!(check_update(&[0, 0]), Ok(()));
    }

    #[test]
    fn claims_of_size_and_depth_are_refused_before_anything_is_built() {
        let any = |value: &[u8]| [&[1, 1, 1, 0, ANY, 1, 1, b't', 1][..], value, &[0]].concat();
        assert_eq!(check_update(&any(&[127])), Ok(()));
        let nested = [[117, 1].repeat(500_000), vec![127]].concat();
        assert_eq!(check_update(&any(&nested)), Err(DecodeError::TooDeep.into()));
        let huge = [0xff, 0xff, 0xff, 0x7f];
        assert!(check_update(&any(&[&[117][..], &huge].concat())).is_err());
        assert!(check_update(&huge).is_err());
        assert!(check_update(&[&[1][..], &huge, &[1, 0, 0]].concat()).is_err());
        assert!(check_state_vector(&huge).is_err());
        let client = [&[1, 1][..], &[0xff; 8], &[0x0f, 0, 4, 1, 1, b't', 1, b'a', 0]].concat();
        assert_eq!(check_update(&client), Err(DecodeError::TooLarge.into()));
    }

    #[test]
    fn old_json_content_is_named_as_what_it_is() {
        let json = [1, 1, 1, 0, JSON, 1, 1, b't', 1, 1, b'1', 0];
        assert!(matches!(check_update(&json), Err(UpdateError::Unsupported(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn changed_updates_are_refused_or_taken_and_never_a_panic(
            which in 0..3usize,
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        ) {
            let mut bytes = samples()[which].clone();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let mut document = YrsDocument::default();
            let taken = document.integrate(&bytes);
            if taken.is_ok() {
                prop_assert_eq!(check_update(&bytes), Ok(()));
            }
            // Under identities that the changed one has taken, it may be refused; that is all it may be.
            document.integrate(&samples()[which]).ok();
            document.to_value();
            document.diff(&[0]).expect("an empty state vector");
        }
    }
}
