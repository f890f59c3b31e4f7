//! The archive on SQLite or Postgres: it contains all SQL statements of the program.
//!
//! The stages of the pipeline communicate only through this database. A method is one operation
//! that a stage needs, in one transaction if it writes. Each fails if the database cannot be
//! reached, read or written; only other errors are documented. `dialect.rs` holds what differs between the
//! databases; all other statements have one text for both (`sql/stmt.rs`).

use ringcx_client as ringcx;
use ringcx_model::{self as model, charset, clock};

pub mod failpoint;
pub mod hash_chain;

mod access_log;
mod account_store;
mod audit_queries;
mod backup;
mod chain_store;
mod change_version;
mod completion;
mod copy_to_postgres;
mod coverage_store;
mod dashboard_queries;
mod db_error;
mod deletion;
mod delivery_state;
mod dialect;
mod ducklake;
mod export_cursor;
mod export_erasure;
mod file_lock;
mod idempotent_request;
mod ingest;
mod instance_lock;
mod item;
mod keys;
mod measure_store;
mod meta;
mod permit_request;
mod pooler_check;
mod queue_counts;
mod read_only_file;
mod recordings;
mod replica;
mod reservation_store;
mod restore;
mod schema;
mod search_index;
mod segment_page;
mod segment_reader;
mod session_revocation;
mod sql;
mod status_queries;
mod suspension;
mod throttle_state;
mod timeout_connection;
mod transaction_span;
mod work_queue;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, PgPool, SqlitePool};

pub use access_log::{
    AccessAction, AccessChainState, AccessLogQuery, AccessLogRow, NewAccessEntry, ReaderKind, SubjectKind,
};
pub use account_store::{AccountRow, Lease, PauseRow};
pub use audit_queries::{
    ArtifactTally, AuditedAccount, ClosedItemRow, CoverageAuditRow, DailyDeletion, DailyDigestRow, DailyTally,
    DeletionTally, OpenQuarantineRow, SegmentSetDigest, Snapshot, UnfinishedItemsRow, WindowReadRow,
};
pub use backup::SqliteBackup;
pub use chain_store::{
    AccountChain, EntryPage, EntryRow, IntegrityReport, JournalProof, LeafPage, MetadataRow, ReadLogProof,
    RecordChainState,
};
pub use completion::{BrokenAnswer, CompletedJob, JobOutcome};
pub use copy_to_postgres::{CopiedTable, CopySummary, PostgresCopy};
pub use coverage_store::{BackfillRequest, StoredCoverage, WindowRead};
pub use db_error::{DbError, DbFault};
pub use deletion::{
    DeletionBatch, DeletionCounts, DeletionReason, Hold, JournalAction, JournalEntry, JournalRow, QuarantinedText,
    RetentionNoticeRow, SegmentRef, SegmentTexts, Tombstone, WipeOutcome,
};
pub use delivery_state::{
    CursorAdvance, DeliveredCopies, DeliveryRound, FailedDelivery, FeedEntry, FeedNotice, FeedRange, FeedRow,
    KnownFailure, LaggingFeed, LakeAccount, LakeChange, LakeCopies, LakeFile, LakeSlice, NoticeKind, ObjectBatch,
    ObsoleteSlice, ReplayProgress, ReplayRequest, ReplayRow, SinkAccountProgress, SinkFailure, SinkOverview, SinkRow,
    UnitState, WrittenSlice,
};
pub use ducklake::{CatalogColumn, CatalogLayout, CatalogTable, CatalogUpdate};
pub use export_cursor::ExportCursor;
pub use export_erasure::{EXPORT_ERASURE_RETENTION, ErasedSegment};
pub use file_lock::FileLock;
pub use idempotent_request::{IdempotentAnswer, IdempotentRequest};
pub use ingest::{IngestSummary, MetadataChunk};
pub use instance_lock::InstanceLock;
pub use item::{Item, PackedBody, unpack, unpack_text};
pub use keys::{AccountKey, SinkKey};
pub use measure_store::{MeasureCell, MeasureSample, MeasureSum, MeasureWidth};
pub use queue_counts::{QueueCounts, QueueGroup};
pub use recordings::{RecordingRow, UploadRow};
pub use replica::{ClusterState, OwnershipRow, ReplicaRow};
pub use restore::{CarriedState, RestoreOutcome, RestoreSummary, RestoredCopy};
pub use search_index::{
    DocumentKeys, IndexBatch, IndexEntry, IndexHit, IndexLag, IndexQuery, IndexSlice, IndexedSegment, ReindexTask,
    SearchTerm, SkippedDocument, StoredText,
};
pub use segment_page::{SegmentPosition, SegmentQuery};
pub use segment_reader::{
    ArtifactStatus, ArtifactVersion, AttemptRow, ExportRange, MetadataChange, QuarantineRow, SegmentArtifact,
    SegmentRow,
};
pub use sql::{Arg, DbRow, Stmt, Tx, sql};
pub use suspension::UnusableReason;
pub use throttle_state::SavedThrottle;
pub use work_queue::{Claim, MaxDelays, QueueClass, QueueFilter, QueuePosition, QueueRow, queue_classes};

