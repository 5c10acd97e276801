//! What a node keeps on disk: one folder with the Raft log, in segments of our own, and the state, in a redb file.
//!
//! Invariants: what [`LogStore`] has called back about survives a crash; what was written to [`StateStore`] since its
//! last checkpoint is in memory only, vanishes in a crash, and the log replays it; every value in a file carries a
//! checksum that reads verify; after an error of a durable write nothing more is written, and [`Fatal`] tells the
//! process to stop. This module knows rows and bytes: not Raft, not txns.

mod applied;
mod checksum;
mod error;
mod fatal;
mod folder;
mod incoming;
mod log;
mod overlay;
mod scrub;
mod state;
mod state_backend;
mod state_file;
mod state_rows;
mod tables;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod folder_tests;
#[cfg(test)]
mod overlay_tests;

pub use applied::Applied;
pub use error::StorageError;
pub use fatal::Fatal;
pub use folder::{FORMAT_VERSION, Folder, FolderConfig, Identity, Opened};
pub use incoming::Incoming;
pub use log::{LogCounts, LogStore, SyncTimes};
pub use scrub::{ScrubCursor, ScrubStep};
pub use state::StateStore;
pub use state_rows::{StateView, StateWrite};

/// A place in a Raft log.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct LogPosition {
    /// The term of the leader that proposed the entry.
    pub term: u64,
    /// The entry's number in the log.
    pub index: u64,
}
