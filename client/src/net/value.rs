//! Values from and to the types of Rust.

use std::collections::BTreeMap;

use meridian_crdt::Value;

/// What can be kept as a value: the numbers, texts and bytes of Rust, an `Option` of one, or a [`Value`].
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
/// use meridian_client::Value;
///
/// let point = client.register("point");
/// point.set(vec![Value::Float(59.9), Value::Float(10.7)]).await?;
/// let read = point.get::<Vec<Value>>().await?.into_inner();
/// assert_eq!(read, Some(vec![Value::Float(59.9), Value::Float(10.7)]));
/// # Ok(()) }
/// ```
pub trait IntoValue {
    /// The value.
    fn into_value(self) -> Value;
}

/// What a value can be read as. [`Error::WrongType`](crate::Error::WrongType) tells that it is something else.
pub trait FromValue: Sized {
    /// What errors call it.
    const EXPECTED: &'static str;

    /// It, if the value is such; the value otherwise.
    ///
    /// # Errors
    /// The value itself, if it is of another kind.
    fn from_value(value: Value) -> Result<Self, Value>;
}

/// The kind of a value, for errors.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Bool(_) => "boolean",
        Value::Int(_) => "integer",
        Value::Float(_) => "float",
        Value::Str(_) => "text",
        Value::Bytes(_) => "bytes",
        Value::Array(_) => "array",
        Value::Map(_) => "object",
    }
}

impl IntoValue for Value {
    fn into_value(self) -> Value {
        self
    }
}

impl FromValue for Value {
    const EXPECTED: &'static str = "value";

    fn from_value(value: Value) -> Result<Self, Value> {
        Ok(value)
    }
}

macro_rules! kinds {
    ($($rust:ty, $kind:ident, $expected:literal;)*) => {$(
        impl IntoValue for $rust {
            fn into_value(self) -> Value {
                Value::$kind(self)
            }
        }

        impl FromValue for $rust {
            const EXPECTED: &'static str = $expected;

            fn from_value(value: Value) -> Result<Self, Value> {
                match value {
                    Value::$kind(it) => Ok(it),
                    other => Err(other),
                }
            }
        }
    )*};
}

kinds! {
    bool, Bool, "boolean";
    i64, Int, "integer";
    String, Str, "text";
    Vec<u8>, Bytes, "bytes";
}

macro_rules! integers {
    ($($rust:ty, $expected:literal;)*) => {$(
        impl IntoValue for $rust {
            fn into_value(self) -> Value {
                Value::Int(i64::from(self))
            }
        }

        impl FromValue for $rust {
            const EXPECTED: &'static str = $expected;

            fn from_value(value: Value) -> Result<Self, Value> {
                match value {
                    Value::Int(n) => <$rust>::try_from(n).map_err(|_| Value::Int(n)),
                    other => Err(other),
                }
            }
        }
    )*};
}

integers! {
    i32, "integer of 32 bits";
    u32, "integer of 32 bits without sign";
    u16, "integer of 16 bits without sign";
    u8, "integer of 8 bits without sign";
}

impl IntoValue for f64 {
    /// The float. What is not a number cannot be kept and becomes nil.
    fn into_value(self) -> Value {
        if self.is_nan() { Value::Nil } else { Value::Float(if self == 0.0 { 0.0 } else { self }) }
    }
}

impl FromValue for f64 {
    const EXPECTED: &'static str = "float";

    fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::Float(float) => Ok(float),
            other => Err(other),
        }
    }
}

impl IntoValue for &str {
    fn into_value(self) -> Value {
        Value::Str(self.to_owned())
    }
}

impl IntoValue for &String {
    fn into_value(self) -> Value {
        Value::Str(self.clone())
    }
}

impl IntoValue for &[u8] {
    fn into_value(self) -> Value {
        Value::Bytes(self.to_vec())
    }
}

impl<T: IntoValue> IntoValue for Option<T> {
    /// The value, or nil.
    fn into_value(self) -> Value {
        self.map_or(Value::Nil, T::into_value)
    }
}

impl<T: FromValue> FromValue for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn from_value(value: Value) -> Result<Self, Value> {
        if value == Value::Nil { Ok(None) } else { T::from_value(value).map(Some) }
    }
}

impl IntoValue for Vec<Value> {
    fn into_value(self) -> Value {
        Value::Array(self)
    }
}

impl FromValue for Vec<Value> {
    const EXPECTED: &'static str = "array";

    fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::Array(items) => Ok(items),
            other => Err(other),
        }
    }
}

impl IntoValue for BTreeMap<String, Value> {
    fn into_value(self) -> Value {
        Value::Map(self)
    }
}

impl FromValue for BTreeMap<String, Value> {
    const EXPECTED: &'static str = "object";

    fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::Map(fields) => Ok(fields),
            other => Err(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_values_come_back_as_they_were() {
        assert_eq!(i64::from_value((-5_i64).into_value()), Ok(-5));
        assert_eq!(u8::from_value(7_u8.into_value()), Ok(7));
        assert_eq!(u8::from_value(Value::Int(256)), Err(Value::Int(256)));
        assert_eq!(String::from_value("x".into_value()), Ok("x".into()));
        assert_eq!(Vec::<u8>::from_value([1_u8, 2][..].into_value()), Ok(vec![1, 2]));
        assert_eq!(Option::<i64>::from_value(None::<i64>.into_value()), Ok(None));
        assert_eq!(bool::from_value(Value::Int(1)), Err(Value::Int(1)));
        assert_eq!(f64::NAN.into_value(), Value::Nil);
    }
}
