//! Taking things out of the index: what was erased, without a trace, and everything, to build it anew.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::{Arg, BULK, Db, DbError, Stmt, Tx, item, sql};
use crate::clock::Time;

/// Who writes the index shares this; who takes something out of it keeps them all away for the moment.
pub(super) const KEY: &str = "search";

/// Pages of the index that one transaction rewrites.
const PAGES: i64 = 2000;

/// Segments that one step looks through for agents' notes.
const SWEEP: usize = 1000;

impl Tx {
    /// Takes items out of the index, whatever of them is in it, and off the list of what is to be indexed. For erasure:
    /// to be called before their segments and bodies go, in the same transaction. What the index held of them can still
    /// be read off the disk until [`Db::purge_index`].
    ///
    /// # Errors
    /// Where the database fails; the transaction must not be committed then.
    pub async fn unindex(&mut self, items: &[i64]) -> Result<u64, DbError> {
        self.lock_key(KEY).await?;
        let mut segments: Vec<i64> = items.iter().map(|item| item.div_euclid(4)).collect();
        segments.sort_unstable();
        segments.dedup();
        let noted: HashSet<i64> =
            items.iter().filter(|item| item.rem_euclid(4) == 3).map(|item| item.div_euclid(4)).collect();
        let mut ends: HashMap<i64, Vec<Time>> = HashMap::with_capacity(segments.len());
        for part in segments.chunks(BULK) {
            for head in
                ["select id, ended from segment where id in ", "select segment, was from search_todo where segment in "]
            {
                for row in self.all(Stmt::list(head, Vec::new(), part.iter().copied(), "")).await? {
                    ends.entry(row.int(0)?).or_default().push(row.time(1)?);
                }
            }
            let noted: Vec<i64> = part.iter().copied().filter(|segment| noted.contains(segment)).collect();
            if !noted.is_empty() {
                self.run(Stmt::list("delete from search_todo where segment in ", Vec::new(), noted, "")).await?;
            }
        }
        let mut docs: Vec<(i64, Time)> = Vec::with_capacity(items.len());
        for item in items {
            let ends = ends.get(&item.div_euclid(4)).map_or(&[][..], Vec::as_slice);
            docs.extend(ends.iter().map(|ended| (*item, *ended)));
        }
        docs.sort_unstable();
        docs.dedup();
        self.forget_skipped(items.iter().copied()).await?;
        self.drop_docs(&docs).await
    }

    /// Lists segments whose notes, or end time, the index has to look at.
    pub(in super::super) async fn index_anew(&mut self, account: i64, segments: &[(i64, Time)]) -> Result<(), DbError> {
        for part in segments.chunks(BULK) {
            let rows = part.iter().map(|(segment, was)| vec![account.into(), (*segment).into(), Arg::from(*was)]);
            let stmt = Stmt::rows(
                "insert into search_todo (account, segment, was) values ",
                rows.collect(),
                " on conflict (account, segment, was) do update set times = search_todo.times + 1",
            );
            self.run(stmt).await?;
        }
        Ok(())
    }
}

impl Db {
    /// Makes what was taken out of the index unreadable on the disk too. Takes as long as the index is large, in many short
    /// transactions; whatever runs beside it goes on.
    ///
    /// # Errors
    /// Where the database fails; it can be called again.
    pub async fn purge_index(&self) -> Result<(), DbError> {
        self.purge_words().await?;
        self.fold_log().await
    }

    /// The same, without emptying SQLite's log, which may hold the words until that is done.
    ///
    /// # Errors
    /// Where the database fails; it can be called again.
    pub async fn purge_words(&self) -> Result<(), DbError> {
        if matches!(self, Db::Postgres(_)) {
            // Dead rows, and what the GIN indexes say of them, go with a vacuum.
            return self.vacuum_postgres("vacuum search_block").await;
        }
        // A negative number first marks everything that there is for merging, which leaves deleted words behind.
        let mut pages = -PAGES;
        loop {
            let mut tx = self.begin().await?;
            let before = changes(&mut tx).await?;
            tx.run(sql("insert into search_text (search_text, rank) values ('merge', $1)").bind(pages)).await?;
            let worked = changes(&mut tx).await? - before;
            tx.commit().await?;
            if worked < 2 {
                break;
            }
            pages = PAGES;
        }
        self.overwrite_free().await
    }

