//! The command line.

pub mod http;
