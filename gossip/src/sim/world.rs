//! The seam between the simulated network with its protocol machines and the datacenters behind them.

use std::fmt::Debug;
use std::sync::Arc;

use meridian_crdt::{Dot, Vector};

use super::rng::Rng;
use super::trace::Trace;
use crate::proto::event::Event;
use crate::proto::message::Message;
use crate::proto::seam::{OplogChunk, Remote, View};

/// A node: the number of its datacenter, from 0, and its id there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// The number of the datacenter.
    pub dc: usize,
    /// The id of the node within it.
    pub node: u64,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.dc, self.node)
    }
}

/// Everything behind the protocol machines: logs, state, leaders, clients, and what goes wrong with them.
///
/// The simulation calls it, and it answers at once or through [`Env`]. It draws randomness from [`Env::rng`] alone.
pub trait World {
    /// Something of its own that happens later.
    type Event: Clone + Debug;

    /// What [`Output::ReadOplog`](crate::proto::event::Output::ReadOplog) finds.
    fn read_oplog(
        &mut self,
        at: At,
        from: u64,
        lacking: &Vector,
        want: &Vector,
        bytes_max: u64,
    ) -> Result<OplogChunk, String>;

    /// Puts `remote` on its way into the log; answered by giving [`Event::Proposed`].
    fn propose(&mut self, at: At, ticket: u64, remote: Remote, env: &mut Env<'_, Self::Event>);

    /// A machine has seen own txns at a peer that its datacenter lacks.
    fn lost_tail(&mut self, at: At, lost: Dot, env: &mut Env<'_, Self::Event>);

    /// A machine calls for a human.
    fn alarm(&mut self, at: At, about: &str, what: &str, env: &mut Env<'_, Self::Event>);

    /// A machine sends a message: what it may not say is caught here.
    fn sends(&mut self, at: At, message: &Message);

    /// What a node takes for the wall clock, in milliseconds since 1970.
    fn unix_ms(&self, at: At, now_ms: u64) -> u64;

    /// Something of its own happens.
    fn handle(&mut self, event: Self::Event, env: &mut Env<'_, Self::Event>);
}

/// What the world asks of the simulation while it is called.
#[derive(Debug)]
pub(super) enum Action<E> {
    After { delay_ms: u64, event: E },
    Give { at: At, event: Event },
    Start { at: At },
    Stop { at: At, silently: bool },
    Cut { from: usize, to: usize, lasting_ms: u64 },
    ResetAny,
}

/// The time, the randomness and the requests of one call.
pub struct Env<'a, E> {
    /// Virtual milliseconds since the start.
    pub now_ms: u64,
    /// The run's randomness.
    pub rng: &'a mut Rng,
    pub(super) trace: &'a mut Trace,
    pub(super) actions: Vec<Action<E>>,
}

impl<E> Env<'_, E> {
    /// Lets an event of the world happen later.
    pub fn after(&mut self, delay_ms: u64, event: E) {
        self.actions.push(Action::After { delay_ms, event });
    }

    /// Gives a node's machine an event now, if the node is up.
    pub fn give(&mut self, at: At, event: Event) {
        self.actions.push(Action::Give { at, event });
    }

    /// Shows a node's machine its datacenter, if the node is up.
    pub fn show(&mut self, at: At, view: View) {
        self.give(at, Event::View(Arc::new(view)));
    }

    /// Starts a node again, with a new machine.
    pub fn start(&mut self, at: At) {
        self.actions.push(Action::Start { at });
    }

    /// Stops a node; its peers learn of it from their connections, or not at all if it dies `silently`.
    pub fn stop(&mut self, at: At, silently: bool) {
        self.actions.push(Action::Stop { at, silently });
    }

    /// Holds back bytes from one datacenter to another for a while.
    pub fn cut(&mut self, from: usize, to: usize, lasting_ms: u64) {
        self.actions.push(Action::Cut { from, to, lasting_ms });
    }

    /// Resets one of the open connections.
    pub fn reset_any(&mut self) {
        self.actions.push(Action::ResetAny);
    }

    /// Adds a line to the trace.
    pub fn note(&mut self, what: &str) {
        self.trace.add(format!("{} {what}", self.now_ms));
    }
}
