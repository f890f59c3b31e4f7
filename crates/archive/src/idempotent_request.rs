//! Requests that a program may repeat: the answer to the first one is kept, so that a repetition gets
//! it again and changes nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Db, DbError, Tx, sql};
use crate::clock::Time;

/// Prefix of their keys in table `meta`.
const KEY_PREFIX: &str = "idempotent:";
/// How long an answer is kept.
const ANSWER_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How long a request without an answer counts as being carried out. Then its process has ended.
const MAX_DURATION: Duration = Duration::from_secs(600);

/// What is known of a request with this key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdempotentRequest {
    /// Nothing: the caller carries it out, and then calls [`Db::finish_idempotent`] or
    /// [`Db::abandon_idempotent`].
    New,
    /// It is being carried out.
    InProgress,
    /// It was carried out, with this answer.
    Done(IdempotentAnswer),
    /// The key was used for another request.
    OtherRequest,
}

/// The kept answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotentAnswer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    request: String,
    answer: Option<IdempotentAnswer>,
}

/// A time as text that sorts in order of time.
fn sortable_time(at: Time) -> String {
    format!("{:020}", at.0.max(0))
}

impl Tx {
    async fn put_idempotent(&mut self, key: &str, entry: &Entry, until: Time) -> Result<(), DbError> {
        // A struct of texts always serialises.
        let json = serde_json::to_string(entry).unwrap_or_default();
        self.put_meta(&format!("{KEY_PREFIX}{key}"), &format!("{} {json}", sortable_time(until))).await
    }
}

impl Db {
    /// Begins a request, given by a digest of its key and its caller; `request` is a digest of its
    /// content. Deletes expired answers.
    pub async fn begin_idempotent(&self, key: &str, request: &str, now: Time) -> Result<IdempotentRequest, DbError> {
        let mut tx = self.begin().await?;
        tx.advisory_lock(KEY_PREFIX).await?;
        let delete_expired = sql("delete from meta where key >= 'idempotent:' and key < 'idempotent;' and value < $1");
        tx.run(delete_expired.bind(sortable_time(now))).await?;
        let held = tx.meta(&format!("{KEY_PREFIX}{key}")).await?;
        let held = held.and_then(|held| serde_json::from_str::<Entry>(held.split_once(' ')?.1).ok());
        let known = match held {
            None => {
                let entry = Entry { request: request.to_owned(), answer: None };
                tx.put_idempotent(key, &entry, now + MAX_DURATION).await?;
                IdempotentRequest::New
            }
            Some(entry) if entry.request != request => IdempotentRequest::OtherRequest,
            Some(Entry { answer: Some(answer), .. }) => IdempotentRequest::Done(answer),
            Some(_) => IdempotentRequest::InProgress,
        };
        tx.commit().await?;
        Ok(known)
    }

    /// Keeps the answer of a request that was begun.
    pub async fn finish_idempotent(
        &self,
        key: &str,
        request: &str,
        answer: IdempotentAnswer,
        now: Time,
    ) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        let entry = Entry { request: request.to_owned(), answer: Some(answer) };
        tx.put_idempotent(key, &entry, now + ANSWER_LIFETIME).await?;
        tx.commit().await
    }

    /// Forgets a request that was begun and changed nothing.
    pub async fn abandon_idempotent(&self, key: &str) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.delete_meta(&format!("{KEY_PREFIX}{key}")).await?;
        tx.commit().await
    }
}
