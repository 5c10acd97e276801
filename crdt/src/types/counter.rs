//! The counter: per origin one cell with a cumulative sum, and floors that take out what a removal observed.
//!
//! ```text
//! cell    run varint | sum u128 (two's complement) | by, in as few bytes as hold it (two's complement)
//! floor   run varint | seq varint | sum u128 (two's complement)
//! ```
//!
//! An origin's cell is written only by that origin. Its sum is cumulative within a *run*, which is named by the seq of
//! its first add. A reset, a delete or the removal of a field drops the cells it observed and leaves for each cell of
//! another origin a *floor*: that origin may be adding to the same run at this moment, and of what it then ships only
//! the part above the floor was not observed. An origin whose cell is gone starts a new run, so an old floor never
//! takes anything from it. The removal by prefix leaves floors alone; stability drops them.
//!
//! The value is the sum over origins of the cumulative sum minus the highest floor of the same run.
//!
//! `by` is what the txn that wrote the cell added, so that whoever watches the txn can be told. It is no part of the
//! contents, and may be missing: nothing but [`crate::describe()`] looks at it.

use std::ops::ControlFlow;

use crate::cell::{Cell, Held};
use crate::cells::{ReadCells, Table};
use crate::codec::{DecodeError, Reader, Writer};
use crate::error::StoreError;
use crate::id::{Dot, Origin};
use crate::path;
use crate::plan::{PlanError, Planner, Refusal};
use crate::types::{CounterOp, Type};
use crate::value::Value;
use crate::view::KeyView;

/// The bytes of the largest amount that one txn can add: each of its adds but the first begins and ends at a value of
/// 64 bits.
const BY_BYTES_MAX: usize = 9;

/// What an origin's cell of a counter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally {
    /// The seq of the first add of the run.
    pub run: u64,
    /// All that the origin added in this run.
    pub sum: i128,
    /// What the txn that wrote this added; `None` where it was not kept.
    pub by: Option<i128>,
}

/// What a removal observed of an origin's cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// The run that was observed.
    pub run: u64,
    /// The seq up to which it was observed.
    pub seq: u64,
    /// The cumulative sum at that seq.
    pub sum: i128,
}

impl Tally {
    /// The payload of a cell.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Writer::new();
        out.varint(self.run);
        out.u128(self.sum as u128);
        if let Some(by) = self.by {
            let bytes = by.to_be_bytes();
            out.raw(&bytes[redundant_bytes(&bytes)..]);
        }
        out.finish()
    }

    /// Reads the payload of a cell.
    pub fn decode(payload: &[u8]) -> Result<Tally, DecodeError> {
        let mut input = Reader::new(payload);
        let (run, sum) = (input.varint()?, input.u128()? as i128);
        Ok(Tally { run, sum, by: decode_by(input.rest())? })
    }
}

/// How many leading bytes of a number say nothing but its sign, which the next one says too.
fn redundant_bytes(bytes: &[u8]) -> usize {
    let fill = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
    bytes.windows(2).take_while(|pair| pair[0] == fill && (pair[1] ^ fill) & 0x80 == 0).count()
}

fn decode_by(rest: &[u8]) -> Result<Option<i128>, DecodeError> {
    let Some(first) = rest.first() else { return Ok(None) };
    if rest.len() > BY_BYTES_MAX || redundant_bytes(rest) > 0 {
        return Err(DecodeError::Malformed);
    }
    let mut bytes = [if first & 0x80 != 0 { 0xff } else { 0 }; size_of::<i128>()];
    let start = bytes.len() - rest.len();
    bytes[start..].copy_from_slice(rest);
    Ok(Some(i128::from_be_bytes(bytes)))
}

impl Floor {
    /// The payload of a floor.
    pub fn encode(self) -> Vec<u8> {
        let mut out = Writer::new();
        out.varint(self.run);
        out.varint(self.seq);
        out.u128(self.sum as u128);
        out.finish()
    }

    /// Reads the payload of a floor.
    pub fn decode(payload: &[u8]) -> Result<Floor, DecodeError> {
        let mut input = Reader::new(payload);
        let floor = Floor { run: input.varint()?, seq: input.varint()?, sum: input.u128()? as i128 };
        input.finish()?;
        Ok(floor)
    }
}

