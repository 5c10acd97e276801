//! Values as clients write and read them, and their one encoding.
//!
//! The encoding is canonical and ordered: comparing bytes compares by type, then by value. So the same bytes serve as
//! the payload of a cell and as a segment of a path, and a scan over a set's cells yields its elements sorted.

use std::collections::BTreeMap;

use memchr::memchr;
use serde::{Deserialize, Serialize};

use crate::codec::{DecodeError, Reader, Writer};

/// How deep arrays and maps may nest inside a value.
pub const VALUE_DEPTH_MAX: usize = 32;

/// A value: MessagePack's model without extension types, with text keys in maps.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Value {
    /// Nothing.
    Nil,
    /// A boolean.
    Bool(bool),
    /// A 64-bit integer.
    Int(i64),
    /// A float, never NaN; negative zero is kept as zero.
    Float(f64),
    /// Text.
    Str(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Values in order.
    Array(Vec<Value>),
    /// Values by name.
    Map(BTreeMap<String, Value>),
}

/// What an encoded text takes beside its bytes, if none of these is zero.
const ORDERED_FRAME_BYTES: usize = 3;
/// What an encoded number takes.
const NUMBER_BYTES: usize = 9;

const END: u8 = 0x00;
const NIL: u8 = 0x01;
const FALSE: u8 = 0x02;
const TRUE: u8 = 0x03;
const INT: u8 = 0x04;
const FLOAT: u8 = 0x05;
const STR: u8 = 0x06;
const BYTES: u8 = 0x07;
const ARRAY: u8 = 0x08;
const MAP: u8 = 0x09;

/// Appends `bytes` so that order is kept and the end can be found: 0x00 becomes 0x00 0xff, the end is 0x00 0x00.
pub fn encode_ordered(bytes: &[u8], out: &mut Writer) {
    // Nearly all have no zero.
    if memchr(0, bytes).is_none() {
        out.raw(bytes);
        out.raw(&[0, 0]);
        return;
    }
    let mut runs = bytes.split(|b| *b == 0);
    out.raw(runs.next().unwrap_or_default());
    for run in runs {
        out.raw(&[0, 0xff]);
        out.raw(run);
    }
    out.raw(&[0, 0]);
}

/// Reads what [`encode_ordered`] wrote.
pub fn decode_ordered(input: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let mut bytes = Vec::new();
    loop {
        let rest = input.rest();
        let run = memchr(0, rest).ok_or(DecodeError::Truncated)?;
        bytes.extend_from_slice(&rest[..run]);
        match input.raw(run + 2)?[run + 1] {
            0 => return Ok(bytes),
            0xff => bytes.push(0),
            _ => return Err(DecodeError::Malformed),
        }
    }
}

impl Value {
    /// Appends the canonical, ordered, self-delimiting encoding.
    pub fn encode(&self, out: &mut Writer) {
        match self {
            Value::Nil => out.u8(NIL),
            Value::Bool(v) => out.u8(if *v { TRUE } else { FALSE }),
            Value::Int(v) => {
                out.u8(INT);
                out.u64((*v as u64) ^ (1 << 63));
            }
            Value::Float(v) => {
                out.u8(FLOAT);
                let bits = if *v == 0.0 { 0 } else { v.to_bits() };
                out.u64(if bits >> 63 == 1 { !bits } else { bits | 1 << 63 });
            }
            Value::Str(v) => {
                out.u8(STR);
                encode_ordered(v.as_bytes(), out);
            }
            Value::Bytes(v) => {
                out.u8(BYTES);
                encode_ordered(v, out);
            }
            Value::Array(items) => {
                out.u8(ARRAY);
                for item in items {
                    item.encode(out);
                }
                out.u8(END);
            }
            Value::Map(fields) => {
                out.u8(MAP);
                for (name, value) in fields {
                    out.u8(STR);
                    encode_ordered(name.as_bytes(), out);
                    value.encode(out);
                }
                out.u8(END);
            }
        }
    }

