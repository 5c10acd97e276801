//! The example as its users run it, with fewer flights.

use std::process::Command;

fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_flights")).args(args).output().expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn every_dc_holds_the_truth_after_a_leader_died_and_a_dc_was_cut_off() {
    let (code, table, progress) = run(&["--flights", "1500"]);
    let all = format!("{progress}\n{table}");
    assert_eq!(code, Some(0), "{all}");
    let row = |name: &str| {
        let line =
            table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {all}"));
        line.split_whitespace().skip(name.split_whitespace().count()).map(String::from).collect::<Vec<_>>()
    };
    assert_eq!(row("flights written here"), ["1500", "500", "500", "500"]);
    assert_eq!(row("transactions applied"), ["1500"; 4]);
    assert_eq!(row("departures"), ["1500"; 4]);
    assert_eq!(row("differences"), ["0"; 4]);
    assert!(table.ends_with("all equal: nothing lost, nothing doubled\n"), "{all}");
    for event in ["kill -9 eu-west/", "ap-south is cut off", "runs again", "ap-south is healed"] {
        assert!(progress.contains(event), "{event}: {all}");
    }
}

#[test]
fn arguments_that_mean_nothing_are_refused_before_anything_starts() {
    for args in [&["--flights", "few"][..], &["--flights", "3"], &["--fast"]] {
        let (code, table, progress) = run(args);
        assert_eq!((code, table.as_str()), (Some(2), ""), "{progress}");
    }
}
