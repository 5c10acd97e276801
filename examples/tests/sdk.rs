//! The examples of the SDK as their users run them, at a small size.

use std::process::Command;

fn run(binary: &str, args: &[&str]) -> String {
    let output = Command::new(binary).args(args).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    let (told, wrong) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(0), "{told}\n{wrong}");
    told
}

#[test]
fn a_token_that_is_handed_over_reads_its_writes() {
    let told = run(env!("CARGO_BIN_EXE_two_devices"), &["--rounds", "10", "--dcs", "2", "--nodes", "1"]);
    assert!(told.contains("with the token:    0 stale reads"), "{told}");
}

#[test]
fn the_bank_loses_no_money() {
    let args = ["--transactions", "200", "--clients", "8", "--dcs", "2", "--nodes", "1"];
    let told = run(env!("CARGO_BIN_EXE_bank"), &args);
    assert!(told.ends_with("no money was lost or made\n"), "{told}");
    let told = run(env!("CARGO_BIN_EXE_bank"), &[&args[..], &["--spread"]].concat());
    assert!(told.ends_with("no money was lost or made\n"), "{told}");
}

#[test]
fn work_goes_on_through_the_loss_and_the_return_of_a_datacenter() {
    let args = ["--operations", "40", "--dcs", "2", "--nodes", "1"];
    let told = run(env!("CARGO_BIN_EXE_failover"), &args);
    assert!(told.contains("nothing acknowledged was lost"), "{told}");
}

#[test]
fn two_carts_become_one() {
    let told = run(env!("CARGO_BIN_EXE_cart"), &["--dcs", "2", "--nodes", "1"]);
    assert!(told.contains("paid once"), "{told}");
}

#[test]
fn a_watch_goes_on_after_its_datacenter_was_lost() {
    let told = run(env!("CARGO_BIN_EXE_watch"), &["--orders", "20", "--nodes", "1"]);
    assert!(told.contains("each order once"), "{told}");
}
