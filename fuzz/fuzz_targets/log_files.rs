//! Fuzzes [`meridian_tests::parsers::log_files`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meridian_tests::parsers::log_files(bytes));
