//! The database: every statement there is, for SQLite and Postgres alike.
//!
//! The stages meet here and nowhere else. A method is one thing that a stage needs done, in one transaction where it
//! writes. What differs between the two databases is in `dialect.rs`; everything else is one text for both (`sql/stmt.rs`).

use ringcx_client as ringcx;
use ringcx_model::{self as model, charset, clock};

pub mod hash_chain;
pub mod planted;

mod accounts;
mod announce;
mod board;
mod changed;
mod coverage;
mod deliver;
mod dialect;
mod ended_session;
mod error;
mod guest;
mod item;
mod keep;
mod ledger;
mod lock;
mod moving;
mod name_lock;
mod overview;
mod patient;
mod proof;
mod read;
mod refusal;
mod replica;
mod report;
mod reserve;
mod search;
mod settle;
mod sql;
mod unusable;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, PgPool, SqlitePool};

pub use accounts::{AccountRow, Owned, PauseRow};
pub use announce::{Announced, Chunk};
pub use board::{CoverageRow, FailureRow};
pub use changed::Mark;
pub use coverage::{BackfillRequest, Reading};
pub use deliver::{
    Batch, Behind, FeedRow, Head, Missed, Move, Pass, ReplayRequest, ReplayRow, Replayed, SinkFailure, SinkOfAccount,
    SinkRow, SinkView, Window,
};
pub use error::{DbError, DbFault};
pub use item::{Item, Packed, pack, unpack, unpack_text};
pub use keep::{
    AsideText, Done, Entry, Erased, Erasing, Gone, Hold, JournalRow, RetentionNoticeRow, Scrubbed, SegmentRef, Texts,
    Tombstone,
};
pub use ledger::{
    ArtifactTally, AsideLedgerRow, CoveredRow, DayRow, GoneTally, IdCount, LedgerAccount, ReadRow, SettledRow,
    Snapshot, UnfinishedRow,
};
pub use lock::FileLock;
pub use moving::{Moved, MovedTable, Moving};
pub use name_lock::NameLock;
pub use proof::{Chain, EntryPage, EntryRow, Integrity, Journal, LeafPage, MetadataRow, Reads, RecordState};
pub use read::{ArtifactVersion, AsideRow, AttemptRow, ChangeRow, ExportRange, SegmentRow, SegmentSlot, SlotOutcome};
pub use refusal::Refusal;
pub use replica::{Assignment, Picture, ReplicaRow};
pub use report::Counts;
pub use search::{
    Doc, FoundRow, IndexBatch, IndexEntry, IndexLag, IndexRow, IndexSlice, Lookup, Needle, SkippedDocument, TodoRow,
};
pub use settle::{BrokenAnswer, Settled, Settlement};
pub use sql::{Arg, Row, Stmt, Tx, sql};
pub use unusable::Unusable;
pub use work::{Claim, Class, LongestWaits, QueueFilter, QueueRow, classes};

static SQLITE: Migrator = sqlx::migrate!("../../migrations/sqlite");
static POSTGRES: Migrator = sqlx::migrate!("../../migrations/postgres");

/// How many rows one statement writes at the most: enough to make its cost small against the rows', few enough to
/// stay far below either database's limit on arguments.
pub(crate) const BULK: usize = 500;

/// How many prepared statements a connection keeps. Those over rows and lists come in some sizes each (`sql.rs`).
const STATEMENTS: usize = 300;

/// How many rows of a result may wait to be taken.
const ROWS: usize = 1000;

/// An open database. Cheap to clone.
#[derive(Clone)]
pub enum Db {
    /// One file, one writer.
    Sqlite(Arc<SqlitePools>),
    /// A server.
    Postgres(Arc<PgPools>),
}

/// SQLite's connections: one that writes, some that read.
pub struct SqlitePools {
    pub(crate) writer: SqlitePool,
    pub(crate) reader: SqlitePool,
    pub(crate) path: PathBuf,
    pub(crate) crowds: search::Crowds,
    /// The daemon's own: what tells whether the file is still the one that was opened.
    pub(crate) lock: Option<Arc<FileLock>>,
    pub(crate) suspended: unusable::Suspension,
}

/// Postgres' connections.
pub struct PgPools {
    pub(crate) pool: PgPool,
    /// The heartbeat's own, opened when it is first used: where everything else waits for a lock that someone holds, no
    /// connection is left of `pool`, and leases would end.
    heartbeat: PgPool,
    /// How long a statement may take; `None` for commands, at which a person sits.
    pub(crate) patience: Option<Duration>,
    pub(crate) suspended: unusable::Suspension,
}

/// One for the heartbeat, one that holds the replica's name.
const HEARTBEAT_CONNECTIONS: u32 = 2;

/// What a command means to do with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Create it if it is not there, bring it up to date.
    Own,
    /// Only what is there and up to date; for commands that look.
    Existing,
}

