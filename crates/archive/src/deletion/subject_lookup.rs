//! Queries for the segments and quarantined records that an erasure, a hold or retention concerns.

use std::collections::HashMap;

use super::super::{Db, DbError, MAX_ROWS_PER_STATEMENT, Row, Stmt, item, sql};
use crate::clock::Time;
use crate::model::{ItemState, Subject};

/// A segment by its ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRef {
    /// Its key in the database.
    pub key: i64,
    /// Its account's key.
    pub account: i64,
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
#[derive(Debug, Clone)]
pub struct QuarantinedText {
    /// Its account's key.
    pub account: i64,
    /// Digest of the record, its key within the account.
    pub digest: Vec<u8>,
    /// Its segment's id, where it could be read.
    pub segment_id: Option<String>,
    /// The record as received.
    pub raw: String,
}

const SEGMENT_REF_COLUMNS: &str = "s.id, s.account, a.sub, s.segment_id, s.dialog_id, s.ended";

fn segment_ref(row: &Row) -> Result<SegmentRef, DbError> {
    Ok(SegmentRef {
        key: row.int(0)?,
        account: row.int(1)?,
        sub: row.text(2)?,
        segment_id: row.text(3)?,
        dialog_id: row.maybe_text(4)?,
        ended: row.time(5)?,
    })
}

pub(super) fn utf8_lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

impl Db {
    /// The segments that a subject names by id; none for a contact.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn segments_by_subject(
        &self,
        subject: &Subject,
        account: Option<i64>,
    ) -> Result<Vec<SegmentRef>, DbError> {
        let (from, id) = match subject {
            Subject::Segment(id) => ("account a join segment s on s.account = a.id where s.segment_id = $1", id),
            Subject::Dialog(id) => ("segment s join account a on a.id = s.account where s.dialog_id = $1", id),
            Subject::Contact(_) => return Ok(Vec::new()),
        };
        let stmt = Stmt::built(format!(
            "select {SEGMENT_REF_COLUMNS} from {from} and ($2 = -1 or s.account = $2) order by s.id"
        ));
        self.all(stmt.bind(id).bind(account.unwrap_or(-1))).await?.iter().map(segment_ref).collect()
    }

    /// The next page of all segments.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn segment_page(
        &self,
        account: Option<i64>,
        after: i64,
        limit: usize,
    ) -> Result<Vec<SegmentRef>, DbError> {
        let stmt = Stmt::built(format!(
            "select {SEGMENT_REF_COLUMNS} from segment s join account a on a.id = s.account
             where s.id > $1 and ($2 = -1 or s.account = $2) order by s.id limit {limit}"
        ));
        self.all(stmt.bind(after).bind(account.unwrap_or(-1))).await?.iter().map(segment_ref).collect()
    }

    /// The next page of an account's segments that ended before `cutoff`, after the one with this
    /// end and key. A segment without an end time counts from when it was first seen.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn segments_ended_before(
        &self,
        account: i64,
        cutoff: Time,
        after: (Time, i64),
        limit: usize,
    ) -> Result<Vec<SegmentRef>, DbError> {
        let stmt = Stmt::built(format!(
            "select {SEGMENT_REF_COLUMNS} from segment s join account a on a.id = s.account
             where s.account = $1 and s.ended < $2 and s.ended >= $3 and (s.ended, s.id) > ($3, $4)
             and (s.ended <> $5 or s.first_seen < $2) order by s.ended, s.id limit {limit}"
        ));
        let stmt = stmt.bind(account).bind(cutoff).bind(after.0).bind(after.1).bind(Time::NONE);
        self.all(stmt).await?.iter().map(segment_ref).collect()
    }

    /// The texts that may name the contacts of these segments.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn segment_texts(&self, keys: &[i64]) -> Result<HashMap<i64, SegmentTexts>, DbError> {
        let mut texts: HashMap<i64, SegmentTexts> = HashMap::with_capacity(keys.len());
        for part in keys.chunks(MAX_ROWS_PER_STATEMENT) {
            for head in [
                "select id, codec, metadata from segment where id in ",
                "select segment, codec, metadata from segment_version where segment in ",
            ] {
                for row in self.all(Stmt::list(head, Vec::new(), part.iter().copied(), "")).await? {
                    let of_segment = texts.entry(row.int(0)?).or_default();
                    match item::unpack(row.int(1)?, row.bytes(2)?) {
                        Ok(metadata) => of_segment.metadata.push(utf8_lossy(metadata)),
                        Err(_) => of_segment.is_damaged = true,
                    }
                }
            }
            // The transcript is the item with code 0.
            let head = "select item, codec, body from artifact where outcome = 0 and item in ";
            for row in self.all(Stmt::list(head, Vec::new(), part.iter().map(|key| key * 4), "")).await? {
                let of_segment = texts.entry(row.int(0)?.div_euclid(4)).or_default();
                match item::unpack_text(row.int(1)?, row.bytes(2)?) {
                    Ok(body) => of_segment.transcripts.push(body),
                    Err(_) => of_segment.is_damaged = true,
                }
            }
            // The beginning of an unusable answer is stored with its work item.
            let head = "select item, last_body, state from work where last_body is not null and item in ";
            for row in self.all(Stmt::list(head, Vec::new(), part.iter().map(|key| key * 4), "")).await? {
                let item = row.int(0)?;
                let of_segment = texts.entry(item.div_euclid(4)).or_default();
                match row.code(2, ("work.state", item), ItemState::from_code)? {
                    ItemState::Open => of_segment.fragments.push(row.bytes(1)?),
                    ItemState::Unavailable | ItemState::Failed | ItemState::Discarded => {
                        of_segment.transcripts.push(row.bytes(1)?)
                    }
                }
            }
        }
        Ok(texts)
    }

    /// The next page of quarantined records, resolved or not. With a `cutoff`, only those of
    /// windows that ended before it.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn quarantined_page(
        &self,
        account: Option<i64>,
        cutoff: Option<Time>,
        after: Option<&QuarantinedText>,
        limit: usize,
    ) -> Result<Vec<QuarantinedText>, DbError> {
        let stmt = Stmt::built(format!(
            "select account, digest, segment_id, raw from aside where ($1 = -1 or account = $1) and to_ms < $2
             and (account, digest) > ($3, $4) order by account, digest limit {limit}"
        ));
        let stmt = stmt.bind(account.unwrap_or(-1)).bind(cutoff.unwrap_or(Time(i64::MAX)));
        let stmt = stmt.bind(after.map_or(-1, |after| after.account));
        let rows = self.all(stmt.bind(after.map_or_else(Vec::new, |after| after.digest.clone()))).await?;
        rows.iter()
            .map(|row| {
                Ok(QuarantinedText {
                    account: row.int(0)?,
                    digest: row.bytes(1)?,
                    segment_id: row.maybe_text(2)?,
                    raw: utf8_lossy(row.bytes(3)?),
                })
            })
            .collect()
    }

    /// The id of the newest hold; 0 where there is none.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn newest_hold_id(&self) -> Result<i64, DbError> {
        let row = self.first(sql("select coalesce(max(id), 0) from hold")).await?;
        row.map_or(Ok(0), |row| row.int(0))
    }
}
