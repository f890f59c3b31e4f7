//! Updates of the index: what is not indexed yet, and the transaction that indexes it.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::sql::count;
use super::super::{AccountKey, Arg, Db, DbError, DbFault, MAX_ROWS_PER_STATEMENT, Stmt, Tx, item, sql};
use super::document_list::DocumentList;
use super::index_batch::{IndexBatch, IndexSlice, IndexedSegment, ReindexTask, StoredText};
use super::index_purge::INDEX_LOCK_KEY;
use super::posting::PostingChunk;
use crate::clock::Time;
use crate::transaction_span::TransactionSpan;

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

    /// The artifact versions in these slices: account, feed number, item, bytes; in order.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn slice_items(&self, slices: &[IndexSlice]) -> Result<Vec<(AccountKey, i64, i64, u64)>, DbError> {
        let select = if matches!(self, Db::Postgres(_)) { SELECT_ITEMS_LATERAL } else { SELECT_ITEMS };
        let args = slices.iter().map(|slice| vec![slice.lease.account.into(), slice.after.into(), slice.to.into()]);
        let stmt = Stmt::rows("with c (account, low, high) as (values ", args.collect(), select);
        let rows: Vec<(AccountKey, i64, i64, i64)> = self.all(stmt).await?;
        let mut items: Vec<(AccountKey, i64, i64, u64)> =
            rows.into_iter().map(|(account, feed, item, size)| (account, feed, item, count(size))).collect();
        items.sort_unstable();
        Ok(items)
    }

    /// The artifacts of these segments, by item.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn stored_texts(
        &self,
        segments: impl IntoIterator<Item = i64>,
    ) -> Result<BTreeMap<i64, StoredText>, DbError> {
        let items = segments.into_iter().flat_map(|segment| segment * 4..segment * 4 + 3);
        let head = "select item, feed, size from artifact where item in ";
        let rows: Vec<(i64, i64, i64)> = self.all(Stmt::list(head, Vec::new(), items, "")).await?;
        let mut texts = BTreeMap::<i64, StoredText>::new();
        for (item, feed, size) in rows {
            let text = texts.entry(item).or_insert(StoredText { feed, size: 0 });
            (text.feed, text.size) = (text.feed.max(feed), text.size + count(size));
        }
        Ok(texts)
    }

    /// Those of these segments that the archive has.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn segments_to_index(
        &self,
        segments: impl IntoIterator<Item = i64>,
    ) -> Result<Vec<IndexedSegment>, DbError> {
        let head = "select account, id, ended, codec, metadata from segment where id in ";
        let rows: Vec<(AccountKey, i64, Time, i64, Vec<u8>)> =
            self.all(Stmt::list(head, Vec::new(), segments, "")).await?;
        let to_segment = |(account, segment, ended, codec, packed)| {
            // Damaged metadata has no words, and must not keep the texts out of the index.
            let metadata = item::unpack(codec, packed).unwrap_or_default();
            let metadata = String::from_utf8_lossy(&metadata).into_owned();
            IndexedSegment { account, segment, ended, metadata }
        };
        Ok(rows.into_iter().map(to_segment).collect())
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
            let head = "select account, segment, was, times from search_todo where account in ";
            let rows: Vec<(AccountKey, i64, Time, i64)> =
                self.all(Stmt::list(head, vec![limit.into()], part.iter().copied(), " limit $1")).await?;
            reindex_tasks.extend(rows.into_iter().map(|(account, segment, ended, request_count)| ReindexTask {
                account,
                segment,
                ended,
                request_count,
            }));
        }
        Ok(reindex_tasks)
    }

    /// Updates the index and the cursors in one transaction. Skips what was erased, moved to
    /// another owner or changed again in the meantime.
    ///
    /// # Errors
    /// Where the database fails. Nothing was changed then, and the batch can be written again.
    pub async fn write_index(&self, batch: &IndexBatch) -> Result<(), DbError> {
        let _span = TransactionSpan::start("write_index", batch.segments.len());
        let mut tx = self.begin().await?;
        tx.advisory_lock(INDEX_LOCK_KEY).await?;
        // Another process may have emptied the index for a rebuild since the batch was prepared.
        let version = tx.meta("search_version").await?.and_then(|text| text.parse::<i64>().ok());
        if batch.version.is_some() && version != batch.version {
            let why = "another version of the program builds the full-text index";
            return Err(DbError::new(DbFault::Unavailable, why));
        }
        let leased = tx.leased_accounts(batch).await?;
        tx.complete_reindex_tasks(batch, &leased).await?;
        let segments: HashSet<i64> = batch
            .segments
            .iter()
            .filter(|(account, _)| leased.contains(account))
            .map(|(_, segment)| *segment)
            .collect();
        tx.remove_documents(&segments, |_| true).await?;
        // A segment may have been erased after the batch was prepared.
        let skipped = || batch.skipped.iter().filter(|one| leased.contains(&one.account));
        let mut concerned = segments.clone();
        concerned.extend(skipped().map(|one| one.item.div_euclid(4)));
        let existing = tx.existing_segments(&concerned).await?;
        for run in &batch.runs {
            let is_kept = |segment: i64| segments.contains(&segment) && existing.contains(&segment);
            let (documents, chunks) = run.encode(|hit| is_kept(hit.segment()));
            tx.insert_run(&documents, chunks).await?;
        }
        let skipped: Vec<_> = skipped().filter(|one| existing.contains(&one.item.div_euclid(4))).cloned().collect();
        tx.store_skipped(&skipped, segments.iter().flat_map(|segment| segment * 4..segment * 4 + 4)).await?;
        tx.advance_index_cursors(batch.slices.iter().filter(|slice| leased.contains(&slice.lease.account))).await?;
        tx.commit().await
    }
}

