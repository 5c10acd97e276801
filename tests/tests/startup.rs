//! A node that cannot start says why and what to do, exits with 1, and changes nothing.
//!
//! Each refusal is tried with the program as an operator starts it. What needs rights that this run lacks (mounting a
//! small disk) is reported as skipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use meridian::cli::http::HttpClient;
use meridian::dev::ClusterOptions;
use meridian_tests::client::{Ask, Client, Outcome, add, outcome, set};
use meridian_tests::fleet::Fleet;
use meridian_tests::program::{self, Port, Running, SmallDisk, skipped};
use meridian_tests::wait;
use redb::{Database, ReadableDatabase, TableDefinition};
use serde_json::json;
use tempfile::TempDir;
use tokio::sync::watch;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const PATIENCE: Duration = Duration::from_secs(30);
/// A small disk: some times what an empty node takes.
const DISK_BYTES: u64 = 24 << 20;

/// One node that is a DC of its own, with its files and ports.
struct Place {
    folder: TempDir,
    data: PathBuf,
    client: Port,
    peer: Port,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { data: folder.path().join("data"), client: Port::choose(), peer: Port::choose(), folder }
    }

    /// Writes a configuration file with these names and further lines.
    fn config(&self, name: &str, dc: &str, id: u64, more: &str) -> String {
        let path = self.folder.path().join(format!("{name}.toml"));
        let text = format!(
            "[cluster]\nname = \"start\"\n[dc]\nname = \"{dc}\"\n[nodes.n1]\nid = {id}\ndata_dir = {}\n\
             client_listen = \"{}\"\npeer_listen = \"{}\"\n{more}\n",
            json!(self.data.to_string_lossy()),
            self.client.address,
            self.peer.address
        );
        std::fs::write(&path, text).expect("written");
        path.to_string_lossy().into_owned()
    }

    fn start(&self, config: &str) -> Running {
        Running::start(BINARY, &["serve", "--config", config], &[], &self.folder.path().join("log"))
    }

    fn node(&self) -> Client {
        Client::new(HttpClient::new(), self.client.address)
    }

    async fn ready(&self) -> Client {
        let node = self.node();
        wait::until("the node is ready", PATIENCE, async || match node.send(&Ask::get("/readyz")).await {
            Ok(reply) if reply.done() => Ok(()),
            Ok(reply) => {
                assert!(reply.body["error"]["retry_after_ms"].is_u64(), "{}", reply.body);
                Err(reply.body.to_string())
            }
            Err(e) => Err(e.to_string()),
        })
        .await;
        node
    }

    /// Every file of the data folder and its size. Not its bytes, and not the size of the state: redb notes in a file's header
    /// that it was opened, and gives back pages that are free; who the owner is stands inside.
    fn files(&self) -> BTreeMap<PathBuf, Option<u64>> {
        let Ok(entries) = std::fs::read_dir(&self.data) else { return BTreeMap::new() };
        let entries = entries.map(|entry| entry.expect("an entry"));
        let size = |entry: &std::fs::DirEntry| entry.metadata().expect("metadata").len();
        let is_state = |entry: &std::fs::DirEntry| entry.file_name() == "state.redb";
        entries.map(|entry| (entry.path(), (!is_state(&entry)).then(|| size(&entry)))).collect()
    }
}

