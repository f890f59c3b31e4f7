//! A DuckLake catalog (specification 1.0) of the tables in an object store: in the archive's database,
//! or in another one.
//!
//! A synchronisation compares the files of one account that the catalog lists with those that the
//! archive's tables consist of, and commits the difference as one snapshot. So it can be repeated, and
//! a catalog that was behind catches up. In the archive's database it is part of the transaction that
//! moves the cursor. Earlier snapshots keep their files until they expire.

mod catalog_schema;
mod catalog_tables;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use secrecy::SecretString;

use super::{AccountKey, Db, DbError, DbFault, OpenMode, SinkKey, Stmt, Tx, file_lock, sql};
use crate::clock::Time;

/// The version of the specification.
const VERSION: &str = "1.0";
/// The connections to a catalog in another Postgres database.
const CATALOG_CONNECTIONS: u32 = 2;
/// The key of the advisory lock of a catalog's writers.
const WRITE_LOCK: &str = "ducklake";

/// A column of a table in the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogColumn {
    /// Its name.
    pub name: &'static str,
    /// Its type, in the words of the specification; a list holds texts.
    pub kind: &'static str,
}

/// A table in the catalog. The field ids of its files count the columns, and the elements of lists, from
/// 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogTable {
    /// Its name.
    pub name: &'static str,
    /// Its columns.
    pub columns: Vec<CatalogColumn>,
}

/// What a catalog lists, and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogLayout {
    /// What the names of objects are below, as a reader writes it, with a slash at the end.
    pub base: String,
    /// The tables.
    pub tables: Vec<CatalogTable>,
    /// The names of tables that the sink does not have, or not any more: they list no files.
    pub unused: Vec<&'static str>,
}

/// The files of one account that a catalog is to list.
#[derive(Debug, Clone)]
pub struct CatalogUpdate {
    /// The layout.
    pub layout: CatalogLayout,
    /// The folder of the account in a table, with a slash at the end.
    pub account_folder: String,
}

/// A file of a table, as the archive knows it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct TableFileRow {
    content: String,
    name: String,
    row_count: i64,
    size: i64,
    footer_size: i64,
    first_end: Option<i64>,
    last_end: Option<i64>,
}

/// A file that the catalog lists.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
struct ListedFile {
    data_file_id: i64,
    path: String,
    record_count: i64,
    file_size_bytes: i64,
}

/// The newest snapshot.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
struct SnapshotRow {
    snapshot_id: i64,
    schema_version: i64,
    next_catalog_id: i64,
    next_file_id: i64,
}

impl Db {
    /// Opens a catalog in a SQLite file, which is created if it does not exist.
    pub async fn open_sqlite_catalog(path: &Path) -> Result<Db, DbError> {
        file_lock::create_private_file(path)?;
        Db::open_sqlite(path, OpenMode::AnyVersion).await
    }

    /// Opens a catalog in a Postgres database.
    pub async fn open_postgres_catalog(url: &SecretString) -> Result<Db, DbError> {
        Db::open_postgres(url, OpenMode::AnyVersion, CATALOG_CONNECTIONS).await
    }

    /// Creates the catalog, and the tables that it lacks.
    ///
    /// # Errors
    /// If the catalog is of another version.
    pub async fn prepare_catalog(&self, layout: &CatalogLayout, now: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.advisory_lock(WRITE_LOCK).await?;
        // Looked for under the lock: two replicas may start at the same time.
        if !self.has_table("ducklake_metadata").await? {
            tx.create_catalog(&layout.base, now).await?;
        }
        let version: Option<String> =
            tx.value(sql("select value from ducklake_metadata where key = 'version' and scope is null")).await?;
        if version.as_deref() != Some(VERSION) {
            let held = version.unwrap_or_default();
            let error =
                DbError::new(DbFault::Broken, format!("the DuckLake catalog has version {held}, not {VERSION}"));
            return Err(error.with_hint("upgrade it with DuckDB, or configure another catalog"));
        }
        for table in &layout.tables {
            tx.prepare_table(layout, table, now).await?;
        }
        tx.end_outdated_files(layout, now).await?;
        tx.commit().await
    }

