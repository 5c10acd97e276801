//! The digest of the whole state: keys hash to buckets, and a bucket's digest is the sum of its keys' digests.
//!
//! ```text
//! BUCKET  page u8    -> version=2 | digest u128 ...      of the 128 buckets from page * 128 on; no row if all are 0
//!         bucket u16 -> version=1 | digest u128          as it was once: goes into its page with the first change there
//! ```
//!
//! A page is written once for all txns of an entry, which costs less than a row for each of them.
//!
//! Two datacenters with equal vectors have equal digests; where they differ, the buckets say where to look.

use std::ops::ControlFlow;

use crate::cells::{Cells, ReadCells, Table};
use crate::codec::{DecodeError, Reader};
use crate::error::StoreError;

/// How many buckets there are.
pub const BUCKETS: u16 = 1024;

/// The version of a row of one bucket.
const ONE_VERSION: u8 = 1;
const PAGE_VERSION: u8 = 2;
/// How many buckets share a row.
const PAGE_BUCKETS: usize = 128;
const DIGEST_BYTES: usize = size_of::<u128>();
const PAGE_BYTES: usize = 1 + PAGE_BUCKETS * DIGEST_BYTES;

/// How many deltas are gathered before those of a bucket are summed up.
const DELTAS_MAX: usize = 4 * BUCKETS as usize;

/// The digest of everything that can be observed.
pub fn digest<C: ReadCells>(cells: &C) -> Result<u128, StoreError<C::Error>> {
    Ok(bucket_digests(cells)?.into_iter().fold(0, |sum, (_, digest)| sum.wrapping_add(digest)))
}

/// The digests of the buckets that are not 0, in their order.
pub fn bucket_digests<C: ReadCells>(cells: &C) -> Result<Vec<(u16, u128)>, StoreError<C::Error>> {
    let mut buckets = of_rows(cells, &[], None)?;
    // Rows of single buckets stand among the pages.
    buckets.sort_unstable_by_key(|(bucket, _)| *bucket);
    Ok(buckets)
}

