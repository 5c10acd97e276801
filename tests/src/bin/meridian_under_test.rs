//! The program that the tests of this package start: `meridian` itself, built as a part of this package, since a test
//! run does not build the programs of other packages.

use std::process::ExitCode;

/// The allocator of the program `meridian`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    meridian::cli::main(std::env::args_os())
}
