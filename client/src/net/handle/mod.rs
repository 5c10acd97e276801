//! Typed handles: what can be done with a key, by its type.
//!
//! A handle is an address and where it is used: in a [`Session`] its mutations are requests of their own, in a
//! [`Transaction`] they wait for the commit. Nothing is sent when a handle is made; a key that is none is told at its
//! first use.

mod collections;
mod map;
mod raw;
mod scalars;

use meridian_crdt::{Key, MapOp, Mutation, Query, Type, Value, Version};

pub use collections::{Elements, RwSet, Set};
pub use map::Map;
pub use raw::Raw;
pub use scalars::{Counter, DwFlag, Flag, MvRegister, Register};

use super::error::Error;
use super::read::{self, Content, Written};
use super::session::Session;
use super::txn::Transaction;
use super::value::{FromValue, kind};
use crate::wire::{ApiError, ErrorCode};

/// How many pages of one key are put together; what is larger is read page by page.
const PAGES_MAX: usize = 100;

mod sealed {
    use super::{Content, Error, Key, Query};

    /// Reads keys.
    pub trait Reads: Clone + Send + Sync + 'static {
        /// Reads one page of a key.
        fn read_page(
            &self,
            key: &Key,
            query: Query,
        ) -> impl Future<Output = Result<Option<Content>, Error>> + Send;
    }
}
pub(crate) use sealed::Reads;

/// Where a handle is used: a [`Session`] or a [`Transaction`].
pub trait Source: sealed::Reads {}

impl sealed::Reads for Session {
    async fn read_page(&self, key: &Key, query: Query) -> Result<Option<Content>, Error> {
        self.read(key, query).await
    }
}

impl sealed::Reads for Transaction {
    async fn read_page(&self, key: &Key, query: Query) -> Result<Option<Content>, Error> {
        self.read(key, query).await
    }
}

impl Source for Session {}
impl Source for Transaction {}

/// An address in use: a key, and the fields below it.
#[derive(Clone)]
pub(crate) struct At<S> {
    pub source: S,
    pub key: Result<Key, Error>,
    pub path: Vec<String>,
}

impl<S> At<S> {
    pub fn new(source: S, key: Result<Key, Error>) -> At<S> {
        At { source, key, path: Vec::new() }
    }

    pub fn key(&self) -> Result<&Key, Error> {
        self.key.as_ref().map_err(Error::clone)
    }

    /// The mutation of the whole key that does `mutation` at this address.
    fn nested(&self, mutation: Mutation) -> Mutation {
        let update = |mutation, field: &String| {
            let op = match mutation {
                Mutation::Delete(_) => MapOp::Remove { field: field.clone() },
                mutation => MapOp::Update { field: field.clone(), mutation: Box::new(mutation) },
            };
            Mutation::Map(op)
        };
        self.path.iter().rev().fold(mutation, update)
    }

    fn name(&self) -> String {
        let key = self.key.as_ref().map(Key::to_string).unwrap_or_default();
        self.path.iter().fold(key, |name, field| format!("{name}.{field}"))
    }

    fn wrong_type(&self, expected: impl Into<String>, found: impl Into<String>) -> Error {
        Error::WrongType { key: self.name(), expected: expected.into(), found: found.into() }
    }

    /// A value as a Rust type.
    fn typed<T: FromValue>(&self, value: Value) -> Result<T, Error> {
        T::from_value(value).map_err(|value| self.wrong_type(T::EXPECTED, kind(&value)))
    }
}

impl At<Session> {
    pub async fn write(&self, mutation: Mutation) -> Result<Written, Error> {
        self.source.write(self.key()?.clone(), self.nested(mutation)).await
    }
}

impl At<Transaction> {
    pub fn buffer(&self, mutation: Mutation) {
        match self.key() {
            Ok(key) => self.source.buffer(key.clone(), self.nested(mutation)),
            Err(error) => self.source.fail(error),
        }
    }
}

impl<S: Source> At<S> {
    /// The whole value, if it has one, and the version of its key.
    async fn value(&self, ty: Type) -> Result<(Option<Value>, Version), Error> {
        let Some(whole) = self.whole().await? else { return Ok((None, Version(0))) };
        let (mut found, mut value) = (whole.ty, whole.value);
        for field in &self.path {
            if found != Type::Map {
                return Err(self.wrong_type("map", found.name()));
            }
            let fields = read::fields(value).map_err(|what| self.not_understood(what))?;
            let Some(next) = fields.into_iter().find_map(|(name, next)| (name == *field).then_some(next))
            else {
                return Ok((None, whole.version));
            };
            (found, value) = (next.ty, next.value);
        }
        if found == ty {
            Ok((Some(value), whole.version))
        } else {
            Err(self.wrong_type(ty.name(), found.name()))
        }
    }

    /// All pages of the key. Pages that are read outside of a transaction are not one snapshot.
    async fn whole(&self) -> Result<Option<Content>, Error> {
        let key = self.key()?;
        let Some(mut whole) = self.source.read_page(key, Query::default()).await? else { return Ok(None) };
        for _ in 1..PAGES_MAX {
            let Some(cursor) = whole.cursor.take() else { return Ok(Some(whole)) };
            let query = Query { cursor: Some(cursor), ..Query::default() };
            let Some(page) = self.source.read_page(key, query).await? else { return Ok(None) };
            read::append(page.value, &mut whole.value);
            (whole.version, whole.cursor) = (page.version, page.cursor);
        }
        let message = format!("{key} has more than {PAGES_MAX} pages; read it page by page");
        Err(ApiError::new(ErrorCode::TooLarge, message).into())
    }

