//! Paths: where in a key a cell stands, starting with its type.
//!
//! ```text
//! register, mvregister, flag, dwflag   type
//! counter                              3 | origin u32            floor: 3 | origin u32 | 66
//! set, rwset                           type | element
//! map                                  8 | field (a string) | path of the field's type
//! doc                                  9 | what `types::doc` says; never below a field
//! ```
//!
//! Elements and fields are encoded values, which end by themselves and sort by value. So a path is read from the front
//! without lengths, all of a collection has one prefix, and a removal of everything below a field is one prefix too.

use crate::codec::{DecodeError, Reader, Writer};
use crate::id::Origin;
use crate::types::{Type, doc};
use crate::value::{Value, decode_ordered, encode_ordered};

/// How many maps may stand around a leaf. This bounds hostile input; what clients may nest is
/// [`Limits::depth_max`](crate::Limits), which is lower.
pub const PATH_DEPTH_MAX: usize = 32;

const FIELD: u8 = 0x06;
const FLOOR: u8 = 0x66;

/// What the last part of a path says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// The type of the cell.
    pub ty: Type,
    /// How long the path is up to and with that type's code.
    pub base: usize,
    /// How many maps stand around it.
    pub depth: usize,
    /// Whose cell of a counter it is.
    pub counter: Option<Origin>,
    /// Whether it is the floor of that cell.
    pub floor: bool,
}

/// Reads a whole path of a cell.
pub(crate) fn parse(path: &[u8]) -> Result<Leaf, DecodeError> {
    let mut input = Reader::new(path);
    let (ty, depth) = walk_fields(&mut input)?.ok_or(DecodeError::Truncated)?;
    let base = path.len() - input.rest().len();
    let mut leaf = Leaf { ty, base, depth, counter: None, floor: false };
    match ty {
        Type::Counter => {
            leaf.counter = Some(Origin(input.u32()?));
            if !input.is_empty() {
                leaf.floor = true;
                if input.u8()? != FLOOR {
                    return Err(DecodeError::Malformed);
                }
            }
        }
        Type::Set | Type::RwSet => {
            Value::decode(&mut input)?;
        }
        Type::Map => return Err(DecodeError::Truncated),
        Type::Doc if depth > 0 => return Err(DecodeError::Malformed),
        Type::Doc => drop(doc::Place::take(&mut input)?),
        _ => {}
    }
    input.finish()?;
    Ok(leaf)
}

/// Whether `path` may stand for everything below it: a type, or a field of a map.
pub(crate) fn check_prefix(path: &[u8]) -> Result<(), DecodeError> {
    let mut input = Reader::new(path);
    if path.is_empty() {
        return Err(DecodeError::Truncated);
    }
    walk_fields(&mut input)?;
    input.finish()
}

/// Walks over `8 | field` pairs to the first code that is not followed by a field. `None` if the input ends after a
/// field.
fn walk_fields(input: &mut Reader<'_>) -> Result<Option<(Type, usize)>, DecodeError> {
    let mut depth = 0;
    while !input.is_empty() {
        let ty = Type::from_code(input.u8()?).ok_or(DecodeError::Malformed)?;
        if ty != Type::Map || input.is_empty() {
            return Ok(Some((ty, depth)));
        }
        depth += 1;
        if depth > PATH_DEPTH_MAX {
            return Err(DecodeError::TooDeep);
        }
        if input.u8()? != FIELD {
            return Err(DecodeError::Malformed);
        }
        decode_text(input)?;
    }
    Ok(None)
}

fn decode_text(input: &mut Reader<'_>) -> Result<String, DecodeError> {
    String::from_utf8(decode_ordered(input)?).map_err(|_| DecodeError::Malformed)
}

/// The fields that a path leads through, outermost first, each with the length of the path up to its end.
pub(crate) fn fields(path: &[u8]) -> Result<Vec<(String, usize)>, DecodeError> {
    let mut input = Reader::new(path);
    let mut fields = Vec::new();
    while input.rest().first() == Some(&Type::Map.code()) && input.rest().len() > 1 {
        input.raw(2)?;
        let name = decode_text(&mut input)?;
        fields.push((name, path.len() - input.rest().len()));
    }
    Ok(fields)
}

/// The end of the first `8 | field` pair of a path inside a map.
pub(crate) fn first_field_end(path: &[u8]) -> Result<usize, DecodeError> {
    let mut input = Reader::new(path);
    input.raw(2)?;
    decode_ordered(&mut input)?;
    Ok(path.len() - input.rest().len())
}

/// `at` followed by a type.
pub(crate) fn of_type(at: &[u8], ty: Type) -> Vec<u8> {
    [at, &[ty.code()]].concat()
}

/// `at` followed by a type and an element.
pub(crate) fn of_element(at: &[u8], ty: Type, element: &Value) -> Vec<u8> {
    let mut out = Writer::new();
    out.raw(at);
    out.u8(ty.code());
    element.encode(&mut out);
    out.finish()
}

/// `at` followed by a map's code and a field.
pub(crate) fn of_field(at: &[u8], field: &str) -> Vec<u8> {
    let mut out = Writer::new();
    out.raw(at);
    out.u8(Type::Map.code());
    out.u8(FIELD);
    encode_ordered(field.as_bytes(), &mut out);
    out.finish()
}

/// `at` followed by a counter and whose cell it is.
pub(crate) fn of_counter(at: &[u8], origin: Origin) -> Vec<u8> {
    let mut out = Writer::new();
    out.raw(at);
    out.u8(Type::Counter.code());
    out.u32(origin.0);
    out.finish()
}

/// The floor that belongs to an origin's cell of a counter.
pub(crate) fn floor_of(counter_cell: &[u8]) -> Vec<u8> {
    [counter_cell, &[FLOOR]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_do_not_change() {
        let at = of_field(&[], "f");
        assert_eq!(at, [8, 6, b'f', 0, 0]);
        assert_eq!(of_type(&at, Type::Register), [8, 6, b'f', 0, 0, 1]);
        assert_eq!(of_element(&[], Type::Set, &Value::Bool(true)), [6, 3]);
        assert_eq!(floor_of(&of_counter(&[], Origin(7))), [3, 0, 0, 0, 7, 0x66]);
    }

    #[test]
    fn paths_parse_into_what_they_were_built_from() {
        let at = of_field(&of_field(&[], "a"), "b\0");
        let leaf = parse(&of_element(&at, Type::RwSet, &Value::Nil)).expect("own encoding");
        assert_eq!((leaf.ty, leaf.base, leaf.depth), (Type::RwSet, at.len() + 1, 2));
        let floor = parse(&floor_of(&of_counter(&at, Origin(9)))).expect("own encoding");
        assert_eq!((floor.counter, floor.floor), (Some(Origin(9)), true));
        let names = fields(&at).expect("own encoding");
        assert_eq!(names.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["a", "b\0"]);
        assert_eq!(names[1].1, at.len());
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for bad in [&[][..], &[0], &[8], &[9], &[1, 0], &[3, 0], &[3, 0, 0, 0, 1, 0], &[6], &[8, 5, 0, 0, 1]]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse(&[8, 6, 0, 0].repeat(100)), Err(DecodeError::TooDeep));
        assert!(check_prefix(&[]).is_err());
        assert!(check_prefix(&[6, 1]).is_err());
        assert!(check_prefix(&[6]).is_ok() && check_prefix(&[8, 6, 0, 0]).is_ok());
    }
}
