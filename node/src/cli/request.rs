//! Asks servers about data: which ones, with which headers, and when another may be asked.
//!
//! A mutation may be sent again only where that cannot do it twice: nothing reached the first server, or the next one
//! is of the same DC, where the request id makes the repetition exact. Across DCs nothing is deduplicated, so after an
//! unknown outcome no server of another DC is asked.

use std::env::VarError;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use meridian_client::wire::AccessToken;
use serde_json::Value;

use super::args::{ClientOptions, parse_address};
use super::http::{Answer, Call, HttpClient, HttpError};
use super::{failure, usage};
use crate::dev::description;

/// Where a cluster of `dev` describes itself, relative to the working directory.
const DEV_CLUSTER_FILE: &str = "meridian-dev/cluster.json";
/// The variable of the environment that names servers where no option does.
const SERVER_VARIABLE: &str = "MERIDIAN_SERVER";
/// The address of a node with default ports on this machine.
const DEFAULT_SERVER: &str = "127.0.0.1:7400";
/// How long finding out a server's DC may take.
const STATUS_DEADLINE: Duration = Duration::from_secs(2);
/// The largest file of a session that is read; a token is far smaller.
const SESSION_BYTES_MAX: u64 = 64 * 1024;

/// Why a command has no answer to show.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The variable that names servers is wrong. Nothing was sent.
    #[error("{SERVER_VARIABLE}: {0}")]
    Variable(String),
    /// No server answered; the text says what each said.
    #[error("{0}")]
    NoAnswer(String),
    /// The mutation may or may not have been done.
    #[error("{0}; it is unknown whether the write was done: repeat it with --request-id {1} in the same DC")]
    Unknown(String, String),
    /// The session file cannot be used. Nothing was sent.
    #[error("the session file {0}: {1}")]
    Session(String, std::io::Error),
    /// The write was answered, but its token could not be kept.
    #[error("done, but the session file {0} cannot be written: {1}")]
    SessionLost(String, std::io::Error),
}

impl RequestError {
    /// Says it, and the exit code: a wrong variable is as a wrong option.
    pub fn report(&self, json: bool) -> ExitCode {
        match self {
            RequestError::Variable(_) => usage(&self.to_string()),
            _ => failure(json, &self.to_string()),
        }
    }
}

/// The servers to ask, in order.
///
/// # Errors
/// [`RequestError::Variable`].
pub fn servers(options: &ClientOptions) -> Result<Vec<String>, RequestError> {
    if let Some(named) = named_servers(options)? {
        return Ok(named);
    }
    let first =
        description::read(Path::new(DEV_CLUSTER_FILE)).ok().and_then(|cluster| cluster.first_client());
    Ok(vec![first.unwrap_or_else(|| DEFAULT_SERVER.into())])
}

/// The servers that `status` shows: those that were named, else all of the cluster of `dev` in this folder.
///
/// # Errors
/// [`RequestError::Variable`].
pub fn all_servers(options: &ClientOptions) -> Result<Vec<String>, RequestError> {
    if named_servers(options)?.is_none()
        && let Ok(cluster) = description::read(Path::new(DEV_CLUSTER_FILE))
    {
        return Ok(cluster
            .dcs
            .iter()
            .flat_map(|dc| dc.nodes.iter().map(|node| node.client.clone()))
            .collect());
    }
    servers(options)
}

/// The servers that an option names, or else the variable, which names none when it is empty.
fn named_servers(options: &ClientOptions) -> Result<Option<Vec<String>>, RequestError> {
    if !options.server.is_empty() {
        return Ok(Some(options.server.clone()));
    }
    match std::env::var(SERVER_VARIABLE) {
        Ok(list) => addresses(&list),
        Err(VarError::NotPresent) => Ok(None),
        Err(wrong @ VarError::NotUnicode(_)) => Err(RequestError::Variable(wrong.to_string())),
    }
}

/// The addresses of a list that commas part; nothing if it is empty.
fn addresses(list: &str) -> Result<Option<Vec<String>>, RequestError> {
    if list.trim().is_empty() {
        return Ok(None);
    }
    list.split(',').map(parse_address).collect::<Result<_, _>>().map(Some).map_err(RequestError::Variable)
}

