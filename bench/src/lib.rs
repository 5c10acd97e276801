//! What the programs of the benchmark suite share: the inner parts, one by one, and what they and the servers are asked.

pub mod instructions;
pub mod op;

use std::io::Write;

/// The allocator of the program `meridian`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Tells whoever watches; the results go to files.
pub fn say(text: &str) {
    // Nothing can be done if nobody listens.
    drop(writeln!(std::io::stderr(), "{text}"));
}
