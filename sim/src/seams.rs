//! The seams of a simulated node: turmoil's network, virtual time, a disk in memory, seeded randomness, no threads.
//!
//! Whatever passes a seam is noted in the trace. Contents of the network are not: the masks of WebSocket frames are
//! the one randomness that cannot be seeded, and they change neither sizes nor times.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use meridian::seams::{
    Backend, BoxStream, Clock, Disk, Executor, FolderLock, Job, Listener, Load, Net, Random, Seams, SimDisk,
    Urgency, Worker, WorkerStopped,
};
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use redb::StorageBackend;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use turmoil::net::{TcpListener, TcpStream};
use xxhash_rust::xxh3::xxh3_64;

use crate::trace::Trace;

/// When every simulation starts, by the wall clock: 2026-01-01.
pub(crate) const EPOCH_MS: u64 = 1_767_225_600_000;

/// What the driver can change about a machine while it runs.
#[derive(Clone, Default)]
pub(crate) struct Knobs {
    /// How far the wall clock is off.
    pub(crate) clock_offset_ms: Arc<AtomicI64>,
    /// The longest that one job of the storage may take; each draws its own.
    pub(crate) disk_delay_ms_max: Arc<AtomicU64>,
    /// Whether the disk forgets to sync.
    pub(crate) is_disk_lying: bool,
}

/// The seams of one life of a node.
pub(crate) fn seams(
    host: &Arc<str>,
    seed: u64,
    disk: SimDisk,
    knobs: &Knobs,
    connections: Connections,
    trace: &Trace,
) -> Seams {
    let host = host.clone();
    let trace = trace.clone();
    Seams {
        net: Arc::new(SimNet { host: host.clone(), trace: trace.clone(), connections }),
        disk: Arc::new(TracedDisk {
            host: host.clone(),
            disk,
            is_lying: knobs.is_disk_lying,
            trace: trace.clone(),
        }),
        clock: Arc::new(SimClock { offset_ms: knobs.clock_offset_ms.clone(), trace: trace.clone() }),
        executor: Arc::new(SimExecutor { seed: seed ^ 1, delay_ms_max: knobs.disk_delay_ms_max.clone() }),
        random: Arc::new(SimRandom(Mutex::new(SmallRng::seed_from_u64(seed)))),
        load: Arc::new(SimLoad { is_busy: seed.is_multiple_of(2) }),
    }
}

/// Tasks take no virtual time; every other life of a node believes to be busy all the same, and so packs its entries otherwise.
struct SimLoad {
    is_busy: bool,
}

impl Load for SimLoad {
    fn worked(&self) -> Duration {
        if self.is_busy { turmoil::sim_elapsed().unwrap_or_default() } else { Duration::ZERO }
    }
}

struct SimRandom(Mutex<SmallRng>);

impl Random for SimRandom {
    fn fill(&self, out: &mut [u8]) {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).fill_bytes(out);
    }
}

struct SimClock {
    offset_ms: Arc<AtomicI64>,
    trace: Trace,
}

impl Clock for SimClock {
    fn unix_ms(&self) -> u64 {
        (EPOCH_MS + self.monotonic_ms()).saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }

    fn monotonic_ms(&self) -> u64 {
        // Outside of a host's turn, the beginning of the tick is as good as any.
        turmoil::sim_elapsed()
            .map_or(self.trace.now_ms(), |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
    }

    fn set_offset_ms(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }
}

struct SimExecutor {
    seed: u64,
    delay_ms_max: Arc<AtomicU64>,
}

struct SimWorker(mpsc::UnboundedSender<Job>);

impl Executor for SimExecutor {
    fn worker(&self, name: &str, _urgency: Urgency) -> Box<dyn Worker> {
        // The bound is the stores': they submit one piece of work at a time.
        let (tx, mut rx) = mpsc::unbounded_channel::<Job>();
        let mut rng = SmallRng::seed_from_u64(self.seed ^ xxh3_64(name.as_bytes()));
        let delay_ms_max = self.delay_ms_max.clone();
        tokio::spawn(async move {
            while let Some(job) = rx.recv().await {
                let delay_ms = rng.random_range(0..=delay_ms_max.load(Ordering::Relaxed));
                if delay_ms > 0 {
                    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
                }
                job();
            }
        });
        Box::new(SimWorker(tx))
    }
}

impl Worker for SimWorker {
    fn submit(&self, job: Job) -> Result<(), WorkerStopped> {
        self.0.send(job).map_err(|_| WorkerStopped)
    }
}

/// The open connections of one life of a node, in the order in which they were opened.
///
/// SUBTLE: a dying process drops its tasks, and with them its connections, in an order that no seed decides (tokio
/// shards its tasks by numbers that all runtimes of a process share). So connections are closed from here instead.
#[derive(Clone, Default)]
pub(crate) struct Connections(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    next: u64,
    streams: BTreeMap<u64, Arc<Mutex<Option<TcpStream>>>>,
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn add(&self, stream: TcpStream) -> (u64, Arc<Mutex<Option<TcpStream>>>) {
        let slot = Arc::new(Mutex::new(Some(stream)));
        let mut open = self.open();
        open.next += 1;
        let id = open.next;
        open.streams.insert(id, slot.clone());
        (id, slot)
    }

    /// Closes all, first opened first. Inside of the host's turn the other ends are told, as an operating system does
    /// for a process that has ended; outside of it they are not, as when the power fails.
    pub(crate) fn close(&self) {
        let streams = std::mem::take(&mut self.open().streams);
        for slot in streams.into_values() {
            let stream = slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
            drop(stream);
        }
    }
}

struct SimNet {
    host: Arc<str>,
    trace: Trace,
    connections: Connections,
}

impl SimNet {
    fn wrap(&self, stream: TcpStream) -> io::Result<BoxStream> {
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        let (id, slot) = self.connections.add(stream);
        let (host, trace, connections) = (self.host.clone(), self.trace.clone(), self.connections.clone());
        Ok(Box::new(TracedStream { id, slot, local, peer, host, trace, connections }))
    }
}

impl Net for SimNet {
    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(addr).await?;
            let net = SimNet {
                host: self.host.clone(),
                trace: self.trace.clone(),
                connections: self.connections.clone(),
            };
            Ok(Box::new(SimListener { listener, net }) as Box<dyn Listener>)
        })
    }

    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(async move {
            self.trace.note(&self.host, format_args!("dial {addr}"));
            let stream = TcpStream::connect(addr).await?;
            self.trace.note(&self.host, format_args!("dialled {addr} from {}", stream.local_addr()?));
            self.wrap(stream)
        })
    }
}

