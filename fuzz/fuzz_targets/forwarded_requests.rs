//! Fuzzes [`meridian_tests::parsers::forwarded_requests`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meridian_tests::parsers::forwarded_requests(bytes));
