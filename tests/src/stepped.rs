//! Transactions of the SDK that are taken step by step, so that a test decides how several of them interleave.
//!
//! The SDK runs a closure; here the closure hands its transaction out and waits for the word to commit. It is run once:
//! what a conflict leads to is for the test to see.

use meridian_client::net::TransactionOptions;
use meridian_client::{Error, ErrorCode, Isolation, Space, Transaction};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A key that nobody writes: reading it begins the transaction, and sends what it has written so far.
const UNWRITTEN: &str = "nobody writes this";

/// How a transaction ended.
#[derive(Debug)]
enum End {
    Aborted,
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        End::Failed(error)
    }
}

/// An open transaction.
pub struct Stepped {
    txn: Transaction,
    decide: oneshot::Sender<bool>,
    ended: JoinHandle<Result<(), End>>,
}

impl Stepped {
    /// Begins one at the node that the space's client asks; when this returns, its snapshot is taken.
    ///
    /// # Panics
    /// When it cannot begin.
    pub async fn begin(space: &Space, isolation: Isolation) -> Stepped {
        let (give, given) = oneshot::channel();
        let (decide, decided) = oneshot::channel();
        let mut once = Some((give, decided));
        let space = space.clone();
        let ended = tokio::spawn(async move {
            let options = TransactionOptions::default().isolation(isolation).attempts_max(1);
            let body = |txn: Transaction| {
                let once = once.take();
                async move {
                    let (give, decided) = once.ok_or(End::Aborted)?;
                    // The test holds the other end for as long as it wants anything of the transaction.
                    drop(give.send(txn));
                    if decided.await == Ok(true) { Ok(()) } else { Err(End::Aborted) }
                }
            };
            space.transaction_with(options, body).await
        });
        let txn = given.await.expect("the closure runs");
        let stepped = Stepped { txn, decide, ended };
        stepped.flush().await;
        stepped
    }

    /// Sends to the node what was written so far.
    ///
    /// # Panics
    /// When the transaction is refused anything.
    pub async fn flush(&self) {
        let nothing = self.txn.register(UNWRITTEN).get::<i64>().await.expect("read");
        assert_eq!(nothing.value, None, "nobody writes it");
    }

    /// Reads a register; 0 if it is absent.
    ///
    /// # Panics
    /// When that fails.
    pub async fn get(&self, key: &str) -> i64 {
        self.txn.register(key).get::<i64>().await.expect("read").into_inner().unwrap_or_default()
    }

    /// Sets a register, and sends that to the node at once.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn set(&self, key: &str, value: i64) {
        self.txn.register(key).set(value);
        self.flush().await;
    }

    /// Removes a key, and sends that to the node at once.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn delete(&self, key: &str) {
        self.txn.raw(key).delete();
        self.flush().await;
    }

    /// The names of the keys that start with `prefix`.
    ///
    /// # Panics
    /// When the scan fails.
    pub async fn scan(&self, prefix: &str) -> Vec<String> {
        let listed = self.txn.keys(prefix).await.expect("scanned");
        listed.into_iter().map(|listed| listed.key).collect()
    }

    /// Commits it: done, or the code of the refusal.
    ///
    /// # Panics
    /// When it fails in any other way than by a refusal.
    pub async fn commit(self) -> Result<(), ErrorCode> {
        assert!(self.decide.send(true).is_ok(), "the closure still waits");
        match self.ended.await.expect("no panic") {
            Ok(()) => Ok(()),
            Err(End::Failed(error)) => Err(error.code().unwrap_or_else(|| panic!("{error}"))),
            Err(End::Aborted) => panic!("it was to commit"),
        }
    }

    /// Ends it without a trace.
    ///
    /// # Panics
    /// When it does anything else.
    pub async fn abort(self) {
        drop(self.decide);
        let ended = self.ended.await.expect("no panic");
        assert!(matches!(ended, Err(End::Aborted)), "{ended:?}");
    }
}
