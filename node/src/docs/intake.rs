//! Edits that come by HTTP or in a transaction, and not from a room that has their document open.

use std::collections::BTreeMap;

use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{Document, Key, Mutation, YrsDocument, doc_state, nests_elsewhere};

use crate::shard::Shard;

/// Refuses edits that would nest shared types too deep together with what is in their documents. The documents are read for
/// this only if an edit puts a type elsewhere than into a root type. What this node does not have yet is not looked at: a
/// document that nests too deep by edits taken at the same time is refused by whoever reads it.
pub fn check_nesting(shard: &Shard, ops: &[(Key, Mutation)]) -> Result<(), ApiError> {
    let mut by_key: BTreeMap<&Key, Vec<&[u8]>> = BTreeMap::new();
    for (key, mutation) in ops {
        if let Mutation::Doc(op) = mutation {
            by_key.entry(key).or_default().extend(op.updates().iter().map(|update| &update[..]));
        }
    }
    by_key.retain(|_, edits| edits.iter().any(|edit| nests_elsewhere(edit).unwrap_or(true)));
    if by_key.is_empty() {
        return Ok(());
    }
    let view = shard.store.view();
    for (key, edits) in by_key {
        let state = doc_state(&view, key).map_err(|error| {
            tracing::error!(%key, %error, "a document cannot be read");
            ApiError::new(ErrorCode::Internal, "the document cannot be read; the node's log says why")
        })?;
        let too_large =
            |error: meridian_crdt::UpdateError| ApiError::new(ErrorCode::TooLarge, error.to_string());
        let (mut document, _) = YrsDocument::of(&state.content()).map_err(too_large)?;
        for edit in edits {
            document.check(edit).map_err(too_large)?;
            document.integrate(edit).map_err(too_large)?;
        }
    }
    Ok(())
}
