//! Makes new names in a folder durable.

use std::fs::File;
use std::io;
use std::path::Path;

/// Syncs a folder, so that a file that was just created or renamed in it survives a crash of the
/// machine. Some file systems cannot sync a folder; nothing more can be done there.
///
/// # Errors
/// Returns an error if the folder cannot be opened or synced.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied) => Ok(()),
        other => other,
    }
}
