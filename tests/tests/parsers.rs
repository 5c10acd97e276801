//! Everything that parses bytes from outside survives bytes that nobody meant to send: random ones, and valid ones that
//! were damaged. A short version of what the targets in `fuzz/` do for as long as one lets them.
//!
//! The bytes come from a seed, which is printed; `MERIDIAN_TEST_SEED` repeats it, `MERIDIAN_TEST_CASES` makes it longer.

use std::panic::{AssertUnwindSafe, catch_unwind};

use meridian_tests::parsers::{PARSERS, Parser};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore, SeedableRng};

/// Cases for each parser.
const CASES_DEFAULT: usize = 10_000;
/// The stack that worker threads of the runtime have.
const STACK_BYTES: usize = 2 << 20;
/// Openings of things that nest, in every format that is parsed: `[`, `{"a":`, an array of one, a map of one, a table.
const NESTING: [&[u8]; 6] = [b"[", b"{\"a\":", b"\x91", b"\x81\xa1a", b"[[", b"a."];

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn no_parser_of_bytes_from_outside_panics_or_changes_its_mind() {
    let seed = number("MERIDIAN_TEST_SEED").unwrap_or_else(|| rand::rng().random_range(0..1_000_000));
    let cases = number("MERIDIAN_TEST_CASES").and_then(|n| usize::try_from(n).ok()).unwrap_or(CASES_DEFAULT);
    println!("parsers: MERIDIAN_TEST_SEED={seed}, {cases} cases each");
    for parser in PARSERS {
        let run = move || try_out(parser, seed, cases);
        let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).expect("a thread");
        thread.join().unwrap_or_else(|_| panic!("{} with seed {seed}", parser.name));
    }
}

/// A parser that refused everything would survive everything.
#[test]
fn every_sample_is_accepted_as_it_is() {
    for parser in PARSERS {
        let samples = (parser.samples)();
        assert!(!samples.is_empty(), "{}", parser.name);
        samples.iter().for_each(|sample| (parser.parse)(sample));
    }
    let txns = PARSERS.iter().find(|parser| parser.name == "txns").expect("there are txns");
    for sample in (txns.samples)() {
        let txn = meridian_crdt::Txn::decode(&sample.into()).expect("a txn");
        meridian_crdt::validate(&txn).expect("a valid one");
    }
    let raft = PARSERS.iter().find(|parser| parser.name == "raft_frames").expect("there are Raft frames");
    for sample in (raft.samples)() {
        assert!(meridian::raft::understands(&sample), "{sample:?} is no RPC");
    }
}

fn try_out(parser: Parser, seed: u64, cases: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let samples = (parser.samples)();
    for _ in 0..cases {
        let bytes = draw(&samples, &mut random);
        if catch_unwind(AssertUnwindSafe(|| (parser.parse)(&bytes))).is_err() {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(400)]).into_owned();
            panic!("{} panics on {} bytes: {shown:?}", parser.name, bytes.len());
        }
    }
    for nesting in NESTING {
        for times in [10, 1000, 100_000] {
            let nested = nesting.repeat(times);
            (parser.parse)(&nested);
            // Behind what a sample begins with: a version, a type, a length.
            for sample in &samples {
                for at in [1, 2, 3, sample.len() / 2] {
                    let mut bytes = sample[..at.min(sample.len())].to_vec();
                    bytes.extend_from_slice(&nested);
                    (parser.parse)(&bytes);
                }
            }
        }
    }
}

fn draw(samples: &[Vec<u8>], random: &mut StdRng) -> Vec<u8> {
    if random.random_bool(0.2) {
        let mut bytes = vec![0; random.random_range(0..200)];
        random.fill_bytes(&mut bytes);
        return bytes;
    }
    let mut bytes = samples.choose(random).expect("there are samples").clone();
    for _ in 0..random.random_range(1..5) {
        damage(&mut bytes, samples, random);
    }
    bytes
}

fn damage(bytes: &mut Vec<u8>, samples: &[Vec<u8>], random: &mut StdRng) {
    if bytes.is_empty() {
        bytes.push(random.random());
    }
    let at = random.random_range(0..bytes.len());
    match random.random_range(0..7) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = random.random(),
        2 => bytes.truncate(at),
        3 => {
            bytes.remove(at);
        }
        4 => bytes.insert(at, random.random()),
        // Lengths and counts at their limits.
        5 => bytes[at] = *[0x00, 0x7f, 0x80, 0xc6, 0xdd, 0xdf, 0xff].choose(random).expect("some"),
        _ => {
            let other = samples.choose(random).expect("there are samples");
            let from = random.random_range(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}
