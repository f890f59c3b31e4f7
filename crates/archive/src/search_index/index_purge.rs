//! Removal from the index: of deleted segments, without a trace on disk, and of everything for a
//! rebuild.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::super::{AccountKey, Arg, Db, DbError, Item, Stmt, Tx, item, sql};
use crate::clock::Time;

/// Advisory lock of the index. Writers share it; a removal takes it exclusively.
pub(super) const INDEX_LOCK_KEY: &str = "search";

/// Index pages that one transaction rewrites.
const PAGES_PER_TRANSACTION: i64 = 2000;

/// Segments that one call examines for agents' notes.
const SEGMENTS_PER_SCAN: usize = 1000;

impl Tx {
    /// Removes items from the index and their segments from the reindex backlog. For deletions:
    /// call it before the segments and bodies are deleted, in the same transaction. The words stay
    /// readable on disk until [`Db::purge_index`].
    ///
    /// # Errors
    /// Where the database fails. The transaction must not be committed then.
    pub async fn remove_from_index(&mut self, items: &[Item]) -> Result<u64, DbError> {
        self.advisory_lock(INDEX_LOCK_KEY).await?;
        let items: Vec<i64> = items.iter().map(|item| item.0).collect();
        let segments: BTreeSet<i64> = items.iter().map(|item| item.div_euclid(4)).collect();
        let with_notes: HashSet<i64> =
            items.iter().filter(|item| item.rem_euclid(4) == 3).map(|item| item.div_euclid(4)).collect();
        let mut ends: HashMap<i64, Vec<Time>> = HashMap::with_capacity(segments.len());
        for head in
            ["select id, ended from segment where id in ", "select segment, was from search_todo where segment in "]
        {
            let stmt = Stmt::list(head, Vec::new(), segments.iter().copied(), "");
            for (segment, ended) in self.all::<(i64, Time)>(stmt).await? {
                ends.entry(segment).or_default().push(ended);
            }
        }
        self.run(Stmt::list("delete from search_todo where segment in ", Vec::new(), with_notes, "")).await?;
        let mut docs: Vec<(i64, Time)> = Vec::with_capacity(items.len());
        for item in &items {
            let ends = ends.get(&item.div_euclid(4)).map_or(&[][..], Vec::as_slice);
            docs.extend(ends.iter().map(|ended| (*item, *ended)));
        }
        docs.sort_unstable();
        docs.dedup();
        self.delete_skipped(items.iter().copied()).await?;
        self.delete_docs(&docs).await
    }

    /// Adds segments to the reindex backlog, because their notes or their end time may have
    /// changed.
    pub(in super::super) async fn enqueue_reindex(
        &mut self,
        account: AccountKey,
        segments: &[(i64, Time)],
    ) -> Result<(), DbError> {
        let rows = segments
            .iter()
            .map(|(segment, indexed_end)| vec![account.into(), (*segment).into(), Arg::from(*indexed_end)]);
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
    /// Makes removed words unreadable on disk, too. The time depends on the size of the index; it
    /// uses many short transactions, so other work continues.
    ///
    /// # Errors
    /// Where the database fails; it can be called again.
    pub async fn purge_index(&self) -> Result<(), DbError> {
        self.purge_words().await?;
        self.checkpoint_wal().await
    }

    /// The same, without truncating SQLite's write-ahead log, which may hold the words until then.
    ///
    /// # Errors
    /// Where the database fails; it can be called again.
    pub async fn purge_words(&self) -> Result<(), DbError> {
        if matches!(self, Db::Postgres(_)) {
            // A vacuum removes dead rows and their entries in the GIN indexes.
            return self.vacuum_postgres("vacuum search_block").await;
        }
        // A negative number first marks all segments of the FTS5 index for merging; the merge drops
        // deleted words.
        let mut pages = -PAGES_PER_TRANSACTION;
        loop {
            let mut tx = self.begin().await?;
            let before = total_changes(&mut tx).await?;
            tx.run(sql("insert into search_text (search_text, rank) values ('merge', $1)").bind(pages)).await?;
            let changed = total_changes(&mut tx).await? - before;
            tx.commit().await?;
            if changed < 2 {
                break;
            }
            pages = PAGES_PER_TRANSACTION;
        }
        self.overwrite_free_pages().await
    }

    /// Overwrites the free pages of the file, by allocating them for zeros once.
    async fn overwrite_free_pages(&self) -> Result<(), DbError> {
        loop {
            // Created each time, because another process that does the same may have dropped it.
            let mut tx = self.begin().await?;
            let free: Option<i64> = tx.value(sql("select freelist_count from pragma_freelist_count")).await?;
            let free = free.unwrap_or(0).min(PAGES_PER_TRANSACTION);
            if free == 0 {
                tx.run(sql("drop table if exists search_scratch")).await?;
                return tx.commit().await;
            }
            tx.run(sql("create table if not exists search_scratch (zeros blob not null)")).await?;
            let stmt = sql("insert into search_scratch (zeros) select zeroblob($1 * page_size) from pragma_page_size");
            tx.run(stmt.bind(free)).await?;
            tx.commit().await?;
        }
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
        let mut tx = self.begin().await?;
        tx.advisory_lock(INDEX_LOCK_KEY).await?;
        if tx.is_postgres() {
            tx.run(sql("truncate search_block")).await?;
        } else {
            tx.run(sql("insert into search_text (search_text) values ('delete-all')")).await?;
            tx.run(sql("delete from search_doc")).await?;
            tx.run(sql("delete from meta where key = 'search_spread'")).await?;
        }
        tx.run(sql("delete from search_cursor")).await?;
        tx.run(sql("delete from search_todo")).await?;
        tx.run(sql("delete from search_skipped")).await?;
        tx.put_meta("search_version", &version.to_string()).await?;
        tx.put_meta("search_sweep", "0").await?;
        tx.commit().await?;
        if let Db::Sqlite(pools) = self {
            pools.full_ranges.clear();
        }
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

/// Rows that the connection has changed so far. It shows whether an FTS5 merge had anything to do.
async fn total_changes(tx: &mut Tx) -> Result<i64, DbError> {
    Ok(tx.value(sql("select total_changes()")).await?.unwrap_or(0))
}
