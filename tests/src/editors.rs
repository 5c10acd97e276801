//! Editors in a process of their own: unmodified npm clients of collaborative editing, which run under Node.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::client::Client;
use crate::{npm, wait};

/// Where the clients and their lock file are.
const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/interop");
/// How long an editor may take to do what it is told.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// The process; killed when dropped.
#[derive(Debug)]
pub struct Editors {
    _child: Child,
    pipes: Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>,
}

/// Installs the clients into `folder`, exactly as their lock file says; `None`, with words, where there is no npm.
///
/// # Panics
/// When npm does not install them.
pub async fn install(folder: &Path) -> Option<PathBuf> {
    let folder = folder.join("interop");
    npm::install(Path::new(SOURCE), &folder).await.then_some(folder)
}

impl Editors {
    /// Starts the process in the folder in which [`install`] has put the clients.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(folder: &Path) -> Self {
        let mut node = Command::new("node");
        node.arg("editors.mjs").current_dir(folder).kill_on_drop(true);
        let mut child =
            node.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node starts where npm does");
        let (stdin, stdout) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        Self { _child: child, pipes: Mutex::new((stdin, BufReader::new(stdout).lines())) }
    }

    /// Tells an editor to do something; its answer.
    ///
    /// # Panics
    /// When it cannot.
    pub async fn tell(&self, editor: &str, what: &str, mut more: Value) -> Value {
        more["do"] = what.into();
        more["editor"] = editor.into();
        let line = format!("{more}\n");
        let mut pipes = self.pipes.lock().await;
        pipes.0.write_all(line.as_bytes()).await.expect("the editors listen");
        let answer =
            tokio::time::timeout(ANSWER_LIMIT, pipes.1.next_line()).await.expect("an answer in time");
        let answer = answer.expect("the editors live").expect("the editors go on");
        let mut answer: Value = serde_json::from_str(&answer).expect("a line of JSON");
        assert!(answer["error"].is_null(), "{line}{}", answer["error"].as_str().unwrap_or_default());
        answer["ok"].take()
    }

    /// Opens a document of the space `default` at a node, and waits until the editor has it.
    ///
    /// # Panics
    /// When it does not get it in time.
    pub async fn open(&self, editor: &str, at: &Client, doc: &str) {
        self.begin(editor, at, doc).await;
        wait::until("an editor is synced", ANSWER_LIMIT, async || {
            let synced = self.tell(editor, "synced", json!({})).await;
            if synced == json!(true) { Ok(()) } else { Err(format!("{editor} is not")) }
        })
        .await;
    }

    /// Opens a document and does not wait.
    pub async fn begin(&self, editor: &str, at: &Client, doc: &str) {
        let server = format!("ws://{}/v1/spaces/default/docs", at.server());
        self.tell(editor, "open", json!({"server": server, "doc": doc})).await;
    }

    /// Opens a document of any space with parameters in its address, and does not wait.
    pub async fn begin_in(&self, space: &str, editor: &str, at: &Client, doc: &str, params: Value) {
        let server = format!("ws://{}/v1/spaces/{space}/docs", at.server());
        self.tell(editor, "open", json!({"server": server, "doc": doc, "params": params})).await;
    }

    /// Opens a document of any space by Hocuspocus, with an access token and on a connection of its own, and does not
    /// wait.
    pub async fn enter_in(&self, space: &str, editor: &str, at: &Client, doc: &str, token: &str) {
        let server = format!("ws://{}/v1/spaces/{space}/hocuspocus", at.server());
        let what = json!({"server": server, "doc": doc, "socket": editor, "token": token});
        self.tell(editor, "enter", what).await;
    }

    /// Opens a document by Hocuspocus, on the connection `socket`, and waits until the editor has it and the node has
    /// what the editor has.
    ///
    /// # Panics
    /// When it does not get it in time.
    pub async fn enter(&self, editor: &str, at: &Client, doc: &str, socket: &str) {
        self.begins_to_enter(editor, at, doc, socket).await;
        self.kept(editor).await;
    }

    /// Begins to open a document by Hocuspocus, on the connection `socket`.
    pub async fn begins_to_enter(&self, editor: &str, at: &Client, doc: &str, socket: &str) {
        let server = format!("ws://{}/v1/spaces/default/hocuspocus", at.server());
        self.tell(editor, "enter", json!({"server": server, "doc": doc, "socket": socket})).await;
    }

    /// Waits until an editor of Hocuspocus has heard that all its edits are kept.
    ///
    /// # Panics
    /// When it does not hear that in time.
    pub async fn kept(&self, editor: &str) {
        wait::until("all edits are kept", ANSWER_LIMIT, async || {
            let unsynced = self.tell(editor, "unsynced", json!({})).await;
            let synced = self.tell(editor, "synced", json!({})).await;
            if unsynced == 0 && synced == true { Ok(()) } else { Err(format!("{editor}: {unsynced}")) }
        })
        .await;
    }

    /// Types at the end of the text, or at a place.
    pub async fn types(&self, editor: &str, text: &str, at: Option<usize>) {
        self.tell(editor, "type", json!({"text": text, "at": at})).await;
    }

    /// The text that an editor sees.
    pub async fn text(&self, editor: &str) -> String {
        self.tell(editor, "text", json!({})).await.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until all of these editors see the same, and that is `good`; what it is.
    ///
    /// # Panics
    /// When they do not in time.
    pub async fn agree(&self, editors: &[&str], limit: Duration, good: impl Fn(&Value) -> bool) -> Value {
        let (seen, _) = wait::until("editors agree", limit, async || {
            let mut all = Vec::new();
            for editor in editors {
                all.push(self.tell(editor, "show", json!({})).await);
            }
            if all.iter().all(|seen| *seen == all[0]) && good(&all[0]) {
                Ok(all.swap_remove(0))
            } else {
                Err(format!("{all:?}"))
            }
        })
        .await;
        seen
    }
}
