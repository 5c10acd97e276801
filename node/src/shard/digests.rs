//! Nodes of a datacenter compare their state: equal logs must have led to equal contents (I6).
//!
//! Each node notes its fingerprint at every so many log entries, inside apply, where it is exact. A follower asks its
//! leader for its notes now and then and compares those that both have; what stands still is compared as it is.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Shard;
use super::forward::{Request, Response};
use super::health::Health;
use super::machine::storage_error;
use crate::storage::StorageError;
use crate::txn::state_fingerprint;

/// A note is made at every log index that this divides.
pub const NOTE_EVERY: u64 = 512;
/// Notes that are kept: at ten thousand small entries a second those of the last three seconds, at fewer of more.
const NOTES_MAX: usize = 64;
/// How often a follower compares.
const COMPARE_EVERY: Duration = Duration::from_secs(2);
/// How long the leader's answer may take.
const DEADLINE: Duration = Duration::from_secs(1);

/// What a node's state came to at a log index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The log index.
    pub index: u64,
    /// The upper and the lower half of the fingerprint.
    pub fingerprint: (u64, u64),
}

impl Note {
    /// A note of `fingerprint` at `index`.
    pub fn new(index: u64, fingerprint: u128) -> Self {
        Self { index, fingerprint: ((fingerprint >> 64) as u64, fingerprint as u64) }
    }
}

/// The latest notes of this node.
#[derive(Debug, Default)]
pub struct Notes(Mutex<VecDeque<Note>>);

impl Notes {
    /// Keeps a note; the oldest goes when there are too many.
    pub fn push(&self, note: Note) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() == NOTES_MAX {
            notes.pop_front();
        }
        notes.push_back(note);
    }

    fn all(&self) -> Vec<Note> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }
}

/// For each note of `theirs` that `ours` has one at the same index for: the index, and whether they agree.
fn compare<'n>(ours: &'n [Note], theirs: &'n [Note]) -> impl Iterator<Item = (u64, bool)> + 'n {
    theirs.iter().filter_map(|their| {
        let our = ours.iter().rev().find(|our| our.index == their.index)?;
        Some((our.index, our.fingerprint == their.fingerprint))
    })
}

impl Shard {
    /// This node's notes, and one of its state as it is now.
    pub(super) fn digest_notes(&self) -> Result<Vec<Note>, StorageError> {
        let view = self.store.view();
        let now = Note::new(view.applied_index(), state_fingerprint(&view).map_err(storage_error)?);
        let mut notes = self.publisher.notes().all();
        notes.push(now);
        Ok(notes)
    }
}

/// Compares with the leader for ever.
pub(super) async fn run(shard: &Shard) {
    let mut compared = 0;
    loop {
        tokio::time::sleep(COMPARE_EVERY).await;
        let leadership = shard.raft.leadership_now();
        let Some(leader) = leadership.leader.filter(|leader| *leader != shard.node) else { continue };
        let Ok(Response::Digests(theirs)) = shard.ask(leader, &Request::Digests, DEADLINE).await else {
            continue;
        };
        let ours = match shard.digest_notes() {
            Ok(ours) => ours,
            Err(error) => {
                tracing::error!(%error, "the digest of this node's state cannot be read");
                continue;
            }
        };
        let mut newest = compared;
        for (index, equal) in compare(&ours, &theirs).filter(|(index, _)| *index > compared) {
            newest = newest.max(index);
            Health::add(&shard.health.digest_checks, 1);
            if !equal {
                Health::add(&shard.health.digest_mismatches, 1);
                tracing::error!(
                    index,
                    leader,
                    "this node's state differs from its leader's at the same log index; take one of them out of \
                     service and keep its files"
                );
            }
        }
        compared = newest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_compared_where_both_nodes_have_one() {
        let note = |index, fingerprint| Note::new(index, fingerprint);
        let ours = [note(512, 7), note(1024, u128::MAX), note(1100, 9)];
        let theirs = [note(1024, u128::MAX), note(1100, 8), note(1536, 1)];
        assert_eq!(compare(&ours, &theirs).collect::<Vec<_>>(), [(1024, true), (1100, false)]);
    }

    #[test]
    fn only_the_latest_notes_are_kept() {
        let notes = Notes::default();
        for index in 0..1000 {
            notes.push(Note::new(index, 0));
        }
        assert_eq!(notes.all().len(), NOTES_MAX);
        assert_eq!(notes.all().last().map(|note| note.index), Some(999));
    }
}
