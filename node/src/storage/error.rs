//! What storage can fail with.

use std::io;

use thiserror::Error;

/// A storage failure. Reads that fail leave everything as it is; after a failed durable write the node stops.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StorageError {
    /// The disk or the file system failed.
    #[error("input or output failed: {0}")]
    Io(#[from] io::Error),
    /// A file holds something that was never written there. Restore the node from its peers under a new id.
    #[error("corrupt data: {what}")]
    Corrupt {
        /// Where, and what is wrong.
        what: String,
    },
    /// Less disk is free than the configured headroom. Nothing was written; free some space and repeat.
    #[error("{free} bytes are free on the disk, {headroom} must stay free")]
    Full {
        /// Bytes free now.
        free: u64,
        /// Bytes that must stay free.
        headroom: u64,
    },
    /// Another process has the data folder open.
    #[error(
        "the data folder {folder} is in use by another process; stop that one, or give each node its own folder"
    )]
    Locked {
        /// The folder.
        folder: String,
    },
    /// The data folder belongs to another node. Point the configuration at the right folder.
    #[error(
        "the data folder {folder} belongs to {found}, this is {expected}; set data_dir to this node's own folder"
    )]
    Foreign {
        /// The folder.
        folder: String,
        /// Whose it is.
        found: String,
        /// Who asked.
        expected: String,
    },
    /// The data folder was written by a newer program.
    #[error(
        "the data folder {folder} has format {found}, this program knows formats up to {known}; run a newer version"
    )]
    NewerFormat {
        /// The folder.
        folder: String,
        /// Its format.
        found: u32,
        /// The newest known format.
        known: u32,
    },
    /// The data folder was written by an older program, in a format that this one does not read.
    #[error(
        "the data folder {folder} has format {found}, this program reads none below {known}; run the version that wrote it, \
         or start this node anew, with an empty data folder and under an id that was never used"
    )]
    OldFormat {
        /// The folder.
        folder: String,
        /// Its format.
        found: u32,
        /// The oldest format that is read.
        known: u32,
    },
    /// The storage worker died or storage has failed before: the node is stopping.
    #[error("storage has stopped")]
    Stopped,
    /// The database refused an operation.
    #[error("the database failed: {0}")]
    Database(String),
}

impl StorageError {
    /// A corruption, described.
    pub fn corrupt(what: impl Into<String>) -> Self {
        StorageError::Corrupt { what: what.into() }
    }
}

impl From<crate::seams::WorkerStopped> for StorageError {
    fn from(_: crate::seams::WorkerStopped) -> Self {
        StorageError::Stopped
    }
}

impl From<redb::StorageError> for StorageError {
    fn from(error: redb::StorageError) -> Self {
        match error {
            redb::StorageError::Io(error) => StorageError::Io(error),
            redb::StorageError::Corrupted(what) => StorageError::Corrupt { what },
            redb::StorageError::PreviousIo | redb::StorageError::DatabaseClosed => StorageError::Stopped,
            other => StorageError::Database(other.to_string()),
        }
    }
}

macro_rules! through_storage {
    ($($outer:ident),*) => {$(
        impl From<redb::$outer> for StorageError {
            fn from(error: redb::$outer) -> Self {
                match error {
                    redb::$outer::Storage(error) => error.into(),
                    other => StorageError::Database(other.to_string()),
                }
            }
        }
    )*};
}

through_storage!(DatabaseError, TransactionError, TableError, CommitError);

impl From<redb::SetDurabilityError> for StorageError {
    fn from(error: redb::SetDurabilityError) -> Self {
        StorageError::Database(error.to_string())
    }
}

impl From<meridian_crdt::codec::DecodeError> for StorageError {
    fn from(error: meridian_crdt::codec::DecodeError) -> Self {
        StorageError::Corrupt { what: format!("a stored value does not decode: {error}") }
    }
}

impl From<StorageError> for io::Error {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Io(error) => error,
            other => io::Error::other(other),
        }
    }
}
