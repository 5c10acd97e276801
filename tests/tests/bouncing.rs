//! People who type while they are sent from one datacenter to another every two seconds, and nodes, leaders and a whole
//! datacenter are killed: unmodified clients of both protocols.

use std::path::Path;
use std::time::Duration;

use meridian_tests::editors::{self, Editors};
use meridian_tests::fleet::Fleet;
use meridian_tests::wait;
use tokio::time::{Instant, sleep_until};

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);
const DCS: [&str; 2] = ["eu-west", "us-east"];
/// How long somebody stays at a datacenter, and how often he is sent to the other one.
const STAY: Duration = Duration::from_secs(2);
const BOUNCES: usize = 8;
/// Between two words of one person.
const PAUSE: Duration = Duration::from_millis(50);
const DOC: &str = "bounced";

/// Story: two people type all the time. Neither is ever longer than two seconds at a datacenter, and whoever serves them is
/// killed. In the end everybody sees every word, once, and each person's words in the order in which they were typed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_bounced_between_datacenters_while_nodes_die_loses_nothing_and_doubles_nothing() {
    let Some(folder) = editors::install(Path::new(env!("CARGO_TARGET_TMPDIR"))).await else { return };
    let editors = Editors::start(&folder);
    let fleet = Fleet::start(BINARY, 2, 3, LATENCY).await;
    let mut typed = 0;
    for bounce in 0..=BOUNCES {
        for (person, hocuspocus) in [("ann", false), ("ben", true)] {
            // They are never at the same datacenter, and not always at the same node of one.
            let dc = DCS[(bounce + usize::from(hocuspocus)) % DCS.len()];
            let node = fleet.node(&format!("{dc}/{}", 1 + bounce % 3));
            if hocuspocus {
                editors.begins_to_enter(person, &node, DOC, person).await;
            } else {
                editors.begin(person, &node, DOC).await;
            }
        }
        let leaves = Instant::now() + STAY;
        let strikes = Instant::now() + STAY / 2;
        let mut struck = false;
        while Instant::now() < leaves {
            for person in ["ann", "ben"] {
                editors.types(person, &format!("{person}{typed};"), None).await;
            }
            typed += 1;
            if !struck && Instant::now() >= strikes {
                strike(&fleet, bounce).await;
                struck = true;
            }
            // It is a person who types; nothing is waited for.
            sleep_until(Instant::now() + PAUSE).await;
        }
    }
    for node in ["eu-west/1", "us-east/3"] {
        editors.begin(node, &fleet.node(node), DOC).await;
    }
    let seen = editors
        .agree(&["ann", "ben", "eu-west/1", "us-east/3"], PATIENCE, |seen| {
            seen["t"].as_str().is_some_and(|text| text.split_terminator(';').count() >= 2 * typed)
        })
        .await;
    let text = seen["t"].as_str().expect("a text");
    for person in ["ann", "ben"] {
        let words: Vec<&str> = text.split_terminator(';').filter(|word| word.starts_with(person)).collect();
        let all: Vec<String> = (0..typed).map(|word| format!("{person}{word}")).collect();
        assert_eq!(words, all);
    }
    fleet.agreed(PATIENCE).await;
    for name in fleet.node_names() {
        wait::until("the node reads what the editors see", PATIENCE, async || {
            let value = fleet.node(&name).value(DOC).await;
            if value["t"] == text { Ok(()) } else { Err(format!("{name}: {value}")) }
        })
        .await;
    }
    println!("two people typed {typed} words each in {} stays, and all are there once", BOUNCES + 1);
}

/// What befalls the cluster during the stay of this number.
async fn strike(fleet: &Fleet, stay: usize) {
    let cluster = fleet.cluster();
    match stay {
        1 => cluster.kill("eu-west/2").await.expect("killed"),
        2 => cluster.restart("eu-west/2").await.expect("restarted"),
        3 => {
            let leader = fleet.leader("us-east").await;
            cluster.kill(&leader).await.expect("killed");
            cluster.restart(&leader).await.expect("restarted");
        }
        4 => {
            for node in fleet.node_names().iter().filter(|name| name.starts_with("eu-west/")) {
                cluster.kill(node).await.expect("killed");
            }
        }
        6 => {
            for node in fleet.node_names().iter().filter(|name| name.starts_with("eu-west/")) {
                cluster.restart(node).await.expect("restarted");
            }
        }
        _ => {}
    }
}
