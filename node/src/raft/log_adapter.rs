//! The Raft log as openraft wants it, over the log store.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{OptionalSend, alias};

use super::codec;
use super::types::{Entry, LogId, TypeConfig, Vote};
use crate::storage::LogStore;

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";

/// Entries of one replication message, in bytes; at least one entry always goes.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// openraft's view of the log store.
#[derive(Clone, Debug)]
pub(super) struct LogAdapter(pub(super) LogStore);

/// Whether the log has ever belonged to a group.
pub(super) fn is_initialised(log: &LogStore) -> Result<bool, crate::storage::StorageError> {
    Ok(log.row(VOTE)?.is_some() || log.row(PURGED)?.is_some() || log.last()?.is_some())
}

/// Makes `log` look like that of a node whose group exists.
#[cfg(test)]
pub(super) async fn initialised_for_tests(log: &LogStore) {
    log.put(VOTE, vec![1]).await.expect("the log takes a row");
}

impl LogAdapter {
    fn read<RB: RangeBounds<u64>>(&self, range: RB, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let rows = self.0.read(start..end, bytes_max)?;
        let entries = rows.into_iter().map(|(index, row)| codec::decode_entry(index, &row));
        Ok(entries.collect::<Result<_, _>>()?)
    }
}

impl RaftLogReader<TypeConfig> for LogAdapter {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(range, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start..end, MESSAGE_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.row(VOTE)?.map(|row| codec::decode_vote(&row)).transpose()?)
    }
}

impl RaftLogStorage<TypeConfig> for LogAdapter {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id = self.0.row(PURGED)?.map(|row| codec::decode_id(&row)).transpose()?;
        let last = self.0.last()?;
        let last = last.map(|(index, row)| codec::decode_entry_id(index, &row)).transpose()?;
        Ok(LogState { last_purged_log_id, last_log_id: last.or(last_purged_log_id) })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        Ok(self.0.put(VOTE, codec::encode_vote(vote)).await?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // It goes with the next append: what a crash takes of it, the leader tells again.
        if let Some(id) = committed {
            self.0.put_lazily(COMMITTED, codec::encode_id(&id));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let committed = self.0.row(COMMITTED)?.map(|row| codec::decode_id(&row)).transpose()?;
        // Earlier programs could write it before its entry, and die between the two. The leader tells again.
        let last = self.get_log_state().await?.last_log_id;
        Ok(committed.filter(|id: &LogId| Some(id.index) <= last.map(|last| last.index)))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let rows = entries.into_iter().map(|entry| (entry.index(), codec::encode_entry(&entry))).collect();
        self.0.append(rows, move |written| callback.io_completed(written.map_err(io::Error::from)));
        Ok(())
    }

    async fn truncate_after(
        &mut self,
        last_log_id: Option<alias::LogIdOf<TypeConfig>>,
    ) -> Result<(), io::Error> {
        let from = last_log_id.map_or(0, |id| id.index + 1);
        Ok(self.0.truncate(from).await?)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        Ok(self.0.purge(log_id.index + 1, PURGED, codec::encode_id(&log_id)).await?)
    }
}
