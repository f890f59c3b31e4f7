//! Sessions of the pages that were ended before their time: remembered for every replica, and across restarts.

use super::{Db, DbError, sql};
use crate::clock::Time;

/// Where they are in `meta`; each until it would have ended by itself.
const PREFIX: &str = "ended_session:";

impl Db {
    /// Ends a session, named by its digest, that would last until `until`. Forgets those that are over by now.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn end_session(&self, digest: &str, until: Time, now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let forget = sql("delete from meta where key >= 'ended_session:' and key < 'ended_session;' and value < $1");
        tx.run(forget.bind(stamp(now))).await?;
        let stmt =
            sql("insert into meta (key, value) values ($1, $2) on conflict (key) do update set value = excluded.value");
        tx.run(stmt.bind(format!("{PREFIX}{digest}")).bind(stamp(until))).await?;
        tx.commit().await
    }

    /// Whether a session was ended before its time.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn is_session_ended(&self, digest: &str) -> Result<bool, DbError> {
        let held = self.first(sql("select value from meta where key = $1").bind(format!("{PREFIX}{digest}"))).await?;
        Ok(held.is_some())
    }
}

/// A moment as text that sorts as the moment does.
fn stamp(at: Time) -> String {
    format!("{:020}", at.0.max(0))
}