/// What the rows of a range say, of buckets that are not 0.
fn of_rows<C: ReadCells>(
    cells: &C,
    from: &[u8],
    to: Option<&[u8]>,
) -> Result<Vec<(u16, u128)>, StoreError<C::Error>> {
    let mut buckets = Vec::new();
    let mut failed = None;
    cells.scan(Table::BUCKET, from, to, &mut |row, value| match decode(row, value, &mut buckets) {
        Ok(()) => ControlFlow::Continue(()),
        Err(why) => {
            failed = Some(StoreError::corrupt(Table::BUCKET, row)(why));
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(buckets), Err)
}

/// What is to be added to the digests of buckets: gathered while txns are applied, and written once for all of them. Until
/// then the digests in the cells are those of before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "the digests are wrong until it is written"]
pub struct DigestDeltas(Vec<(u16, u128)>);

impl DigestDeltas {
    /// Adds `delta` to what is to be added to a bucket.
    pub(crate) fn add(&mut self, bucket: u16, delta: u128) {
        if delta == 0 {
            return;
        }
        if self.0.len() >= DELTAS_MAX {
            self.sum_up();
        }
        self.0.push((bucket, delta));
    }

    /// Leaves one delta of each bucket, in their order.
    fn sum_up(&mut self) {
        self.0.sort_unstable_by_key(|(bucket, _)| *bucket);
        self.0.dedup_by(|(bucket, delta), (kept, sum)| {
            let is_same = bucket == kept;
            *sum = sum.wrapping_add(if is_same { *delta } else { 0 });
            is_same
        });
    }

    /// Adds all of it to the digests in the cells. Nothing is left to add.
    pub fn write<C: Cells>(&mut self, cells: &mut C) -> Result<(), StoreError<C::Error>> {
        self.sum_up();
        for deltas in self.0.chunk_by(|(one, _), (other, _)| place(*one).0 == place(*other).0) {
            let (page, _) = place(deltas[0].0);
            let mut row = load(cells, page)?;
            for (bucket, delta) in deltas {
                add_at(&mut row, place(*bucket).1, *delta);
            }
            match row[1..].iter().all(|byte| *byte == 0) {
                true => cells.remove(Table::BUCKET, &[page])?,
                false => cells.put(Table::BUCKET, &[page], row.into())?,
            }
        }
        self.0.clear();
        Ok(())
    }
}

/// The page of a bucket, and where its digest stands in the row.
fn place(bucket: u16) -> (u8, usize) {
    let (page, at) = (usize::from(bucket) / PAGE_BUCKETS, usize::from(bucket) % PAGE_BUCKETS);
    (page as u8, 1 + at * DIGEST_BYTES)
}

fn add_at(row: &mut [u8], at: usize, delta: u128) {
    if let Some(digest) = row[at..].first_chunk_mut() {
        *digest = u128::from_be_bytes(*digest).wrapping_add(delta).to_be_bytes();
    }
}

/// The row of a page, to be changed. Rows of single buckets go into it.
fn load<C: Cells>(cells: &mut C, page: u8) -> Result<Vec<u8>, StoreError<C::Error>> {
    if let Some(row) = cells.get(Table::BUCKET, &[page])? {
        check_page(&row).map_err(StoreError::corrupt(Table::BUCKET, &[page]))?;
        return Ok(row.into());
    }
    let mut row = vec![0; PAGE_BYTES];
    row[0] = PAGE_VERSION;
    let first = u16::from(page) * PAGE_BUCKETS as u16;
    let (from, to) = (first.to_be_bytes(), (first + PAGE_BUCKETS as u16).to_be_bytes());
    for (bucket, digest) in of_rows(cells, &from, Some(&to))? {
        // A page's own key may lie in the range too.
        if place(bucket).0 == page {
            add_at(&mut row, place(bucket).1, digest);
            cells.remove(Table::BUCKET, &bucket.to_be_bytes())?;
        }
    }
    Ok(row)
}

fn check_page(row: &[u8]) -> Result<(), DecodeError> {
    match row.first() {
        Some(&PAGE_VERSION) if row.len() == PAGE_BYTES => Ok(()),
        Some(&PAGE_VERSION) => Err(DecodeError::Malformed),
        Some(other) => Err(DecodeError::UnknownVersion(*other)),
        None => Err(DecodeError::Truncated),
    }
}

/// Reads a row of either kind.
fn decode(row: &[u8], value: &[u8], buckets: &mut Vec<(u16, u128)>) -> Result<(), DecodeError> {
    match *row {
        [page] => {
            check_page(value)?;
            let (digests, _) = value[1..].as_chunks();
            let first = u16::from(page) * PAGE_BUCKETS as u16;
            let all = (first..).zip(digests.iter().map(|digest| u128::from_be_bytes(*digest)));
            buckets.extend(all.filter(|(_, digest)| *digest != 0));
        }
        [high, low] => {
            let mut input = Reader::new(value);
            match input.u8()? {
                ONE_VERSION => {}
                other => return Err(DecodeError::UnknownVersion(other)),
            }
            buckets.push((u16::from_be_bytes([high, low]), input.u128()?));
            input.finish()?;
        }
        _ => return Err(DecodeError::Malformed),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells::MemCells;

    fn write(cells: &mut MemCells, all: &[(u16, u128)]) {
        let mut deltas = DigestDeltas::default();
        all.iter().for_each(|(bucket, delta)| deltas.add(*bucket, *delta));
        deltas.write(cells).expect("memory");
        assert_eq!(deltas, DigestDeltas::default());
    }

    fn minus(digest: u128) -> u128 {
        digest.wrapping_neg()
    }

    /// A row of one bucket as it was written once.
    fn write_one(cells: &mut MemCells, bucket: u16, digest: u128) {
        let mut golden = vec![1];
        golden.extend_from_slice(&digest.to_be_bytes());
        cells.put(Table::BUCKET, &bucket.to_be_bytes(), golden.into()).expect("memory");
    }

    #[test]
    fn golden_bytes_do_not_change() {
        let mut cells = MemCells::new();
        write(&mut cells, &[(128, 7), (130, 9)]);
        let mut golden = vec![2];
        for digest in [7u128, 0, 9].into_iter().chain([0; 125]) {
            golden.extend_from_slice(&digest.to_be_bytes());
        }
        assert_eq!(cells.get(Table::BUCKET, &[1]).expect("memory").as_deref(), Some(&golden[..]));
        assert_eq!(cells.count(Table::BUCKET), 1);
    }

    #[test]
    fn a_page_that_returns_to_nothing_leaves_no_row() {
        let mut cells = MemCells::new();
        write(&mut cells, &[(5, 4), (1023, 1), (5, 5)]);
        assert_eq!(bucket_digests(&cells).expect("memory"), [(5, 9), (1023, 1)]);
        assert_eq!(digest(&cells).expect("memory"), 10);
        write(&mut cells, &[(1023, minus(1)), (5, minus(9))]);
        assert_eq!(cells.count(Table::BUCKET), 0);
    }

    #[test]
    fn many_deltas_come_to_their_sum_and_take_bounded_room() {
        let (mut cells, mut deltas) = (MemCells::new(), DigestDeltas::default());
        for n in 0..3 * DELTAS_MAX as u128 {
            deltas.add((n % u128::from(BUCKETS)) as u16, n);
            assert!(deltas.0.len() <= DELTAS_MAX);
        }
        deltas.write(&mut cells).expect("memory");
        let all = 3 * DELTAS_MAX as u128;
        assert_eq!(digest(&cells).expect("memory"), all * (all - 1) / 2);
        assert_eq!(bucket_digests(&cells).expect("memory").len(), usize::from(BUCKETS));
    }

    #[test]
    fn rows_of_single_buckets_go_into_their_page_with_its_first_change() {
        let buckets = [0, 1, 127, 128, 255, 256, 511, 1023];
        for changed in buckets {
            let mut cells = MemCells::new();
            buckets.into_iter().for_each(|bucket| write_one(&mut cells, bucket, 10 + u128::from(bucket)));
            let all = buckets.map(|bucket| (bucket, 10 + u128::from(bucket)));
            assert_eq!(bucket_digests(&cells).expect("memory"), all);
            write(&mut cells, &[(changed, 5)]);
            let more = all.map(|(bucket, digest)| (bucket, digest + 5 * u128::from(bucket == changed)));
            assert_eq!(bucket_digests(&cells).expect("memory"), more);
            let of_page = buckets.iter().filter(|bucket| place(**bucket).0 == place(changed).0).count();
            assert_eq!(cells.count(Table::BUCKET), buckets.len() - of_page + 1);
            write(&mut cells, &more.map(|(bucket, digest)| (bucket, minus(digest))));
            assert_eq!(cells.count(Table::BUCKET), 0);
        }
    }

    #[test]
    fn what_is_no_page_is_refused() {
        for (value, why) in [
            (&[2][..], DecodeError::Malformed),
            (&[3; PAGE_BYTES], DecodeError::UnknownVersion(3)),
            (&[], DecodeError::Truncated),
        ] {
            assert_eq!(decode(&[0], value, &mut Vec::new()), Err(why));
        }
        assert!(decode(&[0, 0, 0], &[2], &mut Vec::new()).is_err());
        assert!(decode(&[0, 1], &[1, 0], &mut Vec::new()).is_err());
    }
}
