//! The document of a room: *live* while it is edited, and *at rest*, as bytes alone, when that was some time ago.
//!
//! A live document takes several times the memory of its bytes. Who only looks on needs none: whoever comes with nothing is
//! given the bytes as they are, and what has come in since behind them. Anything that has to look into the document wakes it.

use bytes::Bytes;
use meridian_crdt::{Document, Snapshot, UpdateError, YrsDocument};

use super::wire::{self, FROM_NOTHING};
use crate::count::{Count, Counted};

/// How long nobody must have asked anything of a live document before it is laid to rest.
pub const REST_AFTER_MS: u64 = 30_000;
/// Updates that come in at rest before the document is woken to take them in.
const TAIL_MAX: usize = 256;
/// Bytes of these.
const TAIL_BYTES_MAX: usize = 1 << 20;

/// The document of a room.
#[derive(Debug)]
pub struct Sheet {
    count: Count,
    /// The document, unless it is at rest.
    live: Option<Box<Live>>,
    /// What is there instead.
    rest: Option<Rest>,
    /// The answer to an editor who has nothing. Once it is made, `tail` is what goes behind it.
    whole: Option<Bytes>,
    /// The updates that have come in since the document was laid to rest.
    tail: Vec<Bytes>,
    used_ms: u64,
}

/// What a document is made from again.
#[derive(Debug)]
struct Rest {
    snapshot: Snapshot,
    state_vector: Vec<u8>,
}

/// A document in memory, which is counted as long as it is there.
#[derive(Debug)]
struct Live {
    document: YrsDocument,
    _counted: Counted,
}

impl Live {
    fn new(count: &Count) -> Box<Self> {
        Box::new(Self { document: YrsDocument::default(), _counted: count.enter().0 })
    }
}

impl Sheet {
    /// An empty one, live. In `count` it counts itself whenever it is live.
    pub fn new(count: Count, now_ms: u64) -> Self {
        let live = Some(Live::new(&count));
        Self { count, live, rest: None, whole: None, tail: Vec::new(), used_ms: now_ms }
    }

    /// Whether there is a document in memory, and not its bytes alone.
    pub fn is_live(&self) -> bool {
        self.live.is_some()
    }

    /// The document, to look into. It is woken if it is at rest.
    pub fn live(&mut self, now_ms: u64) -> Result<&mut YrsDocument, UpdateError> {
        self.used_ms = now_ms;
        let live = match self.live.take() {
            Some(live) => live,
            None => self.wake()?,
        };
        Ok(&mut self.live.insert(live).document)
    }

    fn wake(&mut self) -> Result<Box<Live>, UpdateError> {
        let mut live = Live::new(&self.count);
        if let Some(rest) = &self.rest {
            live.document.load(&rest.snapshot)?;
        }
        self.tail.iter().try_for_each(|update| put(&mut live.document, update))?;
        self.rest = None;
        if !std::mem::take(&mut self.tail).is_empty() {
            self.whole = None;
        }
        Ok(live)
    }

    /// Puts in a snapshot.
    pub fn load(&mut self, snapshot: &Snapshot, now_ms: u64) -> Result<(), UpdateError> {
        self.whole = None;
        self.live(now_ms)?.load(snapshot)
    }

    /// Puts in an update that counts. At rest what is wrong with it shows when the document is woken.
    pub fn integrate(&mut self, update: &Bytes, now_ms: u64) -> Result<(), UpdateError> {
        let tail_bytes = || self.tail.iter().map(Bytes::len).sum::<usize>() + update.len();
        if !self.is_live() && self.tail.len() < TAIL_MAX && tail_bytes() <= TAIL_BYTES_MAX {
            self.tail.push(update.clone());
            return Ok(());
        }
        self.whole = None;
        put(self.live(now_ms)?, update)
    }

    /// What is here, as a state vector; at rest it may be less.
    pub fn state_vector(&self) -> Vec<u8> {
        match (&self.live, &self.rest) {
            (Some(live), _) => live.document.state_vector(),
            (None, Some(rest)) => rest.state_vector.clone(),
            (None, None) => FROM_NOTHING.to_vec(),
        }
    }

    /// The frames for an editor that has what `state_vector` says. Many who have nothing share them.
    pub fn lacking(&mut self, state_vector: &[u8], now_ms: u64) -> Result<Vec<Bytes>, UpdateError> {
        if state_vector != FROM_NOTHING {
            return Ok(vec![wire::step_2(&self.live(now_ms)?.diff(state_vector)?)]);
        }
        let whole = match &self.whole {
            Some(whole) => whole.clone(),
            None => self.make_whole(now_ms)?,
        };
        let behind = self.tail.iter().map(|update| wire::update(update));
        Ok(std::iter::once(whole).chain(behind).collect())
    }

    fn make_whole(&mut self, now_ms: u64) -> Result<Bytes, UpdateError> {
        let whole = wire::step_2(&self.live(now_ms)?.diff(FROM_NOTHING)?);
        self.whole = Some(whole.clone());
        Ok(whole)
    }

    /// Lays the document to rest if nobody has asked anything of it for [`REST_AFTER_MS`].
    pub fn tire(&mut self, now_ms: u64) -> Result<(), UpdateError> {
        let is_idle = now_ms.saturating_sub(self.used_ms) >= REST_AFTER_MS;
        let Some(live) = self.live.as_ref().filter(|_| is_idle) else { return Ok(()) };
        let rest = Rest { snapshot: live.document.snapshot()?, state_vector: live.document.state_vector() };
        if self.whole.is_none() {
            self.make_whole(now_ms)?;
        }
        (self.rest, self.live) = (Some(rest), None);
        Ok(())
    }
}

