//! A simulation proves that it is deterministic before it proves anything else.

use std::process::Command;

use meridian_sim::{Options, Report, run};

const SEED: u64 = 7;
const LOAD_MS: u64 = 4000;

fn report() -> Report {
    let mut options = Options::default();
    options.dcs = Some(2);
    options.nodes = Some(3);
    options.load_ms = LOAD_MS;
    options.keep_trace = true;
    run(SEED, &options)
}

fn in_another_process() -> String {
    let program = env!("CARGO_BIN_EXE_simulate_nodes");
    let load_ms = LOAD_MS.to_string();
    let seed = SEED.to_string();
    let ran = Command::new(program)
        .args([&seed, "--dcs", "2", "--nodes", "3", "--load-ms", &load_ms, "--trace"])
        .output()
        .expect("the program runs");
    assert!(ran.stderr.is_empty(), "{}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("text")
}

/// Says where two traces part, with what came before: the whole would be of no use to anybody.
fn assert_same(a: &str, b: &str) {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let at = (0..a.len().max(b.len())).find(|i| a.get(*i) != b.get(*i));
    if let Some(at) = at {
        let before = &a[at.saturating_sub(5)..at];
        panic!("event {at} differs: {:?} or {:?}, after {before:#?}", a.get(at), b.get(at));
    }
}

#[test]
fn the_same_seed_twice_gives_the_same_trace_byte_for_byte_in_one_process_and_in_two() {
    let shown = |report: &Report| format!("{}\n{report}\n", report.trace.join("\n"));
    let (first, second) = (report(), report());
    assert!(first.trace_events > 1000, "something happens: {first}");
    assert!(first.counts.faults > 0 && first.counts.acked > 0, "{first}");
    assert_same(&shown(&first), &shown(&second));
    assert_eq!(first, second);
    assert_same(&shown(&first), &in_another_process());
}

#[test]
fn another_seed_is_another_history() {
    let mut options = Options::default();
    options.dcs = Some(1);
    options.nodes = Some(1);
    options.load_ms = 500;
    assert_ne!(run(1, &options).trace_hash, run(2, &options).trace_hash);
}
