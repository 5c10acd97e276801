//! A whole geo-cluster on this machine: plain `serve` processes, and the wide area network between them.
//!
//! It exists so that anyone can watch failover, cuts and convergence within a minute, and so that tests drive real
//! processes the same way. The nodes do not know that they are in it.

mod children;
mod cluster;
pub mod control;
pub mod description;
mod layout;
pub mod run;
mod setup;
pub mod wan;

pub use cluster::{Cluster, ClusterOptions, DevError};
pub use layout::{Shape, dc_name};
