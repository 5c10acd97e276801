//! Applies log entries: clients' transactions become txns of this datacenter, other origins' txns come in as they are.

use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::hlc::Clock;
use meridian_crdt::{
    Cells, Ctx, ExecuteError, Key, Mutation, OriginName, Prepared, Refusal, StoreError, Txn, TxnHead, Vector,
    txn_hash,
};

use super::bounds::limits;
use super::entry::{Answer, ClientTxn, Entry, Item, OpResult, Outcome, Reply};
use super::reads::{self, ReadCheck};
use super::state::ShardState;
use super::{compaction, oplog, remote, requests};

/// Applies one entry. The state row is written with the rest, so that all of it changes as one.
pub fn apply_entry<C: Cells>(
    state: &mut ShardState,
    cells: &mut C,
    entry: Entry,
) -> Result<Reply, StoreError<C::Error>> {
    state.tick(entry.now_ms);
    oplog::note_indexed(state, cells).map_err(StoreError::Cells)?;
    let mut outcomes = Vec::with_capacity(entry.items.len());
    for item in entry.items {
        outcomes.push(apply_item(state, cells, item, entry.now_ms)?);
    }
    state.refresh_stability();
    if state.is_recovered() {
        begin_writing(state, cells, entry.now_ms)?;
    }
    oplog::write(state, cells).map_err(StoreError::Cells)?;
    state.digests.write(cells)?;
    state.validate();
    state.save(cells).map_err(StoreError::Cells)?;
    Ok(Reply { outcomes })
}

fn apply_item<C: Cells>(
    state: &mut ShardState,
    cells: &mut C,
    item: Item,
    now_ms: u64,
) -> Result<Outcome, StoreError<C::Error>> {
    let settled = |result: Result<(), String>| match result {
        Ok(()) => Outcome::Done,
        Err(why) => Outcome::Refused(why),
    };
    Ok(match item {
        Item::Client(txn) => Outcome::Client(apply_client(state, cells, txn)?),
        Item::Remote(txn) => Outcome::Remote(remote::apply(state, cells, &txn, now_ms)?),
        Item::Mint { name, lost, ends } => settled(state.mint(name, lost, ends)),
        Item::Admit { life, member, stable } => settled(state.admit(life, member, &stable)),
        Item::Register(name) => settled(register_foreign(state, name)),
        Item::Members(names) => {
            state.set_members(names);
            Outcome::Done
        }
        Item::Report { member, vector } => settled(state.report(member, vector)),
        Item::Tidy { rows_max } => {
            tidy(state, cells, rows_max)?;
            Outcome::Done
        }
        Item::Stage(part) => settled(compaction::stage(state, cells, &part)?),
        Item::Compact { key, compaction } => settled(compaction::compact(state, cells, &key, &compaction)?),
    })
}

fn register_foreign(state: &mut ShardState, name: OriginName) -> Result<(), String> {
    let dc = name.dc.clone();
    state.meet_own_life(&name);
    let origin = state.register(name)?;
    if let Some(peer) = state.members.get_mut(&dc) {
        peer.origin.get_or_insert(origin);
    }
    Ok(())
}

fn tidy<C: Cells>(state: &mut ShardState, cells: &mut C, rows_max: u32) -> Result<(), StoreError<C::Error>> {
    oplog::truncate(state, cells, rows_max).map_err(StoreError::Cells)?;
    compaction::expire(state, cells)?;
    requests::expire(state, cells, rows_max as usize).map_err(StoreError::Cells)?;
    let keep_from = state.oplog_end.saturating_sub(state.kept.headers_txns);
    state.sweep_left = meridian_crdt::sweep(cells, &state.stable, keep_from, rows_max as usize)?.ripe_left;
    Ok(())
}

