//! Puts a copy in the place of the SQLite file: checked, in one step, and with the replaced file kept.
//!
//! The copy is first copied beside the database, under a name that a later run removes. There it is
//! checked and changed. The new file then takes the database's name in one `rename`, while the old
//! one has a second name already: whenever this is interrupted, a whole database has the name.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use super::super::backup::{available_bytes, check_faults, not_an_archive, sync_folder_of};
use super::super::file_lock::{file_id, with_suffix};
use super::super::{Db, DbError, DbFault, FileLock, OpenMode};
use crate::clock::Time;

/// Suffix of the name of the copy that is being prepared.
const WORKING_SUFFIX: &str = ".restoring";
/// The first bytes of a SQLite file.
const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
/// Suffixes of the files beside a SQLite file.
const LOG_SUFFIX: &str = "-wal";
const SHARED_MEMORY_SUFFIX: &str = "-shm";

/// A copy beside the database, which no daemon can open meanwhile. Unless it gets the database's
/// name, it is removed when this is dropped.
#[derive(Debug)]
pub struct RestoredCopy {
    source: PathBuf,
    /// The database, without symbolic links.
    database: PathBuf,
    working: PathBuf,
    /// Whether there was a database in the place.
    has_database: bool,
    #[expect(dead_code, reason = "held, not read")]
    lock: FileLock,
}

impl RestoredCopy {
    /// Copies the file `source` beside the database at `path`.
    ///
    /// # Errors
    /// Where a daemon uses the database, the source is no SQLite file, or the disk is full.
    pub fn begin(path: &Path, source: &Path) -> Result<RestoredCopy, DbError> {
        let source_file = open_source(source)?;
        let has_database = std::fs::metadata(path).is_ok_and(|file| file.len() > 0);
        let lock = FileLock::acquire(path)?;
        let database =
            std::fs::canonicalize(path).map_err(|error| failed(source, "find the database's folder", &error))?;
        let working = with_suffix(&database, WORKING_SUFFIX);
        let copy = RestoredCopy { source: source.to_owned(), database, working, has_database, lock };
        let is_same = |file: &Path| match (std::fs::metadata(file), source_file.metadata()) {
            (Ok(one), Ok(other)) => file_id(&one) == file_id(&other),
            _ => false,
        };
        if is_same(&copy.database) {
            let message = format!("failed to restore {}: it is the database itself", source.display());
            return Err(DbError::broken(message, "name a file that `ringcx-extractor backup` has written"));
        }
        copy.remove_working().map_err(|error| failed(source, "remove an unfinished copy", &error))?;
        copy.copy_source(source_file)?;
        Ok(copy)
    }

    fn copy_source(&self, mut source_file: File) -> Result<(), DbError> {
        let failed = |error: std::io::Error| failed(&self.source, "copy it beside the database", &error);
        let size = source_file.metadata().map_err(failed)?.len();
        if let Some(available) = available_bytes(&self.database).filter(|available| *available < size) {
            let (size, available) = (size.div_ceil(1 << 20), available >> 20);
            let message = format!(
                "failed to restore {}: it takes {size} MiB beside the database, and the disk has {available} MiB",
                self.source.display()
            );
            return Err(DbError::new(DbFault::StorageFull, message)
                .with_hint("free some space on the database's disk; both are there until the restore is complete"));
        }
        let create = |path: &Path| OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        std::io::copy(&mut source_file, &mut create(&self.working).map_err(failed)?).map_err(failed)?;
        // A copy of a running database's files has its newest content in its log.
        let log = with_suffix(&self.source, LOG_SUFFIX);
        if let Ok(mut log) = File::open(log) {
            let mut working_log = create(&with_suffix(&self.working, LOG_SUFFIX)).map_err(failed)?;
            std::io::copy(&mut log, &mut working_log).map_err(failed)?;
        }
        Ok(())
    }

    /// Checks the copy and opens it, migrated to the schema of this program.
    ///
    /// # Errors
    /// Where it is damaged, is no archive of this program, or is from a newer version.
    pub async fn open(&self) -> Result<Db, DbError> {
        let db = match Db::open_sqlite(&self.working, OpenMode::AnyVersion).await {
            Err(error) if error.fault() == DbFault::Broken => {
                return Err(check_faults(&self.source, vec![error.to_string()]).err().unwrap_or(error));
            }
            opened => opened?,
        };
        let checked = async {
            check_faults(&self.source, db.check_integrity().await?.faults)?;
            if db.has_table("_sqlx_migrations").await? && db.has_table("segment").await? {
                return Ok(());
            }
            Err(not_an_archive(&self.source))
        };
        let checked = checked.await;
        db.close().await;
        checked?;
        Db::open_sqlite(&self.working, OpenMode::CreateOrMigrate).await
    }

