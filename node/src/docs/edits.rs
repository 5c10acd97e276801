//! The edits of a room on their way into the log: one write at a time, each with all that has come in meanwhile. A write
//! begins some time after the one before, or once [`GATHERED_EDITS`] wait: a commit costs far more than the edits in it, so
//! where many type, several edits share one.
//!
//! An update may be written twice without harm, since Yjs takes it once, and only where the document has not been deleted meanwhile; so a
//! write whose outcome is not known is simply repeated, until [`Edits::write`]'s time is over.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use meridian_client::wire::{ApiError, ErrorCode};
use meridian_crdt::{Condition, DocOp, Dot, Key, Mutation};
use tokio::time::Instant;

use crate::shard::{Shard, WriteRequest};
use crate::txn::{Answer, ClientTxn, RequestId};

/// Bytes of the edits that wait in a room. At the bound its editors are not listened to.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// Edits of one write, by number and by bytes; a single larger one goes alone.
const BATCH_EDITS_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 512 << 10;
/// Edits for the sake of which a write does not wait for more.
const GATHERED_EDITS: usize = 64;
/// How long to wait between attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// An update that an editor has made.
#[derive(Clone, Debug)]
pub struct Edit {
    /// Who made it.
    pub member: u64,
    /// The update.
    pub update: Bytes,
    /// How deep its shared types nest within each other.
    pub height: usize,
    /// The last seat of the room whose editor was given it before it is kept, if any was.
    pub told_upto: Option<u64>,
}

/// What a write came to.
#[derive(Debug)]
pub struct Written {
    /// The edits that it held.
    pub edits: Vec<Edit>,
    /// Why they are not kept, if they are not.
    pub outcome: Result<(), ApiError>,
}

type Writing = Pin<Box<dyn Future<Output = Written> + Send>>;

/// The edits of one room.
#[derive(Default)]
pub struct Edits {
    waiting: VecDeque<Edit>,
    waiting_bytes: usize,
    writing: Option<Writing>,
    /// Whether any was kept.
    were_kept: bool,
    /// When the last write began, in milliseconds of the room's clock.
    began_ms: Option<u64>,
    /// Who made the edits that have gone into a write and have not come back by the oplog, the oldest first.
    under_way: VecDeque<Edit>,
    under_way_bytes: usize,
}

impl Edits {
    /// Takes an edit.
    pub fn push(&mut self, edit: Edit) {
        self.waiting_bytes += edit.update.len();
        self.waiting.push_back(edit);
    }

    /// Whether any was kept: since then the document has an incarnation, or was deleted.
    pub fn were_kept(&self) -> bool {
        self.were_kept
    }

    /// The updates that editors were given before they are kept, in the order in which they came.
    pub fn told(&self) -> impl Iterator<Item = &Bytes> {
        let all = self.under_way.iter().chain(&self.waiting);
        all.filter(|edit| edit.told_upto.is_some()).map(|edit| &edit.update)
    }

    /// Whether there is room for more.
    pub fn have_room(&self) -> bool {
        self.waiting_bytes < WAITING_BYTES_MAX
    }

    /// Whether all that has been taken in has come back by the oplog.
    pub fn are_settled(&self) -> bool {
        self.are_done() && self.under_way.is_empty()
    }

    /// How deep the shared types of all that is under way nest, if each is inside the one before.
    pub fn height(&self) -> usize {
        self.waiting.iter().chain(&self.under_way).map(|edit| edit.height).sum()
    }

    /// The bytes of all that is under way.
    pub fn bytes(&self) -> usize {
        self.waiting_bytes + self.under_way_bytes
    }

    /// Whether nothing waits and nothing is being written.
    pub fn are_done(&self) -> bool {
        self.waiting.is_empty() && self.writing.is_none()
    }

    /// Forgets what waits of an editor who has been closed, and nobody else was given.
    pub fn forget(&mut self, member: u64) {
        self.waiting.retain(|edit| edit.member != member || edit.told_upto.is_some());
        self.waiting_bytes = self.waiting.iter().map(|edit| edit.update.len()).sum();
    }

    /// For how long what waits is held back so that more can join it; `None` if nothing waits, or a write is under way.
    pub fn gathers_ms(&self, now_ms: u64, gather_ms: u64) -> Option<u64> {
        if self.writing.is_some() || self.waiting.is_empty() {
            return None;
        }
        let is_enough = self.waiting.len() >= GATHERED_EDITS || self.waiting_bytes >= BATCH_BYTES_MAX;
        let due_ms = self.began_ms.filter(|_| !is_enough).map_or(now_ms, |began_ms| began_ms + gather_ms);
        Some(due_ms.saturating_sub(now_ms))
    }

