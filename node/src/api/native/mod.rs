//! The native protocol, `GET /v1/session`: a WebSocket that carries frames of MessagePack, many requests in flight.
//!
//! [`open`] is the handshake; [`connection`] reads frames and starts requests, [`verbs`] does them through the same
//! [`super::calls`] as HTTP, [`inbox`] knows when the socket need not be asked, [`outbox`] gathers what is ready into few
//! writes, and by [`turns`] all connections that are ready read before the first is answered. Every queue is bounded: a
//! client that sends faster than it is served is read more slowly, and one that takes nothing is cut off.

mod connection;
mod inbox;
mod open;
mod outbox;
mod slots;
mod transactions;
mod turns;
mod verbs;
mod watches;

use std::time::Duration;

pub use open::open;

/// Bytes of an answer. A larger one is `too_large`: ask for smaller pages.
pub const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Bounds of one connection of the native protocol.
#[derive(Clone, Copy, Debug)]
pub struct SessionBounds {
    /// Bytes of a request's frame.
    pub frame_bytes_max: usize,
    /// Requests of one connection worked on at once; at the bound no further frame is read.
    pub in_flight_max: usize,
    /// How often a client that is silent is asked whether it is still there.
    pub ping_interval: Duration,
    /// How long a client may take to say hello.
    pub hello_timeout: Duration,
    /// How long requests may finish after the stop.
    pub drain_timeout: Duration,
    /// How long a transaction may stay open.
    pub txn_life: Duration,
    /// How long a watch waits for its client to take an event.
    pub watch_slow_after: Duration,
}
