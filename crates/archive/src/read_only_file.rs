//! Opens a database that permits no writes, for commands that only read: a SQLite file without write
//! access, or a Postgres role or standby that may only select.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, access};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};

use super::{Db, DbError, OpenMode, PgPools, ROW_BUFFER_SIZE, STATEMENT_CACHE_CAPACITY, SqlitePools, sql, suspension};

/// How long a command waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);
/// The number of connections of a command.
const MAX_CONNECTIONS: u32 = 4;

/// What every connection to a SQLite file has.
pub(super) fn common_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::from_secs(10))
        .foreign_keys(false)
        .statement_cache_capacity(STATEMENT_CACHE_CAPACITY)
        // Rows come from another thread over a channel. Each time it is full, both sides wait.
        .row_buffer_size(ROW_BUFFER_SIZE)
        .pragma("temp_store", "memory")
}

/// Whether this user may write the file and its folder, which SQLite's write-ahead log needs.
pub(super) fn is_writable(path: &Path) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    [path, folder].into_iter().all(|path| access(path, Access::WRITE_OK).is_ok())
}

/// Whether a write-ahead log with content belongs to the file.
fn has_wal_content(path: &Path) -> bool {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    std::fs::metadata(PathBuf::from(wal)).is_ok_and(|wal| wal.len() > 0)
}

impl Db {
    /// Opens a SQLite file without write access. SQLite needs shared memory beside a file with a
    /// write-ahead log. Where it can neither find nor create it, and there is no log, the file is
    /// complete and nobody writes it: it is opened as immutable.
    pub(super) async fn connect_read_only_file(path: &Path) -> Result<Db, DbError> {
        let options = common_options(path).read_only(true).pragma("cache_size", "-8000");
        let opened = Db::open_pools(path, &options).await;
        let db = match opened {
            Err(_) if !has_wal_content(path) => Db::open_pools(path, &options.immutable(true)).await,
            opened => opened.map_err(|error| error.with_hint(
                "the file has a write-ahead log (-wal) that this user cannot use: copy the database with `ringcx-extractor backup`, or stop the daemon before copying it",
            )),
        }?;
        Box::pin(db.prepare_schema(OpenMode::ReadOnly)).await?;
        Ok(db)
    }

    /// Opens the connections, and reads once: SQLite opens the file at its first use.
    async fn open_pools(path: &Path, options: &SqliteConnectOptions) -> Result<Db, DbError> {
        let pool = || SqlitePoolOptions::new().max_connections(MAX_CONNECTIONS).acquire_timeout(ACQUIRE_TIMEOUT);
        let reader = pool().connect_with(options.clone()).await.map_err(|error| DbError::open_failed(path, error))?;
        let db = Db::Sqlite(Arc::new(SqlitePools {
            writer: pool().connect_lazy_with(options.clone()),
            reader,
            path: path.to_owned(),
            lock: None,
            suspension: suspension::Suspension::default(),
            is_read_only: true,
        }));
        let tables = db.all_unchecked::<(i64,)>(sql("select count(*) from sqlite_master")).await;
        tables.map_err(|error| error.reclassify_open_error(path))?;
        Ok(db)
    }

    /// Whether this role may write on this server.
    pub(super) async fn may_write(&self) -> Result<bool, DbError> {
        let stmt = sql("select cast(case when has_table_privilege('meta', 'insert')
             and current_setting('transaction_read_only') = 'off' then 1 else 0 end as bigint)");
        Ok(self.value::<i64>(stmt).await? == Some(1))
    }

    /// The same database, marked as one that permits no writes.
    pub(super) fn into_read_only(self) -> Db {
        match self {
            Db::Postgres(pools) => Db::Postgres(Arc::new(PgPools {
                pool: pools.pool.clone(),
                heartbeat: pools.heartbeat.clone(),
                statement_timeout: pools.statement_timeout,
                suspension: pools.suspension.clone(),
                is_read_only: true,
            })),
            sqlite => sqlite,
        }
    }
}
