//! Updates of the index: what is not indexed yet, and the transaction that indexes it.

use std::collections::{HashMap, HashSet};

use super::super::sql::count;
use super::super::{AccountKey, Arg, Db, DbError, MAX_ROWS_PER_STATEMENT, Stmt, Tx, item, sql};
use super::DocId;
use super::index_batch::{EntryContent, IndexBatch, IndexEntry, IndexRow, IndexSlice, ReindexTask};
use super::sqlite_rowids::FullRanges;
use crate::clock::Time;
use crate::transaction_span::TransactionSpan;

/// Rows of a statement that writes documents: their words are long.
pub(crate) const MAX_DOCS_PER_STATEMENT: usize = 100;

impl Db {
    /// Accounts whose feed is not indexed completely: key, last indexed feed number, last feed
    /// number.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn index_lags(&self) -> Result<Vec<(AccountKey, i64, i64)>, DbError> {
        let stmt =
            sql("select a.id, coalesce(c.feed, 0), a.feed from account a left join search_cursor c on c.account = a.id
             where a.feed > coalesce(c.feed, 0)");
        self.all(stmt).await
    }

    /// Sizes of the artifact versions in these slices: account, feed number, bytes; in order.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn slice_sizes(&self, slices: &[IndexSlice]) -> Result<Vec<(AccountKey, i64, u64)>, DbError> {
        let select = if matches!(self, Db::Postgres(_)) { SELECT_SIZES_LATERAL } else { SELECT_SIZES };
        let rows: Vec<(AccountKey, i64, i64)> = self.all(Stmt::rows(SLICES_CTE, slice_args(slices), select)).await?;
        let mut sizes: Vec<(AccountKey, i64, u64)> =
            rows.into_iter().map(|(account, feed, size)| (account, feed, count(size))).collect();
        sizes.sort_unstable();
        Ok(sizes)
    }

    /// The artifact versions in these slices; of each item only the latest one.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn slice_rows(&self, slices: &[IndexSlice]) -> Result<Vec<IndexRow>, DbError> {
        let select = if matches!(self, Db::Postgres(_)) { SELECT_ROWS_LATERAL } else { SELECT_ROWS };
        let mut newest = HashMap::<i64, IndexRow>::new();
        for row in self.all(Stmt::rows(SLICES_CTE, slice_args(slices), select)).await? {
            let row = index_row(row);
            if newest.get(&row.item).is_none_or(|known| known.version < row.version) {
                newest.insert(row.item, row);
            }
        }
        Ok(newest.into_values().collect())
    }

    /// Segments of these accounts that must be indexed again.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn reindex_backlog(&self, accounts: &[AccountKey], limit: usize) -> Result<Vec<ReindexTask>, DbError> {
        let mut reindex_tasks = Vec::new();
        for part in accounts.chunks(MAX_ROWS_PER_STATEMENT) {
            if reindex_tasks.len() >= limit {
                break;
            }
            let stmt = Stmt::list(
                "select t.account, t.segment, t.was, t.times, s.ended, s.codec, s.metadata
                 from search_todo t left join segment s on s.id = t.segment where t.account in ",
                vec![limit.into()],
                part.iter().copied(),
                " limit $1",
            );
            reindex_tasks.extend(self.all(stmt).await?.into_iter().map(reindex_task));
        }
        Ok(reindex_tasks)
    }

    /// Updates the index and the cursors in one transaction. Skips what was erased, moved to
    /// another owner or changed again in the meantime. Returns how many documents were written or
    /// removed.
    ///
    /// # Errors
    /// Where the database fails. Nothing was changed then, and the batch can be written again.
    pub async fn write_index(&self, batch: &IndexBatch) -> Result<u64, DbError> {
        let _span = TransactionSpan::start("write_index", batch.entries.len());
        let mut tx = self.begin().await?;
        if tx.is_postgres() {
            tx.run(sql(RAISE_PENDING_LIST_LIMIT)).await?;
        }
        tx.advisory_lock_shared(super::index_purge::INDEX_LOCK_KEY).await?;
        let leased = tx.leased_accounts(batch).await?;
        let reindex_tasks = tx.claim_reindex_tasks(batch, &leased).await?;
        let missing_versions = tx.missing_versions(batch).await?;
        let mut removed: Vec<(i64, Time)> = Vec::new();
        for task in
            batch.reindex_tasks.iter().filter(|task| reindex_tasks.contains(&(task.segment, task.indexed_end.0)))
        {
            let moved = task.current.as_ref().is_none_or(|(ended, _)| *ended != task.indexed_end);
            let first = if moved { 0 } else { 3 };
            removed.extend((first..4).map(|code| (task.segment * 4 + code, task.indexed_end)));
        }
        // A segment may have been erased after the batch was prepared.
        let note_segments =
            batch.entries.iter().filter(|entry| entry.version == 0).map(|entry| entry.item.div_euclid(4));
        let mut current_notes = tx.existing_segments(note_segments.collect()).await?;
        // A task that was requested again is done again later.
        for task in
            batch.reindex_tasks.iter().filter(|task| !reindex_tasks.contains(&(task.segment, task.indexed_end.0)))
        {
            current_notes.remove(&task.segment);
        }
        let (mut upserts, mut empty) = (Vec::new(), Vec::new());
        for entry in batch.entries.iter().filter(|entry| leased.contains(&entry.account)) {
            let is_current = match entry.version {
                0 => current_notes.contains(&entry.item.div_euclid(4)),
                version => !missing_versions.contains(&(entry.item, version)),
            };
            if is_current {
                if matches!(entry.content, EntryContent::Empty) { &mut empty } else { &mut upserts }.push(entry);
            }
        }
        removed.extend(empty.iter().map(|entry| (entry.item, entry.ended)));
        tx.delete_docs(&removed).await?;
        let full_ranges = match self {
            Db::Sqlite(pools) => Some((&pools.full_ranges, tx.insert_fts_rows(&upserts, &pools.full_ranges).await?)),
            Db::Postgres(_) => {
                tx.insert_chunks(&upserts).await?;
                None
            }
        };
        tx.store_skipped(&batch.skipped, upserts.iter().map(|entry| entry.item)).await?;
        tx.advance_index_cursors(batch.slices.iter().filter(|slice| leased.contains(&slice.lease.account))).await?;
        tx.commit().await?;
        if let Some((full_ranges, taken)) = full_ranges {
            full_ranges.add_all(&taken);
        }
        Ok((removed.len() + upserts.len()) as u64)
    }

    /// Moves the pending lists of the GIN indexes, which every search scans, into the indexes. Call
    /// it after some thousand documents and when there is nothing more to index. Does nothing on
    /// SQLite.
    ///
    /// # Errors
    /// Where the database fails; it can be called again.
    pub async fn clean_pending_list(&self) -> Result<(), DbError> {
        const CLEAN_BOTH: &str = "select gin_clean_pending_list(cast(name as regclass))
             from (values ('search_block_words'), ('search_block_parts')) i (name)";
        self.vacuum_postgres(CLEAN_BOTH).await
    }
}

