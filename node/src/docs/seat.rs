//! The way from rooms to one connection: a bounded queue that nobody ever waits for.
//!
//! A connection of `y-websocket` has one document and one seat; one of Hocuspocus has a seat for each of its documents,
//! and they share the queue. A frame is never left out: the protocols have no way to notice. An editor who takes frames more
//! slowly than they come is closed once [`FRAMES_MAX`] or [`BYTES_MAX`] of them wait; it comes back and gets what it lacks.
//!
//! One frame larger than that, which is a document as a whole, may wait beside the others: else nobody could open a large
//! document while it is edited.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{mpsc, watch};

use super::close::Close;
use super::place::Place;
use super::wire;
use crate::access::Right;

/// Frames that wait for one connection: more than one txn can bring updates.
pub const FRAMES_MAX: usize = 16 << 10;
/// Bytes that wait for one connection, beside one frame that is larger.
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
    /// How many bytes the frame has.
    pub fn size(&self) -> usize {
        self.name.len() + self.message.len()
    }

    /// The bytes of the frame.
    pub fn into_frame(self) -> Bytes {
        if self.name.is_empty() { self.message } else { [self.name, self.message].concat().into() }
    }

    /// The bytes of the frame, in pieces of at most `piece_bytes`, so that what many share is not copied as a whole for each
    /// of them. The name stands alone.
    pub fn into_pieces(self, piece_bytes: usize) -> Vec<Bytes> {
        let Self { name, message } = self;
        let name = Some(name).filter(|name| !name.is_empty());
        let ends = (0..message.len()).step_by(piece_bytes);
        let piece = |at: usize| message.slice(at..message.len().min(at + piece_bytes));
        name.into_iter().chain(ends.map(piece)).collect()
    }
}

/// The connection's end that gives out seats.
#[derive(Clone, Debug)]
pub struct Outlet {
    frames: mpsc::Sender<Posted>,
    waiting: Arc<Waiting>,
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
    /// The place in a room that goes with it, once it has one.
    place: Option<Arc<Place>>,
}

/// The connection's end that takes frames.
#[derive(Debug)]
pub struct Inbox {
    frames: mpsc::Receiver<Posted>,
    waiting: Arc<Waiting>,
    close: watch::Receiver<Option<Close>>,
}

/// What waits in a queue.
#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    /// Whether a frame above [`BYTES_MAX`] is among it, which is not counted otherwise.
    has_large: AtomicBool,
}

impl Waiting {
    /// Counts a frame; `false` if there is no room for it.
    fn add(&self, len: usize) -> bool {
        if len > BYTES_MAX {
            return !self.has_large.swap(true, Ordering::AcqRel);
        }
        let fits = self.bytes.fetch_add(len, Ordering::AcqRel) + len <= BYTES_MAX;
        if !fits {
            self.take(len);
        }
        fits
    }

    /// Counts one no longer.
    fn take(&self, len: usize) {
        if len > BYTES_MAX {
            self.has_large.store(false, Ordering::Release);
        } else {
            self.bytes.fetch_sub(len, Ordering::AcqRel);
        }
    }
}

/// A queue and its two ends.
pub fn outlet() -> (Outlet, Inbox) {
    let (sender, frames) = mpsc::channel(FRAMES_MAX);
    let (close, closed) = watch::channel(None);
    let waiting = Arc::<Waiting>::default();
    (Outlet { frames: sender, waiting: waiting.clone(), close }, Inbox { frames, waiting, close: closed })
}

impl Outlet {
    /// A seat in a room. `name` is what stands before each message: nothing for `y-websocket`.
    pub fn seat(&self, name: Bytes, right: Right) -> Seat {
        Seat { outlet: self.clone(), name, right, parted: false, place: None }
    }

    /// Queues a frame; `false` if there is no room for it, or nobody takes frames any more.
    pub fn post(&self, posted: Posted) -> bool {
        let len = posted.size();
        if !self.waiting.add(len) {
            return false;
        }
        let is_posted = self.frames.try_send(posted).is_ok();
        if !is_posted {
            self.waiting.take(len);
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

    /// Takes a place with it.
    pub fn take(&mut self, place: Arc<Place>) {
        self.place = Some(place);
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
        // Before the editor hears of it, who may ask for a place again then.
        self.give_up();
        let alone = self.is_hocuspocus() && close.is_permanent();
        if !(alone && self.post(&wire::leave(close.reason))) {
            self.outlet.end(close);
        }
    }

    fn give_up(&mut self) {
        if let Some(place) = self.place.take() {
            place.give_up();
        }
    }
}

impl Drop for Seat {
    /// A room that ended without a word has met a fault.
    fn drop(&mut self) {
        self.give_up();
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
        self.waiting.take(posted.size());
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
        let [large, half] = [BYTES_MAX + 1, BYTES_MAX / 2].map(|len| Bytes::from(vec![1; len]));
        let places = [&X, &large, &half, &large, &half];
        assert_eq!(places.map(|frame| seat.post(frame)), [true, true, true, false, false]);
        for frame in &places[..3] {
            assert_eq!(inbox.next().await.expect("a frame").message.len(), frame.len());
        }
        assert!(seat.post(&large));
        assert_eq!(inbox.ready().map(|posted| posted.message.len()), Some(large.len()));
        for n in 0..FRAMES_MAX {
            assert!(seat.post(&Bytes::from(vec![0; n % 3])), "{n}");
        }
        assert!(!seat.post(&X));
        assert_eq!(inbox.ready().map(Posted::into_frame), Some(Bytes::new()));
        assert_eq!(inbox.next().await.map(Posted::into_frame), Ok(Bytes::from(vec![0])));
    }

    #[test]
    fn a_large_frame_is_in_pieces_that_share_its_bytes() {
        let message = Bytes::from((0..10).collect::<Vec<u8>>());
        let posted = |name| Posted { name: Bytes::from_static(name), message: message.clone() };
        let pieces = |name, piece_bytes| posted(name).into_pieces(piece_bytes);
        let shared = |piece: &Bytes, at: usize| piece.as_ptr() == message[at..].as_ptr();
        assert_eq!(pieces(b"", 10).concat(), message);
        assert_eq!(posted(b"n").into_frame(), [&b"n"[..], &message].concat());
        let named = pieces(b"n", 4);
        assert_eq!(named, [&b"n"[..], &message[..4], &message[4..8], &message[8..]]);
        assert!(shared(&named[1], 0) && shared(&named[3], 8));
        assert_eq!(pieces(b"", 5), [&message[..5], &message[5..]]);
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