    /// Makes a catalog in another database list what the archive's tables consist of.
    pub async fn synchronize_catalog(
        &self,
        archive: &Db,
        sink: SinkKey,
        account: AccountKey,
        update: &CatalogUpdate,
        now: Time,
    ) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        // Read under the lock: the files that a former owner of the account read must not be listed after
        // those of the next one.
        tx.advisory_lock(WRITE_LOCK).await?;
        let files = archive.all(current_table_files(sink, account)).await?;
        tx.list_files(update, files, now).await?;
        tx.commit().await
    }

    /// Deletes the snapshots that were replaced before a time, and the files that no snapshot shows any
    /// more.
    pub async fn expire_catalog(&self, layout: &CatalogLayout, before: Time) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.advisory_lock(WRITE_LOCK).await?;
        // A snapshot expires when the next one is old enough: until that one, it was the newest.
        let time_cast = tx.time_cast(1);
        let stmt = Stmt::built(format!(
            "delete from ducklake_snapshot where snapshot_id <
             (select max(snapshot_id) from ducklake_snapshot where snapshot_time < {time_cast})"
        ));
        if tx.run(stmt.bind(catalog_time(before))).await? == 0 {
            return tx.commit().await;
        }
        let stmt = sql("delete from ducklake_snapshot_changes
             where snapshot_id not in (select snapshot_id from ducklake_snapshot)");
        tx.run(stmt).await?;
        let length = i64::try_from(layout.base.chars().count()).unwrap_or(i64::MAX);
        let stmt = sql("select data_file_id from ducklake_data_file
             where end_snapshot <= (select min(snapshot_id) from ducklake_snapshot) and substr(path, 1, cast($1 as integer)) = $2");
        let files: Vec<i64> = tx.values(stmt.bind(length).bind(&layout.base)).await?;
        for head in [
            "delete from ducklake_file_column_stats where data_file_id in ",
            "delete from ducklake_delete_file where data_file_id in ",
            "delete from ducklake_data_file where data_file_id in ",
        ] {
            tx.run(Stmt::list(head, Vec::new(), files.iter().copied(), "")).await?;
        }
        tx.commit().await
    }

    /// Those of these paths that a snapshot still shows.
    pub async fn cataloged_paths(&self, paths: &[String]) -> Result<HashSet<String>, DbError> {
        let head = "select path from ducklake_data_file where path in ";
        Ok(self.values::<String>(Stmt::list(head, Vec::new(), paths, "")).await?.into_iter().collect())
    }
}

