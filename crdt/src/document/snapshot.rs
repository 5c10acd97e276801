//! A document written at once: what its updates come to, and what of them could not be used yet.
//!
//! ```text
//! snapshot  version=1 | update of Yjs in encoding v2 bytes | count varint | update in encoding v1 bytes ... | places
//! ```
//!
//! The updates beside the first wait for others, or cannot be read by the version that wrote the snapshot. They are kept
//! as they came, so that nothing is lost by writing one. `places` is the whole of `nesting`, what was collected included:
//! how deep a document nests must not depend on when it was written.

use bytes::Bytes;

use super::nesting::Nesting;
use crate::codec::{DecodeError, Reader, Writer};

const VERSION: u8 = 1;

/// What a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Everything that could be used, in encoding v2; empty if that is nothing.
    pub merged: Bytes,
    /// The updates that could not, in encoding v1.
    pub apart: Vec<Bytes>,
    pub(super) nesting: Nesting,
}

impl Snapshot {
    /// The bytes that are kept.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(self.merged.len() + 64);
        out.u8(VERSION);
        out.bytes(&self.merged);
        out.varint(self.apart.len() as u64);
        for update in &self.apart {
            out.bytes(update);
        }
        self.nesting.encode(&mut out);
        out.finish().into()
    }

    /// Reads what [`Snapshot::encode`] wrote; updates stay slices of it.
    pub fn decode(bytes: &Bytes) -> Result<Snapshot, DecodeError> {
        let mut input = Reader::new(bytes);
        match input.u8()? {
            VERSION => {}
            other => return Err(DecodeError::UnknownVersion(other)),
        }
        let merged = bytes.slice_ref(input.bytes()?);
        let mut apart = Vec::new();
        for _ in 0..input.varint()? {
            apart.push(bytes.slice_ref(input.bytes()?));
        }
        let nesting = Nesting::decode(&mut input)?;
        input.finish()?;
        Ok(Snapshot { merged, apart, nesting })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Document, YrsDocument};

    #[test]
    fn golden_bytes_do_not_change() {
        let mut document = YrsDocument::default();
        // The text `t` of a map `m`, and a character that follows upon one that is not here.
        document.integrate(&[1, 1, 1, 0, 0x27, 1, 1, b'm', 1, b't', 2, 0]).expect("an update");
        document.integrate(&[1, 1, 2, 1, 0x84, 2, 0, 1, b'x', 0]).expect("an update");
        let snapshot = document.snapshot().expect("a sound document");
        let golden = [
            1, 23, 0, 0, 1, 1, 0, 0, 1, 39, 5, 2, 109, 116, 65, 0, 1, 1, 1, 2, 0, 1, 1, 0, 0, 1, 10, 1, 1, 2,
            1, 0x84, 2, 0, 1, b'x', 0, 1, 1, 1, 1, 1,
        ];
        let encoded = snapshot.encode();
        assert_eq!(Snapshot::decode(&encoded), Ok(snapshot));
        assert_eq!(encoded, golden[..]);
        for n in 0..encoded.len() {
            assert!(Snapshot::decode(&encoded.slice(..n)).is_err());
        }
    }
}
