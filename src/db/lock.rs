//! The SQLite file's own guards: private from its first byte, and one daemon at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{DbError, DbFault};

/// Keeps a second daemon away from the same SQLite file for as long as it lives; the kernel lets go when the process
/// dies, however it dies.
#[derive(Debug)]
pub struct FileLock(#[expect(dead_code, reason = "held, not read")] File);

impl FileLock {
    /// Takes the lock beside the database file.
    ///
    /// # Errors
    /// Where another process holds it.
    pub fn take(database: &Path) -> Result<FileLock, DbError> {
        let path = beside(database);
        if let Some(folder) = path.parent() {
            private_folder(folder).map_err(|error| DbError::create(database, error))?;
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| DbError::create(&path, error))?;
        match file.try_lock() {
            Ok(()) => {
                // For the person who wonders whose lock it is; the lock itself does not need it.
                let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                Ok(FileLock(file))
            }
            Err(TryLockError::WouldBlock) => {
                let holder = std::fs::read_to_string(&path).unwrap_or_default();
                let holder = holder.trim();
                let whose = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
                Err(DbError::new(
                    DbFault::Broken,
                    format!(
                        "failed to start: another daemon{whose} is using the database {}\nhint: stop it first, or give this one a database of its own (database.url); several daemons share one archive on Postgres only",
                        database.display()
                    ),
                ))
            }
            Err(TryLockError::Error(error)) => Err(DbError::create(&path, error)),
        }
    }
}

fn beside(database: &Path) -> PathBuf {
    let mut name = database.file_name().unwrap_or_default().to_os_string();
    name.push(".lock");
    database.with_file_name(name)
}

/// Creates the folder, and those that it lies in, for this user alone. One that is there stays as it is.
fn private_folder(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Creates the file, and its folder, if they are not there, readable by this user alone.
pub(super) fn create_private(path: &Path) -> Result<(), DbError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        private_folder(folder).map_err(|error| DbError::create(path, error))?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(DbError::create(path, error)),
    }
}