/// Answers what the request id shows as done; else decides, applies and remembers the answer.
fn apply_client<C: Cells>(
    state: &mut ShardState,
    cells: &mut C,
    txn: ClientTxn,
) -> Result<Answer, StoreError<C::Error>> {
    // Before the first life nothing can be decided, and so nothing is worth remembering.
    let Some(id) = txn.request_id().filter(|_| state.own.is_some()) else { return decide(state, cells, txn) };
    let fingerprint = match txn.fingerprint() {
        Ok(fingerprint) => fingerprint,
        Err(e) => return Ok(refused(ApiError::new(ErrorCode::BadValue, e.to_string()), Vector::new())),
    };
    let asked = (!txn.settle).then_some(fingerprint);
    let known = requests::recall(cells, &id, asked).map_err(StoreError::Cells)?;
    if let Some(answer) = known.into_answer() {
        return Ok(answer);
    }
    // Nor while clients have to wait until the datacenter has back what it had.
    if state.recovering.is_some() {
        return decide(state, cells, txn);
    }
    let answer = decide(state, cells, txn)?;
    requests::remember(state, cells, &id, fingerprint, &answer).map_err(StoreError::Cells)?;
    Ok(answer)
}

/// The answer before the first life, which the leader begins as soon as it leads.
pub(super) fn no_life_yet() -> ApiError {
    let message = "this datacenter has not begun its first life yet; nothing was changed";
    ApiError::new(ErrorCode::NoLeader, message).retry_after_ms(200)
}

fn refused(error: ApiError, touched: Vector) -> Answer {
    Answer::Refused { error, touched }
}

/// The dots that last touched each of `keys`: what a session depends on that has looked at them. What touched a key
/// without a header, if anything, is stable: that is then what the session depends on, and no other datacenter lacks it.
fn touched<'k, C: Cells>(
    cells: &C,
    stable: &Vector,
    keys: impl Iterator<Item = &'k Key>,
) -> Result<Vector, StoreError<C::Error>> {
    let mut dots = Vector::new();
    for key in keys {
        let of_key = meridian_crdt::glance(cells, key)?.touched;
        dots.join(if of_key.is_empty() { stable } else { &of_key });
    }
    Ok(dots)
}

/// The dots of everything that a transaction looks at before it does anything. Who has looked at a range has looked at
/// all of it, and depends on the whole vector.
fn looked_at<C: Cells>(
    cells: &C,
    stable: &Vector,
    vector: &Vector,
    txn: &ClientTxn,
) -> Result<Vector, StoreError<C::Error>> {
    if txn.reads.iter().any(|read| read.key().is_none()) {
        return Ok(vector.clone());
    }
    let read = txn.reads.iter().filter_map(ReadCheck::key);
    touched(cells, stable, read.chain(txn.conditions.iter().map(|(key, _)| key)))
}

/// The dots of everything that a transaction looks at, with the keys of its operations.
fn looked_at_all<C: Cells>(
    cells: &C,
    stable: &Vector,
    vector: &Vector,
    txn: &ClientTxn,
) -> Result<Vector, StoreError<C::Error>> {
    let mut dots = looked_at(cells, stable, vector, txn)?;
    dots.join(&touched(cells, stable, txn.ops.iter().map(|(key, _)| key))?);
    Ok(dots)
}

fn decide<C: Cells>(
    state: &mut ShardState,
    cells: &mut C,
    txn: ClientTxn,
) -> Result<Answer, StoreError<C::Error>> {
    let (stable, before) = (state.stable.clone(), state.vector.clone());
    let all_seen = |txn: &ClientTxn, cells: &C| looked_at_all(cells, &stable, &before, txn);
    let Some(dot) = state.next_own_dot() else {
        return Ok(refused(no_life_yet(), Vector::new()));
    };
    if let Some(recovery) = &state.recovering {
        return Ok(refused(recovery.refusal(), Vector::new()));
    }
    // Whoever asks what became of a request has been told by now if it was done.
    if txn.settle {
        return Ok(refused(reads::not_open(), Vector::new()));
    }
    let mut failed = Vec::new();
    for (i, (key, condition)) in txn.conditions.iter().enumerate() {
        if !meridian_crdt::check(cells, key, condition)? {
            failed.push(i);
        }
    }
    if !failed.is_empty() {
        let message = format!("{} of {} preconditions do not hold", failed.len(), txn.conditions.len());
        let error = ApiError::new(ErrorCode::PreconditionFailed, message).with("failed", failed);
        return Ok(refused(error, all_seen(&txn, cells)?));
    }
    if let Some(error) = reads::validate(cells, &txn.reads)? {
        return Ok(refused(error, all_seen(&txn, cells)?));
    }
    let hlc = txn.hlc.max(state.chains.get(&dot.origin).map_or(0, |chain| chain.hlc).saturating_add(1));
    let ctx = Ctx { dot, hlc, deps: &before, index: state.oplog_end + 1, stable: &stable };
    let mut prepared = match meridian_crdt::prepare(cells, &ctx, &txn.ops, &limits()) {
        Ok(prepared) => prepared,
        Err(ExecuteError::Store(e)) => return Err(e),
        Err(ExecuteError::Refused { op, refusal }) => {
            return Ok(refused(refusal_error(op, txn.ops.len(), &refusal), all_seen(&txn, cells)?));
        }
    };
    let mut seen = looked_at(cells, &stable, &before, &txn)?;
    for of_key in prepared.touched() {
        seen.join(if of_key.is_empty() { &stable } else { of_key });
    }
    let committed = !prepared.effects.is_empty();
    if committed {
        commit(state, cells, &ctx, &mut prepared)?;
        seen.advance(dot);
    }
    let results = std::mem::take(&mut prepared.results);
    let answer =
        |((key, _), result): (&(Key, Mutation), _)| OpResult { version: prepared.version(key), result };
    let results = txn.ops.iter().zip(results).map(answer).collect();
    Ok(Answer::Done { dot: committed.then_some(dot), results, touched: seen })
}