/// The run of an origin's cell and what it counts for: its sum above the highest floor of that run. `None` for a cell
/// of another type, or one that does not decode, which nothing writes.
pub(crate) fn net(ty: Type, held: &Held, floor: &Cell) -> Option<(u64, i128)> {
    if ty != Type::Counter {
        return None;
    }
    let tally = Tally::decode(&held.payload).ok()?;
    let observed = floor
        .dots
        .iter()
        .filter_map(|f| Floor::decode(&f.payload).ok())
        .filter(|f| f.run == tally.run)
        .max_by_key(|f| (f.seq, f.sum));
    Some((tally.run, tally.sum.wrapping_sub(observed.map_or(0, |f| f.sum))))
}

/// The run that lives in an origin's cell.
pub(crate) fn live_run(cell: &Cell) -> Option<u64> {
    cell.dots.last().and_then(|held| Tally::decode(&held.payload).ok()).map(|t| t.run)
}

/// One origin's part of a counter.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub dot: Dot,
    pub origin: Origin,
    pub tally: Tally,
    pub net: i128,
}

/// The parts of the counter at `at` that live, in the order of origins.
pub(crate) fn parts<C: ReadCells>(
    view: &KeyView<'_, C>,
    at: &[u8],
) -> Result<Vec<Part>, StoreError<C::Error>> {
    let base = path::of_type(at, Type::Counter);
    let mut cells: Vec<(Vec<u8>, Cell, Cell)> = Vec::new();
    view.scan_prefix(&base, &mut |p, stored| {
        match cells.last_mut() {
            Some((unit, _, floor)) if p.starts_with(unit) => *floor = stored.cell,
            _ => cells.push((p.to_vec(), stored.cell, Cell::default())),
        }
        ControlFlow::Continue(())
    })?;
    let mut parts = Vec::new();
    for (unit, cell, floor) in cells {
        let leaf = path::parse(&unit).map_err(StoreError::corrupt(Table::CELL, &unit))?;
        let Some(origin) = leaf.counter.filter(|_| !leaf.floor) else { continue };
        for held in cell.dots {
            let tally = Tally::decode(&held.payload).map_err(StoreError::corrupt(Table::CELL, &unit))?;
            let net = net(Type::Counter, &held, &floor).map_or(0, |(_, net)| net);
            parts.push(Part { dot: held.dot, origin, tally, net });
        }
    }
    Ok(parts)
}

/// What the parts read as.
pub(crate) fn value(parts: &[Part]) -> i128 {
    parts.iter().fold(0, |sum, part| sum.saturating_add(part.net))
}