/// Starts a node that must refuse, saying each of these words, and leave the data folder as it is.
async fn refused(place: &Place, what: &str, config: &str, words: &[&str], variables: &[(&str, &str)]) {
    let before = place.files();
    let ended = program::run(BINARY, &["serve", "--config", config], variables, "").await;
    assert_eq!(ended.code, Some(1), "{what}: {ended:?}");
    for word in words {
        assert!(ended.stderr.contains(word), "{what}: {word:?} is not in {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("panicked"), "{what}: {}", ended.stderr);
    assert_eq!(place.files(), before, "{what}: the data folder has changed");
}

#[tokio::test]
async fn a_bad_configuration_is_refused_before_anything_is_made() {
    let place = Place::new();
    for (what, lines, words) in [
        ("an unknown key", "[raft]\nheartbeet = \"1s\"", &["raft.heartbeet", "heartbeat"][..]),
        ("an unknown section", "[rafts]\nheartbeat = \"1s\"", &["rafts", "raft"]),
        ("a value of another kind", "[limits]\npage_max = \"many\"", &["limits.page_max", "many"]),
        ("a value out of range", "[raft]\nheartbeat = \"5h\"", &["raft.heartbeat"]),
        (
            "values that do not fit together",
            "[raft]\nheartbeat = \"500ms\"\nelection_min = \"300ms\"",
            &["election_min"],
        ),
        ("not TOML", "[raft", &["TOML"]),
    ] {
        let config = place.config("bad", "home", 1, lines);
        refused(&place, what, &config, words, &[]).await;
    }
    let good = place.config("good", "home", 1, "");
    let misspelt = [("MERIDIAN__RAFT__HEARTBEET", "1s")];
    refused(
        &place,
        "a variable that means nothing",
        &good,
        &["MERIDIAN__RAFT__HEARTBEET", "heartbeat"],
        &misspelt,
    )
    .await;
    let open = [
        ("MERIDIAN__NODES__N1__CLIENT_LISTEN", "0.0.0.0:0"),
        ("MERIDIAN__NODES__N1__PEER_LISTEN", "0.0.0.0:0"),
    ];
    refused(&place, "open to the world without a secret", &good, &["secret"], &open).await;
    let missing = place.folder.path().join("missing.toml");
    refused(&place, "no file", &missing.to_string_lossy(), &["missing.toml"], &[]).await;
    assert!(!place.data.exists(), "nothing was made");
}

/// Story: a node runs; others want its ports or its folder. Then it is stopped, and others want its data.
#[tokio::test]
async fn ports_and_folders_of_others_are_left_alone() {
    let place = Place::new();
    let config = place.config("good", "home", 1, "");
    let running = place.start(&config);
    let node = place.ready().await;
    node.write("kept", set("value")).await;

    let other = Place::new();
    let port = place.client.address.to_string();
    let taken = [("MERIDIAN__NODES__N1__CLIENT_LISTEN", port.as_str())];
    let theirs = other.config("good", "home", 1, "");
    refused(&other, "a client port in use", &theirs, &[&port, "cannot listen", "another process"], &taken)
        .await;
    let port = place.peer.address.to_string();
    let taken = [("MERIDIAN__NODES__N1__PEER_LISTEN", port.as_str())];
    refused(&other, "a peer port in use", &theirs, &[&port, "cannot listen"], &taken).await;
    assert!(!other.data.exists(), "a port in use changes nothing");
    let data = place.data.to_string_lossy().into_owned();
    let ended = program::run(BINARY, &["serve", "--config", &theirs, "--data-dir", &data], &[], "").await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("in use by another process"), "{}", ended.stderr);
    assert_eq!(node.value("kept").await, "value", "the running node is not disturbed");
    assert_eq!(running.stop().await, Some(0), "SIGTERM ends it in good order");

    let other_dc = place.config("dc", "elsewhere", 1, "");
    refused(&place, "another DC's data", &other_dc, &["belongs to", "home/1", "elsewhere/1"], &[]).await;
    let other_id = place.config("id", "home", 2, "");
    refused(&place, "another node's data", &other_id, &["belongs to", "home/1", "home/2"], &[]).await;
    let other_cluster = [("MERIDIAN__CLUSTER__NAME", "stranger")];
    refused(&place, "another cluster's data", &config, &["belongs to", "start", "stranger"], &other_cluster)
        .await;

    let running = place.start(&config);
    let node = place.ready().await;
    assert_eq!(node.value("kept").await, "value", "its owner finds everything after all of these");
    assert_eq!(running.stop().await, Some(0));

    make_newer(&place.data.join("state.redb"));
    refused(&place, "a newer format", &config, &["format 1000", "formats up to"], &[]).await;
    remove_log(&place.data);
    refused(&place, "a lost log", &config, &["no log"], &[]).await;
}

/// Removes the segments of a stopped node's log.
fn remove_log(data: &Path) {
    let entries = std::fs::read_dir(data).expect("listed");
    let paths = entries.map(|entry| entry.expect("listed").path());
    let is_segment =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("log."));
    let segments: Vec<PathBuf> = paths.filter(is_segment).collect();
    assert!(!segments.is_empty(), "there is a log");
    segments.iter().for_each(|segment| std::fs::remove_file(segment).expect("removed"));
}

