//! A folder as the recording store: private files, written under a temporary name and renamed once
//! they are on disk.

use std::fs::{DirBuilder, Metadata};
use std::io::{self, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tempfile::TempPath;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};
use tokio_util::io::ReaderStream;

use super::{AudioStream, StoreError, StoredObject};
use crate::folder_sync::sync_folder;

/// The folder of unfinished files, below the root. No object is named so.
pub(super) const UNFINISHED: &str = ".uploads";
/// How much is read at a time.
const READ_BUFFER_BYTES: usize = 64 * 1024;

/// A file that is being written. It is removed where it is dropped.
#[derive(Debug)]
pub(super) struct FolderUpload {
    root: PathBuf,
    file: File,
    path: TempPath,
}

impl FolderUpload {
    pub(super) async fn begin(root: &Path) -> Result<FolderUpload, StoreError> {
        let folder = root.join(UNFINISHED);
        let create = move || {
            DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
            tempfile::Builder::new().prefix("recording-").suffix(".part").tempfile_in(&folder)
        };
        let (file, path) = blocking(create).await.map_err(|error| error_in(root, "write", &error))?.into_parts();
        Ok(FolderUpload { root: root.to_owned(), file: File::from_std(file), path })
    }

    pub(super) async fn write(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(chunk).await.map_err(|error| error_in(&self.root, "write", &error))
    }

    /// Gives the file its name. An existing file is replaced: it has the same content.
    pub(super) async fn finish(mut self, name: &str) -> Result<(), StoreError> {
        let root = self.root.clone();
        let finish = async {
            self.file.flush().await?;
            self.file.sync_all().await?;
            let (root, target) = (self.root.clone(), path_of(&self.root, name)?);
            let path = self.path;
            blocking(move || {
                let folder = target.parent().unwrap_or(&root);
                let is_new = !folder.exists();
                DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
                path.persist(&target).map_err(|error| error.error)?;
                sync_folder(folder)?;
                // A new folder is durable once its parent is synced.
                if is_new { sync_folder(&root) } else { Ok(()) }
            })
            .await
        };
        finish.await.map_err(|error: io::Error| error_in(&root, "write", &error))
    }
}

pub(super) async fn read(root: &Path, name: &str, range: Option<Range<u64>>) -> Result<AudioStream, StoreError> {
    let shown = root.display().to_string();
    let open = async {
        let mut file = File::open(path_of(root, name)?).await?;
        let range = match range {
            Some(range) => range,
            None => 0..file.metadata().await?.len(),
        };
        file.seek(SeekFrom::Start(range.start)).await?;
        Ok(file.take(range.end.saturating_sub(range.start)))
    };
    let part = open.await.map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => StoreError::missing(name, &shown),
        _ => StoreError::from_disk("read", &error, &shown),
    })?;
    let chunks = ReaderStream::with_capacity(part, READ_BUFFER_BYTES);
    let described =
        move |chunk: io::Result<Bytes>| chunk.map_err(|error| StoreError::from_disk("read", &error, &shown));
    Ok(chunks.map(described).boxed())
}

pub(super) async fn size(root: &Path, name: &str) -> Result<Option<u64>, StoreError> {
    let path = path_of(root, name).map_err(|error| error_in(root, "read", &error))?;
    match tokio::fs::metadata(path).await {
        Ok(file) => Ok(Some(file.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error_in(root, "read", &error)),
    }
}

pub(super) async fn delete(root: &Path, name: &str) -> Result<(), StoreError> {
    let path = path_of(root, name).map_err(|error| error_in(root, "delete", &error))?;
    let remove = move || {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        }
        path.parent().map_or(Ok(()), sync_folder)
    };
    blocking(remove).await.map_err(|error| error_in(root, "delete", &error))
}

/// The finished files below `root`.
pub(super) async fn list(root: PathBuf) -> Result<BoxStream<'static, Result<StoredObject, StoreError>>, StoreError> {
    let folders = subfolders(&root).await.map_err(|error| error_in(&root, "list", &error))?;
    let listed = stream::iter(folders.into_iter().filter(|folder| folder != UNFINISHED)).then(move |folder| {
        let root = root.clone();
        async move {
            match files_of(&root, &folder).await {
                Ok(files) => stream::iter(files.into_iter().map(Ok).collect::<Vec<_>>()),
                Err(error) => stream::iter(vec![Err(error_in(&root, "list", &error))]),
            }
        }
    });
    Ok(listed.flatten().boxed())
}

/// The files of uploads that did not end, or have not ended yet.
pub(super) async fn list_unfinished(root: &Path) -> Result<Vec<StoredObject>, StoreError> {
    files_of(root, UNFINISHED).await.map_err(|error| error_in(root, "list", &error))
}

async fn subfolders(root: &Path) -> io::Result<Vec<String>> {
    let root = root.to_owned();
    blocking(move || {
        let entries = match std::fs::read_dir(root) {
            // Nothing was ever stored.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut folders = Vec::new();
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
            {
                folders.push(name);
            }
        }
        Ok(folders)
    })
    .await
}

async fn files_of(root: &Path, folder: &str) -> io::Result<Vec<StoredObject>> {
    let (path, folder) = (root.join(folder), folder.to_owned());
    blocking(move || {
        let entries = match std::fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let metadata = match entry.metadata() {
                // It was deleted in the meantime.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?,
            };
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.push(object(format!("{folder}/{name}"), &metadata));
            }
        }
        Ok(files)
    })
    .await
}

fn object(name: String, metadata: &Metadata) -> StoredObject {
    let modified = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    StoredObject { name, size: metadata.len(), modified }
}

/// The path of an object. A name from a damaged database cannot lead out of the folder.
fn path_of(root: &Path, name: &str) -> io::Result<PathBuf> {
    let is_plain = |part: &str| !part.is_empty() && !part.chars().all(|letter| letter == '.') && !part.contains('\\');
    if name.split('/').count() == 2 && name.split('/').all(is_plain) {
        Ok(root.join(name))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of an object"))
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn error_in(root: &Path, doing: &str, error: &io::Error) -> StoreError {
    StoreError::from_disk(doing, error, &root.display().to_string())
}
