//! Whole clusters under faults, by seed. A failing seed is replayed by
//! `cargo run --release -p meridian-tests --bin simulate -- --seed N`.

use std::process::Command;

use meridian_tests::sim::{Verdict, keep_panics_quiet, run_seed};

/// Seeds that every run of the suite tries.
const FIXED: std::ops::Range<u64> = 0..150;
/// Seeds that nobody has tried before.
const FRESH: u64 = 20;

fn simulate(args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_simulate")).args(args).output().expect("simulate starts")
}

#[test]
fn equal_seeds_give_equal_traces_in_one_process_and_in_two() {
    for seed in [1, 2, 3] {
        let lines = || run_seed(seed, true).1.trace().lines().to_vec();
        let (first, second) = (lines(), lines());
        assert!(first.len() > 1000, "seed {seed} is too short to prove anything");
        assert!(first == second, "seed {seed} runs in two ways");
        let text = seed.to_string();
        let args = ["--seed", &text, "--trace"];
        let (one, other) = (simulate(&args), simulate(&args));
        assert!(one == other, "seed {seed} differs from process to process");
        let printed = String::from_utf8(one.stdout).expect("text");
        assert!(printed.contains(&first[..500].join("\n")), "seed {seed} differs between programs");
    }
}

#[test]
fn the_hash_of_a_trace_does_not_depend_on_whether_it_is_kept() {
    let hash = |traced| run_seed(4, traced).1.trace().hash();
    assert_eq!(hash(true), hash(false));
}

#[test]
fn clusters_under_faults_keep_their_promises() {
    keep_panics_quiet();
    let fresh = rand::random::<u32>();
    let fresh = u64::from(fresh) << 8;
    println!("fresh seeds from {fresh}");
    let mut failed = Vec::new();
    let (mut requests, mut faults) = (0, 0);
    for seed in FIXED.chain(fresh..fresh + FRESH) {
        match run_seed(seed, false).0 {
            Verdict::Clean(summary) => {
                requests += summary.requests;
                faults += summary.faults;
            }
            Verdict::Violation { what, .. } => failed.push(format!("seed {seed}: {what}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(requests > 20_000 && faults > 1_000, "too tame: {requests} requests, {faults} faults");
}
