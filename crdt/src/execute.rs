//! Execution at the origin: mutations become effects, once, from what is applied there.
//!
//! Nothing is changed here: the caller numbers the txn, then [applies](crate::apply::apply) its effects like those of
//! any other origin. Each operation sees the ones before it; what ships is what all of them do together.

use thiserror::Error;

use crate::apply::{Observed, apply_where};
use crate::cells::{Overlay, ReadCells};
use crate::edit::KeyEdit;
use crate::error::StoreError;
use crate::header::Header;
use crate::id::Dot;
use crate::keys::Key;
pub use crate::plan::Refusal;
use crate::plan::{Plan, PlanError, Planner, at_most};
use crate::prepared::{KeyBefore, Prepared};
use crate::txn::KeyEffect;
use crate::types::Mutation;
use crate::value::Value;
use crate::vector::Vector;
use crate::view::KeyView;

/// The txn in whose name something is executed or applied, and where this datacenter stands.
#[derive(Clone, Copy, Debug)]
pub struct Ctx<'a> {
    /// The txn.
    pub dot: Dot,
    /// Its stamp.
    pub hlc: u64,
    /// Its whole deps; the entry of its own origin is `dot.seq - 1`.
    pub deps: &'a Vector,
    /// The local index of this apply, from 1, rising from one apply to the next: bookkeeping of this datacenter.
    pub index: u64,
    /// What is stable here now.
    pub stable: &'a Vector,
}

/// What an origin accepts. Remote effects are never held against these limits: they were at their own origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How deep maps may nest; at most [`PATH_DEPTH_MAX`](crate::path::PATH_DEPTH_MAX). Default 16.
    pub depth_max: usize,
    /// The largest encoded value of a register, in bytes. Default 1 MiB.
    pub value_bytes_max: usize,
    /// The largest encoded element of a set, in bytes: it becomes the key of a row. Default 4 KiB.
    pub element_bytes_max: usize,
    /// The longest name of a map's field, in bytes: it becomes part of the key of a row. Default 1 KiB.
    pub field_bytes_max: usize,
    /// The largest txn, as the sum of its keys, paths and payloads, in bytes. Default 8 MiB.
    pub txn_bytes_max: usize,
    /// How many removals and adds one txn may have. Default 100,000.
    pub effects_max: usize,
    /// How many cells the updates of a document may take. Default 1,000,000.
    pub doc_cells_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth_max: 16,
            value_bytes_max: 1 << 20,
            element_bytes_max: 4 << 10,
            field_bytes_max: 1 << 10,
            txn_bytes_max: 8 << 20,
            effects_max: 100_000,
            doc_cells_max: 1_000_000,
        }
    }
}

/// What a request comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Executed {
    /// What the txn does, sorted by key. Empty if nothing would change: then there is nothing to commit.
    pub effects: Vec<KeyEffect>,
    /// For each operation what it answers: the new value for an add to a counter, nothing for the others.
    pub results: Vec<Option<Value>>,
}

/// Why a request came to nothing. Nothing was changed.
#[derive(Debug, Error)]
pub enum ExecuteError<E> {
    /// One of its operations is refused, and with it the whole request.
    #[error("operation {op} is refused: {refusal}")]
    Refused {
        /// Which operation, counted from 0.
        op: usize,
        /// Why.
        refusal: Refusal,
    },
    /// State could not be read.
    #[error(transparent)]
    Store(#[from] StoreError<E>),
}

impl<E> ExecuteError<E> {
    fn at(op: usize) -> impl Fn(PlanError<E>) -> Self {
        move |error| match error {
            PlanError::Refused(refusal) => ExecuteError::Refused { op, refusal },
            PlanError::Store(error) => ExecuteError::Store(error),
        }
    }
}

/// What one key comes to: the operations on it so far, and the rows they would leave.
struct Work<'c, C> {
    key: &'c Key,
    /// Its header as it was before, once that was read.
    before: Option<Header>,
    plan: Plan,
    left: usize,
    above: Option<Overlay<'c, C>>,
}

/// Turns a request into effects. `ctx` must be that of the txn as it will be committed.
pub fn execute<C: ReadCells>(
    cells: &C,
    ctx: &Ctx<'_>,
    ops: &[(Key, Mutation)],
    limits: &Limits,
) -> Result<Executed, ExecuteError<C::Error>> {
    let Prepared { effects, results, .. } = prepare(cells, ctx, ops, limits)?;
    Ok(Executed { effects, results })
}

