//! Revoked sessions of the web pages, and the secret that encrypts sessions. They are stored, so
//! that all replicas know them, also after a restart.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;

use super::{Db, DbError, sql};
use crate::clock::Time;

/// Prefix of their keys in table `meta`. The value is when the session would have expired.
const KEY_PREFIX: &str = "ended_session:";

/// Key of the secret in table `meta`.
const SECRET_KEY: &str = "session.key";

impl Db {
    /// The secret that encrypts sessions. It is created at its first use.
    pub async fn session_secret(&self) -> Result<Vec<u8>, DbError> {
        if let Some(text) = self.meta(SECRET_KEY).await? {
            return decode_secret(&text);
        }
        let mut tx = self.begin().await?;
        let new = STANDARD.encode(rand::rng().random::<[u8; 32]>());
        // Another replica may have been faster: its secret counts.
        let insert = sql("insert into meta (key, value) values ($1, $2) on conflict (key) do nothing");
        tx.run(insert.bind(SECRET_KEY).bind(&new)).await?;
        let stored = tx.meta(SECRET_KEY).await?.unwrap_or(new);
        tx.commit().await?;
        decode_secret(&stored)
    }

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

fn decode_secret(text: &str) -> Result<Vec<u8>, DbError> {
    let hint = "delete the row `session.key` of the table meta: a new secret is created, and all sessions end";
    STANDARD.decode(text).map_err(|_| DbError::broken("failed to read the secret of the sessions: it is damaged", hint))
}
