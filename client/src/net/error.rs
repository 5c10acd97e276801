//! What can go wrong for a user of the SDK, and what to do about it.

use serde_json::{Map, Value as Json};

use crate::wire::{ApiError, ErrorCode};

/// What to do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// The same call may succeed later, and repeating it does no harm: nothing was changed.
    Retry,
    /// The call itself is wrong, or decided on what is no longer so. Correct it first.
    Fix,
    /// Do not simply repeat it: that could do it twice, or would fail in the same way.
    GiveUp,
}

/// What was asked for and could not be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Guarantee {
    /// Reading one's own writes, monotonic reads and writes, writes after what was read.
    Session,
    /// That as many datacenters hold the write as was asked for.
    Commit,
    /// That the caller knows whether it was done.
    ExactlyOnce,
}

/// Why a call failed. [`Error::advice`] says what to do.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// use meridian_client::{Advice, ErrorCode};
///
/// client.counter("n").add(1).await?;
/// let error = client.set("n").add("apple").await.expect_err("it is a counter");
/// match error.advice() {
///     Advice::Retry => println!("nothing has changed; the same call may succeed soon"),
///     Advice::Fix => println!("the call itself is wrong: {error}"),
///     Advice::GiveUp => println!("it may have taken place, or never will: {error}"),
/// }
/// assert_eq!((error.advice(), error.code()), (Advice::Fix, Some(ErrorCode::WrongType)));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store, or the SDK in its place, refused the request. Nothing changed.
    #[error("{0}")]
    Refused(Box<ApiError>),
    /// Another transaction changed what this one had read, at every attempt. Nothing changed.
    #[error("the transaction met conflicts {attempts} times: {error}")]
    Conflict {
        /// How often it was run.
        attempts: u32,
        /// The last refusal.
        error: Box<ApiError>,
    },
    /// No datacenter that could be reached has what the session depends on. Nothing changed.
    #[error("{dc} cannot keep the session's guarantees yet: {error}")]
    NotCaughtUp {
        /// The datacenter that was asked first.
        dc: String,
        /// What it lacks: the lagging origin, and how far it is behind.
        error: Box<ApiError>,
    },
    /// The write is kept in `dc`, but fewer datacenters than asked for confirmed it in time. Do not repeat it.
    #[error("kept in {dc}, but not confirmed by the others in time: {error}")]
    CommitTimeout {
        /// The datacenter that holds it.
        dc: String,
        /// Who has it.
        error: Box<ApiError>,
    },
    /// Whether the mutation took place in `dc` is not known. It was not tried in another datacenter.
    #[error("whether it took place in {dc} is not known: {reason}")]
    OutcomeUnknown {
        /// Where it may have taken place.
        dc: String,
        /// The last failure.
        reason: String,
    },
    /// No datacenter did it within the time. Nothing changed.
    #[error("no datacenter could do it in time: {reason}")]
    Unavailable {
        /// The last failure.
        reason: String,
        /// The last refusal, if a node could be asked at all.
        error: Option<Box<ApiError>>,
    },
    /// The key has another type than the handle through which it was read, or its value another Rust type.
    #[error("{key} holds a {found}, not a {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// What the caller expects.
        expected: String,
        /// What is there.
        found: String,
    },
    /// The client is set up in a way that cannot work.
    #[error("the client's setup: {0}")]
    Setup(String),
    /// A node answers in a way that this version does not understand.
    #[error("an answer of {dc} is not understood: {what}")]
    Protocol {
        /// Whose node it was.
        dc: String,
        /// What is wrong with it.
        what: String,
    },
    /// The client was closed.
    #[error("the client is closed")]
    Closed,
}

impl Error {
    /// What to do.
    pub fn advice(&self) -> Advice {
        match self {
            Error::Conflict { .. } | Error::NotCaughtUp { .. } | Error::Unavailable { .. } => Advice::Retry,
            Error::Refused(error) if error.code.is_retryable() || error.code == ErrorCode::Conflict => {
                Advice::Retry
            }
            Error::Refused(_) | Error::WrongType { .. } | Error::Setup(_) => Advice::Fix,
            Error::CommitTimeout { .. }
            | Error::OutcomeUnknown { .. }
            | Error::Protocol { .. }
            | Error::Closed => Advice::GiveUp,
        }
    }

    /// The code of the store's refusal, if there was one.
    pub fn code(&self) -> Option<ErrorCode> {
        self.api().map(|error| error.code)
    }

    /// The particulars of the store's refusal.
    pub fn details(&self) -> Option<&Map<String, Json>> {
        self.api().map(|error| &error.details)
    }

    /// Which guarantee could not be kept.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let mut dcs = meridian::embedded::Setup::default().start_all(&["eu-west", "us-east"]).await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [dcs[0].addr()]).connect().await?;
    /// # dcs.pop().expect("us-east").stop().await?;
    /// use std::time::Duration;
    /// use meridian_client::net::Guarantee;
    /// use meridian_client::Commit;
    ///
    /// // The other datacenter is down.
    /// let both = client.commit(Commit::All).wait(Duration::from_millis(100));
    /// let error = both.counter("n").add(1).await.expect_err("only one has it");
    /// assert_eq!(error.not_kept(), Some(Guarantee::Commit));
    /// assert_eq!(*client.counter("n").value().await?, 1); // the write itself is kept
    /// # Ok(()) }
    /// ```
    pub fn not_kept(&self) -> Option<Guarantee> {
        match self {
            Error::NotCaughtUp { .. } => Some(Guarantee::Session),
            Error::CommitTimeout { .. } => Some(Guarantee::Commit),
            Error::OutcomeUnknown { .. } => Some(Guarantee::ExactlyOnce),
            _ => None,
        }
    }

    fn api(&self) -> Option<&ApiError> {
        match self {
            Error::Refused(error)
            | Error::Conflict { error, .. }
            | Error::NotCaughtUp { error, .. }
            | Error::CommitTimeout { error, .. } => Some(error),
            Error::Unavailable { error, .. } => error.as_deref(),
            _ => None,
        }
    }
}

impl From<ApiError> for Error {
    fn from(error: ApiError) -> Self {
        Error::Refused(Box::new(error))
    }
}