/// Runs whose lists of documents are in memory together.
const RUNS_PER_READ: usize = 64;

// A recording, the fourth artifact, has no text.
const SELECT_ITEMS: &str = ") select x.account, x.feed, x.item, x.size
     from c join artifact x on x.account = c.account and x.feed > c.low and x.feed <= c.high where x.item % 4 <> 3";
// Postgres overestimates the size of a slice, and would read all artifacts for a few slices.
// `offset 0` prevents that.
const SELECT_ITEMS_LATERAL: &str = ") select x.account, x.feed, x.item, x.size from c cross join lateral
     (select account, feed, item, size from artifact
     where account = c.account and feed > c.low and feed <= c.high offset 0) x where x.item % 4 <> 3";

impl Tx {
    /// The accounts of the batch whose leases are still valid. It locks no account, because writers
    /// of results would wait: if the owner changes after this check, the new one may index some
    /// versions again.
    async fn leased_accounts(&mut self, batch: &IndexBatch) -> Result<HashSet<AccountKey>, DbError> {
        let slices: HashMap<AccountKey, (i64, i64)> =
            batch.slices.iter().map(|slice| (slice.lease.account, (slice.lease.epoch, slice.after))).collect();
        let mut leased: HashSet<AccountKey> = batch.reindex_tasks.iter().map(|task| task.account).collect();
        let head = "select a.id, a.epoch, coalesce(c.feed, 0) from account a
             left join search_cursor c on c.account = a.id where a.id in ";
        let stmt = Stmt::list(head, Vec::new(), slices.keys().copied(), "");
        for (account, epoch, feed) in self.all::<(AccountKey, i64, i64)>(stmt).await? {
            // The cursor must be where the slice begins: the index may have been emptied.
            if slices.get(&account) == Some(&(epoch, feed)) {
                leased.insert(account);
            } else {
                leased.remove(&account);
            }
        }
        // A task replaces texts that were read before, so a former owner must not complete it.
        let owned: HashMap<AccountKey, i64> = batch.leases.iter().map(|lease| (lease.account, lease.epoch)).collect();
        let stmt = Stmt::list("select id, epoch from account where id in ", Vec::new(), owned.keys().copied(), "");
        for (account, epoch) in self.all::<(AccountKey, i64)>(stmt).await? {
            if owned.get(&account) != Some(&epoch) {
                leased.remove(&account);
            }
        }
        Ok(leased)
    }