/// Asks about data. `write` marks a mutation, which then carries a request id.
///
/// # Errors
/// [`RequestError`]; an answer with an error status is an answer.
pub async fn ask(
    options: &ClientOptions,
    method: Method,
    path: &str,
    body: Option<&Value>,
    write: bool,
) -> Result<Answer, RequestError> {
    let request_id = options.request_id.clone().unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let token = match &options.session {
        Some(file) => read_token(file).map_err(|e| RequestError::Session(file.display().to_string(), e))?,
        None => None,
    };
    let mut headers: Vec<(&str, &str)> = Vec::new();
    if write {
        headers.push(("Meridian-Request-Id", &request_id));
    }
    let access = options.token.as_ref().map(AccessToken::to_header);
    for (name, value) in [
        ("Authorization", &access),
        ("Meridian-Session", &token),
        ("Meridian-Consistency", &options.consistency),
        ("Meridian-Wait", &options.wait),
        ("Meridian-Commit", &options.commit),
    ] {
        if let Some(value) = value {
            headers.push((name, value));
        }
    }
    let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let call = Call { method, server: "", path, headers: &headers, body, deadline: options.timeout };
    let answer = ask_in_turn(&servers(options)?, call, write, &request_id).await?;
    if let (Some(file), Some(token)) = (&options.session, answer.header("Meridian-Session")) {
        write_token(file, token).map_err(|e| RequestError::SessionLost(file.display().to_string(), e))?;
    }
    Ok(answer)
}

/// Asks one server after the other until one gives an answer that is final.
async fn ask_in_turn(
    servers: &[String],
    call: Call<'_>,
    write: bool,
    request_id: &str,
) -> Result<Answer, RequestError> {
    let client = HttpClient::new();
    let mut failures: Vec<String> = Vec::new();
    let mut last_answer = None;
    // Once an outcome is unknown: the DC whose servers alone may be asked again.
    let mut bound_to: Option<Option<String>> = None;
    for server in servers {
        if let Some(dc) = &bound_to {
            let same = dc.is_some() && dc_of(&client, server).await == *dc;
            if !same {
                continue;
            }
        }
        let outcome = client.send(Call { server, ..call.clone() }).await;
        let unknown = match &outcome {
            Ok(answer) if !may_repeat(answer) => return outcome.map_err(no_answer),
            Ok(answer) => !surely_undone(answer),
            Err(HttpError::Invalid(_)) => return outcome.map_err(no_answer),
            Err(e) => e.outcome_unknown(),
        };
        if write && unknown && bound_to.is_none() {
            bound_to = Some(dc_of(&client, server).await);
        }
        match outcome {
            Ok(answer) => last_answer = Some(answer),
            Err(e) => failures.push(e.to_string()),
        }
    }
    match last_answer {
        Some(answer) => Ok(answer),
        None if bound_to.is_some() => Err(RequestError::Unknown(failures.join("; "), request_id.into())),
        None => Err(RequestError::NoAnswer(failures.join("; "))),
    }
}

fn no_answer(error: HttpError) -> RequestError {
    RequestError::NoAnswer(error.to_string())
}

/// Whether the table of errors allows to repeat: 429 and 5xx, save the one that says that the write stays.
fn may_repeat(answer: &Answer) -> bool {
    (answer.status == 429 || answer.status >= 500) && error_code(answer).as_deref() != Some("commit_timeout")
}

/// Whether the answer says that nothing was done and nothing is under way.
fn surely_undone(answer: &Answer) -> bool {
    let undone =
        ["overloaded", "not_caught_up", "no_leader", "clock_unsafe", "storage_full", "shutting_down"];
    error_code(answer).is_some_and(|code| undone.contains(&code.as_str()))
}

/// The code of an answer that is an error.
pub fn error_code(answer: &Answer) -> Option<String> {
    Some(answer.json()?.get("error")?.get("code")?.as_str()?.to_string())
}

async fn dc_of(client: &HttpClient, server: &str) -> Option<String> {
    let answer = client.get(server, "/v1/status", STATUS_DEADLINE).await.ok()?;
    Some(answer.json()?.get("dc")?.as_str()?.to_string())
}

/// The token of a session file; none if the file is not there yet or is empty.
fn read_token(file: &Path) -> std::io::Result<Option<String>> {
    match std::fs::metadata(file) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
        Ok(metadata) if metadata.len() > SESSION_BYTES_MAX => {
            return Err(std::io::Error::other("it is too large to be a session"));
        }
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(file)?;
    Ok(Some(text.trim().to_string()).filter(|token| !token.is_empty()))
}

