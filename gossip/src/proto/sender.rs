//! What one link sends: the txns that the peer lacks, in the order of the oplog, within the peer's credit.
//!
//! Own txns go at once; those of other origins when [`super::relay`] or the peer asks for them. The peer's `Hello` is
//! where sending starts, its acknowledgements are where it stands, and a `Want` takes it back. The sender holds no
//! txns: it knows positions and counts bytes. It must not know sockets or the gate.

use std::collections::BTreeMap;

use bytes::Bytes;
use meridian_crdt::{Dot, Origin, TxnHead, Vector};

use super::message::{Message, PAYLOAD_BYTES_MAX, TXN_FRAMING_BYTES};
use super::relay::Relay;
use super::seam::OplogChunk;

/// One read of the oplog to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub from: u64,
    pub lacking: Vector,
    pub want: Vector,
    pub bytes_max: u64,
}

/// What a sender has to know of its own DC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ours<'a> {
    pub own: Origin,
    pub applied: &'a Vector,
    pub floor: &'a Vector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Own,
    Relay,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    ticket: u64,
    stream: Stream,
}

/// The sending half of a live link.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    acked: Vector,
    /// For each origin the highest seq sent on this connection, where that is above `acked`.
    sent: Vector,
    in_flight: BTreeMap<Dot, u64>,
    in_flight_bytes: u64,
    credit_bytes: u64,
    /// What may be sent beyond the credit, because the peer asked for it.
    reserve_bytes: u64,
    /// Up to where other origins are to be sent.
    requested: Vector,
    own_from: u64,
    relay_from: u64,
    reading: Option<Reading>,
    paused_until_ms: u64,
    pub relay: Relay,
    pub behind_oplog: bool,
}

/// What came of a read.
#[derive(Debug, Default)]
pub(super) struct Sent {
    pub messages: Vec<Message>,
    pub txns: u64,
    pub bytes: u64,
}

impl Sender {
    /// A sender to a peer whose `Hello` said `acked` and `credit_bytes`.
    pub fn new(acked: Vector, credit_bytes: u64, relay: Relay) -> Self {
        Self {
            acked,
            sent: Vector::new(),
            in_flight: BTreeMap::new(),
            in_flight_bytes: 0,
            credit_bytes,
            reserve_bytes: 0,
            requested: Vector::new(),
            own_from: 0,
            relay_from: 0,
            reading: None,
            paused_until_ms: 0,
            relay,
            behind_oplog: false,
        }
    }

    pub fn acked(&self) -> &Vector {
        &self.acked
    }

    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    /// The highest seq of `origin` that the peer has or is being sent.
    pub fn base(&self, origin: Origin) -> u64 {
        self.acked.get(origin).max(self.sent.get(origin))
    }

    /// The peer has applied `vector`.
    pub fn ack(&mut self, vector: &Vector, now_ms: u64) {
        for dot in vector.above(&self.acked).iter() {
            let done: Vec<Dot> =
                self.in_flight.range(Dot::new(dot.origin, 0)..=dot).map(|(dot, _)| *dot).collect();
            for done in done {
                self.in_flight_bytes -= self.in_flight.remove(&done).unwrap_or(0);
            }
            let elsewhere = dot.seq > self.sent.get(dot.origin);
            self.acked.advance(dot);
            self.relay.progress(dot, elsewhere, now_ms);
        }
    }

    /// The peer misses what is above `have`, up to `upto`: sends that again, with a reserve beyond the credit.
    pub fn want(&mut self, have: &Vector, upto: &Vector, own: Origin, reserve_bytes: u64) {
        for dot in upto.iter() {
            let from = have.get(dot.origin);
            self.sent.set(dot.origin, self.sent.get(dot.origin).min(from));
            let again: Vec<Dot> = self
                .in_flight
                .range(Dot::new(dot.origin, from.saturating_add(1))..=Dot::new(dot.origin, u64::MAX))
                .map(|(dot, _)| *dot)
                .collect();
            for dot in again {
                self.in_flight_bytes -= self.in_flight.remove(&dot).unwrap_or(0);
            }
            if dot.origin != own {
                self.requested.advance(dot);
            }
        }
        self.reserve_bytes = reserve_bytes;
        self.own_from = 0;
        self.relay_from = 0;
        self.reading = None;
    }

    /// Sends `origin` up to `upto.seq`, because the peer has not got it elsewhere in time.
    pub fn request(&mut self, upto: Dot) {
        if !self.requested.covers(upto) {
            self.requested.advance(upto);
            self.relay_from = 0;
        }
    }

