//! A benchmark's client over the native protocol: several requests in flight on one connection.
//!
//! It speaks WebSocket by itself, as the other one speaks HTTP: frames are written with a mask of zeroes, so that their
//! bytes are the request's own, and of answers no more is read than their id and what came of them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use meridian_client::wire::AccessToken;
use meridian_client::wire::frame::{Frame, Request, VERSION, Verb};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::http::read_more;
use super::websocket::{BINARY, CLOSE, KEY, PING, PONG, frame, next_frame};
use super::{REQUEST_TIMEOUT, Run, Xorshift, is_answer};
use crate::cli::args::Workload;

/// Most bytes of the answer to the handshake.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// One client's connection and its buffers, used again for each request.
pub(super) struct Connection {
    /// Where to.
    pub server: String,
    access: Option<AccessToken>,
    stream: Option<TcpStream>,
    outgoing: Vec<u8>,
    /// One request, before it is framed.
    request: Vec<u8>,
    incoming: Vec<u8>,
    /// How much of `incoming` has been looked at.
    taken: usize,
}

impl Connection {
    pub fn new(server: String, access: Option<AccessToken>) -> Self {
        let (outgoing, request, incoming) = (Vec::new(), Vec::new(), Vec::new());
        Self { server, access, stream: None, outgoing, request, incoming, taken: 0 }
    }

    /// Adds a request to those that the next exchange sends.
    pub fn form(&mut self, run: &Run, workload: Workload, key: u64, id: u8) {
        self.request.clear();
        let out = &mut self.request;
        // [id, verb, {arguments}]
        out.extend([0x93, 0xcc, id]);
        match workload {
            Workload::Get | Workload::Mix => {
                text(out, "read");
                out.push(0x82);
                text(out, "key");
                text(out, &format!("bench-put-{key}"));
            }
            Workload::Put => {
                text(out, "write");
                out.push(0x83);
                text(out, "key");
                text(out, &format!("bench-put-{key}"));
                text(out, "mutation");
                out.push(0x83);
                for word in ["type", "register", "op", "set", "value", &run.value] {
                    text(out, word);
                }
            }
            Workload::Counter => {
                text(out, "write");
                out.push(0x83);
                text(out, "key");
                text(out, &format!("bench-counter-{key}"));
                text(out, "mutation");
                out.push(0x83);
                for word in ["type", "counter", "op", "add", "by"] {
                    text(out, word);
                }
                out.push(1);
            }
        }
        text(out, "space");
        text(out, &run.space);
        frame(&mut self.outgoing, BINARY, &self.request);
    }

    /// Sends what was formed and reads one answer: its id, and the status that HTTP would give it.
    pub async fn exchange(&mut self, deadline: Instant) -> Result<(u8, u16), String> {
        let outcome = tokio::time::timeout_at(deadline, self.exchange_unbounded()).await;
        let outcome = outcome.unwrap_or_else(|_| Err("no answer in time".into()));
        if outcome.is_err() {
            self.stream = None;
        }
        outcome
    }

    async fn exchange_unbounded(&mut self) -> Result<(u8, u16), String> {
        if self.stream.is_none() {
            self.connect().await?;
        }
        let stream = self.stream.as_mut().ok_or("not connected")?;
        if !self.outgoing.is_empty() {
            stream.write_all(&self.outgoing).await.map_err(|e| e.to_string())?;
            self.outgoing.clear();
        }
        loop {
            let Some((opcode, start, end)) = next_frame(&self.incoming[self.taken..])? else {
                self.incoming.drain(..self.taken);
                self.taken = 0;
                read_more(stream, &mut self.incoming).await?;
                continue;
            };
            let (start, end) = (self.taken + start, self.taken + end);
            self.taken = end;
            let payload = &self.incoming[start..end];
            match opcode {
                BINARY => return answer(payload),
                PING => {
                    let mut pong = Vec::new();
                    frame(&mut pong, PONG, payload);
                    stream.write_all(&pong).await.map_err(|e| e.to_string())?;
                }
                CLOSE => return Err("the server closed the session".into()),
                _ => {}
            }
        }
    }

    /// Whether another answer has arrived already.
    fn has_answer(&self) -> bool {
        matches!(next_frame(&self.incoming[self.taken..]), Ok(Some(_)))
    }

