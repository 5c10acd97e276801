//! Fuzzes [`meridian_tests::parsers::gossip_messages`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| meridian_tests::parsers::gossip_messages(bytes));
