//! Cleared collections: rows of cells that are gone, and wait to be removed.
//!
//! ```text
//! SWEEP   ff x 8 | 01 | index u64 | cell prefix of the key | type u8 | generation u64 -> version=1
//! ```
//!
//! A clear of which it is known that nothing survives it looks at no cell: it raises the collection's generation, under
//! which its cells stand from then on, and queues the one before. Nothing ever reads that one again, so its rows go
//! whenever a sweep gets to them, stable or not. The rows of the queue are worked off in the order of the clears, so a
//! collection that is cleared again and again holds up no other. This module does not know what a cell holds.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::cells::{Cells, ReadCells, Table, prefix_end};
use crate::codec::{DecodeError, Reader};
use crate::edit::KeyEdit;
use crate::error::StoreError;
use crate::keys::{Key, cell_row};
use crate::sweep::{Swept, settle_header};
use crate::types::Type;
use crate::vector::Vector;

/// Where the rows of cleared generations begin, behind all others of the queue.
const FIRST: &[u8] = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
const VERSION: &[u8] = &[1];

/// Queues a generation. `index` is the local index of the clear.
pub(crate) fn enqueue<C: Cells>(
    cells: &mut C,
    index: u64,
    cell_prefix: &[u8],
    ty: Type,
    generation: u64,
) -> Result<(), StoreError<C::Error>> {
    let row = [FIRST, &index.to_be_bytes(), cell_prefix, &[ty.code()], &generation.to_be_bytes()].concat();
    Ok(cells.put(Table::SWEEP, &row, Bytes::from_static(VERSION))?)
}

/// Whether any generation is queued.
pub(crate) fn pending<C: ReadCells>(cells: &C) -> Result<bool, StoreError<C::Error>> {
    Ok(!first_rows(cells, Table::SWEEP, FIRST, prefix_end(FIRST).as_deref(), 1)?.is_empty())
}

/// Removes at most `limit` rows of cleared generations. The header of a key of which the last is gone goes too, or is
/// queued until it may.
pub(crate) fn sweep_cleared<C: Cells>(
    cells: &mut C,
    stable: &Vector,
    keep_from_index: u64,
    limit: usize,
    swept: &mut Swept,
) -> Result<(), StoreError<C::Error>> {
    let mut left = limit;
    while left > 0 {
        let queued = first_rows(cells, Table::SWEEP, FIRST, prefix_end(FIRST).as_deref(), 1)?;
        let Some(row) = queued.first() else { return Ok(()) };
        let (key, ty, generation) = decode(row).map_err(StoreError::corrupt(Table::SWEEP, row))?;
        let prefix = key.cell_prefix();
        let start = cell_row(&prefix, generation, &[ty.code()]);
        let end = cell_row(&prefix, generation, &[ty.code() + 1]);
        let dead = first_rows(cells, Table::CELL, &start, Some(&end), left)?;
        for row in &dead {
            cells.remove(Table::CELL, row)?;
        }
        swept.removed += dead.len();
        // A generation that turns out to be empty was looked at all the same.
        let looked = dead.len().max(1);
        swept.examined += looked;
        if dead.len() < left {
            cells.remove(Table::SWEEP, row)?;
            let mut edit = KeyEdit::open(cells, &key, keep_from_index)?;
            edit.header.change_collection(ty, |c| c.unswept = c.unswept.saturating_sub(1));
            settle_header(edit, stable, keep_from_index)?;
        }
        left -= looked;
    }
    Ok(())
}

fn decode(row: &[u8]) -> Result<(Key, Type, u64), DecodeError> {
    let rest = row.get(FIRST.len() + 8..).ok_or(DecodeError::Truncated)?;
    let (key, rest) = Key::from_cell_row(rest)?;
    let mut input = Reader::new(rest);
    let ty = Type::from_code(input.u8()?).ok_or(DecodeError::Malformed)?;
    let generation = input.u64()?;
    input.finish()?;
    Ok((key, ty, generation))
}

