//! Values in MessagePack: the frames of the native protocol, and the values inside them.
//!
//! Only what [`Value`] can hold is accepted: no extension types, text keys without repetition in maps, integers of at
//! most 64 signed bits, no NaN. Depth and the number of values are bounded, so that a frame never takes much more
//! memory than its own length times a small constant.

use std::collections::BTreeMap;

use meridian_crdt::Value;
use rmp::{Marker, encode};

use super::error::{ApiError, ErrorCode};
use super::request::Document;

/// How deep arrays and maps may nest in a frame: a value of the deepest kind, inside the deepest map, inside a frame.
pub const DEPTH_MAX: usize = 64;
/// How many values one frame may consist of, however small they are.
pub const VALUES_MAX: usize = 400_000;

/// Why bytes are no value. Small, so that handing values up costs little.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Malformed {
    #[error("the frame breaks off")]
    Truncated,
    #[error("the frame goes on behind its value")]
    Trailing,
    #[error("the frame nests deeper than {DEPTH_MAX}")]
    TooDeep,
    #[error("the frame has more than {VALUES_MAX} values")]
    TooMany,
    #[error("a length is out of range")]
    Length,
    #[error("an integer does not fit 64 signed bits")]
    Integer,
    #[error("the frame uses an extension type")]
    Extension,
    #[error("NaN cannot be kept")]
    Nan,
    #[error("a text is not UTF-8")]
    NotUtf8,
    #[error("the key of a map is not a text")]
    KeyNotText,
    #[error("a map has the same key twice")]
    KeyTwice,
}

/// Appends `value`. Integers and lengths take their shortest form.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Nil => write_bytes(None, out),
        Value::Bool(v) => out.push(if *v { Marker::True } else { Marker::False }.to_u8()),
        Value::Int(v) => taken(encode::write_sint(out, *v)),
        Value::Float(v) => taken(encode::write_f64(out, *v)),
        Value::Str(v) => write_text(v, out),
        Value::Bytes(v) => write_bytes(Some(v), out),
        Value::Array(items) => {
            write_array_head(items.len(), out);
            items.iter().for_each(|item| write(item, out));
        }
        Value::Map(fields) => write_map(fields, out),
    }
}

/// Appends a map of these fields.
pub fn write_map(fields: &BTreeMap<String, Value>, out: &mut Vec<u8>) {
    write_map_head(fields.len(), out);
    for (name, value) in fields {
        write_text(name, out);
        write(value, out);
    }
}

/// Appends the head of an array of `len` items, which are to follow.
pub fn write_array_head(len: usize, out: &mut Vec<u8>) {
    taken(encode::write_array_len(out, length(len)));
}

/// Appends the head of a map of `len` fields, which are to follow.
pub fn write_map_head(len: usize, out: &mut Vec<u8>) {
    taken(encode::write_map_len(out, length(len)));
}

/// Appends a text.
pub fn write_text(text: &str, out: &mut Vec<u8>) {
    taken(encode::write_str(out, text));
}

/// Appends bytes, or nil if there are none.
pub fn write_bytes(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    match bytes {
        Some(bytes) => taken(encode::write_bin(out, bytes)),
        None => out.push(Marker::Null.to_u8()),
    }
}

/// What a write into memory says, which cannot fail.
fn taken<T, E: std::fmt::Display>(written: Result<T, E>) {
    if let Err(e) = written {
        unreachable!("memory takes every write: {e}");
    }
}

fn length(len: usize) -> u32 {
    u32::try_from(len).unwrap_or_else(|_| unreachable!("frames are far below 4 GiB"))
}

/// The encoding on its own.
pub fn to_vec(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(value, &mut out);
    out
}

/// Reads a value that is all of `bytes`.
pub fn from_slice(bytes: &[u8]) -> Result<Value, ApiError> {
    read(bytes, VALUES_MAX).map(Borrowed::into_owned)
}

/// Reads a value that is all of `bytes`, of as many values as it likes: what a node answers was in its state, and the
/// client has bounded the answer's length.
pub fn from_node(bytes: &[u8]) -> Result<Value, ApiError> {
    read(bytes, usize::MAX).map(Borrowed::into_owned)
}