    /// The first page of a key of that type, or the answer about one element.
    async fn page(&self, ty: Type, query: Query) -> Result<Option<Content>, Error> {
        let page = self.source.read_page(self.key()?, query).await?;
        match page {
            Some(page) if page.ty != ty => Err(self.wrong_type(ty.name(), page.ty.name())),
            page => Ok(page),
        }
    }

    /// Whether a set has an element, a map a field.
    async fn has(&self, ty: Type, element: Value) -> Result<bool, Error> {
        if self.path.is_empty() {
            let query = Query { element: Some(element), ..Query::default() };
            return Ok(self.page(ty, query).await?.and_then(|page| page.present).unwrap_or(false));
        }
        Ok(match (self.value(ty).await?.0, element) {
            (Some(Value::Array(elements)), element) => elements.contains(&element),
            (Some(Value::Map(fields)), Value::Str(field)) => fields.contains_key(&field),
            _ => false,
        })
    }

    /// How many elements or fields there are.
    async fn count(&self, ty: Type) -> Result<u64, Error> {
        if self.path.is_empty() {
            let query = Query { limit: 1, ..Query::default() };
            return Ok(self.page(ty, query).await?.and_then(|page| page.size).unwrap_or(0));
        }
        Ok(match self.value(ty).await?.0 {
            Some(Value::Array(elements)) => elements.len() as u64,
            Some(Value::Map(fields)) => fields.len() as u64,
            _ => 0,
        })
    }

    fn not_understood(&self, what: String) -> Error {
        Error::Protocol { dc: self.name(), what }
    }
}

/// Declares the mutations of a handle twice: as requests of a session, and as parts of a transaction.
macro_rules! mutations {
    ($handle:ident { $($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) => $mutation:expr;)* }) => {
        impl $handle<crate::net::Session> {
            $($(#[$doc])*
            ///
            /// # Errors
            /// If it was refused, or no datacenter could do it; see [`Error`](crate::Error).
            pub async fn $name(&self, $($arg: $ty),*) -> Result<crate::net::Written, crate::Error> {
                let mutation = $mutation;
                self.at.write(mutation).await
            })*

            /// Removes it, whatever is in it. That it is absent already is fine.
            ///
            /// # Errors
            /// If no datacenter could do it.
            pub async fn delete(&self) -> Result<crate::net::Written, crate::Error> {
                self.at.write(meridian_crdt::Mutation::Delete(None)).await
            }
        }

        /// In a transaction, mutations wait for its commit; what is wrong with one is told there, or at the next read.
        impl $handle<crate::net::Transaction> {
            $($(#[$doc])*
            pub fn $name(&self, $($arg: $ty),*) {
                self.at.buffer($mutation);
            })*

            /// Removes it, whatever is in it. That it is absent already is fine.
            pub fn delete(&self) {
                self.at.buffer(meridian_crdt::Mutation::Delete(None));
            }
        }
    };
}
use mutations;

/// Declares what makes handles; `$at` is the method that makes the address.
macro_rules! handles {
    ($source:ty, $at:ident) => {
        /// A counter: concurrent additions sum up.
        pub fn counter(&self, key: impl Into<String>) -> crate::net::Counter<$source> {
            crate::net::Counter { at: self.$at(key.into()) }
        }

        /// A register: of concurrent values the newest is kept.
        pub fn register(&self, key: impl Into<String>) -> crate::net::Register<$source> {
            crate::net::Register { at: self.$at(key.into()) }
        }

        /// A register that keeps all concurrent values until one is set that observed them.
        pub fn mvregister(&self, key: impl Into<String>) -> crate::net::MvRegister<$source> {
            crate::net::MvRegister { at: self.$at(key.into()) }
        }

        /// A flag: enabling wins over concurrent disabling.
        pub fn flag(&self, key: impl Into<String>) -> crate::net::Flag<$source> {
            crate::net::Flag { at: self.$at(key.into()) }
        }

        /// A flag: disabling wins over concurrent enabling.
        pub fn dwflag(&self, key: impl Into<String>) -> crate::net::DwFlag<$source> {
            crate::net::DwFlag { at: self.$at(key.into()) }
        }

        /// A set: adding an element wins over concurrently removing it.
        pub fn set(&self, key: impl Into<String>) -> crate::net::Set<$source> {
            crate::net::Set { at: self.$at(key.into()) }
        }

        /// A set: removing an element wins over concurrently adding it.
        pub fn rwset(&self, key: impl Into<String>) -> crate::net::RwSet<$source> {
            crate::net::RwSet { at: self.$at(key.into()) }
        }

        /// A map of fields, each of any type; updating a field wins over concurrently removing it.
        pub fn map(&self, key: impl Into<String>) -> crate::net::Map<$source> {
            crate::net::Map { at: self.$at(key.into()) }
        }
    };
}
pub(crate) use handles;
