//! Queries for the segments and quarantined records that an erasure, a hold or retention concerns.

use std::collections::HashMap;

use super::super::sql::{LossyText, StateCode, utf8_lossy};
use super::super::{AccountKey, Db, DbError, Item, Stmt, item, sql};
use super::legal_hold::SELECT_NEWEST_HOLD;
use crate::clock::Time;
use crate::model::{Artifact, ItemState, Subject};

/// A segment by its ids.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct SegmentRef {
    /// Its key in the database.
    pub key: i64,
    /// Its account's key.
    pub account: AccountKey,
    /// Its account's sub-account id.
    pub sub: String,
    /// Its id in RingCX.
    pub segment_id: String,
    /// Its dialog's id.
    pub dialog_id: Option<String>,
    /// When it ended; [`Time::NONE`] where that is unknown.
    pub ended: Time,
}

/// All texts of a segment that may name its contact.
#[derive(Debug, Clone, Default)]
pub struct SegmentTexts {
    /// All versions of its metadata.
    pub metadata: Vec<String>,
    /// All versions of its transcript, and the beginning of an unusable answer that will not be
    /// requested again.
    pub transcripts: Vec<Vec<u8>>,
    /// The beginning of an unusable answer that will be requested again: an error page, or half a
    /// transcript.
    pub fragments: Vec<Vec<u8>>,
    /// Whether some of it is damaged and cannot be read.
    pub is_damaged: bool,
}

/// A quarantined metadata record.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct QuarantinedText {
    /// Its account's key.
    pub account: AccountKey,
    /// Digest of the record, its key within the account.
    pub digest: Vec<u8>,
    /// Its segment's id, where it could be read.
    pub segment_id: Option<String>,
    /// The record as received.
    #[sqlx(try_from = "LossyText")]
    pub raw: String,
}

/// The columns and tables of a [`SegmentRef`].
const SELECT_SEGMENT_REFS: &str = "select s.id as key, s.account, a.sub, s.segment_id, s.dialog_id, s.ended from segment s join account a on a.id = s.account";

/// The beginning of an unusable answer, which is stored with its work item.
#[derive(sqlx::FromRow)]
struct LastBody {
    item: Item,
    last_body: Vec<u8>,
    #[sqlx(try_from = "StateCode")]
    state: ItemState,
}

impl Db {
    /// The segments that a subject names by id; none for a contact.
    pub async fn segments_by_subject(
        &self,
        subject: &Subject,
        account: Option<AccountKey>,
    ) -> Result<Vec<SegmentRef>, DbError> {
        let (column, id) = match subject {
            Subject::Segment(id) => ("segment_id", id),
            Subject::Dialog(id) => ("dialog_id", id),
            Subject::Contact(_) => return Ok(Vec::new()),
        };
        let stmt = Stmt::built(format!(
            "{SELECT_SEGMENT_REFS} where s.{column} = $1 and ($2 = -1 or s.account = $2) order by s.id"
        ));
        self.all(stmt.bind(id).bind(account.unwrap_or(AccountKey::ALL))).await
    }

    /// The next page of all segments.
    pub async fn segment_page(
        &self,
        account: Option<AccountKey>,
        after: i64,
        limit: usize,
    ) -> Result<Vec<SegmentRef>, DbError> {
        let stmt = Stmt::built(format!(
            "{SELECT_SEGMENT_REFS} where s.id > $1 and ($2 = -1 or s.account = $2) order by s.id limit $3"
        ));
        self.all(stmt.bind(after).bind(account.unwrap_or(AccountKey::ALL)).bind(limit)).await
    }

    /// The next page of an account's segments that ended before `cutoff`, after the one with this
    /// end and key. A segment without an end time counts from when it was first seen.
    pub async fn segments_ended_before(
        &self,
        account: AccountKey,
        cutoff: Time,
        after: (Time, i64),
        limit: usize,
    ) -> Result<Vec<SegmentRef>, DbError> {
        let stmt = Stmt::built(format!(
            "{SELECT_SEGMENT_REFS} where s.account = $1 and s.ended < $2 and s.ended >= $3 and (s.ended, s.id) > ($3, $4)
             and (s.ended <> $5 or s.first_seen < $2) order by s.ended, s.id limit $6"
        ));
        let stmt = stmt.bind(account).bind(cutoff).bind(after.0).bind(after.1).bind(Time::NONE);
        self.all(stmt.bind(limit)).await
    }

    /// The texts that may name the contacts of these segments.
    pub async fn segment_texts(&self, keys: &[i64]) -> Result<HashMap<i64, SegmentTexts>, DbError> {
        let mut texts: HashMap<i64, SegmentTexts> = HashMap::with_capacity(keys.len());
        for head in [
            "select id, codec, metadata from segment where id in ",
            "select segment, codec, metadata from segment_version where segment in ",
        ] {
            let stmt = Stmt::list(head, Vec::new(), keys.iter().copied(), "");
            for (segment, codec, metadata) in self.all::<(i64, i64, Vec<u8>)>(stmt).await? {
                let of_segment = texts.entry(segment).or_default();
                match item::unpack(codec, metadata) {
                    Ok(metadata) => of_segment.metadata.push(utf8_lossy(metadata)),
                    Err(_) => of_segment.is_damaged = true,
                }
            }
        }
        let transcripts = || keys.iter().map(|key| Item::of(*key, Artifact::Transcript));
        let head = "select item, codec, body from artifact where outcome = 0 and item in ";
        let stmt = Stmt::list(head, Vec::new(), transcripts(), "");
        for (item, codec, body) in self.all::<(Item, i64, Vec<u8>)>(stmt).await? {
            let of_segment = texts.entry(item.segment()).or_default();
            match item::unpack_text(codec, body) {
                Ok(body) => of_segment.transcripts.push(body),
                Err(_) => of_segment.is_damaged = true,
            }
        }
        let head = "select item, last_body, state from work where last_body is not null and item in ";
        for row in self.all::<LastBody>(Stmt::list(head, Vec::new(), transcripts(), "")).await? {
            let of_segment = texts.entry(row.item.segment()).or_default();
            match row.state {
                ItemState::Open => of_segment.fragments.push(row.last_body),
                ItemState::Unavailable | ItemState::Failed | ItemState::Discarded => {
                    of_segment.transcripts.push(row.last_body)
                }
            }
        }
        Ok(texts)
    }

    /// The next page of quarantined records, resolved or not. With a `cutoff`, only those of
    /// windows that ended before it.
    pub async fn quarantined_page(
        &self,
        account: Option<AccountKey>,
        cutoff: Option<Time>,
        after: Option<&QuarantinedText>,
        limit: usize,
    ) -> Result<Vec<QuarantinedText>, DbError> {
        let stmt =
            sql("select account, digest, segment_id, raw from aside where ($1 = -1 or account = $1) and to_ms < $2
             and (account, digest) > ($3, $4) order by account, digest limit $5");
        let stmt = stmt.bind(account.unwrap_or(AccountKey::ALL)).bind(cutoff.unwrap_or(Time(i64::MAX)));
        let stmt = stmt.bind(after.map_or(AccountKey::ALL, |after| after.account));
        self.all(stmt.bind(after.map_or(&[][..], |after| &after.digest)).bind(limit)).await
    }

    /// The id of the newest hold; 0 where there is none.
    pub async fn newest_hold_id(&self) -> Result<i64, DbError> {
        Ok(self.value(sql(SELECT_NEWEST_HOLD)).await?.unwrap_or(0))
    }
}
