//! Writing to the Raft log.

use bytes::Bytes;
use meridian::seams::{InlineExecutor, Seams};
use meridian::storage::{Folder, FolderConfig, Identity, LogStore};

use super::{Case, measured, told};

/// Bytes of an entry with one register.
const ENTRY_BYTES: usize = 300;
/// Entries of a batch where many share one.
const BATCH: u64 = 32;

pub(super) const CASES: &[Case] = &[
    Case { name: "log-append", step: "an entry of 300 bytes made durable in the log", run: |n| append(n, 1) },
    Case { name: "log-append-of-32", step: "32 of them in one batch", run: |n| append(n, BATCH) },
];

fn append(times: u64, entries: u64) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(told)?;
    let log = open(folder.path())?;
    let entry = Bytes::from(vec![7; ENTRY_BYTES]);
    for n in 0..times {
        let batch: Vec<_> = (n * entries..(n + 1) * entries).map(|index| (index, entry.clone())).collect();
        measured(|| append_one(&log, batch))?;
    }
    Ok(())
}

/// A log whose writes are done when they return.
pub fn open(folder: &std::path::Path) -> Result<LogStore, String> {
    let identity = Identity { cluster: "bench".into(), dc: "home".into(), node: 1 };
    let seams = Seams { executor: std::sync::Arc::new(InlineExecutor), ..Seams::production() };
    let opened = Folder::open(FolderConfig::new(folder.join("data"), identity), &seams).map_err(told)?;
    Ok(opened.log)
}

/// Appends a batch and says whether it is on disk.
pub fn append_one(log: &LogStore, batch: Vec<(u64, Bytes)>) -> Result<(), String> {
    let (done, is_done) = std::sync::mpsc::channel();
    log.append(batch, move |written| {
        // The receiver is waiting below.
        drop(done.send(written));
    });
    is_done.recv().map_err(told)?.map_err(told)
}