/// The keys of the first rows of a range.
fn first_rows<C: ReadCells>(
    cells: &C,
    table: Table,
    from: &[u8],
    to: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Vec<u8>>, StoreError<C::Error>> {
    let mut rows = Vec::new();
    cells.scan(table, from, to, &mut |row, _| {
        rows.push(row.to_vec());
        if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::{Replica, key, text};
    use crate::{
        CounterOp, ExplainedDot, MapOp, Mutation, Query, ReadValue, SetOp, Txn, Value, explain, list,
        merge_state, read, sweep,
    };

    const CLEAR: Mutation = Mutation::Set(SetOp::Clear);
    const DELETE: Mutation = Mutation::Delete(None);

    fn add(range: std::ops::Range<i64>) -> Mutation {
        Mutation::Set(SetOp::AddAll(range.map(Value::Int).collect()))
    }

    fn update(field: &str, mutation: Mutation) -> Mutation {
        Mutation::Map(MapOp::Update { field: field.into(), mutation: Box::new(mutation) })
    }

    fn counter(by: i64) -> Mutation {
        Mutation::Counter(CounterOp::Add(by))
    }

    /// Some steps of sweeping, of four rows each, at what is stable.
    fn sweep_some(a: &mut Replica, steps: usize) {
        let before = (a.value(), a.digest());
        for _ in 0..steps {
            let swept = sweep(&mut a.cells, &a.stable, 0, 4).expect("memory");
            assert!(swept.examined <= 4 && swept.removed <= swept.examined);
        }
        assert_eq!((a.value(), a.digest()), before, "a sweep changes nothing that is observed");
    }

    fn nothing_is_left(a: &mut Replica) {
        a.settle();
        let tables = [Table::CELL, Table::HEADER, Table::SWEEP, Table::BUCKET];
        assert_eq!(tables.map(|table| a.rows(table)), [0, 0, 0, 0]);
    }

    fn rows_used(a: &mut Replica, act: impl FnOnce(&mut Replica)) -> (usize, usize, usize) {
        a.cells.reads.set(0);
        a.cells.scanned.set(0);
        a.cells.writes = 0;
        act(a);
        (a.cells.reads.get(), a.cells.scanned.get(), a.cells.writes)
    }

    #[test]
    fn a_clear_of_a_hundred_thousand_elements_touches_a_handful_of_rows_everywhere() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        for (n, gone) in [CLEAR, DELETE].into_iter().enumerate() {
            for chunk in 0..10 {
                let txn = a.write(1, add(chunk * 10_000..(chunk + 1) * 10_000));
                b.receive(&txn);
            }
            let mut txn = None;
            let used = rows_used(&mut a, |a| txn = Some(a.write(2, gone)));
            assert!(used.0 <= 20 && used.1 <= 4 && used.2 <= 5, "the origin used {used:?}");
            let txn = txn.expect("was written");
            let used = rows_used(&mut b, |b| b.receive(&txn));
            assert!(used.0 <= 4 && used.1 == 0 && used.2 <= 5, "the other used {used:?}");
            for replica in [&mut a, &mut b] {
                assert_eq!((replica.value(), replica.digest()), (None, 0));
                assert_eq!(replica.rows(Table::CELL), (n + 1) * 100_000);
                let used =
                    rows_used(replica, |r| assert_eq!(explain(&r.cells, &key(), 9).expect("memory"), None));
                assert!(used.0 <= 2 && used.1 == 0, "explain used {used:?}");
            }
        }
        nothing_is_left(&mut a);
    }

    #[test]
    fn a_clear_in_the_midst_of_a_txn_touches_only_what_the_txn_itself_added() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let first = a.write(1, add(0..20_000));
        b.receive(&first);
        let ops = [add(30_000..30_005), CLEAR, add(4..6), add(40_000..40_001), CLEAR, add(5..8)];
        let ops = ops.map(|op| (key(), op));
        let mut txn: Option<Txn> = None;
        let used = rows_used(&mut a, |a| txn = Some(a.commit(2, &ops).0));
        assert!(used.0 <= 100 && used.1 <= 10 && used.2 <= 20, "{used:?}");
        b.receive(&txn.expect("was written"));
        assert_eq!(a.value(), Some(Value::Array((5..8).map(Value::Int).collect())));
        assert_eq!((a.value(), a.digest()), (b.value(), b.digest()));
    }

    #[test]
    fn reads_are_right_before_during_and_after_the_sweep() {
        let mut a = Replica::new(1);
        a.write(1, add(0..60));
        a.write(2, CLEAR);
        let added = a.write(3, add(50..53)).head.dot;
        for _ in 0..40 {
            let query = |element| Query { limit: 2, element, ..Query::default() };
            let page = read(&a.cells, &key(), &query(None)).expect("memory").content.expect("is there");
            assert_eq!(page.value, ReadValue::Set(vec![Value::Int(50), Value::Int(51)]));
            assert_eq!((page.size, page.cursor.is_some()), (Some(3), true));
            for (element, present) in [(3, false), (51, true)] {
                let content =
                    read(&a.cells, &key(), &query(Some(Value::Int(element)))).expect("memory").content;
                assert_eq!(content.expect("is there").present, Some(present));
            }
            let explained = explain(&a.cells, &key(), 100).expect("memory").expect("is there");
            assert_eq!(explained.cells.len(), 3);
            let own = |dot: &ExplainedDot| dot.dot == added && dot.visible;
            assert!(explained.cells.iter().flat_map(|cell| &cell.dots).all(own));
            let listed = list(&a.cells, "default", "", None, 10).expect("memory");
            assert_eq!((listed.keys.len(), listed.keys[0].version), (1, page.version));
            sweep_some(&mut a, 1);
        }
        assert_eq!(a.rows(Table::CELL), 3);
        assert_eq!(a.rows(Table::SWEEP), 0);
        a.write(4, DELETE);
        assert!(list(&a.cells, "default", "", None, 10).expect("memory").keys.is_empty());
        nothing_is_left(&mut a);
    }

    #[test]
    fn an_element_that_is_added_again_is_a_new_one_however_far_the_sweep_is() {
        for steps in [0, 3, 6, 100] {
            let (mut a, mut b) = (Replica::new(1), Replica::new(2));
            let mut txns = vec![a.write(1, add(0..30)), a.write(2, CLEAR)];
            sweep_some(&mut a, steps);
            for mutation in [add(3..6), Mutation::Set(SetOp::Remove(Value::Int(4))), add(20..21)] {
                txns.push(a.write(3, mutation));
                sweep_some(&mut a, 1);
            }
            txns.iter().for_each(|txn| b.receive(txn));
            assert_eq!(a.value(), Some(Value::Array([3, 5, 20].map(Value::Int).into())));
            assert_eq!((a.value(), a.digest()), (b.value(), b.digest()));
            let gone = b.write(4, CLEAR);
            a.receive(&gone);
            nothing_is_left(&mut a);
            nothing_is_left(&mut b);
        }
    }

    #[test]
    fn a_clear_leaves_what_is_concurrent_with_it_in_whichever_order_they_come() {
        for gone in [CLEAR, DELETE] {
            let (mut a, mut b, mut c) = (Replica::new(1), Replica::new(2), Replica::new(3));
            let first = a.write(1, add(0..30));
            b.receive(&first);
            c.receive(&first);
            let cleared = a.write(2, gone);
            let late = b.write(3, add(10..12));
            sweep_some(&mut a, 2);
            a.receive(&late);
            b.receive(&cleared);
            c.receive(&cleared);
            sweep_some(&mut c, 3);
            c.receive(&late);
            assert_eq!(b.rows(Table::CELL), 2, "where something concurrent stands, cells go at once");
            for replica in [&mut a, &mut b, &mut c] {
                assert_eq!(replica.value(), Some(Value::Array(vec![Value::Int(10), Value::Int(11)])));
            }
            assert_eq!((a.digest(), b.digest()), (c.digest(), c.digest()));
            let last = c.write(4, CLEAR);
            a.receive(&last);
            b.receive(&last);
            [&mut a, &mut b, &mut c].into_iter().for_each(nothing_is_left);
        }
    }

    #[test]
    fn states_merge_at_any_point_of_the_sweep() {
        for (steps_a, steps_b) in [(0, 0), (0, 5), (5, 0), (3, 6), (100, 1)] {
            let (mut a, mut b) = (Replica::new(1), Replica::new(2));
            let first = a.write(1, add(0..30));
            b.receive(&first);
            let other = b.write(2, add(40..60));
            a.receive(&other);
            let cleared = a.write(3, CLEAR);
            a.write(4, add(5..7));
            b.write(4, add(50..51));
            sweep_some(&mut a, steps_a);
            let mut c = Replica::new(3);
            merge_state(&b.cells, &b.vector, &mut c.cells, &c.vector, 1).expect("memory");
            c.vector.join(&b.vector);
            c.receive(&cleared);
            sweep_some(&mut c, steps_b);
            for (to, from) in [(&mut b, &a), (&mut c, &a)] {
                merge_state(&from.cells, &from.vector, &mut to.cells, &to.vector, 90).expect("memory");
                to.vector.join(&from.vector);
                to.index = 90;
                assert_eq!(to.value(), Some(Value::Array([5, 6, 50].map(Value::Int).into())));
            }
            merge_state(&c.cells, &c.vector, &mut a.cells, &a.vector, 90).expect("memory");
            a.vector.join(&c.vector);
            a.index = 90;
            assert_eq!((a.value(), a.digest(), b.digest()), (c.value(), c.digest(), c.digest()));
            let last = b.write(5, DELETE);
            a.receive(&last);
            c.receive(&last);
            [&mut a, &mut b, &mut c].into_iter().for_each(nothing_is_left);
        }
    }

    #[test]
    fn a_set_that_is_cleared_again_and_again_holds_up_no_other() {
        let mut a = Replica::new(1);
        let other = Key::new("default", "other").expect("well formed");
        a.write(1, add(0..20));
        a.write(1, CLEAR);
        a.commit(1, &[(other.clone(), add(0..20))]);
        a.commit(1, &[(other.clone(), DELETE)]);
        a.commit(1, &[(key(), Mutation::Delete(Some(Type::Set)))]);
        let mut rounds = 0;
        let of_other = |a: &Replica| {
            let rows = |(table, row, _): &(Table, &[u8], &bytes::Bytes)| {
                *table == Table::CELL && row.starts_with(&other.cell_prefix())
            };
            a.cells.rows.iter().filter(rows).count()
        };
        while of_other(&a) > 0 {
            rounds += 1;
            assert!(rounds < 30, "the other set waits for ever");
            a.write(2, add(0..20));
            a.write(3, CLEAR);
            sweep_some(&mut a, 1);
        }
        let header = a.cells.rows.get(Table::HEADER, &key().header_row()).expect("memory").expect("is there");
        let header = crate::header::Header::decode(&header).expect("own encoding");
        assert!(header.collection(Type::Set).unswept > 1);
        nothing_is_left(&mut a);
    }

    #[test]
    fn cleared_rows_and_ripe_ones_share_a_sweep() {
        let mut a = Replica::new(1);
        let at = |n: i64| Key::new("default", format!("k{n:03}")).expect("well formed");
        for n in 0..50 {
            a.commit(1, &[(at(n), Mutation::Flag(crate::FlagOp::Enable))]);
            a.commit(1, &[(at(n), DELETE)]);
        }
        a.write(1, add(0..1000));
        a.write(1, CLEAR);
        a.stable = a.vector.clone();
        for _ in 0..20 {
            let swept = sweep(&mut a.cells, &a.stable, u64::MAX, 16).expect("memory");
            assert!(swept.examined <= 16 && swept.ripe_left);
        }
        assert_eq!(a.rows(Table::HEADER), 1, "only that of the cleared set");
        assert!((500..1000).contains(&a.rows(Table::CELL)));
        nothing_is_left(&mut a);
    }

    #[test]
    fn nothing_that_is_stable_or_not_keeps_cleared_rows() {
        let mut a = Replica::new(1);
        a.write(1, add(0..10));
        a.write(1, CLEAR);
        sweep_some(&mut a, 20);
        assert_eq!((a.rows(Table::CELL), a.rows(Table::HEADER)), (0, 1));
        let query = read(&a.cells, &key(), &Query::default()).expect("memory");
        assert_eq!((query.touched, query.changed_index), (a.vector.clone(), 2));
        nothing_is_left(&mut a);
    }

    #[test]
    fn a_map_is_cleared_whole_with_its_marks_and_stands_apart_from_what_comes_after() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let mut txns: Vec<Txn> = Vec::new();
        for n in 0..20 {
            txns.push(a.write(n, update(&format!("f{n}"), Mutation::RwSet(SetOp::Add(text("x"))))));
            txns.push(a.write(n, update(&format!("f{n}"), Mutation::RwSet(SetOp::Remove(text("x"))))));
            txns.push(a.write(n, update(&format!("g{n}"), counter(2))));
        }
        txns.push(a.write(30, Mutation::Map(MapOp::Clear)));
        txns.push(a.write(31, update("g3", counter(5))));
        txns.iter().for_each(|txn| b.receive(txn));
        for replica in [&mut a, &mut b] {
            let content = read(&replica.cells, &key(), &Query::default()).expect("memory").content;
            let content = content.expect("is there");
            assert_eq!(content.size, Some(1));
            let ReadValue::Map(fields) = content.value else { panic!("is a map") };
            assert_eq!(fields["g3"], (Type::Counter, ReadValue::Counter(5)));
        }
        assert!(a.rows(Table::CELL) > 30, "its cells are left to the sweep");
        assert_eq!(a.digest(), b.digest());
        let last = b.write(40, DELETE);
        a.receive(&last);
        nothing_is_left(&mut a);
        nothing_is_left(&mut b);
    }

    #[test]
    fn a_clear_of_a_map_without_counters_touches_a_handful_of_rows() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        for n in 0..2_000 {
            let txn = a.write(n, update(&n.to_string(), Mutation::Flag(crate::FlagOp::Enable)));
            b.receive(&txn);
        }
        let mut txn = None;
        let used = rows_used(&mut a, |a| txn = Some(a.write(3_000, Mutation::Map(MapOp::Clear))));
        assert!(used.0 <= 20 && used.1 <= 4 && used.2 <= 5, "the origin used {used:?}");
        b.receive(&txn.expect("was written"));
        assert_eq!((a.value(), a.digest(), b.value(), b.digest()), (None, 0, None, 0));
        nothing_is_left(&mut a);
        nothing_is_left(&mut b);
    }

    #[test]
    fn floors_outlive_a_clear_that_has_observed_them() {
        let (mut a, mut b, mut c) = (Replica::new(1), Replica::new(2), Replica::new(3));
        let first = a.write(1, update("n", counter(10)));
        b.receive(&first);
        c.receive(&first);
        // A floor under the run of a, put there by b; then a clear that has observed the floor.
        let reset = b.write(2, update("n", Mutation::Counter(CounterOp::Reset)));
        c.receive(&reset);
        let flag = c.write(3, update("f", Mutation::Flag(crate::FlagOp::Enable)));
        b.receive(&flag);
        let cleared = c.write(4, Mutation::Map(MapOp::Clear));
        let late = a.write(5, update("n", counter(3)));
        for txn in [&reset, &flag, &cleared] {
            a.receive(txn);
        }
        b.receive(&cleared);
        for replica in [&mut b, &mut c] {
            replica.receive(&late);
        }
        for replica in [&mut a, &mut b, &mut c] {
            let content = read(&replica.cells, &key(), &Query::default()).expect("memory").content;
            let ReadValue::Map(fields) = content.expect("is there").value else { panic!("is a map") };
            assert_eq!(fields["n"], (Type::Counter, ReadValue::Counter(3)));
        }
        assert_eq!((a.digest(), b.digest()), (c.digest(), c.digest()));
    }

    #[test]
    fn golden_bytes_do_not_change() {
        let mut a = Replica::new(1);
        a.write(1, add(7..8));
        a.write(1, CLEAR);
        let queue = [FIRST, &[0, 0, 0, 0, 0, 0, 0, 2], b"default\0k\0\0", &[6], &[0; 8]].concat();
        assert_eq!(a.cells.rows.get(Table::SWEEP, &queue).expect("memory").as_deref(), Some(VERSION));
        assert_eq!(decode(&queue), Ok((key(), Type::Set, 0)));
        for n in 0..queue.len() {
            assert!(decode(&queue[..n]).is_err());
        }
    }
}
