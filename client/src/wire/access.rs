//! Access tokens: what a client shows to be let into a space that not everybody may enter.
//!
//! They are secrets and have nothing to do with session tokens. A token never shows itself: not in logs, not while
//! debugging, not in errors.

use std::str::FromStr;

use super::error::{ApiError, ErrorCode};

/// Bytes of one token.
pub const ACCESS_TOKEN_BYTES_MAX: usize = 512;
/// Tokens that one connection of the native protocol may show.
pub const ACCESS_TOKENS_MAX: usize = 16;

/// An access token: 1 to 512 of `A-Z a-z 0-9 - . _ ~ + / =`, which is what the header `Authorization: Bearer` takes.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessToken(String);

impl AccessToken {
    /// A token of this text.
    ///
    /// # Errors
    /// [`ErrorCode::BadValue`] if it is no token; the text is not repeated.
    pub fn new(text: impl Into<String>) -> Result<Self, ApiError> {
        let text = text.into();
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
        if text.is_empty() || text.len() > ACCESS_TOKEN_BYTES_MAX || !text.bytes().all(is_allowed) {
            let message = format!(
                "an access token is 1 to {ACCESS_TOKEN_BYTES_MAX} of A-Z, a-z, 0-9, -, ., _, ~, +, / and ="
            );
            return Err(ApiError::new(ErrorCode::BadValue, message));
        }
        Ok(Self(text))
    }

    /// The secret itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of the header `Authorization` that shows it.
    pub fn to_header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl std::fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccessToken(..)")
    }
}

impl FromStr for AccessToken {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        AccessToken::new(text).map_err(|e| e.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_the_header_takes_and_never_shows_itself() {
        let token = AccessToken::new("s3cret-._~+/=").expect("a token");
        assert_eq!((token.as_str(), token.to_header().as_str()), ("s3cret-._~+/=", "Bearer s3cret-._~+/="));
        assert!(!format!("{token:?}").contains("s3cret"));
        for bad in ["", "two words", "a,b", "é", "a\n", &"x".repeat(ACCESS_TOKEN_BYTES_MAX + 1)] {
            let error = AccessToken::new(bad).expect_err("no token");
            assert_eq!(error.code, ErrorCode::BadValue);
            assert!(bad.is_empty() || !error.message.contains(bad), "{}", error.message);
        }
    }
}
