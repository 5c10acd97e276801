//! What reads and writes return, out of the fields of answers.

use std::collections::BTreeMap;
use std::ops::Deref;

use meridian_crdt::{Type, Value, Version};

use super::session::Body;
use crate::wire::request::Document;

/// A value with the version of its key. It can be used as the value itself.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// let before = client.counter("n").value().await?;
/// let written = client.counter("n").add(1).await?;
/// let after = client.counter("n").value().await?;
/// assert_eq!(*after - *before, 1);
/// assert_ne!(after.version, before.version);
/// assert_eq!(after.version, written.version);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Versioned<T> {
    /// What was read.
    pub value: T,
    /// Changes with every change of the key, and is equal in all datacenters at equal contents. `Version(0)` is an
    /// absent key. A transaction can require it.
    pub version: Version,
}

impl<T> Deref for Versioned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Versioned<T> {
    /// The value alone.
    pub fn into_inner(self) -> T {
        self.value
    }
}

/// What a mutation came to.
#[derive(Clone, Debug, PartialEq)]
pub struct Written {
    /// The version of the key after it.
    pub version: Version,
    /// What the mutation returns, for those that return something.
    pub result: Value,
}

/// A key as it is read, whatever its type.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Content {
    /// The type it is shown as.
    pub ty: Type,
    /// Its version, over all that it holds.
    pub version: Version,
    /// The value, or one page of it; nil if only an element was asked for.
    pub value: Value,
    /// How many elements or fields there are, on all pages.
    pub size: Option<u64>,
    /// Where the next page goes on; none on the last one.
    pub cursor: Option<Vec<u8>>,
    /// Whether the element that was asked for is there.
    pub present: Option<bool>,
}

/// A field of a map.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its type.
    pub ty: Type,
    /// Its value; of a map within the map, an object of fields again.
    pub value: Value,
}

/// A key in a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The key.
    pub key: String,
    /// The type it is shown as.
    pub ty: Type,
    /// Its version.
    pub version: Version,
}

fn text(body: &mut Body, name: &str) -> Result<String, String> {
    match body.remove(name) {
        Some(Value::Str(text)) => Ok(text),
        _ => Err(format!("the field {name:?} is no text")),
    }
}

fn version(body: &mut Body) -> Result<Version, String> {
    Version::parse(&text(body, "version")?).ok_or_else(|| "the version is none".into())
}

fn type_of(body: &mut Body) -> Result<Type, String> {
    let name = text(body, "type")?;
    Type::from_name(&name).ok_or_else(|| format!("the type {name:?} is not known to this version"))
}

impl Written {
    pub(crate) fn from_body(mut body: Body) -> Result<Written, String> {
        Ok(Written { version: version(&mut body)?, result: body.remove("result").unwrap_or(Value::Nil) })
    }

    /// The results of a transaction, one for each of its operations.
    pub(crate) fn all_from_body(mut body: Body) -> Result<Vec<Written>, String> {
        let results = body.remove("results").and_then(Value::into_items).ok_or("there are no results")?;
        let one = |result: Value| Written::from_body(result.into_fields().ok_or("a result has no fields")?);
        results.into_iter().map(one).collect()
    }
}

impl Content {
    pub(crate) fn from_body(mut body: Body) -> Result<Content, String> {
        let size = body.remove("size").and_then(|size| size.as_integer());
        let cursor = match body.remove("cursor") {
            None | Some(Value::Nil) => None,
            Some(Value::Bytes(cursor)) => Some(cursor),
            Some(_) => return Err("the cursor of a value is no bytes".into()),
        };
        Ok(Content {
            ty: type_of(&mut body)?,
            version: version(&mut body)?,
            value: body.remove("value").unwrap_or(Value::Nil),
            size: size.and_then(|size| u64::try_from(size).ok()),
            cursor,
            present: body.remove("present").and_then(|present| present.as_boolean()),
        })
    }
}

/// A page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeysPage {
    /// The keys, in the order of their bytes.
    pub keys: Vec<Listed>,
    /// The key after which the next page goes on; none on the last one.
    pub after: Option<String>,
    /// Where a watch begins that misses nothing that came after this page was read; none in a transaction. Of a listing in
    /// several pages that of the first counts.
    pub watch_cursor: Option<String>,
}

/// A page out of the fields of an answer.
pub(crate) fn listing(mut body: Body) -> Result<KeysPage, String> {
    let keys = body.remove("keys").and_then(Value::into_items).ok_or("a listing has no keys")?;
    let one = |key: Value| {
        let mut fields = key.into_fields().ok_or("a listed key has no fields")?;
        Ok::<_, String>(Listed {
            key: text(&mut fields, "key")?,
            ty: type_of(&mut fields)?,
            version: version(&mut fields)?,
        })
    };
    let keys = keys.into_iter().map(one).collect::<Result<_, _>>()?;
    let mut text_if_any = |name: &str| match body.remove(name) {
        None | Some(Value::Nil) => Ok(None),
        Some(Value::Str(text)) => Ok(Some(text)),
        Some(_) => Err(format!("the {name} of a listing is no text")),
    };
    Ok(KeysPage { keys, after: text_if_any("cursor")?, watch_cursor: text_if_any("watch_cursor")? })
}

/// The fields of a map's value.
pub(crate) fn fields(value: Value) -> Result<BTreeMap<String, Field>, String> {
    let fields = value.into_fields().ok_or("a map has no fields")?;
    let one = |(name, field): (String, Value)| {
        let mut field = field.into_fields().ok_or("a field has no type")?;
        let ty = type_of(&mut field)?;
        Ok((name, Field { ty, value: field.remove("value").unwrap_or(Value::Nil) }))
    };
    fields.into_iter().map(one).collect()
}

/// Adds a later page of a value to the earlier ones.
pub(crate) fn append(page: Value, all: &mut Value) {
    match (all, page) {
        (Value::Array(all), Value::Array(page)) => all.extend(page),
        (Value::Map(all), Value::Map(page)) => {
            for (name, value) in page {
                match all.get_mut(&name) {
                    Some(known) => append(value, known),
                    None => drop(all.insert(name, value)),
                }
            }
        }
        // What does not grow is the same on every page.
        (all, page) => *all = page,
    }
}
