//! The way from rooms to one connection: a bounded queue that nobody ever waits for.
//!
//! A connection of `y-websocket` has one document and one seat; one of Hocuspocus has a seat for each of its documents,
//! and they share the queue. A frame is never left out: the protocols have no way to notice. An editor who takes frames more
//! slowly than they come is closed once [`FRAMES_MAX`] or [`BYTES_MAX`] of them wait; it comes back and gets what it lacks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::close::Close;
use super::wire;
use crate::access::Right;

/// Frames that wait for one connection.
pub const FRAMES_MAX: usize = 1024;
/// Bytes that wait for one connection. A single larger frame waits alone.
pub const BYTES_MAX: usize = 4 << 20;

/// A frame on its way to a connection: the name of the document, where the protocol has one, and the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posted {
    /// The encoded name; empty for `y-websocket`.
    pub name: Bytes,
    /// The message.
    pub message: Bytes,
}

impl Posted {
    fn len(&self) -> usize {
        self.name.len() + self.message.len()
    }

    /// The bytes of the frame.
    pub fn into_frame(self) -> Bytes {
        if self.name.is_empty() { self.message } else { [self.name, self.message].concat().into() }
    }
}

/// The connection's end that gives out seats.
#[derive(Clone, Debug)]
pub struct Outlet {
    frames: mpsc::Sender<Posted>,
    waiting: Arc<AtomicUsize>,
    close: watch::Sender<Option<Close>>,
}

/// A room's end.
#[derive(Debug)]
pub struct Seat {
    outlet: Outlet,
    name: Bytes,
    right: Right,
    /// Whether the editor has heard that it is over, or needs not.
    parted: bool,
}

/// The connection's end that takes frames.
#[derive(Debug)]
pub struct Inbox {
    frames: mpsc::Receiver<Posted>,
    waiting: Arc<AtomicUsize>,
    close: watch::Receiver<Option<Close>>,
}

/// A queue and its two ends.
pub fn outlet() -> (Outlet, Inbox) {
    let (sender, frames) = mpsc::channel(FRAMES_MAX);
    let (close, closed) = watch::channel(None);
    let waiting = Arc::new(AtomicUsize::new(0));
    (Outlet { frames: sender, waiting: waiting.clone(), close }, Inbox { frames, waiting, close: closed })
}

impl Outlet {
    /// A seat in a room. `name` is what stands before each message: nothing for `y-websocket`.
    pub fn seat(&self, name: Bytes, right: Right) -> Seat {
        Seat { outlet: self.clone(), name, right, parted: false }
    }

    /// Queues a frame; `false` if there is no room for it, or nobody takes frames any more.
    pub fn post(&self, posted: Posted) -> bool {
        let len = posted.len();
        let before = self.waiting.fetch_add(len, Ordering::AcqRel);
        let fits = before == 0 || before + len <= BYTES_MAX;
        let is_posted = fits && self.frames.try_send(posted).is_ok();
        if !is_posted {
            self.waiting.fetch_sub(len, Ordering::AcqRel);
        }
        is_posted
    }

    /// Says that the connection is to end, and why. What waits is not sent any more. The first reason stands.
    fn end(&self, close: Close) {
        self.close.send_if_modified(|reason| {
            let is_first = reason.is_none();
            reason.get_or_insert(close);
            is_first
        });
    }
}

impl Seat {
    /// Whether the editor speaks Hocuspocus: it is asked for what it has only after it has asked, and is told which of
    /// its edits are kept.
    pub fn is_hocuspocus(&self) -> bool {
        !self.name.is_empty()
    }

    /// Whether the editor may see the document and not change it.
    pub fn reads_only(&self) -> bool {
        self.right < Right::Write
    }

    /// The message that says that an edit is refused, since the editor may only read. One of `y-websocket` goes on
    /// seeing the document.
    pub fn refusal(&self) -> Bytes {
        if self.is_hocuspocus() {
            wire::not_kept()
        } else {
            wire::denied("you may read this document, not edit it")
        }
    }

    /// Queues a frame; `false` if there is no room for it, or nobody takes frames any more.
    pub fn post(&self, message: &Bytes) -> bool {
        self.outlet.post(Posted { name: self.name.clone(), message: message.clone() })
    }

