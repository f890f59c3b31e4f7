//! The SQLite file's own guards: private from its first byte, and one daemon at a time.

use std::fs::{DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;

use super::{DbError, DbFault};

/// Keeps a second daemon away from the same SQLite file for as long as it lives; the kernel lets go when the process
/// dies, however it dies.
///
/// The lock is on the database file itself, so that no other name of it (a symbolic or a hard link) and no deleted lock file
/// lets a second one in. It is flock(2)'s, which knows nothing of the locks that SQLite takes on the same file. Its descriptor
/// must stay open for as long as SQLite has the file open: closing it would drop SQLite's locks. On a network file system the
/// two kinds of locks are one, and only the file beside it is locked.
#[derive(Debug)]
pub struct FileLock {
    #[expect(dead_code, reason = "held, not read")]
    beside: File,
    database: File,
    path: PathBuf,
    stamp: Mutex<Stamp>,
    /// Device and inode of SQLite's log, as this process last had it open under its name.
    log: Mutex<Option<FileId>>,
}

/// What this run has written into the file's header.
#[derive(Debug, Default)]
struct Stamp {
    /// What the header holds; `None` before it has been read back for the first time.
    held: Option<u32>,
    /// What it holds as soon as SQLite has folded it from its log into the file.
    next: Option<u32>,
}

/// Device and inode: the same for the same file, whatever its name.
type FileId = (u64, u64);

/// Where the header holds what an application may write into it (`pragma user_version`).
const STAMP_AT: u64 = 60;

impl FileLock {
    /// Takes the lock, of a file that is created if it is not there.
    ///
    /// # Errors
    /// Where another process holds it.
    pub fn take(path: &Path) -> Result<FileLock, DbError> {
        create_private(path)?;
        let lock = beside(path);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut beside = options.open(&lock).map_err(|error| DbError::create(&lock, error))?;
        locked(&beside, path, &lock)?;
        // A pipe in the file's place is not to be waited for.
        let nonblock = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
        let database = OpenOptions::new().read(true).custom_flags(nonblock).open(path);
        let database = database.map_err(|error| DbError::create(path, error))?;
        if is_remote(&database) {
            tracing::warn!(
                "the database is on a network file system, where it cannot be locked itself: a second daemon is noticed under the same name only"
            );
        } else {
            locked(&database, path, &lock)?;
        }
        // For the person who wonders whose lock it is; the lock itself does not need it.
        let _ = beside.set_len(0).and_then(|()| writeln!(beside, "{}", std::process::id()));
        Ok(FileLock { beside, database, path: path.to_owned(), stamp: Mutex::default(), log: Mutex::default() })
    }

    /// What the header is to hold next: what it does not hold yet, or else `new`.
    pub(super) fn next_stamp(&self, new: u32) -> u32 {
        self.has_stamp();
        *self.stamp().next.get_or_insert(new)
    }

    /// What is wrong where the file is not the one that was opened any more: removed, renamed, or overwritten.
    pub(super) fn replaced(&self) -> Option<&'static str> {
        let (Ok(opened), there) = (self.database.metadata(), std::fs::metadata(&self.path)) else { return None };
        match there {
            Err(error) if error.kind() == ErrorKind::NotFound => Some("is not there any more"),
            // What keeps it from being looked at is not known to be a replacement.
            Err(_) => None,
            Ok(there) if id(&there) != id(&opened) => Some("was replaced by another one"),
            Ok(_) if !self.has_stamp() => Some("was overwritten"),
            Ok(_) => None,
        }
    }

    /// Whether the header holds what this run has written into it.
    fn has_stamp(&self) -> bool {
        let mut stamp = self.stamp();
        // Read under the lock, or what was read might be what was held before.
        let held = self.read_stamp();
        if stamp.next.is_some() && stamp.next == held {
            *stamp = Stamp { held, next: None };
        }
        stamp.held.is_none() || stamp.held == held
    }

    /// Whether SQLite's log was removed or renamed while it is in use: what is written now would be lost at the next crash.
    pub(super) fn log_is_removed(&self) -> bool {
        let Ok(path) = std::fs::canonicalize(&self.path) else { return false };
        let named = std::fs::metadata(with_ending(&path, "-wal")).ok().map(|file| id(&file));
        let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return false };
        let mut known = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut known_is_open, mut named_is_open) = (false, false);
        for file in open.flatten().filter_map(|entry| std::fs::metadata(entry.path()).ok()) {
            known_is_open |= *known == Some(id(&file));
            named_is_open |= named == Some(id(&file));
        }
        if known_is_open && named != *known {
            return true;
        }
        // Between two connections nothing is open, and SQLite itself removes the log.
        *known = named.filter(|_| named_is_open);
        false
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn stamp(&self) -> MutexGuard<'_, Stamp> {
        self.stamp.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_stamp(&self) -> Option<u32> {
        let mut bytes = [0; 4];
        self.database.read_exact_at(&mut bytes, STAMP_AT).ok()?;
        Some(u32::from_be_bytes(bytes))
    }
}

fn locked(file: &File, database: &Path, lock: &Path) -> Result<(), DbError> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(lock).unwrap_or_default();
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
        Err(TryLockError::Error(error)) => Err(DbError::create(lock, error)),
    }
}

/// Whether a file is on NFS, SMB or AFS.
fn is_remote(file: &File) -> bool {
    const REMOTE: [i64; 6] = [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x5346_414f, 0x6b41_4653];
    rustix::fs::fstatfs(file).is_ok_and(|system| REMOTE.contains(&(system.f_type & 0xffff_ffff)))
}

fn beside(database: &Path) -> PathBuf {
    with_ending(database, ".lock")
}

fn with_ending(database: &Path, ending: &str) -> PathBuf {
    let mut name = database.file_name().unwrap_or_default().to_os_string();
    name.push(ending);
    database.with_file_name(name)
}

fn id(file: &Metadata) -> FileId {
    (file.dev(), file.ino())
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
