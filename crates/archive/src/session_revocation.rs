//! Revoked sessions of the web pages. They are stored, so that all replicas know them, also after a
//! restart.

use super::{Db, DbError, sql};
use crate::clock::Time;

/// Prefix of their keys in table `meta`. The value is when the session would have expired.
const KEY_PREFIX: &str = "ended_session:";

impl Db {
    /// Revokes a session, given by its digest, that would expire at `until`. Deletes revocations of
    /// expired sessions.
    pub async fn revoke_session(&self, digest: &str, until: Time, now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let delete_expired =
            sql("delete from meta where key >= 'ended_session:' and key < 'ended_session;' and value < $1");
        tx.run(delete_expired.bind(sortable_time(now))).await?;
        tx.put_meta(&format!("{KEY_PREFIX}{digest}"), &sortable_time(until)).await?;
        tx.commit().await
    }

    /// Whether a session was revoked.
    pub async fn is_session_revoked(&self, digest: &str) -> Result<bool, DbError> {
        Ok(self.meta(&format!("{KEY_PREFIX}{digest}")).await?.is_some())
    }
}

/// A time as text that sorts in order of time.
fn sortable_time(at: Time) -> String {
    format!("{:020}", at.0.max(0))
}
