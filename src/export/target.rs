//! The target of an export: standard output, or a file that is replaced atomically.
//!
//! A file is first written to a temporary file in the same folder, readable only by this user, and
//! renamed once it is durable. Then the folder is synced, so that the new name is durable too. It is compressed if its name ends in `.zst`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use tempfile::NamedTempFile;
use zstd::stream::write::Encoder;

use crate::error::UserError;
use crate::folder_sync::sync_folder;

const ZSTD_LEVEL: i32 = 6;

/// The target of an export. If it is dropped without [`Target::finish`], no file is created.
pub struct Target {
    writer: OutputWriter,
    destination: Option<(NamedTempFile, PathBuf)>,
}

enum OutputWriter {
    Plain(Box<dyn Write + Send>),
    Zstd(Box<Encoder<'static, BufWriter<File>>>),
}

impl Target {
    /// Writes to a stream such as standard output, uncompressed.
    pub(crate) fn stream(out: impl Write + Send + 'static) -> Target {
        Target { writer: OutputWriter::Plain(Box::new(BufWriter::with_capacity(64 * 1024, out))), destination: None }
    }

    /// Writes to the file at `path`; an existing file is replaced at the end.
    ///
    /// # Errors
    /// Returns an error if its folder is not writable.
    pub(crate) fn file(path: &Path) -> anyhow::Result<Target> {
        let compressed = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zst"));
        Target::open(path, compressed)
    }

    /// Writes to a file without compression, for content that is already compressed.
    ///
    /// # Errors
    /// Returns an error if its folder is not writable.
    pub(crate) fn precompressed_file(path: &Path) -> anyhow::Result<Target> {
        Target::open(path, false)
    }

    fn open(path: &Path, compressed: bool) -> anyhow::Result<Target> {
        let failed = |error: io::Error| {
            UserError::failed(format!("failed to create {}", path.display()))
                .with_hint("the folder must exist, be writable by this user, and have free space")
                .with_source(error)
        };
        match std::fs::metadata(path) {
            Ok(there) if there.is_dir() => {
                let error = UserError::failed(format!("failed to create {}: it is a folder", path.display()));
                bail!(error.with_hint("name a file"))
            }
            // A device or a pipe is opened, not replaced.
            Ok(there) if !there.is_file() => {
                let file = File::options().write(true).open(path).map_err(failed)?;
                return Ok(Target { writer: OutputWriter::new(file, compressed)?, destination: None });
            }
            _ => {}
        }
        let folder = parent_folder(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temporary = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".part")
            .tempfile_in(folder)
            .map_err(failed)?;
        let file = temporary.as_file().try_clone().map_err(failed)?;
        Ok(Target { writer: OutputWriter::new(file, compressed)?, destination: Some((temporary, path.to_owned())) })
    }

    /// Adds the file name and a hint to an error that a full disk caused.
    pub(crate) fn explain_error(error: anyhow::Error, path: &Path) -> anyhow::Error {
        let full = |cause: &(dyn std::error::Error + 'static)| {
            let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
            kind.is_some_and(|kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
        };
        if !error.chain().any(full) {
            return error;
        }
        let hint = "free space or name a file on another disk, and try again; the incomplete file was removed, and an existing file was not changed";
        let error = UserError::failed(format!("failed to write {}: the disk is full", path.display()));
        error.with_hint(hint).into()
    }

    /// Makes the file durable, moves it to its destination, and makes its name durable.
    ///
    /// # Errors
    /// Returns an error if that fails. An existing file is then unchanged, unless only the name
    /// could not be made durable.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        let Target { writer, destination } = self;
        writer.finish().context("failed to write the export")?;
        if let Some((temporary, path)) = destination {
            temporary.as_file().sync_all().with_context(|| format!("failed to write {}", path.display()))?;
            temporary.persist(&path).map_err(|error| {
                anyhow!(error.error).context(format!("failed to rename the temporary file to {}", path.display()))
            })?;
            sync_folder(parent_folder(&path)).with_context(|| {
                format!("failed to make {} durable: it is complete, but a crash may lose it", path.display())
            })?;
        }
        Ok(())
    }
}

fn parent_folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl OutputWriter {
    fn new(file: File, compressed: bool) -> anyhow::Result<OutputWriter> {
        let file = BufWriter::with_capacity(256 * 1024, file);
        Ok(if compressed {
            let encoder = Encoder::new(file, ZSTD_LEVEL).context("failed to start compression")?;
            OutputWriter::Zstd(Box::new(encoder))
        } else {
            OutputWriter::Plain(Box::new(file))
        })
    }

    fn finish(self) -> io::Result<()> {
        match self {
            OutputWriter::Plain(mut out) => out.flush(),
            OutputWriter::Zstd(encoder) => encoder.finish()?.flush(),
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.writer {
            OutputWriter::Plain(out) => out.write(bytes),
            OutputWriter::Zstd(out) => out.write(bytes),
        }
    }

    /// Does nothing: [`Target::finish`] flushes the buffer.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
