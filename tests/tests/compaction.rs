//! Documents are compacted while they are edited, while leaders are killed in the middle of it, and read the same everywhere
//! afterwards. And what it is for: a document of a quarter of a million keystrokes opens at once.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use meridian::cli::http::HttpClient;
use meridian::embedded::{Setup, StartError};
use meridian::server::ServeError;
use meridian::storage::StorageError;
use meridian_crdt::codec::{Reader, Writer};
use meridian_crdt::{Document, YrsDocument};
use meridian_tests::client::{Ask, Client};
use meridian_tests::fleet::Fleet;
use meridian_tests::wait;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use yrs::{Doc, GetString, OffsetKind, Options, Text, Transact};

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);
const COMPACTED: &str = "meridian_doc_updates_compacted_total";

/// The character `c`, typed by `client` as its `clock`-th behind its own last one, in the text `t`.
fn typed(client: u64, clock: u64, c: u8) -> Vec<u8> {
    let mut out = Writer::new();
    out.raw(&[1, 1]);
    out.varint(client);
    out.varint(clock);
    match clock.checked_sub(1) {
        None => out.raw(&[4, 1, 1, b't']),
        Some(before) => {
            out.u8(0x84);
            out.varint(client);
            out.varint(before);
        }
    }
    out.raw(&[1, c, 0]);
    out.finish()
}

fn as_bytes(update: &[u8]) -> Value {
    json!({"$bytes": base64(update)})
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group =
            chunk.iter().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for n in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * n)) as usize & 63];
            text.push(if n <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// Writes updates until they are taken, wherever a leader is by then. A retry brings them twice, which counts once.
async fn write(nodes: &[Client], doc: &str, updates: &[Vec<u8>]) {
    let updates: Vec<Value> = updates.iter().map(|update| as_bytes(update)).collect();
    let ask = Ask::mutate(doc, &json!({"type": "doc", "op": "update_all", "updates": updates}));
    wait::until("the updates are taken", PATIENCE, async || {
        for node in nodes {
            if node.send(&ask).await.is_ok_and(|reply| reply.done()) {
                return Ok(());
            }
        }
        Err("no node of the datacenter takes them".to_owned())
    })
    .await;
}

/// What all nodes of a datacenter have compacted since they were started.
async fn compacted(nodes: &[Client]) -> u64 {
    let mut sum = 0;
    for node in nodes {
        sum += node.metric(COMPACTED).await.unwrap_or(0);
    }
    sum
}

/// Story: both datacenters type into one document, some thousand keystrokes each. The leader of one is killed whenever it has
/// just compacted something, so that steps of the next compaction are in every stage; the other datacenter compacts at moments of
/// its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_reads_the_same_everywhere_whatever_was_compacted_and_whoever_died() {
    let fleet = Fleet::start(BINARY, 2, 3, LATENCY).await;
    let (here, there) = (fleet.dc("eu-west"), fleet.dc("us-east"));
    let letter = |clock: u64| b'a' + (clock % 26) as u8;
    let mut clock = 0;
    for round in 0..3 {
        let killed = fleet.leader("eu-west").await;
        let before = compacted(&here).await;
        let mut batches = 0;
        while compacted(&here).await == before || batches < 6 {
            let batch =
                |client| (clock..clock + 250).map(|n| typed(client, n, letter(n))).collect::<Vec<_>>();
            let (ours, theirs) = (batch(1), batch(2));
            tokio::join!(write(&here, "long", &ours), write(&there, "long", &theirs));
            (clock, batches) = (clock + 250, batches + 1);
            assert!(batches < 400, "nothing is compacted");
        }
        fleet.cluster().kill(&killed).await.expect("killed");
        println!("round {round}: {killed} is killed after {clock} keystrokes of each datacenter");
        let after: Vec<Vec<u8>> = (clock..clock + 250).map(|n| typed(1, n, letter(n))).collect();
        write(&here, "long", &after).await;
        let after: Vec<Vec<u8>> = (clock..clock + 250).map(|n| typed(2, n, letter(n))).collect();
        write(&there, "long", &after).await;
        clock += 250;
        fleet.cluster().restart(&killed).await.expect("restarted");
    }
    let typed: String = (0..clock).map(|n| char::from(letter(n))).collect();
    for name in fleet.node_names() {
        let node = fleet.node(&name);
        let expected = typed.repeat(2);
        wait::until("a node reads all of it", PATIENCE, async || {
            let read = node.value("long").await;
            let is = read["t"] == expected;
            if is { Ok(()) } else { Err(format!("{name} has {} bytes", read.to_string().len())) }
        })
        .await;
    }
    let (eu, us) = (compacted(&here).await, compacted(&there).await);
    println!("{} keystrokes; since their last start the nodes have compacted {eu} and {us}", 2 * clock);
    fleet.agreed(PATIENCE).await;
    let explained = |node: Client| async move {
        node.ask(Ask::get("/v1/spaces/default/keys/long/explain")).await.ok().body
    };
    assert_eq!(explained(fleet.node("eu-west/1")).await, explained(fleet.node("us-east/2")).await);
}

