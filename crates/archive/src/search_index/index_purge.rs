//! Removal from the index: of deleted segments, without a trace on disk, and of everything for a
//! rebuild.

use std::collections::{BTreeMap, HashSet};

use super::super::{AccountKey, Arg, Db, DbError, Item, Stmt, Tx, item, sql};
use crate::clock::Time;

/// Advisory lock of the index: one transaction at a time changes the runs.
pub(super) const INDEX_LOCK_KEY: &str = "search";

/// Segments that one call examines for agents' notes.
const SEGMENTS_PER_SCAN: usize = 1000;

impl Tx {
    /// Removes items from the index and their segments from the reindex backlog. For deletions:
    /// call it in the same transaction. The keys of their words stay on disk until
    /// [`Db::purge_index`].
    ///
    /// # Errors
    /// Where the database fails. The transaction must not be committed then.
    pub async fn remove_from_index(&mut self, items: &[Item]) -> Result<u64, DbError> {
        self.advisory_lock(INDEX_LOCK_KEY).await?;
        let items: HashSet<i64> = items.iter().map(|item| item.0).collect();
        let with_notes = items.iter().filter(|item| item.rem_euclid(4) == 3).map(|item| item.div_euclid(4));
        self.run(Stmt::list("delete from search_todo where segment in ", Vec::new(), with_notes, "")).await?;
        self.delete_skipped(items.iter().copied()).await?;
        let segments = items.iter().map(|item| item.div_euclid(4)).collect();
        self.remove_documents(&segments, |item| items.contains(&item)).await
    }

    /// Adds segments to the reindex backlog, because their notes or their end time may have
    /// changed.
    pub(in super::super) async fn enqueue_reindex(
        &mut self,
        account: AccountKey,
        segments: &[(i64, Time)],
    ) -> Result<(), DbError> {
        let rows = segments.iter().map(|(segment, ended)| vec![account.into(), (*segment).into(), Arg::from(*ended)]);
        self.run(Stmt::rows(
            "insert into search_todo (account, segment, was) values ",
            rows.collect(),
            " on conflict (account, segment, was) do update set times = search_todo.times + 1",
        ))
        .await
        .map(drop)
    }
}

impl Db {
    /// Makes the keys of removed words unreadable on disk, too. It uses many short transactions, so
    /// other work continues.
    ///
    /// # Errors
    /// Where the database fails; it can be called again.
    pub async fn purge_index(&self) -> Result<(), DbError> {
        self.purge_words().await?;
        self.checkpoint_wal().await
    }

    /// The same, without truncating SQLite's write-ahead log, which may hold them until then.
    ///
    /// # Errors
    /// Where the database fails; it can be called again.
    pub async fn purge_words(&self) -> Result<(), DbError> {
        self.rewrite_cleared_runs().await?;
        self.vacuum_postgres("vacuum search_run, search_posting").await
    }

    /// Empties the index where another version of the tokenizer built it, so that it is rebuilt.
    /// Returns whether it did.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn prepare_index(&self, version: i64) -> Result<bool, DbError> {
        if self.index_version().await? == Some(version) {
            return Ok(false);
        }
        if matches!(self, Db::Sqlite(_)) {
            // In pieces: freed pages are overwritten, and everything else waits for the writer.
            self.run(sql("delete from meta where key = 'search_version'")).await?;
            let piece = "delete from search_posting where rowid in (select rowid from search_posting limit 2000)";
            while self.run(sql(piece)).await? > 0 {}
        }
        let mut tx = self.begin().await?;
        tx.advisory_lock(INDEX_LOCK_KEY).await?;
        // Another process may have been quicker.
        if tx.meta("search_version").await?.and_then(|text| text.parse::<i64>().ok()) == Some(version) {
            return Ok(false);
        }
        // Earlier versions of the program have the index in `search_block`, or in `search_text` and
        // `search_doc`. Its words must not stay after an erasure.
        let emptied: &[&'static str] = match tx.is_postgres() {
            true => &["truncate search_run, search_posting, search_block"],
            false => &[
                "delete from search_run",
                "delete from search_posting",
                "insert into search_text (search_text) values ('delete-all')",
                "delete from search_doc",
            ],
        };
        let progress = &["delete from search_cursor", "delete from search_todo", "delete from search_skipped"];
        for text in emptied.iter().chain(progress) {
            tx.run(sql(text)).await?;
        }
        tx.delete_meta("search_spread").await?;
        tx.put_meta("search_version", &version.to_string()).await?;
        tx.put_meta("search_sweep", "0").await?;
        tx.commit().await?;
        Ok(true)
    }

    /// The tokenizer version that built the index.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn index_version(&self) -> Result<Option<i64>, DbError> {
        Ok(self.meta("search_version").await?.and_then(|text| text.parse().ok()))
    }

    /// After the index was emptied, adds segments with agents' notes but without a transcript to
    /// the reindex backlog, some at a time. The notes of other segments are indexed with the
    /// transcript. Returns whether there may be more.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn enqueue_unindexed_notes(&self) -> Result<bool, DbError> {
        if self.meta("search_sweep").await?.is_none() {
            return Ok(false);
        }
        let mut tx = self.begin().await?;
        tx.advisory_lock("search sweep").await?;
        let Some(position) = tx.meta("search_sweep").await? else { return Ok(false) };
        let position: i64 = position.parse().unwrap_or(0);
        let stmt = sql("select s.id, s.account, s.ended, s.codec, s.metadata,
             (select min(x.item) from artifact x where x.item = s.id * 4)
             from segment s where s.id > $1 order by s.id limit $2");
        type Row = (i64, AccountKey, Time, i64, Vec<u8>, Option<i64>);
        let rows: Vec<Row> = tx.all(stmt.bind(position).bind(SEGMENTS_PER_SCAN)).await?;
        let last_segment = rows.last().map(|row| row.0);
        let mut with_notes: BTreeMap<AccountKey, Vec<(i64, Time)>> = BTreeMap::new();
        for (segment, account, ended, codec, metadata, transcript) in rows {
            let metadata = item::unpack(codec, metadata).unwrap_or_default();
            if transcript.is_none() && crate::model::may_have_notes(&String::from_utf8_lossy(&metadata)) {
                with_notes.entry(account).or_default().push((segment, ended));
            }
        }
        for (account, segments) in with_notes {
            tx.enqueue_reindex(account, &segments).await?;
        }
        match last_segment {
            Some(last_segment) => tx.put_meta("search_sweep", &last_segment.to_string()).await?,
            None => tx.delete_meta("search_sweep").await?,
        }
        tx.commit().await?;
        Ok(last_segment.is_some())
    }
}
