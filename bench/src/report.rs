//! docs/BENCHMARKS.md: medians over the rounds and ratios, made from the raw results alone.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::driver::Kind;
use crate::record::{ASKED, Record, STOLEN};

/// One result as a line for whoever watches.
pub fn one_line(record: &Record) -> String {
    let mut line = format!("round {} {:<9} {:<22}", record.round, record.system, record.workload);
    for (name, value) in &record.values {
        if !matches!(name.as_str(), "clients" | "in_flight" | "ops" | "p999_ms" | "max_ms") {
            let _ = write!(line, " {name}={}", number(*value));
        }
    }
    if record.errors > 0 {
        let _ = write!(line, " errors={} ({})", record.errors, record.last_error.as_deref().unwrap_or("?"));
    }
    line
}

/// Three digits that count.
fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => {
            let digits = format!("{:.0}", value);
            let mut grouped = String::new();
            for (i, digit) in digits.chars().enumerate() {
                if i > 0 && (digits.len() - i) % 3 == 0 && !grouped.ends_with('-') {
                    grouped.push(',');
                }
                grouped.push(digit);
            }
            grouped
        }
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        0.0 => "0".into(),
        _ => format!("{value:.3}"),
    }
}

/// For each workload, in the order in which they first appear.
type Results = Vec<(String, OfSystems)>;
/// System, value name, all rounds.
type OfSystems = BTreeMap<String, BTreeMap<String, Vec<f64>>>;

/// Whether any system has that value.
fn has(of: &OfSystems, name: &str) -> bool {
    of.values().any(|values| values.contains_key(name))
}

/// Reads the raw results and writes the report.
pub fn write(report: &Path, raw: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(raw).map_err(|e| format!("{}: {e}", raw.display()))?;
    let rendered = render(&text, &raw.file_name().unwrap_or_default().to_string_lossy())?;
    std::fs::write(report, rendered).map_err(|e| format!("{}: {e}", report.display()))
}

fn render(raw: &str, name_of_raw: &str) -> Result<String, String> {
    let (mut abouts, mut results, mut errors) = (Vec::new(), Results::new(), Vec::new());
    for line in raw.lines().filter(|line| !line.is_empty()) {
        let value: Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
        if value.get("machine").is_some() {
            abouts.push(value);
            continue;
        }
        let record: Record = serde_json::from_value(value).map_err(|e| e.to_string())?;
        if record.errors > 0 {
            let why = record.last_error.as_deref().unwrap_or_default();
            let (round, system, workload) = (record.round, &record.system, &record.workload);
            errors
                .push(format!("- round {round}, {system}, `{workload}`: {}; the last: {why}", record.errors));
        }
        let at = results.iter().position(|(name, _)| *name == record.workload).unwrap_or_else(|| {
            results.push((record.workload.clone(), BTreeMap::new()));
            results.len() - 1
        });
        let of_system = results[at].1.entry(record.system).or_default();
        for (name, value) in record.values {
            of_system.entry(name).or_default().push(value);
        }
    }
    let mut out = INTRODUCTION.replace("RAW", name_of_raw);
    conditions(&mut out, &abouts);
    compared(&mut out, &results);
    at_equal_load(&mut out, &results);
    used(&mut out, &results);
    syncs(&mut out, &results);
    stolen(&mut out, &results);
    others(&mut out, &results);
    if !errors.is_empty() {
        out.push_str("\n## Errors\n\nOperations that failed or were answered wrongly:\n\n");
        out.push_str(&errors.join("\n"));
        out.push('\n');
    }
    Ok(out)
}

/// The report begins with this, `RAW` being the name of the file of raw results.
const INTRODUCTION: &str = "# Benchmarks

Written by `bench/run`, which anyone can repeat with that one command; raw results are in `RAW` beside. Numbers of
one machine say little; the ratios are of systems that ran in turn on the same machine, with three nodes each, files on the same disk,
the same values and clients, and the same load generator: one thread, one connection per client, each client waiting for
its answers (closed loop), answers checked, after a warm-up of a fifth of the measured time. Values are medians over the rounds.

- **Meridian**: one datacenter of three nodes; a write is answered when a majority has it synced on disk and it is applied.
  Native protocol, each client a session that sends its token.
- **etcd**: three members, defaults, gRPC. The same durability.
- **Redis**: a primary and two replicas, `appendonly yes`, `appendfsync always`; each write is followed by `WAIT 1` in the same
  bytes, and both count as one operation. `WAIT` says that a replica has received the write, not that it has synced it: a little less
  than what the others promise.

Clients talk to the leader (primary). With `--spread` they are spread over all nodes.
";

