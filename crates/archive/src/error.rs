//! What can go wrong with the database, told apart by what helps.

use std::path::Path;

use sqlx::migrate::MigrateError;

/// Who has to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DbFault {
    /// It is away, busy or overloaded: trying again helps.
    Away,
    /// The disk is full or read-only: making room helps, then trying again.
    Full,
    /// Another replica owns the account now.
    Lost,
    /// The program or the database is of the wrong version, or something is broken: a person must look.
    Broken,
}

/// A database operation that did not happen.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct DbError {
    message: String,
    fault: DbFault,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl DbError {
    /// Who has to act.
    pub fn fault(&self) -> DbFault {
        self.fault
    }

    /// Whether the same operation may succeed later without a change to the program.
    pub fn is_passing(&self) -> bool {
        matches!(self.fault, DbFault::Away | DbFault::Full)
    }

    /// A fault of this kind, told to people by `message`: what failed and why, then a line `hint: …` where something would help.
    pub fn new(fault: DbFault, message: impl Into<String>) -> DbError {
        DbError { message: message.into(), fault, source: None }
    }

    pub(super) fn encode(source: Box<dyn std::error::Error + Send + Sync>) -> DbError {
        DbError { message: "failed to bind a value".into(), fault: DbFault::Broken, source: Some(source) }
    }

    /// A row that cannot be: never taken for another, so that nothing it stands for is forgotten unseen.
    pub(super) fn inconsistent(column: &str, key: i64, held: impl std::fmt::Display) -> DbError {
        DbError::new(
            DbFault::Broken,
            format!(
                "{column} of row {key} holds {held}, which it cannot\nhint: the database was damaged or changed by hand; `ringcx-extractor verify` names what else is, and a backup holds the row as it was"
            ),
        )
    }

    pub(super) fn lost(account: i64) -> DbError {
        DbError::new(DbFault::Lost, format!("account {account} has another owner now"))
    }

    pub(super) fn missing(path: &Path) -> DbError {
        DbError::new(
            DbFault::Broken,
            format!(
                "failed to open the database {}: there is no such file\nhint: `ringcx-extractor run` creates it; or point database.url at the right one",
                path.display()
            ),
        )
    }

    pub(super) fn newer(held: i64, newest: i64) -> DbError {
        DbError::new(
            DbFault::Broken,
            format!(
                "failed to open the database: it is from a newer version of this program (migration {held}, this one knows {newest})\nhint: run that version again, or restore a backup made before the upgrade; nothing was changed"
            ),
        )
    }

    pub(super) fn older(held: i64, newest: i64) -> DbError {
        DbError::new(
            DbFault::Broken,
            format!(
                "failed to open the database: it is at migration {held}, this program needs {newest}\nhint: run `ringcx-extractor migrate` (`run` does it too)"
            ),
        )
    }

    pub(super) fn open(path: &Path, source: sqlx::Error) -> DbError {
        let inner = DbError::from(source);
        DbError {
            message: format!(
                "failed to open the database {}: {}\nhint: the file must be a SQLite database that this user may read and write, on a local disk with room; commands are typed as the daemon's user",
                path.display(),
                inner.message
            ),
            ..inner
        }
        .while_opening(path)
    }

    /// Where the disk has no room, that is why, and it passes; whatever else keeps a file from being opened asks for a person.
    pub(super) fn while_opening(self, path: &Path) -> DbError {
        if self.fault != DbFault::Full {
            return self;
        }
        if !is_full(path) {
            return DbError { fault: DbFault::Broken, ..self };
        }
        let message = format!(
            "failed to open the database {}: the disk is full\nhint: make room on it; the daemon goes on by itself then",
            path.display()
        );
        DbError { message, ..self }
    }

    pub(super) fn create(path: &Path, source: std::io::Error) -> DbError {
        DbError {
            message: format!(
                "failed to create the database {}: {source}\nhint: the folder must exist or be creatable, and be writable by this user",
                path.display()
            ),
            fault: DbFault::Broken,
            source: Some(Box::new(source)),
        }
    }

    pub(super) fn url(_source: sqlx::Error) -> DbError {
        // The source may quote the URL, which may hold a password.
        DbError::new(
            DbFault::Broken,
            "failed to read database.url\nhint: postgres://user:password@host:5432/database, with special characters percent-encoded",
        )
    }

    /// At the start a login that is refused, or a database that is not there, is a mistake in the settings.
    pub(super) fn connect(source: sqlx::Error) -> DbError {
        let code = source.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned();
        let is_mistake = matches!(code.get(..2), Some("28" | "3D" | "3F"));
        let mut inner = DbError::from(source);
        if is_mistake {
            inner.fault = DbFault::Broken;
        }
        let hint = if inner.message.contains("certificate") {
            "have the server's certificate renewed, or name the authority that signed it: sslrootcert=FILE in database.url, or SSL_CERT_FILE"
        } else {
            "is the server up, is the address in database.url right, may this user log in?"
        };
        DbError { message: format!("failed to reach the Postgres database: {}\nhint: {hint}", inner.message), ..inner }
    }
}

/// Whether the disk that this file is on has no room for it to be opened: for its log and a page of shared memory.
fn is_full(path: &Path) -> bool {
    const LEAST: u64 = 64 * 1024;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    rustix::fs::statvfs(folder).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < LEAST)
}

/// SQLite's primary result codes that say something about the disk.
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
        DbError { message, fault: fault_of(&error), source: Some(Box::new(error)) }
    }
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
        | sqlx::Error::WorkerCrashed => DbFault::Away,
        _ => DbFault::Broken,
    }
}

fn fault_of_code(code: &str, postgres: bool) -> DbFault {
    if postgres {
        return match code.get(..2) {
            // Connection, resources, operator intervention, system, serialisation and deadlock.
            Some("53") if code == "53100" => DbFault::Full,
            Some("08" | "53" | "57" | "58" | "40") => DbFault::Away,
            // A lock that was not to be had in time; a password that was rotated; a database that was renamed, or that a restore
            // is just putting back. Someone has to act, and then it goes on.
            Some("55" | "28" | "3D" | "3F") => DbFault::Away,
            _ if matches!(code, "42501" | "42P01") => DbFault::Away,
            // A server that only reads for now, and one that undid what was begun since nothing more came.
            Some("25") if matches!(code, "25006" | "25P03") => DbFault::Away,
            _ => DbFault::Broken,
        };
    }
    match code.parse::<u32>().unwrap_or(0) & 0xff {
        SQLITE_FULL | SQLITE_READONLY | SQLITE_IOERR | SQLITE_CANTOPEN => DbFault::Full,
        5 | 6 => DbFault::Away,
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
        DbError {
            message: format!("failed to bring the database up to date: {error}"),
            fault,
            source: Some(Box::new(error)),
        }
    }
}
