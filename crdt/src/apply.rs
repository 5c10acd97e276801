//! Applying effects: the same for every origin, in every datacenter, on every node.
//!
//! Apply is total on content: whatever [`validate`] accepts can be applied. The caller sees to it that a txn is applied
//! once, after its deps (applying it a second time at once would leave the same contents). It touches only the cells
//! that the effects name, and reads no clock and no limit.

use std::ops::ControlFlow;

use crate::cell::{Held, MINUS, PLUS};
use crate::cells::{Cells, Table, prefix_end};
use crate::codec::DecodeError;
use crate::digest::DigestDeltas;
use crate::edit::KeyEdit;
use crate::error::StoreError;
use crate::execute::Ctx;
use crate::header::{Collection, Header, Version};
use crate::id::Dot;
use crate::keys::Key;
use crate::path;
use crate::txn::{Add, KeyEffect, Txn};
use crate::types::counter::{Floor, Tally};
use crate::types::{Type, doc};
use crate::value::Value;
use crate::vector::Vector;
use crate::view::scan_cells;

/// How many paths of a removal by prefix are held in memory at once.
const PREFIX_CHUNK: usize = 1024;

/// What applying a txn came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// For each effect the version of its key after it.
    pub versions: Vec<Version>,
    /// How many registers hold concurrent values after this txn set them.
    pub lww_conflicts: u64,
    /// In how many of these this txn's value is the one that is read. With a stamp ahead of the clock of this
    /// datacenter these were won by a clock fault.
    pub lww_wins: u64,
    /// How many collections were dropped whole, without a look at their cells, whose rows are left to the sweep.
    pub cleared: u64,
}

/// What removals drop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observed<'a> {
    /// What the txn had seen when it was executed.
    pub deps: &'a Vector,
    /// While a txn is executed, itself: an operation also sees what those before it wrote.
    pub own: Option<Dot>,
}

impl Observed<'_> {
    fn covers(&self, dot: Dot) -> bool {
        self.own == Some(dot) || self.deps.covers(dot)
    }
}

/// Whether every path, payload and key of a txn decodes, in the order in which an origin writes them. A txn that fails
/// must not be applied.
pub fn validate(txn: &Txn) -> Result<(), DecodeError> {
    let sorted = txn.effects.windows(2).all(|w| (&w[0].space, &w[0].key) < (&w[1].space, &w[1].key));
    if !sorted {
        return Err(DecodeError::Malformed);
    }
    txn.effects.iter().try_for_each(|effect| validate_effect(effect, txn.head.dot))
}

fn validate_effect(effect: &KeyEffect, dot: Dot) -> Result<(), DecodeError> {
    Key::new(effect.space.as_str(), effect.key.as_str()).map_err(|_| DecodeError::Malformed)?;
    let removes_sorted = effect.removes.windows(2).all(|w| w[0] < w[1]);
    let adds_sorted = effect.adds.windows(2).all(|w| w[0].path < w[1].path);
    if !removes_sorted || !adds_sorted {
        return Err(DecodeError::Malformed);
    }
    for removal in &effect.removes {
        if removal.prefix {
            path::check_prefix(&removal.path)?;
        } else {
            doc::check_removal(path::parse(&removal.path)?)?;
        }
    }
    effect.adds.iter().try_for_each(|add| validate_add(add, dot))
}

fn validate_add(add: &Add, dot: Dot) -> Result<(), DecodeError> {
    let leaf = path::parse(&add.path)?;
    let ok = match leaf.ty {
        Type::Register | Type::MvRegister => Value::from_bytes(&add.payload).map(|_| true)?,
        Type::Counter if leaf.floor => Floor::decode(&add.payload).map(|_| true)?,
        // An origin's cell of a counter is written by that origin alone.
        Type::Counter => Tally::decode(&add.payload).map(|_| leaf.counter == Some(dot.origin))?,
        Type::Flag | Type::Set => add.payload.is_empty(),
        Type::DwFlag | Type::RwSet => add.payload == PLUS || add.payload == MINUS,
        Type::Map => false,
        Type::Doc => doc::check_add(&add.path, &add.payload, dot)?,
    };
    if ok { Ok(()) } else { Err(DecodeError::Malformed) }
}

