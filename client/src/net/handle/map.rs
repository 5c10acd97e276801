//! Handles of maps, and of what is below their fields.

use std::collections::BTreeMap;

use meridian_crdt::{MapOp, Mutation, Type, Value};

use super::{At, Source, handles, mutations};
use crate::net::error::Error;
use crate::net::read::{self, Field, Versioned};

/// A map. Its fields have handles of their own, whatever their types, maps among them.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// let profile = client.map("profile:ann");
/// profile.register("name").set("Ann").await?;
/// profile.map("stats").counter("visits").add(1).await?;
/// assert_eq!(*profile.map("stats").counter("visits").value().await?, 1);
/// assert_eq!(profile.fields().await?.keys().collect::<Vec<_>>(), ["name", "stats"]);
/// profile.remove("stats").await?; // with everything below it
/// assert_eq!(profile.size().await?, 1);
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Map<S> {
    pub(crate) at: At<S>,
}

mutations!(Map {
    /// Removes a field with everything below it; that it is absent is fine.
    remove(field: impl Into<String>) => Mutation::Map(MapOp::Remove { field: field.into() });
    /// Removes every field that this datacenter has.
    clear() => Mutation::Map(MapOp::Clear);
});

impl<S: Source> Map<S> {
    handles!(S, field);

    fn field(&self, field: String) -> At<S> {
        let mut at = self.at.clone();
        at.path.push(field);
        at
    }

    /// Whether a field is there.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the key is no map; or as for every request.
    pub async fn contains(&self, field: impl Into<String>) -> Result<bool, Error> {
        let field = Value::Str(field.into());
        self.at.has(Type::Map, field).await
    }

    /// How many fields there are.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the key is no map; or as for every request.
    pub async fn size(&self) -> Result<u64, Error> {
        self.at.count(Type::Map).await
    }

    /// All fields.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the key is no map, `too_large` if it has very many pages; or as for every request.
    pub async fn fields(&self) -> Result<Versioned<BTreeMap<String, Field>>, Error> {
        let (value, version) = self.at.value(Type::Map).await?;
        let fields = value.map_or(Ok(BTreeMap::new()), read::fields);
        let value = fields.map_err(|what| self.at.not_understood(what))?;
        Ok(Versioned { value, version })
    }
}
