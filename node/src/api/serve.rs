//! The client port: accepts connections and speaks HTTP/1.1 on them, within bounds, until told to stop.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::unstalled::Unstalled;
use crate::seams::{BoxStream, Listener};

/// How long the accept loop rests after the operating system refused a connection, usually for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A client's connection as it was accepted.
pub type Wire = Unstalled<BoxStream>;

/// Bounds of the client port.
#[derive(Clone, Copy, Debug)]
pub struct ServeBounds {
    /// Open connections; further ones are closed at once.
    pub connections_max: usize,
    /// How long a client may take to send a request's head, and how long it may take nothing of an answer.
    pub read_timeout: Duration,
    /// How long requests may finish after the stop.
    pub drain_timeout: Duration,
}

/// What a handler may know of the connection that its request came on.
#[derive(Clone)]
pub struct Port {
    /// Turns true when the node stops.
    pub stop: watch::Receiver<bool>,
    /// Its place among the open connections, to be kept for as long as it is open.
    _permit: Arc<OwnedSemaphorePermit>,
}

/// Serves `router` on `listener` until `stop` turns true, then lets requests finish for a bounded time.
pub async fn serve(
    mut listener: Box<dyn Listener>,
    router: Router,
    bounds: ServeBounds,
    stop: watch::Receiver<bool>,
) {
    let open = Arc::new(Semaphore::new(bounds.connections_max));
    let mut stopping = stop.clone();
    loop {
        tokio::select! {
            biased;
            () = told_to_stop(&mut stopping) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let Ok(permit) = open.clone().try_acquire_owned() else { continue };
                    let port = Port { stop: stop.clone(), _permit: Arc::new(permit) };
                    tokio::spawn(connection(stream, router.clone(), bounds, port));
                }
                Err(error) => {
                    tracing::warn!(%error, "a client connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // Each connection holds a permit and sees the stop by itself.
    let all = u32::try_from(bounds.connections_max).unwrap_or(u32::MAX);
    if tokio::time::timeout(bounds.drain_timeout, open.acquire_many(all)).await.is_err() {
        tracing::warn!("some requests did not finish in time");
    }
}

/// Returns when the node stops, or nobody is left who could say so.
pub async fn told_to_stop(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection(stream: BoxStream, router: Router, bounds: ServeBounds, port: Port) {
    let mut stop = port.stop.clone();
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(port.clone());
        router.call(request)
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(bounds.read_timeout).max_buf_size(64 * 1024);
    let stream = TokioIo::new(Unstalled::new(stream, bounds.read_timeout));
    let served = http.serve_connection(stream, service).with_upgrades();
    tokio::pin!(served);
    tokio::select! {
        ended = served.as_mut() => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a client connection ended");
            }
            return;
        }
        () = told_to_stop(&mut stop) => {}
    }
    served.as_mut().graceful_shutdown();
    if let Err(error) = served.await {
        tracing::debug!(%error, "a client connection ended while the node stops");
    }
}
