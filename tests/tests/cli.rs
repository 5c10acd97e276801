//! The program as people use it: a `dev` cluster, data commands for every type, control commands from another terminal,
//! and the end of everything when `dev` is killed.

use std::path::Path;
use std::time::Duration;

use meridian::dev::description::{self, Description};
use meridian_tests::program::{Ended, Running, run_in, skipped};
use meridian_tests::wait;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const PATIENCE: Duration = Duration::from_secs(60);
/// Where `dev` keeps its cluster, and where the other commands look for it.
const DEV: &str = "meridian-dev";

/// Story: two DCs of one node each in a folder, as after `meridian dev` in an empty one. Commands run in that folder, so
/// they find the cluster by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dev_cluster_is_used_controlled_and_ended_from_the_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let data = folder.join(DEV);
    std::fs::create_dir(&data).expect("made");
    let words =
        ["dev", "--dcs", "2", "--nodes", "1", "--wan-latency", "10ms", "--data", &data.to_string_lossy()];
    let dev = Running::start(BINARY, &words, &[], &folder.join("log"));
    wait::until(
        "dev is ready",
        PATIENCE,
        async || {
            if described(folder).is_some() { Ok(()) } else { Err(dev.said()) }
        },
    )
    .await;
    every_type_can_be_written_and_read(folder).await;
    mistakes_have_their_exit_codes(folder).await;
    sessions_and_request_ids_work_from_files_and_flags(folder).await;
    control_commands_do_what_they_say(folder).await;
    clocks_can_be_moved(folder).await;
    a_benchmark_reports_in_its_last_line(folder).await;
    nothing_outlives_dev(folder, dev).await;
}

async fn meridian(folder: &Path, line: &str) -> Ended {
    let words: Vec<&str> = line.split(' ').collect();
    run_in(folder, BINARY, &words, &[], "").await
}

fn described(folder: &Path) -> Option<Description> {
    description::read(&folder.join(DEV).join(description::FILE)).ok()
}

fn pids(folder: &Path) -> Vec<Option<u32>> {
    let dcs = described(folder).expect("cluster.json").dcs;
    dcs.iter().flat_map(|dc| dc.nodes.iter().map(|node| node.pid)).collect()
}

fn server(folder: &Path, dc: usize) -> String {
    described(folder).expect("cluster.json").dcs[dc].nodes[0].client.clone()
}

async fn every_type_can_be_written_and_read(folder: &Path) {
    for (write, read, shown) in [
        ("register set r text", "r", "text"),
        ("register set r {\"a\":[1,null]}", "r", "{\"a\":[1,null]}"),
        ("mvregister set mv 7", "mv", "[7]"),
        ("counter add c 5", "c", "5"),
        ("counter add c -7", "c", "-2"),
        ("flag enable f", "f", "true"),
        ("dwflag enable df", "df", "true"),
        ("set add s apple", "s", "[\"apple\"]"),
        ("set add s pear fig 3", "s", "[3,\"apple\",\"fig\",\"pear\"]"),
        ("set remove s apple pear", "s", "[3,\"fig\"]"),
        ("rwset add rs x y", "rs", "[\"x\",\"y\"]"),
        ("rwset remove rs x", "rs", "[\"y\"]"),
        ("map update m name register set Ann", "m", "{\"name\":{\"type\":\"register\",\"value\":\"Ann\"}}"),
        ("map update m name register clear", "m", ""),
        ("map update m hits counter add 2", "m", "{\"hits\":{\"type\":\"counter\",\"value\":2}}"),
        ("map remove m hits", "m", ""),
        ("counter reset c", "c", ""),
        ("flag disable f", "f", ""),
        ("dwflag disable df", "df", ""),
        ("set clear s", "s", ""),
        ("register clear r", "r", ""),
        ("mvregister delete mv", "mv", ""),
        ("delete rs", "rs", ""),
    ] {
        let written = meridian(folder, write).await;
        assert_eq!(written.code, Some(0), "{write}: {written:?}");
        let found = meridian(folder, &format!("get {read}")).await;
        if shown.is_empty() {
            assert_eq!(found.code, Some(1), "{write}: {found:?}");
            assert!(found.stderr.contains("not_found"), "{write}: {found:?}");
        } else {
            assert_eq!((found.code, found.stdout.as_str()), (Some(0), shown), "{write}: {found:?}");
        }
    }
    for line in ["set add cart apple pear", "counter add visits 5"] {
        let written = meridian(folder, &format!("{line} --json")).await;
        let body: Value = serde_json::from_str(&written.stdout).expect("JSON");
        assert!(written.code == Some(0) && body["version"].is_string(), "{written:?}");
    }
    let present = meridian(folder, "get cart --element apple").await;
    assert_eq!((present.code, present.stdout.as_str()), (Some(0), "true"));
    let read = json_of(&meridian(folder, "--json get visits").await);
    assert_eq!((&read["type"], &read["value"]), (&json!("counter"), &json!(5)));
    let listed = json_of(&meridian(folder, "list --json").await);
    assert_eq!((&listed["keys"][0]["key"], &listed["keys"][1]["key"]), (&json!("cart"), &json!("visits")));
    let explained = json_of(&meridian(folder, "explain visits --json").await);
    assert_eq!(explained["cells"][0]["dots"][0]["dc"], "eu-west", "{explained}");
    let txn =
        r#"{"if":[{"key":"visits","value":5}],"ops":[{"key":"visits","type":"counter","op":"add","by":1}]}"#;
    let done = run_in(folder, BINARY, &["txn", "-"], &[], txn).await;
    assert_eq!(done.code, Some(0), "{done:?}");
    let failed = run_in(folder, BINARY, &["--json", "txn", "-"], &[], txn).await;
    assert_eq!((failed.code, &json_of(&failed)["error"]["failed"]), (Some(1), &json!([0])));
}

