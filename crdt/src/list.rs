//! Listing the keys of a space in the order of their bytes.

use std::ops::ControlFlow;

use xxhash_rust::xxh3::Xxh3;

use crate::cells::{ReadCells, Table, prefix_end};
use crate::error::StoreError;
use crate::header::{Header, Version};
use crate::keys::{Key, header_row};
use crate::types::Type;

/// How many headers of absent keys a page may look at beyond the keys it has room for.
const LOOKED_BEYOND_MAX: usize = 4096;

/// A key in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The key.
    pub key: String,
    /// The type it is shown as.
    pub ty: Type,
    /// Its version.
    pub version: Version,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The keys that are there.
    pub keys: Vec<Listed>,
    /// Whether there may be more behind this page, which may also be an empty one.
    pub more: bool,
    /// With `more`: the last key that was looked at, where the next page goes on.
    pub cursor: Option<String>,
}

/// Lists at most `limit` (at least 1) keys of `space` that start with `prefix` and come after `after`.
pub fn list<C: ReadCells>(
    cells: &C,
    space: &str,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> Result<Listing, StoreError<C::Error>> {
    let first = header_row(space, prefix);
    let end = prefix_end(&first);
    let start = match after {
        Some(after) => first.max(behind(space, after)),
        None => first,
    };
    let mut listing = Listing::default();
    let mut looked = 0;
    let mut last = None;
    let mut failed = None;
    cells.scan(Table::HEADER, &start, end.as_deref(), &mut |row, value| {
        if listing.keys.len() >= limit.max(1) || looked >= limit.saturating_add(LOOKED_BEYOND_MAX) {
            listing.more = true;
            return ControlFlow::Break(());
        }
        let decoded =
            Key::from_header_row(row).and_then(|key| Ok((key.key, Header::decode_without_cells(value)?)));
        let (key, header) = match decoded {
            Ok(decoded) => decoded,
            Err(why) => {
                failed = Some(StoreError::corrupt(Table::HEADER, row)(why));
                return ControlFlow::Break(());
            }
        };
        looked += 1;
        if let Some(ty) = header.shown() {
            listing.keys.push(Listed { key: key.clone(), ty, version: Version(header.digest) });
        }
        last = Some(key);
        ControlFlow::Continue(())
    })?;
    listing.cursor = last.filter(|_| listing.more);
    failed.map_or(Ok(listing), Err)
}

/// A range of the keys of a space, in the order of their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range<'a> {
    /// The space.
    pub space: &'a str,
    /// What every key of the range starts with.
    pub prefix: &'a str,
    /// The key behind which the range begins; none for the first.
    pub after: Option<&'a str>,
    /// The last key of the range, which need not exist; none for the end of the prefix.
    pub upto: Option<&'a str>,
}

/// What a listing of a range shows, in few bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeSeen {
    /// A hash of every key that is there, with its type and its version. Equal ones show the same listing.
    pub fingerprint: u64,
    /// How many rows had to be looked at, those of absent keys included.
    pub rows: usize,
}

/// Takes the fingerprint of a range; `None` if more than `rows_max` rows would have to be looked at.
///
/// Only what a listing can show goes in: the headers of absent keys come and go with stability, at each node and in
/// each datacenter at another time.
pub fn fingerprint<C: ReadCells>(
    cells: &C,
    range: Range<'_>,
    rows_max: usize,
) -> Result<Option<RangeSeen>, StoreError<C::Error>> {
    let first = header_row(range.space, range.prefix);
    let prefix_end = prefix_end(&first);
    let start = range.after.map_or_else(|| first.clone(), |after| behind(range.space, after)).max(first);
    let end = match (range.upto.map(|upto| behind(range.space, upto)), prefix_end) {
        (Some(upto), Some(end)) => Some(upto.min(end)),
        (upto, end) => upto.or(end),
    };
    let mut hash = Xxh3::new();
    if end.as_ref().is_some_and(|end| *end <= start) {
        return Ok(Some(RangeSeen { fingerprint: hash.digest(), rows: 0 }));
    }
    let (mut rows, mut too_many, mut failed) = (0, false, None);
    cells.scan(Table::HEADER, &start, end.as_deref(), &mut |row, value| {
        if rows >= rows_max {
            too_many = true;
            return ControlFlow::Break(());
        }
        rows += 1;
        match Header::decode_without_cells(value) {
            Ok(header) => {
                if let Some(ty) = header.shown() {
                    hash.update(&(row.len() as u64).to_be_bytes());
                    hash.update(row);
                    hash.update(&[ty.code()]);
                    hash.update(&header.digest.to_be_bytes());
                }
                ControlFlow::Continue(())
            }
            Err(why) => {
                failed = Some(StoreError::corrupt(Table::HEADER, row)(why));
                ControlFlow::Break(())
            }
        }
    })?;
    let seen = RangeSeen { fingerprint: hash.digest(), rows };
    failed.map_or(Ok((!too_many).then_some(seen)), Err)
}

