//! Which seeds a test runs: a fixed few by default, as many as asked for in a long run, or one to look into.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// How many seeds each property runs instead of its own number.
const SEEDS: &str = "MERIDIAN_SPEC_SEEDS";
/// The only seed to run.
const SEED: &str = "MERIDIAN_SPEC_SEED";

/// Runs `property` for each seed; a failure names the seed with which it comes again.
pub fn each(default: u64, property: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = match (number(SEED), number(SEEDS)) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => 0..count.unwrap_or(default),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| property(seed))) {
            eprintln!("failed with {SEED}={seed}");
            resume_unwind(panic);
        }
    }
}
