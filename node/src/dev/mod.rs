//! A whole geo-cluster on this machine: plain `serve` processes, and the wide area network between them.

pub mod wan;
