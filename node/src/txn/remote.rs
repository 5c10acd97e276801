//! Applies the txns of other origins, each wholly, once, and only after everything it depends on (I2, I3, I10).
//!
//! They are never refused for type, quota or size: that was decided where they were made. What cannot be applied is
//! skipped with an outcome, deterministically, and the link that brought it stops.

use bytes::Bytes;
use meridian_crdt::{Cells, Ctx, StoreError, Txn, txn_hash, unix_ms};

use super::bounds::STAMP_AHEAD_MS_MAX;
use super::entry::RemoteOutcome;
use super::oplog;
use super::state::ShardState;

/// Applies one encoded txn, if it is the next of its origin and its deps are here. `now_ms` is the time of the entry.
pub fn apply<C: Cells>(
    state: &mut ShardState,
    cells: &mut C,
    encoded: &Bytes,
    now_ms: u64,
) -> Result<RemoteOutcome, StoreError<C::Error>> {
    let txn = match Txn::decode(encoded) {
        Ok(txn) => txn,
        Err(e) => return Ok(RemoteOutcome::Refused(format!("the txn does not decode: {e}"))),
    };
    let (dot, applied) = (txn.head.dot, state.vector.get(txn.head.dot.origin));
    if state.own == Some(dot.origin) {
        return Ok(if dot.seq <= applied {
            RemoteOutcome::Duplicate
        } else {
            RemoteOutcome::Refused(format!("{dot} bears our own origin but was not made here"))
        });
    }
    let Some(chain) = state.chains.get(&dot.origin) else {
        return Ok(RemoteOutcome::Refused(format!("{dot} is of an origin that is not registered")));
    };
    if dot.seq <= applied {
        return Ok(RemoteOutcome::Duplicate);
    }
    if dot.seq > applied + 1 || !state.vector.covers_all(&txn.head.deps) {
        return Ok(RemoteOutcome::Early);
    }
    if txn.head.prev != chain.hash {
        return Ok(RemoteOutcome::Refused(format!(
            "{dot} continues another history of {}: it was restored without a new epoch",
            chain.name.dc
        )));
    }
    if let Err(e) = meridian_crdt::validate(&txn) {
        return Ok(RemoteOutcome::Refused(format!("{dot} holds an effect that does not decode: {e}")));
    }
    let mut deps = chain.deps.clone();
    deps.join(&txn.head.deps);
    assert!(state.vector.covers_all(&deps), "I2: {dot} depends on {deps:?} above {:?}", state.vector);
    let mut with_own = deps.clone();
    with_own.set(dot.origin, applied);
    let stable = state.stable.clone();
    if !with_own.covers_all(&stable) {
        return Ok(RemoteOutcome::Refused(format!(
            "{dot} was written without what every datacenter had told to have: {:?}; its datacenter has lost that, and took \
             writes before it had it back",
            stable.above(&with_own)
        )));
    }
    let ctx = Ctx { dot, hlc: txn.head.hlc, deps: &with_own, index: state.oplog_end + 1, stable: &stable };
    let done = meridian_crdt::apply(cells, &ctx, &txn.effects, &mut state.digests)?;
    if let Some(chain) = state.chains.get_mut(&dot.origin) {
        chain.hash = txn_hash(encoded);
        chain.deps = deps;
        chain.hlc = txn.head.hlc;
    }
    state.lww_conflicts += done.lww_conflicts;
    if unix_ms(txn.head.hlc) > now_ms.saturating_add(STAMP_AHEAD_MS_MAX) {
        state.lww_future_wins += done.lww_wins;
    }
    state.vector.advance(dot);
    oplog::append(state, cells, dot, encoded.clone()).map_err(StoreError::Cells)?;
    Ok(RemoteOutcome::Applied)
}
