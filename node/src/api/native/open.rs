//! The handshake of the native protocol.

use axum::extract::{Request, State};
use axum::response::Response;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::{ANSWER_BYTES_MAX, SessionBounds, connection};
use crate::api::Api;
use crate::api::answer::Failure;
use crate::api::upgrade::upgrade;

/// Above so many buffered bytes the socket is written to before the flush.
const WRITE_BUFFER_BYTES: usize = 128 << 10;

/// `GET /v1/session`
pub async fn open(State(api): State<Api>, request: Request) -> Result<Response, Failure> {
    let config = config(&api.bounds.session);
    upgrade(request, config, |socket, port| connection::serve(api, socket, port))
}

fn config(bounds: &SessionBounds) -> WebSocketConfig {
    WebSocketConfig::default()
        .write_buffer_size(WRITE_BUFFER_BYTES)
        .max_write_buffer_size(2 * WRITE_BUFFER_BYTES + ANSWER_BYTES_MAX)
        .max_message_size(Some(bounds.frame_bytes_max))
        .max_frame_size(Some(bounds.frame_bytes_max))
}
