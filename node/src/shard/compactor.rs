//! Compacts documents in the background, on the leader: finds those with a long tail of updates, puts the tail together with
//! what was compacted before, and proposes the result.
//!
//! Nothing waits for it. It walks over all keys again and again, a little at a time, so it needs no memory of what is to
//! be done, and a new leader goes on wherever the last one was. What it has read may be out of date when it is applied: apply
//! then refuses it, and a later lap does better.

use std::time::Duration;

use bytes::Bytes;
use meridian_crdt::{
    DOC_PART_BYTES_MAX, DOC_PARTS_MAX, DocCompaction, DocTail, Document, Key, UpdateError, YrsDocument,
    doc_long_tails, doc_tail,
};

use super::Shard;
use super::health::Health;
use super::machine::storage_error;
use super::proposer::SubmitError;
use crate::seams::{Urgency, Worker, run_on};
use crate::storage::{StateStore, StorageError};
use crate::txn::{Item, Outcome, StagedPart};

/// Of the rows that make a document long, one in so many has to be an update to one set of incarnations.
const UPDATES_SHARE: u64 = 2;
/// The most updates that one step replaces: apply takes some ten milliseconds for these.
const UPDATES_MAX: usize = 4_096;
/// A snapshot is written anew when what is to go into it has this share of its bytes, or is as much as one step takes. So a
/// large document is written a few times for each time that it doubles.
const SHARE_OF_SNAPSHOT: usize = 8;
/// Keys looked at in one step.
const STEP_KEYS: usize = 512;
/// The rest between two steps.
const STEP_PAUSE: Duration = Duration::from_millis(50);
/// The rest between two laps, and after a compaction that could not be proposed.
const LAP_PAUSE: Duration = Duration::from_secs(2);
/// What an item takes in an entry beyond the bytes of its part, at most.
const FRAME_BYTES: usize = 64 << 10;

/// Looks for documents of at least `rows_min` rows for ever.
pub(super) async fn run(shard: &Shard, rows_min: u64) {
    let worker = shard.seams.executor.worker("compact", Urgency::Background);
    let mut next: Vec<u8> = Vec::new();
    let mut looked_at = None;
    loop {
        tokio::time::sleep(if next.is_empty() { LAP_PAUSE } else { STEP_PAUSE }).await;
        let end = shard.publisher.applied().borrow().state.oplog_end;
        let idle = next.is_empty() && looked_at == Some(end);
        if shard.publisher.view().borrow().leading.is_none() || idle {
            continue;
        }
        if next.is_empty() {
            looked_at = Some(end);
        }
        next = match step(shard, worker.as_ref(), rows_min, next).await {
            Ok(next) => next.unwrap_or_default(),
            Err(error) => {
                tracing::error!(%error, "documents cannot be looked through");
                Vec::new()
            }
        };
    }
}

async fn step(
    shard: &Shard,
    worker: &dyn Worker,
    rows_min: u64,
    from: Vec<u8>,
) -> Result<Option<Vec<u8>>, StorageError> {
    let store = shard.store.clone();
    let look = move || doc_long_tails(&store.view(), &from, STEP_KEYS, rows_min).map_err(storage_error);
    let (keys, next) = run_on(worker, look).await.unwrap_or(Err(StorageError::Stopped))?;
    for key in keys {
        // One document that cannot be read must not keep all behind it from their turn.
        if let Err(error) = compact(shard, worker, rows_min, &key).await {
            tracing::error!(%key, %error, "a document cannot be compacted");
        }
    }
    Ok(next)
}

/// Compacts a document, as long as there is enough for another step.
async fn compact(shard: &Shard, worker: &dyn Worker, rows_min: u64, key: &Key) -> Result<(), StorageError> {
    while let Some((compaction, snapshot)) = prepared(shard, worker, rows_min, key.clone()).await? {
        let count = compaction.count;
        match propose(shard, key, compaction, snapshot).await {
            Ok(Outcome::Done) => {
                Health::add(&shard.health.compacted_updates, count);
                tracing::debug!(%key, updates = count, "a document is compacted");
            }
            Ok(other) => {
                tracing::debug!(%key, ?other, "a document is not compacted this time");
                break;
            }
            Err(error) => {
                tracing::debug!(%key, %error, "a document is not compacted this time");
                break;
            }
        }
    }
    Ok(())
}