/// A value as it is read: at the end of the range where merging carried it beyond.
pub(crate) fn saturate(value: i128) -> i64 {
    value.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

pub(crate) fn plan<C: ReadCells>(
    p: &mut Planner<'_, C>,
    at: &[u8],
    op: CounterOp,
) -> Result<Option<Value>, PlanError<C::Error>> {
    match op {
        CounterOp::Add(by) => add(p, at, by).map(Some),
        CounterOp::Reset => {
            remove_below(p, &path::of_type(at, Type::Counter))?;
            Ok(None)
        }
    }
}

fn add<C: ReadCells>(p: &mut Planner<'_, C>, at: &[u8], by: i64) -> Result<Value, PlanError<C::Error>> {
    let own = p.ctx.dot.origin;
    let parts = parts(&p.view, at)?;
    let sum = value(&parts).saturating_add(i128::from(by));
    let result = i64::try_from(sum).map_err(|_| Refusal::Overflow)?;
    let unit = path::of_counter(at, own);
    let tally = match parts.iter().find(|part| part.origin == own) {
        Some(part) => {
            let sum = part.tally.sum.checked_add(i128::from(by)).ok_or(Refusal::Overflow)?;
            // What this txn itself has added before, since its last reset, ships together with this.
            let before = if part.dot == p.ctx.dot { part.tally.by.unwrap_or(0) } else { 0 };
            Tally { run: part.tally.run, sum, by: before.checked_add(i128::from(by)) }
        }
        None => {
            let floor = path::floor_of(&unit);
            if p.view.get(&floor)?.is_some() {
                p.plan.remove(floor);
            }
            Tally { run: p.ctx.dot.seq, sum: i128::from(by), by: Some(i128::from(by)) }
        }
    };
    p.plan.add(unit, tally.encode());
    Ok(Value::Int(result))
}

/// Removes everything below a prefix: one removal, and a floor for each live cell of a counter of another origin.
/// Nothing is written if nothing is there.
pub(crate) fn remove_below<C: ReadCells>(
    p: &mut Planner<'_, C>,
    prefix: &[u8],
) -> Result<(), PlanError<C::Error>> {
    if let [code] = prefix
        && let Some(collection) = Type::from_code(*code).and_then(|ty| p.view.header.collections.get(&ty))
        && collection.counters == 0
    {
        // The header says all there is to know, however many cells there are.
        if collection.rows > collection.floors {
            p.plan.remove_prefix(prefix.to_vec());
        }
        return Ok(());
    }
    let mut found = false;
    let mut from = prefix.to_vec();
    let end = crate::cells::prefix_end(prefix);
    // A set below is stepped over at its first element: it has no floors, and may be large.
    loop {
        let mut next = None;
        let mut failed = None;
        let mut floors: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let own = p.ctx.dot.origin;
        p.view.scan(&from, end.as_deref(), &mut |path, stored| {
            let leaf = match path::parse(path) {
                Ok(leaf) => leaf,
                Err(why) => {
                    failed = Some(StoreError::corrupt(Table::CELL, path)(why));
                    return ControlFlow::Break(());
                }
            };
            found |= !leaf.floor;
            if matches!(leaf.ty, Type::Set | Type::RwSet) {
                next = crate::cells::prefix_end(&path[..leaf.base]);
                return ControlFlow::Break(());
            }
            if leaf.counter.is_some_and(|origin| origin != own) && !leaf.floor {
                for held in &stored.cell.dots {
                    if let Ok(tally) = Tally::decode(&held.payload) {
                        let floor = Floor { run: tally.run, seq: held.dot.seq, sum: tally.sum };
                        floors.push((path::floor_of(path), floor.encode()));
                    }
                }
            }
            ControlFlow::Continue(())
        })?;
        if let Some(error) = failed {
            return Err(PlanError::Store(error));
        }
        for (path, payload) in floors {
            p.plan.add(path, payload);
        }
        match next {
            Some(next) if end.as_ref().is_none_or(|end| next < *end) => from = next,
            _ => break,
        }
    }
    if found {
        p.plan.remove_prefix(prefix.to_vec());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mutation;
    use crate::testkit::{Replica, key};

    #[test]
    fn golden_bytes_do_not_change() {
        let mut golden = vec![0xac, 2];
        golden.extend_from_slice(&[0xff; 15]);
        golden.push(0xfe);
        let tally = Tally { run: 300, sum: -2, by: None };
        assert_eq!(tally.encode(), golden);
        assert_eq!(Tally::decode(&golden), Ok(tally));
        golden.extend_from_slice(&[0xff, 0x38]);
        let tally = Tally { by: Some(-200), ..tally };
        assert_eq!(tally.encode(), golden);
        assert_eq!(Tally::decode(&golden), Ok(tally));
        let mut golden = vec![3, 5];
        golden.extend_from_slice(&[0; 15]);
        golden.push(9);
        let floor = Floor { run: 3, seq: 5, sum: 9 };
        assert_eq!(floor.encode(), golden);
        assert_eq!(Floor::decode(&golden), Ok(floor));
    }

    #[test]
    fn what_a_txn_added_takes_as_few_bytes_as_hold_it_and_no_others_are_read() {
        let bare = Tally { run: 1, sum: 0, by: None }.encode();
        for (by, bytes) in [(0, 1), (5, 1), (127, 1), (128, 2), (-128, 1), (-129, 2), (-(1 << 71), 9)] {
            let tally = Tally { run: 1, sum: 0, by: Some(by) };
            assert_eq!(tally.encode().len(), bare.len() + bytes, "{by}");
            assert_eq!(Tally::decode(&tally.encode()), Ok(tally));
        }
        for wrong in [&[0, 5][..], &[0xff, 0x80], &[1; 10]] {
            assert!(Tally::decode(&[&bare, wrong].concat()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_the_highest_floor_of_the_same_run_counts() {
        let held = |origin, payload: Vec<u8>| Held {
            dot: crate::id::Dot::new(Origin(origin), 1),
            hlc: 0,
            payload: payload.into(),
        };
        let cell = held(1, Tally { run: 4, sum: 100, by: None }.encode());
        let floor = Cell {
            dots: smallvec::smallvec![
                held(2, Floor { run: 4, seq: 5, sum: 10 }.encode()),
                held(3, Floor { run: 4, seq: 7, sum: 30 }.encode()),
                held(4, Floor { run: 2, seq: 9, sum: 99 }.encode()),
            ],
        };
        assert_eq!(net(Type::Counter, &cell, &floor), Some((4, 70)));
        assert_eq!(net(Type::Counter, &cell, &Cell::default()), Some((4, 100)));
    }
    fn add(by: i64) -> Mutation {
        Mutation::Counter(CounterOp::Add(by))
    }

    const RESET: Mutation = Mutation::Counter(CounterOp::Reset);

    #[test]
    fn an_add_answers_the_new_sum_and_refuses_to_leave_the_range() {
        let mut a = Replica::new(1);
        let (_, results) = a.commit(1, &[(key(), add(5)), (key(), add(-7))]);
        assert_eq!(results, [Some(Value::Int(5)), Some(Value::Int(-2))]);
        assert_eq!(a.refusal(add(i64::MIN)), Refusal::Overflow);
        assert_eq!(a.value(), Some(Value::Int(-2)));
    }

    #[test]
    fn a_sum_that_merging_carries_out_of_range_reads_saturated() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let (one, other) = (a.write(1, add(i64::MAX)), b.write(1, add(i64::MAX)));
        a.receive(&other);
        b.receive(&one);
        assert_eq!(a.value(), Some(Value::Int(i64::MAX)));
        assert_eq!(a.digest(), b.digest());
        assert_eq!(a.refusal(add(1)), Refusal::Overflow);
    }

    #[test]
    fn an_add_after_a_reset_starts_a_new_run_that_no_old_floor_touches() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let added = a.write(1, add(10));
        b.receive(&added);
        let reset = b.write(2, RESET);
        a.receive(&reset);
        assert_eq!(a.value(), None);
        let again = a.write(3, add(4));
        b.receive(&again);
        assert_eq!((a.value(), b.value()), (Some(Value::Int(4)), Some(Value::Int(4))));
        assert_eq!(a.digest(), b.digest());
    }

    #[test]
    fn two_resets_of_one_run_take_out_no_more_than_both_observed() {
        let (mut a, mut b, mut c) = (Replica::new(1), Replica::new(2), Replica::new(3));
        let first = a.write(1, add(10));
        b.receive(&first);
        let second = a.write(2, add(5));
        c.receive(&first);
        c.receive(&second);
        let third = a.write(3, add(1));
        let (low, high) = (b.write(4, RESET), c.write(5, RESET));
        b.receive(&second);
        for txn in [&third, &high] {
            b.receive(txn);
        }
        for txn in [&low, &third] {
            c.receive(txn);
        }
        for txn in [&high, &low] {
            a.receive(txn);
        }
        for replica in [&mut a, &mut b, &mut c] {
            assert_eq!(replica.value(), Some(Value::Int(1)));
            // The floor holds for a run that lives: stability must not drop it.
            let digest = replica.digest();
            replica.settle();
            assert_eq!((replica.value(), replica.digest()), (Some(Value::Int(1)), digest));
        }
        let last = a.write(6, RESET);
        for replica in [&mut b, &mut c] {
            replica.receive(&last);
        }
        for replica in [&mut a, &mut b, &mut c] {
            replica.settle();
            assert_eq!((replica.rows(Table::HEADER), replica.rows(Table::SWEEP)), (0, 0));
        }
    }

    #[test]
    fn a_reset_inside_a_txn_takes_out_what_the_txn_added_before() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let seen = b.write(1, add(3));
        a.receive(&seen);
        let ops = [add(5), RESET, add(2), add(1)].map(|m| (key(), m));
        let (txn, results) = a.commit(2, &ops);
        assert_eq!(results, [Some(Value::Int(8)), None, Some(Value::Int(2)), Some(Value::Int(3))]);
        b.receive(&txn);
        assert_eq!((a.value(), a.digest()), (b.value(), b.digest()));
        assert_eq!(b.value(), Some(Value::Int(3)));
        let (txn, _) = Replica::new(9).commit(1, &[(key(), add(5)), (key(), RESET)]);
        assert!(txn.effects.is_empty());
    }
}
