//! Copies a SQLite archive to an empty Postgres database.
//!
//! It reads both schemas at run time and copies each table that both have, column by column. So
//! tables of later migrations are included. The full-text index is not copied; it is rebuilt from
//! the archive. The copy reads one snapshot and writes one transaction, so an interrupted copy
//! leaves nothing behind.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::sql::SqliteTx;
use super::{Db, DbError, DbFault, OpenMode, Stmt, Tx, sql};
use crate::clock::Time;

/// Tables of the full-text index and its progress. They are not copied.
const INDEX_TABLE_PREFIX: &str = "search_";
/// Tables of a DuckLake catalog. They are not copied: the daemon creates the catalog again.
const CATALOG_TABLE_PREFIX: &str = "ducklake_";
/// Rows are sent to Postgres in buffers of about this size.
const COPY_BUFFER_BYTES: usize = 256 * 1024;
/// Header and trailer of the binary `COPY` format.
const PGCOPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const PGCOPY_TRAILER: &[u8] = &[0xff, 0xff];

/// A table that was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedTable {
    /// Its name.
    pub name: String,
    /// How many rows it has.
    pub rows: u64,
}

/// The result of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CopySummary {
    /// The tables, in the order of the copy.
    pub tables: Vec<CopiedTable>,
    /// Texts in which NUL characters were replaced by U+FFFD, because Postgres cannot store them.
    pub replaced_texts: u64,
}

/// A copy in progress. Nothing of it is visible in the target before [`PostgresCopy::finish`].
pub struct PostgresCopy {
    from: Tx,
    to: Tx,
    tables: Vec<CopyTable>,
    replaced_texts: u64,
}

struct CopyTable {
    name: String,
    rows: u64,
    columns: Vec<CopyColumn>,
    /// The column that Postgres generates.
    identity: Option<String>,
    /// The highest value that the source ever generated; 0 where it is not recorded.
    highest_id: i64,
}

struct CopyColumn {
    name: String,
    column_type: ColumnType,
}

#[derive(Clone, Copy)]
enum ColumnType {
    Int,
    Text,
    Bytes,
}

impl PostgresCopy {
    /// Begins the snapshot and the transaction, and locks the target's tables against other
    /// writers.
    ///
    /// # Errors
    /// Where the target has data already, is not Postgres, or lacks a column of the source.
    pub async fn begin(from: &Db, to: &Db) -> Result<PostgresCopy, DbError> {
        let Db::Sqlite(pools) = from else { return Err(unsupported_direction()) };
        if to.sqlite_path().is_some() {
            return Err(unsupported_direction());
        }
        let initial_row_counts = initial_row_counts().await?;
        let mut from = Tx::Sqlite(SqliteTx::begin(&pools.reader, "begin").await?);
        let mut to = to.begin().await?;
        let mut tables = Vec::new();
        for name in from.sqlite_tables().await? {
            if let Some(table) = table_layout(&mut from, &mut to, name).await? {
                tables.push(table);
            }
        }
        let names: Vec<String> = tables.iter().map(|table| quote_name(&table.name)).collect();
        to.run(Stmt::built(format!("lock table {} in exclusive mode", names.join(", ")))).await?;
        for table in &tables {
            let stored = to.count_rows(&table.name).await?;
            if stored > initial_row_counts.get(&table.name).copied().unwrap_or(0) {
                return Err(target_not_empty(&table.name, stored));
            }
            if stored > 0 {
                to.run(Stmt::built(format!("delete from {}", quote_name(&table.name)))).await?;
            }
        }
        Ok(PostgresCopy { from, to, tables, replaced_texts: 0 })
    }

    /// How many rows there are to copy.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// Copies all rows. Calls `on_progress` with the number of rows since its last call.
    ///
    /// # Errors
    /// Where the source cannot be read or the target cannot be written.
    pub async fn copy_tables(&mut self, on_progress: &(dyn Fn(u64) + Sync)) -> Result<(), DbError> {
        for table in &self.tables {
            self.replaced_texts += copy_table(&mut self.from, &mut self.to, table, on_progress).await?;
        }
        Ok(())
    }

    /// Compares the row counts, adjusts generated keys and time values, and commits.
    ///
    /// # Errors
    /// Where the counts differ, or the target cannot be written.
    pub async fn finish(mut self, now: Time) -> Result<CopySummary, DbError> {
        for table in &self.tables {
            let stored = self.to.count_rows(&table.name).await?;
            if stored != table.rows {
                let (name, rows) = (&table.name, table.rows);
                let message =
                    format!("failed to copy the table {name}: {rows} rows were read, but the target has {stored}");
                return Err(DbError::new(DbFault::Broken, message));
            }
            if let Some(identity) = &table.identity {
                self.to.restart_identity(&table.name, identity, table.highest_id).await?;
            }
        }
        self.to.adjust_to_postgres(now).await?;
        for table in &self.tables {
            // Without statistics, the first queries are planned for empty tables.
            self.to.run(Stmt::built(format!("analyze {}", quote_name(&table.name)))).await?;
        }
        self.to.commit().await?;
        let tables = self.tables.into_iter().map(|table| CopiedTable { name: table.name, rows: table.rows });
        Ok(CopySummary { tables: tables.collect(), replaced_texts: self.replaced_texts })
    }
}

