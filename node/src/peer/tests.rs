//! The peer port end to end, over loopback TCP.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, join_all};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::{
    AdmitAll, ForwardError, PeerClient, PeerConfig, PeerHandler, PeerIdentity, PeerServer, RaftHandler,
    Secret, serve,
};
use crate::seams::{BoxStream, Seams};

const LIMIT: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Echo {
    gossip_from: Mutex<Vec<PeerIdentity>>,
}

impl PeerHandler for Echo {
    fn forward(&self, from: u64, request: Bytes) -> BoxFuture<'_, Bytes> {
        Box::pin(async move {
            if request == "never" {
                std::future::pending::<()>().await;
            }
            [from.to_string().as_bytes(), b":", &request].concat().into()
        })
    }

    fn presence<'a>(&'a self, from: &'a PeerIdentity, request: Bytes) -> BoxFuture<'a, Bytes> {
        Box::pin(async move { [from.dc.as_bytes(), b":", &request].concat().into() })
    }

    fn gossip(&self, mut stream: BoxStream, from: PeerIdentity) {
        self.gossip_from.lock().unwrap().push(from);
        tokio::spawn(async move {
            stream.write_all(b"gossip").await.unwrap();
            stream.flush().await.unwrap();
        });
    }
}

struct NoRaft;

impl RaftHandler for NoRaft {
    fn rpc(&self, _from: u64, request: Bytes) -> BoxFuture<'_, Bytes> {
        Box::pin(async move { request })
    }

    fn snapshot(&self, _from: u64, _stream: BoxStream) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

fn config(cluster: &str, dc: &str, node: u64, secret: &str) -> PeerConfig {
    let me =
        PeerIdentity { cluster: cluster.into(), dc: dc.into(), node, store_id: Uuid::from_u128(node.into()) };
    PeerConfig {
        me,
        secret: Secret::new(secret),
        handshake_limit: Duration::from_secs(3),
        admission: Arc::new(AdmitAll),
    }
}

async fn server(handler: Arc<Echo>) -> (PeerServer, String) {
    let seams = Seams::production();
    let listener = seams.net.listen("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    (serve(listener, config("c", "eu", 1, "s"), &seams, handler, Arc::new(NoRaft)), addr)
}

fn client(config: PeerConfig, addr: &str) -> PeerClient {
    let addr = addr.to_owned();
    PeerClient::new(config, Seams::production(), Arc::new(move |_node: u64| Some(addr.clone())))
}

#[tokio::test]
async fn many_requests_in_flight_get_their_own_answers() {
    let (_server, addr) = server(Arc::default()).await;
    let client = client(config("c", "eu", 2, "s"), &addr);
    let calls = (0..500).map(|i| {
        let client = &client;
        async move {
            let answer = client.forward(1, format!("{i}").into(), LIMIT).await.unwrap();
            assert_eq!(answer, format!("2:{i}"));
        }
    });
    join_all(calls).await;
}

#[tokio::test]
async fn a_request_without_an_answer_is_unknown_and_others_pass_it() {
    let (_server, addr) = server(Arc::default()).await;
    let client = client(config("c", "eu", 2, "s"), &addr);
    let never = client.forward(1, "never".into(), Duration::from_millis(300));
    let other = client.forward(1, "x".into(), LIMIT);
    let (never, other) = tokio::join!(never, other);
    assert!(matches!(never, Err(ForwardError::Unknown(_))), "{never:?}");
    assert_eq!(other.unwrap(), "2:x");
}

#[tokio::test]
async fn an_open_request_becomes_unknown_when_the_server_goes_and_later_ones_are_not_sent() {
    let (server, addr) = server(Arc::default()).await;
    let client = client(config("c", "eu", 2, "s"), &addr);
    client.forward(1, "x".into(), LIMIT).await.unwrap();
    let (never, ()) = tokio::join!(client.forward(1, "never".into(), LIMIT), async {
        // The first answer after "never" proves that "never" is being worked on.
        client.forward(1, "y".into(), LIMIT).await.unwrap();
        server.shutdown().await;
    });
    assert!(matches!(never, Err(ForwardError::Unknown(_))), "{never:?}");
    let late = client.forward(1, "x".into(), LIMIT).await;
    assert!(matches!(late, Err(ForwardError::NotSent(_))), "{late:?}");
}

#[tokio::test]
async fn strangers_are_refused_before_anything_is_sent() {
    let (_server, addr) = server(Arc::default()).await;
    for (stranger, why) in [
        (config("c", "eu", 2, "other"), "secret"),
        (config("d", "eu", 2, "s"), "another cluster"),
        (config("c", "us", 2, "s"), "same datacenter"),
    ] {
        let refused = client(stranger, &addr).forward(1, "x".into(), LIMIT).await.unwrap_err();
        assert!(matches!(refused, ForwardError::NotSent(_)), "{refused:?}");
        assert!(refused.to_string().contains(why), "{refused}");
    }
}

#[tokio::test]
async fn another_dc_may_speak_of_who_is_present_and_of_nothing_else() {
    let (_server, addr) = server(Arc::default()).await;
    let client = client(config("c", "us", 2, "s"), "");
    let there = client.of_dc("eu", Arc::new(move |_node: u64| Some(addr.clone())));
    assert_eq!(there.presence(1, "x".into(), LIMIT).await.unwrap(), "us:x");
    let refused = there.forward(1, "x".into(), LIMIT).await.unwrap_err();
    assert!(refused.to_string().contains("same datacenter"), "{refused}");
}

#[tokio::test]
async fn an_address_of_another_node_is_not_taken_for_the_right_one() {
    let (_server, addr) = server(Arc::default()).await;
    let refused = client(config("c", "eu", 2, "s"), &addr).forward(3, "x".into(), LIMIT).await;
    assert!(matches!(refused, Err(ForwardError::NotSent(_))), "{refused:?}");
}

#[tokio::test]
async fn garbage_on_the_port_disturbs_nobody() {
    let (_server, addr) = server(Arc::default()).await;
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0xff; 4096], &[]] {
        let mut stream = Seams::production().net.connect(&addr).await.unwrap();
        // The server may close before everything is written.
        let _ = stream.write_all(garbage).await;
    }
    let client = client(config("c", "eu", 2, "s"), &addr);
    client.forward(1, "x".into(), LIMIT).await.unwrap();
}

#[tokio::test]
async fn another_dc_gets_a_raw_gossip_connection() {
    let echo = Arc::<Echo>::default();
    let (_server, addr) = server(echo.clone()).await;
    let client = client(config("c", "us", 7, "s"), "");
    let (mut stream, peer) = client.dial_gossip_peer(&addr).await.unwrap();
    assert_eq!((peer.dc.as_str(), peer.node), ("eu", 1));
    let mut said = [0; 6];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"gossip");
    assert_eq!(echo.gossip_from.lock().unwrap()[0].dc, "us");
}