/// Maximum rows per statement: enough that the cost of the statement is small, and far below both
/// databases' limits on arguments.
pub(crate) const MAX_ROWS_PER_STATEMENT: usize = 500;

/// Prepared statements cached per connection. A statement over rows or a list exists in several
/// sizes (`sql/stmt.rs`).
const STATEMENT_CACHE_CAPACITY: usize = 300;

/// Size to which a checkpoint shrinks SQLite's write-ahead log.
const WAL_SIZE_LIMIT_BYTES: &str = "67108864";

/// Rows of a SQLite result that are buffered between the two threads.
const ROW_BUFFER_SIZE: usize = 1000;

/// An open database. It is cheap to clone.
#[derive(Clone)]
pub enum Db {
    /// A SQLite file, with one writer.
    Sqlite(Arc<SqlitePools>),
    /// A Postgres server.
    Postgres(Arc<PgPools>),
}

/// The connections to SQLite: one writer, several readers.
pub struct SqlitePools {
    pub(crate) writer: SqlitePool,
    pub(crate) reader: SqlitePool,
    pub(crate) path: PathBuf,
    /// The daemon's lock, which detects a replaced file.
    pub(crate) lock: Option<Arc<FileLock>>,
    pub(crate) suspension: suspension::Suspension,
    /// Whether the file was opened without write access.
    is_read_only: bool,
}

/// The connections to Postgres.
pub struct PgPools {
    pub(crate) pool: PgPool,
    /// Connections for the heartbeat, opened on first use. If all connections of `pool` wait for a
    /// lock, leases must still be renewed.
    heartbeat: PgPool,
    /// Time-out of a statement; `None` for interactive commands.
    pub(crate) statement_timeout: Option<Duration>,
    pub(crate) suspension: suspension::Suspension,
    /// Whether the role or the server permits no writes.
    is_read_only: bool,
}

/// One connection for the heartbeat, one for the instance lock.
const HEARTBEAT_CONNECTIONS: u32 = 2;

/// How to open a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Create it if it does not exist, and apply missing migrations.
    CreateOrMigrate,
    /// It must exist and be up to date.
    Existing,
    /// As `Existing`, for commands that only read: a file or a role that permits no writes will do.
    ReadOnly,
    /// It must exist, and its schema is not checked; for what a restore reads of an archive that
    /// another version of this program wrote.
    AnyVersion,
}

impl Db {
    /// Opens the SQLite file at `path`.
    ///
    /// # Errors
    /// If the file or its directory cannot be created or read, or the file is from a newer version.
    pub async fn open_sqlite(path: &Path, mode: OpenMode) -> Result<Db, DbError> {
        Db::connect_sqlite(path, mode, None).await
    }

    /// As [`Db::open_sqlite`], for the daemon, which holds the file lock and detects a replaced
    /// file.
    ///
    /// # Errors
    /// As [`Db::open_sqlite`].
    pub async fn open_sqlite_for_daemon(path: &Path, lock: &Arc<FileLock>) -> Result<Db, DbError> {
        let db = Db::connect_sqlite(path, OpenMode::CreateOrMigrate, Some(lock.clone())).await?;
        // An unwritable file is not an error yet: the first write reports it.
        if let Err(error) = db.renew_file_stamp().await {
            tracing::debug!(%error, "failed to stamp the database file; an overwritten file will not be detected");
        }
        Ok(db)
    }

