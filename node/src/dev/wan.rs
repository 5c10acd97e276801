//! The network between places on one machine: proxies that delay, lose, cut, break and heal.
//!
//! A place is a DC, or a node where the network inside a DC is made of proxies too. A proxy stands for one direction of
//! dialling: from a place to one node of another. It delays every chunk by the one-way latency without limiting
//! throughput, and while a way is cut no byte passes it, nothing is reset, and new connections are accepted but silent,
//! which is what a severed cable looks like from its ends. The nodes know nothing of it, and it knows nothing of what
//! the bytes mean.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
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

/// What a lost segment costs all that comes after it on its connection: the usual first retransmission time.
const RESEND: Duration = Duration::from_millis(200);
/// Most losses of the same segment in a row; each doubles the time until it is sent again.
const RESENDS_MAX: u32 = 4;

/// From one place to another.
type Way = (String, String);

/// What happens to all bytes that pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// The least one-way delay.
    pub latency: Duration,
    /// Most that is added to it, drawn evenly for each chunk. Bytes of a connection never overtake each other.
    pub jitter: Duration,
    /// How many of a thousand chunks are lost on the way. The ends of a connection see a loss as what TCP makes of it:
    /// the chunk, and all behind it, arrive a retransmission time later.
    pub loss_per_mille: u16,
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
    weather: watch::Sender<Weather>,
    cuts: Mutex<BTreeMap<Way, watch::Sender<bool>>>,
    /// How often all connections were broken.
    breaks: watch::Sender<u64>,
    /// Connections so far: each draws its delays and losses from a seed of its own.
    connections: Arc<AtomicU64>,
    listeners: Mutex<Vec<JoinHandle<()>>>,
}

impl Wan {
    /// A network whose one-way delay is `latency`.
    pub fn new(latency: Duration) -> Self {
        Self {
            weather: watch::Sender::new(Weather { latency, ..Weather::default() }),
            cuts: Mutex::default(),
            breaks: watch::Sender::new(0),
            connections: Arc::default(),
            listeners: Mutex::default(),
        }
    }

    /// Changes the one-way delay; chunks that are under way keep theirs.
    pub fn set_latency(&self, latency: Duration) {
        self.weather.send_modify(|weather| weather.latency = latency);
    }

    /// What happens to bytes at the moment.
    pub fn weather(&self) -> Weather {
        *self.weather.borrow()
    }

    /// Changes what happens to bytes from now on; chunks that are under way keep their time of arrival.
    pub fn set_weather(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// Opens a proxy by which the place `from` reaches one node of the place `to`, and returns its address on loopback.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn open(&self, from: &str, to: &str, target: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let lane =
            |cut: watch::Sender<bool>| Lane { weather: self.weather.subscribe(), cut: cut.subscribe() };
        let proxy = Proxy {
            target,
            there: lane(self.switch(from, to)),
            back: lane(self.switch(to, from)),
            breaks: self.breaks.subscribe(),
            connections: self.connections.clone(),
        };
        locked(&self.listeners).push(tokio::spawn(accept(listener, proxy)));
        Ok(address)
    }

    /// From now on no byte passes between the two places, in either direction. Nothing is reset.
    pub fn cut(&self, a: &str, b: &str) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// From now on no byte passes from one place to the other; those of existing connections still pass the other way,
    /// and no new connection can be made, since that needs both ways. Nothing is reset.
    pub fn cut_one_way(&self, from: &str, to: &str) {
        self.switch(from, to).send_replace(true);
    }

    /// Bytes pass between the two places again, those that waited first.
    pub fn heal(&self, a: &str, b: &str) {
        self.switch(a, b).send_replace(false);
        self.switch(b, a).send_replace(false);
    }

    /// Heals every cut.
    pub fn heal_all(&self) {
        for cut in locked(&self.cuts).values() {
            cut.send_replace(false);
        }
    }

