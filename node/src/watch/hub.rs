//! All watches of this node: how many there may be, what they share, and what is counted of them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use meridian_client::wire::{ApiError, Cursor, ErrorCode, Token};
use meridian_crdt::Vector;
use tokio::sync::watch;

use super::recent::Recent;
use super::walk::Expired;
use crate::count::{Count, Counted};
use crate::txn::oplog::{READ_TXNS_MAX, ReadBounds};

/// Bounds of the watches of one node; from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct WatchBounds {
    /// Open watches; a further one is refused.
    pub watches_max: usize,
    /// Bytes of txns that a watch reads ahead of what its client takes.
    pub chunk_bytes: usize,
    /// How often a watch whose cursor moves without a txn to show tells where it stands.
    pub progress_interval: Duration,
    /// How long a stream may be silent.
    pub keep_alive: Duration,
}

/// What is counted of watches, since the process began.
#[derive(Debug, Default)]
pub struct WatchCounts {
    /// Open now.
    pub open: Count,
    /// Refused because there were too many.
    pub refused: AtomicU64,
    /// Events with a txn.
    pub txns: AtomicU64,
    /// Events with a cursor alone.
    pub cursors: AtomicU64,
    /// Watches that ended, or did not begin, because the oplog no longer reached back.
    pub expired: AtomicU64,
    /// Watches that were dropped while there was something that their client did not take.
    pub cut_off: AtomicU64,
}

/// All watches of this node.
#[derive(Debug)]
pub struct Watches {
    /// Bounds from the configuration.
    pub bounds: WatchBounds,
    /// What is counted.
    pub counts: WatchCounts,
    /// The short id of the cluster, in cursors.
    pub cluster: u32,
    pub(super) recent: Recent,
    pub(super) stop: watch::Receiver<bool>,
}

impl Watches {
    /// No watches yet; all that come end when `stop` turns true.
    pub fn new(cluster: u32, bounds: WatchBounds, stop: watch::Receiver<bool>) -> Self {
        Self { bounds, counts: WatchCounts::default(), cluster, recent: Recent::default(), stop }
    }

    pub(super) fn read_bounds(&self) -> ReadBounds {
        ReadBounds { bytes_max: self.bounds.chunk_bytes, txns_max: READ_TXNS_MAX }
    }

    /// Counts a watch in, unless there are too many.
    pub(super) fn open(&self) -> Result<Counted, ApiError> {
        let (counted, before) = self.counts.open.enter();
        if before < self.bounds.watches_max {
            return Ok(counted);
        }
        self.counts.refused.fetch_add(1, Ordering::Relaxed);
        let message = "this node has as many watches open as it takes; watch at another node";
        Err(ApiError::new(ErrorCode::Overloaded, message).retry_after_ms(1_000))
    }

    /// The error of a watch to whose cursor the oplog no longer reaches back. It carries a fresh one, and what `session` depends
    /// on with all that this covers: who goes on from there has to read first what came before it, and may do so at a node that
    /// has not got as far.
    pub(super) fn expired(&self, expired: Expired, session: &Vector) -> ApiError {
        self.counts.expired.fetch_add(1, Ordering::Relaxed);
        let message = "txns after the cursor are no longer kept; read what you watch again, then watch from its \
                       watch_cursor, or from the cursor here if what came between does not matter";
        let mut token = Token { cluster: self.cluster, dots: session.clone() };
        token.dots.join(&expired.0);
        let fresh = Cursor::new(self.cluster, *expired.0).to_text();
        ApiError::new(ErrorCode::CursorExpired, message)
            .with("cursor", fresh)
            .with("session", token.to_text())
    }
}

#[cfg(test)]
mod tests {
    use meridian_crdt::{Dot, Origin};

    use super::*;

    fn watches(watches_max: usize) -> Watches {
        let second = Duration::from_secs(1);
        let bounds =
            WatchBounds { watches_max, chunk_bytes: 1, progress_interval: second, keep_alive: second };
        Watches::new(7, bounds, watch::channel(false).1)
    }

    #[test]
    fn a_refused_watch_takes_no_place() {
        let watches = watches(1);
        let open = watches.open().expect("there is room");
        for _ in 0..3 {
            let refused = watches.open().expect_err("there is none");
            assert_eq!((refused.code, refused.retry_after_ms), (ErrorCode::Overloaded, Some(1_000)));
        }
        drop(open);
        drop(watches.open().expect("there is room again"));
        assert_eq!(watches.counts.refused.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn an_expired_cursor_is_answered_with_a_fresh_one() {
        let watches = watches(1);
        let now: Vector = [Dot::new(Origin(3), 9)].into_iter().collect();
        let session: Vector = [Dot::new(Origin(3), 4), Dot::new(Origin(5), 1)].into_iter().collect();
        let error = watches.expired(Expired(Box::new(now.clone())), &session);
        assert_eq!((error.code, error.code.status()), (ErrorCode::CursorExpired, 410));
        let fresh = error.details["cursor"].as_str().expect("a cursor");
        assert_eq!(Cursor::from_text(fresh), Ok(Cursor::new(7, now)));
        let token =
            Token::from_text(error.details["session"].as_str().expect("a token")).expect("a valid one");
        let both = [Dot::new(Origin(3), 9), Dot::new(Origin(5), 1)].into_iter().collect();
        assert_eq!(token, Token { cluster: 7, dots: both });
        assert_eq!(watches.counts.expired.load(Ordering::Relaxed), 1);
    }
}