/// Replaces the token as a whole, so that no reader sees half of one.
fn write_token(file: &Path, token: &str) -> std::io::Result<()> {
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    std::fs::write(&name, format!("{token}\n"))?;
    std::fs::rename(&name, file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const DEADLINE: Duration = Duration::from_millis(300);

    /// A server of `dc` that answers data with `answer` (or never, if that is empty) and counts how often it is asked.
    async fn server(
        dc: &'static str,
        answer: &'static str,
    ) -> (String, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let address = listener.local_addr().expect("bound").to_string();
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(async move {
                    let mut buffer = vec![0; 4096];
                    let read = stream.read(&mut buffer).await.expect("read");
                    let status = buffer[..read].starts_with(b"GET /v1/status");
                    let body = if status { format!("{{\"dc\":\"{dc}\"}}") } else { answer.to_string() };
                    if !status {
                        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        if answer.is_empty() {
                            std::future::pending::<()>().await;
                        }
                    }
                    let code = if body.contains("error") { "503 Busy" } else { "200 OK" };
                    let text = format!(
                        "HTTP/1.1 {code}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    stream.write_all(text.as_bytes()).await.expect("written");
                });
            }
        });
        (address, asked)
    }

    async fn write_to(servers: &[&str]) -> Result<Answer, RequestError> {
        let servers: Vec<String> = servers.iter().map(|s| s.to_string()).collect();
        let body = Bytes::from_static(b"{}");
        let call =
            Call { method: Method::POST, server: "", path: "/x", headers: &[], body, deadline: DEADLINE };
        ask_in_turn(&servers, call, true, "id").await
    }

    fn times(count: &std::sync::atomic::AtomicUsize) -> usize {
        count.load(std::sync::atomic::Ordering::SeqCst)
    }

    const DONE: &str = "{\"version\":\"1\"}";
    const NO_LEADER: &str = "{\"error\":{\"code\":\"no_leader\"}}";
    const NO_QUORUM: &str = "{\"error\":{\"code\":\"no_quorum\"}}";

    #[tokio::test]
    async fn after_an_unknown_outcome_no_server_of_another_dc_is_asked() {
        let (silent, _) = server("eu", "").await;
        let (other, asked) = server("us", DONE).await;
        let error = write_to(&[&silent, &other]).await.expect_err("unknown");
        assert!(matches!(error, RequestError::Unknown(..)), "{error}");
        assert_eq!(times(&asked), 0);
    }

    #[tokio::test]
    async fn after_an_unknown_outcome_a_server_of_the_same_dc_is_asked() {
        let (silent, _) = server("eu", "").await;
        let (other, _) = server("us", DONE).await;
        let (same, asked) = server("eu", DONE).await;
        assert_eq!(write_to(&[&silent, &other, &same]).await.expect("answered").status, 200);
        assert_eq!(times(&asked), 1);
    }

    #[tokio::test]
    async fn a_write_without_a_majority_counts_as_unknown_and_one_without_a_leader_as_undone() {
        let (other, asked) = server("us", DONE).await;
        let (no_quorum, _) = server("eu", NO_QUORUM).await;
        assert_eq!(write_to(&[&no_quorum, &other]).await.expect("the answer").status, 503);
        assert_eq!(times(&asked), 0);
        let (no_leader, _) = server("eu", NO_LEADER).await;
        assert_eq!(write_to(&[&no_leader, &other]).await.expect("answered").status, 200);
    }

    #[test]
    fn a_list_of_servers_is_addresses_or_nothing() {
        let read = |list: &str| addresses(list).map_err(|e| e.to_string());
        assert_eq!(read(" "), Ok(None));
        assert_eq!(read("a:1, [::1]:2"), Ok(Some(vec!["a:1".into(), "[::1]:2".into()])));
        for wrong in ["a", "a:1,", "a:1,,b:2", "http://a:1"] {
            let error = read(wrong).expect_err(wrong);
            assert!(error.starts_with("MERIDIAN_SERVER: ") && error.contains("HOST:PORT"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_server_that_is_down_is_passed_over() {
        let down =
            TcpListener::bind("127.0.0.1:0").await.expect("bound").local_addr().expect("bound").to_string();
        let (other, _) = server("us", DONE).await;
        assert_eq!(write_to(&[&down, &other]).await.expect("answered").status, 200);
    }

    #[test]
    fn a_session_file_keeps_the_token_and_may_be_absent_at_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("session");
        assert_eq!(read_token(&file).expect("absent"), None);
        write_token(&file, "abc").expect("written");
        assert_eq!(read_token(&file).expect("read"), Some("abc".into()));
    }
}
