//! What a transaction has read, and whether it still reads the same: the validation of interactive transactions.
//!
//! A check names what was shown, never what was written; it holds in the state to which the transaction is applied if
//! and only if the transaction would be shown the same there. It costs about what the reading had cost, and never more
//! than the bounds of [`super::bounds`].

use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{Condition, Key, Range, ReadCells, StoreError, Type, Value, Version};
use serde::{Deserialize, Serialize};

use super::bounds::{CONFLICTS_NAMED_MAX, TXN_CHECKS_MAX, TXN_RECHECKED_ROWS_MAX};

/// One thing that a transaction has read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ReadCheck {
    /// A key, whole.
    Key {
        /// The key.
        key: Key,
        /// The version that was read; that of nothing if it was absent.
        version: Version,
    },
    /// Whether a set has an element, or a map a field.
    Element {
        /// The key.
        key: Key,
        /// The element, or the name of the field.
        element: Value,
        /// The type that the key was shown as; none if it was absent.
        shown: Option<Type>,
        /// Whether the element was there.
        present: bool,
    },
    /// The keys of a range.
    Scan {
        /// The space.
        space: String,
        /// What the keys start with.
        prefix: String,
        /// The key behind which the range begins; none for the first.
        after: Option<String>,
        /// The last key of the range; none for the end of the prefix.
        upto: Option<String>,
        /// The fingerprint of what was listed.
        seen: u64,
    },
}

impl ReadCheck {
    /// The key that was read; none for a range.
    pub fn key(&self) -> Option<&Key> {
        match self {
            ReadCheck::Key { key, .. } | ReadCheck::Element { key, .. } => Some(key),
            ReadCheck::Scan { .. } => None,
        }
    }

    /// What a conflict calls it.
    fn name(&self) -> String {
        match self {
            ReadCheck::Key { key, .. } | ReadCheck::Element { key, .. } => key.to_string(),
            ReadCheck::Scan { space, prefix, .. } => format!("{space}/{prefix}*"),
        }
    }

    /// Whether the same is read now. A range may look at `rows_left` rows and takes what it looks at from them.
    fn holds<C: ReadCells>(&self, cells: &C, rows_left: &mut usize) -> Result<bool, StoreError<C::Error>> {
        match self {
            ReadCheck::Key { key, version } => Ok(meridian_crdt::glance(cells, key)?.version == *version),
            ReadCheck::Element { key, element, shown, present } => {
                if meridian_crdt::glance(cells, key)?.ty != *shown {
                    return Ok(false);
                }
                // A type without elements is never recorded so; one that comes up all the same is answered in O(1).
                let has_elements = matches!(shown, Some(Type::Set | Type::RwSet | Type::Map));
                let contains = || meridian_crdt::check(cells, key, &Condition::Contains(element.clone()));
                Ok((has_elements && contains()?) == *present)
            }
            ReadCheck::Scan { space, prefix, after, upto, seen } => {
                let range = Range { space, prefix, after: after.as_deref(), upto: upto.as_deref() };
                let found = meridian_crdt::fingerprint(cells, range, *rows_left)?;
                *rows_left = rows_left.saturating_sub(found.map_or(*rows_left, |found| found.rows));
                Ok(found.is_some_and(|found| found.fingerprint == *seen))
            }
        }
    }
}

/// Runs every check; the conflict if one fails.
pub fn validate<C: ReadCells>(
    cells: &C,
    reads: &[ReadCheck],
) -> Result<Option<ApiError>, StoreError<C::Error>> {
    if reads.len() > TXN_CHECKS_MAX {
        return Ok(Some(too_many_checks()));
    }
    let mut rows_left = TXN_RECHECKED_ROWS_MAX;
    let mut changed = Vec::new();
    for read in reads {
        if !read.holds(cells, &mut rows_left)? {
            changed.push(read.name());
        }
        if changed.len() == CONFLICTS_NAMED_MAX {
            break;
        }
    }
    if changed.is_empty() {
        return Ok(None);
    }
    changed.dedup();
    let message =
        "what the transaction has read was changed by another one; nothing of it was done, run it again";
    let error = ApiError::new(ErrorCode::Conflict, message);
    Ok(Some(error.with("reason", "changed").with("changed", changed)))
}

/// The error of a transaction that wants more checked than apply does.
pub fn too_many_checks() -> ApiError {
    let message =
        format!("the transaction has read more than the {TXN_CHECKS_MAX} things that can be checked");
    ApiError::new(ErrorCode::TooLarge, message).with("limit", TXN_CHECKS_MAX)
}

/// The error of a transaction that is not open: it never was, it has ended, or its life is over.
pub fn not_open() -> ApiError {
    let message = "the transaction is not open: its life is over, or it has ended; nothing more of it was done, begin again";
    ApiError::new(ErrorCode::Conflict, message).with("reason", "expired")
}
