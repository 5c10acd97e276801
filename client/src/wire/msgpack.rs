//! Values in MessagePack: the frames of the native protocol, and the values inside them.
//!
//! Only what [`Value`] can hold is accepted: no extension types, text keys without repetition in maps, integers of at
//! most 64 signed bits, no NaN. Depth and the number of values are bounded, so that a frame never takes much more
//! memory than its own length times a small constant.

use std::collections::BTreeMap;

use meridian_crdt::Value;
use rmp::{Marker, encode};

use super::error::{ApiError, ErrorCode};

/// How deep arrays and maps may nest in a frame: a value of the deepest kind, inside the deepest map, inside a frame.
pub const DEPTH_MAX: usize = 64;
/// How many values one frame may consist of, however small they are.
pub const VALUES_MAX: usize = 400_000;

fn bad(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::BadMsgpack, message)
}

/// Appends `value`. Integers and lengths take their shortest form.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    // A vector takes every write, so the results carry no information.
    let done = match value {
        Value::Nil => {
            out.push(Marker::Null.to_u8());
            Ok(())
        }
        Value::Bool(v) => {
            out.push(if *v { Marker::True } else { Marker::False }.to_u8());
            Ok(())
        }
        Value::Int(v) => encode::write_sint(out, *v).map(drop),
        Value::Float(v) => encode::write_f64(out, *v),
        Value::Str(v) => encode::write_str(out, v),
        Value::Bytes(v) => encode::write_bin(out, v),
        Value::Array(items) => encode::write_array_len(out, length(items.len())).map(|_| {
            items.iter().for_each(|item| write(item, out));
        }),
        Value::Map(fields) => encode::write_map_len(out, length(fields.len())).map(|_| {
            for (name, value) in fields {
                write(&Value::Str(name.clone()), out);
                write(value, out);
            }
        }),
    };
    done.unwrap_or_else(|e| unreachable!("memory takes every write: {e}"));
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
    read(bytes, VALUES_MAX)
}

/// Reads a value that is all of `bytes`, of as many values as it likes: what a node answers was in its state, and the
/// client has bounded the answer's length.
pub fn from_node(bytes: &[u8]) -> Result<Value, ApiError> {
    read(bytes, usize::MAX)
}

fn read(bytes: &[u8], values_max: usize) -> Result<Value, ApiError> {
    let mut input = Input { bytes, values_left: values_max };
    let value = input.value(0)?;
    if input.bytes.is_empty() { Ok(value) } else { Err(bad("the frame goes on behind its value")) }
}

struct Input<'a> {
    bytes: &'a [u8],
    values_left: usize,
}

