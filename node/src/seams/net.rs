//! Listening and connecting.

use std::io;
use std::net::SocketAddr;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};

/// How many connections may wait to be accepted; the system's `net.core.somaxconn` bounds it too. Clients beyond try again after a second,
/// and may find theirs reset: after a node's start they come by thousands at once.
const ACCEPT_QUEUE: u32 = 4096;

/// A connection: bytes in order both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// A connection of any network.
pub type BoxStream = Box<dyn Stream>;

/// The network.
pub trait Net: Send + Sync + 'static {
    /// Listens on `addr` (`host:port`; port 0 lets the system choose).
    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>>;

    /// Connects to `addr` (`host:port`); the name is resolved anew each time. The caller sets the deadline.
    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<BoxStream>>;
}

/// A listening socket.
pub trait Listener: Send + 'static {
    /// Where it listens.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// The next connection and who opened it.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>>;
}

/// TCP. Small frames leave at once (`TCP_NODELAY`): what is sent here has been gathered already.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNet;

impl Net for TcpNet {
    fn listen<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
            for addr in lookup_host(addr).await? {
                match listen_at(addr) {
                    Ok(listener) => return Ok(Box::new(TcpAccept(listener)) as Box<dyn Listener>),
                    Err(error) => failed = error,
                }
            }
            Err(failed)
        })
    }

    fn connect<'a>(&'a self, addr: &'a str) -> BoxFuture<'a, io::Result<BoxStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as BoxStream)
        })
    }
}

fn listen_at(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // So that a node that starts again need not wait for connections of its last life to be forgotten.
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    socket.listen(ACCEPT_QUEUE)
}

struct TcpAccept(TcpListener);

impl Listener for TcpAccept {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<(BoxStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as BoxStream, from))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream as StdStream;
    use std::time::Duration;

    use super::*;

    /// Story: a node starts, and hundreds of clients that have waited for it connect in the same moment, before it has accepted one.
    #[tokio::test]
    async fn hundreds_of_clients_may_connect_at_once() {
        let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux says");
        let clients: usize = most.trim().parse::<usize>().expect("a number").min(400);
        let listener = TcpNet.listen("127.0.0.1:0").await.expect("listens");
        let addr = listener.local_addr().expect("bound");
        let mut connected = Vec::new();
        for _ in 0..clients {
            connected.push(
                StdStream::connect_timeout(&addr, Duration::from_millis(500)).expect("waits to be accepted"),
            );
        }
    }
}
