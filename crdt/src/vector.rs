//! Vectors: for each origin the highest seq applied. They, and never clocks, decide causality.

use std::fmt;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::{Dot, Origin};
use crate::small::SmallMap;

/// The largest number of origins that a decoded vector may name. Origins are lives of datacenters, so this bounds
/// hostile input and nothing else.
pub const VECTOR_ORIGINS_MAX: u64 = 4096;

/// How many origins a vector names without an allocation.
const IN_PLACE: usize = 4;

/// For each origin the highest seq; an origin that is not named stands at 0. Zero entries are never kept, so equal
/// vectors are equal values.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Vector(SmallMap<Origin, u64, IN_PLACE>);

impl Vector {
    /// The vector of nothing.
    pub const fn new() -> Self {
        Self(SmallMap::new())
    }

    /// The highest seq of `origin`, 0 if none.
    pub fn get(&self, origin: Origin) -> u64 {
        self.0.get(&origin).copied().unwrap_or(0)
    }

    /// Puts `origin` at exactly `seq`, also downwards; for building vectors, not for moving one that is in use.
    pub fn set(&mut self, origin: Origin, seq: u64) {
        if seq == 0 {
            self.0.remove(&origin);
        } else {
            self.0.insert(origin, seq);
        }
    }

    /// Raises `dot.origin` to at least `dot.seq`.
    pub fn advance(&mut self, dot: Dot) {
        if dot.seq > self.get(dot.origin) {
            self.0.insert(dot.origin, dot.seq);
        }
    }

    /// Whether `dot` is among the txns that this vector names.
    pub fn covers(&self, dot: Dot) -> bool {
        dot.seq <= self.get(dot.origin)
    }

    /// Whether everything that `other` names is named by this vector too.
    pub fn covers_all(&self, other: &Vector) -> bool {
        other.0.iter().all(|(origin, seq)| self.get(*origin) >= *seq)
    }

    /// The least vector that covers both.
    pub fn join(&mut self, other: &Vector) {
        for (origin, seq) in other.0.iter() {
            self.advance(Dot::new(*origin, *seq));
        }
    }

    /// The greatest vector that both cover.
    pub fn meet(&mut self, other: &Vector) {
        self.0.retain(|origin, seq| {
            *seq = (*seq).min(other.get(*origin));
            *seq > 0
        });
    }

    /// The entries of this vector that are above `base`.
    pub fn above(&self, base: &Vector) -> Vector {
        Vector(self.0.iter().filter(|(o, s)| **s > base.get(**o)).map(|(o, s)| (*o, *s)).collect())
    }

    /// Drops the entries that `base` covers.
    pub fn prune(&mut self, base: &Vector) {
        self.0.retain(|origin, seq| *seq > base.get(*origin));
    }

    /// How many txns this vector names that `base` does not.
    pub fn txns_above(&self, base: &Vector) -> u64 {
        self.0.iter().map(|(o, s)| s.saturating_sub(base.get(*o))).fold(0, u64::saturating_add)
    }

    /// All entries in the order of origins.
    pub fn iter(&self) -> impl Iterator<Item = Dot> + '_ {
        self.0.iter().map(|(o, s)| Dot::new(*o, *s))
    }

    /// How many origins stand above 0.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this is the vector of nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends the entries: count, then (origin, seq) in the order of origins.
    pub fn encode(&self, out: &mut Writer) {
        out.varint(self.0.len() as u64);
        for (origin, seq) in self.0.iter() {
            out.u32(origin.0);
            out.varint(*seq);
        }
    }

    /// Reads what [`Vector::encode`] wrote; refuses zero entries, disorder and more than [`VECTOR_ORIGINS_MAX`].
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = input.varint()?;
        if count > VECTOR_ORIGINS_MAX {
            return Err(DecodeError::TooLarge);
        }
        let mut map = SmallMap::new();
        let mut last = None;
        for _ in 0..count {
            let origin = Origin(input.u32()?);
            let seq = input.varint()?;
            if seq == 0 || last.is_some_and(|l| l >= origin) {
                return Err(DecodeError::Malformed);
            }
            last = Some(origin);
            map.insert(origin, seq);
        }
        Ok(Self(map))
    }
}

impl Serialize for Vector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

impl<'de> Deserialize<'de> for Vector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vector;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of origins to seqs")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Vector, A::Error> {
        let mut vector = Vector::new();
        while let Some((origin, seq)) = entries.next_entry()? {
            if vector.len() as u64 >= VECTOR_ORIGINS_MAX {
                return Err(A::Error::custom("a vector names too many origins"));
            }
            vector.set(origin, seq);
        }
        Ok(vector)
    }
}

impl FromIterator<Dot> for Vector {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> Self {
        let mut vector = Vector::new();
        for dot in dots {
            vector.advance(dot);
        }
        vector
    }
}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.0.iter()).finish()
    }
}
