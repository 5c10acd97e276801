//! A server's process, and what the system says that it used.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

/// Bytes of a page of memory, as /proc counts it.
const PAGE_BYTES: u64 = 4096;
/// Ticks of processor time per second, as /proc counts it.
pub const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes of a sector, as the kernel counts what a disk writes, whatever the disk itself has.
const SECTOR_BYTES: u64 = 512;

/// How long a server may take to end in good order: longer than Meridian waits for requests that it works on.
const END_PATIENCE: Duration = Duration::from_secs(15);

/// A running server; it is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

/// What processes have used since they started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time, in seconds.
    pub cpu_seconds: f64,
    /// Bytes that the disk has written, whoever asked for it.
    pub written_bytes: u64,
    /// Memory held now, in bytes.
    pub resident_bytes: u64,
}

impl Usage {
    /// What was used since an earlier look.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - earlier.cpu_seconds,
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
            resident_bytes: self.resident_bytes,
        }
    }
}

impl Process {
    /// Starts a program; what it says is added to `log`.
    pub fn start(program: &Path, args: Vec<String>, log: PathBuf) -> Result<Self, String> {
        let mut process = Self { program: program.to_owned(), args, log, child: None };
        process.start_again()?;
        Ok(process)
    }

    /// Starts the program again with the same arguments, after its end.
    pub fn start_again(&mut self) -> Result<(), String> {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(|e| format!("{}: {e}", self.log.display()))?;
        let other = log.try_clone().map_err(|e| e.to_string())?;
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::null()).stdout(log).stderr(other).kill_on_drop(true);
        self.child = Some(command.spawn().map_err(|e| format!("{}: {e}", self.program.display()))?);
        Ok(())
    }

    /// The end of its log, if it has ended by itself.
    pub fn words_if_ended(&mut self) -> Option<String> {
        if self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
            return None;
        }
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().rev().take(5).collect();
        Some(lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    /// Kills it as a crash would, and waits for its end.
    pub async fn kill(&mut self) -> Result<(), String> {
        match self.child.take() {
            Some(mut child) => child.kill().await.map_err(|e| e.to_string()),
            None => Ok(()),
        }
    }

    /// Asks it to end, as an operator would, and kills it if it does not.
    pub async fn stop(&mut self) -> Result<(), String> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid {
            kill(Pid::from_raw(pid), Signal::SIGTERM)
                .map_err(|e| format!("{}: {e}", self.program.display()))?;
        }
        let Ok(ended) = tokio::time::timeout(END_PATIENCE, child.wait()).await else {
            return self.kill().await;
        };
        self.child = None;
        ended.map(drop).map_err(|e| e.to_string())
    }

    /// What it has used so far, but for its disk, which it shares; nothing if it does not run.
    pub fn usage(&self) -> Usage {
        let Some(pid) = self.child.as_ref().and_then(Child::id) else { return Usage::default() };
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let stat = read("stat");
        // The name of the program, in parentheses, may hold spaces.
        let fields: Vec<&str> =
            stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
        let statm = read("statm");
        let pages = statm.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
        Usage {
            cpu_seconds: (ticks(11) + ticks(12)) / TICKS_PER_SECOND,
            written_bytes: 0,
            resident_bytes: pages.unwrap_or(0) * PAGE_BYTES,
        }
    }
}

/// What several processes have used together, and what the disk of their folder has written in all.
pub fn usage_of<'p>(processes: impl IntoIterator<Item = &'p Process>, folder: &Path) -> Usage {
    let disk = Usage { written_bytes: written_by_disk_of(folder), ..Usage::default() };
    processes.into_iter().fold(disk, |sum, process| {
        let one = process.usage();
        Usage {
            cpu_seconds: sum.cpu_seconds + one.cpu_seconds,
            written_bytes: sum.written_bytes + one.written_bytes,
            resident_bytes: sum.resident_bytes + one.resident_bytes,
        }
    })
}

/// Bytes that the disk on which a folder is has written since the machine started; 0 where there is none. What a process
/// is said to have written is of no use: of a page of a megabyte, a byte changed counts as a megabyte.
fn written_by_disk_of(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = std::fs::metadata(folder) else { return 0 };
    let (major, minor) = (nix::sys::stat::major(meta.dev()), nix::sys::stat::minor(meta.dev()));
    let stat = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).unwrap_or_default();
    let sectors = stat.split_whitespace().nth(6).and_then(|text| text.parse::<u64>().ok());
    sectors.unwrap_or(0) * SECTOR_BYTES
}

/// Bytes that the files below a folder occupy on disk.
pub fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_bytes(&entry.path()),
        Ok(meta) => meta.blocks() * SECTOR_BYTES,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_is_asked_to_end_before_it_is_killed() {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        let words = ["-c", "trap 'echo asked; exit' TERM; echo up; while :; do sleep 0.02; done"];
        let args = words.map(ToString::to_string).to_vec();
        let mut server = Process::start(Path::new("sh"), args, log.clone()).expect("starts");
        let said = || std::fs::read_to_string(&log).unwrap_or_default();
        while said() != "up\n" {
            assert_eq!(server.words_if_ended(), None);
            tokio::task::yield_now().await;
        }
        server.stop().await.expect("ended");
        assert_eq!(said(), "up\nasked\n");
        server.stop().await.expect("it has ended before");
    }
}