    async fn connect(&mut self) -> Result<(), String> {
        let mut stream = TcpStream::connect(&self.server).await.map_err(|e| e.to_string())?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let mut hello = format!(
            "GET /v1/session HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\r\n",
            self.server
        )
        .into_bytes();
        let access = self.access.iter().cloned().collect();
        let verb = Verb::Hello { versions: vec![VERSION], client: "meridian-bench".into(), access };
        frame(&mut hello, BINARY, &Request::new(0, verb).encode());
        stream.write_all(&hello).await.map_err(|e| e.to_string())?;
        self.incoming.clear();
        self.taken = loop {
            read_more(&mut stream, &mut self.incoming).await?;
            if let Some(end) = self.incoming.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if self.incoming.len() > HEAD_BYTES_MAX {
                return Err("the answer's head is too long".into());
            }
        };
        if !self.incoming.starts_with(b"HTTP/1.1 101") {
            return Err("the server does not speak the native protocol".into());
        }
        let (start, end) = loop {
            match next_frame(&self.incoming[self.taken..])? {
                Some((_, start, end)) => break (self.taken + start, self.taken + end),
                None => read_more(&mut stream, &mut self.incoming).await?,
            }
        };
        self.taken = end;
        match answer(&self.incoming[start..end])? {
            (_, 200) => self.stream = Some(stream),
            (_, status) => return Err(format!("hello is answered with {status}")),
        }
        Ok(())
    }
}

/// Appends a text.
fn text(out: &mut Vec<u8>, text: &str) {
    let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
    match len {
        0..32 => out.push(0xa0 | text.len() as u8),
        _ => {
            out.push(0xdb);
            out.extend(len.to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
}

/// Id and status of an answer.
fn answer(frame: &[u8]) -> Result<(u8, u16), String> {
    // [id, "ok", ...] with a small id, which is what nearly all are.
    match frame {
        [0x95, id @ 0..0x80, 0xa2, b'o', b'k', ..] | [0x95, 0xcc, id, 0xa2, b'o', b'k', ..] => Ok((*id, 200)),
        _ => match Frame::decode(frame).map_err(|e| e.to_string())? {
            Frame::Answer { id, outcome, .. } => {
                let id = u8::try_from(id).map_err(|_| "an answer to nothing that was asked")?;
                Ok((id, outcome.map_or_else(|e| e.code.status(), |_| 200)))
            }
            Frame::Event { .. } => Err("an event of a watch that was not asked for".into()),
        },
    }
}

/// Keeps `pipeline` requests in flight until `end`; returns the last error.
pub(super) async fn client_loop(
    run: Arc<Run>,
    server: String,
    client: u64,
    pipeline: u64,
    end: Instant,
) -> Option<String> {
    let mut connection = Connection::new(server, run.access.clone());
    let mut random = Xorshift::new(client);
    let mut last_error = None;
    let mut turn = client;
    // What each id is doing, since when.
    let mut slots: Vec<Option<(Workload, Instant)>> = (0..pipeline).map(|_| None).collect();
    while Instant::now() < end {
        for (id, slot) in slots.iter_mut().enumerate().filter(|(_, slot)| slot.is_none()) {
            turn += 1;
            let workload = run.turn(turn);
            let key = random.below(run.keys.load(Ordering::Relaxed));
            connection.form(&run, workload, key, u8::try_from(id).unwrap_or(u8::MAX));
            *slot = Some((workload, Instant::now()));
        }
        // All answers that are there are taken before the next requests are sent.
        loop {
            // A client that waits at the end is not waited for.
            let outcome = connection.exchange(end.min(Instant::now() + REQUEST_TIMEOUT)).await;
            if run.is_over(end) {
                return last_error;
            }
            let error = match outcome {
                Ok((id, status)) => match slots.get_mut(usize::from(id)).and_then(Option::take) {
                    Some((workload, start)) if is_answer(status, workload) => {
                        run.done(start);
                        None
                    }
                    _ => Some(format!("{} answers {status}", connection.server)),
                },
                Err(e) => {
                    connection.outgoing.clear();
                    slots.fill(None);
                    Some(format!("{}: {e}", connection.server))
                }
            };
            if let Some(error) = error {
                last_error = Some(error);
                run.failed().await;
            }
            if !connection.has_answer() || slots.iter().all(Option::is_none) {
                break;
            }
        }
    }
    last_error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_formed_is_what_the_protocol_reads() {
        let run = Run::new(Workload::Put, 1, ("default".into(), None), 40).expect("valid");
        for (workload, verb) in
            [(Workload::Put, "write"), (Workload::Counter, "write"), (Workload::Get, "read")]
        {
            let mut connection = Connection::new("a:1".into(), None);
            connection.form(&run, workload, 7, 3);
            let request = Request::decode(&connection.request).expect("a request");
            assert_eq!((request.id, request.verb.name()), (3, verb));
            // A masked frame with a short length has six bytes before its payload, a longer one eight.
            let head = if connection.request.len() < 126 { 6 } else { 8 };
            assert_eq!(connection.outgoing[head..], connection.request);
        }
    }

    #[test]
    fn answers_are_read_as_far_as_needed() {
        let ok = Frame::Answer { id: 130, outcome: Ok([].into()), session: None, staleness: vec![] };
        assert_eq!(answer(&ok.encode()), Ok((130, 200)));
        let error = meridian_client::wire::ApiError::new(meridian_client::wire::ErrorCode::NotFound, "");
        let error = Frame::Answer { id: 2, outcome: Err(error), session: None, staleness: vec![] };
        assert_eq!(answer(&error.encode()), Ok((2, 404)));
    }
}
