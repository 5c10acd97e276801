//! The processes of the nodes: started, watched, killed, and never outliving this process.
//!
//! All are started by one thread that lives as long as [`Children`] does. That is not a matter of taste: the kernel
//! sends the parent-death signal when the *thread* that started a process ends, and the threads of an async runtime
//! come and go.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};

/// Requests to the starting thread that may wait.
const STARTS_WAITING_MAX: usize = 64;
/// Signals to one process that may wait.
const SIGNALS_WAITING_MAX: usize = 4;

/// What to start.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    /// Standard output and error are appended to it.
    pub(super) log: PathBuf,
}

type Request = (Start, oneshot::Sender<io::Result<Process>>);

/// Starts processes; when it is dropped, all of them are killed.
#[derive(Debug)]
pub(super) struct Children {
    requests: mpsc::Sender<Request>,
}

/// One process, running or ended.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    signals: mpsc::Sender<Signal>,
    /// How it ended, once it has.
    ended: watch::Receiver<Option<String>>,
}

impl Process {
    /// Sends a signal; a process that has ended already is not harmed.
    pub(super) async fn signal(&self, signal: Signal) {
        // The receiver ends with the process, and then there is nobody to signal.
        self.signals.send(signal).await.ok();
    }

    /// How it ended, if it has.
    pub(super) fn ended(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    /// Waits for its end.
    pub(super) async fn wait(&self) -> String {
        let mut ended = self.ended.clone();
        let how = ended.wait_for(Option::is_some).await.ok().and_then(|how| how.clone());
        how.unwrap_or_else(|| "it was killed with its parent".into())
    }

    /// Asks it to stop, and kills it if it does not within `grace`.
    pub(super) async fn stop(&self, grace: Duration) {
        self.signal(Signal::SIGTERM).await;
        if tokio::time::timeout(grace, self.wait()).await.is_err() {
            self.signal(Signal::SIGKILL).await;
            self.wait().await;
        }
    }
}

impl Children {
    /// Starts the thread that will start processes.
    pub(super) fn new() -> io::Result<Self> {
        let (requests, receiver) = mpsc::channel(STARTS_WAITING_MAX);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("children".into()).spawn(move || {
            // When the last sender is gone the runtime is dropped, and with it every process (kill_on_drop).
            runtime.block_on(serve(receiver));
        })?;
        Ok(Self { requests })
    }

    /// Starts a process.
    pub(super) async fn start(&self, start: Start) -> io::Result<Process> {
        let gone = || io::Error::other("the thread that starts processes has ended");
        let (answer, answered) = oneshot::channel();
        self.requests.send((start, answer)).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

async fn serve(mut requests: mpsc::Receiver<Request>) {
    while let Some((start, answer)) = requests.recv().await {
        // If nobody waits for the answer any more the process is dropped, and killed by that.
        answer.send(spawn(start)).ok();
    }
}

fn spawn(start: Start) -> io::Result<Process> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&start.log)?;
    let mut command = Command::new(&start.program);
    command
        .args(&start.args)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C in a terminal reaches the whole foreground group; the nodes are ended by `dev`, in its order.
        .process_group(0)
        .kill_on_drop(true);
    // What the cluster of `dev` is, its files say; variables meant for another node must not leak in.
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().to_ascii_uppercase().starts_with("MERIDIAN_") {
            command.env_remove(key);
        }
    }
    die_with_this_thread(&mut command);
    let child = command.spawn()?;
    let pid = child.id().ok_or_else(|| io::Error::other("the process ended before it had an id"))?;
    let (signals, signal_receiver) = mpsc::channel(SIGNALS_WAITING_MAX);
    let (end, ended) = watch::channel(None);
    tokio::spawn(watch_child(child, signal_receiver, end));
    Ok(Process { pid, signals, ended })
}

/// Asks the kernel to kill the process when the calling thread ends, by whatever signal.
#[allow(unsafe_code)]
fn die_with_this_thread(command: &mut Command) {
    let parent = Pid::this();
    // SAFETY: between fork and exec only two system calls are made, prctl and getppid, both async-signal-safe; nothing
    // is allocated on the way that succeeds.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the call took effect.
            if Pid::parent() != parent {
                return Err(io::Error::from_raw_os_error(nix::errno::Errno::ESRCH as i32));
            }
            Ok(())
        });
    }
}

/// Waits for the end of a process and passes signals on. Signals go out only before it has been waited for, so that
/// they never reach another process with the same id.
async fn watch_child(
    mut child: Child,
    mut signals: mpsc::Receiver<Signal>,
    end: watch::Sender<Option<String>>,
) {
    let how = loop {
        tokio::select! {
            status = child.wait() => break match status {
                Ok(status) => status.to_string(),
                Err(e) => format!("it cannot be waited for: {e}"),
            },
            Some(signal) = signals.recv() => {
                if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                    // It may have ended a moment ago; the next turn of the loop says so.
                    nix::sys::signal::kill(Pid::from_raw(pid), signal).ok();
                }
            }
        }
    };
    end.send_replace(Some(how));
}

/// The last lines of a log, to show why a node has ended.
pub(super) fn tail(log: &Path, lines: usize) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn shell(script: &str, folder: &Path) -> Start {
        Start { program: "/bin/sh".into(), args: vec!["-c".into(), script.into()], log: folder.join("log") }
    }

    #[tokio::test]
    async fn a_process_is_logged_watched_and_stopped() {
        let folder = tempfile::tempdir().expect("a folder");
        let children = Children::new().expect("started");
        let one = children.start(shell("echo hello; exit 3", folder.path())).await.expect("started");
        let how = tokio::time::timeout(PATIENCE, one.wait()).await.expect("in time");
        assert!(how.contains('3'), "{how}");
        assert_eq!(tail(&folder.path().join("log"), 1), "hello");
        let deaf = children
            .start(shell("trap '' TERM; while :; do sleep 1; done", folder.path()))
            .await
            .expect("started");
        assert_eq!(deaf.ended(), None);
        tokio::time::timeout(PATIENCE, deaf.stop(Duration::from_millis(100))).await.expect("in time");
        assert!(deaf.ended().is_some());
        let absent = Start { program: "/nonexistent".into(), args: vec![], log: folder.path().join("log") };
        assert!(children.start(absent).await.is_err());
    }

    #[tokio::test]
    async fn dropping_the_children_kills_them() {
        let folder = tempfile::tempdir().expect("a folder");
        let children = Children::new().expect("started");
        let process = children.start(shell("exec sleep 60", folder.path())).await.expect("started");
        drop(children);
        tokio::time::timeout(PATIENCE, process.wait()).await.expect("in time");
        let pid = Pid::from_raw(i32::try_from(process.pid).expect("small"));
        let gone = async {
            while nix::sys::signal::kill(pid, None).is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, gone).await.expect("killed");
    }
}
