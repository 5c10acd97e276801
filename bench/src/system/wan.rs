//! The network between two datacenters: proxies that delay, that can be cut, and that count the bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Bytes of one chunk under way.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks under way in one direction of one connection.
const CHUNKS_MAX: usize = 1024;

/// All proxies of a cluster; dropping it closes them.
#[derive(Debug)]
pub struct Wan {
    delay: Duration,
    bytes: Arc<AtomicU64>,
    cut: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Terms {
    delay: Duration,
    bytes: Arc<AtomicU64>,
    cut: watch::Receiver<bool>,
}

impl Wan {
    /// A network with this one-way delay.
    pub fn new(delay: Duration) -> Self {
        Self { delay, bytes: Arc::default(), cut: watch::Sender::new(false), listeners: Vec::new() }
    }

    /// Opens a way to `target` and returns its address.
    pub async fn open(&mut self, target: String) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(|e| e.to_string())?;
        let address = listener.local_addr().map_err(|e| e.to_string())?.to_string();
        let terms = Terms { delay: self.delay, bytes: self.bytes.clone(), cut: self.cut.subscribe() };
        self.listeners.push(tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                tokio::spawn(carry(inbound, target.clone(), terms.clone()));
            }
        }));
        Ok(address)
    }

    /// Bytes that passed so far, both ways, without what TCP adds.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Stops the bytes, or lets them pass again; nothing is reset.
    pub fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
    }
}

async fn carry(inbound: TcpStream, target: String, terms: Terms) {
    let Ok(outbound) = TcpStream::connect(&target).await else { return };
    if inbound.set_nodelay(true).is_err() || outbound.set_nodelay(true).is_err() {
        return;
    }
    let (from_a, to_a) = inbound.into_split();
    let (from_b, to_b) = outbound.into_split();
    // The end of either direction ends both, as a broken connection does.
    tokio::select! {
        () = one_way(from_a, to_b, terms.clone()) => {}
        () = one_way(from_b, to_a, terms) => {}
    }
}

async fn one_way(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut terms: Terms) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_MAX);
    let delay = terms.delay;
    let read = async move {
        loop {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            match from.read_buf(&mut chunk).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            if sender.send((Instant::now() + delay, chunk)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, chunk)) = receiver.recv().await {
            if due > Instant::now() {
                tokio::time::sleep_until(due.into()).await;
            }
            if terms.cut.wait_for(|cut| !cut).await.is_err() || to.write_all(&chunk).await.is_err() {
                return;
            }
            terms.bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        }
    };
    tokio::join!(read, write);
}
