//! Keeps objects as files. A file is written to a private temporary file next to its target, which is
//! renamed once it is on disk.

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

/// Deletes `name`, a path below `root`, if it exists, and the folders that are empty then.
///
/// # Errors
/// If the file cannot be deleted.
pub(super) async fn delete_object(root: PathBuf, name: String) -> io::Result<()> {
    let delete = move || {
        let path = root.join(name);
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut parents = path.ancestors().skip(1).take_while(|folder| *folder != root && folder.starts_with(&root));
        let left = parents.find(|folder| std::fs::remove_dir(folder).is_err());
        sync_folder(left.unwrap_or(&root))
    };
    tokio::task::spawn_blocking(delete).await.map_err(io::Error::other)?
}

/// The names of the files below `path`, with that path. The temporary files that a crash left are among
/// them.
///
/// # Errors
/// If a folder cannot be read.
pub(super) async fn list_objects(root: PathBuf, path: String) -> io::Result<Vec<String>> {
    let list = move || {
        let (mut names, mut folders) = (Vec::new(), vec![root.join(path)]);
        while let Some(folder) = folders.pop() {
            let entries = match std::fs::read_dir(folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let path = entry.path();
                let is_folder = entry.file_type()?.is_dir();
                let name = path.strip_prefix(&root).ok().and_then(Path::to_str).map(str::to_owned);
                match (is_folder, name) {
                    (true, _) => folders.push(path),
                    (false, Some(name)) => names.push(name),
                    (false, None) => {}
                }
            }
        }
        Ok(names)
    };
    tokio::task::spawn_blocking(list).await.map_err(io::Error::other)?
}
