//! Reads the access log: for people, and for its verification.

use super::super::{Db, DbError, Snapshot, sql};
use super::{AccessAction, ReaderKind, SubjectKind};
use crate::clock::Time;
use crate::hash_chain::{AccessRecord, GENESIS_HASH, Hash};

/// Entries that a statement reads.
pub const MAX_ENTRIES_PER_READ: usize = 1_000;

/// Selects entries of the access log.
#[derive(Debug, Clone, Default)]
pub struct AccessLogQuery<'a> {
    /// Entries at or after this time.
    pub from: Option<Time>,
    /// Entries before this time.
    pub to: Option<Time>,
    /// Entries of this reader; case does not matter.
    pub who: Option<&'a str>,
    /// Entries about this segment or this dialog, by id, also after an erasure.
    pub about: Option<(&'a str, Option<&'a str>)>,
}

/// An entry of the access log.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct AccessLogRow {
    /// Its number.
    pub id: i64,
    /// When.
    pub at: Time,
    /// The kind of reader.
    pub reader_kind: String,
    /// The reader.
    pub reader: String,
    /// Where the reader was.
    pub origin: String,
    /// What was done.
    pub action: String,
    /// The sub-account's id.
    pub sub: Option<String>,
    /// The kind of subject.
    pub subject_kind: String,
    /// The id, the query or the description; `None` where only its hash is stored.
    pub subject: Option<String>,
    /// Keyed hash of the subject.
    pub(crate) subject_hash: Vec<u8>,
    /// How many hits the answer had.
    pub hits: Option<i64>,
    /// The number of the entry of the erasure that blanked the subject.
    pub erased_by: Option<i64>,
}

const SELECT_ENTRIES: &str = "select id, at, reader_kind, reader, origin, action, sub, subject_kind, subject, subject_hash, hits, erased_by from access_log";

impl AccessLogRow {
    /// The leaf of the entry.
    pub fn leaf(&self) -> Hash {
        let record = AccessRecord {
            id: self.id,
            at: self.at.0,
            reader_kind: &self.reader_kind,
            reader: &self.reader,
            origin: &self.origin,
            action: &self.action,
            sub: self.sub.as_deref(),
            subject_kind: &self.subject_kind,
            subject_hash: &self.subject_hash,
            hits: self.hits,
        };
        record.leaf()
    }

    /// Whether its codes are ones that the program writes.
    pub fn has_known_codes(&self) -> bool {
        ReaderKind::from_name(&self.reader_kind).is_some()
            && AccessAction::from_name(&self.action).is_some()
            && SubjectKind::from_name(&self.subject_kind).is_some()
    }

    /// Whether it was written without its subject's text: an erasure, or a contact.
    pub(super) fn is_hashed(&self) -> bool {
        self.subject_kind == SubjectKind::Contact.name() || self.action == AccessAction::Erase.name()
    }
}

/// The state of the access log's chain.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct AccessChainState {
    /// The newest number.
    pub newest: i64,
    /// The head after it.
    pub head: Vec<u8>,
    /// Entries up to this number were removed by retention.
    pub removed: i64,
    /// The head after that one.
    pub removed_head: Vec<u8>,
}

impl Default for AccessChainState {
    fn default() -> AccessChainState {
        let head = GENESIS_HASH.to_vec();
        AccessChainState { newest: 0, head: head.clone(), removed: 0, removed_head: head }
    }
}

impl Snapshot {
    /// The state of the access log's chain, and the number of entries outside it.
    pub async fn access_chain(&mut self) -> Result<(AccessChainState, u64), DbError> {
        let state: AccessChainState = self
            .0
            .first(sql("select newest, head, removed, removed_head from access_chain"))
            .await?
            .unwrap_or_default();
        let outside = sql("select count(*) from access_log where id <= $1 or id > $2");
        let outside = self.0.count(outside.bind(state.removed).bind(state.newest)).await?;
        Ok((state, outside))
    }
}

impl Db {
    /// The next entries after a number, up to `upto`, in order.
    pub async fn access_entries(&self, after: i64, upto: i64) -> Result<Vec<AccessLogRow>, DbError> {
        let stmt =
            super::super::Stmt::built(format!("{SELECT_ENTRIES} where id > $1 and id <= $2 order by id limit $3"));
        self.all(stmt.bind(after).bind(upto).bind(MAX_ENTRIES_PER_READ)).await
    }

    /// The selected entries after a number, in order, at most [`MAX_ENTRIES_PER_READ`].
    pub async fn access_log(&self, query: &AccessLogQuery<'_>, after: i64) -> Result<Vec<AccessLogRow>, DbError> {
        let [segment_hash, dialog_hash] = match (query.about, self.stored_archive_key().await?) {
            (Some((segment, dialog)), Some(key)) => {
                let hash = |kind: SubjectKind, id: &str| key.hash_access_subject(kind.name(), id);
                [Some(hash(SubjectKind::Segment, segment)), dialog.map(|dialog| hash(SubjectKind::Dialog, dialog))]
            }
            // Nothing was ever recorded.
            (Some(_), None) => return Ok(Vec::new()),
            (None, _) => [None, None],
        };
        let stmt = super::super::Stmt::built(format!(
            "{SELECT_ENTRIES} where id > $1 and at >= $2 and at < $3 and ($4 = '' or lower(reader) = lower($4))
             and ($5 = 0 or subject_hash in ($6, $7)) order by id limit $8"
        ));
        let stmt = stmt
            .bind(after)
            .bind(query.from.map_or(i64::MIN, |from| from.0))
            .bind(query.to.map_or(i64::MAX, |to| to.0));
        let stmt = stmt.bind(query.who.unwrap_or_default()).bind(query.about.is_some());
        self.all(stmt.bind(segment_hash).bind(dialog_hash).bind(MAX_ENTRIES_PER_READ)).await
    }

    /// The numbers of entries whose text does not match its keyed hash, or was blanked without the
    /// entry of an erasure, among these.
    pub async fn altered_access_subjects(&self, entries: &[AccessLogRow], removed: i64) -> Result<Vec<i64>, DbError> {
        let key = self.stored_archive_key().await?;
        let mut altered = Vec::new();
        for entry in entries {
            let is_genuine = match (&entry.subject, entry.erased_by, &key) {
                (Some(subject), None, Some(key)) => {
                    key.hash_access_subject(&entry.subject_kind, subject) == entry.subject_hash
                }
                (None, None, _) => entry.is_hashed(),
                (None, Some(erasure), _) => erasure <= removed || self.is_access_erasure(erasure).await?,
                (Some(_), ..) => false,
            };
            if !is_genuine {
                altered.push(entry.id);
            }
        }
        Ok(altered)
    }

    async fn is_access_erasure(&self, id: i64) -> Result<bool, DbError> {
        let stmt = sql("select action from access_log where id = $1").bind(id);
        Ok(self.value::<String>(stmt).await?.as_deref() == Some(AccessAction::Erase.name()))
    }
}
