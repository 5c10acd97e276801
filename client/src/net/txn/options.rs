//! How an interactive transaction is run: its bounds, its isolation, and the loop that runs it again after a conflict.

use std::time::Duration;

use tokio::time::Instant;

use super::Transaction;
use crate::net::backoff::Backoff;
use crate::net::error::{Advice, Error};
use crate::net::session::Session;
use crate::wire::ErrorCode;
use crate::wire::frame::Isolation;

/// How often a transaction is run at most.
const ATTEMPTS_MAX: u32 = 100;
/// How long a transaction may take in all, the time of its closure included.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Pauses before it is run again. The first one is as long as the first run took, so that those who are in each other's
/// way make room however fast the machine is.
const PAUSE_FIRST: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Bounds and isolation of a transaction.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// use meridian_client::{Error, Isolation, TransactionOptions};
///
/// let options = TransactionOptions::default().isolation(Isolation::Snapshot).attempts_max(3);
/// let space = client.space("bank");
/// let total = space.transaction_with(options, |txn| async move {
///     // Both are read from the same snapshot, whatever happens meanwhile.
///     Ok::<_, Error>(*txn.counter("alice").value().await? + *txn.counter("bob").value().await?)
/// });
/// assert_eq!(total.await?, 0);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TransactionOptions {
    /// What it is protected from. Default: everything.
    pub isolation: Isolation,
    /// How often it is run at most. Default: 100.
    pub attempts_max: u32,
    /// After how long it is not run again. Default: 30 s.
    pub timeout: Duration,
}

impl Default for TransactionOptions {
    fn default() -> Self {
        Self { isolation: Isolation::default(), attempts_max: ATTEMPTS_MAX, timeout: TIMEOUT }
    }
}

impl TransactionOptions {
    /// Chooses the isolation.
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> Self {
        self.isolation = isolation;
        self
    }

    /// Bounds how often it is run.
    #[must_use]
    pub fn attempts_max(mut self, attempts: u32) -> Self {
        self.attempts_max = attempts;
        self
    }

    /// Bounds how long it may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    pub(crate) async fn run<T, E, F, Fut>(&self, session: &Session, space: &str, mut body: F) -> Result<T, E>
    where
        F: FnMut(Transaction) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let deadline = Instant::now() + self.timeout;
        let began = Instant::now();
        let mut backoff = None;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let txn = Transaction::begin(session, space, self.isolation, deadline);
            let failure = match body(txn.clone()).await {
                Ok(value) => match txn.commit().await {
                    Ok(()) => return Ok(value),
                    Err(failure) => failure,
                },
                Err(error) => {
                    let failure = txn.failure();
                    txn.abort();
                    match failure.filter(may_run_again) {
                        Some(failure) => failure,
                        None => return Err(error),
                    }
                }
            };
            let over = attempts >= self.attempts_max || Instant::now() >= deadline;
            if over || !may_run_again(&failure) {
                return Err(told(failure, attempts).into());
            }
            let pauses =
                backoff.get_or_insert_with(|| Backoff::new(began.elapsed().max(PAUSE_FIRST), PAUSE_MAX));
            pauses.wait(Duration::ZERO, deadline).await;
        }
    }
}

/// Whether nothing was done, and running it again soon may succeed. What the session depends on has been waited for as
/// long as the session says: as for every request, that wait is not begun again.
fn may_run_again(error: &Error) -> bool {
    error.advice() == Advice::Retry && !matches!(error, Error::NotCaughtUp { .. })
}

fn told(failure: Error, attempts: u32) -> Error {
    match failure {
        Error::Refused(error) if error.code == ErrorCode::Conflict => Error::Conflict { attempts, error },
        other => other,
    }
}