    async fn connect_sqlite(path: &Path, mode: OpenMode, lock: Option<Arc<FileLock>>) -> Result<Db, DbError> {
        if mode == OpenMode::CreateOrMigrate {
            file_lock::create_private_file(path)?;
        } else if !path.exists() {
            return Err(DbError::missing_file(path));
        }
        if mode == OpenMode::ReadOnly && !read_only_file::is_writable(path) {
            return Db::connect_read_only_file(path).await;
        }
        let options = read_only_file::common_options(path)
            .create_if_missing(false)
            // For new files. With smaller pages, a typical transcript would leave a fifth of the
            // space empty.
            .page_size(8192)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", "-8000")
            // A checkpoint costs two more disk syncs: one per 16 MB instead of one per 4 MB.
            .pragma("wal_autocheckpoint", "2000")
            // A long read, such as a backup, lets the log grow. The next checkpoint shrinks it again.
            .pragma("journal_size_limit", WAL_SIZE_LIMIT_BYTES)
            // Overwrites deleted content, also in freed pages. It costs about 2 % in table `work`,
            // which has the most deletions.
            .pragma("secure_delete", "true");
        let pool = |max_connections: u32| {
            SqlitePoolOptions::new()
                .max_connections(max_connections)
                .acquire_timeout(Duration::from_secs(30))
                .idle_timeout(None)
        };
        // A file that another process is just creating is locked, whatever the busy time-out:
        // SQLite does not wait while the journal mode changes.
        let connect = || pool(1).connect_with(options.clone());
        let writer =
            retry_on_busy(|| async { connect().await.map_err(|error| DbError::open_failed(path, error)) }).await?;
        // Four caches of the writer's size would dominate the program's memory use.
        let reader = pool(4).connect_lazy_with(options.pragma("query_only", "true").pragma("cache_size", "-2000"));
        let db = Db::Sqlite(Arc::new(SqlitePools {
            writer,
            reader,
            path: path.to_owned(),
            lock,
            suspension: suspension::Suspension::default(),
            is_read_only: false,
        }));
        // Boxed: nested in those of all callers, this future is too deep for the compiler.
        Box::pin(db.prepare_schema(mode)).await.map_err(|error| error.reclassify_open_error(path))?;
        Ok(db)
    }

    /// Opens the Postgres database at `url`.
    ///
    /// # Errors
    /// If the server is unreachable or refuses the connection, or the database is from a newer
    /// version.
    pub async fn open_postgres(url: &SecretString, mode: OpenMode, connections: u32) -> Result<Db, DbError> {
        Db::connect_postgres(url, mode, connections, None).await
    }

    /// As [`Db::open_postgres`], for the daemon: statements have a time-out, so that none waits
    /// forever for a dead server.
    ///
    /// # Errors
    /// As [`Db::open_postgres`].
    pub async fn open_postgres_for_daemon(url: &SecretString, connections: u32) -> Result<Db, DbError> {
        Db::connect_postgres(url, OpenMode::CreateOrMigrate, connections, Some(timeout_connection::STATEMENT_TIMEOUT))
            .await
    }

    async fn connect_postgres(
        url: &SecretString,
        mode: OpenMode,
        connections: u32,
        statement_timeout: Option<Duration>,
    ) -> Result<Db, DbError> {
        let options = postgres_options(url)?;
        let pool = |max_connections| {
            PgPoolOptions::new()
                .max_connections(max_connections)
                .acquire_timeout(Duration::from_secs(10))
                .after_connect(move |connection, _| {
                    Box::pin(async move {
                        if statement_timeout.is_some() {
                            sqlx::raw_sql(timeout_connection::SESSION_SETTINGS).execute(connection).await?;
                        }
                        Ok(())
                    })
                })
        };
        let heartbeat = pool(HEARTBEAT_CONNECTIONS).connect_lazy_with(options.clone());
        let pool = match pool(connections.max(2)).connect_with(options.clone()).await {
            Err(sqlx::Error::PoolTimedOut) => return Err(DbError::connect_failed(explain_open_error(&options).await)),
            opened => opened.map_err(DbError::connect_failed)?,
        };
        // Only the daemon holds locks; a command notices by its prepared statements.
        if statement_timeout.is_some() {
            pooler_check::refuse_transaction_pooling(&options).await?;
        }
        let suspension = suspension::Suspension::default();
        let pools = PgPools { pool, heartbeat, statement_timeout, suspension, is_read_only: false };
        let db = Db::Postgres(Arc::new(pools));
        Box::pin(db.prepare_schema(mode)).await?;
        if mode == OpenMode::ReadOnly && !db.may_write().await? {
            return Ok(db.into_read_only());
        }
        Ok(db)
    }

