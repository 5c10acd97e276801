//! Fuzzes [`meridian_tests::parsers::http_bodies`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meridian_tests::parsers::http_bodies(bytes));
