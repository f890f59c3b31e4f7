//! Writes an object as a file: to a private temporary file next to its target, which is renamed
//! once it is on disk.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::folder_sync::sync_folder;

/// Writes `content` to `name`, a path below `root`. Missing folders are created.
///
/// # Errors
/// If the write fails. An existing file is kept then.
pub(super) async fn write_object(root: PathBuf, name: String, content: Vec<Bytes>) -> io::Result<()> {
    tokio::task::spawn_blocking(move || write_blocking(&root, &root.join(name), &content))
        .await
        .map_err(io::Error::other)?
}

fn write_blocking(root: &Path, path: &Path, content: &[Bytes]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(root);
    let is_new = !folder.exists();
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let mut file = tempfile::Builder::new().prefix(".").suffix(".part").tempfile_in(folder)?;
    for part in content {
        file.write_all(part)?;
    }
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    sync_folder(folder)?;
    if is_new {
        // A new folder is durable once its parent is synced.
        let parents = folder.ancestors().skip(1);
        for folder in parents.take_while(|folder| folder.starts_with(root)).chain(root.parent()) {
            sync_folder(folder)?;
        }
    }
    Ok(())
}
