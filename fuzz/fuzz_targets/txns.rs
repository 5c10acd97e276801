//! Fuzzes [`meridian_tests::parsers::txns`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meridian_tests::parsers::txns(bytes));
