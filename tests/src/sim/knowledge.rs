//! What a session carries from request to request: its token, and the facts that it must therefore be shown.

use meridian_client::wire::{ErrorCode, Token};

use super::facts::Facts;
use super::request::CLUSTER;

/// A session forgets its token when it could not be served so many times.
const STUCK_MAX: u32 = 30;

/// The token of a session and what it stands for.
#[derive(Clone, Debug)]
pub struct Knowledge {
    /// The token.
    pub token: Token,
    /// What was written or shown under it.
    pub facts: Facts,
    stuck: u32,
}

impl Default for Knowledge {
    fn default() -> Knowledge {
        Knowledge { token: Token::new(CLUSTER), facts: Facts::default(), stuck: 0 }
    }
}

impl Knowledge {
    /// An answer brought the next token.
    pub fn take(&mut self, token: Token) {
        assert!(token.dots.covers_all(&self.token.dots), "a token forgets");
        self.token = token;
    }

    /// Another session hands over what it knows.
    pub fn learn(&mut self, token: &Token, facts: &Facts) {
        self.token.merge(token).unwrap_or_else(|e| panic!("tokens of one cluster merge: {e}"));
        self.facts.join(facts);
    }

    /// Begins anew without a token.
    pub fn forget(&mut self) {
        (self.token, self.facts) = (Token::new(CLUSTER), Facts::default());
    }

    /// It was served.
    pub fn is_served(&mut self) {
        self.stuck = 0;
    }

    /// It was not served. Says whether it has given its token up, after too many times for the token's sake.
    pub fn is_not_served(&mut self, code: ErrorCode) -> bool {
        self.stuck += u32::from(is_for_the_token(code));
        let gives_up = self.stuck > STUCK_MAX;
        if gives_up {
            self.forget();
            self.stuck = 0;
        }
        gives_up
    }
}

/// Whether a node refuses because of what the session depends on.
pub fn is_for_the_token(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::NotCaughtUp | ErrorCode::ForeignToken)
}