impl Db {
    /// Opens the SQLite file at `path`.
    ///
    /// # Errors
    /// Where the file or its folder cannot be created or read, or the file is from a newer version.
    pub async fn open_sqlite(path: &Path, access: Access) -> Result<Db, DbError> {
        Db::sqlite(path, access, None).await
    }

    /// The same for the daemon, which holds the lock: it notices where the file is replaced.
    ///
    /// # Errors
    /// As [`Db::open_sqlite`].
    pub async fn open_sqlite_to_serve(path: &Path, lock: &Arc<FileLock>) -> Result<Db, DbError> {
        let db = Db::sqlite(path, Access::Own, Some(lock.clone())).await?;
        // A file that cannot be written to is told of by whoever first has something to write.
        if let Err(error) = db.renew_stamp().await {
            tracing::debug!(%error, "failed to mark the database file; that it is overwritten will not be noticed");
        }
        Ok(db)
    }

    async fn sqlite(path: &Path, access: Access, lock: Option<Arc<FileLock>>) -> Result<Db, DbError> {
        if access == Access::Own {
            lock::create_private(path)?;
        } else if !path.exists() {
            return Err(DbError::missing(path));
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            // What a new file is made of: of a smaller page the usual transcript leaves a fifth empty.
            .page_size(8192)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10))
            .foreign_keys(false)
            .statement_cache_capacity(STATEMENTS)
            // Rows come over a channel from a thread; each time that is full, both sides wait for one another.
            .row_buffer_size(ROWS)
            .pragma("cache_size", "-8000")
            .pragma("temp_store", "memory")
            // Folding the log back into the file costs two more waits for the disk: not every 4 MB but every 16.
            .pragma("wal_autocheckpoint", "2000")
            // What is deleted is overwritten, freed pages too; that costs some 2 % where most is deleted, in the work table.
            .pragma("secure_delete", "true");
        let pool = |most: u32| {
            SqlitePoolOptions::new().max_connections(most).acquire_timeout(Duration::from_secs(30)).idle_timeout(None)
        };
        // Whoever meets a file that another process is just making finds it locked, whatever the busy time-out: SQLite
        // does not wait where the journal's mode changes.
        let connect = || pool(1).connect_with(options.clone());
        let writer = unless_locked(|| async { connect().await.map_err(|error| DbError::open(path, error)) }).await?;
        // Four caches of the writer's size would be most of what the whole program needs.
        let reader = pool(4).connect_lazy_with(options.pragma("query_only", "true").pragma("cache_size", "-2000"));
        let db = Db::Sqlite(Arc::new(SqlitePools {
            writer,
            reader,
            path: path.to_owned(),
            crowds: search::Crowds::default(),
            lock,
            suspended: unusable::Suspension::default(),
        }));
        db.prepare(access).await.map_err(|error| error.while_opening(path))?;
        Ok(db)
    }

    /// Opens the Postgres database at `url`.
    ///
    /// # Errors
    /// Where the server cannot be reached, refuses, or the database is from a newer version.
    pub async fn open_postgres(url: &SecretString, access: Access, connections: u32) -> Result<Db, DbError> {
        Db::postgres(url, access, connections, None).await
    }

    /// The same for the daemon, which nobody watches: no statement waits for ever for a server that is gone.
    ///
    /// # Errors
    /// As [`Db::open_postgres`].
    pub async fn open_postgres_to_serve(url: &SecretString, connections: u32) -> Result<Db, DbError> {
        Db::postgres(url, Access::Own, connections, Some(patient::STATEMENT)).await
    }

    async fn postgres(
        url: &SecretString,
        access: Access,
        connections: u32,
        patience: Option<Duration>,
    ) -> Result<Db, DbError> {
        let options = postgres_options(url)?;
        let pool = |most| {
            PgPoolOptions::new().max_connections(most).acquire_timeout(Duration::from_secs(10)).after_connect(
                move |connection, _| {
                    Box::pin(async move {
                        if patience.is_some() {
                            sqlx::raw_sql(patient::MANNERS).execute(connection).await?;
                        }
                        Ok(())
                    })
                },
            )
        };
        let heartbeat = pool(HEARTBEAT_CONNECTIONS).connect_lazy_with(options.clone());
        let pool = match pool(connections.max(2)).connect_with(options.clone()).await {
            Err(sqlx::Error::PoolTimedOut) => return Err(DbError::connect(why_not(&options).await)),
            opened => opened.map_err(DbError::connect)?,
        };
        let suspended = unusable::Suspension::default();
        let db = Db::Postgres(Arc::new(PgPools { pool, heartbeat, patience, suspended }));
        db.prepare(access).await?;
        Ok(db)
    }

    /// Has new connections to Postgres use this URL: a password may have been rotated.
    ///
    /// # Errors
    /// Where it is none.
    pub fn set_url(&self, url: &SecretString) -> Result<(), DbError> {
        if let Db::Postgres(pools) = self {
            let options = postgres_options(url)?;
            pools.pool.set_connect_options(options.clone());
            pools.heartbeat.set_connect_options(options);
        }
        Ok(())
    }

    /// The same database over the heartbeat's own connections, which nothing else waits for.
    #[must_use]
    pub fn for_heartbeat(&self) -> Db {
        match self {
            Db::Sqlite(_) => self.clone(),
            Db::Postgres(pools) => Db::Postgres(Arc::new(PgPools {
                pool: pools.heartbeat.clone(),
                heartbeat: pools.heartbeat.clone(),
                patience: pools.patience,
                suspended: pools.suspended.clone(),
            })),
        }
    }

    /// The SQLite file, where there is one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Db::Sqlite(pools) => Some(&pools.path),
            Db::Postgres(_) => None,
        }
    }

    /// Applies the migrations that are missing; returns how many there were.
    ///
    /// # Errors
    /// Where one fails (it is undone), or the database is from a newer version.
    pub async fn migrate(&self) -> Result<usize, DbError> {
        let before = self.applied().await?.len();
        match self {
            Db::Sqlite(pools) => self.migrate_sqlite(pools, before).await?,
            Db::Postgres(pools) => {
                // On a connection of its own: a migration takes as long as it takes.
                let options = PgConnectOptions::clone(&pools.pool.connect_options());
                let unhurried = PgPoolOptions::new().max_connections(1).connect_with(options).await?;
                let migrated = POSTGRES.run(&unhurried).await;
                unhurried.close().await;
                migrated?;
            }
        }
        Ok(self.applied().await?.len().saturating_sub(before))
    }

    /// On SQLite nothing keeps two processes that make the same file from migrating it at once, as on Postgres a lock does:
    /// the slower one finds it locked, or fails at what the other has just done. Where that got further, it goes on from
    /// there.
    async fn migrate_sqlite(&self, pools: &SqlitePools, mut applied: usize) -> Result<(), DbError> {
        loop {
            let migrated = unless_locked(|| async { Ok(SQLITE.run(&pools.writer).await?) }).await;
            let Err(error) = migrated else { return Ok(()) };
            let now = self.applied().await?.len();
            if now <= applied {
                return Err(error);
            }
            applied = now;
        }
    }

    async fn prepare(&self, access: Access) -> Result<(), DbError> {
        let newest = self.known_migrations().max().unwrap_or(0);
        let held = self.applied().await?.into_iter().max().unwrap_or(0);
        if held > newest {
            return Err(DbError::newer(held, newest));
        }
        match access {
            Access::Own => {
                self.migrate().await?;
                self.seal_what_was_before().await
            }
            Access::Existing if held < newest => Err(DbError::older(held, newest)),
            Access::Existing => Ok(()),
        }
    }

    fn known_migrations(&self) -> impl Iterator<Item = i64> {
        let migrator = match self {
            Db::Sqlite(_) => &SQLITE,
            Db::Postgres(_) => &POSTGRES,
        };
        migrator.iter().map(|migration| migration.version)
    }

    async fn applied(&self) -> Result<Vec<i64>, DbError> {
        if !self.has_table("_sqlx_migrations").await? {
            return Ok(Vec::new());
        }
        let rows = self.all(sql("select version from _sqlx_migrations where success")).await?;
        rows.iter().map(|row| row.int(0)).collect()
    }

    /// A trivial statement that shows whether the database answers and takes writes.
    pub async fn ping(&self) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.all(sql("select 1")).await?;
        tx.commit().await
    }

    /// Closes all connections; on SQLite this folds the write-ahead log back into the file.
    pub async fn close(&self) {
        match self {
            Db::Sqlite(pools) => {
                pools.reader.close().await;
                pools.writer.close().await;
            }
            Db::Postgres(pools) => {
                pools.pool.close().await;
                pools.heartbeat.close().await;
            }
        }
    }
}

/// Tries again for some seconds while another process has the file.
async fn unless_locked<T, F: Future<Output = Result<T, DbError>>>(attempt: impl Fn() -> F) -> Result<T, DbError> {
    let mut pause = Duration::from_millis(20);
    loop {
        match attempt().await {
            Err(error) if error.fault() == DbFault::Away && pause < Duration::from_secs(2) => {}
            done => return done,
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Db::Sqlite(_) => "Db::Sqlite",
            Db::Postgres(_) => "Db::Postgres",
        })
    }
}

fn postgres_options(url: &SecretString) -> Result<PgConnectOptions, DbError> {
    let options: PgConnectOptions = url.expose_secret().parse().map_err(DbError::url)?;
    Ok(options.application_name("ringcx-extractor").statement_cache_capacity(STATEMENTS))
}

/// What keeps a connection from coming about: the pool says only that it took too long.
async fn why_not(options: &PgConnectOptions) -> sqlx::Error {
    match tokio::time::timeout(Duration::from_secs(3), options.connect()).await {
        Ok(Err(error)) => error,
        Ok(Ok(_)) | Err(_) => sqlx::Error::PoolTimedOut,
    }
}

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
