//! A connection whose bytes are gathered before they are sent and looked at where they arrived.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Most bytes of answers that wait to be looked at.
const INCOMING_BYTES_MAX: usize = 64 << 20;
/// Bytes asked for by one read.
const READ_BYTES: usize = 64 << 10;

/// A stream with both of its buffers.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    /// What the next flush sends.
    pub outgoing: Vec<u8>,
    incoming: Vec<u8>,
    taken: usize,
}

impl Wire {
    /// Connects, without delay of small segments.
    pub async fn connect(address: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|e| format!("{address}: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        Ok(Self { stream, outgoing: Vec::new(), incoming: Vec::new(), taken: 0 })
    }

    /// Sends what was gathered, in one call if the system takes it.
    pub async fn flush(&mut self) -> Result<(), String> {
        if !self.outgoing.is_empty() {
            self.stream.write_all(&self.outgoing).await.map_err(|e| e.to_string())?;
            self.outgoing.clear();
        }
        Ok(())
    }

    /// What has arrived and was not taken yet.
    pub fn unread(&self) -> &[u8] {
        &self.incoming[self.taken..]
    }

    /// Marks the first bytes of [`Self::unread`] as done with.
    pub fn take(&mut self, count: usize) {
        self.taken += count;
        if self.taken == self.incoming.len() {
            self.incoming.clear();
            self.taken = 0;
        }
    }

    /// Waits for more bytes.
    pub async fn read_more(&mut self) -> Result<(), String> {
        self.incoming.drain(..self.taken);
        self.taken = 0;
        if self.incoming.len() > INCOMING_BYTES_MAX {
            return Err("an answer is too long".into());
        }
        self.incoming.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.incoming).await {
            Ok(0) => Err("the connection was closed".into()),
            Ok(_) => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    }
}
