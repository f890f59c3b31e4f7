//! Keeping the index: what the archive has that the index has not, and the one transaction that changes that.

use std::collections::{HashMap, HashSet};

use super::super::{Arg, BULK, Db, DbError, Row, Stmt, Tx, item, sql};
use super::Doc;
use super::batch::{Form, IndexBatch, IndexEntry, IndexRow, IndexSlice, TodoRow};
use super::number::Crowds;
use crate::clock::Time;

/// Rows of a statement that writes documents: each is long.
pub const DOCS: usize = 100;

impl Db {
    /// How far each account's feed has got, and how far the index has followed, for those that it has not caught up with.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn index_lags(&self) -> Result<Vec<(i64, i64, i64)>, DbError> {
        let stmt =
            sql("select a.id, coalesce(c.feed, 0), a.feed from account a left join search_cursor c on c.account = a.id
             where a.feed > coalesce(c.feed, 0)");
        let rows = self.all(stmt).await?;
        rows.iter().map(|row| Ok((row.int(0)?, row.int(1)?, row.int(2)?))).collect()
    }

    /// How large what the slices cover is: account, number in the feed, bytes; in order.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn index_sizes(&self, slices: &[IndexSlice]) -> Result<Vec<(i64, i64, u64)>, DbError> {
        let (mut sizes, postgres) = (Vec::new(), matches!(self, Db::Postgres(_)));
        for part in slices.chunks(BULK) {
            let stmt = Stmt::rows(COVERED, covered(part), if postgres { SIZES_OF_EACH } else { SIZES });
            for row in self.all(stmt).await? {
                sizes.push((row.int(0)?, row.int(1)?, row.count(2)?));
            }
        }
        sizes.sort_unstable();
        Ok(sizes)
    }

    /// What the slices cover; of an item that comes twice, only the later version.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn index_rows(&self, slices: &[IndexSlice]) -> Result<Vec<IndexRow>, DbError> {
        let (mut newest, postgres) = (HashMap::<i64, IndexRow>::new(), matches!(self, Db::Postgres(_)));
        for part in slices.chunks(BULK) {
            let stmt = Stmt::rows(COVERED, covered(part), if postgres { ROWS_OF_EACH } else { ROWS });
            for row in self.all(stmt).await? {
                let row = index_row(&row)?;
                if newest.get(&row.item).is_none_or(|held| held.version < row.version) {
                    newest.insert(row.item, row);
                }
            }
        }
        Ok(newest.into_values().collect())
    }

    /// Segments of these accounts that must be indexed anew.
    ///
    /// # Errors
    /// Where the database cannot be read.
    pub async fn index_todos(&self, accounts: &[i64], limit: usize) -> Result<Vec<TodoRow>, DbError> {
        let mut todos = Vec::new();
        for part in accounts.chunks(BULK) {
            if todos.len() >= limit {
                break;
            }
            let stmt = Stmt::list(
                "select t.account, t.segment, t.was, t.times, s.ended, s.codec, s.metadata
                 from search_todo t left join segment s on s.id = t.segment where t.account in ",
                Vec::new(),
                part.iter().copied(),
                &format!(" limit {limit}"),
            );
            for row in self.all(stmt).await? {
                todos.push(todo_row(&row)?);
            }
        }
        Ok(todos)
    }

    /// Changes the index and moves the cursors, in one transaction. Whatever was erased, given to another owner or changed
    /// again in the meantime is left alone. Returns how many documents were written or removed.
    ///
    /// # Errors
    /// Then nothing of it happened; doing the same again is safe.
    pub async fn write_index(&self, batch: &IndexBatch) -> Result<u64, DbError> {
        let mut tx = self.begin().await?;
        if tx.is_postgres() {
            tx.all(sql(LATER)).await?;
        }
        tx.share_key(super::purge::KEY).await?;
        let owned = tx.held_of(batch).await?;
        let todos = tx.claim_todos(batch, &owned).await?;
        let gone = tx.gone(batch).await?;
        let mut drop: Vec<(i64, Time)> = Vec::new();
        for todo in batch.todos.iter().filter(|todo| todos.contains(&(todo.segment, todo.was.0))) {
            let moved = todo.now.as_ref().is_none_or(|(ended, _)| *ended != todo.was);
            let first = if moved { 0 } else { 3 };
            drop.extend((first..4).map(|code| (todo.segment * 4 + code, todo.was)));
        }
        // A segment can be listed, or read, while it is erased.
        let noted = batch.entries.iter().filter(|entry| entry.version == 0).map(|entry| entry.item.div_euclid(4));
        let mut notes = tx.there(noted.collect()).await?;
        // What is asked for once more comes once more.
        for todo in batch.todos.iter().filter(|todo| !todos.contains(&(todo.segment, todo.was.0))) {
            notes.remove(&todo.segment);
        }
        let (mut put, mut empty) = (Vec::new(), Vec::new());
        for entry in batch.entries.iter().filter(|entry| owned.contains(&entry.account)) {
            let counts = match entry.version {
                0 => notes.contains(&entry.item.div_euclid(4)),
                version => !gone.contains(&(entry.item, version)),
            };
            if counts {
                if matches!(entry.form, Form::Nothing) { &mut empty } else { &mut put }.push(entry);
            }
        }
        drop.extend(empty.iter().map(|entry| (entry.item, entry.ended)));
        tx.drop_docs(&drop).await?;
        let crowds = match self {
            Db::Sqlite(pools) => Some((&pools.crowds, tx.put_texts(&put, &pools.crowds).await?)),
            Db::Postgres(_) => {
                tx.put_blocks(&put).await?;
                None
            }
        };
        tx.put_skipped(&batch.skipped, put.iter().map(|entry| entry.item)).await?;
        tx.move_cursors(batch.slices.iter().filter(|slice| owned.contains(&slice.owned.account))).await?;
        tx.commit().await?;
        if let Some((crowds, taken)) = crowds {
            crowds.note(&taken);
        }
        Ok((drop.len() + put.len()) as u64)
    }

    /// Does what was put off: every search goes through it. To be called after some thousand documents, and where nothing more
    /// is to be written for the moment.
    ///
    /// # Errors
    /// Where the database fails; it can be called again.
    pub async fn tidy_index(&self) -> Result<(), DbError> {
        const BOTH: &str = "select gin_clean_pending_list(cast(name as regclass))
             from (values ('search_block_words'), ('search_block_parts')) i (name)";
        self.vacuum_postgres(BOTH).await
    }
}

