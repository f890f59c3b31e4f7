//! Holds, and the journal of who had what kept or erased, and when.
//!
//! A hold keeps what was typed, since it must find what is announced later; it goes when it is released. The journal
//! only grows and keeps a keyed hash in its place.

use super::super::proof::JOURNAL;
use super::super::{Arg, Db, DbError, Row, Tx, sql};
use super::gate::ArchiveKey;
use crate::clock::Time;
use crate::hash_chain::JournalRecord;
use crate::model::Subject;

/// Something that is to be kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Its number.
    pub id: i64,
    /// Only in this account; in all where it is `None`.
    pub account: Option<i64>,
    /// What is kept.
    pub subject: Subject,
    /// Why.
    pub reason: Option<String>,
    /// Since when.
    pub placed: Time,
    /// Who placed it.
    pub who: String,
}

/// What the journal can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Erased on request.
    Erase,
    /// Asked for, and kept by a hold.
    Refused,
    /// Gone by retention.
    Retention,
    /// A hold was placed.
    Hold,
    /// A hold was released.
    Release,
}

impl Done {
    /// The name in the database and in `--json`.
    pub const fn name(self) -> &'static str {
        match self {
            Done::Erase => "erase",
            Done::Refused => "refused",
            Done::Retention => "retention",
            Done::Hold => "hold",
            Done::Release => "release",
        }
    }
}

/// What is to be entered in the journal.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Who did it.
    pub who: String,
    /// What was done.
    pub what: Done,
    /// What it was about; kept as a keyed hash.
    pub subject: Option<Subject>,
    /// The hold that it is about.
    pub hold: Option<i64>,
    /// Why, in the words of whoever did it.
    pub reason: Option<String>,
}

/// An entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalRow {
    /// Its number.
    pub id: i64,
    /// When.
    pub at: Time,
    /// Who.
    pub who: String,
    /// What: the name of a [`Done`].
    pub what: String,
    /// The sub-account; `None` for all.
    pub sub: Option<String>,
    /// `segment`, `dialog` or `contact`.
    pub kind: Option<String>,
    /// Keyed hash of what it was about.
    pub subject: Option<Vec<u8>>,
    /// How many segments it concerned.
    pub segments: u64,
    /// How many records set aside it concerned.
    pub records: u64,
    /// The hold's number.
    pub hold: Option<i64>,
    /// Why.
    pub reason: Option<String>,
}

const HOLDS: &str = "select id, account, kind, value, reason, placed, who from hold
    where $1 = -1 or account is null or account = $1 order by id";

/// A hold of a kind that is not known keeps nobody knows what: an error, so that nothing is erased until someone has looked.
fn hold(row: &Row) -> Result<Hold, DbError> {
    let (id, kind) = (row.int(0)?, row.text(2)?);
    let subject = Subject::of(&kind, row.text(3)?).ok_or_else(|| DbError::inconsistent("hold.kind", id, &kind))?;
    Ok(Hold {
        id,
        account: row.maybe_int(1)?,
        subject,
        reason: row.maybe_text(4)?,
        placed: row.time(5)?,
        who: row.text(6)?,
    })
}

