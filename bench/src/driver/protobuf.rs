//! As much of Protocol Buffers as etcd's interface needs: varints and length-delimited fields.

/// Appends a number field; nothing for 0, which is the default.
pub fn number(out: &mut Vec<u8>, field: u8, value: u64) {
    if value != 0 {
        out.push(field << 3);
        varint(out, value);
    }
}

/// Appends a field of bytes, text or a nested message.
pub fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// One field of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// A varint.
    Number(u64),
    /// Bytes, text or a message.
    Bytes(&'a [u8]),
    /// A field of fixed width, which none of the messages here has.
    Other,
}

/// The fields of a message in order; ends at the first that is broken.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Field<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Number(self.varint()?),
            1 => self.take(8).map(|_| Field::Other)?,
            2 => {
                let len = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Field::Other)?,
            _ => return None,
        };
        Some((tag >> 3, field))
    }
}

/// The nested message or bytes in a field, the last if there are several.
pub fn find_bytes(message: &[u8], field: u64) -> Option<&[u8]> {
    Fields(message)
        .filter_map(|(n, found)| match found {
            Field::Bytes(bytes) if n == field => Some(bytes),
            _ => None,
        })
        .last()
}

/// The number in a field; 0 if it is left out.
pub fn find_number(message: &[u8], field: u64) -> u64 {
    let found = Fields(message).filter_map(|(n, found)| match found {
        Field::Number(number) if n == field => Some(number),
        _ => None,
    });
    found.last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_round_trip() {
        let mut message = Vec::new();
        number(&mut message, 1, 300);
        bytes(&mut message, 2, b"key");
        number(&mut message, 3, 0);
        assert_eq!(message, [8, 0xac, 2, 18, 3, b'k', b'e', b'y']);
        assert_eq!((find_number(&message, 1), find_bytes(&message, 2)), (300, Some(&b"key"[..])));
        assert_eq!((find_number(&message, 3), find_bytes(&message, 4)), (0, None));
        assert_eq!(Fields(&[18, 9, 1]).next(), None);
    }
}
