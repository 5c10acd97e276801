//! What has arrived on a connection and was not taken yet.
//!
//! A WebSocket that is asked for a message when there is none clears room for one, reads, and is told to come again: that
//! costs as much as a small request itself. Whoever knows how many bytes its messages took sees here that there are no others.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, BufReader, ReadBuf};

/// How much is read from the system at once. There is one such buffer per connection.
const BUFFER_BYTES: usize = 3 << 10;

/// A stream that counts what is taken from it. Writes go through.
pub struct Arrivals<S> {
    stream: BufReader<S>,
    taken: u64,
}

impl<S: AsyncRead + Unpin> Arrivals<S> {
    /// The rest of a stream from which so many bytes were taken before.
    pub fn new(stream: S, taken: u64) -> Self {
        Self { stream: BufReader::with_capacity(BUFFER_BYTES, stream), taken }
    }

    /// How many bytes were taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Whether nothing is here that could be taken without asking the system.
    pub fn is_empty(&self) -> bool {
        self.stream.buffer().is_empty()
    }

    /// Waits until there is something to take, or the end of it.
    pub fn poll_any(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_fill_buf(cx).map_ok(drop)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Arrivals<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.taken += (buf.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Arrivals<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[tokio::test]
    async fn what_is_taken_is_counted_and_what_is_left_is_seen() {
        let (mut far, near) = duplex(100);
        let mut near = Arrivals::new(near, 7);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(near.poll_any(&mut cx).is_pending());
        far.write_all(b"abc").await.expect("there is room");
        assert!(near.is_empty(), "nobody has asked the system yet");
        assert!(near.poll_any(&mut cx).is_ready());
        assert_eq!((near.is_empty(), near.taken()), (false, 7));
        near.read_exact(&mut [0; 2]).await.expect("is here");
        assert_eq!((near.is_empty(), near.taken()), (false, 9));
        near.read_exact(&mut [0; 1]).await.expect("is here");
        assert_eq!((near.is_empty(), near.taken()), (true, 10));
        assert!(near.poll_any(&mut cx).is_pending());
        drop(far);
        assert!(near.poll_any(&mut cx).is_ready(), "the end is something to see");
    }
}