impl Db {
    /// The holds that concern an account, or all of them.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn holds(&self, account: Option<i64>) -> Result<Vec<Hold>, DbError> {
        self.all(sql(HOLDS).bind(account.unwrap_or(-1))).await?.iter().map(hold).collect()
    }

    /// Places a hold on the entry's subject; returns its number.
    ///
    /// # Errors
    /// Where the database takes no writes.
    pub async fn place_hold(&self, entry: &Entry, account: Option<i64>, at: Time) -> Result<i64, DbError> {
        let mut tx = self.begin().await?;
        tx.lock_key("keeping").await?;
        let (kind, value) = entry.subject.as_ref().map_or(("segment", ""), |subject| (subject.kind(), subject.value()));
        let stmt = sql(
            "insert into hold (account, kind, value, reason, placed, who) values ($1, $2, $3, $4, $5, $6) returning id",
        );
        let stmt = stmt.bind(account).bind(kind).bind(value).bind(entry.reason.clone()).bind(at).bind(&entry.who);
        let row = tx.first(stmt).await?.ok_or_else(|| DbError::lost(account.unwrap_or(-1)))?;
        let id = row.int(0)?;
        let key = tx.archive_key().await?;
        tx.enter(&Entry { hold: Some(id), ..entry.clone() }, &key, at, account, (0, 0)).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Releases a hold, of which nothing but its entries in the journal is kept; `None` where there is no such.
    ///
    /// # Errors
    /// Where the database takes no writes.
    pub async fn release_hold(
        &self,
        id: i64,
        who: &str,
        reason: Option<String>,
        at: Time,
    ) -> Result<Option<Hold>, DbError> {
        let mut tx = self.begin().await?;
        tx.lock_key("keeping").await?;
        let stmt = sql("delete from hold where id = $1 returning id, account, kind, value, reason, placed, who");
        let Some(row) = tx.first(stmt.bind(id)).await? else { return Ok(None) };
        let released = hold(&row)?;
        let key = tx.archive_key().await?;
        let subject = Some(released.subject.clone());
        let entry = Entry { who: who.to_owned(), what: Done::Release, subject, hold: Some(id), reason };
        tx.enter(&entry, &key, at, released.account, (0, 0)).await?;
        tx.commit().await?;
        Ok(Some(released))
    }

    /// Enters something in the journal that changed nothing else.
    ///
    /// # Errors
    /// Where the database takes no writes.
    pub async fn note_in_journal(
        &self,
        entry: &Entry,
        account: Option<i64>,
        counts: (u64, u64),
        at: Time,
    ) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.lock_key("keeping").await?;
        let key = tx.archive_key().await?;
        tx.enter(entry, &key, at, account, counts).await?;
        tx.commit().await
    }

    /// The journal from its beginning, or what it says of one subject.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn journal(&self, subject: Option<&Subject>) -> Result<Vec<JournalRow>, DbError> {
        let key = self.held_key().await?;
        let [hash, first_hash] = match (subject, key) {
            (Some(subject), Some(key)) => key.subjects(subject),
            (Some(_), None) => return Ok(Vec::new()),
            (None, _) => Default::default(),
        };
        let stmt =
            sql("select j.id, j.at, j.who, j.what, a.sub, j.kind, j.subject, j.segments, j.records, j.hold, j.reason
             from journal j left join account a on a.id = j.account where $1 = 0 or j.subject in ($2, $3) order by j.id");
        let rows = self.all(stmt.bind(subject.is_some()).bind(hash).bind(first_hash)).await?;
        rows.iter()
            .map(|row| {
                Ok(JournalRow {
                    id: row.int(0)?,
                    at: row.time(1)?,
                    who: row.text(2)?,
                    what: row.text(3)?,
                    sub: row.maybe_text(4)?,
                    kind: row.maybe_text(5)?,
                    subject: row.maybe_bytes(6)?,
                    segments: row.count(7)?,
                    records: row.count(8)?,
                    hold: row.maybe_int(9)?,
                    reason: row.maybe_text(10)?,
                })
            })
            .collect()
    }
}

impl Tx {
    /// The holds that concern an account, or all of them.
    pub(super) async fn holds(&mut self, account: Option<i64>) -> Result<Vec<Hold>, DbError> {
        self.all(sql(HOLDS).bind(account.unwrap_or(-1))).await?.iter().map(hold).collect()
    }

    pub(super) async fn newest_hold(&mut self) -> Result<i64, DbError> {
        self.first(sql("select coalesce(max(id), 0) from hold")).await?.map_or(Ok(0), |row| row.int(0))
    }

    /// Enters what was done in the journal.
    pub(super) async fn enter(
        &mut self,
        entry: &Entry,
        key: &ArchiveKey,
        at: Time,
        account: Option<i64>,
        (segments, records): (u64, u64),
    ) -> Result<(), DbError> {
        let subject = entry.subject.as_ref();
        let hash = subject.map(|subject| key.subject(subject));
        // A hold is compared with its entry as long as it stands: also by what was typed.
        let typed = subject.filter(|_| entry.what == Done::Hold);
        let typed = typed.map(|subject| key.typed(subject.kind(), subject.value()));
        let sub = self.first(sql("select sub from account where id = $1").bind(account.unwrap_or(-1))).await?;
        let sub = sub.map(|row| row.text(0)).transpose()?;
        let mut chain = self.record_chain(JOURNAL).await?;
        chain.append(|record, _| {
            let record = JournalRecord {
                record,
                at: at.0,
                who: &entry.who,
                what: entry.what.name(),
                sub: sub.as_deref(),
                kind: subject.map(Subject::kind),
                subject: hash.as_deref(),
                segments: i64::try_from(segments).unwrap_or(i64::MAX),
                records: i64::try_from(records).unwrap_or(i64::MAX),
                hold: entry.hold,
                reason: entry.reason.as_deref(),
                value_hash: typed.as_deref(),
            };
            record.leaf()
        });
        self.keep_record_chain(chain).await?;
        let stmt = sql(
            "insert into journal (at, who, what, account, kind, subject, segments, records, hold, reason, value_hash)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        );
        let bytes = |hash: Option<Vec<u8>>| Arg::Bytes(hash.map(bytes::Bytes::from));
        let stmt = stmt.bind(at).bind(&entry.who).bind(entry.what.name()).bind(account);
        let stmt = stmt.bind(subject.map(Subject::kind)).bind(bytes(hash)).bind(segments).bind(records);
        self.run(stmt.bind(entry.hold).bind(entry.reason.clone()).bind(bytes(typed))).await.map(drop)
    }
}
