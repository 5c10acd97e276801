//! Whether an editor remembers a document that was deleted.
//!
//! Editors are given the [marks](meridian_crdt::incarnation_mark) of a document's incarnations with its content, and tell them with
//! all they have. Who has one of an incarnation that was deleted has the document as it was, and would bring it back.

use meridian_crdt::{Dot, Key, doc_incarnations};

use super::close::Close;
use super::room::unreadable;
use crate::shard::Shard;
use crate::txn::ShardState;

/// Whether one of `marks` is of an incarnation that was deleted; `living` are those that the room knows to live. A mark of one that this
/// node has not heard of yet says nothing.
pub fn remembers_deleted(
    shard: &Shard,
    key: &Key,
    living: &[Dot],
    mut marks: Vec<Dot>,
) -> Result<bool, Close> {
    marks.retain(|dot| !living.contains(dot));
    if marks.is_empty() {
        return Ok(false);
    }
    let view = shard.store.view();
    let state = ShardState::load(&view).map_err(|e| unreadable(key, e))?.map_err(|e| unreadable(key, e))?;
    // Of the same moment as the vector: the room may not have heard yet of one that has just begun.
    let living = doc_incarnations(&view, key).map_err(|e| unreadable(key, e))?;
    Ok(marks.iter().any(|dot| state.vector.covers(*dot) && !living.contains(dot)))
}
