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
/// ```no_run
/// # async fn run() -> Result<(), meridian_client::Error> {
/// use meridian_client::Client;
///
/// let client = Client::builder()
///     .dc("eu-west", ["127.0.0.1:7400"])
///     .dc("us-east", ["127.0.0.1:7410"])
///     .connect()
///     .await?;
/// client.counter("visits").add(1).await?;
/// println!("{} visits", *client.counter("visits").value().await?);
/// # Ok(())
/// # }
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

    /// A new session, which depends on nothing yet.
    pub fn session(&self) -> Session {
        Session::new(Arc::clone(self.fleet()))
    }

    /// The session whose [token](Session::token) this is: it goes on where that one was.
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
    pub fn home_changes(&self) -> watch::Receiver<HomeChange> {
        self.fleet().changes()
    }

    /// Ends all connections and tasks. Requests under way fail. The end of the last clone and session does the same.
    pub async fn close(&self) {
        self.fleet().close().await;
    }
}
