//! Writes and reads through the loss and the return of a whole DC, and what was kept of the session meanwhile.
//!
//! The home DC is killed in the middle. What was not sent, or certainly not done, is done in the next DC. What may have
//! been done is not repeated there: the program is told so, and counts it. A session whose last writes died with the DC
//! before any other one had them is told that too; here it goes on with a new session, which is this program's decision,
//! and joins the old one again when the DC is back: nothing that was acknowledged is lost.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use meridian_client::{Client, Error, Session};
use meridian_examples::playground::{self, Failure, Playground, Where};

/// How long one request may take before the program decides for itself.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a node waits for what the session depends on.
const WAIT: Duration = Duration::from_millis(500);
/// How long the client looks at the home DC before it returns.
const RETURN_AFTER: Duration = Duration::from_secs(2);
/// How long the return, and the last writes' arrival everywhere, may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two operations.
const PACE: Duration = Duration::from_millis(10);

/// Goes on through the loss and the return of a DC.
#[derive(Debug, Parser)]
struct Args {
    /// Operations before the loss, and between the loss and the return
    #[arg(long, default_value_t = 200)]
    operations: u64,
    #[command(flatten)]
    place: Where,
}

/// What the program has done and seen.
struct User {
    client: Client,
    session: Session,
    /// Tokens of sessions that could not go on.
    left: Vec<String>,
    acknowledged: i64,
    /// What the session of now must at least read.
    own: i64,
    unknown: i64,
    refused: u64,
    longest: Duration,
}

fn main() -> ExitCode {
    playground::main(|args: &Args| &args.place, run)
}

async fn run(playground: &Playground, args: &Args) -> Result<(), Failure> {
    let cluster = playground.cluster()?;
    let builder = playground.client(0).request_timeout(REQUEST_TIMEOUT).return_after(RETURN_AFTER);
    let client = builder.connect().await?;
    let home = client.current_dc().to_owned();
    let session = client.session().wait(WAIT);
    let mut user = User {
        client,
        session,
        left: Vec::new(),
        acknowledged: 0,
        own: 0,
        unknown: 0,
        refused: 0,
        longest: Duration::ZERO,
    };
    println!("home is {home}");
    user.go_on(args.operations).await?;
    user.tell("before the loss");

    for node in playground.nodes(0) {
        cluster.kill(&node).await?;
    }
    println!("-- all nodes of {home} are killed");
    user.go_on(args.operations).await?;
    user.tell("during the loss");
    if user.client.current_dc() == home {
        return Err(Failure::Violation(format!("the client is still at {home}, which is dead")));
    }

    for node in playground.nodes(0) {
        cluster.restart(&node).await?;
    }
    println!("-- all nodes of {home} run again");
    let deadline = Instant::now() + PATIENCE;
    while user.client.current_dc() != home {
        user.step().await?;
        if Instant::now() > deadline {
            return Err(Failure::Violation(format!("the client has not returned to {home}")));
        }
    }
    user.go_on(args.operations).await?;
    user.tell("after the return");
    user.settle(playground).await
}

impl User {
    async fn go_on(&mut self, operations: u64) -> Result<(), Failure> {
        for _ in 0..operations {
            self.step().await?;
        }
        Ok(())
    }

    /// One write and one read.
    async fn step(&mut self) -> Result<(), Failure> {
        tokio::time::sleep(PACE).await;
        let started = Instant::now();
        match self.session.counter("visits").add(1).await {
            Ok(_) => {
                self.acknowledged += 1;
                self.own += 1;
            }
            Err(Error::OutcomeUnknown { dc, reason }) => {
                println!("   a write may have taken place in {dc}, and is not repeated elsewhere: {reason}");
                self.unknown += 1;
            }
            Err(error) => self.refused(error)?,
        }
        match self.session.counter("visits").value().await {
            Ok(visits) if *visits < self.own => {
                let (read, own) = (*visits, self.own);
                return Err(Failure::Violation(format!("the session wrote {own}, but reads {read}")));
            }
            Ok(visits) => self.own = *visits,
            Err(error) => self.refused(error)?,
        }
        self.longest = self.longest.max(started.elapsed());
        Ok(())
    }

    /// What could not be done and changed nothing.
    fn refused(&mut self, error: Error) -> Result<(), Failure> {
        self.refused += 1;
        match error {
            Error::NotCaughtUp { .. } => {
                println!("   the session's guarantees cannot be kept: {error}");
                println!("   it goes on as a new session and joins the old one later");
                self.left.push(self.session.token());
                self.session = self.client.session().wait(WAIT);
                self.own = 0;
                Ok(())
            }
            Error::Unavailable { .. } => Ok(()),
            other => Err(other.into()),
        }
    }

    fn tell(&mut self, when: &str) {
        println!(
            "{when}: at {}; {} acknowledged, {} unknown, {} refused; longest step {} ms",
            self.client.current_dc(),
            self.acknowledged,
            self.unknown,
            self.refused,
            self.longest.as_millis()
        );
        self.longest = Duration::ZERO;
    }

    /// With all tokens joined, every DC reads every acknowledged write, and no unknown one more than once.
    async fn settle(&self, playground: &Playground) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        for (at, dc) in playground.dcs().iter().enumerate() {
            let client = playground.client(at).connect().await?;
            let session = client.resume(&self.session.token())?;
            for token in &self.left {
                session.join(token)?;
            }
            let visits = loop {
                match session.counter("visits").value().await {
                    Ok(visits) => break *visits,
                    Err(Error::NotCaughtUp { .. }) if Instant::now() < deadline => {}
                    Err(error) => return Err(error.into()),
                }
            };
            let most = self.acknowledged + self.unknown;
            println!("{dc} reads {visits}: {} acknowledged, {} unknown", self.acknowledged, self.unknown);
            if !(self.acknowledged..=most).contains(&visits) {
                return Err(Failure::Violation(format!(
                    "{dc} reads {visits}, not {}..{most}",
                    self.acknowledged
                )));
            }
        }
        println!("nothing acknowledged was lost, nothing was done twice, no session read less than it wrote");
        Ok(())
    }
}
