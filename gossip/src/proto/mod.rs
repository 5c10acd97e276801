//! The pure protocol machine.

pub mod event;
pub mod hlc;
pub mod message;
pub mod seam;
pub mod status;

use crate::config::{GossipConfig, Identity};
use event::{Event, Now, Output};
use status::GossipStatus;

/// The machine.
#[derive(Debug)]
pub struct Machine {}

impl Machine {
    /// A machine that has seen nothing.
    pub fn new(_identity: Identity, _config: GossipConfig, _jitter_seed: u64) -> Self {
        Self {}
    }
    /// Takes an event.
    pub fn handle(&mut self, _event: Event, _now: Now) {}
    /// The next output.
    pub fn poll_output(&mut self) -> Option<Output> {
        None
    }
    /// When a tick is due.
    pub fn deadline_ms(&self) -> Option<u64> {
        None
    }
    /// Whether this node leads.
    pub fn is_leading(&self) -> bool {
        false
    }
    /// For an operator.
    pub fn status(&self, _now: Now) -> GossipStatus {
        GossipStatus::default()
    }
}
