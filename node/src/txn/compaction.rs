//! Compaction of documents: parts of a snapshot are staged, and the last entry lets it take the place of updates.
//!
//! At most one snapshot of a shard is staged at a time. Whoever stages another one, because the leader has changed or has
//! given up, ends the one before; what nobody goes on with is taken out by housekeeping. Apply looks at what is replaced,
//! and never at what a snapshot says.

use meridian_crdt::{
    Cells, CompactRefusal, DocCompaction, Dot, Key, StoreError, compact_doc, stage_doc_part,
    unstage_doc_parts,
};
use serde::{Deserialize, Serialize};

use super::bounds::STAGED_KEPT_MS;
use super::entry::StagedPart;
use super::state::ShardState;

/// A snapshot of which parts are there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staging {
    /// The document.
    pub key: Key,
    /// The incarnations whose updates it replaces.
    pub of: Vec<Dot>,
    /// The snapshot.
    pub number: u64,
    /// How many parts are there.
    pub parts: u32,
    /// The log time at which the last one came.
    pub since_ms: u64,
}

impl Staging {
    fn is(&self, key: &Key, of: &[Dot], number: u64) -> bool {
        (&self.key, &self.of[..], self.number) == (key, of, number)
    }
}

type Settled<C> = Result<Result<(), String>, StoreError<<C as meridian_crdt::ReadCells>::Error>>;

/// Takes a part, if it is the next one of what is staged, or the first of something else.
pub fn stage<C: Cells>(state: &mut ShardState, cells: &mut C, staged: &StagedPart) -> Settled<C> {
    let StagedPart { key, of, number, part, bytes } = staged;
    if *part == 0 {
        unstage(state, cells)?;
    }
    let follows = state.staging.as_ref().is_some_and(|s| s.is(key, of, *number) && s.parts == *part);
    if *part > 0 && !follows {
        return Ok(Err("the parts before it are not there any more".to_owned()));
    }
    if let Err(why) = stage_doc_part(cells, key, of, *number, *part, bytes)? {
        return Ok(Err(why.to_string()));
    }
    state.staging = Some(Staging {
        key: key.clone(),
        of: of.clone(),
        number: *number,
        parts: part + 1,
        since_ms: state.log_time_ms,
    });
    Ok(Ok(()))
}

/// Lets what is staged take the place of what it replaces, or takes it out.
pub fn compact<C: Cells>(
    state: &mut ShardState,
    cells: &mut C,
    key: &Key,
    compaction: &DocCompaction,
) -> Settled<C> {
    let DocCompaction { of, number, .. } = compaction;
    if !state.staging.as_ref().is_some_and(|staging| staging.is(key, of, *number)) {
        return Ok(Err(CompactRefusal::Parts.to_string()));
    }
    match compact_doc(cells, key, compaction)? {
        Ok(()) => {
            state.staging = None;
            Ok(Ok(()))
        }
        Err(why) => {
            unstage(state, cells)?;
            Ok(Err(why.to_string()))
        }
    }
}

/// Takes out what is staged.
fn unstage<C: Cells>(state: &mut ShardState, cells: &mut C) -> Result<(), StoreError<C::Error>> {
    match state.staging.take() {
        Some(Staging { key, of, number, .. }) => unstage_doc_parts(cells, &key, &of, number),
        None => Ok(()),
    }
}

/// Takes out what nobody has gone on with.
pub fn expire<C: Cells>(state: &mut ShardState, cells: &mut C) -> Result<(), StoreError<C::Error>> {
    if is_abandoned(state, state.log_time_ms) { unstage(state, cells) } else { Ok(()) }
}

/// Whether nobody has gone on with what is staged, at this time.
pub fn is_abandoned(state: &ShardState, now_ms: u64) -> bool {
    state.staging.as_ref().is_some_and(|staging| now_ms.saturating_sub(staging.since_ms) >= STAGED_KEPT_MS)
}
