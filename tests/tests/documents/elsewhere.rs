//! Editors who move to another datacenter faster than their document does.

use std::time::{Duration, Instant};

use bytes::Bytes;
use meridian::docs::wire::{Message, step_1, step_2 as all_of_mine, update as edit};
use meridian_crdt::{Document, YrsDocument};
use meridian_tests::client::{Ask, Client};
use meridian_tests::fleet::Fleet;
use meridian_tests::wait;
use serde_json::{Value, json};

use super::line::{Line, typed};
use super::{BINARY, PATIENCE};

/// How long an editor is sent away whose document has not arrived.
const UNHEARD: Duration = Duration::from_secs(4);
const CONFIG: &str = "[documents]\nunheard = \"4s\"\n";

/// A document that its editor has begun, with the mark of its incarnation.
async fn begun(node: &Client, doc: &str, text: &str) -> YrsDocument {
    let mut line = Line::open(node, doc).await.expect("let in");
    let mut copy = YrsDocument::default();
    let update = typed(1, 0, text);
    copy.integrate(&update).expect("an update");
    line.says(edit(&update)).await;
    let mark = line.hears(answer).await.expect("the edit is kept");
    copy.integrate(&mark).expect("a mark");
    copy
}

fn answer(frame: &[u8]) -> Option<Bytes> {
    match Message::decode(&Bytes::copy_from_slice(frame)) {
        Ok(Message::Step2(update)) => Some(update),
        _ => None,
    }
}

/// Comes with all that it has; the code if it is sent away.
async fn comes(node: &Client, doc: &str, copy: &YrsDocument) -> Result<Line, u16> {
    let mut line = Line::open(node, doc).await?;
    line.says(step_1(&copy.state_vector())).await;
    line.hears(answer).await?;
    line.says(all_of_mine(&copy.diff(&[0]).expect("an update"))).await;
    Ok(line)
}

async fn reads(node: &Client, doc: &str, expected: Value) {
    wait::until(&format!("{doc} reads {expected}"), PATIENCE, async || {
        let read = node.value(doc).await;
        if read == expected { Ok(()) } else { Err(read.to_string()) }
    })
    .await;
}

/// Story: a document is begun in one datacenter, and its editor moves to another one that cannot hear of it yet. Written there, it would
/// be a second document, which a deletion of the first does not end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_moves_faster_than_a_document_does_waits_for_it() {
    let fleet = Fleet::start_with(BINARY, 2, 1, Duration::ZERO, CONFIG).await;
    let (here, there) = (fleet.node("eu-west/1"), fleet.node("us-east/1"));
    here.ask(Ask::put("/v1/spaces/default/docs/before?format=json", r#"{"t":"met"}"#)).await.ok();
    reads(&there, "before", json!({"t": "met"})).await;
    fleet.cluster().cut("eu-west", "us-east").expect("cut");

    let copy = begun(&here, "moved", "secret").await;
    assert_eq!(comes(&there, "moved", &copy).await.err(), Some(1013));
    let mut hasty = Line::open(&there, "moved").await.expect("it has said nothing yet");
    hasty.says(all_of_mine(&copy.diff(&[0]).expect("an update"))).await;
    assert_eq!(hasty.closed().await, 1013, "nor is it taken by an answer alone");
    assert_eq!(there.value("moved").await, Value::Null);
    fleet.cluster().heal(None).expect("healed");
    reads(&there, "moved", json!({"t": "secret"})).await;
    let mut line = comes(&there, "moved", &copy).await.expect("it has arrived");
    here.ask(Ask::delete("moved")).await.ok();
    assert_eq!(line.closed().await, 4404);
    assert_eq!(comes(&there, "moved", &copy).await.err(), Some(4404));
    assert_eq!(there.value("moved").await, Value::Null);

    // Where it does not arrive for long, whoever has it may go on.
    fleet.cluster().cut("eu-west", "us-east").expect("cut");
    let copy = begun(&here, "saved", "work").await;
    let since = Instant::now();
    let mut refusals = 0;
    while let Err(code) = comes(&there, "saved", &copy).await {
        assert_eq!(code, 1013);
        refusals += 1;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(since.elapsed() >= UNHEARD && refusals > 0, "{:?}, {refusals}", since.elapsed());
    reads(&there, "saved", json!({"t": "work"})).await;
    fleet.cluster().heal(None).expect("healed");
    let (agreed, _) = fleet.agreed(PATIENCE).await;
    assert!(format!("{agreed:?}").contains("work"), "{agreed:?}");
}