/// The columns to copy of a table; `None` where the target does not have the table.
async fn table_layout(from: &mut Tx, to: &mut Tx, name: String) -> Result<Option<CopyTable>, DbError> {
    let (known, identity) = to.postgres_columns(&name).await?;
    if known.is_empty() {
        return Ok(None);
    }
    let mut columns = Vec::new();
    for column in from.sqlite_columns(&name).await? {
        let column_type = match known.get(&column).map(String::as_str) {
            Some("bigint") => ColumnType::Int,
            Some("text") => ColumnType::Text,
            Some("bytea") => ColumnType::Bytes,
            _ => return Err(missing_column(&name, &column)),
        };
        columns.push(CopyColumn { name: column, column_type });
    }
    let rows = from.count_rows(&name).await?;
    let highest_id = from.highest_id(&name).await?;
    Ok(Some(CopyTable { name, rows, columns, identity, highest_id }))
}

/// Copies one table; returns in how many texts NUL was replaced.
async fn copy_table(
    from: &mut Tx,
    to: &mut Tx,
    table: &CopyTable,
    on_progress: &(dyn Fn(u64) + Sync),
) -> Result<u64, DbError> {
    let (Tx::Sqlite(from), Tx::Postgres(to)) = (from, to) else { return Err(unsupported_direction()) };
    let columns: Vec<String> = table.columns.iter().map(|column| quote_name(&column.name)).collect();
    let (name, columns) = (quote_name(&table.name), columns.join(", "));
    let mut copy =
        to.raw_connection().copy_in_raw(&format!("copy {name} ({columns}) from stdin (format binary)")).await?;
    let mut rows = from.stream(Stmt::built(format!("select {columns} from {name}")).sqlite()?);
    let mut buffer = PGCOPY_HEADER.to_vec();
    let (mut unreported, mut replaced_texts) = (0, 0);
    while let Some(row) = rows.try_next().await? {
        replaced_texts += encode_row(&row, &table.columns, &mut buffer)?;
        unreported += 1;
        if buffer.len() >= COPY_BUFFER_BYTES {
            copy.send(buffer.as_slice()).await?;
            buffer.clear();
            on_progress(std::mem::take(&mut unreported));
        }
    }
    buffer.extend_from_slice(PGCOPY_TRAILER);
    copy.send(buffer.as_slice()).await?;
    copy.finish().await?;
    on_progress(unreported);
    Ok(replaced_texts)
}

/// Writes a row in the binary `COPY` format; returns in how many of its texts NUL was replaced.
fn encode_row(row: &SqliteRow, columns: &[CopyColumn], out: &mut Vec<u8>) -> Result<u64, DbError> {
    let mut replaced_texts = 0;
    out.extend_from_slice(&i16::try_from(columns.len()).unwrap_or(i16::MAX).to_be_bytes());
    for (index, column) in columns.iter().enumerate() {
        match column.column_type {
            ColumnType::Int => write_field(
                out,
                row.try_get::<Option<i64>, _>(index)?.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice),
            ),
            ColumnType::Bytes => write_field(out, row.try_get::<Option<&[u8]>, _>(index)?),
            ColumnType::Text => {
                let mut text: Option<String> = row.try_get(index)?;
                if let Some(stored) = text.as_mut().filter(|text| text.contains('\0')) {
                    *stored = stored.replace('\0', "\u{fffd}");
                    replaced_texts += 1;
                }
                write_field(out, text.as_deref().map(str::as_bytes));
            }
        }
    }
    Ok(replaced_texts)
}

fn write_field(out: &mut Vec<u8>, value: Option<&[u8]>) {
    let length = value.map_or(-1, |value| i32::try_from(value.len()).unwrap_or(i32::MAX));
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value.unwrap_or_default());
}

/// How many rows each table has in a new database: migrations insert some.
async fn initial_row_counts() -> Result<BTreeMap<String, u64>, DbError> {
    // A container may have no folder for temporary files; its working directory is the archive's
    // volume.
    let folder = tempfile::tempdir().or_else(|_| tempfile::tempdir_in("."));
    let folder = folder.map_err(|error| DbError::create_failed(&std::env::temp_dir(), error))?;
    let empty_db = Db::open_sqlite(&folder.path().join("fresh.db"), OpenMode::CreateOrMigrate).await?;
    let mut tx = empty_db.begin().await?;
    let mut initial_row_counts = BTreeMap::new();
    for name in tx.sqlite_tables().await? {
        let rows = tx.count_rows(&name).await?;
        initial_row_counts.insert(name, rows);
    }
    drop(tx);
    empty_db.close().await;
    Ok(initial_row_counts)
}

