//! Controls a running `dev` from another process: a Unix socket in its folder, one JSON line each way.

use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::cluster::{Cluster, DevError};

/// The socket's name in the folder.
const SOCKET: &str = "control.sock";
/// The longest path that the system takes for a socket.
const SOCKET_PATH_MAX: usize = 100;
/// The longest request or answer.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// How long a request may take, so that its caller has an answer within 10 s.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(9_500);
/// How long a caller waits for the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Callers that are served at once; more wait.
const CALLERS_MAX: usize = 16;
/// Pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Stops the bytes between two DCs.
    Cut {
        /// One DC.
        a: String,
        /// The other.
        b: String,
    },
    /// Lets them pass again.
    Heal {
        /// Two DCs; all pairs without them.
        pair: Option<(String, String)>,
    },
    /// Kills a node.
    Kill {
        /// As in `eu-west/1`.
        node: String,
    },
    /// Restarts a node.
    Restart {
        /// As in `eu-west/1`.
        node: String,
    },
    /// Moves a node's clock.
    Clock {
        /// As in `eu-west/1`.
        node: String,
        /// By how much from the true time.
        offset_ms: i64,
    },
}

/// What is answered: nothing when it is done, else the reason.
#[derive(Debug, Serialize, Deserialize)]
struct Answer {
    error: Option<String>,
}

/// The socket's path, and what must stay open while it is used: a path that is too long for a socket is reached
/// through the folder's descriptor.
fn socket_path(folder: &Path) -> io::Result<(PathBuf, Option<std::fs::File>)> {
    let path = folder.join(SOCKET);
    if path.as_os_str().len() <= SOCKET_PATH_MAX {
        return Ok((path, None));
    }
    let handle = std::fs::File::open(folder)?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd())), Some(handle)))
}

/// Listens in the cluster's folder, which this process has locked; a socket left by a dead `dev` is replaced.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(folder: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let (path, _handle) = socket_path(folder)?;
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves callers until it is dropped.
pub async fn serve(listener: UnixListener, cluster: Arc<Cluster>) {
    let callers = Arc::new(Semaphore::new(CALLERS_MAX));
    loop {
        let Ok(permit) = callers.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            Ok((stream, _)) => {
                let cluster = cluster.clone();
                tokio::spawn(async move {
                    // A caller that has gone needs no answer.
                    tokio::time::timeout(ANSWER_TIMEOUT, answer(stream, &cluster)).await.ok();
                    drop(permit);
                });
            }
        }
    }
}

async fn answer(mut stream: UnixStream, cluster: &Cluster) -> io::Result<()> {
    let line = read_line(&mut stream).await?;
    let error = match serde_json::from_slice::<Request>(&line) {
        Err(e) => Some(format!("this is not a request: {e}")),
        Ok(request) => match tokio::time::timeout(REQUEST_TIMEOUT, perform(cluster, request)).await {
            Ok(done) => done.err().map(|e| e.to_string()),
            Err(_) => Some("it was not done in time".into()),
        },
    };
    let mut text = serde_json::to_vec(&Answer { error }).map_err(io::Error::other)?;
    text.push(b'\n');
    stream.write_all(&text).await
}

async fn perform(cluster: &Cluster, request: Request) -> Result<(), DevError> {
    match request {
        Request::Cut { a, b } => cluster.cut(&a, &b),
        Request::Heal { pair } => cluster.heal(pair.as_ref().map(|(a, b)| (a.as_str(), b.as_str()))),
        Request::Kill { node } => cluster.kill(&node).await,
        Request::Restart { node } => cluster.restart(&node).await,
        Request::Clock { node, offset_ms } => cluster.clock(&node, offset_ms).await,
    }
}

/// Asks the `dev` that runs in `folder`, and returns when it is done.
///
/// # Errors
/// The reason why it was not done.
pub async fn ask(folder: &Path, request: &Request) -> Result<(), String> {
    let exchange = async {
        let (path, _handle) = socket_path(folder)?;
        let mut stream = UnixStream::connect(&path).await?;
        let mut text = serde_json::to_vec(request).map_err(io::Error::other)?;
        text.push(b'\n');
        stream.write_all(&text).await?;
        read_line(&mut stream).await
    };
    let line = match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
        Err(_) => return Err("dev did not answer within 10 s".into()),
        Ok(Err(e)) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(format!("no dev runs in {}; choose its folder with --data", folder.display()));
        }
        Ok(Err(e)) => return Err(format!("dev cannot be asked: {e}")),
        Ok(Ok(line)) => line,
    };
    let answer: Answer =
        serde_json::from_slice(&line).map_err(|_| "dev ended before it answered".to_string())?;
    answer.error.map_or(Ok(()), Err)
}

async fn read_line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(stream.take(LINE_BYTES_MAX)).read_until(b'\n', &mut line).await?;
    Ok(line)
}

/// Reads an offset such as `+1h`, `-500ms` or `0s`, in milliseconds.
///
/// # Errors
/// A sentence fragment that says what is wrong.
pub fn parse_offset(text: &str) -> Result<i64, String> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    let millis = crate::config::parse_duration(rest)?.as_millis();
    i64::try_from(millis).map(|millis| sign * millis).map_err(|_| format!("{text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_have_a_sign_and_a_unit() {
        assert_eq!(parse_offset("+1h"), Ok(3_600_000));
        assert_eq!(parse_offset("-500ms"), Ok(-500));
        assert_eq!(parse_offset("0"), Ok(0));
        assert!(parse_offset("1").is_err() && parse_offset("+-1s").is_err());
    }

    #[tokio::test]
    async fn a_folder_without_a_running_dev_is_told_apart_from_a_failure() {
        let folder = tempfile::tempdir().expect("a folder");
        let request = Request::Heal { pair: None };
        assert!(ask(folder.path(), &request).await.expect_err("none").starts_with("no dev runs"));
        drop(listen(folder.path()).expect("bound"));
        // A process that another test is starting has the socket until it begins its own program.
        let started = std::time::Instant::now();
        loop {
            let error = ask(folder.path(), &request).await.expect_err("dead");
            if error.starts_with("no dev runs") {
                break;
            }
            assert!(
                error.contains("ended before it answered") || error.contains("cannot be asked"),
                "{error}"
            );
            assert!(started.elapsed() < std::time::Duration::from_secs(5), "{error}");
            tokio::task::yield_now().await;
        }
        listen(folder.path()).expect("a dead socket is replaced");
        let deep = folder.path().join("x".repeat(120));
        std::fs::create_dir(&deep).expect("made");
        let _listener = listen(&deep).expect("a long path works");
    }
}
