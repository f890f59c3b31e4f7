//! Legal holds, and the journal of erasures, retention and holds.
//!
//! A hold stores its value as typed, because it must match segments that are announced later.
//! Releasing a hold deletes it. The journal is append-only and stores a keyed hash instead of the
//! value.

use super::super::chain_store::JOURNAL;
use super::super::sql::HoldSubject;
use super::super::{AccountKey, Db, DbError, DbFault, Tx, sql};
use super::tombstone_filter::ArchiveKey;
use crate::clock::Time;
use crate::hash_chain::JournalRecord;
use crate::model::Subject;

/// A legal hold: it keeps its subject from erasure and retention.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Hold {
    /// Its number.
    pub id: i64,
    /// The only account that it covers; `None` for all.
    pub account: Option<AccountKey>,
    /// What it keeps.
    #[sqlx(flatten, try_from = "HoldSubject")]
    pub subject: Subject,
    /// Why it was placed.
    pub reason: Option<String>,
    /// When it was placed.
    pub placed: Time,
    /// Who placed it.
    pub who: String,
}

/// What the journal records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JournalAction {
    /// Segments were erased on request.
    Erase,
    /// An erasure was requested, and a hold kept it from being done.
    Refused,
    /// Segments were deleted by retention.
    Retention,
    /// A hold was placed.
    Hold,
    /// A hold was released.
    Release,
}

impl JournalAction {
    /// The name in the database and in `--json`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            JournalAction::Erase => "erase",
            JournalAction::Refused => "refused",
            JournalAction::Retention => "retention",
            JournalAction::Hold => "hold",
            JournalAction::Release => "release",
        }
    }
}

/// A new entry for the journal.
#[derive(Debug, Clone)]
pub struct JournalEntry {
    /// Who did it.
    pub who: String,
    /// What was done.
    pub what: JournalAction,
    /// Its subject; the journal stores a keyed hash of it.
    pub subject: Option<Subject>,
    /// The hold that it concerns.
    pub hold: Option<i64>,
    /// Why, in the words of the person who did it.
    pub reason: Option<String>,
}

/// A stored entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct JournalRow {
    /// Its number.
    pub id: i64,
    /// When it was done.
    pub at: Time,
    /// Who did it.
    pub who: String,
    /// What: the name of a [`JournalAction`].
    pub what: String,
    /// The sub-account; `None` for all.
    pub sub: Option<String>,
    /// `segment`, `dialog` or `contact`.
    pub kind: Option<String>,
    /// Keyed hash of its subject.
    pub subject: Option<Vec<u8>>,
    /// How many segments it concerned.
    #[sqlx(try_from = "i64")]
    pub segments: u64,
    /// How many quarantined records it concerned.
    #[sqlx(try_from = "i64")]
    pub records: u64,
    /// The hold's number.
    pub hold: Option<i64>,
    /// Why it was done.
    pub reason: Option<String>,
}

const SELECT_HOLDS: &str = "select id, account, kind, value, reason, placed, who from hold
    where $1 = -1 or account is null or account = $1 order by id";
pub(super) const SELECT_NEWEST_HOLD: &str = "select coalesce(max(id), 0) from hold";

impl Db {
    /// The holds that concern an account, or all of them.
    pub async fn holds(&self, account: Option<AccountKey>) -> Result<Vec<Hold>, DbError> {
        self.all(sql(SELECT_HOLDS).bind(account.unwrap_or(AccountKey::ALL))).await
    }

