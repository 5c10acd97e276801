//! Who may read and write which space: access tokens that stand in the configuration of each node.
//!
//! A space without tokens is open to whoever reaches the client port; a space with tokens is open to those who show
//! one. Tokens are kept as hashes from the moment they are read, and compared in constant time, all of a space each
//! time, so that neither a dump nor a clock tells anything of them. It is pure; how a token arrives is the business of
//! each interface.

use std::collections::BTreeMap;

use meridian_client::wire::{ApiError, ErrorCode};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What somebody may do in a space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// Read, list, explain, watch; see a document and be present in it.
    Read,
    /// All of that, and write.
    Write,
}

/// A token, of which only the hash is known.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a token.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl std::fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenHash(..)")
    }
}

/// The tokens of one space.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpaceTokens {
    /// Those that let their bearers read.
    pub read: Vec<TokenHash>,
    /// Those that let their bearers read and write.
    pub write: Vec<TokenHash>,
}

impl SpaceTokens {
    /// What a token allows here. All are compared, whatever the first comparisons say.
    fn right(&self, token: &TokenHash) -> Option<Right> {
        let knows = |tokens: &[TokenHash]| tokens.iter().fold(false, |known, one| known | one.is(token));
        let (reads, writes) = (knows(&self.read), knows(&self.write));
        if writes { Some(Right::Write) } else { reads.then_some(Right::Read) }
    }
}

/// The spaces that not everybody may enter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// By name. A space that is not here is open.
    pub spaces: BTreeMap<String, SpaceTokens>,
}

/// The tokens that somebody has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown(Vec<TokenHash>);

impl Shown {
    /// Tokens as they came.
    pub fn of<'t>(tokens: impl IntoIterator<Item = &'t str>) -> Self {
        Self(tokens.into_iter().map(TokenHash::of).collect())
    }
}

impl Access {
    /// Whether everybody may do everything in a space.
    pub fn is_open(&self, space: &str) -> bool {
        !self.spaces.contains_key(space)
    }

    /// What who shows these tokens may do in a space.
    ///
    /// # Errors
    /// [`ErrorCode::Unauthorized`] if a token is needed and none that any space knows was shown;
    /// [`ErrorCode::Forbidden`] if those that were are of other spaces.
    pub fn right(&self, space: &str, shown: &Shown) -> Result<Right, ApiError> {
        let Some(tokens) = self.spaces.get(space) else { return Ok(Right::Write) };
        if let Some(right) = shown.0.iter().filter_map(|token| tokens.right(token)).max() {
            return Ok(right);
        }
        let known = |token| self.spaces.values().fold(false, |known, one| known | one.right(token).is_some());
        if shown.0.iter().any(known) {
            let message = format!("the access token is not for the space {space:?}");
            return Err(ApiError::new(ErrorCode::Forbidden, message));
        }
        let message = match shown.0.is_empty() {
            true => format!("the space {space:?} takes only who shows an access token"),
            false => format!("the space {space:?} does not know the access token"),
        };
        Err(ApiError::new(ErrorCode::Unauthorized, message))
    }

    /// Whether who shows these tokens may do this in a space.
    ///
    /// # Errors
    /// As [`Access::right`], and [`ErrorCode::Forbidden`] if they let nobody write who wants to.
    pub fn check(&self, space: &str, shown: &Shown, wanted: Right) -> Result<(), ApiError> {
        if self.right(space, shown)? < wanted {
            let message = format!("the access token lets its bearer read the space {space:?}, not write");
            return Err(ApiError::new(ErrorCode::Forbidden, message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access() -> Access {
        let space = |read: &[&str], write: &[&str]| SpaceTokens {
            read: read.iter().map(|token| TokenHash::of(token)).collect(),
            write: write.iter().map(|token| TokenHash::of(token)).collect(),
        };
        let spaces = [
            ("shop".to_owned(), space(&["look", "gaze"], &["touch"])),
            ("bank".to_owned(), space(&[], &["vault"])),
        ];
        Access { spaces: spaces.into() }
    }

    fn right(space: &str, shown: &[&str]) -> Result<Right, ErrorCode> {
        access().right(space, &Shown::of(shown.iter().copied())).map_err(|e| e.code)
    }

    #[test]
    fn each_token_opens_its_space_as_far_as_it_goes() {
        for token in ["look", "gaze"] {
            assert_eq!(right("shop", &[token]), Ok(Right::Read));
        }
        assert_eq!(right("shop", &["touch"]), Ok(Right::Write));
        assert_eq!(right("shop", &["look", "nonsense", "touch"]), Ok(Right::Write), "the best one counts");
        assert_eq!(right("shop", &["vault", "gaze"]), Ok(Right::Read));
        let writes = |token| access().check("shop", &Shown::of([token]), Right::Write).map_err(|e| e.code);
        assert_eq!((writes("touch"), writes("look")), (Ok(()), Err(ErrorCode::Forbidden)));
        assert_eq!(access().check("shop", &Shown::of(["look"]), Right::Read), Ok(()));
    }

    #[test]
    fn who_shows_nothing_or_something_else_is_told_which() {
        for shown in [&[][..], &["nonsense"], &[""], &["touc"], &["touchh"]] {
            assert_eq!(right("shop", shown), Err(ErrorCode::Unauthorized), "{shown:?}");
        }
        assert_eq!(right("shop", &["vault"]), Err(ErrorCode::Forbidden), "of another space");
        for shown in [&[][..], &["nonsense"], &["look"]] {
            assert_eq!(right("elsewhere", shown), Ok(Right::Write), "a space without tokens is open");
        }
    }

    #[test]
    fn nothing_shows_a_token() {
        let told = access().right("shop", &Shown::of(["s3cret-of-nobody"])).expect_err("unknown").to_string();
        assert!(!told.contains("s3cret"), "{told}");
        let shown = format!("{:?} {:?}", access(), Shown::of(["look"]));
        assert!(!shown.contains("look") && !shown.contains("touch"), "{shown}");
    }
}