/// Turns a request into effects like [`execute`], and keeps what it has read of the keys, so that neither answering nor
/// applying has to read it again.
pub fn prepare<C: ReadCells>(
    cells: &C,
    ctx: &Ctx<'_>,
    ops: &[(Key, Mutation)],
    limits: &Limits,
) -> Result<Prepared, ExecuteError<C::Error>> {
    let mut works = works_of(ops);
    let mut results = Vec::with_capacity(ops.len());
    let mut count = 0;
    for (op, (key, mutation)) in ops.iter().enumerate() {
        let Ok(at) = works.binary_search_by(|work| work.key.cmp(key)) else { continue };
        let work = &mut works[at];
        let before = work.plan.len();
        results.push(step(cells, ctx, work, mutation, limits).map_err(ExecuteError::at(op))?);
        count = count + work.plan.len() - before;
        at_most("a transaction's count of effects", count, limits.effects_max)
            .map_err(|refusal| ExecuteError::Refused { op, refusal })?;
    }
    let mut effects = Vec::new();
    let mut keys = Vec::with_capacity(works.len());
    for Work { key, before, mut plan, above, .. } in works {
        let mut header = before.unwrap_or_default();
        if above.is_some() {
            let base = KeyView::with_header(cells, key, header);
            plan.prune(&base)?;
            header = base.header;
        }
        if !plan.is_empty() {
            effects.push(plan.into_effect(key));
        }
        keys.push(KeyBefore::new(key, header));
    }
    check_bytes(&effects, limits)
        .map_err(|refusal| ExecuteError::Refused { op: ops.len().saturating_sub(1), refusal })?;
    Ok(Prepared { effects, results, keys })
}

/// What is still to be done to each key, in the order of the keys.
fn works_of<C>(ops: &[(Key, Mutation)]) -> Vec<Work<'_, C>> {
    let mut keys: Vec<&Key> = ops.iter().map(|(key, _)| key).collect();
    keys.sort_unstable();
    let mut works: Vec<Work<'_, C>> = Vec::with_capacity(keys.len());
    for key in keys {
        match works.last_mut() {
            Some(last) if last.key == key => last.left += 1,
            _ => works.push(Work { key, before: None, plan: Plan::default(), left: 1, above: None }),
        }
    }
    works
}

/// Works out one operation over the ones before it, and keeps what it does for the ones after it.
fn step<'c, C: ReadCells>(
    cells: &'c C,
    ctx: &Ctx<'_>,
    work: &mut Work<'c, C>,
    mutation: &Mutation,
    limits: &Limits,
) -> Result<Option<Value>, PlanError<C::Error>> {
    work.left -= 1;
    let (result, plan) = match &work.above {
        None => {
            let (result, plan, header) = plan_on(cells, ctx, work.key, mutation, limits)?;
            work.before = Some(header);
            (result, plan)
        }
        Some(above) => {
            let (result, plan, _) = plan_on(above, ctx, work.key, mutation, limits)?;
            (result, plan)
        }
    };
    if work.left > 0 {
        let above = work.above.get_or_insert_with(|| Overlay::new(cells));
        let effect = plan.clone().into_effect(work.key);
        // An operation observes also what the ones before it in this txn wrote.
        let observed = Observed { deps: ctx.deps, own: Some(ctx.dot) };
        apply_where(KeyEdit::open(above, work.key, ctx.index)?, ctx, &effect, observed)?;
    }
    work.plan.absorb(plan);
    Ok(result)
}

fn plan_on<C: ReadCells>(
    cells: &C,
    ctx: &Ctx<'_>,
    key: &Key,
    mutation: &Mutation,
    limits: &Limits,
) -> Result<(Option<Value>, Plan, Header), PlanError<C::Error>> {
    let view = KeyView::open(cells, key)?;
    let mut planner = Planner { view, ctx, limits, plan: Plan::default() };
    let result = planner.mutation(&[], 0, mutation)?;
    Ok((result, planner.plan, planner.view.header))
}

fn check_bytes(effects: &[KeyEffect], limits: &Limits) -> Result<(), Refusal> {
    let size = |effect: &KeyEffect| {
        let removes: usize = effect.removes.iter().map(|r| r.path.len()).sum();
        let adds: usize = effect.adds.iter().map(|a| a.path.len() + a.payload.len()).sum();
        effect.space.len() + effect.key.len() + removes + adds
    };
    at_most("a transaction", effects.iter().map(size).sum(), limits.txn_bytes_max)
}
