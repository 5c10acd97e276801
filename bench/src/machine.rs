//! What the results depend on: the machine, the versions of everything, and the command that was run.

use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use serde_json::{Value, json};

use crate::args::Suite;
use crate::driver::Kind;
use crate::system::process::TICKS_PER_SECOND;
use crate::system::version_of;

/// The program of a peer and Debian's package that has it.
fn peer(kind: Kind) -> Option<(&'static str, &'static str)> {
    match kind {
        Kind::Meridian => None,
        Kind::Etcd => Some(("etcd", "etcd-server")),
        Kind::Redis => Some(("redis-server", "redis-server")),
    }
}

/// Installs the peers that are missing, with Debian's packages.
pub async fn install_peers(kinds: &[Kind]) -> Result<(), String> {
    let missing: Vec<&str> = kinds
        .iter()
        .filter_map(|kind| peer(*kind))
        .filter(|(program, _)| version_of(Path::new(program)).is_err())
        .map(|(_, package)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    crate::say(&format!("installing {}", missing.join(", ")));
    for words in
        [vec!["update"], [vec!["install", "-y", "--no-install-recommends"], missing.clone()].concat()]
    {
        let status = tokio::process::Command::new("apt-get")
            .args(words)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // The suite starts servers of its own; the package must not start one beside.
            .env("RUNLEVEL", "1")
            .stdout(Stdio::null())
            .status()
            .await;
        if !status.is_ok_and(|status| status.success()) {
            let packages = missing.join(" ");
            return Err(format!("cannot install {packages}: run `apt-get install {packages}` as root"));
        }
    }
    Ok(())
}

/// Everything that a reader of the results has to know, as one line of the raw results.
pub async fn describe(suite: &Suite) -> Result<Value, String> {
    let mut versions = serde_json::Map::new();
    versions.insert("meridian".into(), version_of(&suite.program_of_nodes()?)?.into());
    for kind in &suite.systems {
        if let Some((program, _)) = peer(*kind) {
            versions.insert(kind.name().into(), version_of(Path::new(program))?.into());
        }
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu_info = read("/proc/cpuinfo");
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let load = read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned();
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    // `bench/run` adds the program that it has built.
    if let Some(at) = words.iter().position(|word| word == "--program") {
        words.drain(at..words.len().min(at + 2));
    }
    Ok(json!({
        "machine": {
            "cpu": field(&cpu_info, "model name"),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "memory": field(&read("/proc/meminfo"), "MemTotal"),
            // Without the name that its builder gave it.
            "kernel": read("/proc/sys/kernel/osrelease").trim().split('-').next(),
            "load_before": load,
        },
        "versions": versions,
        "command": format!("bench/run {}", words.join(" ")).trim(),
        "profile": profile(&std::env::current_exe().unwrap_or_default()),
        "profile_of_nodes": suite.program.as_deref().map(profile),
        "seconds": suite.seconds,
        "rounds": suite.rounds,
        "value_bytes": crate::op::VALUE_BYTES,
    }))
}

/// Looks at how much processor time the host of a virtual machine keeps from it: while it stands still, so do all systems in it,
/// and what they could not do is no fault of theirs.
#[derive(Debug)]
pub struct Stolen {
    since: Instant,
    ticks_before: f64,
}

impl Stolen {
    /// Begins to look.
    pub fn begin() -> Self {
        Self { since: Instant::now(), ticks_before: stolen_ticks(&read_stat()) }
    }

    /// The part of all processors' time that was kept from them since, in percent.
    pub fn percent(&self) -> f64 {
        let seconds = (stolen_ticks(&read_stat()) - self.ticks_before) / TICKS_PER_SECOND;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        100.0 * seconds / (self.since.elapsed().as_secs_f64() * cores as f64)
    }
}

fn read_stat() -> String {
    std::fs::read_to_string("/proc/stat").unwrap_or_default()
}

/// Ticks stolen from all processors since the system started, in what /proc/stat says.
fn stolen_ticks(stat: &str) -> f64 {
    // "cpu", then user, nice, system, idle, iowait, irq, softirq, steal.
    let of_all = stat.lines().next().unwrap_or_default();
    of_all.split_whitespace().nth(8).and_then(|ticks| ticks.parse().ok()).unwrap_or(0.0)
}

/// How a program was built, as far as can be told: the folder that it stands in has the name of cargo's profile, or of what else
/// has built it.
fn profile(program: &Path) -> String {
    if cfg!(debug_assertions) {
        return "a debug build: worthless as a measurement".to_owned();
    }
    let folder = program.parent().and_then(Path::file_name).unwrap_or_default();
    format!("a build of the profile `{}`", folder.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stolen_ticks_are_the_eighth_of_all_processors() {
        let stat = "cpu  10 20 30 40 50 60 70 80 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n";
        assert_eq!(stolen_ticks(stat), 80.0);
        assert_eq!(stolen_ticks("cpu 1 2 3\n"), 0.0, "an old kernel");
    }
}