    /// Places a hold on the entry's subject; returns its number.
    ///
    /// # Errors
    /// Where the entry has no subject, or the database cannot be written.
    pub async fn place_hold(
        &self,
        entry: &JournalEntry,
        account: Option<AccountKey>,
        at: Time,
    ) -> Result<i64, DbError> {
        let subject = entry.subject.as_ref();
        let subject =
            subject.ok_or_else(|| DbError::new(DbFault::Broken, "failed to place a hold: no subject was given"))?;
        let mut tx = self.begin().await?;
        tx.advisory_lock("keeping").await?;
        let stmt = sql(
            "insert into hold (account, kind, value, reason, placed, who) values ($1, $2, $3, $4, $5, $6) returning id",
        );
        let stmt = stmt
            .bind(account)
            .bind(subject.kind())
            .bind(subject.value())
            .bind(entry.reason.clone())
            .bind(at)
            .bind(&entry.who);
        let id: Option<i64> = tx.value(stmt).await?;
        let id = id.ok_or_else(|| DbError::missing_row("hold", format!("the new hold on this {}", subject.kind())))?;
        let key = tx.get_or_create_archive_key().await?;
        tx.append_journal(&JournalEntry { hold: Some(id), ..entry.clone() }, &key, at, account, (0, 0)).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Releases a hold and deletes it; its journal entries stay. Returns `None` where there is no
    /// such hold.
    pub async fn release_hold(
        &self,
        id: i64,
        who: &str,
        reason: Option<String>,
        at: Time,
    ) -> Result<Option<Hold>, DbError> {
        let mut tx = self.begin().await?;
        tx.advisory_lock("keeping").await?;
        let stmt = sql("delete from hold where id = $1 returning id, account, kind, value, reason, placed, who");
        let Some(released) = tx.first::<Hold>(stmt.bind(id)).await? else { return Ok(None) };
        let key = tx.get_or_create_archive_key().await?;
        let subject = Some(released.subject.clone());
        let entry = JournalEntry { who: who.to_owned(), what: JournalAction::Release, subject, hold: Some(id), reason };
        tx.append_journal(&entry, &key, at, released.account, (0, 0)).await?;
        tx.commit().await?;
        Ok(Some(released))
    }

    /// Appends an entry to the journal, for an action that changed nothing else.
    pub async fn add_journal_entry(
        &self,
        entry: &JournalEntry,
        account: Option<AccountKey>,
        counts: (u64, u64),
        at: Time,
    ) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.advisory_lock("keeping").await?;
        let key = tx.get_or_create_archive_key().await?;
        tx.append_journal(entry, &key, at, account, counts).await?;
        tx.commit().await
    }

    /// The journal from its beginning, or its entries about one subject.
    pub async fn journal(&self, subject: Option<&Subject>) -> Result<Vec<JournalRow>, DbError> {
        let key = self.stored_archive_key().await?;
        let [hash, first_hash] = match (subject, key) {
            (Some(subject), Some(key)) => key.hash_subject_all_versions(subject),
            (Some(_), None) => return Ok(Vec::new()),
            (None, _) => Default::default(),
        };
        let stmt =
            sql("select j.id, j.at, j.who, j.what, a.sub, j.kind, j.subject, j.segments, j.records, j.hold, j.reason
             from journal j left join account a on a.id = j.account where $1 = 0 or j.subject in ($2, $3) order by j.id");
        self.all(stmt.bind(subject.is_some()).bind(hash).bind(first_hash)).await
    }
}

impl Tx {
    /// The holds that concern an account, or all of them.
    pub(super) async fn holds(&mut self, account: Option<AccountKey>) -> Result<Vec<Hold>, DbError> {
        self.all(sql(SELECT_HOLDS).bind(account.unwrap_or(AccountKey::ALL))).await
    }

    pub(super) async fn newest_hold_id(&mut self) -> Result<i64, DbError> {
        Ok(self.value(sql(SELECT_NEWEST_HOLD)).await?.unwrap_or(0))
    }

    /// Appends an entry to the journal and to its hash chain.
    pub(super) async fn append_journal(
        &mut self,
        entry: &JournalEntry,
        key: &ArchiveKey,
        at: Time,
        account: Option<AccountKey>,
        (segments, records): (u64, u64),
    ) -> Result<(), DbError> {
        let subject = entry.subject.as_ref();
        let hash = subject.map(|subject| key.hash_subject(subject));
        // `verify` compares a hold with its entry, by the value as typed, too.
        let typed = subject.filter(|_| entry.what == JournalAction::Hold);
        let typed = typed.map(|subject| key.hash_typed(subject.kind(), subject.value()));
        let stmt = sql("select sub from account where id = $1").bind(account.unwrap_or(AccountKey::ALL));
        let sub: Option<String> = self.value(stmt).await?;
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
        self.save_record_chain(chain).await?;
        let stmt = sql(
            "insert into journal (at, who, what, account, kind, subject, segments, records, hold, reason, value_hash)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        );
        let stmt = stmt.bind(at).bind(&entry.who).bind(entry.what.name()).bind(account);
        let stmt = stmt.bind(subject.map(Subject::kind)).bind(hash).bind(segments).bind(records);
        self.run(stmt.bind(entry.hold).bind(entry.reason.clone()).bind(typed)).await.map(drop)
    }
}
