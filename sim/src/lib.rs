//! Whole nodes in a deterministic simulation: one seed, one history.
//!
//! A run builds a cluster of one to three DCs out of the very nodes that production runs (Raft, replication, HTTP,
//! storage), over a simulated network, disk and clock, in one thread and in virtual time. Clients load it, faults drawn
//! from the seed break it, and at the end everything is healed, must become equal within a bound, and must hold what
//! was acknowledged. What they asked and were told is recorded as a history, which the checkers of [`meridian_history`]
//! judge. [`run`] is all of the interface; [`quietly`] serves other simulations as well.
//!
//! The network is turmoil's: it reorders and delays the segments of a connection and can lose them, and since it does
//! not retransmit, a loss ends the connection. What it cannot do is duplicate.

mod documents;
mod driver;
mod editors;
mod eraser;
mod faults;
mod http;
mod inspector;
mod judge;
mod ledger;
mod machines;
mod options;
mod quiet;
mod record;
mod report;
mod seams;
mod slate;
mod trace;
mod workload;

pub use driver::run;
pub use ledger::Counts;
pub use options::Options;
pub use quiet::quietly;
pub use report::Report;
