//! The one place where a failure that must stop the process is told.

use std::sync::Arc;

use tokio::sync::watch;

/// Told once, heard by whoever runs the process: it must exit, without success, and not write any more.
#[derive(Clone, Debug)]
pub struct Fatal(Arc<watch::Sender<Option<String>>>);

impl Fatal {
    /// Nothing fatal has happened yet.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(None)))
    }

    /// Tells that `what` happened; the first telling stays.
    pub fn report(&self, what: impl std::fmt::Display) {
        self.0.send_if_modified(|told| {
            if told.is_some() {
                return false;
            }
            tracing::error!(%what, "the node must stop");
            *told = Some(what.to_string());
            true
        });
    }

    /// What was told, if anything.
    pub fn told(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Waits until something fatal happens and returns what it was.
    pub async fn wait(&self) -> String {
        let mut heard = self.0.subscribe();
        loop {
            if let Some(what) = heard.borrow_and_update().clone() {
                return what;
            }
            if heard.changed().await.is_err() {
                // The sender is `self`, so this cannot happen while we wait.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Default for Fatal {
    fn default() -> Self {
        Self::new()
    }
}
