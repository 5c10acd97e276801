//! How a client is set up: its datacenters, and bounds on everything that takes time.

use std::sync::Arc;
use std::time::Duration;

use super::client::Client;
use super::error::Error;
use super::home::RETURN_AFTER;
use super::transport::{Connect, Tcp};
use crate::wire::AccessToken;
use crate::wire::access::ACCESS_TOKENS_MAX;

/// How long a request may take in all, attempts and failover included.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long [`Builder::connect`] looks for a node that answers.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one attempt may take beyond the wait that the node was granted.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a datacenter whose nodes answer, but cannot do it, is asked again before the next one is.
pub const DC_PATIENCE: Duration = Duration::from_millis(1500);
/// How often each node is asked how it is.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long it may take to answer that, and how long to connect to it.
pub const PROBE_TIMEOUT: Duration = Duration::from_millis(1500);

/// Which datacenter is preferred as home.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preference {
    /// The one that was named first.
    #[default]
    Order,
    /// The one that answers fastest; differences of less than a quarter count as none.
    Latency,
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub dcs: Vec<(String, Vec<String>)>,
    pub prefer: Preference,
    pub request_timeout: Duration,
    pub connect_timeout: Duration,
    pub attempt_timeout: Duration,
    pub dc_patience: Duration,
    pub probe_interval: Duration,
    pub probe_timeout: Duration,
    pub return_after: Duration,
    pub connector: Arc<dyn Connect>,
    pub access: Vec<AccessToken>,
}

/// Sets up a [`Client`].
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// # let (a, b, far) = (node.addr(), "127.0.0.1:9", "127.0.0.1:10");
/// use std::time::Duration;
/// use meridian_client::{Client, Preference};
///
/// let client = Client::builder()
///     .dc("eu-west", [a, b]) // some nodes of the nearest datacenter, or all
///     .dc("us-east", [far])
///     .prefer(Preference::Order)
///     .request_timeout(Duration::from_secs(5))
///     .connect()
///     .await?;
/// assert_eq!(client.current_dc(), "eu-west");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Builder {
    settings: Settings,
}

impl Default for Builder {
    fn default() -> Self {
        let settings = Settings {
            dcs: Vec::new(),
            prefer: Preference::default(),
            request_timeout: REQUEST_TIMEOUT,
            connect_timeout: CONNECT_TIMEOUT,
            attempt_timeout: ATTEMPT_TIMEOUT,
            dc_patience: DC_PATIENCE,
            probe_interval: PROBE_INTERVAL,
            probe_timeout: PROBE_TIMEOUT,
            return_after: RETURN_AFTER,
            connector: Arc::new(Tcp),
            access: Vec::new(),
        };
        Self { settings }
    }
}

impl Builder {
    /// Adds a datacenter with the client addresses of its nodes. Name the nearest one first.
    #[must_use]
    pub fn dc<A: Into<String>>(
        mut self,
        name: impl Into<String>,
        nodes: impl IntoIterator<Item = A>,
    ) -> Self {
        let nodes = nodes.into_iter().map(Into::into).collect();
        self.settings.dcs.push((name.into(), nodes));
        self
    }

    /// Which datacenter is preferred: the one named first, or the fastest. Default: the one named first.
    #[must_use]
    pub fn prefer(mut self, preference: Preference) -> Self {
        self.settings.prefer = preference;
        self
    }

    /// How long a request may take in all. Default: [`REQUEST_TIMEOUT`].
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.settings.request_timeout = timeout;
        self
    }

    /// How long [`Builder::connect`] may take. Default: [`CONNECT_TIMEOUT`].
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How long one node may take to answer beyond the wait that the request grants it, before another node is asked.
    /// Default: [`ATTEMPT_TIMEOUT`].
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.settings.attempt_timeout = timeout;
        self
    }

    /// How long a datacenter that answers, but cannot serve, is asked again before the next one is. Default:
    /// [`DC_PATIENCE`].
    #[must_use]
    pub fn dc_patience(mut self, patience: Duration) -> Self {
        self.settings.dc_patience = patience;
        self
    }

    /// How often each node is asked how it is, and how long it may take to answer. Defaults: [`PROBE_INTERVAL`] and
    /// [`PROBE_TIMEOUT`].
    #[must_use]
    pub fn probe(mut self, interval: Duration, timeout: Duration) -> Self {
        (self.settings.probe_interval, self.settings.probe_timeout) = (interval, timeout);
        self
    }

    /// How long a preferred datacenter must have been healthy before the client returns to it. Doubles each time that
    /// it fails soon again. Default: [`RETURN_AFTER`].
    #[must_use]
    pub fn return_after(mut self, hold: Duration) -> Self {
        self.settings.return_after = hold;
        self
    }

    /// Shows an access token to every node, for spaces that not everybody may enter. Repeat it for spaces with tokens of
    /// their own; of the tokens that a space knows the one counts that allows most.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let closed = "[spaces.shop]\nread = \"reads-the-shop-0000\"";
    /// # let node = meridian::embedded::Setup::default().settings(closed).start("eu-west").await?;
    /// use meridian_client::{AccessToken, Advice, Client, ErrorCode};
    ///
    /// let token = AccessToken::new("reads-the-shop-0000")?;
    /// let client = Client::builder().dc("eu-west", [node.addr()]).access_token(token).connect().await?;
    /// let shop = client.space("shop");
    /// assert_eq!(*shop.counter("visits").value().await?, 0);
    /// let refused = shop.counter("visits").add(1).await.expect_err("it lets its bearer read");
    /// assert_eq!((refused.code(), refused.advice()), (Some(ErrorCode::Forbidden), Advice::Fix));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn access_token(mut self, token: AccessToken) -> Self {
        self.settings.access.push(token);
        self
    }

    /// Opens connections in another way than by TCP.
    #[must_use]
    pub fn connector(mut self, connector: impl Connect) -> Self {
        self.settings.connector = Arc::new(connector);
        self
    }

    /// Connects: returns as soon as a node of the first datacenter answers, or one of another datacenter if the first
    /// one's do not.
    ///
    /// # Errors
    /// [`Error::Setup`] if no datacenter with nodes is named, or one twice, or more than 16 access tokens are;
    /// [`Error::Unavailable`] if no node answers
    /// within the time.
    pub async fn connect(self) -> Result<Client, Error> {
        self.settings.check()?;
        Client::connect(self.settings).await
    }
}

impl Settings {
    fn check(&self) -> Result<(), Error> {
        let setup = |what: String| Err(Error::Setup(what));
        if self.dcs.is_empty() {
            return setup("name at least one datacenter with dc(name, nodes)".into());
        }
        if self.access.len() > ACCESS_TOKENS_MAX {
            return setup(format!("there are more than {ACCESS_TOKENS_MAX} access tokens"));
        }
        for (i, (name, nodes)) in self.dcs.iter().enumerate() {
            if nodes.is_empty() {
                return setup(format!("the datacenter {name} has no nodes"));
            }
            if self.dcs[..i].iter().any(|(other, _)| other == name) {
                return setup(format!("the datacenter {name} is named twice"));
            }
        }
        Ok(())
    }
}
