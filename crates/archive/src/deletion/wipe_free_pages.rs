//! Removes the traces of deleted rows from SQLite's files.
//!
//! `secure_delete` overwrites deleted rows, with two exceptions. The write-ahead log holds earlier
//! pages until it is truncated. And where SQLite moved rows to a neighbouring page, the old page
//! keeps their bytes in its unused part: of some thousand deleted rows, about a dozen stay
//! readable. Only a rewrite of the whole file (`VACUUM`) removes those.

use std::path::Path;
use std::time::Duration;

use super::super::{Db, DbError};
use crate::clock::Clock;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection};

/// How long to wait for other connections that read or write.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
/// How often to try to truncate the write-ahead log.
const CHECKPOINT_ATTEMPTS: u32 = 15;
const CHECKPOINT_RETRY_DELAY: Duration = Duration::from_secs(2);

/// State of the files afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WipeOutcome {
    /// They hold no trace of deleted rows.
    Clean,
    /// The log is empty. The file was not rewritten, so unused parts of its pages may hold traces.
    NotRewritten,
    /// A reader of an earlier state keeps the log from being truncated.
    LogInUse,
    /// The database is Postgres; nothing was done.
    NotSqlite,
}

impl Db {
    /// Truncates SQLite's write-ahead log; with `rewrite`, rewrites the whole file before. The
    /// rewrite needs free space of twice the file's size for a while.
    ///
    /// # Errors
    /// Where there is not enough space, or another process locks the file for longer than
    /// `BUSY_TIMEOUT`.
    pub async fn wipe_free_pages(&self, rewrite: bool, clock: &Clock) -> Result<WipeOutcome, DbError> {
        let Some(path) = self.sqlite_path() else { return Ok(WipeOutcome::NotSqlite) };
        // Not a pool's connection: those keep temporary tables in memory, where a copy of the file
        // does not fit.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("temp_store", "file")
            .pragma("secure_delete", "true");
        let mut connection = options.connect().await?;
        if rewrite {
            sqlx::query(AssertSqlSafe(temp_directory_pragma(path))).execute(&mut connection).await?;
            sqlx::query("vacuum").execute(&mut connection).await?;
        }
        // Short waits, because writers wait as long as this checkpoint does.
        sqlx::query("pragma busy_timeout = 1000").execute(&mut connection).await?;
        let mut emptied = false;
        for attempt in 0..CHECKPOINT_ATTEMPTS {
            let (busy, ..): (i64, i64, i64) =
                sqlx::query_as("pragma wal_checkpoint(truncate)").fetch_one(&mut connection).await?;
            emptied = busy == 0;
            if emptied {
                break;
            }
            if attempt + 1 < CHECKPOINT_ATTEMPTS {
                clock.sleep(CHECKPOINT_RETRY_DELAY).await;
            }
        }
        connection.close().await?;
        Ok(match (emptied, rewrite) {
            (true, true) => WipeOutcome::Clean,
            (true, false) => WipeOutcome::NotRewritten,
            (false, _) => WipeOutcome::LogInUse,
        })
    }
}

/// Puts the temporary copy next to the file: the folder for temporary files may be small, or in
/// memory.
fn temp_directory_pragma(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    format!("pragma temp_store_directory = '{}'", folder.display().to_string().replace('\'', "''"))
}
