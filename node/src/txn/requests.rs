//! The memory of request ids: a retry within the window gets the first answer, whatever it was.

use meridian_crdt::Cells;
use serde::{Deserialize, Serialize};

use super::bounds::{REQUESTS_DROPPED_PER_ADDED, REQUESTS_KEPT_MAX, REQUESTS_KEPT_MS};
use super::entry::Answer;
use super::state::{ShardState, tables};

#[derive(Serialize, Deserialize)]
struct Remembered {
    fingerprint: u64,
    answer: Answer,
}

/// What is known of a request id.
pub enum Recall {
    /// Nothing.
    New,
    /// The same request was answered before.
    Answered(Box<Answer>),
    /// Another request was answered under this id.
    Reused,
}

/// Looks `id` up.
pub fn recall<C: Cells>(cells: &C, id: &str, fingerprint: u64) -> Result<Recall, C::Error> {
    let Some(row) = cells.get(tables::REQUESTS, id.as_bytes())? else { return Ok(Recall::New) };
    // A row that does not decode was written by another version: the id counts as used, which is the safe side.
    Ok(match rmp_serde::from_slice::<Remembered>(&row) {
        Ok(known) if known.fingerprint == fingerprint => Recall::Answered(Box::new(known.answer)),
        _ => Recall::Reused,
    })
}

/// Keeps `answer` for `id` and drops what is too old or too much.
pub fn remember<C: Cells>(
    state: &mut ShardState,
    cells: &mut C,
    id: &str,
    fingerprint: u64,
    answer: &Answer,
) -> Result<(), C::Error> {
    let row = rmp_serde::to_vec(&Remembered { fingerprint, answer: answer.clone() })
        .unwrap_or_else(|e| unreachable!("answers encode: {e}"));
    cells.put(tables::REQUESTS, id.as_bytes(), &row)?;
    let mut order = state.log_time_ms.to_be_bytes().to_vec();
    order.extend_from_slice(id.as_bytes());
    cells.put(tables::REQUEST_ORDER, &state.requests_end.to_be_bytes(), &order)?;
    state.requests_end += 1;
    expire(state, cells, REQUESTS_DROPPED_PER_ADDED)
}

/// Drops at most `max` answers that are too old or too many.
pub fn expire<C: Cells>(state: &mut ShardState, cells: &mut C, max: usize) -> Result<(), C::Error> {
    for _ in 0..max {
        if state.requests_first == state.requests_end {
            break;
        }
        let number = state.requests_first.to_be_bytes();
        if let Some(row) = cells.get(tables::REQUEST_ORDER, &number)?
            && let Some((time, id)) = row.split_first_chunk::<8>()
        {
            let too_old = u64::from_be_bytes(*time).saturating_add(REQUESTS_KEPT_MS) < state.log_time_ms;
            let too_many = state.requests_end - state.requests_first > REQUESTS_KEPT_MAX;
            if !too_old && !too_many {
                break;
            }
            cells.remove(tables::REQUESTS, id)?;
        }
        cells.remove(tables::REQUEST_ORDER, &number)?;
        state.requests_first += 1;
    }
    Ok(())
}
