//! Txns as they are kept in the oplog and shipped: encoded once at their origin, the same bytes everywhere.
//!
//! ```text
//! txn     version=1 | origin u32 | seq varint | hlc u64 | prev u64 | deps vector | count | effect ...
//! effect  space str | key str | count | removal ... | count | add ...
//! removal 0 path or 1 prefix | path bytes
//! add     path bytes | payload bytes
//! ```
//!
//! `deps` names only what the origin's previous txn did not: since an origin's deps never fall and its txns apply in
//! order, the difference is all that a gate has to check, and whoever applied the previous txn knows the whole.

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use crate::codec::{DecodeError, Reader, Writer, varint_bytes};
use crate::id::{Dot, Origin};
use crate::vector::Vector;

const VERSION: u8 = 1;
/// Room for a head without deps, and for the count of effects.
const HEAD_BYTES: usize = 48;

/// What stands at the front of a txn: enough to order it, to gate it and to check its place in its origin's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TxnHead {
    /// Which txn this is.
    pub dot: Dot,
    /// The stamp of its origin's hybrid logical clock, as [`crate::hlc`] packs it.
    pub hlc: u64,
    /// [`txn_hash`] of the origin's previous txn; 0 for the first. A reused dot breaks this chain.
    pub prev: u64,
    /// The entries of the txn's deps that are above those of the origin's previous txn. The origin's own entry is
    /// implied (`seq - 1`) and never named.
    pub deps: Vector,
}

/// The unit of commit, of shipping and of visibility.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    /// Its place in history.
    pub head: TxnHead,
    /// What it does, at most one per key.
    pub effects: Vec<KeyEffect>,
}

/// What a txn does to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyEffect {
    /// The space of the key.
    pub space: String,
    /// The key.
    pub key: String,
    /// What is taken out: dots that the txn's deps cover.
    pub removes: Vec<Removal>,
    /// What is put in, under the txn's dot; after the removals.
    pub adds: Vec<Add>,
}

/// Takes the dots that the txn's deps cover out of one cell, or out of every cell below a prefix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Removal {
    /// An encoded path, starting with the type.
    pub path: Bytes,
    /// Whether `path` stands for everything that starts with it.
    pub prefix: bool,
}

/// Puts the txn's dot with a payload into one cell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Add {
    /// An encoded path, starting with the type.
    pub path: Bytes,
    /// What the type keeps there.
    pub payload: Bytes,
}

/// The hash by which an origin's next txn names this one.
pub fn txn_hash(encoded: &[u8]) -> u64 {
    xxh3_64(encoded)
}

impl TxnHead {
    /// Reads the front of an encoded txn and leaves its effects alone.
    pub fn decode(encoded: &[u8]) -> Result<TxnHead, DecodeError> {
        Self::take(&mut Reader::new(encoded))
    }

    fn take(input: &mut Reader<'_>) -> Result<TxnHead, DecodeError> {
        match input.u8()? {
            VERSION => {}
            other => return Err(DecodeError::UnknownVersion(other)),
        }
        let origin = Origin(input.u32()?);
        let dot = Dot::new(origin, input.varint()?);
        let head = TxnHead { dot, hlc: input.u64()?, prev: input.u64()?, deps: Vector::decode(input)? };
        if dot.seq == 0 || head.deps.get(origin) != 0 {
            return Err(DecodeError::Malformed);
        }
        Ok(head)
    }
}

impl Txn {
    /// The bytes that the oplog keeps and links ship.
    pub fn encode(&self) -> Bytes {
        let effects: usize = self.effects.iter().map(KeyEffect::bytes).sum();
        let mut out = Writer::with_capacity(HEAD_BYTES + 14 * self.head.deps.len() + effects);
        out.u8(VERSION);
        out.u32(self.head.dot.origin.0);
        out.varint(self.head.dot.seq);
        out.u64(self.head.hlc);
        out.u64(self.head.prev);
        self.head.deps.encode(&mut out);
        out.varint(self.effects.len() as u64);
        for effect in &self.effects {
            effect.encode(&mut out);
        }
        out.finish().into()
    }

