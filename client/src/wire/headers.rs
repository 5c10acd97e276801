//! The `Meridian-*` headers: names, forms and bounds. Unknown values are errors, never ignored.

use std::time::Duration;

use super::error::{ApiError, ErrorCode};

/// Carries the session token, in both directions.
pub const SESSION: &str = "meridian-session";
/// Chooses a [`Consistency`].
pub const CONSISTENCY: &str = "meridian-consistency";
/// How long a request may wait for what it depends on.
pub const WAIT: &str = "meridian-wait";
/// Chooses a [`Commit`].
pub const COMMIT: &str = "meridian-commit";
/// Names a mutation, so that repeating it in the same datacenter does nothing new.
pub const REQUEST_ID: &str = "meridian-request-id";
/// How far each other origin is behind, on every answer about data.
pub const STALENESS: &str = "meridian-staleness";

/// The longest request id, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 64;
/// The wait of a request that names none.
pub const WAIT_DEFAULT: Duration = Duration::from_secs(2);
/// The longest wait that may be asked for.
pub const WAIT_MAX: Duration = Duration::from_secs(30);

/// What a read may return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// What this node has now.
    Eventual,
    /// At least what the session token depends on.
    #[default]
    Session,
    /// At least everything acknowledged in this datacenter before the read began, and what the token depends on.
    Linearizable,
}

impl Consistency {
    /// The name on the wire, which [`consistency`] reads.
    pub const fn as_str(self) -> &'static str {
        match self {
            Consistency::Eventual => "eventual",
            Consistency::Session => "session",
            Consistency::Linearizable => "linearizable",
        }
    }
}

/// When a write is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Commit {
    /// When a majority of this datacenter has it.
    #[default]
    Local,
    /// When so many datacenters, this one included, have it.
    Dcs(usize),
    /// When every datacenter has it.
    All,
}

impl Commit {
    /// The form on the wire, which [`commit`] reads.
    pub fn to_text(self) -> String {
        match self {
            Commit::Local => "local".into(),
            Commit::Dcs(count) => format!("dcs:{count}"),
            Commit::All => "all".into(),
        }
    }
}

fn bad(name: &str, value: &str, valid: &str) -> ApiError {
    let shown: String = value.chars().take(80).collect();
    ApiError::new(ErrorCode::BadHeader, format!("{name}: {shown:?} means nothing; valid is {valid}"))
}

/// Reads a [`Consistency`].
pub fn consistency(value: &str) -> Result<Consistency, ApiError> {
    match value {
        "eventual" => Ok(Consistency::Eventual),
        "session" => Ok(Consistency::Session),
        "linearizable" => Ok(Consistency::Linearizable),
        _ => Err(bad(CONSISTENCY, value, "eventual, session or linearizable")),
    }
}

/// Reads a [`Commit`].
pub fn commit(value: &str) -> Result<Commit, ApiError> {
    let number = value.strip_prefix("dcs:").and_then(|n| n.parse().ok()).filter(|n| *n >= 1);
    match (value, number) {
        ("local", _) => Ok(Commit::Local),
        ("all", _) => Ok(Commit::All),
        (_, Some(n)) => Ok(Commit::Dcs(n)),
        _ => Err(bad(COMMIT, value, "local, dcs:N or all")),
    }
}

/// Reads a wait: a whole number of `ms` or `s`, at most [`WAIT_MAX`].
pub fn wait(value: &str) -> Result<Duration, ApiError> {
    let parsed = if let Some(ms) = value.strip_suffix("ms") {
        ms.parse().ok().map(Duration::from_millis)
    } else {
        value.strip_suffix('s').and_then(|s| s.parse().ok()).map(Duration::from_secs)
    };
    parsed
        .filter(|wait| *wait <= WAIT_MAX && value.bytes().all(|b| b.is_ascii_alphanumeric()))
        .ok_or_else(|| bad(WAIT, value, "a number of ms or s up to 30s, as in 250ms"))
}

/// Checks a request id.
pub fn request_id(value: &str) -> Result<(), ApiError> {
    if value.is_empty() || value.len() > REQUEST_ID_BYTES_MAX {
        return Err(bad(REQUEST_ID, value, "1 to 64 bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_bounded_and_strict() {
        assert_eq!(wait("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(wait("0ms"), Ok(Duration::ZERO));
        assert_eq!(wait("30s"), Ok(WAIT_MAX));
        for value in ["31s", "250", "", "ms", "-1ms", "+1ms", "1.5s", "1m"] {
            assert_eq!(wait(value).expect_err(value).code, ErrorCode::BadHeader);
        }
    }

    #[test]
    fn levels_are_read_strictly() {
        assert_eq!(commit("dcs:2"), Ok(Commit::Dcs(2)));
        assert!(commit("dcs:0").is_err() && commit("dcs:").is_err() && commit("ALL").is_err());
        assert!(consistency("strong").is_err());
        assert!(request_id("").is_err() && request_id(&"x".repeat(65)).is_err());
    }
}
