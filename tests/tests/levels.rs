//! Write levels: an answer says that so many DCs hold the write, or which do, and the write stays in any case.

use std::time::Duration;

use meridian_tests::client::{Ask, Client, add, set};
use meridian_tests::fleet::Fleet;
use serde_json::json;

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const LATENCY: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_secs(30);
const LEVEL: &str = "Meridian-Commit";

/// A write at `level` that waits for at most `wait`.
fn write(level: &str, wait: &str) -> Ask {
    Ask::mutate("k", &add(1)).header(LEVEL, level).wait(wait)
}

/// Whether `dc` has `key` at this moment, without waiting.
async fn has_now(dc: &Client, key: &str) -> bool {
    dc.ask(Ask::read(key).eventual()).await.done()
}

/// Story: an answer at a level is true when it comes; then one DC is cut off, and answers name the others; in the end
/// everything that was written is everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_at_a_level_is_true_and_a_late_one_names_who_holds_the_write() {
    let fleet = Fleet::start(BINARY, 3, 1, LATENCY).await;
    let [eu, us, ap] = ["eu-west", "us-east", "ap-south"].map(|dc| fleet.node(&format!("{dc}/1")));

    eu.ask(Ask::mutate("all", &set(1)).header(LEVEL, "all").wait("20s")).await.ok();
    assert!(has_now(&us, "all").await && has_now(&ap, "all").await, "every DC holds it");
    eu.ask(Ask::mutate("two", &set(1)).header(LEVEL, "dcs:2").wait("20s")).await.ok();
    assert!(has_now(&us, "two").await || has_now(&ap, "two").await, "another DC holds it");
    let refused = eu.ask(write("dcs:4", "1s")).await;
    assert_eq!((refused.status, refused.code()), (400, "bad_header"), "there are three DCs");

    for other in ["us-east", "ap-south"] {
        fleet.cluster().cut("eu-west", other).expect("cut");
    }
    let late = eu.ask(write("dcs:2", "300ms")).await;
    assert_eq!((late.status, late.code()), (504, "commit_timeout"), "{}", late.body);
    assert_eq!(late.body["error"]["held_by"], json!(["eu-west"]));
    let kept = eu.ask(Ask::read("k").after(late.token())).await.ok();
    assert_eq!(kept.value(), &json!(1), "the write stays");

    fleet.cluster().heal(None).expect("healed");
    eu.ask(write("all", "20s")).await.ok();
    fleet.agreed(PATIENCE).await;
    assert_eq!(ap.value("k").await, json!(2));
}
