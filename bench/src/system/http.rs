//! The one HTTP request that looking after servers needs: a GET on a connection of its own.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Status and body of the answer to a GET.
pub async fn get(address: &str, path: &str) -> Result<(u16, String), String> {
    let answer = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, answer).await;
    let answer = answer.map_err(|_| format!("{address} does not answer"))?.map_err(|e| e.to_string())?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("an answer without a body")?;
    let status =
        head.split(' ').nth(1).and_then(|text| text.parse().ok()).ok_or("an answer without a status")?;
    Ok((status, body.to_owned()))
}

/// The JSON that a GET answers with.
pub async fn get_json(address: &str, path: &str) -> Result<serde_json::Value, String> {
    let (status, body) = get(address, path).await?;
    match status {
        200 => serde_json::from_str(&body).map_err(|e| e.to_string()),
        other => Err(format!("{address}{path} answers {other}: {body}")),
    }
}

/// One value, without labels, of what a node counts.
pub async fn metric(address: &str, name: &str) -> Result<f64, String> {
    let (_, page) = get(address, "/metrics").await?;
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.parse().ok()).ok_or_else(|| format!("{address} does not count {name}"))
}
