//! What reading or changing state can fail with.

use thiserror::Error;

use crate::cells::Table;
use crate::codec::DecodeError;

/// Storage failed, or a row is not what this program wrote. What was changed before the error must be dropped with the
/// storage transaction; repeating is of use only when the cause below has gone.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError<E> {
    /// The storage below failed.
    #[error("storage failed")]
    Cells(#[source] E),
    /// A row does not decode. State is damaged: the node must not go on with it.
    #[error("a row of table {} is corrupt", table.0)]
    Corrupt {
        /// The table of the row.
        table: Table,
        /// The key of the row.
        key: Vec<u8>,
        /// What is wrong with it.
        #[source]
        why: DecodeError,
    },
}

impl<E> From<E> for StoreError<E> {
    fn from(error: E) -> Self {
        StoreError::Cells(error)
    }
}

impl<E> StoreError<E> {
    pub(crate) fn corrupt(table: Table, key: &[u8]) -> impl FnOnce(DecodeError) -> Self {
        move |why| StoreError::Corrupt { table, key: key.to_vec(), why }
    }
}
