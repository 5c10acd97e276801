//! The inner parts one by one: their instructions, which do not depend on what else the machine does, and their time.
//!
//! Each case prepares its inputs and then passes every step through `measured`, within which callgrind counts and a
//! stopwatch runs. Without the name of a case, each is run under callgrind in a process of its own and its count is
//! shown beside the recorded one. Times are criterion's (`benches/inner.rs`).

mod apply;
mod codecs;
pub mod log;
mod proto;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How many steps that are short for a clock are measured at once.
const BATCH: u64 = 64;

/// One case: what it is called, what one step of it is, and how to do so many of them.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    /// What one step does.
    pub step: &'static str,
    /// Does so many steps.
    pub run: fn(u64) -> Result<(), String>,
}

/// What a failed step says.
fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}

thread_local! {
    /// How long this thread has spent in [`measured`].
    static SPENT: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Measures a step. Whatever is prepared or taken down stays outside.
fn measured<T>(step: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let outcome = counted(step);
    SPENT.set(SPENT.get() + begun.elapsed());
    outcome
}

/// Where callgrind counts.
#[inline(never)]
fn counted<T>(step: impl FnOnce() -> T) -> T {
    std::hint::black_box(step())
}

/// Measures so many steps that are too short for a clock to be read at each: inputs are made for many of them, which
/// then follow each other. `input` gets the number of the step, from 1.
fn measured_in_batches<I, T>(
    times: u64,
    mut input: impl FnMut(u64) -> Result<I, String>,
    mut step: impl FnMut(&mut I) -> T,
    check: impl Fn(T) -> Result<(), String>,
) -> Result<(), String> {
    let mut next = 1;
    while next <= times {
        let end = times.min(next + BATCH - 1);
        let mut inputs = (next..=end).map(&mut input).collect::<Result<Vec<I>, String>>()?;
        let mut outcomes = Vec::with_capacity(inputs.len());
        measured(|| inputs.iter_mut().for_each(|input| outcomes.push(std::hint::black_box(step(input)))));
        outcomes.into_iter().try_for_each(&check)?;
        next = end + 1;
    }
    Ok(())
}

/// Every case.
pub fn cases() -> Vec<Case> {
    [apply::CASES, codecs::CASES, log::CASES, proto::CASES]
        .into_iter()
        .flatten()
        .map(|case| Case { ..*case })
        .collect()
}

/// Runs so many steps of a case; returns how long they took together, without what was prepared for them.
pub fn time(case: &Case, times: u64) -> Result<Duration, String> {
    SPENT.set(Duration::ZERO);
    (case.run)(times)?;
    Ok(SPENT.get())
}

/// Runs one case, for callgrind.
pub fn run_case(name: &str, times: u64) -> Result<(), String> {
    let case = cases().into_iter().find(|case| case.name == name);
    (case.ok_or_else(|| format!("there is no case {name}"))?.run)(times)
}

/// Counts all cases whose names begin with `only`, shows each, and records them in `file` if `record` is set.
pub fn count_all(only: &str, times: u64, file: &Path, record: bool) -> Result<(), String> {
    let recorded = read_recorded(file);
    let mut counts = Vec::new();
    crate::say(&format!("{:<34} {:>12} {:>12} {:>8}", "case", "instructions", "recorded", "change"));
    for case in cases().into_iter().filter(|case| case.name.starts_with(only)) {
        let count = count(case.name, times)?;
        let before = recorded.get(case.name).copied();
        let change = before.map_or_else(String::new, |before| {
            format!("{:+.1}%", (count as f64 - before as f64) / before.max(1) as f64 * 100.0)
        });
        let before = before.map_or_else(String::new, |before| before.to_string());
        crate::say(&format!("{:<34} {count:>12} {before:>12} {change:>8}", case.name));
        counts.push((case, count));
    }
    match record {
        true => std::fs::write(file, render(&counts, &recorded)).map_err(told),
        false => Ok(()),
    }
}

/// Instructions of one step of a case, on average.
fn count(name: &str, times: u64) -> Result<u64, String> {
    let program: PathBuf = std::env::current_exe().map_err(told)?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg("--toggle-collect=*instructions::counted*")
        .arg(&program)
        .args(["case", name, "--times", &times.to_string()])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("valgrind: {e}; install it with `apt-get install valgrind`"))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("{name} failed under callgrind: {said}"));
    }
    let collected =
        said.lines().find_map(|line| line.split_once("Collected : ").map(|(_, count)| count.trim()));
    let collected: u64 = collected.and_then(|count| count.parse().ok()).ok_or("callgrind shows no count")?;
    Ok(collected / times.max(1))
}

/// The counts in a file that [`render`] wrote; none if there is no such file yet.
fn read_recorded(file: &Path) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let name = cells.next()?.trim().trim_end_matches('`').to_owned();
        Some((name, cells.next()?.trim().replace(',', "").parse().ok()?))
    };
    text.lines().filter_map(row).collect()
}

fn render(counts: &[(Case, u64)], recorded: &BTreeMap<String, u64>) -> String {
    let mut text = String::from(
        "# Instruction counts\n\n\
         Instructions of one step of each inner part, counted by callgrind in a release build. They depend on the code and the compiler, \
         hardly on the machine, and not at all on what else it does; so a change of a few percent is a change of the code.\n\n\
         - Compare, in review of whatever touches these parts: `cargo run --release -p meridian-bench -- instructions`. It prints each \
         count beside the recorded one. `instructions apply` counts only what begins with that.\n\
         - Record, in the same commit as the change that explains it: add `--record`.\n\
         - A rise of more than 5% wants a reason in the commit; less is noise of hash tables and allocators.\n\
         - The same cases in nanoseconds: `cargo bench -p meridian-bench`, and `-- NAME` for some of them.\n\
         - To see where they go: `valgrind --tool=callgrind --collect-atstart=no '--toggle-collect=*instructions::counted*' \
         target/release/meridian-bench case NAME`, then `callgrind_annotate`.\n\n\
         | Case | Instructions | One step |\n|---|--:|---|\n",
    );
    for case in cases() {
        let counted = counts.iter().find(|(counted, _)| counted.name == case.name).map(|(_, count)| *count);
        if let Some(count) = counted.or_else(|| recorded.get(case.name).copied()) {
            text.push_str(&format!("| `{}` | {count} | {} |\n", case.name, case.step));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_runs_and_names_are_used_once() {
        let mut names: Vec<&str> = cases().iter().map(|case| case.name).collect();
        for case in cases() {
            assert_eq!((case.run)(3), Ok(()), "{}", case.name);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), cases().len());
    }

    #[test]
    fn what_is_recorded_is_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("INSTRUCTIONS.md");
        let counts = cases().into_iter().zip(1000..).collect::<Vec<_>>();
        let expected: BTreeMap<String, u64> = counts.iter().map(|(c, n)| (c.name.to_owned(), *n)).collect();
        std::fs::write(&file, render(&counts, &BTreeMap::new())).expect("written");
        assert_eq!(read_recorded(&file), expected);
    }
}
