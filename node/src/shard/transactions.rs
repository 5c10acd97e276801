//! Interactive transactions on this node: beginning one over a fresh enough view, and committing it through the log.
//!
//! A transaction lives on the node that began it, over that node's view of the state, and commits through the log like
//! any write. Those that are open, and what each request does to them, are in [`super::open`].
//!
//! A commit that is repeated with its request id gets the first answer, at any node of the datacenter: a node that does
//! not know the transaction asks the log what became of the request, and sees to it that it never happens if it has
//! not happened yet.

use std::time::Duration;

use meridian_client::wire::ApiError;
use meridian_client::wire::headers::Consistency;
use meridian_crdt::{Key, Listing, Mutation, Query, Reading, Vector};

use super::Shard;
use super::open::{Begun, CommitRequest, Seen, Submission};
use crate::storage::StateView;
use crate::txn::{Answer, Isolation};

/// How often transactions whose life is over are looked for.
const EXPIRE_EVERY: Duration = Duration::from_millis(250);

/// How a transaction is to begin.
#[derive(Clone, Debug, Default)]
pub struct Begin {
    /// What it is protected from.
    pub isolation: Isolation,
    /// How fresh its snapshot must be.
    pub consistency: Consistency,
    /// What its snapshot must have.
    pub session: Vector,
    /// How long to wait for that.
    pub wait: Duration,
}

impl Shard {
    /// Begins an interactive transaction on this node, over a snapshot that satisfies what is asked. Its id fits a signed
    /// number, which is what goes over the wire.
    pub async fn begin(&self, begin: Begin) -> Result<Begun, ApiError> {
        // A full node refuses before it waits for anything.
        self.transactions.room(self.seams.clock.monotonic_ms())?;
        let view = self.read(begin.consistency, &begin.session, begin.wait).await?;
        let now_ms = self.seams.clock.monotonic_ms();
        self.transactions.begin(view, begin.isolation, now_ms, || self.seams.random.u64() >> 1)
    }

    /// Reads a key in an open transaction.
    pub fn txn_read(&self, id: u64, key: &Key, query: &Query) -> Result<Seen<Reading>, ApiError> {
        self.transactions.read(id, key, query, self.seams.clock.monotonic_ms())
    }

    /// Lists keys in an open transaction.
    pub fn txn_scan(
        &self,
        id: u64,
        space: &str,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Seen<Listing>, ApiError> {
        self.transactions.scan(id, (space, prefix), after, limit, self.seams.clock.monotonic_ms())
    }

    /// Does operations in an open transaction, all or none, as [`Transactions::write`](super::open::Transactions::write)
    /// says.
    pub fn txn_write(&self, id: u64, ops: Vec<(Key, Mutation)>) -> Result<Answer, ApiError> {
        self.transactions.write(id, ops, self.seams.clock.monotonic_ms())
    }

    /// Ends an open transaction and does nothing of it. Says whether it was open.
    pub fn abort(&self, id: u64) -> bool {
        self.transactions.abort(id)
    }

    /// Commits an open transaction, or asks the log what became of one that is not open. Any answer ends it; an error that
    /// says that nothing was done leaves it open, so that it may be committed once more while it lives.
    pub async fn commit(&self, commit: CommitRequest) -> Result<Answer, ApiError> {
        self.conclude(self.transactions.submit(commit, self.seams.clock.monotonic_ms())?).await
    }

    /// Asks the log what became of a commit, for whoever does not know whether all that was sent before it has arrived: it is
    /// not done now, and never once the log has said so.
    pub async fn settle(&self, commit: CommitRequest) -> Result<Answer, ApiError> {
        self.conclude(self.transactions.settle(commit)?).await
    }

    async fn conclude(&self, submission: Submission<StateView>) -> Result<Answer, ApiError> {
        match submission {
            Submission::Answered(answer) => Ok(answer),
            Submission::Write(request, submitted) => {
                let written = self.write(request).await;
                self.transactions.finish(*submitted, written)
            }
        }
    }
}

/// Ends transactions whose life is over, whether or not anybody asks for them.
pub(super) async fn expire(shard: &Shard) {
    loop {
        tokio::time::sleep(EXPIRE_EVERY).await;
        shard.transactions.expire(shard.seams.clock.monotonic_ms());
    }
}
