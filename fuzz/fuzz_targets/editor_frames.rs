//! Fuzzes [`meridian_tests::parsers::documents::editor_frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meridian_tests::parsers::documents::editor_frames(bytes));