/// The keystrokes of the editing trace of a paper, as updates, and the text at its end.
fn trace(folder: &Path) -> (Vec<Vec<u8>>, String) {
    let file = folder.join("sequential/automerge-paper.json.gz");
    let unpacked = Command::new("gzip").arg("-dc").arg(file).output().expect("gzip");
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    let trace: Value = serde_json::from_slice(&unpacked.stdout).expect("JSON");
    let mut options = Options::with_client_id(yrs::ClientID::new(7));
    options.offset_kind = OffsetKind::Utf16;
    let doc = Doc::with_options(options);
    let text = doc.get_or_insert_text("t");
    let mut updates = Vec::new();
    let patches = trace["txns"].as_array().expect("txns").iter().flat_map(|txn| txn["patches"].as_array());
    for patch in patches.flatten() {
        let (at, deleted) = (patch[0].as_u64().expect("a place"), patch[1].as_u64().expect("a length"));
        let mut txn = doc.transact_mut();
        if deleted > 0 {
            text.remove_range(&mut txn, at as u32, deleted as u32);
        }
        text.insert(&mut txn, at as u32, patch[2].as_str().expect("a text"));
        updates.push(txn.encode_update_v1());
    }
    let end = text.get_string(&doc.transact());
    assert_eq!(Some(end.as_str()), trace["endContent"].as_str());
    (updates, end)
}

fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let size = |entry: std::fs::DirEntry| {
        let data = entry.metadata().expect("metadata");
        if data.is_dir() { bytes_below(&entry.path()) } else { data.len() }
    };
    entries.map(|entry| size(entry.expect("an entry"))).sum()
}