/// The files of the account's current slices.
fn current_table_files(sink: SinkKey, account: AccountKey) -> Stmt {
    sql("select f.content, f.name, f.row_count, f.size, f.footer_size, s.first_end, s.last_end
         from lake_slice s join lake_file f on f.slice = s.id where s.sink = $1 and s.account = $2 and s.state = 1")
    .bind(sink)
    .bind(account)
}

impl Tx {
    /// Makes the catalog in the archive's database list what the tables consist of in this transaction.
    pub(super) async fn synchronize_catalog(
        &mut self,
        sink: SinkKey,
        account: AccountKey,
        update: &CatalogUpdate,
        now: Time,
    ) -> Result<(), DbError> {
        let files = self.all(current_table_files(sink, account)).await?;
        self.list_files(update, files, now).await
    }

    /// Commits the difference between these files and those that the catalog lists for the account, as
    /// one snapshot.
    async fn list_files(&mut self, update: &CatalogUpdate, files: Vec<TableFileRow>, now: Time) -> Result<(), DbError> {
        self.advisory_lock(WRITE_LOCK).await?;
        let base = &update.layout.base;
        let mut wanted: HashMap<String, HashMap<String, TableFileRow>> = HashMap::new();
        for file in files {
            wanted.entry(file.content.clone()).or_default().insert(format!("{base}{}", file.name), file);
        }
        let mut snapshot = self.newest_snapshot().await?;
        let new = snapshot.snapshot_id + 1;
        let mut changes = Vec::new();
        for table in &update.layout.tables {
            let Some(id) = self.table_id(table.name).await? else { continue };
            let prefix = format!("{base}{}/{}", table.name, update.account_folder);
            let mut wanted = wanted.remove(table.name).unwrap_or_default();
            let mut ended = Vec::new();
            for listed in self.listed_files(id, &prefix).await? {
                if wanted.remove(&listed.path).is_none() {
                    ended.push(listed);
                }
            }
            let mut added: Vec<(String, TableFileRow)> = wanted.into_iter().collect();
            added.sort_by(|one, other| one.0.cmp(&other.0));
            if !ended.is_empty() {
                self.end_files(&ended, new).await?;
                changes.push(format!("deleted_from_table:{id}"));
            }
            if !added.is_empty() {
                self.add_files(table, id, &added, new, snapshot.next_file_id).await?;
                snapshot.next_file_id += i64::try_from(added.len()).unwrap_or(0);
                changes.push(format!("inserted_into_table:{id}"));
            }
            if !ended.is_empty() || !added.is_empty() {
                self.count_files(id, &added, &ended).await?;
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.insert_snapshot(SnapshotRow { snapshot_id: new, ..snapshot }, &changes.join(","), now).await
    }

    /// Ends the files that no synchronisation ends, as nothing rewrites them any more: those of unused
    /// tables, and those below an earlier URL.
    async fn end_outdated_files(&mut self, layout: &CatalogLayout, now: Time) -> Result<(), DbError> {
        let snapshot = self.newest_snapshot().await?;
        let new = snapshot.snapshot_id + 1;
        let used = layout.tables.iter().map(|table| (table.name, Some(layout.base.as_str())));
        let tables: Vec<(&str, Option<&str>)> = used.chain(layout.unused.iter().map(|name| (*name, None))).collect();
        let mut changes = Vec::new();
        for (name, base) in tables {
            let Some(id) = self.table_id(name).await? else { continue };
            let mut files = self.listed_files(id, "").await?;
            files.retain(|file| base.is_none_or(|base| !file.path.starts_with(base)));
            if files.is_empty() {
                continue;
            }
            self.end_files(&files, new).await?;
            self.count_files(id, &[], &files).await?;
            changes.push(format!("deleted_from_table:{id}"));
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.insert_snapshot(SnapshotRow { snapshot_id: new, ..snapshot }, &changes.join(","), now).await
    }

    /// The files below `prefix` that the newest snapshot shows.
    async fn listed_files(&mut self, table: i64, prefix: &str) -> Result<Vec<ListedFile>, DbError> {
        let length = i64::try_from(prefix.chars().count()).unwrap_or(i64::MAX);
        let stmt = sql("select data_file_id, path, record_count, file_size_bytes from ducklake_data_file
             where table_id = $1 and end_snapshot is null and substr(path, 1, cast($2 as integer)) = $3");
        self.all(stmt.bind(table).bind(length).bind(prefix)).await
    }

    async fn end_files(&mut self, files: &[ListedFile], snapshot: i64) -> Result<(), DbError> {
        for head in [
            "update ducklake_data_file set end_snapshot = $1 where data_file_id in ",
            "update ducklake_delete_file set end_snapshot = $1 where end_snapshot is null and data_file_id in ",
        ] {
            let ids = files.iter().map(|file| file.data_file_id);
            self.run(Stmt::list(head, vec![snapshot.into()], ids, "")).await?;
        }
        Ok(())
    }

    async fn add_files(
        &mut self,
        table: &CatalogTable,
        id: i64,
        files: &[(String, TableFileRow)],
        snapshot: i64,
        first_file_id: i64,
    ) -> Result<(), DbError> {
        let stmt = sql("select next_row_id from ducklake_table_stats where table_id = $1");
        let mut row_id: i64 = self.value(stmt.bind(id)).await?.unwrap_or(0);
        let end_column = table.columns.iter().position(|column| column.name == "segment_end");
        for (file_id, (path, file)) in (first_file_id..).zip(files) {
            let stmt =
                sql("insert into ducklake_data_file (data_file_id, table_id, begin_snapshot, path, path_is_relative,
                 file_format, record_count, file_size_bytes, footer_size, row_id_start)
                 values ($1, $2, $3, $4, false, 'parquet', $5, $6, $7, $8)");
            let stmt = stmt.bind(file_id).bind(id).bind(snapshot).bind(path.as_str());
            self.run(stmt.bind(file.row_count).bind(file.size).bind(file.footer_size).bind(row_id)).await?;
            row_id = row_id.saturating_add(file.row_count);
            // Readers skip the files whose bounds exclude what they look for.
            if let (Some(column), Some(first), Some(last)) = (end_column, file.first_end, file.last_end) {
                let column_id = catalog_tables::column_id(&table.columns, column);
                let stmt =
                    sql("insert into ducklake_file_column_stats (data_file_id, table_id, column_id, value_count,
                     null_count, min_value, max_value) values ($1, $2, $3, $4, 0, $5, $6)");
                let stmt = stmt.bind(file_id).bind(id).bind(column_id).bind(file.row_count);
                self.run(stmt.bind(catalog_time(Time(first))).bind(catalog_time(Time(last)))).await?;
            }
        }
        Ok(())
    }

    /// Keeps the counts of the table.
    async fn count_files(
        &mut self,
        table: i64,
        added: &[(String, TableFileRow)],
        ended: &[ListedFile],
    ) -> Result<(), DbError> {
        let rows: i64 = added.iter().map(|(_, file)| file.row_count).sum();
        let fewer: i64 = ended.iter().map(|file| file.record_count).sum();
        let bytes: i64 = added.iter().map(|(_, file)| file.size).sum::<i64>()
            - ended.iter().map(|file| file.file_size_bytes).sum::<i64>();
        let stmt =
            sql("update ducklake_table_stats set record_count = record_count + $2, next_row_id = next_row_id + $3,
             file_size_bytes = file_size_bytes + $4 where table_id = $1");
        if self.run(stmt.bind(table).bind(rows - fewer).bind(rows).bind(bytes)).await? == 0 {
            let stmt = sql("insert into ducklake_table_stats (table_id, record_count, next_row_id, file_size_bytes)
                 values ($1, $2, $3, $4)");
            self.run(stmt.bind(table).bind(rows).bind(rows).bind(bytes)).await?;
        }
        Ok(())
    }

    async fn newest_snapshot(&mut self) -> Result<SnapshotRow, DbError> {
        let stmt = sql("select snapshot_id, schema_version, next_catalog_id, next_file_id from ducklake_snapshot
             order by snapshot_id desc limit 1");
        self.first(stmt).await?.ok_or_else(|| {
            DbError::new(DbFault::Broken, "the DuckLake catalog has no snapshot")
                .with_hint("it was damaged or changed by hand; configure another catalog")
        })
    }

    async fn insert_snapshot(&mut self, snapshot: SnapshotRow, changes: &str, now: Time) -> Result<(), DbError> {
        let time_cast = self.time_cast(2);
        let stmt = Stmt::built(format!(
            "insert into ducklake_snapshot (snapshot_id, snapshot_time, schema_version, next_catalog_id, next_file_id)
             values ($1, {time_cast}, $3, $4, $5)"
        ));
        let stmt = stmt.bind(snapshot.snapshot_id).bind(catalog_time(now)).bind(snapshot.schema_version);
        self.run(stmt.bind(snapshot.next_catalog_id).bind(snapshot.next_file_id)).await?;
        let stmt = sql("insert into ducklake_snapshot_changes (snapshot_id, changes_made, author)
             values ($1, $2, 'ringcx-extractor')");
        self.run(stmt.bind(snapshot.snapshot_id).bind(changes)).await.map(drop)
    }

    async fn table_id(&mut self, name: &str) -> Result<Option<i64>, DbError> {
        let stmt = sql("select t.table_id from ducklake_table t join ducklake_schema s on s.schema_id = t.schema_id
             where t.table_name = $1 and t.end_snapshot is null and s.schema_name = 'main' and s.end_snapshot is null");
        self.value(stmt.bind(name)).await
    }
}

/// A time as the catalog writes it.
fn catalog_time(time: Time) -> String {
    time.timestamp().strftime("%Y-%m-%d %H:%M:%S%.3f+00").to_string()
}
