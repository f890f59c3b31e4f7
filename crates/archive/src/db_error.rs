//! Database errors, classified by who has to act.

use std::borrow::Cow;
use std::path::Path;

use sqlx::migrate::MigrateError;

use super::AccountKey;

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DbFault {
    /// The database is unreachable, busy or overloaded: a retry helps.
    Unavailable,
    /// The disk is full or read-only: a retry helps once that is fixed.
    StorageFull,
    /// Another replica holds the lease on the account now.
    LeaseLost,
    /// The program or the database has the wrong version, or the database is damaged: manual
    /// intervention is required.
    Broken,
}

/// A database operation that failed.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct DbError {
    message: String,
    fault: DbFault,
    hint: Option<Cow<'static, str>>,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl DbError {
    /// Who has to act.
    pub fn fault(&self) -> DbFault {
        self.fault
    }

    /// Whether a retry may succeed without a change to the program.
    pub fn is_transient(&self) -> bool {
        matches!(self.fault, DbFault::Unavailable | DbFault::StorageFull)
    }

    /// Whether the database can be read but not written: a read-only copy, or a user without the
    /// right to write.
    pub fn is_read_only(&self) -> bool {
        let source = self.source.as_deref().and_then(|source| source.downcast_ref::<sqlx::Error>());
        let Some(sqlx::Error::Database(error)) = source else { return false };
        let code = error.code().unwrap_or_default();
        match error.as_error().is::<sqlx::postgres::PgDatabaseError>() {
            true => matches!(&*code, "25006" | "42501"),
            false => code.parse::<u32>().is_ok_and(|code| code & 0xff == SQLITE_READONLY),
        }
    }

    /// What an operator can do, if that is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// An error of this kind. `message` says what failed and why.
    pub fn new(fault: DbFault, message: impl Into<String>) -> DbError {
        DbError { message: message.into(), fault, hint: None, source: None }
    }

    pub(super) fn broken(message: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> DbError {
        DbError::new(DbFault::Broken, message).with_hint(hint)
    }

    /// The same error, with what an operator can do.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<Cow<'static, str>>) -> DbError {
        DbError { hint: Some(hint.into()), ..self }
    }

    pub(super) fn bind_failed(source: Box<dyn std::error::Error + Send + Sync>) -> DbError {
        DbError { source: Some(source), ..DbError::new(DbFault::Broken, "failed to bind a value") }
    }

    /// A column with a value that the program never writes. It is an error rather than a default,
    /// so that no work is lost silently.
    pub(super) fn inconsistent(column: &str, key: i64, held: impl std::fmt::Display) -> DbError {
        DbError::broken(
            format!("{column} of row {key} holds {held}, which is not a valid value"),
            "the database was damaged or changed by hand; run `ringcx-extractor verify` to find other damage, and restore the row from a backup",
        )
    }

    /// A row that must exist, because this transaction has written it, is missing.
    pub(super) fn missing_row(table: &str, key: impl std::fmt::Display) -> DbError {
        DbError::broken(
            format!("table {table} has no row for {key}, although it was just written"),
            "the database was damaged or changed by hand, such as by a trigger; run `ringcx-extractor verify` to find other damage",
        )
    }

    pub(super) fn lease_lost(account: AccountKey) -> DbError {
        DbError::new(DbFault::LeaseLost, format!("account {account} has another owner now"))
    }

    pub(super) fn missing_file(path: &Path) -> DbError {
        DbError::broken(
            format!("failed to open the database {}: there is no such file", path.display()),
            "`ringcx-extractor run` creates it; or point database.url at the right one",
        )
    }

    pub(super) fn schema_too_new(held: i64, newest: i64) -> DbError {
        DbError::broken(
            format!(
                "failed to open the database: it is from a newer version of this program (migration {held}, this one knows {newest})"
            ),
            "run that version again, or restore a backup made before the upgrade; nothing was changed",
        )
    }

    pub(super) fn schema_too_old(held: i64, newest: i64) -> DbError {
        DbError::broken(
            format!("failed to open the database: it is at migration {held}, this program needs {newest}"),
            "run `ringcx-extractor migrate` (`run` does it too)",
        )
    }

    pub(super) fn open_failed(path: &Path, source: sqlx::Error) -> DbError {
        let inner = DbError::from(source);
        if is_disk_read_only(path) {
            let message = format!("failed to open the database {}: its disk is read-only", path.display());
            return DbError { message, fault: DbFault::Broken, ..inner }.with_hint(READ_ONLY_DISK_HINT);
        }
        let message = format!("failed to open the database {}: {}", path.display(), inner.message);
        // A locked file is readable once it is released.
        if inner.fault == DbFault::Unavailable && inner.hint.is_some() {
            return DbError { message, ..inner };
        }
        DbError { message, ..inner }
            .with_hint("the file must be a SQLite database that this user may read and write, on a local disk with room; run commands as the daemon's user")
            .reclassify_open_error(path)
    }

    /// Keeps [`DbFault::StorageFull`] only if the disk really is full, which is transient. Any
    /// other reason why a file cannot be opened requires manual intervention.
    pub(super) fn reclassify_open_error(self, path: &Path) -> DbError {
        if self.fault != DbFault::StorageFull {
            return self;
        }
        if !is_disk_full(path) {
            return DbError { fault: DbFault::Broken, ..self };
        }
        let message = format!("failed to open the database {}: the disk is full", path.display());
        DbError { message, ..self }.with_hint("free some space; the daemon then continues by itself")
    }

    pub(super) fn create_failed(path: &Path, source: std::io::Error) -> DbError {
        let message = format!("failed to create the database {}: {source}", path.display());
        let hint = match source.kind() {
            std::io::ErrorKind::ReadOnlyFilesystem => READ_ONLY_DISK_HINT,
            _ => "the folder must exist or be creatable, and be writable by this user",
        };
        DbError { source: Some(Box::new(source)), ..DbError::broken(message, hint) }
    }

    pub(super) fn invalid_url(_source: sqlx::Error) -> DbError {
        // The source may quote the URL, which may hold a password.
        DbError::broken(
            "failed to read database.url",
            "postgres://user:password@host:5432/database, with special characters percent-encoded",
        )
    }

    /// At start-up, a refused login or a missing database is a mistake in the settings.
    pub(super) fn connect_failed(source: sqlx::Error) -> DbError {
        let code = source.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
        let is_mistake = matches!(code.get(..2), Some("28" | "3D" | "3F"));
        let is_untrusted = ringcx_client::is_certificate_error(&source);
        let known_hint = hint_of(&source);
        let mut inner = DbError::from(source);
        if is_mistake {
            inner.fault = DbFault::Broken;
        }
        let hint = if is_untrusted {
            "have the server's certificate renewed, or name the authority that signed it: sslrootcert=FILE in database.url, or SSL_CERT_FILE"
        } else {
            known_hint.unwrap_or("is the server up, is the address in database.url right, may this user log in?")
        };
        let message = format!("failed to reach the Postgres database: {}", inner.message);
        DbError { message, ..inner }.with_hint(hint)
    }
}