/// The first row behind that of a key.
fn behind(space: &str, key: &str) -> Vec<u8> {
    [header_row(space, key), vec![0]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Replica;
    use crate::{FlagOp, Mutation};

    fn fill(a: &mut Replica, space: &str, keys: &[&str]) {
        for key in keys {
            a.commit(1, &[(Key::new(space, *key).expect("well formed"), Mutation::Flag(FlagOp::Enable))]);
        }
    }

    #[test]
    fn keys_are_listed_in_byte_order_page_by_page() {
        let mut a = Replica::new(1);
        fill(&mut a, "s", &["b", "a\0", "a", "é", "a\0b", "ab"]);
        fill(&mut a, "s2", &["a"]);
        fill(&mut a, "r", &["a"]);
        let mut keys = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = list(&a.cells, "s", "", after.as_deref(), 2).expect("memory");
            keys.extend(page.keys.into_iter().map(|listed| listed.key));
            after = page.cursor;
            if !page.more {
                break;
            }
        }
        assert_eq!(keys, ["a", "a\0", "a\0b", "ab", "b", "é"]);
    }

    #[test]
    fn a_prefix_narrows_the_listing_and_absent_keys_are_left_out() {
        let mut a = Replica::new(1);
        fill(&mut a, "s", &["user/1", "user/2", "user/3", "users"]);
        let gone = Key::new("s", "user/2").expect("well formed");
        a.commit(1, &[(gone, Mutation::Delete(None))]);
        let page = list(&a.cells, "s", "user/", None, 10).expect("memory");
        assert_eq!(page.keys.iter().map(|l| l.key.as_str()).collect::<Vec<_>>(), ["user/1", "user/3"]);
        assert_eq!((page.more, page.cursor), (false, None));
        let page = list(&a.cells, "s", "user/", Some("zzz"), 10).expect("memory");
        assert!(page.keys.is_empty());
    }

    fn seen(a: &Replica, after: Option<&str>, upto: Option<&str>) -> u64 {
        let range = Range { space: "s", prefix: "user/", after, upto };
        fingerprint(&a.cells, range, 100).expect("memory").expect("few rows").fingerprint
    }

    #[test]
    fn a_fingerprint_changes_with_what_its_range_shows_and_with_nothing_else() {
        let mut a = Replica::new(1);
        fill(&mut a, "s", &["user/1", "user/3", "user/5"]);
        let (all, page) = (seen(&a, None, None), seen(&a, Some("user/1"), Some("user/3")));
        fill(&mut a, "s", &["user", "users", "vest"]);
        fill(&mut a, "s2", &["user/2"]);
        assert_eq!((seen(&a, None, None), seen(&a, Some("user/1"), Some("user/3"))), (all, page));
        fill(&mut a, "s", &["user/31"]);
        assert_ne!(seen(&a, None, None), all, "a key came to be");
        assert_eq!(seen(&a, Some("user/1"), Some("user/3")), page, "behind the page");
        fill(&mut a, "s", &["user/2"]);
        assert_ne!(seen(&a, Some("user/1"), Some("user/3")), page, "inside the page");
        let gone = |k| (Key::new("s", k).expect("well formed"), Mutation::Delete(None));
        a.commit(2, &[gone("user/2"), gone("user/31")]);
        assert_eq!(seen(&a, None, None), all, "what is absent again is not shown");
        fill(&mut a, "s", &["user/3"]);
        assert_ne!(seen(&a, None, None), all, "a version changed");
    }

    #[test]
    fn a_fingerprint_looks_at_no_more_rows_than_it_may() {
        let mut a = Replica::new(1);
        fill(&mut a, "s", &["user/1", "user/2", "user/3"]);
        let range = Range { space: "s", prefix: "user/", after: None, upto: None };
        assert_eq!(fingerprint(&a.cells, range, 2).expect("memory"), None);
        assert_eq!(fingerprint(&a.cells, range, 3).expect("memory").map(|seen| seen.rows), Some(3));
    }
}