/// A life that followed a loss takes writes from now on. Its first txn changes nothing: whoever has told to have it has been
/// told before that the life has begun.
fn begin_writing<C: Cells>(
    state: &mut ShardState,
    cells: &mut C,
    now_ms: u64,
) -> Result<(), StoreError<C::Error>> {
    state.recovering = None;
    let Some(dot) = state.next_own_dot() else { return Ok(()) };
    let (stable, before) = (state.stable.clone(), state.vector.clone());
    // A clock before 2024 cannot be stamped; the lowest stamp is as good for a txn that competes with none.
    let hlc = Clock::restore(0).stamp(now_ms).unwrap_or(1);
    let ctx = Ctx { dot, hlc, deps: &before, index: state.oplog_end + 1, stable: &stable };
    match meridian_crdt::prepare(cells, &ctx, &[], &limits()) {
        Ok(mut nothing) => commit(state, cells, &ctx, &mut nothing)?,
        Err(ExecuteError::Store(e)) => return Err(e),
        Err(ExecuteError::Refused { refusal, .. }) => unreachable!("no operation was refused with {refusal}"),
    }
    state.refresh_stability();
    Ok(())
}

/// Makes the effects this datacenter's next txn: applied, in the oplog, in the vector.
fn commit<C: Cells>(
    state: &mut ShardState,
    cells: &mut C,
    ctx: &Ctx<'_>,
    prepared: &mut Prepared,
) -> Result<(), StoreError<C::Error>> {
    let Some(chain) = state.chains.get_mut(&ctx.dot.origin) else {
        unreachable!("the own origin {} is registered when it is minted", ctx.dot.origin);
    };
    let mut deps = ctx.deps.clone();
    deps.set(ctx.dot.origin, 0);
    let head = TxnHead { dot: ctx.dot, hlc: ctx.hlc, prev: chain.hash, deps: deps.above(&chain.deps) };
    let txn = Txn { head, effects: std::mem::take(&mut prepared.effects) };
    let encoded = txn.encode();
    let applied = prepared.apply(cells, ctx, &txn.effects, &mut state.digests)?;
    chain.hash = txn_hash(&encoded);
    chain.deps = deps;
    chain.hlc = ctx.hlc;
    state.lww_conflicts += applied.lww_conflicts;
    state.vector.advance(ctx.dot);
    oplog::append(state, cells, ctx.dot, encoded).map_err(StoreError::Cells)
}

pub(super) fn refusal_error(op: usize, ops: usize, refusal: &Refusal) -> ApiError {
    let (code, message) = match refusal {
        Refusal::WrongType { live, asked } => (
            ErrorCode::WrongType,
            format!("the key holds a {}, not a {}; delete it first", live.name(), asked.name()),
        ),
        Refusal::Overflow => {
            (ErrorCode::Overflow, "the sum would leave the range of a signed 64-bit integer".to_owned())
        }
        Refusal::TooLarge { what, limit } => {
            (ErrorCode::TooLarge, format!("{what} is above its limit of {limit}"))
        }
        other => (ErrorCode::BadValue, other.to_string()),
    };
    let error = ApiError::new(code, message);
    if ops > 1 { error.with("op", op) } else { error }
}
