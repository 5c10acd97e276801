//! Fuzzes [`meridian_tests::parsers::http_headers`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meridian_tests::parsers::http_headers(bytes));
