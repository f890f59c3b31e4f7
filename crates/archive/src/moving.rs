//! Moving house: everything that a SQLite archive holds, carried over to an empty Postgres database.
//!
//! Goes by the two schemas as they are when it runs: each table that both have, column by column, so that a table that
//! is added later moves along. The full-text index stays behind; it is made anew from the archive. One snapshot on this
//! side, one transaction on the other: a move that does not end never began.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;

use super::sql::SqliteTx;
use super::{Access, Db, DbError, DbFault, Row, Stmt, Tx, sql};
use crate::clock::Time;

/// Tables of the index and of how far it is: the other side makes its own.
const INDEX: &str = "search_";
/// How much is gathered before it is sent.
const PORTION: usize = 256 * 1024;
/// What begins and what ends rows in Postgres' binary format.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: &[u8] = &[0xff, 0xff];

/// A table that is carried over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedTable {
    /// Its name.
    pub name: String,
    /// How many rows it has.
    pub rows: u64,
}

/// What was carried over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Moved {
    /// The tables, in the order in which they were carried.
    pub tables: Vec<MovedTable>,
    /// Texts that held NUL characters, which Postgres cannot keep: they stand as U+FFFD there.
    pub replaced: u64,
}

/// A move under way: nothing of it can be seen on the other side before [`Moving::finish`].
pub struct Moving {
    from: Tx,
    to: Tx,
    tables: Vec<Table>,
    replaced: u64,
}

struct Table {
    name: String,
    rows: u64,
    columns: Vec<Column>,
    /// The column that Postgres numbers by itself.
    identity: Option<String>,
    /// The highest number that was ever given, where that is known.
    highest: i64,
}

struct Column {
    name: String,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Int,
    Text,
    Bytes,
}

impl Moving {
    /// Fixes what is carried, and keeps everyone else from writing on the other side.
    ///
    /// # Errors
    /// Where the other side holds anything already, is not Postgres, or has no room for a column of this side.
    pub async fn begin(from: &Db, to: &Db) -> Result<Moving, DbError> {
        let Db::Sqlite(pools) = from else { return Err(wrong_way()) };
        if to.file().is_some() {
            return Err(wrong_way());
        }
        let seeds = seeds().await?;
        let mut from = Tx::Sqlite(SqliteTx::begin(&pools.reader, "begin").await?);
        let mut to = to.begin().await?;
        let mut tables = Vec::new();
        for name in from.sqlite_tables().await? {
            if let Some(table) = table(&mut from, &mut to, name).await? {
                tables.push(table);
            }
        }
        let names: Vec<String> = tables.iter().map(|table| quoted(&table.name)).collect();
        to.run(Stmt::built(format!("lock table {} in exclusive mode", names.join(", ")))).await?;
        for table in &tables {
            let held = to.count(&table.name).await?;
            if held > seeds.get(&table.name).copied().unwrap_or(0) {
                return Err(taken(&table.name, held));
            }
            if held > 0 {
                to.run(Stmt::built(format!("delete from {}", quoted(&table.name)))).await?;
            }
        }
        Ok(Moving { from, to, tables, replaced: 0 })
    }

    /// How many rows there are to carry.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Carries all rows over, saying now and then how many more have gone.
    ///
    /// # Errors
    /// Where one side cannot be read or the other not be written.
    pub async fn carry(&mut self, gone: &(dyn Fn(u64) + Sync)) -> Result<(), DbError> {
        for table in &self.tables {
            self.replaced += carry(&mut self.from, &mut self.to, table, gone).await?;
        }
        Ok(())
    }

    /// Sets what the new place needs set, counts again, and makes it durable.
    ///
    /// # Errors
    /// Where the counts differ, or the other side does not take it.
    pub async fn finish(mut self, now: Time) -> Result<Moved, DbError> {
        for table in &self.tables {
            let held = self.to.count(&table.name).await?;
            if held != table.rows {
                let (name, rows) = (&table.name, table.rows);
                let message = format!("failed to carry the table {name} over: {rows} rows went, {held} arrived");
                return Err(DbError::new(DbFault::Broken, message));
            }
            if let Some(identity) = &table.identity {
                self.to.number_on(&table.name, identity, table.highest).await?;
            }
        }
        self.to.settle_in(now).await?;
        for table in &self.tables {
            // Without it, the first queries are planned as if the tables were empty.
            self.to.run(Stmt::built(format!("analyze {}", quoted(&table.name)))).await?;
        }
        self.to.commit().await?;
        let tables = self.tables.into_iter().map(|table| MovedTable { name: table.name, rows: table.rows });
        Ok(Moved { tables: tables.collect(), replaced: self.replaced })
    }
}

