//! A token handed over: what one device wrote in its DC, the other device reads in its own DC, at once and every time.
//!
//! The phone writes in the first DC. The laptop is nearest to the second one, which gets the write a WAN delay later. With
//! the phone's token its read waits for exactly what the phone has seen; without it, it reads what is there.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use meridian_examples::playground::{self, Failure, Playground, Where};

/// Hands a session's token from one device to another, over and over.
#[derive(Debug, Parser)]
struct Args {
    /// How many times the token is handed over
    #[arg(long, default_value_t = 50)]
    rounds: i64,
    #[command(flatten)]
    place: Where,
}

fn main() -> ExitCode {
    playground::main(|args: &Args| &args.place, run)
}

async fn run(playground: &Playground, args: &Args) -> Result<(), Failure> {
    let phone = playground.client(0).connect().await?;
    let laptop = playground.client(1).connect().await?;
    println!("the phone is at {}, the laptop at {}", phone.current_dc(), laptop.current_dc());
    let (mut stale, mut waited_ms) = (0, 0);
    for round in 1..=args.rounds {
        phone.register("draft").set(round).await?;
        // What a device without the token sees now; it may be an older draft.
        let without = laptop.session().eventual().register("draft").get::<i64>().await?;
        stale += i64::from(*without != Some(round));

        let token = phone.token();
        let started = Instant::now();
        let handed = laptop.resume(&token)?;
        let seen = handed.register("draft").get::<i64>().await?.into_inner();
        waited_ms += started.elapsed().as_millis();
        if seen != Some(round) {
            return Err(Failure::Violation(format!("draft {round} was written, but read as {seen:?}")));
        }

        // And back: the laptop's answer is read by the phone.
        handed.counter("edits").add(1).await?;
        phone.join(&handed.token())?;
        let edits = *phone.counter("edits").value().await?;
        if edits < round {
            return Err(Failure::Violation(format!("{round} edits were made, but {edits} are read")));
        }
    }
    let rounds = args.rounds.max(1);
    println!("{} times there and back, in {} bytes of token", args.rounds, phone.token().len());
    println!(
        "with the token:    0 stale reads; each waited {} ms on average",
        waited_ms / u128::try_from(rounds).unwrap_or(1)
    );
    println!("without the token: {stale} stale reads, none of which waited");
    Ok(())
}