/// Applies the effects of a txn that [`validate`] accepts, or that [`execute`](crate::execute::execute) made. What they
/// change in the digests is added to `digests`, which the caller [writes](DigestDeltas::write) before anyone looks at those.
pub fn apply<C: Cells>(
    cells: &mut C,
    ctx: &Ctx<'_>,
    effects: &[KeyEffect],
    digests: &mut DigestDeltas,
) -> Result<Applied, StoreError<C::Error>> {
    let mut applied = Applied::default();
    for effect in effects {
        // What was validated has well-formed keys.
        let Ok(key) = Key::new(effect.space.as_str(), effect.key.as_str()) else { continue };
        applied.effect(KeyEdit::open(cells, &key, ctx.index)?, ctx, effect, digests)?;
    }
    Ok(applied)
}

impl Applied {
    /// Applies the effect on one key, and returns the key's version after it.
    pub(crate) fn effect<C: Cells>(
        &mut self,
        edit: KeyEdit<'_, C>,
        ctx: &Ctx<'_>,
        effect: &KeyEffect,
        digests: &mut DigestDeltas,
    ) -> Result<Version, StoreError<C::Error>> {
        let done = apply_where(edit, ctx, effect, Observed { deps: ctx.deps, own: None })?;
        digests.add(done.bucket, done.delta);
        self.lww_conflicts += done.conflicts;
        self.lww_wins += done.wins;
        self.cleared += done.cleared;
        self.versions.push(done.version);
        Ok(done.version)
    }
}

/// What applying one key's effect came to.
#[derive(Debug)]
pub(crate) struct KeyApplied {
    version: Version,
    bucket: u16,
    delta: u128,
    conflicts: u64,
    wins: u64,
    cleared: u64,
}

/// The cells that an effect names one by one, in the order of their paths: whether what is observed there goes, and what
/// comes. Both parts of an effect are sorted, by [`validate`] or from the start.
fn named(effect: &KeyEffect) -> impl Iterator<Item = (&[u8], bool, Option<&Add>)> {
    let mut removes = effect.removes.iter().filter(|r| !r.prefix).map(|r| &r.path[..]).peekable();
    let mut adds = effect.adds.iter().peekable();
    std::iter::from_fn(move || {
        let heads = [removes.peek().copied(), adds.peek().map(|add| &add.path[..])];
        let path = heads.into_iter().flatten().min()?;
        let remove = removes.next_if(|remove| *remove == path).is_some();
        Some((path, remove, adds.next_if(|add| add.path == path)))
    })
}

/// Applies one key's effect; its removals drop the dots that `observed` covers.
pub(crate) fn apply_where<C: Cells>(
    mut edit: KeyEdit<'_, C>,
    ctx: &Ctx<'_>,
    effect: &KeyEffect,
    observed: Observed<'_>,
) -> Result<KeyApplied, StoreError<C::Error>> {
    let mut cleared = 0;
    for removal in effect.removes.iter().filter(|r| r.prefix) {
        match whole_collection(&edit.header, &removal.path, ctx, observed) {
            Some(ty) => {
                edit.drop_collection(ty)?;
                cleared += 1;
            }
            None => {
                remove_below(&mut edit, &removal.path, observed)?;
                doc::drop_orphans(&mut edit, &removal.path)?;
            }
        }
    }
    let (mut conflicts, mut wins) = (0, 0);
    for (path, remove, add) in named(effect) {
        let Ok(leaf) = path::parse(path) else { continue };
        if leaf.ty == Type::Doc && !doc::counts(&edit, path, add)? {
            continue;
        }
        let after = edit.unit(path, |unit| {
            let cell = if leaf.floor { &mut unit.floor } else { &mut unit.cell };
            if remove {
                cell.drop_covered(|dot| observed.covers(dot));
            }
            if let Some(add) = add {
                cell.put(Held { dot: ctx.dot, hlc: ctx.hlc, payload: add.payload.clone() });
            }
        })?;
        if leaf.ty == Type::Register && add.is_some() && after.cell.dots.len() > 1 {
            conflicts += 1;
            wins += u64::from(after.cell.winner().is_some_and(|held| held.dot == ctx.dot));
        }
    }
    edit.header.changed = ctx.index;
    edit.header.touched.advance(ctx.dot);
    edit.header.touched.prune(ctx.stable);
    let (header, bucket, delta) = edit.finish()?;
    Ok(KeyApplied { version: Version(header.digest), bucket, delta, conflicts, wins, cleared })
}