/// A larger limit of the GIN pending list for one transaction. Moving the list into the index takes
/// seconds, and is cheaper per entry for a long list. So it is done in [`Db::clean_pending_list`],
/// not within a transaction.
const RAISE_PENDING_LIST_LIMIT: &str = "select set_config('gin_pending_list_limit', '256MB', true)";

const SLICES_CTE: &str = "with c (account, low, high) as (values ";
const SELECT_SIZES: &str = ") select x.account, x.feed, x.size
     from c join artifact x on x.account = c.account and x.feed > c.low and x.feed <= c.high";
const SELECT_ROWS: &str =
    ") select x.account, x.item, x.version, x.outcome, x.codec, x.body, s.ended, s.codec, s.metadata
     from c join artifact x on x.account = c.account and x.feed > c.low and x.feed <= c.high
     join segment s on s.id = x.item / 4";
// Postgres overestimates the size of a slice, and would read all artifacts for a few slices.
// `offset 0` prevents that.
const SELECT_SIZES_LATERAL: &str = ") select x.account, x.feed, x.size from c cross join lateral
     (select account, feed, size from artifact where account = c.account and feed > c.low and feed <= c.high offset 0) x";
const SELECT_ROWS_LATERAL: &str =
    ") select x.account, x.item, x.version, x.outcome, x.codec, x.body, x.ended, x.form, x.metadata
     from c cross join lateral
     (select a.account, a.item, a.version, a.outcome, a.codec, a.body, s.ended, s.codec as form, s.metadata
     from artifact a join segment s on s.id = a.item / 4
     where a.account = c.account and a.feed > c.low and a.feed <= c.high offset 0) x";

