//! Whole clusters under faults, by seed. A failing seed is replayed by
//! `cargo run --release -p meridian-tests --bin simulate -- --seed N`.

use std::collections::BTreeMap;
use std::process::Command;

use meridian_tests::sim::{Verdict, run_seed};

/// Seeds that every run of the suite tries.
const FIXED: std::ops::Range<u64> = 0..250;
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

/// The files that a seed's history is written into, by name.
fn histories(level: &str, seed: &str) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("a path of text");
    let ran = simulate(&["--level", level, "--seed", seed, "--histories", path]);
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    let files = std::fs::read_dir(folder.path()).expect("the folder is there").map(|file| {
        let file = file.expect("a file");
        let text = std::fs::read_to_string(file.path()).expect("text");
        (file.file_name().into_string().expect("a name of text"), text)
    });
    files.collect()
}

#[test]
fn a_history_of_either_level_is_written_and_is_the_same_each_time() {
    for (level, name) in [("dc", "seed-5"), ("node", "node-seed-5")] {
        let files = histories(level, "5");
        assert!(files == histories(level, "5"), "level {level}: two runs of a seed write different bytes");
        let file = |ending: &str| &files[&format!("{name}.{ending}")];

        let calls: Vec<serde_json::Value> = serde_json::from_str(file("porcupine.json")).expect("JSON");
        let ops = |op: &str| calls.iter().filter(|call| call["input"]["op"] == op).count();
        for op in ["set", "get", "add", "sum"] {
            assert!(ops(op) > 0, "level {level}: no calls of {op}");
        }
        let ordered = |call: &serde_json::Value| call["call"].as_u64() <= call["return"].as_u64();
        assert!(calls.iter().all(ordered), "level {level}: an answer before its call");

        let events: Vec<&str> = file("rw-register.edn").lines().collect();
        for kind in [":type :invoke", ":type :ok"] {
            let of_kind = events.iter().filter(|event| event.contains(kind)).count();
            assert!(of_kind > 20, "level {level}: {of_kind} events of {kind}");
        }
        assert!(events.iter().enumerate().all(|(i, event)| event.starts_with(&format!("{{:index {i}, "))));
        assert!(file("plume.txt").lines().count() > 20, "level {level}");
    }
}

#[test]
fn the_hash_of_a_trace_does_not_depend_on_whether_it_is_kept() {
    let hash = |traced| run_seed(4, traced).1.trace().hash();
    assert_eq!(hash(true), hash(false));
}

#[test]
fn clusters_under_faults_keep_their_promises() {
    let fresh = rand::random::<u32>();
    let fresh = u64::from(fresh) << 8;
    println!("fresh seeds from {fresh}");
    let seeds = FIXED.chain(fresh..fresh + FRESH);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let ended: Vec<(u64, Verdict)> = std::thread::scope(|scope| {
        let shares = (0..threads).map(|first| seeds.clone().skip(first).step_by(threads));
        let run = |seed| (seed, run_seed(seed, false).0);
        let running: Vec<_> =
            shares.map(|share| scope.spawn(move || share.map(run).collect::<Vec<_>>())).collect();
        running.into_iter().flat_map(|runs| runs.join().expect("a seed's panic is its verdict")).collect()
    });
    let mut failed = Vec::new();
    let (mut requests, mut faults) = (0, 0);
    for (seed, verdict) in &ended {
        match verdict {
            Verdict::Clean(summary) => {
                requests += summary.requests;
                faults += summary.faults;
            }
            Verdict::Violation { what, .. } => failed.push(format!("seed {seed}: {what}")),
        }
    }
    assert_eq!(ended.len(), seeds.count());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert!(requests > 20_000 && faults > 1_000, "too tame: {requests} requests, {faults} faults");
}