/// Reads an array of `N` values that is all of `bytes`, and leaves their texts and bytes where they are; nothing if it is
/// another value.
pub fn borrow_array<const N: usize>(bytes: &[u8]) -> Result<Option<[Borrowed<'_>; N]>, ApiError> {
    let mut input = Input { bytes, values_left: VALUES_MAX };
    let mut read = || {
        let marker = input.marker()?;
        if input.array_len(marker)? != Some(N) {
            return Ok(None);
        }
        let mut items = [const { Borrowed::Nil }; N];
        for item in &mut items {
            *item = input.value(1)?;
        }
        input.end()?;
        Ok(Some(items))
    };
    read().map_err(malformed)
}

fn read(bytes: &[u8], values_max: usize) -> Result<Borrowed<'_>, ApiError> {
    let mut input = Input { bytes, values_left: values_max };
    let value = input.value(0).and_then(|value| input.end().map(|()| value));
    value.map_err(malformed)
}

fn malformed(why: Malformed) -> ApiError {
    ApiError::new(ErrorCode::BadMsgpack, why.to_string())
}

/// A value in the bytes that it was read from. Frames are taken apart in this form, so that only what is kept of them is
/// copied.
#[derive(Clone, Debug, PartialEq)]
pub enum Borrowed<'a> {
    /// Nothing.
    Nil,
    /// A boolean.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number that is never NaN, nor a zero with a sign.
    Float(f64),
    /// A text.
    Str(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// Values in order.
    Array(Vec<Borrowed<'a>>),
    /// Fields in the order in which they were sent; no name is there twice.
    Map(Vec<(&'a str, Borrowed<'a>)>),
}

impl Borrowed<'_> {
    /// The same on its own.
    pub fn into_owned(self) -> Value {
        match self {
            Borrowed::Nil => Value::Nil,
            Borrowed::Bool(v) => Value::Bool(v),
            Borrowed::Int(v) => Value::Int(v),
            Borrowed::Float(v) => Value::Float(v),
            Borrowed::Str(v) => Value::Str(v.to_owned()),
            Borrowed::Bytes(v) => Value::Bytes(v.to_vec()),
            Borrowed::Array(items) => Value::Array(items.into_iter().map(Borrowed::into_owned).collect()),
            Borrowed::Map(fields) => {
                let field = |(name, value): (&str, Borrowed<'_>)| (name.to_owned(), value.into_owned());
                Value::Map(fields.into_iter().map(field).collect())
            }
        }
    }
}

impl<'a> Document for Borrowed<'a> {
    type Name = &'a str;
    type Fields = Vec<(&'a str, Self)>;

    fn into_fields(self) -> Option<Self::Fields> {
        match self {
            Borrowed::Map(fields) => Some(fields),
            _ => None,
        }
    }

    fn into_items(self) -> Option<Vec<Self>> {
        match self {
            Borrowed::Array(items) => Some(items),
            _ => None,
        }
    }

    fn as_text(&self) -> Option<&str> {
        match self {
            Borrowed::Str(text) => Some(text),
            _ => None,
        }
    }

    fn as_integer(&self) -> Option<i64> {
        match self {
            Borrowed::Int(number) => Some(*number),
            _ => None,
        }
    }

    fn as_boolean(&self) -> Option<bool> {
        match self {
            Borrowed::Bool(on) => Some(*on),
            _ => None,
        }
    }

    fn into_value(self) -> Result<Value, ApiError> {
        self.into_owned().into_value()
    }
}

struct Input<'a> {
    bytes: &'a [u8],
    values_left: usize,
}

impl<'a> Input<'a> {
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (front, rest) = self.bytes.split_first_chunk::<N>().ok_or(Malformed::Truncated)?;
        self.bytes = rest;
        Ok(*front)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (front, rest) = self.bytes.split_at_checked(len).ok_or(Malformed::Truncated)?;
        self.bytes = rest;
        Ok(front)
    }

    fn len8(&mut self) -> Result<usize, Malformed> {
        Ok(usize::from(u8::from_be_bytes(self.chunk()?)))
    }

    fn len16(&mut self) -> Result<usize, Malformed> {
        Ok(usize::from(u16::from_be_bytes(self.chunk()?)))
    }

    fn len32(&mut self) -> Result<usize, Malformed> {
        usize::try_from(u32::from_be_bytes(self.chunk()?)).map_err(|_| Malformed::Length)
    }

    /// The marker of one more value.
    fn marker(&mut self) -> Result<Marker, Malformed> {
        self.values_left = self.values_left.checked_sub(1).ok_or(Malformed::TooMany)?;
        Ok(Marker::from_u8(u8::from_be_bytes(self.chunk()?)))
    }

    fn value(&mut self, depth: usize) -> Result<Borrowed<'a>, Malformed> {
        if depth > DEPTH_MAX {
            return Err(Malformed::TooDeep);
        }
        let marker = self.marker()?;
        if let Some(text) = self.text(marker)? {
            return Ok(Borrowed::Str(text));
        }
        if let Some(len) = self.array_len(marker)? {
            return self.array(len, depth);
        }
        Ok(match marker {
            Marker::Null => Borrowed::Nil,
            Marker::True => Borrowed::Bool(true),
            Marker::False => Borrowed::Bool(false),
            Marker::FixPos(v) => Borrowed::Int(i64::from(v)),
            Marker::FixNeg(v) => Borrowed::Int(i64::from(v)),
            Marker::F32 | Marker::F64 => self.float(marker)?,
            Marker::Bin8 => self.len8().and_then(|len| self.binary(len))?,
            Marker::Bin16 => self.len16().and_then(|len| self.binary(len))?,
            Marker::Bin32 => self.len32().and_then(|len| self.binary(len))?,
            Marker::FixMap(len) => self.map(usize::from(len), depth)?,
            Marker::Map16 => self.len16().and_then(|len| self.map(len, depth))?,
            Marker::Map32 => self.len32().and_then(|len| self.map(len, depth))?,
            _ => self.integer(marker)?,
        })
    }

    /// The text that begins with this marker, if it is that of one.
    fn text(&mut self, marker: Marker) -> Result<Option<&'a str>, Malformed> {
        let len = match marker {
            Marker::FixStr(len) => usize::from(len),
            Marker::Str8 => self.len8()?,
            Marker::Str16 => self.len16()?,
            Marker::Str32 => self.len32()?,
            _ => return Ok(None),
        };
        std::str::from_utf8(self.take(len)?).map(Some).map_err(|_| Malformed::NotUtf8)
    }

    /// The length of the array that begins with this marker, if it is that of one.
    fn array_len(&mut self, marker: Marker) -> Result<Option<usize>, Malformed> {
        Ok(Some(match marker {
            Marker::FixArray(len) => usize::from(len),
            Marker::Array16 => self.len16()?,
            Marker::Array32 => self.len32()?,
            _ => return Ok(None),
        }))
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Malformed::Trailing) }
    }

    fn integer(&mut self, marker: Marker) -> Result<Borrowed<'a>, Malformed> {
        Ok(Borrowed::Int(match marker {
            Marker::U8 => i64::from(u8::from_be_bytes(self.chunk()?)),
            Marker::U16 => i64::from(u16::from_be_bytes(self.chunk()?)),
            Marker::U32 => i64::from(u32::from_be_bytes(self.chunk()?)),
            Marker::U64 => {
                i64::try_from(u64::from_be_bytes(self.chunk()?)).map_err(|_| Malformed::Integer)?
            }
            Marker::I8 => i64::from(i8::from_be_bytes(self.chunk()?)),
            Marker::I16 => i64::from(i16::from_be_bytes(self.chunk()?)),
            Marker::I32 => i64::from(i32::from_be_bytes(self.chunk()?)),
            Marker::I64 => i64::from_be_bytes(self.chunk()?),
            _ => return Err(Malformed::Extension),
        }))
    }

    fn float(&mut self, marker: Marker) -> Result<Borrowed<'a>, Malformed> {
        let v = match marker {
            Marker::F32 => f64::from(f32::from_be_bytes(self.chunk()?)),
            _ => f64::from_be_bytes(self.chunk()?),
        };
        if v.is_nan() {
            return Err(Malformed::Nan);
        }
        Ok(Borrowed::Float(if v == 0.0 { 0.0 } else { v }))
    }

    fn binary(&mut self, len: usize) -> Result<Borrowed<'a>, Malformed> {
        Ok(Borrowed::Bytes(self.take(len)?))
    }

    fn array(&mut self, len: usize, depth: usize) -> Result<Borrowed<'a>, Malformed> {
        // Each item takes at least a byte, so a length above what is left is a lie.
        let mut items = Vec::with_capacity(len.min(self.bytes.len()).min(self.values_left));
        for _ in 0..len {
            items.push(self.value(depth + 1)?);
        }
        Ok(Borrowed::Array(items))
    }

    fn map(&mut self, len: usize, depth: usize) -> Result<Borrowed<'a>, Malformed> {
        // Each field takes at least two bytes and two values.
        let mut fields = Vec::with_capacity(len.min(self.bytes.len() / 2).min(self.values_left / 2));
        for _ in 0..len {
            let marker = self.marker()?;
            let name = self.text(marker)?.ok_or(Malformed::KeyNotText)?;
            fields.push((name, self.value(depth + 1)?));
        }
        if has_repetition(&fields) {
            return Err(Malformed::KeyTwice);
        }
        Ok(Borrowed::Map(fields))
    }
}

