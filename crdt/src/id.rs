//! Origins and dots: who wrote a txn, and which of its txns it was.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

/// One life of one datacenter as a writer: its name and the epoch minted at its first start (and after a restore).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OriginName {
    /// The datacenter's name from the configuration.
    pub dc: String,
    /// The life of that datacenter.
    pub epoch: Uuid,
}

impl OriginName {
    /// The short id by which cells, vectors and tokens name this origin.
    ///
    /// It is a hash, so every datacenter computes the same id without agreeing on anything. Two origins of one
    /// cluster with equal ids are refused when the second is registered; an epoch is random, so minting another one
    /// resolves it.
    pub fn origin(&self) -> Origin {
        let mut bytes = Vec::with_capacity(self.dc.len() + 17);
        bytes.extend_from_slice(self.dc.as_bytes());
        bytes.push(0);
        bytes.extend_from_slice(self.epoch.as_bytes());
        Origin(xxh3_64(&bytes) as u32)
    }
}

impl fmt::Display for OriginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.dc, self.epoch.simple())
    }
}

/// The short id of an [`OriginName`]; the same in every datacenter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin(pub u32);

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The name of one txn: the `seq`-th of its origin, counted from 1 without gaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// Who wrote it.
    pub origin: Origin,
    /// Its number there, from 1.
    pub seq: u64,
}

impl Dot {
    /// The `seq`-th txn of `origin`.
    pub const fn new(origin: Origin, seq: u64) -> Self {
        Self { origin, seq }
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.origin, self.seq)
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.origin, self.seq)
    }
}

impl FromStr for Dot {
    type Err = NoDot;

    /// Reads what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, NoDot> {
        let (origin, seq) = text.split_once(':').ok_or(NoDot)?;
        let origin = u32::from_str_radix(origin, 16).map_err(|_| NoDot)?;
        let dot = Dot::new(Origin(origin), seq.parse().map_err(|_| NoDot)?);
        if dot.to_string() == text { Ok(dot) } else { Err(NoDot) }
    }
}

/// A text is not the name of a txn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not the name of a transaction, which is its origin and its number, such as 4d518cd9:12")]
pub struct NoDot;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_id_never_changes_between_versions() {
        let name = OriginName { dc: "eu-west".into(), epoch: Uuid::from_u128(7) };
        assert_eq!(name.origin(), name.clone().origin());
        let other = OriginName { dc: "eu-west".into(), epoch: Uuid::from_u128(8) };
        assert_ne!(name.origin(), other.origin());
    }

    #[test]
    fn names_of_txns_are_read_as_they_are_written_and_in_no_other_way() {
        for dot in [Dot::new(Origin(0x00ab_cdef), 1), Dot::new(Origin(u32::MAX), u64::MAX)] {
            assert_eq!(dot.to_string().parse(), Ok(dot));
        }
        for wrong in ["", "7", "7:1", "0000000a:", "0000000A:1", "0000000a:01", "0000000a:+1", "0000000a:1:2"]
        {
            assert_eq!(wrong.parse::<Dot>(), Err(NoDot), "{wrong}");
        }
    }
}