    /// The database in the copy's place, with any schema; `None` where there is none.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub async fn open_replaced(&self) -> Result<Option<Db>, DbError> {
        if !self.has_database {
            return Ok(None);
        }
        Db::open_sqlite(&self.database, OpenMode::AnyVersion).await.map(Some)
    }

    /// Gives the copy the database's name, once it is closed. Returns the name that the replaced
    /// database, or what was left of it, has now.
    ///
    /// # Errors
    /// Where the disk fails. The database is then the old or the new one, never a part of one: run it again.
    pub fn put_in_place(self, now: Time) -> Result<Option<PathBuf>, DbError> {
        let failed = |error: std::io::Error| failed(&self.source, "put it in the database's place", &error);
        if with_suffix(&self.working, LOG_SUFFIX).exists() {
            let message = format!("failed to restore {}: another program has its copy open", self.source.display());
            return Err(DbError::broken(message, "end that program, then restore again"));
        }
        let working = File::open(&self.working).map_err(failed)?;
        working.sync_all().map_err(failed)?;
        self.keep_owner(&working).map_err(failed)?;
        let digits: String = now.rfc3339_secs().chars().filter(|letter| !matches!(letter, '-' | ':')).collect();
        let aside = with_suffix(&self.database, &format!(".replaced-{digits}"));
        if self.has_database {
            std::fs::hard_link(&self.database, &aside).map_err(failed)?;
        }
        // The log of the old file must not stay: SQLite would take it for that of the new one.
        let log = with_suffix(&self.database, LOG_SUFFIX);
        let aside_log = with_suffix(&aside, LOG_SUFFIX);
        ignore_missing(std::fs::rename(&log, &aside_log)).map_err(failed)?;
        let replaced = ignore_missing(std::fs::remove_file(with_suffix(&self.database, SHARED_MEMORY_SUFFIX)))
            .and_then(|()| std::fs::rename(&self.working, &self.database));
        if let Err(error) = replaced {
            // The old database stays, and its newest content may be in its log. There is one only where the database
            // could not be read, or another program has it open.
            let _ = std::fs::rename(&aside_log, &log);
            let _ = std::fs::remove_file(&aside);
            return Err(failed(error));
        }
        sync_folder_of(&self.database).map_err(failed)?;
        Ok([aside, aside_log].into_iter().find(|kept| kept.exists()))
    }

    /// Root may restore the archive of another user, who must be able to use it.
    fn keep_owner(&self, working: &File) -> std::io::Result<()> {
        let (ours, theirs) = (working.metadata()?, std::fs::metadata(self.owner_source())?);
        if (ours.uid(), ours.gid()) == (theirs.uid(), theirs.gid()) || !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        let lock = with_suffix(&self.database, ".lock");
        for file in [&self.working, &lock] {
            chown(file, Some(theirs.uid()), Some(theirs.gid()))?;
        }
        Ok(())
    }

    /// The file or folder whose owner the database must have.
    fn owner_source(&self) -> &Path {
        let folder = self.database.parent().unwrap_or(Path::new("/"));
        if self.has_database { &self.database } else { folder }
    }

    fn remove_working(&self) -> std::io::Result<()> {
        for suffix in ["", LOG_SUFFIX, SHARED_MEMORY_SUFFIX] {
            ignore_missing(std::fs::remove_file(with_suffix(&self.working, suffix)))?;
        }
        Ok(())
    }
}

impl Drop for RestoredCopy {
    fn drop(&mut self) {
        let _ = self.remove_working();
        // The lock has created an empty file where there was none.
        if !self.has_database && std::fs::metadata(&self.database).is_ok_and(|file| file.len() == 0) {
            let _ = std::fs::remove_file(&self.database);
        }
    }
}

/// Opens the copy that is to be restored.
fn open_source(source: &Path) -> Result<File, DbError> {
    let refused = |why: &str| {
        let message = format!("failed to restore {}: {why}", source.display());
        DbError::broken(message, "name a file that `ringcx-extractor backup` has written, and that this user can read")
    };
    let is_file = std::fs::metadata(source).map_err(|error| refused(&error.to_string()))?.is_file();
    if !is_file {
        return Err(refused("it is not a file"));
    }
    let mut file = File::open(source).map_err(|error| refused(&error.to_string()))?;
    let mut magic = [0; 16];
    if file.read_exact(&mut magic).is_err() || magic != *SQLITE_MAGIC {
        return Err(refused("it is not a SQLite database (a compressed copy must be unpacked first)"));
    }
    File::open(source).map_err(|error| refused(&error.to_string()))
}

fn failed(source: &Path, what: &str, error: &std::io::Error) -> DbError {
    let message = format!("failed to restore {}: failed to {what}: {error}", source.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DbError::new(DbFault::StorageFull, message)
            .with_hint("free some space on the database's disk; the database is unchanged"),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => DbError::broken(
            message,
            "this user must be able to write to the database's folder; run it as the daemon's user",
        ),
        _ => DbError::broken(message, "check the disk of the database"),
    }
}

fn ignore_missing(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
