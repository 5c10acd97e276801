//! What `explain` says of a document: its incarnations, and for each set of these how much of each origin counts.
//!
//! It says nothing of single updates, since of those that were compacted nothing single is left: what it says must not
//! depend on where and when that was done.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::compact::Sum;
use super::place::{INCARNATION, Place, SUMS, kind_prefix};
use super::updates;
use crate::cell::Held;
use crate::cells::ReadCells;
use crate::codec::DecodeError;
use crate::error::StoreError;
use crate::explain::{ExplainedCell, ExplainedDot};
use crate::id::{Dot, Origin};
use crate::types::Type;
use crate::value::Value;
use crate::view::{KeyView, VisitCell, decoding};

/// The newest update of an origin to a set of incarnations, its stamp, and how much there is of all its updates.
type Share = (Dot, u64, Sum);

/// The cells of a document.
pub(crate) fn explained<C: ReadCells>(
    view: &KeyView<'_, C>,
    visible: bool,
) -> Result<Vec<ExplainedCell>, StoreError<C::Error>> {
    let mut shares = compacted(view)?;
    for update in &updates(view)? {
        let of_set = shares.entry(update.of.to_vec()).or_default();
        let share = of_set.entry(update.dot.origin).or_insert((update.dot, update.hlc, Sum::default()));
        if update.dot.seq > share.0.seq {
            (share.0, share.1) = (update.dot, update.hlc);
        }
        share.2.add([&update.bytes]);
    }
    let text = |text: &str| Value::Str(text.to_owned());
    let name = |dot: &Dot| Value::Str(dot.to_string());
    let mut cells = Vec::new();
    view.scan_prefix(&kind_prefix(INCARNATION), &mut |_, stored| {
        for Held { dot, hlc, .. } in stored.cell.dots {
            let path = vec![text("incarnation"), name(&dot)];
            let dots = vec![ExplainedDot { dot, hlc, value: Value::Bool(true), visible }];
            cells.push(ExplainedCell { ty: Type::Doc, path, dots });
        }
        ControlFlow::Continue(())
    })?;
    let count = |n: u64| Value::Int(i64::try_from(n).unwrap_or(i64::MAX));
    for (of, by_origin) in shares {
        let path = std::iter::once(text("updates")).chain(of.iter().map(name)).collect();
        let explained = |(dot, hlc, sum): Share| {
            let value = [("bytes".to_owned(), count(sum.bytes)), ("count".to_owned(), count(sum.count))];
            ExplainedDot { dot, hlc, value: Value::Map(value.into()), visible }
        };
        cells.push(ExplainedCell {
            ty: Type::Doc,
            path,
            dots: by_origin.into_values().map(explained).collect(),
        });
    }
    Ok(cells)
}

/// What stands in snapshots.
#[expect(clippy::type_complexity, reason = "it is what it says")]
fn compacted<C: ReadCells>(
    view: &KeyView<'_, C>,
) -> Result<BTreeMap<Vec<Dot>, BTreeMap<Origin, Share>>, StoreError<C::Error>> {
    let mut shares: BTreeMap<Vec<Dot>, BTreeMap<Origin, Share>> = BTreeMap::new();
    let scan = |visit: &mut VisitCell<'_>| view.scan_prefix(&kind_prefix(SUMS), visit);
    decoding(scan, |path, stored| {
        for held in stored.cell.dots {
            let Place::Sums(of) = Place::of(path)? else { return Err(DecodeError::Malformed) };
            let share = (held.dot, held.hlc, Sum::decode(&held.payload)?);
            shares.entry(of).or_default().insert(held.dot.origin, share);
        }
        Ok(())
    })?;
    Ok(shares)
}