/// The table as both sides know it; `None` where the other side does not.
async fn table(from: &mut Tx, to: &mut Tx, name: String) -> Result<Option<Table>, DbError> {
    let (known, identity) = to.postgres_columns(&name).await?;
    if known.is_empty() {
        return Ok(None);
    }
    let mut columns = Vec::new();
    for column in from.sqlite_columns(&name).await? {
        let kind = match known.get(&column).map(String::as_str) {
            Some("bigint") => Kind::Int,
            Some("text") => Kind::Text,
            Some("bytea") => Kind::Bytes,
            _ => return Err(no_place(&name, &column)),
        };
        columns.push(Column { name: column, kind });
    }
    let rows = from.count(&name).await?;
    let highest = from.highest(&name).await?;
    Ok(Some(Table { name, rows, columns, identity, highest }))
}

/// Carries one table; returns how many texts had to be changed for it.
async fn carry(from: &mut Tx, to: &mut Tx, table: &Table, gone: &(dyn Fn(u64) + Sync)) -> Result<u64, DbError> {
    let Tx::Postgres(to) = to else { return Err(wrong_way()) };
    let columns: Vec<String> = table.columns.iter().map(|column| quoted(&column.name)).collect();
    let (name, columns) = (quoted(&table.name), columns.join(", "));
    let mut copy = to.bare().copy_in_raw(&format!("copy {name} ({columns}) from stdin (format binary)")).await?;
    let mut rows = from.stream(Stmt::built(format!("select {columns} from {name}")))?;
    let mut portion = HEADER.to_vec();
    let (mut waiting, mut replaced) = (0, 0);
    while let Some(row) = rows.try_next().await? {
        replaced += encode(&row, &table.columns, &mut portion)?;
        waiting += 1;
        if portion.len() >= PORTION {
            copy.send(portion.as_slice()).await?;
            portion.clear();
            gone(std::mem::take(&mut waiting));
        }
    }
    portion.extend_from_slice(TRAILER);
    copy.send(portion.as_slice()).await?;
    copy.finish().await?;
    gone(waiting);
    Ok(replaced)
}

/// Writes a row in Postgres' binary format; returns how many of its texts had to be changed.
fn encode(row: &Row, columns: &[Column], into: &mut Vec<u8>) -> Result<u64, DbError> {
    let mut replaced = 0;
    into.extend_from_slice(&i16::try_from(columns.len()).unwrap_or(i16::MAX).to_be_bytes());
    for (index, column) in columns.iter().enumerate() {
        match column.kind {
            Kind::Int => field(into, row.maybe_int(index)?.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice)),
            Kind::Bytes => field(into, row.maybe_bytes(index)?.as_deref()),
            Kind::Text => {
                let mut text = row.maybe_text(index)?;
                if let Some(held) = text.as_mut().filter(|text| text.contains('\0')) {
                    *held = held.replace('\0', "\u{fffd}");
                    replaced += 1;
                }
                field(into, text.as_deref().map(str::as_bytes));
            }
        }
    }
    Ok(replaced)
}

fn field(into: &mut Vec<u8>, value: Option<&[u8]>) {
    let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or(i32::MAX));
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(value.unwrap_or_default());
}

/// How many rows each table has before anybody has used it: some begin with one.
async fn seeds() -> Result<BTreeMap<String, u64>, DbError> {
    // In a container without a folder for temporary files, the working directory is the archive's volume.
    let folder = tempfile::tempdir().or_else(|_| tempfile::tempdir_in("."));
    let folder = folder.map_err(|error| DbError::create(&std::env::temp_dir(), error))?;
    let fresh = Db::open_sqlite(&folder.path().join("fresh.db"), Access::Own).await?;
    let mut tx = fresh.begin().await?;
    let mut seeds = BTreeMap::new();
    for name in tx.sqlite_tables().await? {
        let rows = tx.count(&name).await?;
        seeds.insert(name, rows);
    }
    drop(tx);
    fresh.close().await;
    Ok(seeds)
}

