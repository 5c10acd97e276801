//! A datacenter goes back to an older copy of its disk, or has lost it altogether. It takes writes again when every other
//! datacenter has taken note of its new life and it has back what they hold for stable, and nobody differs afterwards.

use std::path::{Path, PathBuf};
use std::time::Duration;

use meridian_tests::client::{Ask, Client, Outcome, add, outcome};
use meridian_tests::fleet::Fleet;
use meridian_tests::wait;
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(30);
const US: &str = "us-east/1";

fn rwset(op: &str) -> Value {
    json!({"type": "rwset", "op": op, "element": "x"})
}

fn data(fleet: &Fleet) -> PathBuf {
    fleet.folder().join(US).join("data")
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// Waits until every datacenter holds everything for stable.
async fn stable(fleet: &Fleet) {
    wait::until("everything is stable", PATIENCE, async || {
        for name in fleet.node_names() {
            let status = fleet.node(&name).status().await.map_err(|e| e.to_string())?;
            if status["vector"] != status["stable"] {
                return Err(format!("{name}: {status}"));
            }
        }
        Ok(())
    })
    .await;
}

async fn status(client: &Client, what: &str, holds: impl Fn(&Value) -> bool) {
    wait::until(what, PATIENCE, async || {
        let status = client.status().await.map_err(|e| e.to_string())?;
        if holds(&status) { Ok(()) } else { Err(status.to_string()) }
    })
    .await;
}

/// us-east goes back to `copy`, or to nothing, after it has told that it has a removal that is stable by now. Until
/// ap-south, which cannot hear it, takes note, it takes no writes.
async fn comes_back(fleet: &Fleet, older: Option<&Path>) {
    let (eu, us) = (fleet.node("eu-west/1"), fleet.node(US));
    eu.write("s", rwset("remove")).await;
    us.write("n", add(1)).await;
    fleet.converged(PATIENCE).await;
    stable(fleet).await;

    fleet.cluster().kill(US).await.expect("killed");
    std::fs::remove_dir_all(data(fleet)).expect("removed");
    if let Some(older) = older {
        copy(older, &data(fleet));
    }
    fleet.cluster().cut("us-east", "ap-south").expect("cut");
    fleet.cluster().restart(US).await.expect("restarted");
    status(&us, "us-east knows that it has lost what it had", |status| {
        status["recovering"]["unadmitted"] == json!(["ap-south"])
    })
    .await;
    let refused = us.send(&Ask::mutate("s", &rwset("add"))).await;
    assert_eq!(outcome(&refused), Outcome::NotDone("not_caught_up".into()), "{refused:?}");
    assert_eq!(us.metric("meridian_recovering").await, Some(1));

    fleet.cluster().heal(Some(("us-east", "ap-south"))).expect("healed");
    status(&us, "us-east has recovered", |status| status["recovering"].is_null()).await;
    us.write("s", rwset("add")).await;
    us.write("n", add(1)).await;
    let (contents, _) = fleet.agreed(PATIENCE).await;
    assert_eq!(contents["s"], json!(["x"]));
    stable(fleet).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_datacenter_whose_disk_went_back_writes_when_it_has_back_what_is_stable() {
    let fleet = Fleet::start(BINARY, 3, 1, LATENCY).await;
    fleet.node("eu-west/1").write("s", rwset("add")).await;
    fleet.converged(PATIENCE).await;
    fleet.cluster().kill(US).await.expect("killed");
    let older = fleet.folder().join("older");
    copy(&data(&fleet), &older);
    fleet.cluster().restart(US).await.expect("restarted");
    fleet.converged(PATIENCE).await;

    comes_back(&fleet, Some(&older)).await;
    // The same copy once more: the life in it has ended long ago. And then nothing is left at all.
    comes_back(&fleet, Some(&older)).await;
    comes_back(&fleet, None).await;
    let (contents, _) = fleet.agreed(PATIENCE).await;
    assert_eq!(contents["n"], 6, "nothing that was acknowledged is lost, and nothing is there twice");
}
