//! A shopping cart that two devices change in two DCs at once, also while these do not hear of each other.
//!
//! The items are a set: what one device adds while the other removes it, stays. The quantities are counters in a map:
//! additions from both sides sum up. The checkout is a transaction with a condition, so that a cart is paid once per DC.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use meridian_client::{Client, Condition, Error, ErrorCode, FromValue, Value};
use meridian_examples::playground::{self, Failure, Playground, Where};

/// How long the DCs may take to hear of each other.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long one read waits for that.
const WAIT: Duration = Duration::from_secs(5);

/// Changes a cart in two DCs that are cut off from each other.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    place: Where,
}

fn main() -> ExitCode {
    playground::main(|args: &Args| &args.place, run)
}

async fn run(playground: &Playground, _: &Args) -> Result<(), Failure> {
    let cluster = playground.cluster()?;
    let dcs = playground.dcs();
    let phone = playground.client(0).connect().await?;
    let laptop = playground.client(1).connect().await?;

    phone.set("cart").add_all(["apple", "bread"]).await?;
    phone.map("cart:count").counter("apple").add(1).await?;
    laptop.join(&phone.token())?;
    println!("both see {:?}", items(&laptop).await?);

    for other in &dcs[1..] {
        cluster.cut(dcs[0], other)?;
    }
    println!("-- {} is cut off from the others", dcs[0]);
    phone.set("cart").remove("apple").await?;
    phone.set("cart").add("cheese").await?;
    laptop.set("cart").add("apple").await?;
    laptop.map("cart:count").counter("apple").add(2).await?;
    phone.map("cart:count").counter("apple").add(4).await?;
    println!("the phone removed the apple and added cheese: {:?}", items(&phone).await?);
    println!("the laptop added the apple once more:         {:?}", items(&laptop).await?);

    cluster.heal(None)?;
    println!("-- healed");
    // Each takes over what the other one has seen; reads then wait until that is there.
    let (from_phone, from_laptop) = (phone.token(), laptop.token());
    phone.join(&from_laptop)?;
    laptop.join(&from_phone)?;
    for (name, client) in [("phone", &phone), ("laptop", &laptop)] {
        let items = items(client).await?;
        let apples = *client.wait(WAIT).map("cart:count").counter("apple").value().await?;
        println!("the {name} sees {items:?}, {apples} apples");
        if items != ["apple", "bread", "cheese"] || apples != 7 {
            return Err(Failure::Violation(format!("the {name} does not see the merged cart")));
        }
    }
    pay_once(&phone).await
}

/// What is in the cart, once the client's DC has what the session depends on.
async fn items(client: &Client) -> Result<Vec<String>, Failure> {
    let deadline = Instant::now() + PATIENCE;
    let values = loop {
        match client.wait(WAIT).set("cart").elements().all().await {
            Err(Error::NotCaughtUp { .. }) if Instant::now() < deadline => {}
            values => break values?,
        }
    };
    let text = |value: Value| {
        let value = String::from_value(value);
        value.map_err(|value| Failure::Setup(format!("{value:?} is no item")))
    };
    values.into_iter().map(text).collect()
}

async fn pay_once(client: &Client) -> Result<(), Failure> {
    let pay = || {
        client.txn().require("cart:paid", Condition::Absent).set("cart:paid", true).delete("cart").commit()
    };
    pay().await?;
    match pay().await {
        Err(error) if error.code() == Some(ErrorCode::PreconditionFailed) => {
            println!("paid once; the second attempt was refused: {error}");
        }
        other => return Err(Failure::Violation(format!("the cart was paid twice: {other:?}"))),
    }
    if client.set("cart").size().await? != 0 {
        return Err(Failure::Violation("the cart is not empty after the checkout".into()));
    }
    Ok(())
}
