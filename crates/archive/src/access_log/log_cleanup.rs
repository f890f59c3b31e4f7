//! What may leave the access log: the oldest entries, by retention, and texts, by erasure.

use super::super::{Db, DbError, Stmt, Tx, sql};
use super::log_reader::AccessLogRow;
use super::{AccessAction, NewAccessEntry, ReaderKind, SubjectKind};
use crate::clock::Time;
use crate::hash_chain::link;
use crate::model::{Certainty, Subject};

/// Entries that one transaction removes.
const MAX_REMOVED_PER_TRANSACTION: usize = 1_000;
/// Texts that a statement reads for an erasure.
const TEXTS_PER_READ: usize = 1_000;

/// A text of the access log that an erasure examines.
type AccessText = (i64, String);

impl Db {
    /// Removes the oldest entries: those before `before`, up to the first later one. An entry of its
    /// own records it. Returns how many were removed, at most some thousand; call it again while it
    /// returns any.
    pub async fn remove_access_entries(&self, before: Time, now: Time, instance: &str) -> Result<u64, DbError> {
        let mut tx = self.begin().await?;
        // Locks the chain before it is read.
        tx.lock_access_chain().await?;
        let (removed, mut head): (i64, Vec<u8>) =
            tx.first(sql("select removed, removed_head from access_chain")).await?.unwrap_or_default();
        let stmt = sql("select id, at, reader_kind, reader, origin, action, sub, subject_kind, subject, subject_hash, hits, erased_by
             from access_log where id > $1 order by id limit $2");
        let oldest: Vec<AccessLogRow> = tx.all(stmt.bind(removed).bind(MAX_REMOVED_PER_TRANSACTION)).await?;
        let mut upto = removed;
        for entry in oldest.iter().take_while(|entry| entry.at < before) {
            head = link(&head, &entry.leaf()).to_vec();
            upto = entry.id;
        }
        if upto == removed {
            return Ok(0);
        }
        tx.append_access_entry(&NewAccessEntry {
            at: now,
            reader_kind: ReaderKind::Daemon,
            reader: instance,
            origin: instance,
            action: AccessAction::RemoveEntries,
            sub: None,
            subject_kind: SubjectKind::Other,
            subject: &format!("entries up to {upto}, before {}", before.rfc3339_secs()),
            is_hashed: false,
            hits: u64::try_from(upto).ok(),
        })
        .await?;
        tx.run(sql("update access_chain set removed = $1, removed_head = $2").bind(upto).bind(head)).await?;
        let count = tx.run(sql("delete from access_log where id <= $1").bind(upto)).await?;
        tx.commit().await?;
        Ok(count)
    }

    /// Blanks the texts of entries that name the subject of an erasure: queries with the contact's
    /// number or address, and ids. `erasure` is the number of the entry of that erasure.
    pub async fn blank_access_texts(&self, subject: &Subject, erasure: i64) -> Result<u64, DbError> {
        let (mut after, mut blanked) = (0, 0);
        loop {
            let stmt =
                sql("select id, subject from access_log where id > $1 and subject is not null order by id limit $2");
            let texts: Vec<AccessText> = self.all(stmt.bind(after).bind(TEXTS_PER_READ)).await?;
            let Some((last, _)) = texts.last() else { return Ok(blanked) };
            after = *last;
            let names_subject = |(_, text): &&AccessText| subject.match_record_text(text) >= Certainty::Alike;
            let ids: Vec<i64> = texts.iter().filter(names_subject).map(|(id, _)| *id).collect();
            if !ids.is_empty() {
                let mut tx = self.begin().await?;
                let head = "update access_log set subject = null, erased_by = $1 where subject is not null and id in ";
                blanked += tx.run(Stmt::list(head, vec![erasure.into()], ids, "")).await?;
                tx.commit().await?;
            }
        }
    }
}

impl Tx {
    /// Blanks the ids of erased segments and their dialogs. The keyed hashes stay.
    pub(crate) async fn blank_access_ids<'a>(
        &mut self,
        segments: impl Iterator<Item = &'a str> + Send,
        dialogs: impl Iterator<Item = &'a str> + Send,
        erasure: i64,
    ) -> Result<(), DbError> {
        let key = self.get_or_create_archive_key().await?;
        let hash = |kind: SubjectKind, id: &str| key.hash_access_subject(kind.name(), id);
        let segments = segments.map(|id| hash(SubjectKind::Segment, id));
        let mut hashes: Vec<Vec<u8>> = segments.chain(dialogs.map(|id| hash(SubjectKind::Dialog, id))).collect();
        hashes.sort_unstable();
        hashes.dedup();
        let head =
            "update access_log set subject = null, erased_by = $1 where subject is not null and subject_hash in ";
        self.run(Stmt::list(head, vec![erasure.into()], hashes, "")).await.map(drop)
    }
}