fn json_of(ended: &Ended) -> Value {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|e| panic!("{e}: {ended:?}"))
}

async fn mistakes_have_their_exit_codes(folder: &Path) {
    for (line, code, said) in [
        ("counter add visits", 2, "takes KEY N"),
        ("counter add visits many", 2, "many"),
        ("counter sub visits 1", 2, "sub"),
        ("blob set k 1", 2, "blob"),
        ("get", 2, "KEY"),
        ("get nothing", 1, "not_found"),
        ("register set visits text", 1, "wrong_type"),
        ("get visits --server 127.0.0.1:1 --timeout 2s", 1, "127.0.0.1:1"),
        ("get visits --wait soon", 1, "bad_header"),
        ("get visits --space a/b", 1, "bad_key"),
        ("serve --config missing.toml", 1, "missing.toml"),
        ("dev heal --data elsewhere", 1, "no dev runs"),
        ("dev cut eu-west", 2, "<B>"),
        ("dev cut eu-west mars", 1, "mars"),
        ("dev kill eu-west/9", 1, "eu-west/9"),
        ("dev clock eu-west/1 soon", 2, "soon"),
    ] {
        let ended = meridian(folder, line).await;
        assert_eq!(ended.code, Some(code), "{line}: {ended:?}");
        assert!(ended.stderr.contains(said), "{line}: {ended:?}");
        assert!(ended.stdout.is_empty(), "{line}: errors go to standard error: {ended:?}");
    }
    let error = meridian(folder, "get nothing --json").await;
    assert_eq!((error.code, &json_of(&error)["error"]["code"]), (Some(1), &json!("not_found")));
    let variable =
        run_in(folder, BINARY, &["get", "visits"], &[("MERIDIAN_SERVER", &server(folder, 1))], "").await;
    assert_eq!(variable.code, Some(0), "{variable:?}");
    for line in [&["get", "visits"][..], &["status"], &["bench", "--seconds", "1"]] {
        let wrong = run_in(folder, BINARY, line, &[("MERIDIAN_SERVER", "nonsense")], "").await;
        assert_eq!(wrong.code, Some(2), "{line:?}: {wrong:?}");
        assert!(
            wrong.stderr.contains("MERIDIAN_SERVER: ") && wrong.stderr.contains("HOST:PORT"),
            "{wrong:?}"
        );
    }
}

async fn sessions_and_request_ids_work_from_files_and_flags(folder: &Path) {
    let (eu, us) = (server(folder, 0), server(folder, 1));
    for number in 1..=3 {
        let written =
            meridian(folder, &format!("register set seen {number} --session token --server {eu}")).await;
        assert_eq!(written.code, Some(0), "{written:?}");
        let read = meridian(folder, &format!("get seen --session token --server {us}")).await;
        assert_eq!((read.code, read.stdout.as_str()), (Some(0), number.to_string().as_str()), "{read:?}");
    }
    for _ in 0..3 {
        let once = meridian(folder, &format!("counter add once 1 --request-id only --server {eu}")).await;
        assert_eq!(once.code, Some(0), "{once:?}");
    }
    assert_eq!(meridian(folder, &format!("get once --server {eu}")).await.stdout, "1");
}

