//! The memory of request ids: a retry within the window gets the first answer, whatever it was.
//!
//! Free-form ids are kept for a time and up to a number of them; numbered ones as [`super::clients`] says.

use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{Cells, ReadCells, Vector};
use serde::{Deserialize, Serialize};

use super::bounds::{REQUESTS_DROPPED_PER_ADDED, REQUESTS_KEPT_MAX, REQUESTS_KEPT_MS};
use super::clients;
use super::entry::{Answer, RequestId, SETTLED};
use super::state::{ShardState, tables};

#[derive(Serialize, Deserialize)]
struct Remembered {
    fingerprint: u64,
    answer: Answer,
}

/// What is known of a request id.
pub enum Recall {
    /// Nothing: no request of this id was applied.
    New,
    /// The same request was answered before.
    Answered(Box<Answer>),
    /// Another request was answered under this id.
    Reused,
    /// It may have been answered before; by now that is forgotten.
    Forgotten,
}

impl Recall {
    /// The answer that this comes to without applying anything; none for a new request.
    pub fn into_answer(self) -> Option<Answer> {
        let error = match self {
            Recall::New => return None,
            Recall::Answered(answer) => return Some(*answer),
            Recall::Reused => {
                let message = "this request id was used for another request; take a fresh one";
                ApiError::new(ErrorCode::RequestIdReused, message)
            }
            Recall::Forgotten => {
                let message = "the client has numbered many requests since this one, or was idle for long: what became \
                               of it is forgotten, and it is not done again";
                ApiError::new(ErrorCode::OutcomeUnknown, message).with("reason", "forgotten")
            }
        };
        Some(Answer::Refused { error, touched: Vector::new() })
    }
}

/// Whether what was answered under an id, as `known`, answers a request that is `asked` under it now.
pub(super) fn is_same(known: u64, asked: Option<u64>) -> bool {
    known == SETTLED || asked.is_none_or(|asked| asked == known)
}

/// Looks `id` up. Without a fingerprint whatever was answered under it is the answer.
pub fn recall<C: ReadCells>(cells: &C, id: &RequestId, fingerprint: Option<u64>) -> Result<Recall, C::Error> {
    let id = match id {
        RequestId::Free(id) => id,
        RequestId::Numbered(id) => return clients::recall(cells, *id, fingerprint),
    };
    let Some(row) = cells.get(tables::REQUESTS, id.as_bytes())? else { return Ok(Recall::New) };
    // A row that does not decode was written by another version: the id counts as used, which is the safe side.
    Ok(match rmp_serde::from_slice::<Remembered>(&row) {
        Ok(known) if is_same(known.fingerprint, fingerprint) => Recall::Answered(Box::new(known.answer)),
        _ => Recall::Reused,
    })
}

/// Keeps `answer` for `id`, which [`recall`] has found to be new, and drops what is too old or too much.
pub fn remember<C: Cells>(
    state: &mut ShardState,
    cells: &mut C,
    id: &RequestId,
    fingerprint: u64,
    answer: &Answer,
) -> Result<(), C::Error> {
    match id {
        RequestId::Free(id) => remember_free(state, cells, id, fingerprint, answer)?,
        RequestId::Numbered(id) => clients::remember(state, cells, *id, fingerprint, answer)?,
    }
    expire(state, cells, REQUESTS_DROPPED_PER_ADDED)
}

fn remember_free<C: Cells>(
    state: &mut ShardState,
    cells: &mut C,
    id: &str,
    fingerprint: u64,
    answer: &Answer,
) -> Result<(), C::Error> {
    let row = rmp_serde::to_vec(&Remembered { fingerprint, answer: answer.clone() })
        .unwrap_or_else(|e| unreachable!("answers encode: {e}"));
    cells.put(tables::REQUESTS, id.as_bytes(), row.into_boxed_slice().into())?;
    let mut order = state.log_time_ms.to_be_bytes().to_vec();
    order.extend_from_slice(id.as_bytes());
    cells.put(tables::REQUEST_ORDER, &state.requests_end.to_be_bytes(), order.into_boxed_slice().into())?;
    state.requests_end += 1;
    Ok(())
}

/// Drops at most `max` answers to free-form ids that are too old or too many, and about as many rows of idle clients.
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
    clients::expire(state, cells, max)
}
