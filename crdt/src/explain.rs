//! Explaining a key: everything that its cells hold, the losers of concurrent writes included.

use crate::cell::{Held, PLUS};
use crate::cells::{ReadCells, Table};
use crate::codec::DecodeError;
use crate::collect::{Chosen, Item, Page, PageBounds, collect};
use crate::error::StoreError;
use crate::id::Dot;
use crate::keys::Key;
use crate::path;
use crate::read::PAGE_BYTES_MAX;
use crate::types::{Type, counter, doc};
use crate::value::Value;
use crate::view::KeyView;

/// What a key holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// The type it is shown as; `None` if it reads as absent.
    pub ty: Option<Type>,
    /// Its cells in the order of their paths.
    pub cells: Vec<ExplainedCell>,
    /// How many of these cells hold concurrent writes that contradict each other, and how many types beside the one
    /// shown are live.
    pub conflicts: u64,
    /// Whether there are more cells than were asked for.
    pub truncated: bool,
}

/// One cell, the cells of all origins of one counter, or all updates of a document that name the same incarnations.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedCell {
    /// The type of the cell.
    pub ty: Type,
    /// The fields that lead to it, and the element of a set; of a document which incarnation, or the updates to which.
    pub path: Vec<Value>,
    /// What it holds.
    pub dots: Vec<ExplainedDot>,
}

/// One write that has not been replaced by a later one.
#[derive(Clone, Debug, PartialEq)]
pub struct ExplainedDot {
    /// The txn.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: u64,
    /// A register's value; what an origin adds to a counter; of an origin's updates of a document how many there are, and
    /// how many bytes of these; false for a removal that wins, true for the rest.
    pub value: Value,
    /// Whether it is part of what the key reads as.
    pub visible: bool,
}

/// Explains at most `limit` cells of a key; `None` if nothing at all is known of it.
pub fn explain<C: ReadCells>(
    cells: &C,
    key: &Key,
    limit: usize,
) -> Result<Option<Explained>, StoreError<C::Error>> {
    let view = KeyView::open(cells, key)?;
    // What a document has is told by itself: of compacted updates there is no single one.
    let documents = path::of_type(&[], Type::Doc);
    let bounds = PageBounds { values: limit, bytes: PAGE_BYTES_MAX };
    let Page { items, stopped } = collect(&view, &[], Some(&documents), bounds, &mut |_| true)?;
    let ty = view.header.shown();
    if items.is_empty() && ty.is_none() {
        return Ok(None);
    }
    let mut chosen = ty.map(Chosen::new);
    let mut conflicts = view.header.visible.len().saturating_sub(1) as u64;
    let mut explained = Vec::new();
    for group in items.chunk_by(Item::same_value) {
        let first = &group[0];
        let visible = first.cell.is_visible(first.leaf.ty)
            && chosen.as_mut().is_some_and(|chosen| chosen.admit(&first.path));
        conflicts += u64::from(contradicts(first));
        let cell = explain_cell(group, visible).map_err(StoreError::corrupt(Table::CELL, &first.path))?;
        explained.push(cell);
    }
    let mut truncated = stopped.is_some();
    if !truncated && view.header.collection(Type::Doc).rows > 0 {
        explained.extend(doc::explained(&view, ty == Some(Type::Doc))?);
        truncated = explained.len() > limit;
        explained.truncate(limit);
    }
    Ok(Some(Explained { ty, cells: explained, conflicts, truncated }))
}

fn contradicts(item: &Item) -> bool {
    match item.leaf.ty {
        Type::Register | Type::MvRegister => item.cell.dots.len() > 1,
        ty if ty.remove_wins() => {
            item.cell.is_marked(ty) && item.cell.dots.iter().any(|held| held.payload == PLUS)
        }
        _ => false,
    }
}

fn explain_cell(group: &[Item], visible: bool) -> Result<ExplainedCell, DecodeError> {
    let Item { path, leaf, cell, .. } = &group[0];
    let mut segments: Vec<Value> =
        path::fields(path)?.into_iter().map(|(name, _)| Value::Str(name)).collect();
    if matches!(leaf.ty, Type::Set | Type::RwSet) {
        segments.push(Value::from_bytes(&path[leaf.base..])?);
    }
    let winner = cell.winner().map(|held| held.dot);
    let mut dots = Vec::new();
    for item in group {
        for held in &item.cell.dots {
            let shown = visible && (leaf.ty != Type::Register || Some(held.dot) == winner);
            let value = dot_value(leaf.ty, held, item)?;
            dots.push(ExplainedDot { dot: held.dot, hlc: held.hlc, value, visible: shown });
        }
    }
    Ok(ExplainedCell { ty: leaf.ty, path: segments, dots })
}

fn dot_value(ty: Type, held: &Held, item: &Item) -> Result<Value, DecodeError> {
    Ok(match ty {
        Type::Register | Type::MvRegister => Value::from_bytes(&held.payload)?,
        Type::Counter => {
            let net = counter::net(ty, held, &item.floor).map_or(0, |(_, net)| net);
            Value::Int(counter::saturate(net))
        }
        ty if ty.remove_wins() => Value::Bool(held.payload == PLUS),
        _ => Value::Bool(true),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Replica, key, text};
    use crate::{Mutation, RegisterOp, SetOp};

    #[test]
    fn losers_and_hidden_types_are_named() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        assert_eq!(explain(&a.cells, &key(), 10).expect("memory"), None);
        let set = |s| Mutation::Register(RegisterOp::Set(text(s)));
        let one = a.write(1, set("low"));
        let other = b.write(2, set("high"));
        let mut c = Replica::new(3);
        let third = c.write(3, Mutation::RwSet(SetOp::Add(text("x"))));
        let fourth = b.write(9, Mutation::Delete(None));
        for txn in [&other, &third] {
            a.receive(txn);
        }
        let explained = explain(&a.cells, &key(), 10).expect("memory").expect("is there");
        assert_eq!(
            (explained.ty, explained.conflicts, explained.truncated),
            (Some(Type::Register), 2, false)
        );
        let dots: Vec<_> =
            explained.cells.iter().flat_map(|c| &c.dots).map(|d| (d.value.clone(), d.visible)).collect();
        assert_eq!(dots, [(text("low"), false), (text("high"), true), (Value::Bool(true), false)]);
        assert_eq!(explained.cells[1].path, [text("x")]);
        assert!(explain(&a.cells, &key(), 1).expect("memory").expect("is there").truncated);
        a.receive(&fourth);
        b.receive(&one);
        b.receive(&third);
        assert_eq!(
            explain(&a.cells, &key(), 10).expect("memory"),
            explain(&b.cells, &key(), 10).expect("memory")
        );
    }
}
