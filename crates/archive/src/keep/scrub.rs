//! SQLite's files after an erasure: nothing that was deleted may be readable in them.
//!
//! `secure_delete` overwrites what is deleted. Two things escape it. The write-ahead log holds earlier pages until it is
//! emptied. And where SQLite moved rows to a neighbouring page, the page that they left keeps its old bytes in the part that
//! is not in use: of some thousand rows, a dozen stay readable so. Only writing the whole file anew is rid of those.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Row as _};

use super::super::{Db, DbError};
use crate::clock::Clock;

/// How long to wait for those who read or write at present.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often to try to empty the log.
const TRIES: u32 = 15;
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(2);

/// What became of the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scrubbed {
    /// Nothing of what was deleted is left in them.
    Clean,
    /// The log is empty; the file was not written anew, so that unused parts of its pages may hold traces.
    NotRewritten,
    /// Someone reads what was there before and keeps the log from being emptied.
    LogInUse,
    /// There are no files of ours: this is Postgres.
    NotOurs,
}

impl Db {
    /// Empties SQLite's write-ahead log, after writing the whole file anew where `rewrite` says so. For that there must be
    /// as much room as the file takes, twice for a while.
    ///
    /// # Errors
    /// Where there is no room, or another process keeps the file from being written for too long.
    pub async fn scrub(&self, rewrite: bool, clock: &Clock) -> Result<Scrubbed, DbError> {
        let Some(path) = self.file() else { return Ok(Scrubbed::NotOurs) };
        // Not the pool's connection: that one keeps temporary tables in memory, where a copy of the file has no place.
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(PATIENCE)
            .pragma("temp_store", "file")
            .pragma("secure_delete", "true");
        let mut connection = options.connect().await?;
        if rewrite {
            sqlx::query(AssertSqlSafe(beside(path))).execute(&mut connection).await?;
            sqlx::query("vacuum").execute(&mut connection).await?;
        }
        // A short wait each time, lest those who write wait with us.
        sqlx::query("pragma busy_timeout = 1000").execute(&mut connection).await?;
        let mut emptied = false;
        for attempt in 0..TRIES {
            let row = sqlx::query("pragma wal_checkpoint(truncate)").fetch_one(&mut connection).await?;
            emptied = row.try_get::<i64, _>(0)? == 0;
            if emptied {
                break;
            }
            if attempt + 1 < TRIES {
                clock.sleep(PAUSE).await;
            }
        }
        connection.close().await?;
        Ok(match (emptied, rewrite) {
            (true, true) => Scrubbed::Clean,
            (true, false) => Scrubbed::NotRewritten,
            (false, _) => Scrubbed::LogInUse,
        })
    }
}

/// Has the copy made beside the file, not in a folder for temporary files that may be small, or memory.
fn beside(path: &Path) -> String {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    format!("pragma temp_store_directory = '{}'", folder.display().to_string().replace('\'', "''"))
}
