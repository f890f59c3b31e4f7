//! Whether this database may be used any further: its file may have been replaced, or a newer version may have migrated it.
//!
//! Whoever asks for a statement while it may not is told that the database is away, and waits as for any other.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng;

use super::{Db, DbError, DbFault, FileLock, Stmt, sql};

/// Why nothing may be written, if so; one for all pools of a database.
pub(crate) type Suspension = Arc<Mutex<Option<String>>>;

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
    /// SQLite's log beside the file was removed or renamed.
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
            Unusable::LogRemoved { path } => {
                write!(f, "the -wal file of the database {} was removed or renamed", path.display())
            }
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

    /// Marks the file as this run's, so that a copy that is written over it is told apart from it: an older one always, one
    /// of this run where the mark has been renewed since. On Postgres there is no file to mark.
    ///
    /// # Errors
    /// Where the file takes no writes; what it was marked with counts on.
    pub async fn renew_stamp(&self) -> Result<(), DbError> {
        let Some(lock) = self.lock() else { return Ok(()) };
        // The old mark counts until the new one stands in the file, and not in its log only. That may be later: one who reads
        // keeps SQLite from folding it.
        let number = lock.next_stamp(rand::rng().random_range(1..i32::MAX.unsigned_abs()));
        let mut tx = self.begin().await?;
        tx.all(Stmt::built(format!("pragma user_version = {number}"))).await?;
        tx.commit().await?;
        self.all(sql("pragma wal_checkpoint(passive)")).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Access;

    async fn served() -> (Db, PathBuf, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let lock = Arc::new(FileLock::take(&path).unwrap());
        (Db::open_sqlite_to_serve(&path, &lock).await.unwrap(), path, folder)
    }

    fn is_overwritten(db: &Db) -> bool {
        matches!(db.replaced(), Some(Unusable::Replaced { how: "was overwritten", .. }))
    }

    #[tokio::test]
    async fn a_backup_of_this_run_is_told_apart_once_the_mark_was_renewed() {
        let (db, path, folder) = served().await;
        let backup = folder.path().join("backup.db");
        std::fs::copy(&path, &backup).unwrap();
        db.renew_stamp().await.unwrap();
        assert_eq!(db.unusable().await.unwrap(), None);
        let now = std::fs::read(&path).unwrap();
        // Into the same file, as `cp` does.
        std::fs::write(&path, std::fs::read(&backup).unwrap()).unwrap();
        assert!(is_overwritten(&db));
        std::fs::write(&path, now).unwrap();
        assert_eq!(db.unusable().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_mark_that_cannot_be_folded_into_the_file_counts_once_it_is() {
        let (db, path, folder) = served().await;
        let backup = folder.path().join("backup.db");
        std::fs::copy(&path, &backup).unwrap();
        let reader = Db::open_sqlite(&path, Access::Existing).await.unwrap();
        let mut snapshot = reader.snapshot().await.unwrap();
        snapshot.chain(1).await.unwrap();
        for _ in 0..2 {
            db.renew_stamp().await.unwrap();
            assert_eq!(db.unusable().await.unwrap(), None);
        }
        assert_eq!(std::fs::read(&path).unwrap()[..100], std::fs::read(&backup).unwrap()[..100], "it was folded");
        drop(snapshot);
        reader.close().await;
        db.renew_stamp().await.unwrap();
        assert_eq!(db.unusable().await.unwrap(), None);
        std::fs::write(&path, std::fs::read(&backup).unwrap()).unwrap();
        assert!(is_overwritten(&db));
    }

    #[tokio::test]
    async fn a_log_that_is_removed_or_renamed_is_noticed_and_one_that_is_put_back_is_well() {
        let (db, path, folder) = served().await;
        db.ping().await.unwrap();
        assert_eq!(db.unusable().await.unwrap(), None);
        let (log, aside) = (path.with_file_name("test.db-wal"), folder.path().join("aside"));
        std::fs::rename(&log, &aside).unwrap();
        let removed = Some(Unusable::LogRemoved { path: path.clone() });
        assert_eq!(db.unusable().await.unwrap(), removed);
        // One that is not in use stands in its place.
        std::fs::copy(&aside, &log).unwrap();
        assert_eq!(db.unusable().await.unwrap(), removed);
        std::fs::rename(&aside, &log).unwrap();
        assert_eq!(db.unusable().await.unwrap(), None);
        std::fs::remove_file(&log).unwrap();
        assert_eq!(db.unusable().await.unwrap(), removed);
    }
}
