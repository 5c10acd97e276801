//! The handle of a key of whatever type.

use meridian_crdt::{Mutation, Query};

use super::{At, Source, mutations};
use crate::net::error::Error;
use crate::net::read::Content;

/// A key of whatever type.
#[derive(Clone)]
pub struct Raw<S> {
    pub(crate) at: At<S>,
}

mutations!(Raw {
    /// Does any mutation.
    mutate(mutation: Mutation) => mutation;
});

impl<S: Source> Raw<S> {
    /// Reads one page, or asks for an element; none if the key is absent.
    ///
    /// # Errors
    /// As for every request.
    pub async fn read(&self, query: Query) -> Result<Option<Content>, Error> {
        self.at.source.read_page(self.at.key()?, query).await
    }
}
