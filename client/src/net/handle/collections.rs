//! Handles of sets, and their elements as a stream.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt, TryStreamExt};
use meridian_crdt::{Mutation, Query, SetOp, Type, Value};

use super::{At, Reads, Source, mutations};
use crate::net::error::Error;
use crate::net::value::IntoValue;

/// How many elements are asked for at once.
const PAGE: usize = 1000;

/// The elements of a set, sorted by type and value, read page by page as they are taken. Pages that are read outside of
/// a transaction are not one snapshot.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// use futures_util::TryStreamExt;
/// use meridian_client::Value;
///
/// client.set("primes").add_all([5, 2, 3]).await?;
/// let mut elements = client.set("primes").elements();
/// let mut primes = 0;
/// while let Some(prime) = elements.try_next().await? {
///     assert!(matches!(prime, Value::Int(1..=5)));
///     primes += 1;
/// }
/// assert_eq!(primes, 3);
/// # Ok(()) }
/// ```
pub struct Elements {
    stream: BoxStream<'static, Result<Value, Error>>,
}

impl Stream for Elements {
    type Item = Result<Value, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.poll_next_unpin(cx)
    }
}

impl Elements {
    /// All elements that are still to come.
    ///
    /// # Errors
    /// If a page cannot be read.
    pub async fn all(self) -> Result<Vec<Value>, Error> {
        self.stream.try_collect().await
    }
}

enum Next {
    First,
    Page(Vec<u8>),
    Done,
}

fn values<I: IntoIterator<Item: IntoValue>>(elements: I) -> Vec<Value> {
    elements.into_iter().map(IntoValue::into_value).collect()
}

impl<S: Source> At<S> {
    /// One page, and where the next one goes on.
    async fn elements_page(&self, ty: Type, cursor: Option<Vec<u8>>) -> Result<(Vec<Value>, Next), Error> {
        if !self.path.is_empty() {
            // A nested set is read as part of its key.
            let elements = self.value(ty).await?.0.map_or(Ok(Vec::new()), |value| self.typed(value))?;
            return Ok((elements, Next::Done));
        }
        let query = Query { limit: PAGE, cursor, ..Query::default() };
        match self.page(ty, query).await? {
            None => Ok((Vec::new(), Next::Done)),
            Some(page) => Ok((self.typed(page.value)?, page.cursor.map_or(Next::Done, Next::Page))),
        }
    }

    fn elements(&self, ty: Type) -> Elements
    where
        S: Reads,
    {
        let start = (self.clone(), VecDeque::new(), Next::First);
        let stream = stream::try_unfold(start, move |(at, mut page, mut next)| async move {
            loop {
                if let Some(element) = page.pop_front() {
                    return Ok(Some((element, (at, page, next))));
                }
                let cursor = match next {
                    Next::First => None,
                    Next::Page(cursor) => Some(cursor),
                    Next::Done => return Ok(None),
                };
                let (elements, after) = at.elements_page(ty, cursor).await?;
                (page, next) = (elements.into(), after);
            }
        });
        Elements { stream: stream.boxed() }
    }
}

macro_rules! sets {
    ($($(#[$doc:meta])* $set:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $set<S> {
            pub(crate) at: At<S>,
        }

        mutations!($set {
            /// Adds one element.
            add(element: impl IntoValue) => Mutation::$set(SetOp::Add(element.into_value()));
            /// Removes one element; that it is absent is fine.
            remove(element: impl IntoValue) => Mutation::$set(SetOp::Remove(element.into_value()));
            /// Adds elements.
            add_all(elements: impl IntoIterator<Item: IntoValue>) => Mutation::$set(SetOp::AddAll(values(elements)));
            /// Removes elements.
            remove_all(elements: impl IntoIterator<Item: IntoValue>) =>
                Mutation::$set(SetOp::RemoveAll(values(elements)));
            /// Removes every element that this datacenter has.
            clear() => Mutation::$set(SetOp::Clear);
        });

        impl<S: Source> $set<S> {
            /// Whether `element` is there.
            ///
            /// # Errors
            /// [`Error::WrongType`] if the key is no such set; or as for every request.
            pub async fn contains(&self, element: impl IntoValue) -> Result<bool, Error> {
                let element = element.into_value();
                self.at.has(Type::$set, element).await
            }

            /// How many elements there are.
            ///
            /// # Errors
            /// [`Error::WrongType`] if the key is no such set; or as for every request.
            pub async fn size(&self) -> Result<u64, Error> {
                self.at.count(Type::$set).await
            }

            /// The elements, as a stream.
            pub fn elements(&self) -> Elements {
                self.at.elements(Type::$set)
            }
        }
    )*};
}

sets! {
    /// A set; adding wins.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// use meridian_client::Value;
    ///
    /// let cart = client.set("cart");
    /// cart.add_all(["pear", "apple"]).await?;
    /// cart.remove("pear").await?;
    /// assert!(cart.contains("apple").await?);
    /// assert_eq!(cart.size().await?, 1);
    /// assert_eq!(cart.elements().all().await?, [Value::Str("apple".into())]);
    /// # Ok(()) }
    /// ```
    Set;
    /// A set; removing wins.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// let members = client.rwset("members");
    /// members.add("mallory").await?;
    /// members.remove("mallory").await?; // wins over an `add` elsewhere that did not know of it
    /// assert!(!members.contains("mallory").await?);
    /// # Ok(()) }
    /// ```
    RwSet;
}
