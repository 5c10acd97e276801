//! The wide area network between datacenters on one machine: proxies that delay, cut and heal.
//!
//! A proxy stands for one direction of dialling: from a DC to one node of another. It delays every chunk by the one-way
//! latency without limiting throughput, and while the pair of DCs is cut no byte passes either way, nothing is reset,
//! and new connections are accepted but silent, which is what a severed cable looks like from its ends. The nodes know
//! nothing of it, and it knows nothing of what the bytes mean.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Most bytes read at once, and so the largest chunk.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Bytes under way per direction of a connection: 16 MiB carry 200 MiB/s over a delay of 80 ms. When it is full the
/// sender is no longer read, as when a real pipe is full.
const QUEUE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Chunks under way per direction of a connection; bounds the overhead of many small ones.
const QUEUE_CHUNKS_MAX: usize = 16 * 1024;
/// Connections through one proxy; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// How often a connection that waits for a cut to heal is looked at.
const GIVEN_UP_POLL: Duration = Duration::from_millis(100);
/// Pause after a failed accept, for example when files run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Two DCs without direction, in byte order.
type Pair = (String, String);

fn pair(a: &str, b: &str) -> Pair {
    if a <= b { (a.into(), b.into()) } else { (b.into(), a.into()) }
}

/// What flows from a reader to the writer opposite.
enum Chunk {
    /// Bytes, and when they may arrive.
    Bytes(Bytes, Instant),
    /// The sender has closed its side.
    End(Instant),
}

/// All proxies of one machine-sized world. Dropping it ends them and their connections.
#[derive(Debug)]
pub struct Wan {
    latency: watch::Sender<Duration>,
    cuts: Mutex<BTreeMap<Pair, watch::Sender<bool>>>,
    listeners: Mutex<Vec<JoinHandle<()>>>,
}

impl Wan {
    /// A network whose one-way delay is `latency`.
    pub fn new(latency: Duration) -> Self {
        let (latency, _) = watch::channel(latency);
        Self { latency, cuts: Mutex::default(), listeners: Mutex::default() }
    }

    /// Changes the one-way delay; chunks that are under way keep theirs.
    pub fn set_latency(&self, latency: Duration) {
        self.latency.send_replace(latency);
    }

    /// Opens a proxy by which the DC `from` reaches one node of the DC `to`, and returns its address on loopback.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn open(&self, from: &str, to: &str, target: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let cut = self.switch(pair(from, to)).subscribe();
        let proxy = Proxy { target, latency: self.latency.subscribe(), cut };
        locked(&self.listeners).push(tokio::spawn(accept(listener, proxy)));
        Ok(address)
    }

    /// From now on no byte passes between the two DCs, in either direction. Nothing is reset.
    pub fn cut(&self, a: &str, b: &str) {
        self.switch(pair(a, b)).send_replace(true);
    }

    /// Bytes pass between the two DCs again, those that waited first.
    pub fn heal(&self, a: &str, b: &str) {
        self.switch(pair(a, b)).send_replace(false);
    }

    /// Heals every cut.
    pub fn heal_all(&self) {
        for cut in locked(&self.cuts).values() {
            cut.send_replace(false);
        }
    }

    /// The pairs of DCs that are cut now.
    pub fn cuts(&self) -> BTreeSet<(String, String)> {
        locked(&self.cuts).iter().filter(|(_, cut)| *cut.borrow()).map(|(pair, _)| pair.clone()).collect()
    }

    fn switch(&self, pair: Pair) -> watch::Sender<bool> {
        locked(&self.cuts).entry(pair).or_insert_with(|| watch::channel(false).0).clone()
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        for listener in locked(&self.listeners).drain(..) {
            listener.abort();
        }
    }
}

/// The lock, also after a panic elsewhere: what it guards is never left half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What each connection through one proxy needs.
#[derive(Clone)]
struct Proxy {
    target: SocketAddr,
    latency: watch::Receiver<Duration>,
    cut: watch::Receiver<bool>,
}

impl Proxy {
    /// When what enters now may leave.
    fn arrival(&self) -> Instant {
        Instant::now() + *self.latency.borrow()
    }

