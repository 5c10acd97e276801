//! As much of MessagePack as a client needs that wants to spend no time on it: words out, a cursor over answers in.

/// Appends a text.
pub fn text(out: &mut Vec<u8>, text: &str) {
    match text.len() {
        len @ 0..32 => out.push(0xa0 | len as u8),
        len @ 32..0x100 => out.extend([0xd9, len as u8]),
        len => {
            out.push(0xdb);
            out.extend(u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// Appends binary of at most 255 bytes.
pub fn binary(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend([0xc4, u8::try_from(bytes.len()).unwrap_or(u8::MAX)]);
    out.extend_from_slice(bytes);
}

/// Appends the head of a map.
pub fn map(out: &mut Vec<u8>, len: u8) {
    out.push(0x80 | len);
}

/// Appends the head of an array.
pub fn array(out: &mut Vec<u8>, len: usize) {
    out.push(0xdd);
    out.extend(u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
}

/// Reads items one after the other; `None` where the bytes are not what was expected.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a>(pub &'a [u8]);

/// What stands at a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item<'a> {
    Scalar(u64),
    Bytes(&'a [u8]),
    /// So many items follow.
    Nested(usize),
}

impl<'a> Cursor<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    fn number(&mut self, count: usize) -> Option<u64> {
        Some(self.bytes(count)?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    fn item(&mut self) -> Option<Item<'a>> {
        let head = *self.bytes(1)?.first()?;
        let len = |n: u64| usize::try_from(n).ok();
        Some(match head {
            0..0x80 | 0xc0..0xc4 | 0xe0.. => Item::Scalar(u64::from(head)),
            0x80..0x90 => Item::Nested(2 * usize::from(head & 15)),
            0x90..0xa0 => Item::Nested(usize::from(head & 15)),
            0xa0..0xc0 => Item::Bytes(self.bytes(usize::from(head & 31))?),
            0xc4..=0xc6 => {
                let len = len(self.number(1 << (head - 0xc4))?)?;
                Item::Bytes(self.bytes(len)?)
            }
            0xca | 0xcb => Item::Scalar(self.number(4 << (head - 0xca))?),
            0xcc..=0xcf => Item::Scalar(self.number(1 << (head - 0xcc))?),
            0xd0..=0xd3 => Item::Scalar(self.number(1 << (head - 0xd0))?),
            0xd9..=0xdb => {
                let len = len(self.number(1 << (head - 0xd9))?)?;
                Item::Bytes(self.bytes(len)?)
            }
            0xdc | 0xdd => Item::Nested(len(self.number(2 << (head - 0xdc))?)?),
            0xde | 0xdf => Item::Nested(2 * len(self.number(2 << (head - 0xde))?)?),
            _ => return None,
        })
    }

    /// A number that is not negative.
    pub fn uint(&mut self) -> Option<u64> {
        match self.item()? {
            Item::Scalar(n) => Some(n),
            _ => None,
        }
    }

    /// A text or binary.
    pub fn text(&mut self) -> Option<&'a [u8]> {
        match self.item()? {
            Item::Bytes(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The head of an array or map: how many items follow.
    pub fn nested(&mut self) -> Option<usize> {
        match self.item()? {
            Item::Nested(len) => Some(len),
            _ => None,
        }
    }

    /// Passes over one item with all that is in it.
    pub fn skip(&mut self) -> Option<()> {
        let mut left = 1_usize;
        while left > 0 {
            left -= 1;
            if let Item::Nested(len) = self.item()? {
                left += len;
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_over_ends_where_the_next_item_begins() {
        // {"a": [1, 300, nil, h'0102'], "b": -1}, then "x".
        let bytes =
            [0x82, 0xa1, b'a', 0x94, 1, 0xcd, 1, 44, 0xc0, 0xc4, 2, 1, 2, 0xa1, b'b', 0xff, 0xa1, b'x'];
        let mut cursor = Cursor(&bytes);
        assert_eq!(cursor.skip(), Some(()));
        assert_eq!(cursor.text(), Some(&b"x"[..]));
        assert_eq!(cursor.skip(), None);
    }
}