fn slice_args(slices: &[IndexSlice]) -> Vec<Vec<Arg>> {
    slices.iter().map(|slice| vec![slice.lease.account.into(), slice.after.into(), slice.to.into()]).collect()
}

/// Account, item, version, outcome, codec, body, end of the segment, and its packed metadata.
type SliceRow = (AccountKey, i64, i64, i64, i64, Vec<u8>, Time, i64, Vec<u8>);

fn index_row((account, item, version, outcome, codec, body, ended, packing, packed): SliceRow) -> IndexRow {
    // A damaged body has no words, and must not keep the other documents out of the index. `verify`
    // reports it.
    let body = if outcome == 0 { item::unpack_text(codec, body).ok() } else { None };
    IndexRow { account, item, version, body, ended, metadata: metadata(packing, packed) }
}

/// Account, segment, end in the index, number of requests, and the segment's end and packed
/// metadata, if it exists.
type BacklogRow = (AccountKey, i64, Time, i64, Option<Time>, Option<i64>, Option<Vec<u8>>);

fn reindex_task((account, segment, indexed_end, request_count, ended, codec, packed): BacklogRow) -> ReindexTask {
    let current = ended.zip(codec.zip(packed)).map(|(ended, (codec, packed))| (ended, metadata(codec, packed)));
    ReindexTask { account, segment, indexed_end, request_count, current }
}

fn metadata(codec: i64, packed: Vec<u8>) -> String {
    String::from_utf8_lossy(&item::unpack(codec, packed).unwrap_or_default()).into_owned()
}

impl Tx {
    /// The accounts of the batch whose leases are still valid. It locks no account, because writers
    /// of results would wait: if the owner changes after this check, the new one may index some
    /// versions again.
    async fn leased_accounts(&mut self, batch: &IndexBatch) -> Result<HashSet<AccountKey>, DbError> {
        let epochs: HashMap<AccountKey, i64> =
            batch.slices.iter().map(|slice| (slice.lease.account, slice.lease.epoch)).collect();
        // Tasks without a slice need no lease: their result does not depend on the owner.
        let mut leased: HashSet<AccountKey> = batch.reindex_tasks.iter().map(|task| task.account).collect();
        let head = "select id, epoch from account where id in ";
        let stmt = Stmt::list(head, Vec::new(), epochs.keys().copied(), "");
        for (account, epoch) in self.all::<(AccountKey, i64)>(stmt).await? {
            if epochs.get(&account) == Some(&epoch) {
                leased.insert(account);
            } else {
                leased.remove(&account);
            }
        }
        Ok(leased)
    }

