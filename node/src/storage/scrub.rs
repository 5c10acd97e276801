//! The scrubber: reads every row of the state file once in a while, so that a rotten one is found before it is needed.

use std::ops::ControlFlow;

use meridian_crdt::{ReadCells, Table};

use super::{StateStore, StorageError};

/// Where a walk over all rows stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubCursor {
    table: u8,
    from: Vec<u8>,
}

/// What one step of the walk did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScrubStep {
    /// Rows read and verified.
    pub rows: u64,
    /// Where the next step starts; `None` when all rows have been read.
    pub next: Option<ScrubCursor>,
}

impl StateStore {
    /// How many rows the file has, as of the last checkpoint; costs next to nothing.
    pub fn row_count(&self) -> Result<u64, StorageError> {
        let view = self.durable_view();
        (0..Table::COUNT).try_fold(0, |sum, table| Ok(sum + view.count_in_file(Table(table as u8))?))
    }

    /// Verifies at most `rows_max` rows of the file from `cursor` on. Blocking: run it on a storage worker. Each step
    /// looks at the checkpoint of its own moment, so that no view is held between steps.
    pub fn scrub(&self, cursor: ScrubCursor, rows_max: u64) -> Result<ScrubStep, StorageError> {
        let view = self.durable_view();
        let mut rows = 0;
        let ScrubCursor { mut table, mut from } = cursor;
        while usize::from(table) < Table::COUNT {
            let mut stopped_after = None;
            view.scan(Table(table), &from, None, &mut |key, _| {
                rows += 1;
                if rows < rows_max {
                    return ControlFlow::Continue(());
                }
                stopped_after = Some(key.to_vec());
                ControlFlow::Break(())
            })?;
            if let Some(mut from) = stopped_after {
                // The smallest key after this one.
                from.push(0);
                return Ok(ScrubStep { rows, next: Some(ScrubCursor { table, from }) });
            }
            table += 1;
            from = Vec::new();
        }
        Ok(ScrubStep { rows, next: None })
    }
}
