//! The program that the tests of this package start: `meridian` itself, built as a part of this package, since a test
//! run does not build the programs of other packages.

use std::process::ExitCode;

fn main() -> ExitCode {
    meridian::cli::main(std::env::args_os())
}
