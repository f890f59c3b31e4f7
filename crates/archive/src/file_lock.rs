//! Protection of the SQLite file: readable by its owner only from the start, and locked by one
//! daemon at a time.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;

use super::DbError;

/// Excludes a second daemon from the same SQLite file until it is dropped. The kernel releases it
/// when the process ends.
///
/// The lock is on the database file itself, so that neither another name of it (a symbolic or a
/// hard link) nor a deleted lock file admits a second daemon. It is a flock(2) lock, independent of
/// the locks that SQLite takes on the same file. Its descriptor must stay open as long as SQLite
/// has the file open: closing it would drop SQLite's locks. On a network file system both kinds of
/// locks are the same, so only the `.lock` file is locked there.
#[derive(Debug)]
pub struct FileLock {
    #[expect(dead_code, reason = "held, not read")]
    lock_file: File,
    database: File,
    path: PathBuf,
    stamp: Mutex<HeaderStamp>,
    /// The write-ahead log that this process last had open under its name.
    wal: Mutex<Option<FileId>>,
}

/// The number that this run writes into the file's header.
#[derive(Debug, Default)]
struct HeaderStamp {
    /// The number in the header; `None` before it has been read for the first time.
    current: Option<u32>,
    /// The number that the header has after the next checkpoint of the write-ahead log.
    pending: Option<u32>,
}

/// Device and inode: the same for the same file, whatever its name.
pub(super) type FileId = (u64, u64);

/// Offset of `pragma user_version` in the header, which applications may set.
const STAMP_OFFSET: u64 = 60;

impl FileLock {
    /// Acquires the lock. Creates the file where it does not exist.
    ///
    /// # Errors
    /// Where another process holds the lock, or the file cannot be opened.
    pub fn acquire(path: &Path) -> Result<FileLock, DbError> {
        create_private_file(path)?;
        let lock_path = lock_file_path(path);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut lock_file = options.open(&lock_path).map_err(|error| DbError::create_failed(&lock_path, error))?;
        try_lock_file(&lock_file, path, &lock_path)?;
        // Opening must not block on a pipe in the file's place.
        let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let database = OpenOptions::new().read(true).custom_flags(nonblock).open(path);
        let database = database.map_err(|error| DbError::create_failed(path, error))?;
        if is_on_network(&database) {
            tracing::warn!(
                "the database is on a network file system, where the file itself cannot be locked: a second daemon is detected only if it uses the same path"
            );
        } else {
            try_lock_file(&database, path, &lock_path)?;
        }
        // For people who look for the owner of the lock; the lock does not need it.
        let _ = lock_file.set_len(0).and_then(|()| writeln!(lock_file, "{}", std::process::id()));
        Ok(FileLock { lock_file, database, path: path.to_owned(), stamp: Mutex::default(), wal: Mutex::default() })
    }

    /// The number to write into the header: the pending one, where there is one, or else `new`.
    pub(super) fn next_stamp(&self, new: u32) -> u32 {
        self.has_stamp();
        *self.stamp().pending.get_or_insert(new)
    }

    /// What happened to the file, where its path does not lead to the opened file with this run's
    /// number any more.
    pub(super) fn replacement(&self) -> Option<&'static str> {
        let (Ok(opened), now) = (self.database.metadata(), std::fs::metadata(&self.path)) else { return None };
        match now {
            Err(error) if error.kind() == ErrorKind::NotFound => Some("does not exist any more"),
            // A file that cannot be examined may still be the same.
            Err(_) => None,
            Ok(now) if file_id(&now) != file_id(&opened) => Some("was replaced by another one"),
            Ok(_) if !self.has_stamp() => Some("was overwritten"),
            Ok(_) => None,
        }
    }

    /// Whether the header has the number of this run.
    fn has_stamp(&self) -> bool {
        let mut stamp = self.stamp();
        // Read under the mutex: otherwise another thread's update could make this value stale.
        let current = self.read_stamp();
        if stamp.pending.is_some() && stamp.pending == current {
            *stamp = HeaderStamp { current, pending: None };
        }
        stamp.current.is_none() || stamp.current == current
    }

    /// Whether SQLite's write-ahead log was removed or renamed while it is in use: new writes would
    /// be lost in the next crash.
    pub(super) fn is_wal_removed(&self) -> bool {
        let Ok(path) = std::fs::canonicalize(&self.path) else { return false };
        let named = std::fs::metadata(with_suffix(&path, "-wal")).ok().map(|file| file_id(&file));
        let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return false };
        let mut last_wal = self.wal.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut last_is_open, mut named_is_open) = (false, false);
        for file in open.flatten().filter_map(|entry| std::fs::metadata(entry.path()).ok()) {
            last_is_open |= *last_wal == Some(file_id(&file));
            named_is_open |= named == Some(file_id(&file));
        }
        if last_is_open && named != *last_wal {
            return true;
        }
        // While no connection is open, SQLite itself removes the log.
        *last_wal = named.filter(|_| named_is_open);
        false
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn stamp(&self) -> MutexGuard<'_, HeaderStamp> {
        self.stamp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_stamp(&self) -> Option<u32> {
        let mut bytes = [0; 4];
        self.database.read_exact_at(&mut bytes, STAMP_OFFSET).ok()?;
        Some(u32::from_be_bytes(bytes))
    }
}

fn try_lock_file(file: &File, database: &Path, lock_path: &Path) -> Result<(), DbError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(lock_path).unwrap_or_default();
            let holder = holder.trim();
            let whose = if holder.is_empty() { String::new() } else { format!(" (process {holder})") };
            Err(DbError::broken(
                format!("failed to start: another daemon{whose} is using the database {}", database.display()),
                "stop it first, or give this one another database (database.url); only on Postgres can several daemons share one archive",
            ))
        }
        Err(TryLockError::Error(error)) => Err(DbError::create_failed(lock_path, error)),
    }
}

/// Whether a file is on NFS, SMB or AFS.
pub(super) fn is_on_network(file: &File) -> bool {
    const NETWORK_FS_MAGIC: [i64; 6] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x5346_414f, 0x6b41_4653];
    rustix::fs::fstatfs(file).is_ok_and(|system| NETWORK_FS_MAGIC.contains(&(system.f_type & 0xffff_ffff)))
}

fn lock_file_path(database: &Path) -> PathBuf {
    with_suffix(database, ".lock")
}

pub(super) fn with_suffix(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.file_name().unwrap_or_default().to_os_string();
    name.push(suffix);
    database.with_file_name(name)
}

pub(super) fn file_id(file: &Metadata) -> FileId {
    (file.dev(), file.ino())
}

/// Creates the folder and its parents, accessible by this user only. Existing folders stay as they
/// are.
fn create_private_folder(folder: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Creates the file and its folder where they do not exist, readable by this user only.
pub(super) fn create_private_file(path: &Path) -> Result<(), DbError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        create_private_folder(folder).map_err(|error| DbError::create_failed(path, error))?;
    }
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(DbError::create_failed(path, error)),
    }
}
