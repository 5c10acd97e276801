//! The one table of errors: what each is called, its HTTP status and what the caller should do.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

/// Declares the codes once: name on the wire, HTTP status, meaning.
macro_rules! error_codes {
    ($($variant:ident $name:literal $status:literal $doc:literal;)*) => {
        /// What went wrong. 4xx: do not repeat the request as it is. 429 and 5xx: repeat it with the same request id.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $(#[doc = $doc] #[serde(rename = $name)] $variant,)*
        }

        impl ErrorCode {
            /// Every code, in the order of the table.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The code's name on the wire.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $name,)* }
            }

            /// The HTTP status that carries it.
            pub const fn status(self) -> u16 {
                match self { $(ErrorCode::$variant => $status,)* }
            }

            /// One sentence on what it means and whether state changed.
            pub const fn meaning(self) -> &'static str {
                match self { $(ErrorCode::$variant => $doc,)* }
            }
        }
    };
}

error_codes! {
    BadJson "bad_json" 400 "The body is not JSON, or not UTF-8. Nothing changed.";
    BadMsgpack "bad_msgpack" 400 "The frame is not MessagePack of the kinds that are taken. Nothing changed.";
    UnknownType "unknown_type" 400 "No such type. Nothing changed.";
    UnknownOp "unknown_op" 400 "The type has no such operation. Nothing changed.";
    UnknownField "unknown_field" 400 "The request has a field that means nothing here. Nothing changed.";
    BadValue "bad_value" 400 "A field or a value is missing or cannot be kept. Nothing changed.";
    BadKey "bad_key" 400 "The space or the key is empty, too long or has characters that are not allowed. Nothing changed.";
    BadHeader "bad_header" 400 "A Meridian header or a query parameter has a value that means nothing. Nothing changed.";
    BadToken "bad_token" 400 "The session token is garbage or of an unknown version. Nothing changed.";
    ForeignToken "foreign_token" 400 "The session token comes from another cluster or names a life of a datacenter that this cluster does not have. Nothing changed.";
    Overflow "overflow" 400 "A counter would leave the range of 64 bits. Nothing changed.";
    Unauthorized "unauthorized" 401 "The space takes only who shows an access token, and none that it knows was shown. Nothing changed.";
    Forbidden "forbidden" 403 "The access token is not for this space, or lets nobody write. Nothing changed.";
    NotFound "not_found" 404 "The key has no value.";
    NoSuchRoute "no_such_route" 404 "No such path.";
    MethodNotAllowed "method_not_allowed" 405 "The path does not take this method.";
    WrongType "wrong_type" 409 "The key holds a value of another type. Nothing changed.";
    PreconditionFailed "precondition_failed" 409 "At least one precondition does not hold. Nothing changed.";
    Conflict "conflict" 409 "The transaction read what another one has changed since. Nothing changed; run it again.";
    RequestIdReused "request_id_reused" 409 "The request id was used for another request. Nothing changed.";
    CursorExpired "cursor_expired" 410 "The oplog no longer reaches back to the cursor. Start again from a listing.";
    TooLarge "too_large" 413 "A key, value, transaction or body is above its limit. Nothing changed.";
    Overloaded "overloaded" 429 "The node has as many requests waiting as it takes. Nothing changed; repeat later.";
    NotCaughtUp "not_caught_up" 503 "This datacenter has not yet applied what the session depends on. Nothing changed; wait or go elsewhere.";
    NoQuorum "no_quorum" 503 "A majority of this datacenter's nodes cannot be reached. Nothing changed; repeat later or in another datacenter.";
    NoLeader "no_leader" 503 "This datacenter has no leader at the moment. Nothing changed; repeat soon.";
    ClockUnsafe "clock_unsafe" 503 "The clock of this node is too far off to stamp writes. Nothing changed; repeat at another node.";
    StorageFull "storage_full" 503 "The disk is down to its headroom. Nothing changed; reads go on.";
    ShuttingDown "shutting_down" 503 "The node is stopping. Nothing changed; repeat at another node.";
    Internal "internal" 500 "The node met a fault of its own. It logs the cause; whether state changed is unknown for mutations.";
    CommitTimeout "commit_timeout" 504 "The write is kept in this datacenter, but the others have not confirmed it in time.";
    OutcomeUnknown "outcome_unknown" 504 "Whether the write took place is not known. Repeat it in this datacenter with the same request id.";
}

impl ErrorCode {
    /// The code of that name.
    pub fn from_name(name: &str) -> Option<ErrorCode> {
        ErrorCode::ALL.iter().copied().find(|code| code.as_str() == name)
    }

    /// Whether the same request, with the same request id, may succeed when repeated.
    pub const fn is_retryable(self) -> bool {
        self.status() == 429 || self.status() >= 500
    }
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error as every interface answers it: `{"error":{"code":..,"message":..,"retry_after_ms":..,...}}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ApiError {
    /// What went wrong, for programs.
    pub code: ErrorCode,
    /// What went wrong and what to do, for people.
    pub message: String,
    /// When repeating makes sense, in milliseconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// Particulars of the code: the failed indexes, the lagging origin and so on.
    #[serde(flatten)]
    pub details: Map<String, Json>,
}

impl ApiError {
    /// An error without particulars.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry_after_ms: None, details: Map::new() }
    }

    /// Adds one particular.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Json>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// Says when repeating makes sense.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// The body that carries it.
    pub fn to_json(&self) -> Json {
        serde_json::json!({ "error": self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_name() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::from_name(code.as_str()), Some(*code));
        }
    }

    #[test]
    fn the_body_has_the_documented_shape() {
        let error =
            ApiError::new(ErrorCode::NotCaughtUp, "behind").with("origin", "us-east").retry_after_ms(120);
        let json = error.to_json();
        assert_eq!(
            json.to_string(),
            r#"{"error":{"code":"not_caught_up","message":"behind","origin":"us-east","retry_after_ms":120}}"#
        );
        let back: ApiError = serde_json::from_value(json["error"].clone()).expect("own shape");
        assert_eq!(back, error);
    }
}