    /// Whether nobody takes frames any more.
    pub fn is_gone(&self) -> bool {
        self.outlet.frames.is_closed()
    }

    /// The editor has left by itself.
    pub fn part(mut self) {
        self.parted = true;
    }

    /// Ends the editor's part in the room, and tells it why. Where a connection has several documents it goes on with the
    /// others, if this one is over for good; else it has to end as a whole, since its client would not come back to
    /// one document alone.
    pub fn close(mut self, close: Close) {
        self.parted = true;
        let alone = self.is_hocuspocus() && close.is_permanent();
        if !(alone && self.post(&wire::leave(close.reason))) {
            self.outlet.end(close);
        }
    }
}

impl Drop for Seat {
    /// A room that ended without a word has met a fault.
    fn drop(&mut self) {
        if !self.parted {
            self.outlet.end(Close::GONE);
        }
    }
}

impl Inbox {
    /// The next frame, or why the connection is to end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Posted, Close> {
        let posted = tokio::select! {
            biased;
            told = self.close.wait_for(Option::is_some) => {
                return Err(told.ok().and_then(|reason| *reason).unwrap_or(Close::GONE));
            }
            posted = self.frames.recv() => posted,
        };
        posted.map(|posted| self.taken(posted)).ok_or(Close::GONE)
    }

    /// A frame that is there already.
    pub fn ready(&mut self) -> Option<Posted> {
        let posted = self.frames.try_recv().ok()?;
        Some(self.taken(posted))
    }

    fn taken(&self, posted: Posted) -> Posted {
        self.waiting.fetch_sub(posted.len(), Ordering::AcqRel);
        posted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone() -> (Seat, Inbox) {
        let (outlet, inbox) = outlet();
        (outlet.seat(Bytes::new(), Right::Write), inbox)
    }

    const X: Bytes = Bytes::from_static(b"x");

    #[tokio::test]
    async fn frames_come_in_order_until_there_is_no_room() {
        let (seat, mut inbox) = alone();
        let large = Bytes::from(vec![1; BYTES_MAX + 1]);
        assert!(seat.post(&large), "alone");
        assert!(!seat.post(&X), "behind it");
        assert_eq!(inbox.next().await.expect("a frame").message.len(), large.len());
        for n in 0..FRAMES_MAX {
            assert!(seat.post(&Bytes::from(vec![0; n % 3])), "{n}");
        }
        assert!(!seat.post(&X));
        assert_eq!(inbox.ready().map(Posted::into_frame), Some(Bytes::new()));
        assert_eq!(inbox.next().await.map(Posted::into_frame), Ok(Bytes::from(vec![0])));
    }

    #[tokio::test]
    async fn a_closed_seat_gives_its_reason_before_what_waits() {
        let (seat, mut inbox) = alone();
        assert!(seat.post(&X));
        seat.close(Close::SLOW);
        assert_eq!(inbox.next().await, Err(Close::SLOW));
    }

    #[tokio::test]
    async fn a_room_that_is_gone_ends_the_connection() {
        let (seat, mut inbox) = alone();
        drop(seat);
        assert_eq!(inbox.next().await, Err(Close::GONE));
    }

    #[tokio::test]
    async fn one_of_several_documents_ends_alone_if_it_ends_for_good() {
        let (outlet, mut inbox) = outlet();
        let name = |name: &'static [u8]| Bytes::from_static(name);
        let [one, two, three] =
            [b"\x01a", b"\x01b", b"\x01c"].map(|bytes| outlet.seat(name(bytes), Right::Write));
        one.close(Close::DELETED);
        let told = inbox.next().await.expect("a frame").into_frame();
        assert_eq!(told[..3], *b"\x01a\x07");
        two.part();
        assert_eq!(inbox.ready(), None);
        assert!(three.post(&X));
        assert_eq!(inbox.next().await.map(Posted::into_frame), Ok(Bytes::from_static(b"\x01cx")));
        three.close(Close::NOT_KEPT);
        assert_eq!(inbox.next().await, Err(Close::NOT_KEPT));
    }
}