impl Tx {
    /// The tables to copy, in the order of their creation, so that referenced tables come first.
    async fn sqlite_tables(&mut self) -> Result<Vec<String>, DbError> {
        let stmt = sql("select s.name from sqlite_master s join pragma_table_list l on l.name = s.name
             where l.schema = 'main' and l.type = 'table' and s.type = 'table' order by s.rowid");
        let mut names: Vec<String> = self.values(stmt).await?;
        names.retain(|name| {
            !["sqlite_", "_sqlx", CATALOG_TABLE_PREFIX, INDEX_TABLE_PREFIX].iter().any(|other| name.starts_with(other))
        });
        Ok(names)
    }

    async fn sqlite_columns(&mut self, table: &str) -> Result<Vec<String>, DbError> {
        self.values(sql("select name from pragma_table_info($1) order by cid").bind(table)).await
    }

    /// A table's columns with their types, and its generated column.
    async fn postgres_columns(&mut self, table: &str) -> Result<(BTreeMap<String, String>, Option<String>), DbError> {
        let stmt = sql("select cast(column_name as text), cast(data_type as text),
             cast(case when is_identity = 'YES' then 1 else 0 end as bigint) from information_schema.columns
             where table_schema = current_schema() and table_name = $1 and is_generated = 'NEVER'");
        let (mut columns, mut identity) = (BTreeMap::new(), None);
        for (name, data_type, is_identity) in self.all::<(String, String, i64)>(stmt.bind(table)).await? {
            if is_identity != 0 {
                identity = Some(name.clone());
            }
            columns.insert(name, data_type);
        }
        Ok((columns, identity))
    }

    async fn count_rows(&mut self, table: &str) -> Result<u64, DbError> {
        self.count(Stmt::built(format!("select count(*) from {}", quote_name(table)))).await
    }

    /// The highest key that this table ever assigned, also to a deleted row; 0 where it is not
    /// recorded.
    async fn highest_id(&mut self, table: &str) -> Result<i64, DbError> {
        let stmt =
            sql("select coalesce(max(number), 0) from (select seq as number from sqlite_sequence where name = $1
             union all select cast(value as integer) from meta where key = $1 || '.newest')");
        Ok(self.value(stmt.bind(table)).await?.unwrap_or(0))
    }

    /// Sets the sequence of a generated column to continue after the highest key, that of deleted
    /// rows included.
    async fn restart_identity(&mut self, table: &str, column: &str, highest_id: i64) -> Result<(), DbError> {
        let (name, number) = (quote_name(table), quote_name(column));
        let stmt = Stmt::built(format!(
            "select setval(pg_get_serial_sequence($1, $2), greatest(max({number}), cast($3 as bigint), 1),
             max({number}) is not null or cast($3 as bigint) > 0) from {name}"
        ));
        self.run(stmt.bind(name).bind(column).bind(highest_id)).await.map(drop)
    }

    /// Invalidates the leases of the source: each account gets a new epoch. An owner that crashed
    /// stays recorded, because the next one must allow for its requests in flight. Shifts the times
    /// that limits depend on to the target's clock.
    async fn adjust_to_postgres(&mut self, now: Time) -> Result<(), DbError> {
        let offset_ms = self.clock_offset_ms(now).await?;
        for text in [
            "update account set epoch = epoch + 1, let_go = let_go + $1",
            "update replica set heartbeat = heartbeat + $1, released = released + $1",
            "update reservation set reserved = reserved + $1, counted = counted + $1",
        ] {
            self.run(sql(text).bind(offset_ms)).await?;
        }
        // The index was not copied, so its state in `meta` does not apply: it is rebuilt here, with
        // the agents' notes.
        self.run(sql("delete from meta where key like 'search%'")).await.map(drop)
    }
}

/// Quotes a name of our schemas, for both databases.
fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn unsupported_direction() -> DbError {
    DbError::new(DbFault::Broken, "failed to move the archive: it can only be moved from SQLite to Postgres")
}

fn missing_column(table: &str, column: &str) -> DbError {
    DbError::new(
        DbFault::Broken,
        format!("failed to move the archive: the table {table} in Postgres has no fitting column {column}"),
    )
}

fn target_not_empty(table: &str, rows: u64) -> DbError {
    let rows = if rows == 1 { "a row".to_owned() } else { format!("{rows} rows") };
    DbError::broken(
        format!("failed to move the archive: the Postgres database is in use already, its table {table} has {rows}"),
        "move into an empty database; an interrupted move leaves nothing behind and can be run again",
    )
}
