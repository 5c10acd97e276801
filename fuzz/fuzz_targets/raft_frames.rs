//! Fuzzes [`meridian_tests::parsers::raft_frames`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meridian_tests::parsers::raft_frames(bytes));
