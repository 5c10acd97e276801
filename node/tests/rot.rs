//! A disk that forgets: a node whose state has rotted finds out by itself and stops, before it serves what is wrong.

use std::net::TcpListener as StdListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(30);

/// A process that is killed with the test.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        // It has ended already when all went well.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Serving {
    fn start(config: &Path) -> Serving {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        command.arg("serve").arg("--config").arg(config).stderr(Stdio::piped());
        Serving(command.spawn().expect("started"))
    }

    /// Its exit code and what it said.
    async fn end(mut self) -> (Option<i32>, String) {
        let mut stderr = self.0.stderr.take().expect("piped");
        let waited = tokio::task::spawn_blocking(move || {
            let mut said = String::new();
            std::io::Read::read_to_string(&mut stderr, &mut said).expect("text");
            (self.0.wait().expect("waited").code(), said)
        });
        tokio::time::timeout(PATIENCE, waited).await.expect("it ends in time").expect("no panic")
    }
}

fn configure(folder: &Path) -> (PathBuf, String) {
    let free = [(); 2].map(|()| StdListener::bind("127.0.0.1:0").expect("a free port"));
    let [addr, peer] = free.map(|port| port.local_addr().expect("bound").to_string());
    let text = format!(
        "[cluster]\nname = \"t\"\n[dc]\nname = \"eu\"\n[nodes.n1]\nid = 1\ndata_dir = {:?}\n\
         client_listen = {addr:?}\npeer_listen = {peer:?}\n",
        folder.join("data").display().to_string()
    );
    let file = folder.join("node.toml");
    std::fs::write(&file, text).expect("written");
    (file, addr)
}

async fn ask(addr: &str, line: &str, body: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    let length = body.len();
    let request =
        format!("{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Flips a bit wherever `text` stands in the files of the state; how often it stood there.
fn rot(folder: &Path, text: &str) -> usize {
    let mut hits = 0;
    for entry in std::fs::read_dir(folder).expect("the data folder") {
        let path = entry.expect("an entry").path();
        if !path.is_file() || !path.file_name().is_some_and(|name| name.to_string_lossy().contains("state")) {
            continue;
        }
        let mut bytes = std::fs::read(&path).expect("read");
        let places: Vec<usize> =
            (0..bytes.len()).filter(|at| bytes[*at..].starts_with(text.as_bytes())).collect();
        for at in &places {
            bytes[*at] ^= 1;
        }
        hits += places.len();
        std::fs::write(&path, bytes).expect("written");
    }
    hits
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_scrubber_stops_a_node_whose_state_has_rotted() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, addr) = configure(folder.path());
    let node = Serving::start(&config);
    let value = "a-value-that-stands-nowhere-else";
    let body = format!(r#"{{"type":"register","op":"set","value":"{value}"}}"#);
    tokio::time::timeout(PATIENCE, async {
        while !ask(&addr, "POST /v1/spaces/default/keys/k", &body).await.is_ok_and(|a| a.contains(" 200 ")) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the write is taken");
    kill(Pid::from_raw(node.0.id().cast_signed()), Signal::SIGTERM).expect("told to stop");
    assert_eq!(node.end().await.0, Some(0), "it stops in order");

    assert!(rot(&folder.path().join("data"), value) > 0, "the value is on disk");
    let (code, said) = Serving::start(&config).end().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the scrubber met a row that cannot be read"), "{said}");
}