async fn control_commands_do_what_they_say(folder: &Path) {
    let control = async |line: &str| {
        let ended = meridian(folder, &format!("dev {line}")).await;
        assert_eq!(ended.code, Some(0), "{line}: {ended:?}");
    };
    let (eu, us) = (server(folder, 0), server(folder, 1));
    control("cut eu-west us-east").await;
    let written = meridian(folder, &format!("set add apart eu --session cut --server {eu}")).await;
    assert_eq!(written.code, Some(0), "{written:?}");
    let behind = meridian(folder, &format!("--json get apart --session cut --wait 0ms --server {us}")).await;
    assert_eq!((behind.code, &json_of(&behind)["error"]["origin"]), (Some(1), &json!("eu-west")));
    meridian(folder, &format!("set add apart us --server {us}")).await;
    control("heal").await;
    let together = meridian(folder, &format!("get apart --session cut --wait 30s --server {us}")).await;
    assert_eq!(together.stdout, "[\"eu\",\"us\"]", "{together:?}");

    let [Some(first), Some(second)] = pids(folder)[..] else { panic!("both run") };
    control("kill us-east/1").await;
    assert_eq!(pids(folder), [Some(first), None]);
    assert!(!runs(second));
    let again = meridian(folder, "dev kill us-east/1").await;
    assert_eq!(again.code, Some(1), "it is dead already: {again:?}");
    control("restart us-east/1 --data meridian-dev").await;
    let [Some(_), Some(third)] = pids(folder)[..] else { panic!("both run again") };
    assert!(runs(third) && third != second);
    let read = meridian(folder, &format!("get apart --session cut --wait 30s --server {us}")).await;
    assert_eq!(read.stdout, "[\"eu\",\"us\"]", "{read:?}");
    let status = json_of(&meridian(folder, "status --json").await);
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(2), "{status}");
    let table = meridian(folder, "status").await;
    assert!(table.code == Some(0) && table.stdout.contains("us-east"), "{table:?}");
}

async fn clocks_can_be_moved(folder: &Path) {
    let (eu, us) = (server(folder, 0), server(folder, 1));
    assert_eq!(meridian(folder, "dev clock eu-west/1 +1h").await.code, Some(0));
    let written = meridian(folder, &format!("register set late future --session clock --server {eu}")).await;
    if written.stderr.contains("clock_unsafe") {
        skipped("writes of a clock that is off", "this version refuses them");
    } else {
        // A later write replaces what it observed, whatever the date of that.
        meridian(folder, &format!("get late --session clock --wait 30s --server {us}")).await;
        let later =
            meridian(folder, &format!("register set late present --session clock --server {us}")).await;
        assert_eq!(later.code, Some(0), "{later:?}");
        let read = meridian(folder, &format!("get late --session clock --wait 30s --server {eu}")).await;
        assert_eq!(read.stdout, "present", "{read:?}");
    }
    assert_eq!(meridian(folder, "dev clock eu-west/1 +0s").await.code, Some(0));
}

async fn a_benchmark_reports_in_its_last_line(folder: &Path) {
    let server = server(folder, 0);
    for workload in ["put", "counter", "get", "mix"] {
        let line =
            format!("bench --server {server} --workload {workload} --clients 4 --seconds 1 --keys 10 --json");
        let ended = meridian(folder, &line).await;
        let report: Value =
            serde_json::from_str(ended.stdout.lines().last().unwrap_or_default()).expect("JSON");
        assert_eq!(
            (ended.code, &report["workload"], &report["errors"]),
            (Some(0), &json!(workload), &json!(0))
        );
        let measured =
            ["ops", "ops_per_s", "p50_ms", "p99_ms"].iter().all(|name| report[name].as_f64() > Some(0.0));
        assert!(measured && report["clients"] == 4, "{report}");
    }
}

fn runs(pid: u32) -> bool {
    // A process that has ended and is not waited for has no command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

async fn nothing_outlives_dev(folder: &Path, dev: Running) {
    let nodes: Vec<u32> = pids(folder).into_iter().flatten().collect();
    assert!(nodes.len() == 2 && nodes.iter().all(|pid| runs(*pid)));
    dev.signal(Signal::SIGKILL);
    assert_eq!(dev.ended().await, None, "a signal ended it");
    let (_, took) = wait::until("all nodes end", PATIENCE, async || {
        let left: Vec<&u32> = nodes.iter().filter(|pid| runs(**pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} run")) }
    })
    .await;
    println!("dev killed: all nodes ended within {took:?}");
    let nobody = meridian(folder, "dev heal").await;
    assert!(nobody.code == Some(1) && nobody.stderr.contains("no dev runs"), "{nobody:?}");
}
