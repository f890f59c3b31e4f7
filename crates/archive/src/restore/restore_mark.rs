//! The mark of the last restore. A restored archive gives numbers of the feeds again, so a position in a
//! feed holds only for the mark under which it was given.

use super::super::{Db, DbError, Tx};
use crate::clock::Time;

const KEY: &str = "restored";

impl Db {
    /// Differs after each restore; `None` in an archive that was never restored.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn restore_mark(&self) -> Result<Option<String>, DbError> {
        self.meta(KEY).await
    }
}

impl Tx {
    pub(super) async fn put_restore_mark(&mut self, export_number: i64, now: Time) -> Result<(), DbError> {
        self.put_meta(KEY, &format!("{export_number} {}", now.0)).await
    }
}
