//! Fuzzes [`meridian_tests::parsers::tokens`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meridian_tests::parsers::tokens(bytes));