    /// Reads what [`Txn::encode`] wrote, all of `encoded`.
    pub fn decode(encoded: &Bytes) -> Result<Txn, DecodeError> {
        let mut input = Reader::new(encoded);
        let head = TxnHead::take(&mut input)?;
        let count = input.varint()?;
        let mut effects = Vec::new();
        for _ in 0..count {
            effects.push(KeyEffect::decode(encoded, &mut input)?);
        }
        input.finish()?;
        Ok(Txn { head, effects })
    }
}

impl KeyEffect {
    /// How many bytes its encoding takes, or a few more: what is encoded is kept with the room that it was given.
    fn bytes(&self) -> usize {
        let bytes = |bytes: &Bytes| varint_bytes(bytes.len() as u64) + bytes.len();
        let removes: usize = self.removes.iter().map(|removal| 1 + bytes(&removal.path)).sum();
        let adds: usize = self.adds.iter().map(|add| bytes(&add.path) + bytes(&add.payload)).sum();
        12 + self.space.len() + self.key.len() + removes + adds
    }

    fn encode(&self, out: &mut Writer) {
        out.bytes(self.space.as_bytes());
        out.bytes(self.key.as_bytes());
        out.varint(self.removes.len() as u64);
        for removal in &self.removes {
            out.u8(u8::from(removal.prefix));
            out.bytes(&removal.path);
        }
        out.varint(self.adds.len() as u64);
        for add in &self.adds {
            out.bytes(&add.path);
            out.bytes(&add.payload);
        }
    }

    /// Payloads stay slices of `whole`, so that nothing is copied on the way into the state.
    fn decode(whole: &Bytes, input: &mut Reader<'_>) -> Result<KeyEffect, DecodeError> {
        let space = input.str()?.to_owned();
        let key = input.str()?.to_owned();
        let mut removes = Vec::new();
        for _ in 0..input.varint()? {
            let prefix = match input.u8()? {
                0 => false,
                1 => true,
                _ => return Err(DecodeError::Malformed),
            };
            removes.push(Removal { path: whole.slice_ref(input.bytes()?), prefix });
        }
        let mut adds = Vec::new();
        for _ in 0..input.varint()? {
            let path = whole.slice_ref(input.bytes()?);
            adds.push(Add { path, payload: whole.slice_ref(input.bytes()?) });
        }
        Ok(KeyEffect { space, key, removes, adds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Txn {
        let head = TxnHead {
            dot: Dot::new(Origin(0xabcd), 3),
            hlc: 77,
            prev: 9,
            deps: [Dot::new(Origin(1), 300)].into_iter().collect(),
        };
        let effect = KeyEffect {
            space: "default".into(),
            key: "k".into(),
            removes: vec![Removal { path: Bytes::from_static(&[6]), prefix: true }],
            adds: vec![Add { path: Bytes::from_static(&[6, 1]), payload: Bytes::from_static(b"p") }],
        };
        Txn { head, effects: vec![effect] }
    }

    #[test]
    fn golden_bytes_do_not_change() {
        let mut golden = vec![1, 0, 0, 0xab, 0xcd, 3, 0, 0, 0, 0, 0, 0, 0, 77, 0, 0, 0, 0, 0, 0, 0, 9];
        golden.extend_from_slice(&[1, 0, 0, 0, 1, 0xac, 2, 1, 7]);
        golden.extend_from_slice(b"default\x01k");
        golden.extend_from_slice(&[1, 1, 1, 6, 1, 2, 6, 1, 1, b'p']);
        assert_eq!(sample().encode(), golden);
    }

    #[test]
    fn txns_round_trip_and_their_heads_read_alone() {
        let encoded = sample().encode();
        assert_eq!(Txn::decode(&encoded).expect("own encoding"), sample());
        assert_eq!(TxnHead::decode(&encoded).expect("own encoding"), sample().head);
    }

    #[test]
    fn every_truncation_is_refused() {
        let encoded = sample().encode();
        for n in 0..encoded.len() {
            assert!(Txn::decode(&encoded.slice(..n)).is_err());
        }
    }
}