/// The collection that a removal by prefix leaves nothing of, if the header says that there is one.
///
/// SUBTLE: `touched` names every txn that put a dot into the key, but for those that were stable by then; so a txn that
/// has observed `touched` and what is stable has observed every dot of the key. Every txn that can still be applied has
/// observed what is stable; that is asked here all the same, so that one which breaks the rule is applied cell by cell.
/// (A state that was merged in was pruned by its own stable vector: that too is covered by every txn which that state
/// had not yet applied, and so by all that can still come here.)
///
/// Floors are not removed by prefixes, however well observed: where one stands, cells are looked at. And what the
/// collection adds to the digest is known only if nothing of another type is visible beside it.
fn whole_collection(header: &Header, prefix: &[u8], ctx: &Ctx<'_>, observed: Observed<'_>) -> Option<Type> {
    let &[code] = prefix else { return None };
    let ty = Type::from_code(code)?;
    let Collection { rows, floors, .. } = header.collection(ty);
    let alone = header.visible.keys().all(|visible| *visible == ty);
    let all_observed = header.touched.iter().all(|dot| observed.covers(dot));
    (rows > 0 && floors == 0 && alone && all_observed && ctx.deps.covers_all(ctx.stable)).then_some(ty)
}

/// Drops what is observed from every cell below a prefix. Floors stand: what they take out may still be on its way. What a
/// document has in snapshots goes with its incarnations.
fn remove_below<C: Cells>(
    edit: &mut KeyEdit<'_, C>,
    prefix: &[u8],
    observed: Observed<'_>,
) -> Result<(), StoreError<C::Error>> {
    let end = prefix_end(prefix);
    let mut from = prefix.to_vec();
    loop {
        let mut paths: Vec<Vec<u8>> = Vec::new();
        scan_cells(
            edit.cells,
            &edit.header,
            edit.cell_prefix(),
            &from,
            end.as_deref(),
            &mut |path, stored| {
                let is_observed = stored.cell.dots.iter().any(|held| observed.covers(held.dot));
                if is_observed && !doc::is_kept_apart(path) {
                    paths.push(path.to_vec());
                }
                if paths.len() < PREFIX_CHUNK { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            },
        )?;
        for path in &paths {
            if path::parse(path).map_err(StoreError::corrupt(Table::CELL, path))?.floor {
                continue;
            }
            edit.unit(path, |unit| unit.cell.drop_covered(|dot| observed.covers(dot)))?;
        }
        match paths.pop() {
            Some(mut last) if paths.len() + 1 == PREFIX_CHUNK => {
                last.push(0);
                from = last;
            }
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::testkit::{Replica, key, text};
    use crate::{
        CounterOp, FlagOp, MapOp, Mutation, Origin, Query, RegisterOp, Removal, SetOp, TxnHead, read,
    };

    fn mutations() -> Vec<Mutation> {
        let in_field =
            |mutation| Mutation::Map(MapOp::Update { field: "f".into(), mutation: Box::new(mutation) });
        vec![
            Mutation::Register(RegisterOp::Set(text("v"))),
            Mutation::Counter(CounterOp::Add(-3)),
            Mutation::DwFlag(FlagOp::Disable),
            Mutation::Set(SetOp::AddAll(vec![text("x"), Value::Int(1)])),
            Mutation::RwSet(SetOp::Remove(text("x"))),
            in_field(in_field(Mutation::Counter(CounterOp::Add(7)))),
            Mutation::Map(MapOp::Remove { field: "f".into() }),
        ]
    }

    /// A txn of many kinds of effects, floors among them.
    fn sample() -> Txn {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let ops: Vec<(Key, Mutation)> = mutations()
            .into_iter()
            .enumerate()
            .map(|(n, m)| (Key::new("default", format!("k{n}")).expect("well formed"), m))
            .collect();
        let (txn, _) = a.commit(1, &ops);
        b.receive(&txn);
        let ops: Vec<_> = ops.into_iter().map(|(key, _)| (key, Mutation::Delete(None))).collect();
        b.commit(2, &ops).0
    }

    fn one(effect: KeyEffect) -> Txn {
        let head = TxnHead { dot: Dot::new(Origin(1), 1), hlc: 0, prev: 0, deps: Vector::new() };
        Txn { head, effects: vec![effect] }
    }

    fn effect(removes: &[(&[u8], bool)], adds: &[(&[u8], &[u8])]) -> KeyEffect {
        let bytes = Bytes::copy_from_slice;
        let removes = removes.iter().map(|(path, prefix)| Removal { path: bytes(path), prefix: *prefix });
        let adds = adds.iter().map(|(path, payload)| Add { path: bytes(path), payload: bytes(payload) });
        KeyEffect { space: "s".into(), key: "k".into(), removes: removes.collect(), adds: adds.collect() }
    }

    #[test]
    fn what_no_origin_writes_is_refused() {
        let tally = Tally { run: 1, sum: 1, by: None }.encode();
        let bad = [
            effect(&[(&[], false)], &[]),
            effect(&[(&[], true)], &[]),
            effect(&[(&[6], false)], &[]),
            effect(&[(&[2], false), (&[1], false)], &[]),
            effect(&[], &[(&[1], &[0xee])]),
            effect(&[], &[(&[4], b"+")]),
            effect(&[], &[(&[5], b"")]),
            effect(&[], &[(&[8], b"")]),
            effect(&[], &[(&[3, 0, 0, 0, 1], b"")]),
            effect(&[], &[(&[3, 0, 0, 0, 2], &tally)]),
            effect(&[], &[(&[4], b""), (&[4], b"")]),
            KeyEffect { key: String::new(), ..effect(&[], &[(&[4], b"")]) },
            KeyEffect { space: "a b".into(), ..effect(&[], &[(&[4], b"")]) },
        ];
        for effect in bad {
            assert!(validate(&one(effect.clone())).is_err(), "{effect:?}");
        }
        assert_eq!(validate(&one(effect(&[(&[6], true)], &[(&[3, 0, 0, 0, 1], &tally)]))), Ok(()));
        let twice = effect(&[], &[(&[4], b"")]);
        let head = one(twice.clone()).head;
        assert!(validate(&Txn { head, effects: vec![twice.clone(), twice] }).is_err());
    }

    #[test]
    fn a_txn_applied_twice_in_a_row_leaves_the_contents_of_one() {
        let mut a = Replica::new(1);
        for mutation in mutations() {
            let mut b = Replica::new(2);
            let txn = b.write(1, mutation);
            if txn.effects.is_empty() {
                continue;
            }
            a.receive(&txn);
            let (value, digest) = (a.value(), a.digest());
            a.receive(&txn);
            assert_eq!((a.value(), a.digest()), (value, digest));
            a = Replica::new(1);
        }
    }

    #[test]
    fn a_register_won_or_lost_by_date_is_counted() {
        let (mut a, mut b) = (Replica::new(1), Replica::new(2));
        let set = |s| Mutation::Register(RegisterOp::Set(text(s)));
        let (early, late) = (a.write(1, set("early")), b.write(2, set("late")));
        let deps = Vector::new();
        let count = |replica: &mut Replica, txn: &Txn| {
            let ctx = Ctx { dot: txn.head.dot, hlc: txn.head.hlc, deps: &deps, index: 9, stable: &deps };
            let applied =
                apply(&mut replica.cells, &ctx, &txn.effects, &mut DigestDeltas::default()).expect("memory");
            let content = read(&replica.cells, &key(), &Query::default()).expect("memory").content;
            assert_eq!(applied.versions, [content.expect("is there").version]);
            (applied.lww_conflicts, applied.lww_wins)
        };
        assert_eq!(count(&mut a, &late), (1, 1));
        assert_eq!(count(&mut b, &early), (1, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn hostile_bytes_are_refused_or_applied_and_never_a_panic(
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes = sample().encode().to_vec();
            for (at, byte) in flips {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(txn) = Txn::decode(&bytes.into())
                && validate(&txn).is_ok()
            {
                let mut cells = crate::MemCells::new();
                let deps = txn.head.deps.clone();
                let ctx = Ctx { dot: txn.head.dot, hlc: txn.head.hlc, deps: &deps, index: 1, stable: &deps };
                apply(&mut cells, &ctx, &txn.effects, &mut DigestDeltas::default()).expect("memory");
                for effect in &txn.effects {
                    let key = Key::new(effect.space.as_str(), effect.key.as_str()).expect("validated");
                    read(&cells, &key, &Query::default()).expect("what was validated reads");
                    crate::explain(&cells, &key, 100).expect("what was validated explains");
                }
                crate::sweep(&mut cells, &txn.head.deps, 9, 100).expect("what was validated sweeps");
            }
        }

        #[test]
        fn noise_is_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = path::parse(&bytes);
            let _ = path::check_prefix(&bytes);
            let _ = path::fields(&bytes);
            let _ = Key::from_cell_row(&bytes);
            let _ = crate::read::check_cursor(&bytes);
            let bytes = Bytes::from(bytes);
            let _ = crate::cell::Stored::decode(&bytes);
            let _ = crate::header::Header::decode(&bytes);
            let _ = Txn::decode(&bytes);
        }
    }
}
