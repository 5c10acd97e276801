//! As much of WebSocket as a load generator needs, so that its own work is not what is measured: whole frames under a
//! mask of zeroes, so that their bytes are the request's own.

use super::BODY_BYTES_MAX;

/// The opcode of a binary message.
pub const BINARY: u8 = 2;
/// The opcode of a closing frame.
pub const CLOSE: u8 = 8;
/// The opcode of a ping.
pub const PING: u8 = 9;
/// The opcode of a pong.
pub const PONG: u8 = 10;
/// A key for the handshake: any 16 bytes in base64; the answer to them is not looked at.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Appends a whole WebSocket frame, masked with zeroes.
pub fn frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    const MASKED: u8 = 0x80;
    out.push(0x80 | opcode);
    match payload.len() {
        len @ 0..126 => out.push(MASKED | len as u8),
        len @ 126..0x1_0000 => {
            out.push(MASKED | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(MASKED | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend_from_slice(payload);
}

/// Opcode, start and end of the payload of the frame that `bytes` begin with; `None` if it is not whole yet. Masked, fragmented
/// and overlong frames are refused: servers here send none.
pub fn next_frame(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, String> {
    let [first, second, ..] = bytes else { return Ok(None) };
    if first & 0x80 == 0 || second & 0x80 != 0 {
        return Err("the server sends frames of a kind that is not expected".into());
    }
    let long = |count: usize| {
        let digits = bytes.get(2..2 + count)?;
        Some((digits.iter().fold(0_usize, |n, digit| n << 8 | usize::from(*digit)), 2 + count))
    };
    let (len, start) = match second {
        126 => match long(2) {
            Some(found) => found,
            None => return Ok(None),
        },
        127 => match long(8) {
            Some(found) => found,
            None => return Ok(None),
        },
        len => (usize::from(*len), 2),
    };
    if len > BODY_BYTES_MAX {
        return Err("the answer is too long".into());
    }
    Ok((bytes.len() >= start + len).then_some((first & 0x0f, start, start + len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_when_they_are_whole() {
        assert_eq!(next_frame(&[0x82]), Ok(None));
        assert_eq!(next_frame(&[0x82, 3, 1, 2]), Ok(None));
        assert_eq!(next_frame(&[0x82, 2, 1, 2, 0x82]), Ok(Some((BINARY, 2, 4))));
        let long = [&[0x82, 126, 0x01, 0x00][..], &[0; 256]].concat();
        assert_eq!(next_frame(&long), Ok(Some((BINARY, 4, 260))));
        assert!(next_frame(&[0x82, 0x82, 0, 0, 0, 0]).is_err(), "servers do not mask");
        assert!(next_frame(&[0x02, 2]).is_err(), "servers do not fragment");
    }
}
