//! The demo of documents, `examples/editor`, as somebody uses it: its own test drives its page in a headless Chromium, against
//! the program that was built here.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use meridian_tests::npm;
use meridian_tests::program::skipped;
use tokio::process::Command;

const BINARY: &str = env!("CARGO_BIN_EXE_meridian-under-test");
const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/editor");
/// Its own limit is five minutes, after which it ends its cluster and says where it stood.
const PATIENCE: Duration = Duration::from_secs(360);
/// What it ends with where there is no browser.
const NO_BROWSER: i32 = 77;

/// Story: two people type in two datacenters at once; one is cut off, both type on, and the cut heals; two leaders are
/// killed while both type. Every pane shows the same in the end, and so does every node, and nothing typed is missing.
#[tokio::test]
async fn what_is_typed_in_the_panes_of_three_datacenters_becomes_one_text() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("editor");
    if !npm::install(Path::new(DEMO), &folder).await {
        return;
    }
    let mut demo = Command::new("npm");
    demo.arg("test").env("MERIDIAN", BINARY).current_dir(&folder).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, demo.output()).await.expect("it ends in time");
    let output = output.expect("npm test runs where npm ci does");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let (told, wrong) = (text(&output.stdout), text(&output.stderr));
    if output.status.code() == Some(NO_BROWSER) {
        return skipped("the demo in a browser", &wrong);
    }
    assert!(output.status.success(), "{told}\n{wrong}");
    assert!(told.contains("ok      Ctrl-C ends everything"), "{told}");
}