/// What Postgres has to say in its index it puts off, and does the quicker the more there is to say at once. That takes seconds,
/// so it is not to do it within a transaction, but in [`Db::tidy_index`].
const LATER: &str = "select set_config('gin_pending_list_limit', '256MB', true)";

const COVERED: &str = "with c (account, low, high) as (values ";
const SIZES: &str = ") select x.account, x.feed, x.size
     from c join artifact x on x.account = c.account and x.feed > c.low and x.feed <= c.high";
const ROWS: &str = ") select x.account, x.item, x.version, x.outcome, x.codec, x.body, s.ended, s.codec, s.metadata
     from c join artifact x on x.account = c.account and x.feed > c.low and x.feed <= c.high
     join segment s on s.id = x.item / 4";
// Postgres takes a slice for a good part of the account's feed, and would read all artifacts there are for a few of them.
const SIZES_OF_EACH: &str = ") select x.account, x.feed, x.size from c cross join lateral
     (select account, feed, size from artifact where account = c.account and feed > c.low and feed <= c.high offset 0) x";
const ROWS_OF_EACH: &str =
    ") select x.account, x.item, x.version, x.outcome, x.codec, x.body, x.ended, x.form, x.metadata
     from c cross join lateral
     (select a.account, a.item, a.version, a.outcome, a.codec, a.body, s.ended, s.codec as form, s.metadata
     from artifact a join segment s on s.id = a.item / 4
     where a.account = c.account and a.feed > c.low and a.feed <= c.high offset 0) x";

