//! Frames: a length, an id that pairs request and answer, and a body.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The largest body. A Raft append is cut well below it.
pub(super) const BODY_BYTES_MAX: usize = 64 << 20;
const HEAD: usize = 4 + 8;
/// The id of a frame that only asks whether the other end lives; it comes back as it is.
pub(super) const PING: u64 = u64::MAX;

/// Appends a frame to what will be written.
pub(super) fn put(out: &mut BytesMut, id: u64, body: &[u8]) {
    out.put_u32(body.len() as u32);
    out.put_u64(id);
    out.put_slice(body);
}

/// Takes frames off a connection.
pub(super) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(stream: R) -> Self {
        const READ_BYTES: usize = 64 << 10;
        Self { stream, buffer: BytesMut::with_capacity(READ_BYTES) }
    }

    /// The next frame; `None` at the end of the connection. Nothing is lost if the wait is cancelled.
    pub(super) async fn next(&mut self) -> io::Result<Option<(u64, Bytes)>> {
        loop {
            if self.buffer.len() >= HEAD {
                let mut head = &self.buffer[..HEAD];
                let len = head.get_u32() as usize;
                let id = head.get_u64();
                if len > BODY_BYTES_MAX {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame above its bound"));
                }
                if self.buffer.len() >= HEAD + len {
                    self.buffer.advance(HEAD);
                    return Ok(Some((id, self.buffer.split_to(len).freeze())));
                }
            }
            // The buffer grows with what arrives, never with what a frame declares.
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }
}
