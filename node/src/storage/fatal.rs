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

    /// Tells `what` if this thread panics before what is returned is dropped.
    pub fn alarm(&self, what: &'static str) -> PanicAlarm<'_> {
        PanicAlarm { fatal: self, what }
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

/// Tells `what` if the thread panics while this is there: whoever waits for its work would wait for ever.
#[derive(Debug)]
pub struct PanicAlarm<'f> {
    fatal: &'f Fatal,
    what: &'static str,
}

impl Drop for PanicAlarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.fatal.report(self.what);
        }
    }
}

impl Default for Fatal {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_and_the_end_of_the_work_is_not() {
        let fatal = Fatal::new();
        drop(fatal.alarm("nothing"));
        assert_eq!(fatal.told(), None);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _alarm = fatal.alarm("the work panicked");
            panic!("on purpose");
        }));
        assert!(panicked.is_err());
        assert_eq!(fatal.told().as_deref(), Some("the work panicked"));
    }
}
