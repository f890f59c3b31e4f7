//! Suspends the database where it must not be used any more: its file was replaced, or a newer
//! version has migrated it.
//!
//! While it is suspended, every statement fails with `DbFault::Unavailable`, so callers wait as in
//! an outage.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng;

use super::{Db, DbError, DbFault, FileLock, Stmt, sql};

/// Why the database is suspended; `None` where it is not. All pools of a database share it.
pub(crate) type Suspension = Arc<Mutex<Option<String>>>;

/// Why the database must not be used any further.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnusableReason {
    /// A newer version of this program has migrated it, so that this version must not write to it.
    Newer {
        /// The migration that a program must know to write to it.
        migration: i64,
    },
    /// The SQLite file is not the opened one any more.
    Replaced {
        /// The file.
        path: PathBuf,
        /// What happened to it.
        change: &'static str,
    },
    /// SQLite's write-ahead log was removed or renamed.
    WalRemoved {
        /// The file.
        path: PathBuf,
    },
}

impl fmt::Display for UnusableReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UnusableReason::Newer { migration } => {
                write!(f, "a newer version of this program has migrated the database (migration {migration})")
            }
            UnusableReason::WalRemoved { path } => {
                write!(f, "the -wal file of the database {} was removed or renamed", path.display())
            }
            UnusableReason::Replaced { path, change } => write!(f, "the database file {} {change}", path.display()),
        }
    }
}

impl UnusableReason {
    /// What the operator should do.
    pub fn hint(&self) -> &'static str {
        match self {
            UnusableReason::Newer { .. } => "replace this replica with the newer version; it does not write any more",
            UnusableReason::WalRemoved { .. } => {
                "stop the daemon gracefully and start it again: at its end it writes the log's content into the file"
            }
            UnusableReason::Replaced { .. } => {
                "put the original file back, or restart the daemon with the current file; before you put a copy in its place, \
                 remove the -wal and -shm files of the other one"
            }
        }
    }
}

impl Db {
    /// Why the database must not be used any more; `None` where it may be. Cheap enough for every
    /// heartbeat.
    ///
    /// # Errors
    /// Where the query fails.
    pub async fn unusable_reason(&self) -> Result<Option<UnusableReason>, DbError> {
        if let Some(reason) = self.file_replacement() {
            return Ok(Some(reason));
        }
        if let Some(lock) = self.lock().filter(|lock| lock.is_wal_removed()) {
            return Ok(Some(UnusableReason::WalRemoved { path: lock.path().to_owned() }));
        }
        let required = self.required_migration().await?;
        Ok(required.map(|migration| UnusableReason::Newer { migration }))
    }

