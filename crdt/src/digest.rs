//! The digest of the whole state: keys hash to buckets, and a bucket's digest is the sum of its keys' digests.
//!
//! ```text
//! BUCKET  bucket u16 -> version=1 | digest u128        a bucket at 0 has no row
//! ```
//!
//! Two datacenters with equal vectors have equal digests; where they differ, the buckets say where to look.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::cells::{Cells, ReadCells, Table};
use crate::codec::{DecodeError, Reader};
use crate::error::StoreError;
use crate::small::SmallMap;

/// How many buckets there are.
pub const BUCKETS: u16 = 1024;

const VERSION: u8 = 1;

/// The digest of everything that can be observed.
pub fn digest<C: ReadCells>(cells: &C) -> Result<u128, StoreError<C::Error>> {
    Ok(bucket_digests(cells)?.into_iter().fold(0, |sum, (_, digest)| sum.wrapping_add(digest)))
}

/// The digests of the buckets that are not 0, in their order.
pub fn bucket_digests<C: ReadCells>(cells: &C) -> Result<Vec<(u16, u128)>, StoreError<C::Error>> {
    let mut buckets = Vec::new();
    let mut failed = None;
    cells.scan(Table::BUCKET, &[], None, &mut |row, value| match decode(row, value) {
        Ok(bucket) => {
            buckets.push(bucket);
            ControlFlow::Continue(())
        }
        Err(why) => {
            failed = Some(StoreError::corrupt(Table::BUCKET, row)(why));
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(buckets), Err)
}

/// What is to be added to the digests of buckets.
#[derive(Debug, Default)]
pub(crate) struct Deltas(SmallMap<u16, u128, 2>);

impl Deltas {
    /// Adds `delta` to what is to be added to a bucket.
    pub fn add(&mut self, bucket: u16, delta: u128) {
        match self.0.get_mut(&bucket) {
            Some(sum) => *sum = sum.wrapping_add(delta),
            None => drop(self.0.insert(bucket, delta)),
        }
    }
}

/// Adds to the digests of buckets.
pub(crate) fn add_to_buckets<C: Cells>(cells: &mut C, deltas: &Deltas) -> Result<(), StoreError<C::Error>> {
    for (bucket, delta) in deltas.0.iter().filter(|(_, delta)| **delta != 0) {
        let row = bucket.to_be_bytes();
        let old = match cells.get(Table::BUCKET, &row)? {
            Some(value) => decode(&row, &value).map_err(StoreError::corrupt(Table::BUCKET, &row))?.1,
            None => 0,
        };
        match old.wrapping_add(*delta) {
            0 => cells.remove(Table::BUCKET, &row)?,
            new => cells.put(Table::BUCKET, &row, encode(new))?,
        }
    }
    Ok(())
}

fn encode(digest: u128) -> Bytes {
    let mut row = [VERSION; 17];
    row[1..].copy_from_slice(&digest.to_be_bytes());
    Bytes::copy_from_slice(&row)
}

fn decode(row: &[u8], value: &[u8]) -> Result<(u16, u128), DecodeError> {
    let bucket = row.try_into().map(u16::from_be_bytes).map_err(|_| DecodeError::Malformed)?;
    let mut input = Reader::new(value);
    match input.u8()? {
        VERSION => {}
        other => return Err(DecodeError::UnknownVersion(other)),
    }
    let digest = input.u128()?;
    input.finish()?;
    Ok((bucket, digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::MemCells;

    #[test]
    fn golden_bytes_do_not_change() {
        let mut golden = vec![1];
        golden.extend_from_slice(&7u128.to_be_bytes());
        assert_eq!(encode(7), golden);
        assert_eq!(decode(&[1, 2], &golden), Ok((258, 7)));
    }

    #[test]
    fn a_bucket_that_returns_to_nothing_leaves_no_row() {
        let mut cells = MemCells::new();
        let deltas = |all: &[u128]| {
            let mut deltas = Deltas::default();
            all.iter().for_each(|delta| deltas.add(5, *delta));
            deltas
        };
        add_to_buckets(&mut cells, &deltas(&[4, 5])).expect("memory");
        assert_eq!(digest(&cells).expect("memory"), 9);
        add_to_buckets(&mut cells, &deltas(&[9u128.wrapping_neg()])).expect("memory");
        assert_eq!(cells.count(Table::BUCKET), 0);
    }
}