/// Connects like an editor who has nothing; says how long it took from the first byte to the last one of the document.
async fn first_sync(addr: &str, doc: &str) -> (Duration, Bytes) {
    let begun = Instant::now();
    let stream = tokio::net::TcpStream::connect(addr).await.expect("connects");
    stream.set_nodelay(true).expect("a socket");
    let url = format!("ws://{addr}/v1/spaces/default/docs/{doc}");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("is let in");
    socket.send(Message::Binary(Bytes::from_static(&[0, 0, 1, 0]))).await.expect("is sent");
    loop {
        let frame = socket.next().await.expect("a frame").expect("a frame").into_data();
        if frame.starts_with(&[0, 1]) {
            let took = begun.elapsed();
            let update = Reader::new(&frame[2..]).bytes().expect("an update").to_vec();
            return (took, update.into());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarter_of_a_million_keystrokes_open_at_once() {
    let Some(folder) = std::env::var_os("MERIDIAN_TRACES") else {
        println!("skipped: MERIDIAN_TRACES names no folder with editing traces");
        return;
    };
    let (updates, end) = trace(Path::new(&folder));
    let data = tempfile::tempdir().expect("a folder");
    let setup = || Setup::default().folder(data.path());
    let node = setup().start("eu-west").await.expect("starts");
    let client = Client::new(HttpClient::new(), node.addr().parse().expect("an address"));
    for batch in updates.chunks(1_000) {
        write(std::slice::from_ref(&client), "paper", batch).await;
    }
    let all = updates.len() as u64;
    wait::until("nearly all of it is compacted", Duration::from_secs(600), async || {
        let done = compacted(std::slice::from_ref(&client)).await;
        if done + 1_000 > all { Ok(()) } else { Err(format!("{done} of {all} updates")) }
    })
    .await;
    let before = bytes_below(data.path());
    node.stop().await.expect("stops");
    // The threads of its storage, and the lock of its folder with them, end a moment later.
    let begun = Instant::now();
    let node = loop {
        match setup().start("eu-west").await {
            Err(StartError::Serve(ServeError::Storage(StorageError::Locked { .. }))) => {
                assert!(begun.elapsed() < PATIENCE, "the folder stays locked");
                tokio::task::yield_now().await;
            }
            started => break started.expect("starts again"),
        }
    };
    let (cold, update) = first_sync(node.addr(), "paper").await;
    let (warm, again) = first_sync(node.addr(), "paper").await;
    assert_eq!(update, again);
    let mut document = YrsDocument::default();
    document.integrate(&update).expect("an update");
    assert_eq!(document.text("t"), end);
    println!(
        "{all} updates of {} bytes; first sync of {} bytes: {cold:?} cold, {warm:?} warm; {before} bytes on disk, \
         {} after the restart",
        updates.iter().map(Vec::len).sum::<usize>(),
        update.len(),
        bytes_below(data.path()),
    );
    node.stop().await.expect("stops");
}

/// The `level`-th type of a chain, inside the one before; all small, and each by itself nothing unusual.
fn nested(level: u64) -> Vec<u8> {
    let mut out = Writer::new();
    out.raw(&[1, 1, 1]);
    out.varint(level);
    match level.checked_sub(1) {
        None => out.raw(&[7, 1, 1, b'r', 0]),
        Some(before) => {
            out.raw(&[7, 0, 1]);
            out.varint(before);
            out.u8(0);
        }
    }
    out.u8(0);
    out.finish()
}

/// Sends frames at once and waits for the code that the connection is closed with.
async fn closed_with(addr: &str, doc: &str, frames: impl IntoIterator<Item = Vec<u8>>) -> u16 {
    let stream = tokio::net::TcpStream::connect(addr).await.expect("connects");
    let url = format!("ws://{addr}/v1/spaces/default/docs/{doc}");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.expect("is let in");
    for update in frames {
        let mut frame = Writer::new();
        frame.raw(&[0, 2]);
        frame.bytes(&update);
        // The node may have closed the connection already; what it said is read below.
        if socket.send(Message::Binary(frame.finish().into())).await.is_err() {
            break;
        }
    }
    loop {
        match socket.next().await.expect("a word of parting").expect("a frame") {
            Message::Close(Some(close)) => return close.code.into(),
            Message::Close(None) => panic!("no code"),
            _ => {}
        }
    }
}

/// Story: a program sends types that nest a hundred thousand deep, faster than its edits come back from the log; and the same by
/// HTTP. Both are refused at 64, and the node goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_that_nest_without_end_are_refused_however_they_come() {
    let node = Setup::default().start("eu-west").await.expect("starts");
    let client = Client::new(HttpClient::new(), node.addr().parse().expect("an address"));
    let code = closed_with(node.addr(), "sent", (0..10_000).map(nested)).await;
    assert_eq!(code, 4422);
    let text = client.ask(Ask::get("/v1/spaces/default/docs/sent?format=json")).await.ok();
    assert!(text.body["value"]["r"].is_array(), "{}", text.body);
    let update = |level| json!({"type": "doc", "op": "update", "update": as_bytes(&nested(level))});
    for level in 0..64 {
        client.write("posted", update(level)).await;
    }
    assert_eq!(client.ask(Ask::mutate("posted", &update(64))).await.code(), "too_large");
    // Edits that wait for what has not come are no way around.
    let mut taken = 0;
    for level in (1..200).rev() {
        taken += u64::from(client.ask(Ask::mutate("backwards", &update(level))).await.done());
    }
    assert_eq!(taken, 64, "edits that wait");
    assert_eq!(client.value("backwards").await, json!({}));
    node.stop().await.expect("stops");
}