fn covered(slices: &[IndexSlice]) -> Vec<Vec<Arg>> {
    slices.iter().map(|slice| vec![slice.owned.account.into(), slice.after.into(), slice.to.into()]).collect()
}

fn index_row(row: &Row) -> Result<IndexRow, DbError> {
    // What is damaged has no words, and must not keep the rest out of the index; `verify` names it.
    let body = if row.int(3)? == 0 { item::unpack_text(row.int(4)?, row.bytes(5)?).ok() } else { None };
    let metadata = metadata(row.int(7)?, row.bytes(8)?);
    Ok(IndexRow { account: row.int(0)?, item: row.int(1)?, version: row.int(2)?, body, ended: row.time(6)?, metadata })
}

fn todo_row(row: &Row) -> Result<TodoRow, DbError> {
    let now = match row.maybe_time(4)? {
        Some(ended) => Some((ended, metadata(row.int(5)?, row.bytes(6)?))),
        None => None,
    };
    Ok(TodoRow { account: row.int(0)?, segment: row.int(1)?, was: row.time(2)?, times: row.int(3)?, now })
}

fn metadata(codec: i64, packed: Vec<u8>) -> String {
    String::from_utf8_lossy(&item::unpack(codec, packed).unwrap_or_default()).into_owned()
}

impl Tx {
    /// The batch's accounts that still are its owner's. An owner that comes after this look finds the cursor a little back
    /// at worst and does the same again; so no lock is held on accounts, which those who store results are waiting for.
    async fn held_of(&mut self, batch: &IndexBatch) -> Result<HashSet<i64>, DbError> {
        let epochs: HashMap<i64, i64> =
            batch.slices.iter().map(|slice| (slice.owned.account, slice.owned.epoch)).collect();
        // What changes without a slice is not bound to an owner: whoever does it, it is the same.
        let mut held: HashSet<i64> = batch.todos.iter().map(|todo| todo.account).collect();
        let accounts: Vec<i64> = epochs.keys().copied().collect();
        for part in accounts.chunks(BULK) {
            let stmt = Stmt::list("select id, epoch from account where id in ", Vec::new(), part.iter().copied(), "");
            for row in self.all(stmt).await? {
                let account = row.int(0)?;
                if epochs.get(&account) == Some(&row.int(1)?) {
                    held.insert(account);
                } else {
                    held.remove(&account);
                }
            }
        }
        Ok(held)
    }

    /// Takes what was to be done off the list, unless it was asked for again since it was read.
    async fn claim_todos(&mut self, batch: &IndexBatch, held: &HashSet<i64>) -> Result<HashSet<(i64, i64)>, DbError> {
        let mut claimed = HashSet::new();
        let todos: Vec<&TodoRow> = batch.todos.iter().filter(|todo| held.contains(&todo.account)).collect();
        for part in todos.chunks(BULK) {
            let rows = part
                .iter()
                .map(|todo| vec![todo.account.into(), todo.segment.into(), Arg::from(todo.was), todo.times.into()]);
            // What someone lists again at this moment is asked for again: passed over rather than waited for.
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
            for row in self.all(stmt).await? {
                claimed.insert((row.int(0)?, row.int(1)?));
            }
        }
        Ok(claimed)
    }

    /// The versions among the batch's that the archive does not hold any more.
    async fn gone(&mut self, batch: &IndexBatch) -> Result<HashSet<(i64, i64)>, DbError> {
        let mut gone = HashSet::new();
        let entries: Vec<&IndexEntry> = batch.entries.iter().filter(|entry| entry.version > 0).collect();
        for part in entries.chunks(BULK) {
            let stmt = Stmt::rows(
                "with v (item, version) as (values ",
                part.iter().map(|entry| vec![entry.item.into(), entry.version.into()]).collect(),
                ") select item, version from v where not exists
                 (select 1 from artifact x where x.item = v.item and x.version = v.version)",
            );
            for row in self.all(stmt).await? {
                gone.insert((row.int(0)?, row.int(1)?));
            }
        }
        Ok(gone)
    }

