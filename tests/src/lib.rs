//! What the tests of whole clusters share: clients, workloads, checkers and clusters of real processes.
//!
//! The tests themselves stand in `tests/`, one file per subject; each starts the program under test as a user would.
//! This library knows a node only from outside, through its client port and its process, but for [`sim`], which runs
//! the production code of whole clusters in one thread. Nothing in it sleeps to let
//! something happen: it waits for conditions, within limits.

pub mod acknowledged;
pub mod client;
pub mod editors;
pub mod faults;
pub mod fleet;
pub mod loads;
pub mod moves;
pub mod namespaces;
pub mod native;
pub mod npm;
pub mod parsers;
pub mod program;
pub mod raw;
pub mod sdk;
pub mod sim;
pub mod sse;
pub mod stepped;
pub mod wait;
pub mod workload;

pub use meridian_history::{self as history, checkers};
