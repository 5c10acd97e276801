//! The fault matrix: every fault against every load, over real processes, written down as docs/FAULTS.md.
//!
//! `cargo run --release -p meridian-tests --bin matrix -- [--faults a,b] [--loads x,y] [--seconds N] [--runs K]
//! [--seed S] [--pace-ms P] [--program FILE] [--out FILE]`. Exit code 0 if nothing was violated, 1 if something was, 2
//! for wrong arguments. Called as `matrix serve ...` it is the program under test itself, so that one build is enough;
//! `--program` names another, such as the one that is shipped.

use std::io::Write;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use meridian_tests::faults::{Fault, Machine, Row, RowPlan, report};
use meridian_tests::loads::Load;

/// The allocator of the program `meridian`.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// How long each run strikes unless told otherwise: all rows together stay under a quarter of an hour.
const SECONDS: u64 = 14;
/// Mean pause of a session between two operations: some 1,000 operations a second of all sessions together.
const PACE_MS: u64 = 40;
/// The part of the page that people write: what simulation has found.
const BY_HAND: &str = "## Simulated histories";
/// The first seed unless told otherwise.
const SEED: u64 = 1;

/// What was asked for.
#[derive(Debug)]
struct Options {
    faults: Vec<Fault>,
    loads: Vec<Load>,
    seconds: u64,
    runs: u64,
    seed: u64,
    pace_ms: u64,
    /// What nodes run; this program itself if nothing is named.
    program: Option<String>,
    out: Option<String>,
}

impl Options {
    fn parse(words: &[String]) -> Result<Self, String> {
        let mut options = Self {
            faults: Fault::ALL.to_vec(),
            loads: Load::ALL.to_vec(),
            seconds: SECONDS,
            runs: 1,
            seed: SEED,
            pace_ms: PACE_MS,
            program: None,
            out: None,
        };
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let value = words.next().ok_or_else(|| format!("{word} needs a value"))?;
            let number = || value.parse::<u64>().map_err(|e| format!("{word} {value}: {e}"));
            match word.as_str() {
                "--faults" => options.faults = named(value, Fault::named, &Fault::ALL.map(Fault::name))?,
                "--loads" => options.loads = named(value, Load::named, &Load::ALL.map(Load::name))?,
                "--seconds" => options.seconds = number()?,
                "--runs" | "--seeds" => options.runs = number()?,
                "--seed" => options.seed = number()?,
                "--pace-ms" => options.pace_ms = number()?,
                "--program" => options.program = Some(value.clone()),
                "--out" => options.out = Some(value.clone()),
                _ => return Err(format!("there is no {word}")),
            }
        }
        Ok(options)
    }
}

fn named<T>(list: &str, find: impl Fn(&str) -> Option<T>, known: &[&str]) -> Result<Vec<T>, String> {
    let one =
        |name| find(name).ok_or_else(|| format!("there is no {name:?}; there are {}", known.join(", ")));
    list.split(',').map(one).collect()
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "serve") {
        return meridian::cli::main(std::env::args_os());
    }
    let options = match Options::parse(&words) {
        Ok(options) => options,
        Err(why) => {
            eprintln!("matrix: {why}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("matrix: no runtime: {e}");
            return ExitCode::from(2);
        }
    };
    match runtime.block_on(run(&options, &words)) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("matrix: {why}");
            ExitCode::from(2)
        }
    }
}

/// Runs everything, writes the page, and returns how many violations there were.
async fn run(options: &Options, words: &[String]) -> Result<usize, String> {
    let start = Instant::now();
    let program = options.program.as_ref().map_or_else(std::env::current_exe, std::fs::canonicalize);
    let program = program.map_err(|e| format!("the program: {e}"))?.to_string_lossy().into_owned();
    let mut rows: Vec<(Fault, Row)> = Vec::new();
    for fault in &options.faults {
        let mut sum = Row::default();
        for seed in options.seed..options.seed + options.runs {
            let plan = RowPlan {
                fault: *fault,
                loads: options.loads.clone(),
                seed,
                lasts: Duration::from_secs(options.seconds),
                pace: Duration::from_millis(options.pace_ms),
            };
            println!("{}, seed {seed}", fault.name());
            let row = plan.run(&program).await;
            tell(&row);
            sum.add(row);
        }
        rows.push((*fault, sum));
        if let Some(out) = &options.out {
            write(out, &report(&machine(options, words, start.elapsed()), &rows, &options.loads))?;
        }
    }
    Ok(rows.iter().map(|(_, row)| row.all_violations().len()).sum())
}

fn tell(row: &Row) {
    if let Some(why) = &row.skipped {
        println!("  SKIPPED: {why}");
        return;
    }
    for (load, cell) in &row.cells {
        println!(
            "  {}: {} done, {} refused, {} unknown, {} violations",
            load.name(),
            cell.done,
            cell.refused,
            cell.unknown,
            cell.violations.len()
        );
    }
    let violations = row.all_violations();
    println!(
        "  {} faults, whole {:.1} s after the last, {} violations",
        row.faults,
        row.whole_after.as_secs_f64(),
        violations.len()
    );
    for violation in violations {
        println!("  VIOLATION {violation}");
    }
}

/// Writes the page; what the old one says from [`BY_HAND`] on is kept.
fn write(out: &str, page: &str) -> Result<(), String> {
    let old = std::fs::read_to_string(out).unwrap_or_default();
    let kept = old.find(BY_HAND).map(|from| format!("\n{}", &old[from..])).unwrap_or_default();
    let page = page.to_owned() + &kept;
    let file = std::fs::File::create(out);
    file.and_then(|mut file| file.write_all(page.as_bytes())).map_err(|e| format!("{out}: {e}"))
}

fn machine(options: &Options, words: &[String], took: Duration) -> Machine {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_string()).unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let hardware = format!(
        "{cores} cores ({}), {} of memory, Linux {}",
        field(&read("/proc/cpuinfo"), "model name"),
        field(&read("/proc/meminfo"), "MemTotal"),
        read("/proc/sys/kernel/osrelease").trim().split('-').next().unwrap_or_default()
    );
    let build = match (&options.program, cfg!(debug_assertions)) {
        (Some(_), _) => "nodes run the program that the command names",
        (None, true) => "debug build",
        (None, false) => "release build",
    };
    let software = format!(
        "meridian {} at {} ({build}), {}",
        env!("CARGO_PKG_VERSION"),
        said("git", &["rev-parse", "--short", "HEAD"]),
        said("rustc", &["--version"])
    );
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Machine {
        hardware,
        software,
        date: said("date", &["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%d %H:%M UTC"]),
        command: format!("cargo run --release -p meridian-tests --bin matrix -- {}", words.join(" ")),
        lasts: Duration::from_secs(options.seconds),
        took,
    }
}

/// The first line that a program says; empty if it cannot be run.
fn said(program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().trim().to_string()
}