/// Maps of up to so many fields, as all of the protocol's own are, are searched without sorting.
const SEARCHED_FIELDS_MAX: usize = 12;

/// Whether a name is there twice.
fn has_repetition(fields: &[(&str, Borrowed<'_>)]) -> bool {
    if fields.len() <= SEARCHED_FIELDS_MAX {
        return fields.iter().enumerate().any(|(i, (name, _))| fields[..i].iter().any(|(n, _)| n == name));
    }
    let mut names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    names.sort_unstable();
    names.windows(2).any(|two| two[0] == two[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Value {
        let text = |s: &str| Value::Str(s.into());
        let numbers = [i64::MIN, -40_000, -129, -128, -33, -1, 0, 127, 128, 255, 65_536, i64::MAX];
        Value::Array(vec![
            Value::Nil,
            Value::Bool(true),
            Value::Array(numbers.map(Value::Int).into()),
            Value::Float(-2.5),
            text("é"),
            text(&"x".repeat(70_000)),
            Value::Bytes(vec![0, 255]),
            Value::Map([("a".to_owned(), Value::Bool(false)), ("b".to_owned(), Value::Array(vec![]))].into()),
        ])
    }

    #[test]
    fn values_round_trip_in_their_shortest_form() {
        let bytes = to_vec(&sample());
        assert_eq!(from_slice(&bytes), Ok(sample()));
        let small =
            Value::Array(vec![Value::Int(5), Value::Str("ok".into()), Value::Int(-1), Value::Int(300)]);
        assert_eq!(to_vec(&small), [0x94, 5, 0xa2, b'o', b'k', 0xff, 0xcd, 1, 44]);
    }

    #[test]
    fn every_truncation_and_every_extension_is_refused() {
        let bytes = to_vec(&sample());
        for n in (0..bytes.len()).filter(|n| n % 97 == 0 || *n < 200) {
            assert_eq!(from_slice(&bytes[..n]).map_err(|e| e.code), Err(ErrorCode::BadMsgpack));
        }
        assert!(from_slice(&[&bytes[..], &[0xc0]].concat()).is_err());
    }

    #[test]
    fn what_no_value_can_hold_is_refused() {
        let twice = [0x82, 0xa1, b'a', 1, 0xa1, b'a', 2];
        let mut twice_of_many = vec![0xde, 0, 31];
        (0..31).for_each(|i| twice_of_many.extend([0xa1, b'a' + (i * 7) % 30, 1]));
        let number_key = [0x81, 1, 1];
        let extension = [0xd4, 1, 1];
        let nan = [&[0xcb][..], &f64::NAN.to_be_bytes()].concat();
        let huge = [&[0xcf][..], &u64::MAX.to_be_bytes()].concat();
        let not_utf8 = [0xa1, 0xff];
        for bytes in [&twice[..], &twice_of_many, &number_key, &extension, &nan, &huge, &not_utf8, &[0xc1]] {
            assert_eq!(from_slice(bytes).map_err(|e| e.code), Err(ErrorCode::BadMsgpack), "{bytes:?}");
        }
    }

    #[test]
    fn lies_about_lengths_and_deep_nesting_cost_nothing() {
        assert!(from_slice(&[0xdd, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(from_slice(&[0xdf, 0xff, 0xff, 0xff, 0xff, 0xa0]).is_err());
        assert!(from_slice(&[0xc6, 0xff, 0xff, 0xff, 0xff]).is_err());
        assert!(from_slice(&[0x91; 1_000_000]).is_err());
        let many = [&[0xdd, 0, 0x0f, 0xff, 0xff][..], &[0xc0; 0xf_ffff]].concat();
        assert!(from_slice(&many).is_err());
        assert!(from_node(&many).is_ok(), "a page of a large collection");
        assert!(from_node(&[0xdd, 0xff, 0xff, 0xff, 0xff]).is_err());
    }
}