    /// Suspends the database for this reason: every statement is refused. `None` ends the
    /// suspension.
    pub fn suspend(&self, reason: Option<String>) {
        *self.suspension().lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Whether the database is suspended.
    pub fn is_suspended(&self) -> bool {
        self.suspension().lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether the operation may succeed later. A statement may also fail because the file was
    /// replaced while it ran.
    pub fn is_recoverable(&self, error: &DbError) -> bool {
        error.is_transient() || self.file_replacement().is_some()
    }

    pub(super) fn ensure_usable(&self) -> Result<(), DbError> {
        let reason = self.suspension().lock().unwrap_or_else(PoisonError::into_inner).clone();
        match reason.or_else(|| self.file_replacement().map(|reason| reason.to_string())) {
            Some(reason) => Err(DbError::new(DbFault::Unavailable, reason)),
            None => Ok(()),
        }
    }

    fn suspension(&self) -> &Suspension {
        match self {
            Db::Sqlite(pools) => &pools.suspension,
            Db::Postgres(pools) => &pools.suspension,
        }
    }

    /// Whether another file is in the database's place. It must not receive a checkpoint.
    pub fn is_file_replaced(&self) -> bool {
        self.file_replacement().is_some()
    }

    fn lock(&self) -> Option<&Arc<FileLock>> {
        match self {
            Db::Sqlite(pools) => pools.lock.as_ref(),
            Db::Postgres(_) => None,
        }
    }

    fn file_replacement(&self) -> Option<UnusableReason> {
        let lock = self.lock()?;
        lock.replacement().map(|change| UnusableReason::Replaced { path: lock.path().to_owned(), change })
    }

    /// Writes a new stamp into the file, so that a copy that overwrites the file is detected: a
    /// copy from before this run always, a copy from this run if the stamp was renewed since. Does
    /// nothing on Postgres.
    ///
    /// # Errors
    /// Where the file cannot be written; the previous stamp stays valid.
    pub async fn renew_file_stamp(&self) -> Result<(), DbError> {
        let Some(lock) = self.lock() else { return Ok(()) };
        // The old stamp is valid until a checkpoint has written the new one into the file. A reader
        // may delay the checkpoint.
        let number = lock.next_stamp(rand::rng().random_range(1..i32::MAX.unsigned_abs()));
        let mut tx = self.begin().await?;
        // A pragma takes no parameters.
        tx.run(Stmt::built(format!("pragma user_version = {number}"))).await?;
        tx.commit().await?;
        self.all::<(i64, i64, i64)>(sql("pragma wal_checkpoint(passive)")).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenMode;

    async fn open_for_daemon() -> (Db, PathBuf, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let lock = Arc::new(FileLock::acquire(&path).unwrap());
        (Db::open_sqlite_for_daemon(&path, &lock).await.unwrap(), path, folder)
    }

    fn is_overwritten(db: &Db) -> bool {
        matches!(db.file_replacement(), Some(UnusableReason::Replaced { change: "was overwritten", .. }))
    }

    #[tokio::test]
    async fn a_backup_of_this_run_is_detected_after_the_stamp_was_renewed() {
        let (db, path, folder) = open_for_daemon().await;
        let backup = folder.path().join("backup.db");
        std::fs::copy(&path, &backup).unwrap();
        db.renew_file_stamp().await.unwrap();
        assert_eq!(db.unusable_reason().await.unwrap(), None);
        let now = std::fs::read(&path).unwrap();
        // Into the same file, as `cp` does.
        std::fs::write(&path, std::fs::read(&backup).unwrap()).unwrap();
        assert!(is_overwritten(&db));
        std::fs::write(&path, now).unwrap();
        assert_eq!(db.unusable_reason().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_stamp_that_waits_for_a_checkpoint_counts_once_it_is_written() {
        let (db, path, folder) = open_for_daemon().await;
        let backup = folder.path().join("backup.db");
        std::fs::copy(&path, &backup).unwrap();
        let reader = Db::open_sqlite(&path, OpenMode::Existing).await.unwrap();
        let mut snapshot = reader.snapshot().await.unwrap();
        snapshot.account_chain(crate::AccountKey(1)).await.unwrap();
        for _ in 0..2 {
            db.renew_file_stamp().await.unwrap();
            assert_eq!(db.unusable_reason().await.unwrap(), None);
        }
        assert_eq!(
            std::fs::read(&path).unwrap()[..100],
            std::fs::read(&backup).unwrap()[..100],
            "a checkpoint wrote the stamp"
        );
        drop(snapshot);
        reader.close().await;
        db.renew_file_stamp().await.unwrap();
        assert_eq!(db.unusable_reason().await.unwrap(), None);
        std::fs::write(&path, std::fs::read(&backup).unwrap()).unwrap();
        assert!(is_overwritten(&db));
    }

    #[tokio::test]
    async fn a_removed_or_renamed_wal_is_detected_and_a_restored_one_is_accepted() {
        let (db, path, folder) = open_for_daemon().await;
        db.ping().await.unwrap();
        assert_eq!(db.unusable_reason().await.unwrap(), None);
        let (wal, aside) = (path.with_file_name("test.db-wal"), folder.path().join("aside"));
        std::fs::rename(&wal, &aside).unwrap();
        let removed = Some(UnusableReason::WalRemoved { path: path.clone() });
        assert_eq!(db.unusable_reason().await.unwrap(), removed);
        // A copy that is not in use is in its place.
        std::fs::copy(&aside, &wal).unwrap();
        assert_eq!(db.unusable_reason().await.unwrap(), removed);
        std::fs::rename(&aside, &wal).unwrap();
        assert_eq!(db.unusable_reason().await.unwrap(), None);
        std::fs::remove_file(&wal).unwrap();
        assert_eq!(db.unusable_reason().await.unwrap(), removed);
    }
}