/// Raises the number of the format in a file of a stopped node, as a later program would have written it.
fn make_newer(file: &Path) {
    const META: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("meta");
    const META_NUMBER: u64 = 0xff;
    let db = Database::open(file).expect("opened");
    let mut row = {
        let txn = db.begin_read().expect("begun");
        let table = txn.open_table(META).expect("the table");
        table.get(&b"identity"[..]).expect("read").expect("the row").value().to_vec()
    };
    // Seal (4 bytes), then the format (4 bytes), then what only the program of that format can read.
    row[4..8].copy_from_slice(&1000u32.to_be_bytes());
    let place = xxh3_64_with_seed(b"identity", META_NUMBER);
    let seal = (xxh3_64_with_seed(&row[4..], place) as u32).to_be_bytes();
    row[..4].copy_from_slice(&seal);
    let txn = db.begin_write().expect("begun");
    txn.open_table(META).expect("the table").insert(&b"identity"[..], row.as_slice()).expect("written");
    txn.commit().expect("committed");
}

/// A place whose data are on a small disk of their own, with where that is mounted; nothing, and the test called `what`
/// counted as skipped, where the machine does not let us mount one.
fn on_small_disk(what: &str) -> Option<(Place, PathBuf, SmallDisk)> {
    let place = Place::new();
    let mount = place.folder.path().join("disk");
    std::fs::create_dir(&mount).expect("made");
    match SmallDisk::mount(&mount, DISK_BYTES) {
        Ok(disk) => Some((Place { data: mount.join("data"), ..place }, mount, disk)),
        Err(why) => {
            skipped(what, &why);
            None
        }
    }
}

#[tokio::test]
async fn a_read_only_disk_is_refused() {
    let Some((place, mount, disk)) = on_small_disk("a read-only disk is refused") else { return };
    let config =
        place.config("good", "home", 1, "[storage]\ndisk_headroom = \"1MiB\"\nlog_segment = \"1MiB\"");
    let running = place.start(&config);
    place.ready().await.write("kept", set("value")).await;
    assert_eq!(running.stop().await, Some(0));
    disk.read_only().expect("remounted");
    refused(&place, "a read-only disk with data", &config, &["Read-only file system"], &[]).await;
    let empty = Place { data: mount.join("fresh"), ..place };
    let config = empty.config("good", "home", 1, "");
    refused(&empty, "a read-only disk without data", &config, &["Read-only file system"], &[]).await;
}

/// Story: the disk fills up to its headroom; writes are refused and reads go on; room is made, and writes go on.
#[tokio::test]
async fn a_disk_down_to_its_headroom_refuses_writes_until_there_is_room() {
    let Some((place, mount, _disk)) = on_small_disk("a disk down to its headroom refuses writes") else {
        return;
    };
    let more = "[storage]\ndisk_headroom = \"4MiB\"\nlog_segment = \"1MiB\"\ndisk_check_interval = \"100ms\"";
    let running = place.start(&place.config("good", "home", 1, more));
    let node = place.ready().await;
    node.write("kept", set("value")).await;
    let ballast = mount.join("ballast");
    fill(&ballast, 3 << 20);
    wait::until("writes are refused", PATIENCE, async || {
        let reply = node.ask(Ask::mutate("more", &add(1))).await;
        if reply.code() == "storage_full" && reply.status == 503 {
            Ok(())
        } else {
            Err(reply.body.to_string())
        }
    })
    .await;
    let before = node.value("more").await;
    assert_eq!(node.ask(Ask::delete("kept")).await.code(), "storage_full");
    assert_eq!(node.value("kept").await, "value", "reads go on");
    assert_eq!(node.value("more").await, before);
    std::fs::remove_file(&ballast).expect("removed");
    wait::until("writes go on", PATIENCE, async || {
        let reply = node.ask(Ask::mutate("more", &add(1))).await;
        if reply.done() { Ok(()) } else { Err(reply.body.to_string()) }
    })
    .await;
    assert_eq!(running.stop().await, Some(0));
}

/// Leaves so many bytes free on the disk of `file`.
fn fill(file: &Path, left: u64) {
    let folder = nix::sys::statvfs::statvfs(file.parent().expect("a folder")).expect("asked");
    let free = folder.blocks_available() * folder.fragment_size();
    std::fs::write(file, vec![1; usize::try_from(free.saturating_sub(left)).expect("small")])
        .expect("filled");
}

