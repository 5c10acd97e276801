//! Deterministic simulation of whole clusters, level `dc`: datacenters are replicated logs that elect, lose leaders
//! and forget exactly what Raft allows; everything else is the production code of the types, of apply, of replication,
//! of sessions, of interactive transactions and of watches. One thread, one virtual clock, one virtual network; equal
//! seeds give equal histories.
//!
//! ```text
//! options.rs  the shape of a run, drawn from its seed      run.rs     chaos, healing, what must hold at the end
//! world.rs    the way of entries through the logs          faults.rs  what goes wrong
//! dc.rs       one log and what its nodes applied           node.rs    one node: rows, checkpoint, clocks
//! server.rs   what nodes do with requests                  clients.rs sessions that move, retry and check
//! facts.rs    what was written and who must see it         draw.rs    mutations of every type
//! record.rs   the history, for the checkers                open.rs    what nodes do with interactive transactions
//! interactive.rs  sessions that run transactions           snapshot.rs  what an open one must be shown
//! serial.rs   what transactions promise to each other      watching.rs  watchers that move, and are told of gaps
//! levels.rs   who holds a write
//! ```

mod clients;
mod clock;
mod compaction;
mod dc;
mod draw;
mod facts;
mod faults;
mod interactive;
mod knowledge;
mod levels;
mod node;
mod open;
mod options;
mod record;
mod request;
mod run;
mod serial;
mod server;
mod snapshot;
mod watching;
mod world;

use meridian_sim::quietly;

pub use options::Options;
pub use run::{Run, Summary};

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Nothing was violated.
    Clean(Summary),
    /// What was violated, and the hash of the trace up to there.
    Violation {
        /// What.
        what: String,
        /// The hash.
        hash: u64,
    },
}

/// Runs a seed to its end. The trace is there whether it ends well or not.
pub fn run_seed(seed: u64, traced: bool) -> (Verdict, Run) {
    let mut run = Run::new(seed, traced);
    let verdict = match quietly(|| Ok(run.finish())) {
        Ok(summary) => Verdict::Clean(summary),
        Err(what) => Verdict::Violation { what, hash: run.trace().hash() },
    };
    (verdict, run)
}
