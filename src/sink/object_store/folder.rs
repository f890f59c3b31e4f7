//! An object as a file: written beside its place, for this user alone, and put there once it is on the disk.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

/// Writes `content` to `name`, a path below `root`; folders that are missing are made.
///
/// # Errors
/// Where that fails; what was there stays then.
pub(super) async fn write(root: PathBuf, name: String, content: Vec<Bytes>) -> io::Result<()> {
    tokio::task::spawn_blocking(move || blocking(&root, &root.join(name), &content)).await.map_err(io::Error::other)?
}

fn blocking(root: &Path, path: &Path, content: &[Bytes]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(root);
    let is_new = !folder.exists();
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut file = tempfile::Builder::new().prefix(".").suffix(".part").tempfile_in(folder)?;
    for part in content {
        file.write_all(part)?;
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync(folder)?;
    if is_new {
        // A new folder is durable when the one that it is in is.
        let above = folder.ancestors().skip(1);
        for folder in above.take_while(|folder| folder.starts_with(root)).chain(root.parent()) {
            sync(folder)?;
        }
    }
    Ok(())
}

/// Some file systems know no such thing for folders; there is nothing more to do there.
fn sync(folder: &Path) -> io::Result<()> {
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied) => Ok(()),
        other => other,
    }
}
