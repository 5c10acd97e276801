//! What a key's header alone tells: enough to answer a write without reading the value.

use crate::cells::ReadCells;
use crate::error::StoreError;
use crate::header::Version;
use crate::keys::Key;
use crate::types::Type;
use crate::vector::Vector;
use crate::view::KeyView;

/// A key at a glance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// The type that it is shown as, if it exists.
    pub ty: Option<Type>,
    /// Its version; that of nothing if it is absent.
    pub version: Version,
    /// The dots that last touched it, also when it is absent; without those that were stable already.
    pub touched: Vector,
}

/// Looks at the header of `key`.
pub fn glance<C: ReadCells>(cells: &C, key: &Key) -> Result<Glance, StoreError<C::Error>> {
    let header = KeyView::open(cells, key)?.header;
    Ok(Glance { ty: header.shown(), version: Version(header.digest), touched: header.touched })
}
