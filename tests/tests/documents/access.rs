//! Editors of a space that takes only who shows an access token.

use meridian_tests::client::Client;
use meridian_tests::editors::Editors;
use meridian_tests::fleet::Fleet;
use meridian_tests::wait;
use serde_json::{Value, json};

use super::{PATIENCE, closed_with, text_is};

/// Of every node: who may do what in the space `closed`.
pub const CONFIG: &str = "[spaces.closed]\nread = \"token-of-a-reader-0\"\nwrite = \"token-of-a-writer+/0=\"\n\
                          [spaces.other]\nwrite = \"token-of-another-space\"";
const READER: &str = "token-of-a-reader-0";
const WRITER: &str = "token-of-a-writer+/0=";

/// Opens a document and waits until the editor has it.
async fn opened(editors: &Editors, editor: &str, at: &Client, params: Value) {
    editors.begin_in("closed", editor, at, "plan", params).await;
    wait::until("an editor is synced", PATIENCE, async || {
        let synced = editors.tell(editor, "synced", json!({})).await;
        if synced == json!(true) { Ok(()) } else { Err(format!("{editor} is not")) }
    })
    .await;
}

/// Story: an unmodified client that may only read goes on seeing the document while its own edits are refused, with a
/// warning each; one with no token, a wrong one or one of another space stays away.
pub async fn who_shows_no_token_is_sent_away_and_who_may_read_sees_and_is_seen(
    fleet: &Fleet,
    editors: &Editors,
) {
    let (here, there) = (fleet.node("eu-west/1"), fleet.node("us-east/1"));
    for (editor, params, code) in [
        ("nobody", json!({}), 4401),
        ("stranger", json!({"token": "no-such-token-at-all"}), 4401),
        ("neighbour", json!({"auth": "token-of-another-space"}), 4403),
    ] {
        editors.begin_in("closed", editor, &here, "plan", params).await;
        closed_with(editors, editor, code).await;
    }
    opened(editors, "writes", &here, json!({"token": WRITER})).await;
    opened(editors, "reads", &here, json!({"auth": READER})).await;
    opened(editors, "reads-too", &there, json!({"token": READER})).await;
    editors.types("writes", "for all. ", None).await;
    editors.agree(&["writes", "reads", "reads-too"], PATIENCE, text_is("for all. ")).await;
    // What a reader types stays with it; it goes on seeing what others type, and is seen.
    editors.types("reads", "mine. ", Some(0)).await;
    editors.tell("reads", "present", json!({"user": "Rea"})).await;
    wait::until("the reader is seen, and warned", PATIENCE, async || {
        let seen = editors.tell("writes", "present", json!({})).await;
        let warned = editors.tell("reads", "warnings", json!({"words": ["Permission denied", "plan"]})).await;
        if seen == json!(["Rea"]) && warned == 1 { Ok(()) } else { Err(format!("{seen} {warned}")) }
    })
    .await;
    editors.types("writes", "And on.", None).await;
    editors.agree(&["writes", "reads-too"], PATIENCE, text_is("for all. And on.")).await;
    wait::until("the reader still sees", PATIENCE, async || match editors.text("reads").await {
        text if text == "mine. for all. And on." => Ok(()),
        text => Err(text),
    })
    .await;
    assert_eq!(editors.tell("reads", "closed", json!({})).await, Value::Null);
    // Nor does it bring in what it has when it comes back.
    opened(editors, "reads", &there, json!({"token": READER})).await;
    wait::until("the reader is warned again", PATIENCE, async || {
        let warned = editors.tell("reads", "warnings", json!({"words": ["Permission denied", "plan"]})).await;
        if warned == 2 { Ok(()) } else { Err(warned.to_string()) }
    })
    .await;
    assert_eq!(editors.text("writes").await, "for all. And on.");
    for editor in ["writes", "reads", "reads-too"] {
        editors.tell(editor, "leave", json!({})).await;
    }
}

pub async fn an_editor_of_hocuspocus_is_let_in_as_far_as_its_token_goes(fleet: &Fleet, editors: &Editors) {
    let here = fleet.node("eu-west/2");
    let told = async |editor: &str, scope: Value, denied: &str| {
        wait::until("an editor is told what it may do", PATIENCE, async || {
            let told = editors.tell(editor, "scope", json!({})).await;
            let reason = told["denied"].as_str().unwrap_or_default();
            let as_expected =
                told["scope"] == scope && reason.contains(denied) && reason.is_empty() == denied.is_empty();
            if as_expected { Ok(()) } else { Err(told.to_string()) }
        })
        .await;
    };
    editors.enter_in("closed", "h-nobody", &here, "hocus", "").await;
    told("h-nobody", Value::Null, "takes only who shows an access token").await;
    editors.enter_in("closed", "h-neighbour", &here, "hocus", "token-of-another-space").await;
    told("h-neighbour", Value::Null, "not for the space").await;
    editors.enter_in("closed", "h-writes", &here, "hocus", WRITER).await;
    told("h-writes", json!("read-write"), "").await;
    editors.types("h-writes", "kept", None).await;
    editors.kept("h-writes").await;
    editors.enter_in("closed", "h-reads", &here, "hocus", READER).await;
    told("h-reads", json!("readonly"), "").await;
    editors.agree(&["h-writes", "h-reads"], PATIENCE, text_is("kept")).await;
    // It had nothing to bring: all is kept. What it types never is.
    editors.kept("h-reads").await;
    editors.types("h-reads", "not ", Some(0)).await;
    editors.types("h-writes", ".", None).await;
    wait::until("the reader still sees", PATIENCE, async || match editors.text("h-reads").await {
        text if text == "not kept." => Ok(()),
        text => Err(text),
    })
    .await;
    assert_eq!(editors.tell("h-reads", "unsynced", json!({})).await, 1);
    assert_eq!(editors.text("h-writes").await, "kept.");
    for editor in ["h-writes", "h-reads", "h-nobody", "h-neighbour"] {
        editors.tell(editor, "leave", json!({})).await;
    }
}