    /// Sets the URL of new connections to Postgres: a password may have been rotated.
    ///
    /// # Errors
    /// If the URL is invalid.
    pub fn set_url(&self, url: &SecretString) -> Result<(), DbError> {
        if let Db::Postgres(pools) = self {
            let options = postgres_options(url)?;
            pools.pool.set_connect_options(options.clone());
            pools.heartbeat.set_connect_options(options);
        }
        Ok(())
    }

    /// The same database over the connections that are reserved for the heartbeat.
    #[must_use]
    pub fn for_heartbeat(&self) -> Db {
        match self {
            Db::Sqlite(_) => self.clone(),
            Db::Postgres(pools) => Db::Postgres(Arc::new(PgPools {
                pool: pools.heartbeat.clone(),
                heartbeat: pools.heartbeat.clone(),
                statement_timeout: pools.statement_timeout,
                suspension: pools.suspension.clone(),
                is_read_only: pools.is_read_only,
            })),
        }
    }

    /// Whether it was opened with [`OpenMode::ReadOnly`] and permits no writes.
    pub fn is_read_only(&self) -> bool {
        match self {
            Db::Sqlite(pools) => pools.is_read_only,
            Db::Postgres(pools) => pools.is_read_only,
        }
    }

    /// Path of the SQLite file; `None` on Postgres.
    pub fn sqlite_path(&self) -> Option<&Path> {
        match self {
            Db::Sqlite(pools) => Some(&pools.path),
            Db::Postgres(_) => None,
        }
    }

    /// Size of SQLite's write-ahead log; `None` on Postgres.
    pub fn wal_bytes(&self) -> Option<u64> {
        let path = std::fs::canonicalize(self.sqlite_path()?).ok()?;
        Some(std::fs::metadata(file_lock::with_suffix(&path, "-wal")).map_or(0, |log| log.len()))
    }

    /// Begins and ends a write transaction, to check that the database responds and accepts writes.
    ///
    /// # Errors
    /// If the database is unreachable or read-only.
    pub async fn ping(&self) -> Result<(), DbError> {
        let mut tx = self.begin().await?;
        tx.ensure_writable().await?;
        tx.commit().await
    }

    /// Closes all connections. On SQLite this checkpoints the write-ahead log.
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

/// Retries for some seconds while another process has locked the file.
async fn retry_on_busy<T, F: Future<Output = Result<T, DbError>>>(attempt: impl Fn() -> F) -> Result<T, DbError> {
    let mut pause = Duration::from_millis(20);
    loop {
        match attempt().await {
            Err(error) if error.fault() == DbFault::Unavailable && pause < Duration::from_secs(2) => {}
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
    let options: PgConnectOptions = url.expose_secret().parse().map_err(DbError::invalid_url)?;
    let options = options.application_name("ringcx-extractor").statement_cache_capacity(STATEMENT_CACHE_CAPACITY);
    // PgBouncer refuses this start-up parameter, and no floating-point number is read.
    Ok(options.extra_float_digits(None))
}

/// The reason why no connection can be opened. The pool reports only a time-out.
async fn explain_open_error(options: &PgConnectOptions) -> sqlx::Error {
    match tokio::time::timeout(Duration::from_secs(3), options.connect()).await {
        Ok(Err(error)) => error,
        Ok(Ok(_)) | Err(_) => sqlx::Error::PoolTimedOut,
    }
}

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