/// A compaction of the document and its snapshot, if it is worth the while.
async fn prepared(
    shard: &Shard,
    worker: &dyn Worker,
    rows_min: u64,
    key: Key,
) -> Result<Option<(DocCompaction, Bytes)>, StorageError> {
    let store = shard.store.clone();
    run_on(worker, move || prepare(&store, rows_min, &key)).await.unwrap_or(Err(StorageError::Stopped))
}

fn prepare(
    store: &StateStore,
    rows_min: u64,
    key: &Key,
) -> Result<Option<(DocCompaction, Bytes)>, StorageError> {
    let updates_min = usize::try_from(rows_min / UPDATES_SHARE).unwrap_or(usize::MAX);
    let tail = doc_tail(&store.view(), key, updates_min, UPDATES_MAX).map_err(storage_error)?;
    let Some(DocTail { mut compaction, content }) = tail else { return Ok(None) };
    let compacted: usize = content.snapshots.iter().map(Bytes::len).sum();
    let is_full = compaction.count as usize >= UPDATES_MAX;
    if !is_full && (content.bytes() - compacted) * SHARE_OF_SNAPSHOT < compacted {
        return Ok(None);
    }
    let snapshot = match put_together(&content) {
        Ok(snapshot) => snapshot,
        Err(error) => {
            tracing::warn!(%key, %error, "a document is not compacted");
            return Ok(None);
        }
    };
    if snapshot.len() > DOC_PART_BYTES_MAX * DOC_PARTS_MAX as usize {
        return Ok(None);
    }
    compaction.bytes = snapshot.len() as u64;
    compaction.parts = snapshot.len().div_ceil(DOC_PART_BYTES_MAX) as u32;
    Ok(Some((compaction, snapshot)))
}

/// One snapshot with everything; what cannot be used, now or at all, stays in it as it is.
fn put_together(content: &meridian_crdt::DocContent) -> Result<Bytes, UpdateError> {
    let (document, refused) = YrsDocument::of(content)?;
    let mut snapshot = document.snapshot()?;
    snapshot.apart.extend(refused);
    Ok(snapshot.encode())
}

/// Stages the parts of a snapshot, and then lets it count.
async fn propose(
    shard: &Shard,
    key: &Key,
    compaction: DocCompaction,
    mut snapshot: Bytes,
) -> Result<Outcome, SubmitError> {
    for part in 0..compaction.parts {
        let bytes = snapshot.split_to(snapshot.len().min(DOC_PART_BYTES_MAX));
        let (of, number) = (compaction.of.clone(), compaction.number);
        let size = bytes.len() + FRAME_BYTES;
        let staged = StagedPart { key: key.clone(), of, number, part, bytes };
        match shard.proposer.submit(Item::Stage(staged), size, None).await? {
            Outcome::Done => {}
            refused => return Ok(refused),
        }
    }
    shard.proposer.submit(Item::Compact { key: key.clone(), compaction }, FRAME_BYTES, None).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_crdt::DocContent;

    #[test]
    fn what_cannot_be_used_is_kept_as_it_came() {
        let (waits, bad) =
            (Bytes::from_static(&[1, 1, 2, 1, 0x84, 2, 0, 1, b'x', 0]), Bytes::from_static(&[9]));
        let typed = Bytes::from_static(&[1, 1, 1, 0, 4, 1, 1, b't', 1, b'a', 0]);
        let content =
            DocContent { updates: vec![bad.clone(), waits.clone(), typed], ..DocContent::default() };
        let snapshot = put_together(&content).expect("a shallow document");
        let again = DocContent { snapshots: vec![snapshot.clone()], ..DocContent::default() };
        assert_eq!(put_together(&again).map(|bytes| bytes.len()), Ok(snapshot.len()));
        let snapshot = meridian_crdt::Snapshot::decode(&snapshot).expect("an own encoding");
        assert_eq!(snapshot.apart, [waits, bad]);
        let (document, _) = YrsDocument::of(&again).expect("a shallow document");
        assert_eq!(document.text("t"), "a");
    }
}
