//! Handles of types with one value: counters, registers, flags.

use meridian_crdt::{CounterOp, FlagOp, Mutation, RegisterOp, Type, Value};

use super::{At, Source, mutations};
use crate::net::error::Error;
use crate::net::read::Versioned;
use crate::net::value::{FromValue, IntoValue};

/// A counter.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// let stock = client.counter("stock");
/// stock.add(10).await?;
/// stock.add(-3).await?;
/// assert_eq!(*stock.value().await?, 7);
/// stock.reset().await?;
/// assert_eq!(*stock.value().await?, 0);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Counter<S> {
    pub(crate) at: At<S>,
}

mutations!(Counter {
    /// Adds `by`, which may be negative.
    add(by: i64) => Mutation::Counter(CounterOp::Add(by));
    /// Takes out what was added so far; additions that happen at the same time elsewhere stay.
    reset() => Mutation::Counter(CounterOp::Reset);
});

impl<S: Source> Counter<S> {
    /// The sum; 0 if nothing was added.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the key is no counter; or as for every request.
    pub async fn value(&self) -> Result<Versioned<i64>, Error> {
        let (value, version) = self.at.value(Type::Counter).await?;
        let value = value.map_or(Ok(0), |value| self.at.typed(value))?;
        Ok(Versioned { value, version })
    }
}

/// A register. It holds any [value](crate::IntoValue), and is read as the Rust type that the caller names.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// use meridian_client::Error;
///
/// let name = client.register("name");
/// assert_eq!(*name.get::<String>().await?, None);
/// name.set("Ann").await?;
/// assert_eq!(name.get().await?.into_inner(), Some("Ann".to_owned()));
/// assert!(matches!(name.get::<i64>().await, Err(Error::WrongType { .. })));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Register<S> {
    pub(crate) at: At<S>,
}

mutations!(Register {
    /// Replaces what is there.
    set(value: impl IntoValue) => Mutation::Register(RegisterOp::Set(value.into_value()));
    /// Takes out what is there.
    clear() => Mutation::Register(RegisterOp::Clear);
});

impl<S: Source> Register<S> {
    /// The value, if there is one.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the key is no register, or its value no `T`; or as for every request.
    pub async fn get<T: FromValue>(&self) -> Result<Versioned<Option<T>>, Error> {
        let (value, version) = self.at.value(Type::Register).await?;
        let value = value.map(|value| self.at.typed(value)).transpose()?;
        Ok(Versioned { value, version })
    }
}

/// A multi-value register. Its reader sees all values that were set concurrently, and may join them.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// let title = client.mvregister("title");
/// title.set("Causal sessions").await?;
/// let titles = title.get::<String>().await?;
/// if titles.len() > 1 {
///     title.set(titles.join(" / ")).await?; // replaces every value that was read
/// }
/// assert_eq!(*titles, ["Causal sessions"]);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct MvRegister<S> {
    pub(crate) at: At<S>,
}

mutations!(MvRegister {
    /// Replaces the values that this datacenter has; concurrent ones stay beside it.
    set(value: impl IntoValue) => Mutation::MvRegister(RegisterOp::Set(value.into_value()));
    /// Takes out the values that this datacenter has.
    clear() => Mutation::MvRegister(RegisterOp::Clear);
});

impl<S: Source> MvRegister<S> {
    /// The concurrent values, sorted; none if it is absent.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the key is no such register, or a value no `T`; or as for every request.
    pub async fn get<T: FromValue>(&self) -> Result<Versioned<Vec<T>>, Error> {
        let (value, version) = self.at.value(Type::MvRegister).await?;
        let values: Vec<Value> = value.map_or(Ok(Vec::new()), |value| self.at.typed(value))?;
        let value = values.into_iter().map(|value| self.at.typed(value)).collect::<Result<_, _>>()?;
        Ok(Versioned { value, version })
    }
}

macro_rules! flags {
    ($($(#[$doc:meta])* $flag:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $flag<S> {
            pub(crate) at: At<S>,
        }

        mutations!($flag {
            /// Makes it true.
            enable() => Mutation::$flag(FlagOp::Enable);
            /// Makes it false.
            disable() => Mutation::$flag(FlagOp::Disable);
        });

        impl<S: Source> $flag<S> {
            /// Whether it is enabled.
            ///
            /// # Errors
            /// [`Error::WrongType`] if the key is no such flag; or as for every request.
            pub async fn get(&self) -> Result<Versioned<bool>, Error> {
                let (value, version) = self.at.value(Type::$flag).await?;
                let value = value.map_or(Ok(false), |value| self.at.typed(value))?;
                Ok(Versioned { value, version })
            }
        }
    )*};
}

flags! {
    /// A flag; enabling wins.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// let liked = client.flag("ann:liked:7");
    /// assert!(!*liked.get().await?);
    /// liked.enable().await?;
    /// assert!(*liked.get().await?);
    /// # Ok(()) }
    /// ```
    Flag;
    /// A flag; disabling wins.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// let may_enter = client.dwflag("ann:may_enter");
    /// may_enter.enable().await?;
    /// may_enter.disable().await?; // wins over an `enable` elsewhere that did not know of it
    /// assert!(!*may_enter.get().await?);
    /// # Ok(()) }
    /// ```
    DwFlag;
}