const READ_ONLY_DISK_HINT: &str = "mount the disk writable; one with errors becomes read-only (`dmesg`). `search`, `show` and `export` read a complete copy there";

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn is_disk_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(folder_of(path)).is_ok_and(|disk| disk.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

/// Whether the file's disk lacks the space to open it, which takes a write-ahead log and a page of
/// shared memory.
fn is_disk_full(path: &Path) -> bool {
    const MIN_FREE_BYTES: u64 = 64 * 1024;
    rustix::fs::statvfs(folder_of(path)).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < MIN_FREE_BYTES)
}

/// SQLite's primary result codes that concern locks or the disk.
const SQLITE_BUSY: u32 = 5;
const SQLITE_LOCKED: u32 = 6;
const SQLITE_READONLY: u32 = 8;
const SQLITE_IOERR: u32 = 10;
const SQLITE_CORRUPT: u32 = 11;
const SQLITE_FULL: u32 = 13;
const SQLITE_CANTOPEN: u32 = 14;
const SQLITE_NOTADB: u32 = 26;

impl From<sqlx::Error> for DbError {
    fn from(error: sqlx::Error) -> DbError {
        let message = match &error {
            sqlx::Error::Database(inner) => inner.message().to_owned(),
            sqlx::Error::PoolTimedOut => "no connection to the database became free in time".to_owned(),
            _ => error.to_string(),
        };
        DbError {
            message,
            fault: fault_of(&error),
            hint: hint_of(&error).map(Cow::Borrowed),
            source: Some(Box::new(error)),
        }
    }
}

/// What an operator can do about a driver's error, by its code.
fn hint_of(error: &sqlx::Error) -> Option<&'static str> {
    let sqlx::Error::Database(inner) = error else { return None };
    let code = inner.code()?;
    if inner.as_error().is::<sqlx::postgres::PgDatabaseError>() {
        return Some(match &*code {
            "53100" => "free some space on the disk of the Postgres server; the daemon then continues by itself",
            "53300" => "raise max_connections of the Postgres server, or close other connections",
            "55P03" | "57014" => "another session holds a lock: find it in pg_stat_activity and end its transaction",
            "26000" | "42P05" => {
                "database.url must not lead to a connection pooler in transaction mode: set pool_mode = session (PgBouncer), or connect directly"
            }
            "25006" => "database.url must lead to the primary, and default_transaction_read_only must be off",
            _ => match code.get(..2)? {
                "28" => {
                    "user and password in database.url, or in its file, must be right, and the server must let them in"
                }
                _ => return None,
            },
        });
    }
    Some(match code.parse::<u32>().ok()? & 0xff {
        SQLITE_BUSY | SQLITE_LOCKED => {
            "another program keeps the database locked: find it with `fuser -v` on the database file, and end its transaction"
        }
        SQLITE_FULL => "free some space on the disk of the database (`df`); the daemon then continues by itself",
        SQLITE_READONLY => {
            "the database file, its folder and its disk must be writable for this user; a disk with errors becomes read-only (`dmesg`)"
        }
        SQLITE_IOERR => "check the disk of the database: its free space (`df`) and its errors (`dmesg`)",
        SQLITE_CANTOPEN => "the folder of the database must exist and be writable for this user",
        SQLITE_CORRUPT | SQLITE_NOTADB => {
            "stop the daemon, keep the file, and restore a backup (`ringcx-extractor restore FILE`); check the disk"
        }
        _ => return None,
    })
}