    /// The next read, if there is something to send and room for it.
    pub fn next_read(&mut self, ours: Ours<'_>, ticket: u64, bytes_max: u64, now_ms: u64) -> Option<Read> {
        if self.reading.is_some() || now_ms < self.paused_until_ms {
            return None;
        }
        let mut room = self.credit_bytes.saturating_sub(self.in_flight_bytes).max(self.reserve_bytes);
        if self.in_flight.is_empty() {
            // A txn larger than the whole credit must still pass.
            room = room.max(1);
        }
        if room == 0 {
            return None;
        }
        self.behind_oplog = false;
        let mut relayed = Vector::new();
        for dot in self.requested.clone().iter().filter(|d| d.origin != ours.own) {
            self.add_wanted(&mut relayed, dot.origin, dot.seq, ours);
        }
        let (stream, from, want) = if relayed.is_empty() {
            let mut want = Vector::new();
            self.add_wanted(&mut want, ours.own, u64::MAX, ours);
            (Stream::Own, self.own_from, want)
        } else {
            (Stream::Relay, self.relay_from, relayed)
        };
        if want.is_empty() {
            return None;
        }
        let mut lacking = Vector::new();
        for dot in want.iter() {
            lacking.set(dot.origin, self.base(dot.origin));
        }
        self.reading = Some(Reading { ticket, stream });
        Some(Read { from, lacking, want, bytes_max: room.min(bytes_max) })
    }

    fn add_wanted(&mut self, want: &mut Vector, origin: Origin, upto: u64, ours: Ours<'_>) {
        let upto = upto.min(ours.applied.get(origin));
        let base = self.base(origin);
        if upto <= base {
            return;
        }
        if ours.floor.get(origin) > base {
            self.behind_oplog = true;
            return;
        }
        want.set(origin, upto);
    }

    /// Turns the answer to the read `ticket` into messages. A stale answer is ignored: the peer asked for something
    /// else since.
    pub fn read(&mut self, ticket: u64, chunk: OplogChunk, oplog_end: u64, pause_until_ms: u64) -> Sent {
        let mut sent = Sent::default();
        let Some(reading) = self.reading.filter(|r| r.ticket == ticket) else { return sent };
        self.reading = None;
        let mut from = chunk.next;
        let mut broken = chunk.entries.is_empty() && chunk.next > oplog_end;
        let mut packer = Packer::default();
        for (position, bytes) in chunk.entries {
            let Ok(head) = TxnHead::decode(&bytes) else {
                broken = true;
                break;
            };
            let base = self.base(head.dot.origin);
            from = position + 1;
            if head.dot.seq <= base {
                continue;
            }
            if head.dot.seq != base + 1 {
                broken = true;
                break;
            }
            let size = bytes.len() as u64;
            if self.in_flight_bytes + size > self.credit_bytes {
                self.reserve_bytes = self.reserve_bytes.saturating_sub(size);
            }
            self.sent.set(head.dot.origin, head.dot.seq);
            self.in_flight.insert(head.dot, size);
            self.in_flight_bytes += size;
            sent.txns += 1;
            sent.bytes += size;
            packer.push(bytes);
        }
        if broken {
            // The oplog does not hold what it should, or not yet: look again from the start, a little later.
            from = 0;
            self.paused_until_ms = pause_until_ms;
        }
        match reading.stream {
            Stream::Own => self.own_from = from,
            Stream::Relay => self.relay_from = from,
        }
        sent.messages = packer.finish();
        sent
    }

    /// The read `ticket` failed; it is repeated later.
    pub fn read_failed(&mut self, ticket: u64, pause_until_ms: u64) {
        if self.reading.is_some_and(|r| r.ticket == ticket) {
            self.reading = None;
            self.paused_until_ms = pause_until_ms;
        }
    }

    /// Asserts what must hold between any two events.
    pub fn validate(&self, applied: &Vector) {
        assert_eq!(self.in_flight_bytes, self.in_flight.values().sum::<u64>(), "bytes in flight are counted");
        assert!(applied.covers_all(&self.sent), "I1: nothing is sent that is not applied");
        for dot in self.in_flight.keys() {
            assert!(!self.acked.covers(*dot), "what is acknowledged is not in flight");
            assert!(dot.seq <= self.sent.get(dot.origin), "what is in flight was sent");
        }
    }
}

/// Packs txns into messages: many small ones into one, a large one into parts.
#[derive(Debug, Default)]
struct Packer {
    messages: Vec<Message>,
    batch: Vec<Bytes>,
    batch_bytes: usize,
}

impl Packer {
    fn push(&mut self, txn: Bytes) {
        let size = txn.len() + TXN_FRAMING_BYTES;
        if self.batch_bytes + size > PAYLOAD_BYTES_MAX {
            self.flush();
        }
        if size <= PAYLOAD_BYTES_MAX {
            self.batch_bytes += size;
            self.batch.push(txn);
            return;
        }
        let total = txn.len() as u64;
        for start in (0..txn.len()).step_by(PAYLOAD_BYTES_MAX) {
            let data = txn.slice(start..txn.len().min(start + PAYLOAD_BYTES_MAX));
            self.messages.push(Message::Part { total, data });
        }
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            self.messages.push(Message::Txns(std::mem::take(&mut self.batch)));
            self.batch_bytes = 0;
        }
    }

    fn finish(mut self) -> Vec<Message> {
        self.flush();
        self.messages
    }
}