    /// The encoding on its own.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(match self {
            Value::Str(v) => v.len() + ORDERED_FRAME_BYTES,
            Value::Bytes(v) => v.len() + ORDERED_FRAME_BYTES,
            _ => NUMBER_BYTES,
        });
        self.encode(&mut out);
        out.finish()
    }

    /// Reads one value off the front of `input`. Only canonical encodings are accepted, so decoding and encoding
    /// again gives the same bytes.
    pub fn decode(input: &mut Reader<'_>) -> Result<Value, DecodeError> {
        let tag = input.u8()?;
        Self::decode_tagged(tag, input, 0)
    }

    /// Reads a value that is all of `bytes`.
    pub fn from_bytes(bytes: &[u8]) -> Result<Value, DecodeError> {
        let mut input = Reader::new(bytes);
        let value = Self::decode(&mut input)?;
        input.finish()?;
        Ok(value)
    }

    fn decode_tagged(tag: u8, input: &mut Reader<'_>, depth: usize) -> Result<Value, DecodeError> {
        if depth > VALUE_DEPTH_MAX {
            return Err(DecodeError::TooDeep);
        }
        Ok(match tag {
            NIL => Value::Nil,
            FALSE => Value::Bool(false),
            TRUE => Value::Bool(true),
            INT => Value::Int((input.u64()? ^ (1 << 63)) as i64),
            FLOAT => Self::decode_float(input.u64()?)?,
            STR => Value::Str(decode_text(input)?),
            BYTES => Value::Bytes(decode_ordered(input)?),
            ARRAY => {
                let mut items = Vec::new();
                loop {
                    match input.u8()? {
                        END => break Value::Array(items),
                        tag => items.push(Self::decode_tagged(tag, input, depth + 1)?),
                    }
                }
            }
            MAP => Self::decode_map(input, depth)?,
            _ => return Err(DecodeError::Malformed),
        })
    }

    fn decode_float(ordered: u64) -> Result<Value, DecodeError> {
        let bits = if ordered >> 63 == 1 { ordered ^ (1 << 63) } else { !ordered };
        let v = f64::from_bits(bits);
        if v.is_nan() || (v == 0.0 && bits != 0) {
            return Err(DecodeError::Malformed);
        }
        Ok(Value::Float(v))
    }

    fn decode_map(input: &mut Reader<'_>, depth: usize) -> Result<Value, DecodeError> {
        let mut fields = BTreeMap::new();
        loop {
            match input.u8()? {
                END => return Ok(Value::Map(fields)),
                STR => {
                    let name = decode_text(input)?;
                    if fields.last_key_value().is_some_and(|(last, _)| *last >= name) {
                        return Err(DecodeError::Malformed);
                    }
                    let tag = input.u8()?;
                    fields.insert(name, Self::decode_tagged(tag, input, depth + 1)?);
                }
                _ => return Err(DecodeError::Malformed),
            }
        }
    }

    /// Whether the value can be kept: no NaN anywhere, and nesting within [`VALUE_DEPTH_MAX`].
    pub fn is_storable(&self) -> bool {
        fn check(value: &Value, depth: usize) -> bool {
            depth <= VALUE_DEPTH_MAX
                && match value {
                    Value::Float(v) => !v.is_nan(),
                    Value::Array(items) => items.iter().all(|v| check(v, depth + 1)),
                    Value::Map(fields) => fields.values().all(|v| check(v, depth + 1)),
                    _ => true,
                }
        }
        check(self, 0)
    }
}

fn decode_text(input: &mut Reader<'_>) -> Result<String, DecodeError> {
    String::from_utf8(decode_ordered(input)?).map_err(|_| DecodeError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> Vec<Value> {
        let text = |s: &str| Value::Str(s.into());
        vec![
            Value::Nil,
            Value::Bool(false),
            Value::Bool(true),
            Value::Int(i64::MIN),
            Value::Int(-1),
            Value::Int(0),
            Value::Int(i64::MAX),
            Value::Float(f64::NEG_INFINITY),
            Value::Float(-1.5),
            Value::Float(0.0),
            Value::Float(2.5),
            text(""),
            text("a"),
            text("a\0"),
            text("a\0b"),
            text("b"),
            Value::Bytes(vec![]),
            Value::Bytes(vec![0, 255]),
            Value::Array(vec![]),
            Value::Array(vec![Value::Nil]),
            Value::Array(vec![Value::Nil, text("x")]),
            Value::Map(BTreeMap::new()),
            Value::Map([("k".to_string(), Value::Int(1))].into()),
        ]
    }

    #[test]
    fn encodings_round_trip_and_sort_by_type_and_value() {
        let encoded: Vec<_> = samples().iter().map(Value::to_bytes).collect();
        assert!(encoded.is_sorted());
        for (bytes, value) in encoded.iter().zip(samples()) {
            assert_eq!(Value::from_bytes(bytes).expect("own encoding"), value);
        }
    }

    #[test]
    fn golden_bytes_do_not_change() {
        let value = Value::Array(vec![Value::Int(5), Value::Str("a\0".into()), Value::Float(1.0)]);
        assert_eq!(
            value.to_bytes(),
            [8, 4, 0x80, 0, 0, 0, 0, 0, 0, 5, 6, b'a', 0, 255, 0, 0, 5, 0xbf, 0xf0, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn deep_nesting_is_refused() {
        let mut bytes = vec![ARRAY; 100_000];
        bytes.push(END);
        assert_eq!(Value::from_bytes(&bytes), Err(DecodeError::TooDeep));
    }
}