    /// Removes the tasks from the backlog, except those that were requested again since they were
    /// read.
    async fn complete_reindex_tasks(
        &mut self,
        batch: &IndexBatch,
        leased: &HashSet<AccountKey>,
    ) -> Result<(), DbError> {
        let tasks = batch.reindex_tasks.iter().filter(|task| leased.contains(&task.account));
        let rows = tasks.map(|task| {
            vec![task.account.into(), task.segment.into(), Arg::from(task.ended), task.request_count.into()]
        });
        // A locked row is being requested again, so it is skipped.
        let tail = if self.is_postgres() { ") for update skip locked)" } else { "))" };
        let stmt = Stmt::rows(
            "delete from search_todo where (account, segment, was, times) in
             (select account, segment, was, times from search_todo where (account, segment, was, times) in (values ",
            rows.collect(),
            tail,
        );
        self.run(stmt).await.map(drop)
    }

    /// Those of these segments that the archive has.
    async fn existing_segments(&mut self, segments: &HashSet<i64>) -> Result<HashSet<i64>, DbError> {
        let stmt = Stmt::list("select id from segment where id in ", Vec::new(), segments.iter().copied(), "");
        Ok(self.values(stmt).await?.into_iter().collect())
    }

    /// Removes documents of these segments from their runs. Returns how many there were. Their
    /// postings stay until the run is rewritten.
    pub(super) async fn remove_documents(
        &mut self,
        segments: &HashSet<i64>,
        is_removed: impl Fn(i64) -> bool,
    ) -> Result<u64, DbError> {
        let (Some(lowest), Some(highest)) = (segments.iter().min(), segments.iter().max()) else { return Ok(0) };
        let stmt = sql(
            "select id, first_segment, last_segment from search_run where last_segment >= $1 and first_segment <= $2",
        );
        let runs: Vec<(i64, i64, i64)> = self.all(stmt.bind(*lowest).bind(*highest)).await?;
        let overlaps = |first: i64, last: i64| segments.iter().any(|segment| (first..=last).contains(segment));
        let runs: Vec<i64> =
            runs.into_iter().filter(|(_, first, last)| overlaps(*first, *last)).map(|(run, ..)| run).collect();
        let mut count = 0;
        for part in runs.chunks(RUNS_PER_READ) {
            let head = "select id, documents from search_run where id in ";
            let lists: Vec<(i64, Vec<u8>)> = self.all(Stmt::list(head, Vec::new(), part.iter().copied(), "")).await?;
            for (run, documents) in lists {
                let mut documents = DocumentList::decode(&documents);
                let removed = documents.remove(|hit| segments.contains(&hit.segment()) && is_removed(hit.item));
                if removed > 0 {
                    let stmt = sql("update search_run set documents = $1, live = live - $2 where id = $3");
                    self.run(stmt.bind(documents.encode()).bind(removed).bind(run)).await?;
                    count += removed as u64;
                }
            }
        }
        Ok(count)
    }

    /// Inserts a run, unless it has no documents.
    pub(super) async fn insert_run(
        &mut self,
        documents: &DocumentList,
        chunks: Vec<PostingChunk>,
    ) -> Result<(), DbError> {
        let ends = (documents.live().next(), documents.live().next_back());
        let (Some((_, first)), Some((_, last))) = ends else { return Ok(()) };
        let segments = || documents.live().map(|(_, hit)| hit.segment());
        let stmt =
            sql("insert into search_run (documents, size, live, first_ended, last_ended, first_segment, last_segment)
             values ($1, $2, $3, $4, $5, $6, $7) returning id");
        let stmt = stmt.bind(documents.encode()).bind(documents.len()).bind(documents.live().count());
        let stmt = stmt.bind(first.ended).bind(last.ended).bind(segments().min()).bind(segments().max());
        let Some(run) = self.value::<i64>(stmt).await? else { return Ok(()) };
        let rows = chunks.into_iter().map(|chunk| vec![run.into(), chunk.first.into(), Arg::from(chunk.rest)]);
        self.run(Stmt::rows("insert into search_posting (run, first, rest) values ", rows.collect(), ""))
            .await
            .map(drop)
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