struct SimListener {
    listener: TcpListener,
    net: SimNet,
}

impl Listener for SimListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            self.net.trace.note(&self.net.host, format_args!("accept {peer}"));
            Ok((self.net.wrap(stream)?, peer))
        })
    }
}

struct TracedStream {
    id: u64,
    slot: Arc<Mutex<Option<TcpStream>>>,
    local: SocketAddr,
    peer: SocketAddr,
    host: Arc<str>,
    trace: Trace,
    connections: Connections,
}

impl TracedStream {
    fn note(&self, what: &str, bytes: usize) {
        self.trace.note(&self.host, format_args!("{what} {} {} {bytes}", self.local, self.peer));
    }

    /// Does `work` with the stream, unless it has been closed with its process.
    fn with<T>(&self, work: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let mut slot = self.slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match slot.as_mut() {
            Some(stream) => work(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

impl Drop for TracedStream {
    fn drop(&mut self) {
        self.connections.open().streams.remove(&self.id);
    }
}

impl AsyncRead for TracedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = self.with(|stream| stream.poll_read(cx, buf));
        match &read {
            Poll::Ready(Ok(())) => self.note("read", buf.filled().len() - before),
            Poll::Ready(Err(_)) => self.note("reset", 0),
            Poll::Pending => {}
        }
        read
    }
}

impl AsyncWrite for TracedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.with(|stream| stream.poll_write(cx, buf));
        if let Poll::Ready(Ok(bytes)) = &written {
            self.note("write", *bytes);
        }
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}

struct TracedDisk {
    host: Arc<str>,
    disk: SimDisk,
    is_lying: bool,
    trace: Trace,
}

impl Disk for TracedDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn lock_dir(&self, path: &Path) -> io::Result<Box<dyn FolderLock>> {
        self.disk.lock_dir(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.disk.exists(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.disk.list(folder)
    }

    fn open(&self, path: &Path, create: bool) -> io::Result<Backend> {
        self.trace.note(&self.host, format_args!("open {} {create}", path.display()));
        let backend = self.disk.open(path, create)?;
        let (name, host, trace) = (path.display().to_string(), self.host.clone(), self.trace.clone());
        Ok(Backend::new(TracedFile { name, backend, is_lying: self.is_lying, host, trace }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.trace.note(&self.host, format_args!("rename {} {}", from.display(), to.display()));
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.trace.note(&self.host, format_args!("remove {}", path.display()));
        self.disk.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.trace.note(&self.host, format_args!("sync folder {}", path.display()));
        self.disk.sync_dir(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_bytes(path)
    }
}

#[derive(Debug)]
struct TracedFile {
    name: String,
    backend: Backend,
    is_lying: bool,
    host: Arc<str>,
    trace: Trace,
}

impl std::fmt::Debug for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Trace")
    }
}

impl StorageBackend for TracedFile {
    fn len(&self) -> io::Result<u64> {
        self.backend.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.backend.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.trace.note(&self.host, format_args!("set length {} {len}", self.name));
        self.backend.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let synced = if self.is_lying { Ok(()) } else { self.backend.sync_data() };
        self.trace.note(&self.host, format_args!("sync {} {}", self.name, synced.is_ok()));
        synced
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (bytes, hash) = (data.len(), xxh3_64(data));
        self.trace.note(&self.host, format_args!("put {} {offset} {bytes} {hash:016x}", self.name));
        self.backend.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.backend.close()
    }
}