/// Story: the headroom is looked at too seldom, and the disk is really full. The node stops rather than go on after a
/// failed write; with room again, it has all that it acknowledged.
#[tokio::test]
async fn a_disk_that_is_full_stops_the_node_and_loses_nothing_acknowledged() {
    let Some((place, mount, _disk)) = on_small_disk("a full disk stops the node") else { return };
    let more = "[storage]\ndisk_headroom = \"1MiB\"\nlog_segment = \"1MiB\"\ndisk_check_interval = \"60s\"\ncheckpoint_interval = \"200ms\"";
    let config = place.config("good", "home", 1, more);
    let running = place.start(&config);
    let node = place.ready().await;
    let ballast = mount.join("ballast");
    fill(&ballast, 256 << 10);
    let mut acked = 0;
    let mut unknown = 0;
    for number in 0..400 {
        let ask = Ask::mutate(&format!("large/{number:03}"), &set("v".repeat(20_000)))
            .within(Duration::from_secs(5));
        match outcome(&node.send(&ask).await) {
            Outcome::Acked => acked += 1,
            Outcome::Unknown(_) => unknown += 1,
            Outcome::NotDone(_) => break,
        }
    }
    let said = running.said();
    assert_eq!(running.ended().await, Some(1), "{said}");
    std::fs::remove_file(&ballast).expect("removed");
    let running = place.start(&config);
    let node = place.ready().await;
    let listed = node.ask(Ask::get("/v1/spaces/default/keys?prefix=large/")).await.ok();
    let found = listed.body["keys"].as_array().map_or(0, Vec::len);
    println!("a full disk: {acked} acknowledged, {unknown} unknown, {found} there after the restart");
    assert!((acked..=acked + unknown).contains(&found), "{found}");
    for number in 0..acked {
        assert_eq!(node.value(&format!("large/{number:03}")).await, json!("v".repeat(20_000)));
    }
    assert_eq!(running.stop().await, Some(0));
}

/// Adds one to a counter of its own again and again until it is told to stop; says how often that was acknowledged, and how often
/// it may have been done.
async fn count_from_the_start(node: Client, key: String, stop: watch::Receiver<bool>) -> (i64, i64) {
    let (mut acked, mut unknown) = (0, 0);
    while !*stop.borrow() {
        match outcome(&node.send(&Ask::mutate(&key, &add(1)).within(Duration::from_secs(5))).await) {
            Outcome::Acked => acked += 1,
            Outcome::Unknown(_) => unknown += 1,
            // Nobody listens yet, or nobody leads: the pause leaves the processors to those who start.
            Outcome::NotDone(_) => tokio::time::sleep(Duration::from_millis(3)).await,
        }
    }
    (acked, unknown)
}

/// Story: an application writes to two datacenters while they start for the first time. What they take before they have met
/// reaches both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_the_first_moment_reach_every_datacenter() {
    let prepare = |folder: &Path| {
        let latency = Duration::from_millis(20);
        let options = ClusterOptions::new(BINARY, folder);
        Ok(ClusterOptions { dcs: Some(2), nodes: Some(3), latency, ..options })
    };
    let fleet = Fleet::begin_prepared(prepare).await.expect("nothing is prepared");
    let (stop, stopped) = watch::channel(false);
    let mut writers = Vec::new();
    for name in fleet.node_names() {
        for writer in 0..4 {
            let key = format!("{}-{writer}", name.replace('/', "-"));
            let counting = count_from_the_start(fleet.node(&name), key.clone(), stopped.clone());
            writers.push((key, tokio::spawn(counting)));
        }
    }
    fleet.ready().await;
    stop.send_replace(true);
    let mut counted = BTreeMap::new();
    for (key, writer) in writers {
        counted.insert(key, writer.await.expect("a writer ends"));
    }
    fleet.agreed(PATIENCE).await;
    let node = fleet.node("us-east/1");
    for (key, (acked, unknown)) in &counted {
        let value = node.ask(Ask::read(key)).await.value().as_i64().unwrap_or(0);
        assert!((*acked..=acked + unknown).contains(&value), "{key}: {value} of {acked} and {unknown} more");
    }
    let acked: i64 = counted.values().map(|(acked, _)| acked).sum();
    assert!(acked > 0, "{counted:?}");
    println!("writes from the start: {acked} acknowledged");
}