    /// Begins a write of what waits. `incarnations` are those that the document has here, and must still have: else it was deleted,
    /// and an edit would come into one that was made again, without what it builds on. It is tried for `time`.
    pub fn write(
        &mut self,
        shard: &Arc<Shard>,
        key: &Key,
        incarnations: &[Dot],
        now_ms: u64,
        time: Duration,
    ) {
        self.began_ms = Some(now_ms);
        let mut edits = Vec::new();
        let mut bytes = 0;
        while let Some(next) = self.waiting.front() {
            let fits = bytes + next.update.len() <= BATCH_BYTES_MAX && edits.len() < BATCH_EDITS_MAX;
            if !fits && !edits.is_empty() {
                break;
            }
            bytes += next.update.len();
            edits.extend(self.waiting.pop_front());
        }
        self.waiting_bytes -= bytes;
        self.under_way_bytes += bytes;
        self.under_way.extend(edits.iter().cloned());
        let (shard, key, incarnations) = (shard.clone(), key.clone(), incarnations.to_vec());
        self.writing = Some(Box::pin(async move {
            let outcome = write(&shard, &key, &edits, incarnations, time).await;
            Written { edits, outcome }
        }));
    }

    /// Waits for the write that is under way, for ever if there is none. Dropping the future loses nothing.
    pub async fn written(&mut self) -> Written {
        let written = std::future::poll_fn(|cx: &mut Context<'_>| match &mut self.writing {
            Some(writing) => writing.as_mut().poll(cx),
            None => Poll::Pending,
        });
        let written = written.await;
        self.writing = None;
        self.were_kept |= written.outcome.is_ok();
        if written.outcome.is_err() {
            for edit in &written.edits {
                self.came_back(&edit.update);
            }
        }
        written
    }

    /// The edit of this room of which the update came by the oplog, if it is one.
    pub fn came_back(&mut self, update: &Bytes) -> Option<Edit> {
        let at = self.under_way.iter().position(|edit| edit.update == update)?;
        let back = self.under_way.remove(at)?;
        self.under_way_bytes -= back.update.len();
        Some(back)
    }
}

async fn write(
    shard: &Shard,
    key: &Key,
    edits: &[Edit],
    incarnations: Vec<Dot>,
    time: Duration,
) -> Result<(), ApiError> {
    let updates: Vec<Bytes> = edits.iter().map(|edit| edit.update.clone()).collect();
    let ops = vec![(key.clone(), Mutation::Doc(DocOp::UpdateAll(updates)))];
    let conditions = match incarnations[..] {
        [] => Vec::new(),
        _ => vec![(key.clone(), Condition::Incarnations(incarnations))],
    };
    let bytes = ClientTxn::encoded_bytes(&conditions, &ops)
        .map_err(|e| ApiError::new(ErrorCode::BadValue, e.to_string()))?;
    // Twice does no harm, except to what is begun by it and deleted in between.
    let id = conditions.is_empty().then(|| RequestId::Free(shard.seams.random.uuid().simple().to_string()));
    let request = Box::new(WriteRequest { id, conditions, ops, bytes, ..WriteRequest::default() });
    let until = Instant::now() + time;
    loop {
        let error = match shard.write(request.clone()).await {
            Ok(Answer::Done { .. }) => return Ok(()),
            Ok(Answer::Refused { error, .. }) => return Err(error),
            Err(error) => error,
        };
        if !error.code.is_retryable() || Instant::now() >= until {
            return Err(error);
        }
        tracing::debug!(%key, %error, "an edit is tried again");
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(told_upto: Option<u64>) -> Edit {
        Edit { member: 7, update: Bytes::from_static(b"update"), height: 0, told_upto }
    }

    #[test]
    fn an_edit_after_a_pause_is_written_at_once_and_then_others_are_gathered() {
        let mut edits = Edits::default();
        assert_eq!(edits.gathers_ms(5, 15), None, "nothing waits");
        edits.push(edit(None));
        assert_eq!(edits.gathers_ms(5, 15), Some(0), "nothing was written before");
        edits.began_ms = Some(5);
        assert_eq!(
            [5, 6, 19, 20, 100].map(|now_ms| edits.gathers_ms(now_ms, 15)),
            [15, 14, 1, 0, 0].map(Some)
        );
        edits.writing = Some(Box::pin(std::future::pending()));
        assert_eq!(edits.gathers_ms(100, 15), None, "one write at a time");
        edits.writing = None;
        (1..GATHERED_EDITS).for_each(|_| edits.push(edit(None)));
        assert_eq!(edits.gathers_ms(5, 15), Some(0), "enough for a write");
    }

    #[test]
    fn what_a_closed_editor_has_said_is_forgotten_unless_others_have_it() {
        let mut edits = Edits::default();
        edits.push(edit(None));
        edits.push(edit(Some(3)));
        edits.forget(8);
        assert_eq!(edits.waiting.len(), 2);
        edits.forget(7);
        assert_eq!((edits.waiting.len(), edits.waiting_bytes), (1, 6));
    }
}
