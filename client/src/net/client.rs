//! The client: connections to all datacenters, and the sessions that go over them.

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::watch;

use super::error::Error;
use super::fleet::{Fleet, HomeChange};
use super::session::Session;
use super::settings::{Builder, Settings};

/// A client of a cluster. It is cheap to clone, and everything that a [`Session`] does can be done on it directly: that
/// is its default session.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let node = meridian::embedded::Node::start().await?;
/// use meridian_client::Client;
///
/// # let (eu, us) = (node.addr(), "127.0.0.1:9");
/// let client = Client::builder().dc("eu-west", [eu]).dc("us-east", [us]).connect().await?;
/// client.counter("visits").add(1).await?;
/// assert_eq!(*client.counter("visits").value().await?, 1);
/// assert_eq!(client.current_dc(), "eu-west");
/// client.close().await;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Client {
    session: Session,
}

impl Deref for Client {
    type Target = Session;

    /// The default session.
    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Client {
    /// Sets a client up.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) async fn connect(settings: Settings) -> Result<Client, Error> {
        let fleet = Fleet::start(settings);
        fleet.ready().await?;
        Ok(Client { session: Session::new(fleet) })
    }

    fn fleet(&self) -> &Arc<Fleet> {
        &self.session.fleet
    }

    /// A new session, which depends on nothing yet: one for each user of a server, say, so that nobody waits for what
    /// others have written.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// let (ann, bob) = (client.session(), client.session());
    /// ann.register("motd").set("hello").await?;
    /// assert!(!ann.token().is_empty());
    /// assert!(bob.token().is_empty());
    /// # Ok(()) }
    /// ```
    pub fn session(&self) -> Session {
        Session::new(Arc::clone(self.fleet()))
    }

    /// The session whose [token](Session::token) this is: it goes on where that one was.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// use meridian_client::{Error, ErrorCode};
    ///
    /// let phone = client.session();
    /// phone.set("cart").add("apple").await?;
    /// let laptop = client.resume(&phone.token())?;
    /// assert!(laptop.set("cart").contains("apple").await?);
    /// // What is no token is told at once.
    /// let Err(Error::Refused(refusal)) = client.resume("garbage") else { panic!("it is damaged") };
    /// assert_eq!(refusal.code, ErrorCode::BadToken);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`Error::Refused`] with `bad_token` if the token is damaged.
    pub fn resume(&self, token: &str) -> Result<Session, Error> {
        let session = self.session();
        session.join(token)?;
        Ok(session)
    }

    /// The datacenter that is asked first at the moment.
    pub fn current_dc(&self) -> &str {
        let fleet = self.fleet();
        &fleet.dcs[fleet.current()].name
    }

    /// Tells of every change of [`Client::current_dc`]; of several in a row that were not looked at, the last one.
    ///
    /// ```
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let node = meridian::embedded::Node::start().await?;
    /// # let client = meridian_client::Client::builder().dc("eu-west", [node.addr()]).connect().await?;
    /// let home = client.home_changes();
    /// assert_eq!(home.borrow().to, "eu-west");
    /// // `home.changed().await` waits for a failover, or for the return from one.
    /// # Ok(()) }
    /// ```
    pub fn home_changes(&self) -> watch::Receiver<HomeChange> {
        self.fleet().changes()
    }

    /// Ends all connections and tasks. Requests under way fail. The end of the last clone and session does the same.
    pub async fn close(&self) {
        self.fleet().close().await;
    }
}
