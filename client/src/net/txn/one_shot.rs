//! Transactions of one request.

use meridian_crdt::{Condition, CounterOp, Key, Mutation, RegisterOp, SetOp, Version};

use crate::net::error::Error;
use crate::net::read::Written;
use crate::net::session::{Session, address};
use crate::net::value::IntoValue;
use crate::wire::frame::{Ops, Verb};

/// Conditions and mutations that take place as a whole, or not at all.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// use meridian_client::{Condition, ErrorCode};
///
/// let claim = |who: &'static str| {
///     let txn = client.txn().require("owner:42", Condition::Absent);
///     txn.set("owner:42", who).add("claims", 1).commit()
/// };
/// assert_eq!(claim("ann").await?.len(), 2); // what each of the two mutations came to
/// let refused = claim("bob").await.expect_err("it is Ann's");
/// assert_eq!(refused.code(), Some(ErrorCode::PreconditionFailed));
/// assert_eq!(*client.counter("claims").value().await?, 1);
/// # Ok(()) }
/// ```
#[must_use = "nothing happens before commit"]
pub struct OneShot {
    session: Session,
    space: String,
    conditions: Vec<(Key, Condition)>,
    ops: Ops,
    wrong: Option<Error>,
}

impl OneShot {
    pub(crate) fn new(session: Session, space: String) -> OneShot {
        OneShot { session, space, conditions: Vec::new(), ops: Vec::new(), wrong: None }
    }

    fn address(&mut self, key: &str) -> Option<Key> {
        match address(&self.space, key) {
            Ok(key) => Some(key),
            Err(error) => {
                self.wrong.get_or_insert(error);
                None
            }
        }
    }

    /// Demands something of a key, as it is before the transaction.
    pub fn require(mut self, key: impl AsRef<str>, condition: Condition) -> OneShot {
        if let Some(key) = self.address(key.as_ref()) {
            self.conditions.push((key, condition));
        }
        self
    }

    /// Demands that a key has not changed since `version` was read.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// client.register("page").set("first draft").await?;
    /// let read = client.register("page").get::<String>().await?;
    /// client.register("page").set("somebody else's").await?;
    /// let edit = client.txn().require_version("page", read.version).set("page", "second draft");
    /// assert!(edit.commit().await.is_err()); // nothing is overwritten unseen
    /// # Ok(()) }
    /// ```
    pub fn require_version(self, key: impl AsRef<str>, version: Version) -> OneShot {
        self.require(key, Condition::Version(version))
    }

    /// Does something with a key; it sees what the mutations before it did.
    pub fn op(mut self, key: impl AsRef<str>, mutation: Mutation) -> OneShot {
        if let Some(key) = self.address(key.as_ref()) {
            self.ops.push((key, mutation));
        }
        self
    }

    /// Adds to a counter.
    pub fn add(self, key: impl AsRef<str>, by: i64) -> OneShot {
        self.op(key, Mutation::Counter(CounterOp::Add(by)))
    }

    /// Sets a register.
    pub fn set(self, key: impl AsRef<str>, value: impl IntoValue) -> OneShot {
        self.op(key, Mutation::Register(RegisterOp::Set(value.into_value())))
    }

    /// Adds an element to a set.
    pub fn insert(self, key: impl AsRef<str>, element: impl IntoValue) -> OneShot {
        self.op(key, Mutation::Set(SetOp::Add(element.into_value())))
    }

    /// Removes an element from a set.
    pub fn remove(self, key: impl AsRef<str>, element: impl IntoValue) -> OneShot {
        self.op(key, Mutation::Set(SetOp::Remove(element.into_value())))
    }

    /// Removes a key.
    pub fn delete(self, key: impl AsRef<str>) -> OneShot {
        self.op(key, Mutation::Delete(None))
    }

    /// Sends it; returns what each mutation came to.
    ///
    /// # Errors
    /// [`Error::Refused`] with `precondition_failed` and the indexes that failed, if a condition does not hold; or as
    /// for every mutation.
    pub async fn commit(self) -> Result<Vec<Written>, Error> {
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        let OneShot { session, space, conditions, ops, .. } = self;
        let done = session.call(session.write_kind()).run(Verb::Txn { space, conditions, ops }).await?;
        session.understood(done.dc, Written::all_from_body(done.body))
    }
}
