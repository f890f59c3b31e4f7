//! A consistent copy of a SQLite archive while a daemon writes to it.
//!
//! `vacuum into` reads one snapshot, so it blocks no writer and needs no second attempt, and the copy
//! holds no trace of deleted rows. The file is created for its owner only, under a temporary name that
//! a later run finds again, and gets its name once it is checked and durable.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use super::file_lock::{file_id, is_on_network, with_suffix};
use super::{DbError, DbFault};

/// Suffix of the name of an unfinished copy.
const PARTIAL_SUFFIX: &str = ".partial";
/// Faults that a message lists.
const MAX_FAULTS_LISTED: usize = 3;
/// How often to open the temporary file again when another process has just renamed it.
const OPEN_ATTEMPTS: u32 = 5;

/// A copy in progress. Its temporary file is removed when this is dropped before
/// [`SqliteBackup::finish`].
#[derive(Debug)]
pub struct SqliteBackup {
    source: PathBuf,
    target: PathBuf,
    partial: PathBuf,
    /// Locked, so that two copies to one name do not write the same file.
    file: File,
    overwrite: bool,
    finished: bool,
}

impl SqliteBackup {
    /// Creates the temporary file beside `target`, and removes what an interrupted copy left there.
    ///
    /// # Errors
    /// Where the target exists and is not to be overwritten, or its folder is not writable.
    pub fn begin(source: &Path, target: &Path, overwrite: bool) -> Result<SqliteBackup, DbError> {
        if !source.exists() {
            return Err(DbError::missing_file(source));
        }
        check_target(source, target, overwrite)?;
        // SQLite takes the name as a text, and one that begins with `file:` as a URI.
        let partial =
            std::path::absolute(with_suffix(target, PARTIAL_SUFFIX)).map_err(|error| create_failed(target, &error))?;
        if partial.to_str().is_none() {
            let message = format!("failed to create {}: its name is not valid UTF-8", target.display());
            return Err(DbError::broken(message, "choose another name"));
        }
        // The temporary file is emptied, so it must not be the archive, whatever its name.
        check_target(source, &partial, true)?;
        let file = lock_partial(&partial, target)?;
        Ok(SqliteBackup {
            source: source.to_owned(),
            target: target.to_owned(),
            partial,
            file,
            overwrite,
            finished: false,
        })
    }

    /// The size that the copy will have at most.
    ///
    /// # Errors
    /// Where the source cannot be read, or the disk of the target has less space than that.
    pub async fn check_space(&self) -> Result<u64, DbError> {
        let mut source = self.open_source().await?;
        let (pages, free, size): (i64, i64, i64) = sqlx::query_as(
            "select (select page_count from pragma_page_count), (select freelist_count from pragma_freelist_count),
             (select page_size from pragma_page_size)",
        )
        .fetch_one(&mut source)
        .await?;
        source.close().await?;
        let needed = u64::try_from((pages - free) * size).unwrap_or(0);
        match available_bytes(&self.partial) {
            Some(available) if available < needed => {
                let (needed, available) = (needed.div_ceil(1 << 20), available >> 20);
                let message = format!(
                    "failed to write {}: the copy takes up to {needed} MiB, and the disk has {available} MiB",
                    self.target.display()
                );
                Err(DbError::new(DbFault::StorageFull, message)
                    .with_hint("free some space, or name a file on another disk"))
            }
            _ => Ok(needed),
        }
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        self.file.metadata().map_or(0, |file| file.len())
    }

    /// Writes the copy and checks it with `integrity_check`.
    ///
    /// # Errors
    /// Where the source cannot be read, the disk is full, or the copy is damaged.
    pub async fn write(&self) -> Result<(), DbError> {
        let mut source = self.open_source().await?;
        let written = sqlx::query("vacuum into $1").bind(self.partial.to_str()).execute(&mut source).await;
        written.map_err(|error| self.explain(DbError::from(error)))?;
        source.close().await?;
        let options = SqliteConnectOptions::new().filename(&self.partial).read_only(true).immutable(true);
        let mut copy = options.connect().await?;
        let faults: Vec<String> = sqlx::query_scalar("pragma integrity_check").fetch_all(&mut copy).await?;
        copy.close().await?;
        check_faults(&self.source, faults)
    }

    /// Makes the copy durable, and gives it its name. Returns its size.
    ///
    /// # Errors
    /// Where the disk fails, or the target was created in the meantime and is not to be overwritten.
    pub fn finish(mut self) -> Result<u64, DbError> {
        let failed = |error: std::io::Error| create_failed(&self.target, &error);
        self.file.sync_all().map_err(failed)?;
        let size = self.written_bytes();
        if self.overwrite {
            std::fs::rename(&self.partial, &self.target).map_err(failed)?;
        } else {
            rename_to_new(&self.partial, &self.target).map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => target_exists(&self.target),
                _ => create_failed(&self.target, &error),
            })?;
        }
        self.finished = true;
        sync_folder_of(&self.target).map_err(|error| create_failed(&self.target, &error))?;
        Ok(size)
    }

    /// A connection of its own: the schema may be of another version, as before an upgrade.
    async fn open_source(&self) -> Result<SqliteConnection, DbError> {
        let options = SqliteConnectOptions::new().filename(&self.source).create_if_missing(false);
        let options = options.busy_timeout(std::time::Duration::from_secs(10));
        let opened = async {
            let mut source = options.connect().await?;
            let table = "select count(*) from sqlite_master where name = '_sqlx_migrations'";
            let is_archive: i64 = sqlx::query_scalar(table).fetch_one(&mut source).await?;
            Ok::<_, sqlx::Error>((source, is_archive > 0))
        };
        match opened.await {
            Ok((source, true)) => Ok(source),
            Ok((_, false)) => Err(not_an_archive(&self.source)),
            Err(error) => Err(DbError::open_failed(&self.source, error)),
        }
    }

    fn explain(&self, error: DbError) -> DbError {
        let message = format!("failed to write {}: {error}", self.target.display());
        match error.fault() {
            DbFault::StorageFull => DbError::new(DbFault::StorageFull, message)
                .with_hint("free some space, or name a file on another disk; the incomplete copy was removed"),
            fault => DbError::new(fault, message).with_hint(
                "the incomplete copy was removed; `ringcx-extractor verify` shows whether the archive is damaged",
            ),
        }
    }
}