    /// Ends every connection where it stands, in the middle of a message too; what is under way is lost.
    pub fn break_all(&self) {
        self.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// The pairs of places that are cut now in at least one direction, each in byte order.
    pub fn cuts(&self) -> BTreeSet<(String, String)> {
        let ordered = |(a, b): &Way| if a <= b { (a.clone(), b.clone()) } else { (b.clone(), a.clone()) };
        let cuts = locked(&self.cuts);
        cuts.iter().filter(|(_, cut)| *cut.borrow()).map(|(way, _)| ordered(way)).collect()
    }

    fn switch(&self, from: &str, to: &str) -> watch::Sender<bool> {
        let way = (from.to_string(), to.to_string());
        locked(&self.cuts).entry(way).or_insert_with(|| watch::Sender::new(false)).clone()
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
    there: Lane,
    back: Lane,
    breaks: watch::Receiver<u64>,
    connections: Arc<AtomicU64>,
}

/// One direction of a proxy.
#[derive(Clone)]
struct Lane {
    weather: watch::Receiver<Weather>,
    cut: watch::Receiver<bool>,
}

impl Lane {
    /// When what enters now may leave.
    fn arrival(&self, random: &mut StdRng) -> Instant {
        let weather = *self.weather.borrow();
        let mut delay = weather.latency;
        if !weather.jitter.is_zero() {
            delay += weather.jitter.mul_f64(random.random());
        }
        let mut resends = 0;
        while resends < RESENDS_MAX && random.random_range(0..1000) < weather.loss_per_mille {
            delay += RESEND * 2u32.pow(resends);
            resends += 1;
        }
        Instant::now() + delay
    }

    /// Waits until the way is not cut. A sender that is gone means that the world ends: the task is aborted with it.
    async fn passable(&mut self) {
        if self.cut.wait_for(|cut| !*cut).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until the way is cut.
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
                connections.spawn(until_broken(near, proxy.clone()));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// One connection, until it ends or all are broken. Dropping its sockets ends it for both sides.
async fn until_broken(near: TcpStream, proxy: Proxy) {
    let mut breaks = proxy.breaks.clone();
    breaks.mark_unchanged();
    tokio::select! {
        () = carry(near, proxy) => {}
        _ = breaks.changed() => {}
    }
}

/// One connection: dials the target once the first bytes could have reached it, then carries both ways.
async fn carry(near: TcpStream, mut proxy: Proxy) {
    let mut random = StdRng::seed_from_u64(proxy.connections.fetch_add(1, Ordering::Relaxed));
    let dial_at = proxy.there.arrival(&mut random);
    tokio::time::sleep_until(dial_at).await;
    loop {
        tokio::select! {
            () = connectable(&mut proxy) => break,
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
    let back_random = StdRng::from_rng(&mut random);
    let there = direction(near_read, far_write, proxy.there, random);
    let back = direction(far_read, near_write, proxy.back, back_random);
    tokio::join!(there, back);
}

/// Waits until neither way is cut: a connection is made with bytes of both.
async fn connectable(proxy: &mut Proxy) {
    loop {
        proxy.there.passable().await;
        proxy.back.passable().await;
        if !*proxy.there.cut.borrow() {
            return;
        }
    }
}

/// Whether the near side has closed its connection.
fn given_up(near: &TcpStream) -> bool {
    let ready = near.ready(Interest::READABLE).now_or_never();
    ready.is_some_and(|ready| ready.is_err() || ready.is_ok_and(|ready| ready.is_read_closed()))
}

/// One direction of one connection.
async fn direction(from: OwnedReadHalf, to: OwnedWriteHalf, lane: Lane, random: StdRng) {
    let (sender, receiver) = mpsc::channel(QUEUE_CHUNKS_MAX);
    let room = Arc::new(Semaphore::new(QUEUE_BYTES_MAX));
    let reader = read_chunks(from, sender, room.clone(), lane.clone(), random);
    tokio::join!(reader, write_chunks(to, receiver, room, lane));
}

async fn read_chunks(
    mut from: OwnedReadHalf,
    chunks: mpsc::Sender<Chunk>,
    room: Arc<Semaphore>,
    lane: Lane,
    mut random: StdRng,
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
            chunks.send(Chunk::End(lane.arrival(&mut random))).await.ok();
            return;
        }
        let arrival = lane.arrival(&mut random);
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
    mut lane: Lane,
) {
    while let Some(chunk) = chunks.recv().await {
        match chunk {
            Chunk::End(arrival) => {
                tokio::time::sleep_until(arrival).await;
                lane.passable().await;
                break;
            }
            Chunk::Bytes(bytes, arrival) => {
                tokio::time::sleep_until(arrival).await;
                let len = bytes.len();
                if write_while_passable(&mut to, bytes, &mut lane).await.is_err() {
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

/// Writes all bytes, pausing while the way is cut, also in the middle of a chunk.
async fn write_while_passable(to: &mut OwnedWriteHalf, mut bytes: Bytes, lane: &mut Lane) -> io::Result<()> {
    while !bytes.is_empty() {
        lane.passable().await;
        tokio::select! {
            biased;
            () = lane.severed() => {}
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

    #[tokio::test]
    async fn a_cut_of_one_way_lets_the_other_pass_and_no_new_connection() {
        let wan = Wan::new(Duration::from_millis(1));
        let (mut near, mut far, proxy) = connected(&wan).await;
        wan.cut_one_way("a", "b");
        far.write_all(b"back").await.expect("written");
        assert_eq!(read_exactly(&mut near, 4).await, b"back");
        near.write_all(b"there").await.expect("the sender notices nothing");
        let mut byte = [0; 1];
        assert!(timeout(SILENCE, far.read(&mut byte)).await.is_err(), "bytes passed a cut");
        let mut late = soon(TcpStream::connect(proxy)).await.expect("accepted");
        assert!(timeout(SILENCE, late.read(&mut byte)).await.is_err(), "a connection was made through a cut");
        wan.heal("b", "a");
        assert_eq!(read_exactly(&mut far, 5).await, b"there");
    }

    #[tokio::test]
    async fn broken_connections_end_and_later_ones_live() {
        let wan = Wan::new(Duration::from_millis(1));
        let target = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let proxy = wan.open("a", "b", target.local_addr().expect("bound")).await.expect("opened");
        for round in 0..2 {
            let mut near = soon(TcpStream::connect(proxy)).await.expect("accepted");
            let (mut far, _) = soon(target.accept()).await.expect("dialled");
            far.write_all(b"x").await.expect("written");
            assert_eq!(read_exactly(&mut near, 1).await, b"x", "round {round}");
            wan.break_all();
            let mut byte = [0; 1];
            assert_eq!(soon(near.read(&mut byte)).await.unwrap_or(0), 0, "round {round}");
            assert_eq!(soon(far.read(&mut byte)).await.unwrap_or(0), 0, "round {round}");
        }
    }

    #[tokio::test]
    async fn lost_chunks_arrive_a_retransmission_later_and_in_order() {
        let wan = Wan::new(Duration::ZERO);
        let (mut near, mut far, _) = connected(&wan).await;
        wan.set_weather(Weather { loss_per_mille: 1000, ..Weather::default() });
        let start = Instant::now();
        near.write_all(b"one").await.expect("written");
        assert_eq!(read_exactly(&mut far, 3).await, b"one");
        assert!(start.elapsed() >= RESEND, "{:?}", start.elapsed());
        wan.set_weather(Weather { jitter: Duration::from_millis(5), ..Weather::default() });
        for number in 0..50u8 {
            near.write_all(&[number]).await.expect("written");
        }
        assert_eq!(read_exactly(&mut far, 50).await, (0..50).collect::<Vec<u8>>());
    }
}
