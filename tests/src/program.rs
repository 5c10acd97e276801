//! The program under test as an operator starts it: with arguments, variables and files, until it ends or is ended.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::process::{Child, Command};

/// How long a program that should end by itself may take.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How a program ended and what it said.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The exit code; nothing if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs the program to its end. Variables of this process that would configure it are not passed on.
///
/// # Panics
/// When it cannot be started or does not end in time.
pub async fn run(binary: &str, args: &[&str], variables: &[(&str, &str)], stdin: &str) -> Ended {
    run_in(Path::new("."), binary, args, variables, stdin).await
}

/// The same, in a folder.
///
/// # Panics
/// When it cannot be started or does not end in time.
pub async fn run_in(
    folder: &Path,
    binary: &str,
    args: &[&str],
    variables: &[(&str, &str)],
    stdin: &str,
) -> Ended {
    let mut command = command(binary, args, variables);
    command.current_dir(folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{binary}: {e}"));
    if let Some(mut pipe) = child.stdin.take() {
        // A program that does not read its input may have closed it.
        pipe.write_all(stdin.as_bytes()).await.ok();
    }
    let ended = tokio::time::timeout(END_LIMIT, child.wait_with_output()).await;
    let output = ended.unwrap_or_else(|_| panic!("{args:?} does not end")).expect("waited for");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_string();
    Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn command(binary: &str, args: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary);
    command.args(args).kill_on_drop(true);
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().to_ascii_uppercase().starts_with("MERIDIAN_") {
            command.env_remove(key);
        }
    }
    command.envs(variables.iter().copied());
    command
}

/// A program that runs until it is told to stop; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts it; what it says is appended to `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(binary: &str, args: &[&str], variables: &[(&str, &str)], log: &Path) -> Self {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("a log file");
        let mut command = command(binary, args, variables);
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a log file")).stderr(file);
        Self { child: command.spawn().unwrap_or_else(|e| panic!("{binary}: {e}")), log: log.into() }
    }

    /// The id of the process.
    ///
    /// # Panics
    /// When it has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_else(|| panic!("it has ended: {}", self.said()))
    }

    /// Everything that it has said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Asks it to stop and returns its exit code.
    ///
    /// # Panics
    /// When it does not stop in time.
    pub async fn stop(self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("a child can be signalled");
    }

    /// Waits for its end by itself, and returns its exit code.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(mut self) -> Option<i32> {
        let ended = tokio::time::timeout(END_LIMIT, self.child.wait()).await;
        ended.unwrap_or_else(|_| panic!("it does not end: {}", self.said())).expect("waited for").code()
    }
}

/// A port that the system chose, kept from everybody but a server that is told of it.
#[derive(Debug)]
pub struct Port {
    /// The address, on loopback.
    pub address: SocketAddr,
    /// Bound but not listening: a server, which sets `SO_REUSEADDR`, can still listen there.
    _held: TcpSocket,
}

impl Port {
    /// Chooses one.
    ///
    /// # Panics
    /// When there is none.
    pub fn choose() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option of a socket");
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
        Self { address: socket.local_addr().expect("a bound socket"), _held: socket }
    }
}

/// A file system of its own in memory, of so many bytes; unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts one on an empty folder. `Err` says why this cannot be done here, as when the rights are missing: the
    /// caller then reports its test as skipped.
    ///
    /// # Errors
    /// The reason.
    pub fn mount(path: &Path, bytes: u64) -> Result<Self, String> {
        let options = format!("size={bytes}");
        let words = ["-t", "tmpfs", "-o", &options, "tmpfs"];
        mount("mount", &words, path).map(|()| Self { path: path.into() })
    }

    /// Makes it read-only.
    ///
    /// # Errors
    /// The reason why it cannot be.
    pub fn read_only(&self) -> Result<(), String> {
        mount("mount", &["-o", "remount,ro"], &self.path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is being killed may hold it for a moment longer.
        if let Err(e) = mount("umount", &["-l"], &self.path) {
            println!("{} stays mounted: {e}", self.path.display());
        }
    }
}

fn mount(program: &str, words: &[&str], path: &Path) -> Result<(), String> {
    let output =
        std::process::Command::new(program).args(words).arg(path).output().map_err(|e| e.to_string())?;
    if output.status.success() {
        Ok(())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).trim().to_string())
    }
}

/// Says that a part of a test could not be done here; it counts as skipped, not as passed.
pub fn skipped(what: &str, why: &str) {
    println!("SKIPPED: {what}: {why}");
}
