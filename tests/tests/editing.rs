//! Much editing by unmodified clients of Yjs, in two datacenters at once: random documents, compared with what Yjs makes of
//! them, and real people's traces.
//!
//! `MERIDIAN_FUZZ_ROUNDS` and `MERIDIAN_FUZZ_SEED` make the first one longer and another one, as for a night;
//! `MERIDIAN_TRACES` names the folder of the traces, without which the second is skipped.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use meridian_tests::editors;
use meridian_tests::fleet::Fleet;
use meridian_tests::program::skipped;
use tokio::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a script may take beside the time that each round of random documents may.
const SCRIPT_LIMIT: Duration = Duration::from_secs(300);
const ROUND_LIMIT: Duration = Duration::from_secs(60);
const ROUNDS: u32 = 8;
const SEED: u32 = 1;

fn chosen(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

/// Runs a script of the clients' folder; what it says at its end.
async fn run(folder: &Path, script: &str, args: &[String], limit: Duration) -> String {
    let mut node = Command::new("node");
    node.arg(script).args(args).current_dir(folder).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(limit, node.output()).await.expect("it ends in time");
    let output = output.expect("node runs where npm does");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    assert!(output.status.success(), "{script} {args:?}: {}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

fn servers(fleet: &Fleet, names: &[&str]) -> Vec<String> {
    names.iter().map(|name| fleet.node(name).server().to_owned()).collect()
}

/// Story: four people at four nodes of two datacenters edit texts, maps, arrays and XML of the same document, go offline, move and come
/// back. They all see the same in the end, and the nodes, whose decoder is another one, show what Yjs shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_yjs_makes_of_random_documents_is_what_every_node_makes_of_them() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("editing-random");
    let Some(folder) = editors::install(&folder).await else { return };
    let fleet = Fleet::start(BINARY, 2, 3, LATENCY).await;
    let (seed, rounds) = (chosen("MERIDIAN_FUZZ_SEED", SEED), chosen("MERIDIAN_FUZZ_ROUNDS", ROUNDS));
    let mut args = vec![seed.to_string(), rounds.to_string()];
    args.extend(servers(&fleet, &["eu-west/1", "us-east/1", "eu-west/2", "us-east/3"]));
    let said = run(&folder, "fuzz.mjs", &args, SCRIPT_LIMIT + ROUND_LIMIT * rounds).await;
    assert!(said.contains(&format!("\"rounds\":{rounds}")), "{said}");
    fleet.agreed(PATIENCE).await;
}

/// Story: somebody's hours at a program, one keystroke at a time, and two friends who wrote one text together, each in another
/// datacenter here. Every editor and every datacenter ends up with the text that they had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_editing_ends_with_the_text_that_its_authors_had() {
    let Some(traces) = std::env::var_os("MERIDIAN_TRACES").map(PathBuf::from) else {
        return skipped("real editing traces", "MERIDIAN_TRACES names no folder of traces");
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("editing-real");
    let Some(folder) = editors::install(&folder).await else { return };
    let fleet = Fleet::start(BINARY, 2, 3, LATENCY).await;
    let servers = servers(&fleet, &["eu-west/1", "us-east/1"]);
    for trace in ["sequential/sveltecomponent.json.gz", "concurrent/friendsforever.json.gz"] {
        let mut args = vec![traces.join(trace).display().to_string(), trace.to_owned()];
        args.extend(servers.iter().cloned());
        println!("{trace}: {}", run(&folder, "traces.mjs", &args, SCRIPT_LIMIT).await);
    }
    fleet.agreed(PATIENCE).await;
}
