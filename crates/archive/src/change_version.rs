//! The change version: a counter by which a command tells a running daemon that it changed
//! something.

use super::{Db, DbError, sql};

impl Db {
    /// Increments the change version.
    pub async fn bump_change_version(&self) -> Result<(), DbError> {
        self.run(sql("update bell set rings = rings + 1 where id = 1")).await.map(drop)
    }

    /// The current change version. A running daemon polls it.
    pub async fn change_version(&self) -> Result<i64, DbError> {
        Ok(self.value(sql("select rings from bell where id = 1")).await?.unwrap_or_default())
    }
}
