//! The full-text index: what is indexed, how far, and what matches.

use super::{Db, DbError, Tx};

impl Tx {
    /// Takes these items out of the index.
    pub(super) async fn unindex(&mut self, _items: &[i64]) -> Result<(), DbError> {
        Ok(())
    }
}

impl Db {
    /// Has the index forget for good what was taken out of it.
    pub(super) async fn purge_index(&self) -> Result<(), DbError> {
        Ok(())
    }
}