/// Puts an update in. One that cannot be read counts all the same: another version of this program has taken it in, and
/// whoever can read it does.
fn put(document: &mut YrsDocument, update: &[u8]) -> Result<(), UpdateError> {
    match document.integrate(update) {
        Err(UpdateError::TooDeep) => Err(UpdateError::TooDeep),
        Err(error) => {
            document.is_sound()?;
            tracing::warn!(%error, "an update of a document cannot be read by this version");
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client made who typed `a`, then `b` and then `c` into the root `t`, one after the other.
    fn typed() -> [Bytes; 3] {
        let typed = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        [
            typed(&[1, 1, 5, 0, 4, 1, 1, b't', 1, b'a', 0]),
            typed(&[1, 1, 5, 1, 0x84, 5, 0, 1, b'b', 0]),
            typed(&[1, 1, 5, 2, 0x84, 5, 1, 1, b'c', 0]),
        ]
    }

    fn sheet() -> (Sheet, Count) {
        let count = Count::default();
        (Sheet::new(count.clone(), 0), count)
    }

    /// What an editor has who was given these frames.
    fn text(frames: &[Bytes]) -> String {
        let mut document = YrsDocument::default();
        for frame in frames {
            match wire::Message::decode(frame).expect("a frame") {
                wire::Message::Step2(update) | wire::Message::Update(update) => {
                    document.integrate(&update).expect("an update");
                }
                other => panic!("{other:?}"),
            }
        }
        document.text("t")
    }

    #[test]
    fn who_has_nothing_gets_everything_whether_it_is_live_or_not() {
        let ([a, b, c], (mut sheet, live)) = (typed(), sheet());
        let all = |sheet: &mut Sheet| text(&sheet.lacking(FROM_NOTHING, REST_AFTER_MS).expect("frames"));
        sheet.integrate(&a, 0).expect("taken");
        assert_eq!(all(&mut sheet), "a");
        sheet.tire(2 * REST_AFTER_MS - 1).expect("sound");
        assert!(sheet.is_live(), "somebody has looked into it");
        sheet.tire(2 * REST_AFTER_MS).expect("sound");
        assert_eq!((sheet.is_live(), live.now()), (false, 0));
        assert_eq!(all(&mut sheet), "a");
        sheet.integrate(&b, 0).expect("taken");
        assert_eq!((all(&mut sheet), sheet.is_live()), ("ab".to_owned(), false));
        // Who has something is answered by a live document.
        let have_a = [1, 5, 1];
        assert_eq!(sheet.lacking(&have_a, 0).expect("frames"), [wire::step_2(&b)]);
        assert_eq!((sheet.is_live(), live.now()), (true, 1));
        sheet.integrate(&c, 0).expect("taken");
        assert_eq!(all(&mut sheet), "abc");
        drop(sheet);
        assert_eq!(live.now(), 0);
    }

    #[test]
    fn what_waits_for_something_is_neither_lost_at_rest_nor_by_waking() {
        let ([a, b, c], (mut sheet, _)) = (typed(), sheet());
        sheet.integrate(&c, 0).expect("taken");
        sheet.tire(REST_AFTER_MS).expect("sound");
        sheet.integrate(&b, 0).expect("taken");
        assert_eq!(text(&sheet.lacking(FROM_NOTHING, 0).expect("frames")), "");
        sheet.integrate(&a, 0).expect("taken");
        assert_eq!(text(&sheet.lacking(FROM_NOTHING, 0).expect("frames")), "abc");
        assert!(!sheet.is_live());
        assert_eq!(sheet.live(0).expect("sound").text("t"), "abc");
        assert_eq!(text(&sheet.lacking(FROM_NOTHING, 0).expect("frames")), "abc");
    }

    #[test]
    fn much_from_elsewhere_wakes_it() {
        let ([a, ..], (mut sheet, _)) = (typed(), sheet());
        // As an update with one long text.
        let long = |bytes: usize| {
            let mut update = vec![1, 1, 6, 0, 4, 1, 1, b't'];
            let mut text = meridian_crdt::codec::Writer::new();
            text.bytes(&vec![b'x'; bytes]);
            update.extend(text.finish());
            update.push(0);
            Bytes::from(update)
        };
        sheet.tire(REST_AFTER_MS).expect("sound");
        sheet.integrate(&long(TAIL_BYTES_MAX - 100), 0).expect("taken");
        assert!(!sheet.is_live());
        (0..10).for_each(|_| sheet.integrate(&a, 0).expect("taken"));
        assert!(sheet.is_live(), "newcomers are given all of it at once");
        assert_eq!(sheet.lacking(FROM_NOTHING, 0).expect("frames").len(), 1);
    }

    #[test]
    fn many_edits_from_elsewhere_wake_it() {
        let ([a, ..], (mut sheet, _)) = (typed(), sheet());
        sheet.tire(REST_AFTER_MS).expect("sound");
        for _ in 0..TAIL_MAX {
            sheet.integrate(&a, 0).expect("taken");
        }
        assert!(!sheet.is_live());
        sheet.integrate(&a, 0).expect("taken");
        assert!(sheet.is_live());
        assert_eq!(sheet.lacking(FROM_NOTHING, 0).expect("frames").len(), 1);
    }
}
