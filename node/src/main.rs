//! The `meridian` program; everything it does is in the library.

use std::process::ExitCode;

/// Under load the allocator of the C library takes a tenth more of all processor time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    meridian::cli::main(std::env::args_os())
}