impl Tx {
    /// The tables to carry, those first that others refer to: in the order in which they were made.
    async fn sqlite_tables(&mut self) -> Result<Vec<String>, DbError> {
        let stmt = sql("select s.name from sqlite_master s join pragma_table_list l on l.name = s.name
             where l.schema = 'main' and l.type = 'table' and s.type = 'table' order by s.rowid");
        let rows = self.all(stmt).await?;
        let mut names = rows.iter().map(|row| row.text(0)).collect::<Result<Vec<_>, _>>()?;
        names.retain(|name| !["sqlite_", "_sqlx", INDEX].iter().any(|other| name.starts_with(other)));
        Ok(names)
    }

    async fn sqlite_columns(&mut self, table: &str) -> Result<Vec<String>, DbError> {
        let rows = self.all(sql("select name from pragma_table_info($1) order by cid").bind(table)).await?;
        rows.iter().map(|row| row.text(0)).collect()
    }

    /// A table's columns and their types, and which of them is numbered by the database.
    async fn postgres_columns(&mut self, table: &str) -> Result<(BTreeMap<String, String>, Option<String>), DbError> {
        let stmt = sql("select cast(column_name as text), cast(data_type as text),
             cast(case when is_identity = 'YES' then 1 else 0 end as bigint) from information_schema.columns
             where table_schema = current_schema() and table_name = $1 and is_generated = 'NEVER'");
        let (mut columns, mut identity) = (BTreeMap::new(), None);
        for row in self.all(stmt.bind(table)).await? {
            if row.flag(2)? {
                identity = Some(row.text(0)?);
            }
            columns.insert(row.text(0)?, row.text(1)?);
        }
        Ok((columns, identity))
    }

    async fn count(&mut self, table: &str) -> Result<u64, DbError> {
        let row = self.first(Stmt::built(format!("select count(*) from {}", quoted(table)))).await?;
        row.map_or(Ok(0), |row| row.count(0))
    }

    /// The highest number that this table has ever given a row, also to one that is gone; 0 where that is not kept.
    async fn highest(&mut self, table: &str) -> Result<i64, DbError> {
        let stmt =
            sql("select coalesce(max(number), 0) from (select seq as number from sqlite_sequence where name = $1
             union all select cast(value as integer) from meta where key = $1 || '.newest')");
        self.first(stmt.bind(table)).await?.map_or(Ok(0), |row| row.int(0))
    }

    /// Has the next row numbered after the highest number that came along, or was given to one that is gone.
    async fn number_on(&mut self, table: &str, column: &str, highest: i64) -> Result<(), DbError> {
        let (name, number) = (quoted(table), quoted(column));
        let stmt = Stmt::built(format!(
            "select setval(pg_get_serial_sequence($1, $2), greatest(max({number}), cast($3 as bigint), 1),
             max({number}) is not null or cast($3 as bigint) > 0) from {name}"
        ));
        self.all(stmt.bind(name).bind(column).bind(highest)).await.map(drop)
    }

    /// Whoever held rights on the file holds none here: a new epoch for each account. An owner that died rather than let
    /// go stays written down, for whoever takes over leaves room for what it may still have under way. Moments that
    /// limits go by are told by this database's clock from now on.
    async fn settle_in(&mut self, now: Time) -> Result<(), DbError> {
        let ahead = self.clock_ahead(now).await?;
        for text in [
            "update account set epoch = epoch + 1, let_go = let_go + $1",
            "update replica set heartbeat = heartbeat + $1, released = released + $1",
            "update reservation set reserved = reserved + $1, counted = counted + $1",
        ] {
            self.run(sql(text).bind(ahead)).await?;
        }
        // The index stayed behind: what is said of it is not true here, and it is built anew, agents' notes and all.
        self.run(sql("delete from meta where key like 'search%'")).await.map(drop)
    }
}

/// A name of our own schemas, as both databases take it.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn wrong_way() -> DbError {
    DbError::new(DbFault::Broken, "failed to move the archive: it moves from SQLite to Postgres only")
}

fn no_place(table: &str, column: &str) -> DbError {
    DbError::new(
        DbFault::Broken,
        format!("failed to move the archive: the other side has no place for the column {column} of the table {table}"),
    )
}

fn taken(table: &str, rows: u64) -> DbError {
    let rows = if rows == 1 { "a row".to_owned() } else { format!("{rows} rows") };
    DbError::new(
        DbFault::Broken,
        format!(
            "failed to move the archive: the Postgres database is in use already, its table {table} holds {rows}\n\
             hint: move into an empty database; a move that was cut short leaves none of this behind, it can simply be run again"
        ),
    )
}