fn conditions(out: &mut String, abouts: &[Value]) {
    out.push_str("\n## Conditions\n\n");
    for about in abouts {
        let machine = &about["machine"];
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let _ = write!(out, "- `{}`, {}", text(&about["command"]), text(&about["profile"]));
        if let Value::String(profile) = &about["profile_of_nodes"] {
            let _ = write!(out, "; Meridian's nodes {profile}");
        }
        out.push('\n');
        let _ = writeln!(
            out,
            "- {} cores of {}, {} of memory, Linux {}, load {} before",
            text(&machine["cores"]),
            text(&machine["cpu"]),
            text(&machine["memory"]),
            text(&machine["kernel"]),
            text(&machine["load_before"])
        );
        let versions = about["versions"].as_object().into_iter().flatten();
        let versions: Vec<String> = versions.map(|(name, v)| format!("{name}: {}", text(v))).collect();
        let _ = writeln!(out, "- {}", versions.join("; "));
        let (rounds, seconds) = (text(&about["rounds"]), text(&about["seconds"]));
        let _ = writeln!(
            out,
            "- {rounds} rounds of {seconds} s per workload; values of {} bytes",
            text(&about["value_bytes"])
        );
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => sorted[len / 2],
        len => (sorted[len / 2 - 1] + sorted[len / 2]) / 2.0,
    }
}

/// A ratio's numerator or denominator: a workload's value of one system.
fn found(of: &OfSystems, system: Kind, name: &str) -> Option<f64> {
    of.get(system.name())?.get(name).map(|values| median(values))
}

fn compared(out: &mut String, results: &Results) {
    out.push_str(
        "\n## Throughput and latency\n\nRatios are Meridian's throughput to that of the other: above 1, Meridian is \
         ahead. Latencies are medians and 99th percentiles in milliseconds.\n\n\
         | Workload | Meridian ops/s | p50 / p99 | etcd ops/s | p50 / p99 | Redis ops/s | p50 / p99 | to etcd | to Redis |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for (workload, of) in results {
        if !has(of, "ops_per_s") || has(of, ASKED) {
            continue;
        }
        let _ = write!(out, "| `{workload}` |");
        for kind in Kind::ALL {
            match found(of, kind, "ops_per_s") {
                None => out.push_str(" | |"),
                Some(rate) => {
                    let quantile = |name| number(found(of, kind, name).unwrap_or(f64::NAN));
                    let _ =
                        write!(out, " {} | {} / {} |", number(rate), quantile("p50_ms"), quantile("p99_ms"));
                }
            }
        }
        for peer in [Kind::Etcd, Kind::Redis] {
            ratio(out, of, peer, "ops_per_s");
        }
        out.push('\n');
    }
}

fn at_equal_load(out: &mut String, results: &Results) {
    let paced: Vec<_> = results.iter().filter(|(_, of)| has(of, ASKED)).collect();
    if paced.is_empty() {
        return;
    }
    out.push_str(
        "\n## Latency at equal load\n\nAll systems were given as many operations per second, as many as the workload's name says, \
         by 64 clients. Latencies, in milliseconds, count from when an operation was due, so that a stall is seen in all that waited \
         for it.\n\n\
         | Workload | Meridian p50 / p99 / p99.9 | etcd p50 / p99 / p99.9 | Redis p50 / p99 / p99.9 | p99 to etcd's | to Redis' |\n\
         |---|--:|--:|--:|--:|--:|\n",
    );
    for (workload, of) in paced {
        let _ = write!(out, "| `{workload}` |");
        for kind in Kind::ALL {
            let quantile = |name| found(of, kind, name).map(number).unwrap_or_default();
            let _ =
                write!(out, " {} / {} / {} |", quantile("p50_ms"), quantile("p99_ms"), quantile("p999_ms"));
        }
        for peer in [Kind::Etcd, Kind::Redis] {
            ratio(out, of, peer, "p99_ms");
        }
        out.push('\n');
    }
}

/// Writes Meridian's value as a multiple of that of another.
fn ratio(out: &mut String, of: &OfSystems, peer: Kind, name: &str) {
    let both = found(of, Kind::Meridian, name).zip(found(of, peer, name));
    match both.filter(|(_, theirs)| *theirs > 0.0) {
        Some((ours, theirs)) => {
            let _ = write!(out, " **{:.2}** |", ours / theirs);
        }
        None => out.push_str(" |"),
    }
}

fn used(out: &mut String, results: &Results) {
    out.push_str(
        "\nWhat the servers used for each operation: processor time of all nodes, bytes written to disk.\n\n\
         | Workload | Meridian µs | bytes | etcd µs | bytes | Redis µs | bytes |\n|---|--:|--:|--:|--:|--:|--:|\n",
    );
    by_system(out, results, ["server_cpu_us_per_op", "disk_bytes_per_op"], &Kind::ALL);
}

fn syncs(out: &mut String, results: &Results) {
    if !results.iter().any(|(_, of)| has(of, "syncs_per_s")) {
        return;
    }
    out.push_str(
        "\nHow often the leader synced its log, and how many writes each sync was for (`meridian_log_syncs_total`, \
         `etcd_disk_wal_fsync_duration_seconds_count`). etcd adds to a counter by compare and swap, which fails as often as others \
         come first: it syncs oftener than it adds.\n\n\
         | Workload | Meridian syncs/s | writes each | etcd syncs/s | writes each |\n|---|--:|--:|--:|--:|\n",
    );
    by_system(out, results, ["syncs_per_s", "writes_per_sync"], &[Kind::Meridian, Kind::Etcd]);
}

