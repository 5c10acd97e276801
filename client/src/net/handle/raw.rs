//! The handle of a key of whatever type.

use meridian_crdt::{Mutation, Query};

use super::{At, Source, mutations};
use crate::net::error::Error;
use crate::net::read::Content;

/// A key of whatever type.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// use meridian_client::{CounterOp, Mutation, Query, Type, Value};
///
/// client.raw("n").mutate(Mutation::Counter(CounterOp::Add(2))).await?;
/// let content = client.raw("n").read(Query::default()).await?.expect("it is there");
/// assert_eq!((content.ty, content.value), (Type::Counter, Value::Int(2)));
/// client.raw("n").delete().await?;
/// assert!(client.raw("n").read(Query::default()).await?.is_none());
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Raw<S> {
    pub(crate) at: At<S>,
}

mutations!(Raw {
    /// Does any mutation.
    mutate(mutation: Mutation) => mutation;
});

impl<S: Source> Raw<S> {
    /// Reads one page, or asks for an element; none if the key is absent.
    ///
    /// # Errors
    /// As for every request.
    pub async fn read(&self, query: Query) -> Result<Option<Content>, Error> {
        self.at.source.read_page(self.at.key()?, query).await
    }
}