impl Drop for SqliteBackup {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

/// Opens and locks the temporary file. A file that an interrupted run left is emptied, and then only its
/// owner can read it. A symbolic link is not followed: another file would be emptied.
fn lock_partial(partial: &Path, target: &Path) -> Result<File, DbError> {
    let failed = |error: &std::io::Error| create_failed(target, error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default());
    for _ in 0..OPEN_ATTEMPTS {
        let file = options.open(partial).map_err(|error| match partial.is_symlink() {
            true => partial_is_link(partial, target),
            false => failed(&error),
        })?;
        // On a network file system it would be the same lock as SQLite's own.
        if !is_on_network(&file) {
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let message = format!("failed to write {}: another backup is writing it", target.display());
                    return Err(DbError::broken(message, "wait for its end, or choose another name"));
                }
                Err(TryLockError::Error(error)) => return Err(failed(&error)),
            }
        }
        let (opened, named) = (file.metadata(), std::fs::metadata(partial));
        // Another run may have given the file its final name before it was locked here.
        if let (Ok(opened), Ok(named)) = (opened, named)
            && file_id(&opened) == file_id(&named)
        {
            file.set_permissions(Permissions::from_mode(0o600)).map_err(|error| failed(&error))?;
            file.set_len(0).map_err(|error| failed(&error))?;
            return Ok(file);
        }
    }
    let message = format!("failed to write {}: other backups keep replacing it", target.display());
    Err(DbError::broken(message, "wait for their end, or choose another name"))
}

fn check_target(source: &Path, target: &Path, overwrite: bool) -> Result<(), DbError> {
    match std::fs::metadata(target) {
        Ok(there) if there.is_dir() => {
            let message = format!("failed to create {}: it is a folder", target.display());
            Err(DbError::broken(message, "name a file that does not exist yet"))
        }
        Ok(there) if std::fs::metadata(source).is_ok_and(|source| file_id(&source) == file_id(&there)) => {
            let message = format!("failed to create {}: it is the archive itself", target.display());
            Err(DbError::broken(message, "name another file, on another disk if possible"))
        }
        Ok(_) if !overwrite => Err(target_exists(target)),
        _ => Ok(()),
    }
}

fn target_exists(target: &Path) -> DbError {
    let message = format!("failed to create {}: it exists already", target.display());
    DbError::broken(message, "choose another name, such as one with the date, or replace it with --overwrite")
}

fn partial_is_link(partial: &Path, target: &Path) -> DbError {
    let message = format!("failed to create {}: {} is a symbolic link", target.display(), partial.display());
    DbError::broken(message, "remove the link, or choose another name")
}

fn create_failed(target: &Path, error: &std::io::Error) -> DbError {
    let message = format!("failed to create {}: {error}", target.display());
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            DbError::new(DbFault::StorageFull, message).with_hint("free some space, or name a file on another disk")
        }
        ErrorKind::ReadOnlyFilesystem => DbError::broken(message, "name a file on a disk that can be written"),
        _ => DbError::broken(message, "the folder must exist and be writable by this user"),
    }
}

/// The error of a file that is no archive of this program.
pub(super) fn not_an_archive(path: &Path) -> DbError {
    let message = format!("{} is a SQLite database, but not an archive of ringcx-extractor", path.display());
    DbError::broken(message, "name a file that `ringcx-extractor backup` has written")
}

/// An error where the integrity check found damage.
pub(super) fn check_faults(path: &Path, mut faults: Vec<String>) -> Result<(), DbError> {
    faults.retain(|fault| fault != "ok");
    if faults.is_empty() {
        return Ok(());
    }
    let more = faults.len().saturating_sub(MAX_FAULTS_LISTED);
    faults.truncate(MAX_FAULTS_LISTED);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let message = format!("{} is damaged: {}{more}", path.display(), faults.join("; "));
    Err(DbError::broken(message, "use an earlier backup; check the disk for errors"))
}

/// Renames a file to a name that must not exist.
fn rename_to_new(from: &Path, to: &Path) -> std::io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // The file system does not know the flag.
        Err(rustix::io::Errno::INVAL) if !to.exists() => std::fs::rename(from, to),
        renamed => Ok(renamed?),
    }
}

/// Makes a new name durable.
pub(super) fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        // Some file systems cannot sync a folder; nothing more can be done there.
        Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::PermissionDenied) => Ok(()),
        other => other,
    }
}

/// The space that this user can use on the disk of a file.
pub(super) fn available_bytes(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}