    /// Which of these segments the archive holds.
    async fn there(&mut self, segments: Vec<i64>) -> Result<HashSet<i64>, DbError> {
        let mut there = HashSet::with_capacity(segments.len());
        for part in segments.chunks(BULK) {
            let stmt = Stmt::list("select id from segment where id in ", Vec::new(), part.iter().copied(), "");
            for row in self.all(stmt).await? {
                there.insert(row.int(0)?);
            }
        }
        Ok(there)
    }

    /// Removes from the index the documents of items whose segments ended then.
    pub(super) async fn drop_docs(&mut self, docs: &[(i64, Time)]) -> Result<u64, DbError> {
        let (head, docs) = if self.is_postgres() {
            let docs = docs.iter().map(|(item, ended)| Doc::of(*item, *ended)).collect();
            ("delete from search_block where doc in ", docs)
        } else {
            // A document on SQLite has its number until it goes, whatever becomes of the end time.
            let items: Vec<i64> = docs.iter().map(|(item, _)| *item).collect();
            ("delete from search_text where rowid in ", self.numbers_off(&items).await?)
        };
        let mut dropped = 0;
        for part in docs.chunks(BULK) {
            dropped += self.run(Stmt::list(head, Vec::new(), part.iter().map(|doc| doc.0), "")).await?;
        }
        Ok(dropped)
    }

    /// Writes documents, in place of those of the same items; on SQLite. Returns what the crowds are to know of it.
    async fn put_texts(&mut self, entries: &[&IndexEntry], crowds: &Crowds) -> Result<Vec<(i64, i64)>, DbError> {
        let docs: Vec<(i64, Time)> = entries.iter().map(|entry| (entry.item, entry.ended)).collect();
        let numbers = self.numbered(&docs, crowds).await?;
        for part in entries.chunks(DOCS) {
            let rows = part.iter().filter_map(|entry| {
                let (doc, Form::Words(words)) = (numbers.docs.get(&entry.item)?, &entry.form) else { return None };
                Some(vec![Arg::from(doc.0), words.into()])
            });
            let head = "insert or replace into search_text (rowid, words) values ";
            self.run(Stmt::rows(head, rows.collect(), "")).await?;
        }
        Ok(numbers.crowds)
    }

    /// The same on Postgres.
    async fn put_blocks(&mut self, entries: &[&IndexEntry]) -> Result<(), DbError> {
        let docs: Vec<(i64, Time)> = entries.iter().map(|entry| (entry.item, entry.ended)).collect();
        self.drop_docs(&docs).await?;
        for part in entries.chunks(DOCS) {
            let mut rows: Vec<Vec<Arg>> = Vec::with_capacity(part.len());
            for entry in part {
                let (doc, Form::Blocks(blocks)) = (Doc::of(entry.item, entry.ended), &entry.form) else { continue };
                let many = blocks.len() > 1;
                rows.extend((0_i64..).zip(blocks).map(|(nth, (words, keys))| {
                    vec![doc.0.into(), nth.into(), many.into(), words.into(), keys.into()]
                }));
            }
            self.run_rows(
                "with v (doc, block, many, words, keys) as (values ",
                rows,
                ") insert into search_block (doc, block, many, words, keys)
                 select doc, block, many, cast(words as tsvector), cast(keys as integer[]) from v",
            )
            .await?;
        }
        Ok(())
    }

    async fn move_cursors(&mut self, slices: impl Iterator<Item = &IndexSlice>) -> Result<(), DbError> {
        let rows: Vec<Vec<Arg>> = slices.map(|slice| vec![slice.owned.account.into(), Arg::from(slice.to)]).collect();
        self.run_rows(
            "insert into search_cursor (account, feed) values ",
            rows,
            " on conflict (account) do update set feed = excluded.feed",
        )
        .await
        .map(drop)
    }
}
