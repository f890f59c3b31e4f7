//! Whether this database may be used any further: its file may have been replaced, or a newer version may have migrated it.
//!
//! Whoever asks for a statement while it may not is told that the database is away, and waits as for any other.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng;

use super::{Db, DbError, DbFault, FileLock, Stmt, sql};

/// Why nothing may be written, if so.
pub(crate) type Suspension = Mutex<Option<String>>;

/// Why the database must not be used any further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// A newer version of this program has migrated it.
    Newer {
        /// The migration that is not known here.
        held: i64,
    },
    /// The SQLite file is not the one that was opened.
    Replaced {
        /// The file.
        path: PathBuf,
        /// What became of it.
        how: &'static str,
    },
    /// SQLite's log beside the file was removed.
    LogRemoved {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Newer { held } => {
                write!(f, "a newer version of this program has migrated the database (migration {held})")
            }
            Unusable::LogRemoved { path } => write!(f, "the -wal file of the database {} was removed", path.display()),
            Unusable::Replaced { path, how } => write!(f, "the database file {} {how}", path.display()),
        }
    }
}

impl Unusable {
    /// What to do.
    pub fn hint(&self) -> &'static str {
        match self {
            Unusable::Newer { .. } => "replace this replica by one of the newer version; it writes nothing any more",
            Unusable::LogRemoved { .. } => {
                "stop the daemon in good order and start it again: it folds what it holds into the file"
            }
            Unusable::Replaced { .. } => {
                "put the right file back, or stop the daemon and start it again on what stands there now; a copy that is put in \
                 its place must come without another file's -wal and -shm"
            }
        }
    }
}

impl Db {
    /// Why the database must not be used any further, if so. Cheap enough for every heartbeat.
    ///
    /// # Errors
    /// Where the database cannot be asked.
    pub async fn unusable(&self) -> Result<Option<Unusable>, DbError> {
        if let Some(replaced) = self.replaced() {
            return Ok(Some(replaced));
        }
        if let Some(lock) = self.lock().filter(|lock| lock.log_is_removed()) {
            return Ok(Some(Unusable::LogRemoved { path: lock.path().to_owned() }));
        }
        let rows = self.all_even_if_unusable(sql("select version from _sqlx_migrations where success")).await?;
        for row in &rows {
            let held = row.int(0)?;
            if !self.known_migrations().any(|known| known == held) {
                return Ok(Some(Unusable::Newer { held }));
            }
        }
        Ok(None)
    }

    /// Refuses every statement for this reason; `None` ends that.
    pub fn suspend(&self, reason: Option<String>) {
        *self.suspension().lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Whether statements are refused.
    pub fn is_suspended(&self) -> bool {
        self.suspension().lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether waiting helps: also where the file was replaced under a statement, which then failed.
    pub fn recovers_from(&self, error: &DbError) -> bool {
        error.is_passing() || self.replaced().is_some()
    }

    pub(super) fn ensure_usable(&self) -> Result<(), DbError> {
        let reason = self.suspension().lock().unwrap_or_else(PoisonError::into_inner).clone();
        match reason.or_else(|| self.replaced().map(|replaced| replaced.to_string())) {
            Some(reason) => Err(DbError::new(DbFault::Away, reason)),
            None => Ok(()),
        }
    }

    fn suspension(&self) -> &Suspension {
        match self {
            Db::Sqlite(pools) => &pools.suspended,
            Db::Postgres(pools) => &pools.suspended,
        }
    }

    /// Whether another file stands in the database's place, into which nothing must be folded.
    pub fn is_replaced(&self) -> bool {
        self.replaced().is_some()
    }

    fn lock(&self) -> Option<&Arc<FileLock>> {
        match self {
            Db::Sqlite(pools) => pools.lock.as_ref(),
            Db::Postgres(_) => None,
        }
    }

    fn replaced(&self) -> Option<Unusable> {
        let lock = self.lock()?;
        lock.replaced().map(|how| Unusable::Replaced { path: lock.path().to_owned(), how })
    }

    /// Marks the file as this run's, so that a copy that is written over it is told apart from it.
    pub(super) async fn stamp(&self, lock: &Arc<FileLock>) -> Result<(), DbError> {
        let number = rand::rng().random_range(1..i32::MAX.unsigned_abs());
        let mut tx = self.begin().await?;
        tx.all(Stmt::built(format!("pragma user_version = {number}"))).await?;
        tx.commit().await?;
        // So that it stands in the file, not in its log only.
        self.all(sql("pragma wal_checkpoint(passive)")).await?;
        lock.expect_stamp(number);
        Ok(())
    }
}
