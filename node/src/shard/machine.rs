//! The machine that the Raft group drives: decodes entries, hands them to the pure apply, publishes the result.

use std::sync::Arc;

use meridian_crdt::StoreError;

use super::digests::{NOTE_EVERY, Note};
use super::published::Publisher;
use crate::raft::Machine;
use crate::storage::{LogPosition, StateView, StateWrite, StorageError};
use crate::txn::{Entry, Reply, ShardState, apply_entry, state_fingerprint};

/// One shard's apply, with the decoded copy of its state row.
pub struct ShardMachine {
    state: ShardState,
    publisher: Arc<Publisher>,
}

impl ShardMachine {
    /// A machine that publishes through `publisher`.
    pub fn new(publisher: Arc<Publisher>) -> Self {
        Self { state: ShardState::new(), publisher }
    }
}

/// What apply met in the rows, as storage calls it.
pub fn storage_error(error: StoreError<StorageError>) -> StorageError {
    match error {
        StoreError::Cells(error) => error,
        other => StorageError::corrupt(other.to_string()),
    }
}

impl Machine for ShardMachine {
    fn apply(&mut self, rows: &mut StateWrite, at: LogPosition, entry: &[u8]) -> Result<Reply, StorageError> {
        // An entry that this program cannot read was proposed by a newer one. Skipping it would let this node's
        // state part from its peers', so the node stops instead (I6).
        let entry =
            Entry::decode(entry).map_err(|e| StorageError::corrupt(format!("{e} at index {}", at.index)))?;
        let reply = apply_entry(&mut self.state, rows, entry).map_err(storage_error)?;
        if at.index.is_multiple_of(NOTE_EVERY) {
            let fingerprint = state_fingerprint(rows).map_err(storage_error)?;
            self.publisher.notes().push(Note::new(at.index, fingerprint));
        }
        Ok(reply)
    }

    fn committed(&mut self, last: LogPosition) {
        self.publisher.set_state(&Arc::new(self.state.clone()), last.index);
    }

    fn reset(&mut self, rows: &StateView) -> Result<(), StorageError> {
        self.state =
            ShardState::load(rows)?.map_err(|e| StorageError::corrupt(format!("the shard's state: {e}")))?;
        self.publisher.set_state(&Arc::new(self.state.clone()), rows.applied_index());
        Ok(())
    }
}