    /// Removes the tasks from the backlog, except those that were requested again since they were
    /// read.
    async fn claim_reindex_tasks(
        &mut self,
        batch: &IndexBatch,
        leased: &HashSet<AccountKey>,
    ) -> Result<HashSet<(i64, i64)>, DbError> {
        let tasks = batch.reindex_tasks.iter().filter(|task| leased.contains(&task.account));
        let rows = tasks.map(|task| {
            vec![task.account.into(), task.segment.into(), Arg::from(task.indexed_end), task.request_count.into()]
        });
        // A locked row is being requested again, so it is skipped.
        let tail = if self.is_postgres() {
            ") for update skip locked) returning segment, was"
        } else {
            ")) returning segment, was"
        };
        let stmt = Stmt::rows(
            "delete from search_todo where (account, segment, was, times) in
             (select account, segment, was, times from search_todo where (account, segment, was, times) in (values ",
            rows.collect(),
            tail,
        );
        Ok(self.all(stmt).await?.into_iter().collect())
    }

    /// The versions of the batch that the archive does not have any more.
    async fn missing_versions(&mut self, batch: &IndexBatch) -> Result<HashSet<(i64, i64)>, DbError> {
        let entries = batch.entries.iter().filter(|entry| entry.version > 0);
        let stmt = Stmt::rows(
            "with v (item, version) as (values ",
            entries.map(|entry| vec![entry.item.into(), entry.version.into()]).collect(),
            ") select item, version from v where not exists
             (select 1 from artifact x where x.item = v.item and x.version = v.version)",
        );
        Ok(self.all(stmt).await?.into_iter().collect())
    }

    /// Those of these segments that the archive has.
    async fn existing_segments(&mut self, segments: Vec<i64>) -> Result<HashSet<i64>, DbError> {
        let stmt = Stmt::list("select id from segment where id in ", Vec::new(), segments, "");
        Ok(self.values(stmt).await?.into_iter().collect())
    }

    /// Deletes documents, given by their items and the end times of their segments.
    pub(super) async fn delete_docs(&mut self, docs: &[(i64, Time)]) -> Result<u64, DbError> {
        let (head, doc_ids) = if self.is_postgres() {
            let doc_ids = docs.iter().map(|(item, ended)| DocId::of(*item, *ended)).collect();
            ("delete from search_block where doc in ", doc_ids)
        } else {
            // On SQLite a document keeps its row id until it is deleted, even if the end time
            // changes.
            let items: Vec<i64> = docs.iter().map(|(item, _)| *item).collect();
            ("delete from search_text where rowid in ", self.release_rowids(&items).await?)
        };
        self.run(Stmt::list(head, Vec::new(), doc_ids.iter().map(|doc| doc.0), "")).await
    }

    /// Inserts or replaces documents on SQLite. Returns the ranges for [`FullRanges::add_all`].
    async fn insert_fts_rows(
        &mut self,
        entries: &[&IndexEntry],
        full_ranges: &FullRanges,
    ) -> Result<Vec<(i64, i64)>, DbError> {
        let docs: Vec<(i64, Time)> = entries.iter().map(|entry| (entry.item, entry.ended)).collect();
        let assignment = self.assign_rowids(&docs, full_ranges).await?;
        let head = "delete from search_text where rowid in ";
        self.run(Stmt::list(head, Vec::new(), assignment.reused.iter().map(|doc| doc.0), "")).await?;
        let mut rows: Vec<(DocId, &String)> = entries
            .iter()
            .filter_map(|entry| match &entry.content {
                EntryContent::Words(words) => Some((*assignment.doc_ids.get(&entry.item)?, words)),
                _ => None,
            })
            .collect();
        // FTS5 writes a segment of the index whenever a row id is smaller than the one before it.
        rows.sort_unstable_by_key(|(doc, _)| doc.0);
        for part in rows.chunks(MAX_DOCS_PER_STATEMENT) {
            let rows = part.iter().map(|(doc, words)| vec![Arg::from(doc.0), (*words).into()]);
            self.run(Stmt::rows("insert into search_text (rowid, words) values ", rows.collect(), "")).await?;
        }
        Ok(assignment.full_ranges)
    }

    /// Inserts or replaces documents on Postgres.
    async fn insert_chunks(&mut self, entries: &[&IndexEntry]) -> Result<(), DbError> {
        let docs: Vec<(i64, Time)> = entries.iter().map(|entry| (entry.item, entry.ended)).collect();
        self.delete_docs(&docs).await?;
        for part in entries.chunks(MAX_DOCS_PER_STATEMENT) {
            let mut rows: Vec<Vec<Arg>> = Vec::with_capacity(part.len());
            for entry in part {
                let (doc, EntryContent::Chunks(chunks)) = (DocId::of(entry.item, entry.ended), &entry.content) else {
                    continue;
                };
                let is_multi_chunk = chunks.len() > 1;
                rows.extend((0_i64..).zip(chunks).map(|(nth, (words, keys))| {
                    vec![doc.0.into(), nth.into(), is_multi_chunk.into(), words.into(), keys.into()]
                }));
            }
            self.run(Stmt::rows(
                "with v (doc, block, many, words, keys) as (values ",
                rows,
                ") insert into search_block (doc, block, many, words, keys)
                 select doc, block, many, cast(words as tsvector), cast(keys as integer[]) from v",
            ))
            .await?;
        }
        Ok(())
    }

    async fn advance_index_cursors(&mut self, slices: impl Iterator<Item = &IndexSlice>) -> Result<(), DbError> {
        let rows: Vec<Vec<Arg>> = slices.map(|slice| vec![slice.lease.account.into(), Arg::from(slice.to)]).collect();
        self.run(Stmt::rows(
            "insert into search_cursor (account, feed) values ",
            rows,
            " on conflict (account) do update set feed = excluded.feed",
        ))
        .await
        .map(drop)
    }
}