impl<'a> Input<'a> {
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], ApiError> {
        let (front, rest) = self.bytes.split_first_chunk::<N>().ok_or_else(|| bad("the frame breaks off"))?;
        self.bytes = rest;
        Ok(*front)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ApiError> {
        let (front, rest) = self.bytes.split_at_checked(len).ok_or_else(|| bad("the frame breaks off"))?;
        self.bytes = rest;
        Ok(front)
    }

    fn len8(&mut self) -> Result<usize, ApiError> {
        Ok(usize::from(u8::from_be_bytes(self.chunk()?)))
    }

    fn len16(&mut self) -> Result<usize, ApiError> {
        Ok(usize::from(u16::from_be_bytes(self.chunk()?)))
    }

    fn len32(&mut self) -> Result<usize, ApiError> {
        usize::try_from(u32::from_be_bytes(self.chunk()?)).map_err(|_| bad("a length is out of range"))
    }

    fn value(&mut self, depth: usize) -> Result<Value, ApiError> {
        if depth > DEPTH_MAX {
            return Err(bad(format!("the frame nests deeper than {DEPTH_MAX}")));
        }
        self.values_left = self
            .values_left
            .checked_sub(1)
            .ok_or_else(|| bad(format!("the frame has more than {VALUES_MAX} values")))?;
        let marker = Marker::from_u8(u8::from_be_bytes(self.chunk()?));
        Ok(match marker {
            Marker::Null => Value::Nil,
            Marker::True => Value::Bool(true),
            Marker::False => Value::Bool(false),
            Marker::FixPos(v) => Value::Int(i64::from(v)),
            Marker::FixNeg(v) => Value::Int(i64::from(v)),
            Marker::F32 | Marker::F64 => self.float(marker)?,
            Marker::FixStr(len) => self.text(usize::from(len))?,
            Marker::Str8 => self.len8().and_then(|len| self.text(len))?,
            Marker::Str16 => self.len16().and_then(|len| self.text(len))?,
            Marker::Str32 => self.len32().and_then(|len| self.text(len))?,
            Marker::Bin8 => self.len8().and_then(|len| self.binary(len))?,
            Marker::Bin16 => self.len16().and_then(|len| self.binary(len))?,
            Marker::Bin32 => self.len32().and_then(|len| self.binary(len))?,
            Marker::FixArray(len) => self.array(usize::from(len), depth)?,
            Marker::Array16 => self.len16().and_then(|len| self.array(len, depth))?,
            Marker::Array32 => self.len32().and_then(|len| self.array(len, depth))?,
            Marker::FixMap(len) => self.map(usize::from(len), depth)?,
            Marker::Map16 => self.len16().and_then(|len| self.map(len, depth))?,
            Marker::Map32 => self.len32().and_then(|len| self.map(len, depth))?,
            _ => self.integer(marker)?,
        })
    }

    fn integer(&mut self, marker: Marker) -> Result<Value, ApiError> {
        Ok(Value::Int(match marker {
            Marker::U8 => i64::from(u8::from_be_bytes(self.chunk()?)),
            Marker::U16 => i64::from(u16::from_be_bytes(self.chunk()?)),
            Marker::U32 => i64::from(u32::from_be_bytes(self.chunk()?)),
            Marker::U64 => i64::try_from(u64::from_be_bytes(self.chunk()?))
                .map_err(|_| bad("an integer does not fit 64 signed bits"))?,
            Marker::I8 => i64::from(i8::from_be_bytes(self.chunk()?)),
            Marker::I16 => i64::from(i16::from_be_bytes(self.chunk()?)),
            Marker::I32 => i64::from(i32::from_be_bytes(self.chunk()?)),
            Marker::I64 => i64::from_be_bytes(self.chunk()?),
            _ => return Err(bad("the frame uses an extension type")),
        }))
    }

    fn float(&mut self, marker: Marker) -> Result<Value, ApiError> {
        let v = match marker {
            Marker::F32 => f64::from(f32::from_be_bytes(self.chunk()?)),
            _ => f64::from_be_bytes(self.chunk()?),
        };
        if v.is_nan() {
            return Err(bad("NaN cannot be kept"));
        }
        Ok(Value::Float(if v == 0.0 { 0.0 } else { v }))
    }

    fn string(&mut self, len: usize) -> Result<String, ApiError> {
        let text = std::str::from_utf8(self.take(len)?).map_err(|_| bad("a text is not UTF-8"))?;
        Ok(text.to_owned())
    }

    fn text(&mut self, len: usize) -> Result<Value, ApiError> {
        self.string(len).map(Value::Str)
    }

    fn binary(&mut self, len: usize) -> Result<Value, ApiError> {
        Ok(Value::Bytes(self.take(len)?.to_vec()))
    }

    fn array(&mut self, len: usize, depth: usize) -> Result<Value, ApiError> {
        // Each item takes at least a byte, so a length above what is left is a lie.
        let mut items = Vec::with_capacity(len.min(self.bytes.len()).min(self.values_left));
        for _ in 0..len {
            items.push(self.value(depth + 1)?);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, len: usize, depth: usize) -> Result<Value, ApiError> {
        let mut fields = BTreeMap::new();
        for _ in 0..len {
            let Value::Str(name) = self.value(depth + 1)? else {
                return Err(bad("the key of a map is not a text"));
            };
            let value = self.value(depth + 1)?;
            if fields.insert(name, value).is_some() {
                return Err(bad("a map has the same key twice"));
            }
        }
        Ok(Value::Map(fields))
    }
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
        let number_key = [0x81, 1, 1];
        let extension = [0xd4, 1, 1];
        let nan = [&[0xcb][..], &f64::NAN.to_be_bytes()].concat();
        let huge = [&[0xcf][..], &u64::MAX.to_be_bytes()].concat();
        let not_utf8 = [0xa1, 0xff];
        for bytes in [&twice[..], &number_key, &extension, &nan, &huge, &not_utf8, &[0xc1]] {
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