    /// Overwrites what is left in pages of the file that nothing uses any more, by using them once more.
    async fn overwrite_free(&self) -> Result<(), DbError> {
        loop {
            // Each time anew: another process that does the same may have dropped it.
            let mut tx = self.begin().await?;
            let free = tx.first(sql("select freelist_count from pragma_freelist_count")).await?;
            let free = free.map(|row| row.int(0)).transpose()?.unwrap_or(0).min(PAGES);
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

    /// Empties the index where it was built by another version of the words, so that it is built anew. Returns whether.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn prepare_index(&self, version: i64) -> Result<bool, DbError> {
        if self.index_version().await? == Some(version) {
            return Ok(false);
        }
        let mut tx = self.begin().await?;
        tx.lock_key(KEY).await?;
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
            pools.crowds.forget();
        }
        Ok(true)
    }

    /// By which version of the words the index was built.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn index_version(&self) -> Result<Option<i64>, DbError> {
        let row = self.first(sql("select value from meta where key = 'search_version'")).await?;
        Ok(row.map(|row| row.text(0)).transpose()?.and_then(|text| text.parse().ok()))
    }

    /// After the index was emptied, lists the segments with agents' notes that have no transcript to be indexed with, some at a
    /// time; returns whether there are more.
    ///
    /// # Errors
    /// Where the database fails.
    pub async fn sweep_index(&self) -> Result<bool, DbError> {
        const LAST: &str = "select value from meta where key = 'search_sweep'";
        if self.first(sql(LAST)).await?.is_none() {
            return Ok(false);
        }
        let mut tx = self.begin().await?;
        tx.lock_key("search sweep").await?;
        let Some(row) = tx.first(sql(LAST)).await? else { return Ok(false) };
        let last: i64 = row.text(0)?.parse().unwrap_or(0);
        let stmt = sql("select s.id, s.account, s.ended, s.codec, s.metadata,
             (select min(x.item) from artifact x where x.item = s.id * 4)
             from segment s where s.id > $1 order by s.id limit $2");
        let rows = tx.all(stmt.bind(last).bind(SWEEP)).await?;
        let mut listed: BTreeMap<i64, Vec<(i64, Time)>> = BTreeMap::new();
        let mut end = None;
        for row in &rows {
            let segment = row.int(0)?;
            end = Some(segment);
            if row.maybe_int(5)?.is_some() {
                continue;
            }
            let metadata = item::unpack(row.int(3)?, row.bytes(4)?).unwrap_or_default();
            if crate::model::may_have_notes(&String::from_utf8_lossy(&metadata)) {
                listed.entry(row.int(1)?).or_default().push((segment, row.time(2)?));
            }
        }
        for (account, segments) in listed {
            tx.index_anew(account, &segments).await?;
        }
        match end {
            Some(end) => tx.put_meta("search_sweep", &end.to_string()).await?,
            None => {
                tx.run(sql("delete from meta where key = 'search_sweep'")).await?;
            }
        }
        tx.commit().await?;
        Ok(end.is_some())
    }
}

/// Rows that the connection has changed so far; by it FTS5 says whether a merge found anything to do.
async fn changes(tx: &mut Tx) -> Result<i64, DbError> {
    tx.first(sql("select total_changes()")).await?.map_or(Ok(0), |row| row.int(0))
}

impl Tx {
    async fn put_meta(&mut self, key: &str, value: &str) -> Result<(), DbError> {
        let stmt =
            sql("insert into meta (key, value) values ($1, $2) on conflict (key) do update set value = excluded.value");
        self.run(stmt.bind(key).bind(value)).await.map(drop)
    }
}