fn stolen(out: &mut String, results: &Results) {
    let kept =
        |of| Kind::ALL.iter().any(|kind| found(of, *kind, STOLEN).is_some_and(|percent| percent > 0.0));
    if !results.iter().any(|(_, of)| has(of, "ops_per_s") && kept(of)) {
        return;
    }
    out.push_str(
        "\nWhat the host kept from this virtual machine meanwhile (steal), in percent of all processors' time: it stands still then, \
         and so does everything in it.\n\n| Workload | Meridian | etcd | Redis |\n|---|--:|--:|--:|\n",
    );
    by_system(out, results, [STOLEN], &Kind::ALL);
}

/// A row for each workload with a throughput that has the first of some values: all of them, for each of the systems.
fn by_system<const N: usize>(out: &mut String, results: &Results, names: [&str; N], kinds: &[Kind]) {
    for (workload, of) in results.iter().filter(|(_, of)| has(of, "ops_per_s") && has(of, names[0])) {
        let _ = write!(out, "| `{workload}` |");
        for kind in kinds {
            for value in names.map(|name| found(of, *kind, name).map(number).unwrap_or_default()) {
                let _ = write!(out, " {value} |");
            }
        }
        out.push('\n');
    }
}

/// Results that are no throughput, value by value.
fn others(out: &mut String, results: &Results) {
    let rest: Vec<_> = results.iter().filter(|(_, of)| !has(of, "ops_per_s")).collect();
    if rest.is_empty() {
        return;
    }
    out.push_str(
        "\n## Everything else\n\n| Workload | Value | Meridian | etcd | Redis |\n|---|---|--:|--:|--:|\n",
    );
    for (workload, of) in rest {
        let mut names: Vec<&String> = of.values().flat_map(BTreeMap::keys).collect();
        names.sort();
        names.dedup();
        for name in names {
            let _ = write!(out, "| `{workload}` | {name} |");
            for kind in Kind::ALL {
                let _ = write!(out, " {} |", found(of, kind, name).map(number).unwrap_or_default());
            }
            out.push('\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_ratios_of_medians() {
        let record = |round, kind, rate| {
            let record = Record::new(round, kind, "put-64").with("ops_per_s", rate).with("p50_ms", 1.0);
            serde_json::to_string(&record.with("p99_ms", 2.0)).expect("encodes")
        };
        let raw = [
            record(1, Kind::Meridian, 3000.0),
            record(1, Kind::Etcd, 900.0),
            record(2, Kind::Meridian, 1000.0),
            record(2, Kind::Etcd, 1100.0),
        ];
        let report = render(&raw.join("\n"), "raw.jsonl").expect("rendered");
        let row = "| `put-64` | 2,000 | 1.00 / 2.00 | 1,000 | 1.00 / 2.00 | | | **2.00** | |";
        assert!(report.contains(row), "{report}");
    }

    #[test]
    fn equal_loads_are_compared_by_latency_and_syncs_are_shown() {
        let record = |kind, p99| {
            let record = Record::new(1, kind, "put-at-1000").with(ASKED, 1000.0).with("ops_per_s", 1000.0);
            let record = record.with("p50_ms", 1.0).with("p99_ms", p99).with("p999_ms", 9.0);
            serde_json::to_string(&record.with("syncs_per_s", 400.0).with("writes_per_sync", 2.5))
                .expect("encodes")
        };
        let raw = [record(Kind::Meridian, 2.0), record(Kind::Etcd, 4.0)];
        let report = render(&raw.join("\n"), "raw.jsonl").expect("rendered");
        let row = "| `put-at-1000` | 1.00 / 2.00 / 9.00 | 1.00 / 4.00 / 9.00 |  /  /  | **0.50** | |";
        assert!(report.contains(row), "{report}");
        assert!(report.contains("| `put-at-1000` | 400 | 2.50 | 400 | 2.50 |"), "{report}");
        assert!(!report.contains("| `put-at-1000` | 1,000 |"), "no ratio of rates that were given: {report}");
    }

    #[test]
    fn what_the_host_kept_is_shown_if_it_kept_anything() {
        let report = |ours, theirs| {
            let record = |kind, stolen| {
                let record = Record::new(1, kind, "put-1").with("ops_per_s", 1000.0).with(STOLEN, stolen);
                serde_json::to_string(&record).expect("encodes")
            };
            let raw = [record(Kind::Meridian, ours), record(Kind::Redis, theirs)];
            render(&raw.join("\n"), "raw.jsonl").expect("rendered")
        };
        assert!(report(0.0, 12.5).contains("| `put-1` | 0 |  | 12.5 |"), "{}", report(0.0, 12.5));
        assert!(!report(0.0, 0.0).contains("steal"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [1_234_567.8, 123.4, 12.34, 1.234, 0.1234].map(number),
            ["1,234,568", "123", "12.3", "1.23", "0.123"]
        );
    }
}
