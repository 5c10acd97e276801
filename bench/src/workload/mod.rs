//! The workloads. Those of [`compared`] run one after the other on one running system; each of the others makes its own.

pub mod compared;

use std::path::Path;

use crate::args::Suite;
use crate::driver::Kind;
use crate::record::Record;

/// What every workload is given.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// The options.
    pub suite: &'a Suite,
    /// The round, from 1.
    pub round: u32,
    /// Where files may be.
    pub folder: &'a Path,
}

/// Runs everything that is asked for of one system in one round, and gives each result to `keep` at once.
pub async fn run_all(
    run: Run<'_>,
    kind: Kind,
    keep: &mut dyn FnMut(Record) -> Result<(), String>,
) -> Result<(), String> {
    compared::run(run, kind, keep).await
}
