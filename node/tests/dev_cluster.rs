//! A cluster of real processes: what `cluster.json` says, and that nothing outlives `dev`.

use std::process::{Command, Stdio};
use std::time::Duration;

use meridian::dev::{Cluster, ClusterOptions, DevError, description};

const PATIENCE: Duration = Duration::from_secs(60);

fn options(folder: &std::path::Path) -> ClusterOptions {
    ClusterOptions {
        dcs: Some(2),
        nodes: Some(1),
        latency: Duration::from_millis(5),
        ..ClusterOptions::new(env!("CARGO_BIN_EXE_meridian"), folder)
    }
}

fn pids(folder: &std::path::Path) -> Vec<Option<u32>> {
    let description = description::read(&folder.join(description::FILE)).expect("cluster.json");
    description.dcs.iter().flat_map(|dc| dc.nodes.iter().map(|node| node.pid)).collect()
}

fn runs(pid: u32) -> bool {
    // A zombie has no command line.
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_description_is_true_through_kill_restart_and_stop() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(description::FILE), "stale").expect("written");
    let cluster = Cluster::start(options(folder.path())).await.expect("started");
    assert!(!folder.path().join(description::FILE).exists(), "an old description is removed at start");
    cluster.wait_ready(PATIENCE).await.expect("ready");
    let [Some(first), Some(second)] = pids(folder.path())[..] else { panic!("both run") };
    let again = Cluster::start(options(folder.path())).await.expect_err("in use");
    assert!(matches!(again, DevError::InUse(_)), "{again}");

    cluster.kill("eu-west/1").await.expect("killed");
    assert_eq!(pids(folder.path()), [None, Some(second)]);
    assert!(!runs(first));
    assert!(cluster.kill("eu-west/1").await.is_err(), "it is dead already");
    assert!(cluster.kill("eu-west/2").await.is_err(), "there is no such node");
    let before = cluster.client("eu-west/1").expect("a node");
    cluster.restart("eu-west/1").await.expect("restarted");
    let [Some(third), Some(_)] = pids(folder.path())[..] else { panic!("both run") };
    assert!(third != first && runs(third));
    assert_eq!(cluster.client("eu-west/1").expect("a node"), before);
    cluster.wait_ready(PATIENCE).await.expect("ready again");

    cluster.cut("eu-west", "us-east").expect("cut");
    assert!(cluster.cut("eu-west", "eu-west").is_err() && cluster.cut("eu-west", "mars").is_err());
    cluster.heal(None).expect("healed");
    assert!(cluster.wan().cuts().is_empty());

    cluster.kill_all().await.expect("killed");
    assert_eq!(pids(folder.path()), [None, None]);
    cluster.stop().await.expect("stopped");
    drop(cluster);
    assert!(!folder.path().join(description::FILE).exists());

    let other = ClusterOptions { nodes: Some(3), ..options(folder.path()) };
    let other = Cluster::start(other).await.expect_err("another shape");
    assert!(matches!(other, DevError::OtherShape { .. }), "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_end_when_dev_is_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut dev = Command::new(env!("CARGO_BIN_EXE_meridian"))
        .args(["dev", "--dcs", "1", "--nodes", "1", "--data"])
        .arg(folder.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("started");
    let file = folder.path().join(description::FILE);
    let wait = async |what: &str, done: &dyn Fn() -> bool| {
        let done = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, done).await.unwrap_or_else(|_| panic!("{what}"));
    };
    wait("it becomes ready", &|| file.exists()).await;
    let [Some(pid)] = pids(folder.path())[..] else { panic!("it runs") };
    assert!(runs(pid));
    let control = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meridian"));
        command.arg("dev").args(words).arg("--data").arg(folder.path());
        command.output().expect("run").status.code()
    };
    assert_eq!(control(&["restart", "eu-west/1"]), Some(0));
    assert_eq!(control(&["kill", "eu-west/9"]), Some(1));
    assert_eq!(control(&["clock", "eu-west/1", "soon"]), Some(2));
    let [Some(pid)] = pids(folder.path())[..] else { panic!("it runs again") };
    dev.kill().expect("killed");
    dev.wait().expect("waited for");
    wait("the node ends with dev", &|| !runs(pid)).await;
    assert_eq!(control(&["heal"]), Some(1), "nobody is there to ask");
}