fn fault_of(error: &sqlx::Error) -> DbFault {
    match error {
        sqlx::Error::Database(inner) => {
            let code = inner.code().map(|code| code.into_owned()).unwrap_or_default();
            fault_of_code(&code, inner.as_error().is::<sqlx::postgres::PgDatabaseError>())
        }
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => DbFault::Unavailable,
        _ => DbFault::Broken,
    }
}

fn fault_of_code(code: &str, postgres: bool) -> DbFault {
    if postgres {
        return match code.get(..2) {
            // Connection, resources, operator intervention, system, serialisation and deadlock.
            Some("53") if code == "53100" => DbFault::StorageFull,
            Some("08" | "53" | "57" | "58" | "40") => DbFault::Unavailable,
            // A lock time-out; a rotated password; a database that was renamed, or that is just
            // being restored. The daemon continues once someone has acted.
            Some("55" | "28" | "3D" | "3F") => DbFault::Unavailable,
            _ if matches!(code, "42501" | "42P01") => DbFault::Unavailable,
            // A server that is read-only for now, and a transaction that was rolled back because it
            // was idle.
            Some("25") if matches!(code, "25006" | "25P03") => DbFault::Unavailable,
            _ => DbFault::Broken,
        };
    }
    match code.parse::<u32>().unwrap_or(0) & 0xff {
        SQLITE_FULL | SQLITE_READONLY | SQLITE_IOERR | SQLITE_CANTOPEN => DbFault::StorageFull,
        SQLITE_BUSY | SQLITE_LOCKED => DbFault::Unavailable,
        SQLITE_CORRUPT | SQLITE_NOTADB => DbFault::Broken,
        _ => DbFault::Broken,
    }
}

impl From<MigrateError> for DbError {
    fn from(error: MigrateError) -> DbError {
        let fault = match &error {
            MigrateError::Execute(inner) | MigrateError::ExecuteMigration(inner, _) => fault_of(inner),
            _ => DbFault::Broken,
        };
        let hint = match &error {
            MigrateError::Execute(inner) | MigrateError::ExecuteMigration(inner, _) => hint_of(inner),
            _ => None,
        };
        DbError {
            message: format!("failed to bring the database up to date: {error}"),
            fault,
            hint: hint.map(Cow::Borrowed),
            source: Some(Box::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
    use sqlx::{ConnectOptions, Executor};

    use super::*;

    async fn run(connection: &mut SqliteConnection, statements: &'static str) -> DbError {
        DbError::from(connection.execute(sqlx::raw_sql(statements)).await.unwrap_err())
    }

    #[tokio::test]
    async fn a_locked_a_full_and_a_read_only_database_each_have_a_hint() {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteConnectOptions::new().filename(folder.path().join("test.db")).create_if_missing(true);
        let options = options.busy_timeout(Duration::ZERO);
        let (mut one, mut other) = (options.connect().await.unwrap(), options.connect().await.unwrap());
        one.execute(sqlx::raw_sql("create table t (a); begin immediate")).await.unwrap();
        let locked = run(&mut other, "begin immediate").await;
        let path = folder.path().join("test.db");
        let held = other.execute(sqlx::raw_sql("begin immediate")).await.unwrap_err();
        let unopened = DbError::open_failed(&path, held);
        assert!(unopened.hint().is_some_and(|text| text.contains("fuser")), "{unopened}: {:?}", unopened.hint());
        one.execute(sqlx::raw_sql("commit; pragma max_page_count = 3")).await.unwrap();
        let full = run(&mut one, "insert into t values (zeroblob(100000))").await;
        let read_only = run(&mut other, "pragma query_only = 1; insert into t values (1)").await;
        for (error, fault, hint) in [
            (locked, DbFault::Unavailable, "fuser"),
            (full, DbFault::StorageFull, "free some space"),
            (read_only, DbFault::StorageFull, "must be writable"),
        ] {
            assert_eq!(error.fault(), fault, "{error}");
            assert!(error.hint().is_some_and(|text| text.contains(hint)), "{error}: {:?}", error.hint());
        }
    }
}