    /// Waits until the pair is not cut. A sender that is gone means that the world ends: the task is aborted with it.
    async fn passable(&mut self) {
        if self.cut.wait_for(|cut| !*cut).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the pair is cut.
    async fn severed(&mut self) {
        if self.cut.wait_for(|cut| *cut).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn accept(listener: TcpListener, proxy: Proxy) {
    let mut connections = JoinSet::new();
    loop {
        // Finished connections are collected first; at the bound nothing more is accepted until one ends.
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
            continue;
        }
        match listener.accept().await {
            Ok((near, _)) => {
                connections.spawn(carry(near, proxy.clone()));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// One connection: dials the target once the first bytes could have reached it, then carries both ways.
async fn carry(near: TcpStream, mut proxy: Proxy) {
    let dial_at = proxy.arrival();
    tokio::time::sleep_until(dial_at).await;
    loop {
        tokio::select! {
            () = proxy.passable() => break,
            // Who gave up during a cut never had a connection; without this a long cut would heal into a burst of them.
            () = tokio::time::sleep(GIVEN_UP_POLL) => if given_up(&near) { return },
        }
    }
    // A target that refuses closes the near side by dropping it: what a peer behind a real network sees, too.
    let Ok(far) = TcpStream::connect(proxy.target).await else { return };
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let (near_read, near_write) = near.into_split();
    let (far_read, far_write) = far.into_split();
    let there = direction(near_read, far_write, proxy.clone());
    let back = direction(far_read, near_write, proxy);
    tokio::join!(there, back);
}

/// Whether the near side has closed its connection.
fn given_up(near: &TcpStream) -> bool {
    let ready = near.ready(Interest::READABLE).now_or_never();
    ready.is_some_and(|ready| ready.is_err() || ready.is_ok_and(|ready| ready.is_read_closed()))
}

/// One direction of one connection.
async fn direction(from: OwnedReadHalf, to: OwnedWriteHalf, proxy: Proxy) {
    let (sender, receiver) = mpsc::channel(QUEUE_CHUNKS_MAX);
    let room = Arc::new(Semaphore::new(QUEUE_BYTES_MAX));
    let reader = read_chunks(from, sender, room.clone(), proxy.clone());
    tokio::join!(reader, write_chunks(to, receiver, room, proxy));
}

async fn read_chunks(
    mut from: OwnedReadHalf,
    chunks: mpsc::Sender<Chunk>,
    room: Arc<Semaphore>,
    proxy: Proxy,
) {
    let mut buffer = vec![0; CHUNK_BYTES_MAX];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read.unwrap_or(0),
            // The writer is gone because its socket is: there is nobody to read for.
            () = chunks.closed() => return,
        };
        if read == 0 {
            // An end and a reset both travel as an end, in their turn and not before a cut heals. If the queue is
            // closed the writer has ended already.
            chunks.send(Chunk::End(proxy.arrival())).await.ok();
            return;
        }
        let arrival = proxy.arrival();
        match room.acquire_many(u32::try_from(read).unwrap_or(u32::MAX)).await {
            Ok(permit) => permit.forget(),
            Err(_) => return,
        }
        let bytes = Bytes::copy_from_slice(&buffer[..read]);
        if chunks.send(Chunk::Bytes(bytes, arrival)).await.is_err() {
            return;
        }
    }
}

async fn write_chunks(
    mut to: OwnedWriteHalf,
    mut chunks: mpsc::Receiver<Chunk>,
    room: Arc<Semaphore>,
    mut proxy: Proxy,
) {
    while let Some(chunk) = chunks.recv().await {
        match chunk {
            Chunk::End(arrival) => {
                tokio::time::sleep_until(arrival).await;
                proxy.passable().await;
                break;
            }
            Chunk::Bytes(bytes, arrival) => {
                tokio::time::sleep_until(arrival).await;
                let len = bytes.len();
                if write_while_passable(&mut to, bytes, &mut proxy).await.is_err() {
                    room.close();
                    return;
                }
                room.add_permits(len);
            }
        }
    }
    // The receiver may be gone already; then it needs no end.
    to.shutdown().await.ok();
}

/// Writes all bytes, pausing while the pair is cut, also in the middle of a chunk.
async fn write_while_passable(
    to: &mut OwnedWriteHalf,
    mut bytes: Bytes,
    proxy: &mut Proxy,
) -> io::Result<()> {
    while !bytes.is_empty() {
        proxy.passable().await;
        tokio::select! {
            biased;
            () = proxy.severed() => {}
            written = to.write(&bytes) => {
                let written = written?;
                if written == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                let _ = bytes.split_to(written);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    const LATENCY: Duration = Duration::from_millis(60);
    const PATIENCE: Duration = Duration::from_secs(10);
    /// How long silence is listened to before it counts as silence.
    const SILENCE: Duration = Duration::from_millis(250);

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        timeout(PATIENCE, future).await.expect("in time")
    }

    /// A proxy from a to b and both ends of one connection through it.
    async fn connected(wan: &Wan) -> (TcpStream, TcpStream, SocketAddr) {
        let target = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let proxy = wan.open("a", "b", target.local_addr().expect("bound")).await.expect("opened");
        let near = soon(TcpStream::connect(proxy)).await.expect("accepted");
        let (far, _) = soon(target.accept()).await.expect("dialled");
        (near, far, proxy)
    }

    async fn read_exactly(stream: &mut TcpStream, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        soon(stream.read_exact(&mut bytes)).await.expect("read");
        bytes
    }

    #[tokio::test]
    async fn each_byte_arrives_after_the_one_way_latency_in_both_directions() {
        let wan = Wan::new(LATENCY);
        let (mut near, mut far, _) = connected(&wan).await;
        let start = Instant::now();
        near.write_all(b"ping").await.expect("written");
        assert_eq!(read_exactly(&mut far, 4).await, b"ping");
        assert!(start.elapsed() >= LATENCY, "{:?}", start.elapsed());
        far.write_all(b"pong").await.expect("written");
        assert_eq!(read_exactly(&mut near, 4).await, b"pong");
        assert!(start.elapsed() >= 2 * LATENCY, "{:?}", start.elapsed());
    }

    #[tokio::test]
    async fn the_latency_does_not_limit_throughput() {
        let wan = Wan::new(LATENCY);
        let (mut near, mut far, _) = connected(&wan).await;
        let sent: Vec<u8> = (0..8 * 1024 * 1024u32).map(|i| (i % 251) as u8).collect();
        let start = Instant::now();
        let copy = sent.clone();
        let writer = tokio::spawn(async move {
            near.write_all(&copy).await.expect("written");
            near
        });
        let received = read_exactly(&mut far, sent.len()).await;
        // Chunk after chunk, each waiting for the latency, would take 128 times as long.
        assert!(start.elapsed() < 40 * LATENCY, "{:?}", start.elapsed());
        assert_eq!(received, sent);
        soon(writer).await.expect("written");
    }

    #[tokio::test]
    async fn a_cut_stops_the_bytes_and_resets_nothing_and_healing_delivers_them() {
        let wan = Wan::new(Duration::from_millis(1));
        let (mut near, mut far, _) = connected(&wan).await;
        wan.cut("b", "a");
        assert_eq!(wan.cuts(), BTreeSet::from([("a".to_string(), "b".to_string())]));
        near.write_all(b"there").await.expect("the sender notices nothing");
        far.write_all(b"back").await.expect("the sender notices nothing");
        let mut byte = [0; 1];
        assert!(timeout(SILENCE, far.read(&mut byte)).await.is_err(), "bytes or an end passed a cut");
        assert!(timeout(SILENCE, near.read(&mut byte)).await.is_err(), "bytes or an end passed a cut");
        wan.heal("a", "b");
        assert!(wan.cuts().is_empty());
        assert_eq!(read_exactly(&mut far, 5).await, b"there");
        assert_eq!(read_exactly(&mut near, 4).await, b"back");
    }

    #[tokio::test]
    async fn a_connection_made_during_a_cut_is_accepted_and_silent_until_it_heals() {
        let wan = Wan::new(Duration::from_millis(1));
        let target = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let proxy = wan.open("a", "b", target.local_addr().expect("bound")).await.expect("opened");
        wan.cut("a", "b");
        let mut near = soon(TcpStream::connect(proxy)).await.expect("accepted");
        near.write_all(b"hello").await.expect("written");
        assert!(timeout(SILENCE, target.accept()).await.is_err(), "the target was dialled through a cut");
        wan.heal_all();
        let (mut far, _) = soon(target.accept()).await.expect("dialled");
        assert_eq!(read_exactly(&mut far, 5).await, b"hello");
    }

    #[tokio::test]
    async fn a_connection_given_up_during_a_cut_never_reaches_the_target() {
        let wan = Wan::new(Duration::from_millis(1));
        let target = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let proxy = wan.open("a", "b", target.local_addr().expect("bound")).await.expect("opened");
        wan.cut("a", "b");
        let mut near = soon(TcpStream::connect(proxy)).await.expect("accepted");
        near.write_all(b"stale").await.expect("written");
        drop(near);
        assert!(timeout(4 * GIVEN_UP_POLL, target.accept()).await.is_err(), "dialled through a cut");
        wan.heal("a", "b");
        let mut near = soon(TcpStream::connect(proxy)).await.expect("accepted");
        near.write_all(b"fresh").await.expect("written");
        let (mut far, _) = soon(target.accept()).await.expect("dialled");
        assert_eq!(read_exactly(&mut far, 5).await, b"fresh");
    }

    #[tokio::test]
    async fn an_end_waits_for_the_heal_behind_the_bytes_before_it() {
        let wan = Wan::new(Duration::from_millis(1));
        let (mut near, mut far, _) = connected(&wan).await;
        wan.cut("a", "b");
        near.write_all(b"last").await.expect("written");
        drop(near);
        let mut byte = [0; 1];
        assert!(timeout(SILENCE, far.read(&mut byte)).await.is_err(), "the end passed a cut");
        wan.heal("a", "b");
        assert_eq!(read_exactly(&mut far, 4).await, b"last");
        assert_eq!(soon(far.read(&mut byte)).await.expect("an end, not a reset"), 0);
    }

    #[tokio::test]
    async fn a_cut_of_one_pair_leaves_the_others_alone() {
        let wan = Wan::new(Duration::from_millis(1));
        let (mut near, mut far, _) = connected(&wan).await;
        wan.cut("a", "c");
        wan.cut("b", "c");
        near.write_all(b"x").await.expect("written");
        assert_eq!(read_exactly(&mut far, 1).await, b"x");
    }

    #[tokio::test]
    async fn a_target_that_is_down_closes_the_connection() {
        let wan = Wan::new(Duration::from_millis(1));
        let unused = TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("bound");
        let proxy = wan.open("a", "b", unused).await.expect("opened");
        let mut near = soon(TcpStream::connect(proxy)).await.expect("accepted");
        let mut byte = [0; 1];
        assert!(matches!(soon(near.read(&mut byte)).await, Ok(0) | Err(_)));
    }
}
