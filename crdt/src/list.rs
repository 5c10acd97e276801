//! Listing the keys of a space in the order of their bytes.

use std::ops::ControlFlow;

use bytes::Bytes;

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
        Some(after) => first.max([header_row(space, after), vec![0]].concat()),
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
        let decoded = Key::from_header_row(row)
            .and_then(|key| Ok((key.key, Header::decode(&Bytes::copy_from_slice(value))?)));
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
}
