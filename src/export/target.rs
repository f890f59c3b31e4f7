//! Where an export goes: standard output, or a file that appears whole or not at all.
//!
//! A file is written beside its place, readable by this user alone, and put there when all of it is on the disk. Compressed
//! where its name ends in `.zst`.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use tempfile::NamedTempFile;
use zstd::stream::write::Encoder;

const LEVEL: i32 = 6;

/// What an export is written to. Dropped without [`Target::finish`], a file never was.
pub struct Target {
    writer: Writer,
    place: Option<(NamedTempFile, PathBuf)>,
}

enum Writer {
    Plain(Box<dyn Write + Send>),
    Zstd(Box<Encoder<'static, BufWriter<File>>>),
}

impl Target {
    /// Whatever takes bytes, such as standard output; as it is.
    pub fn stream(out: impl Write + Send + 'static) -> Target {
        Target { writer: Writer::Plain(Box::new(BufWriter::with_capacity(64 * 1024, out))), place: None }
    }

    /// The file at `path`; what is there is replaced at the end.
    ///
    /// # Errors
    /// Where its folder cannot be written to.
    pub fn file(path: &Path) -> anyhow::Result<Target> {
        let compressed = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("zst"));
        Target::open(path, compressed)
    }

    /// The same, never compressed, for what is so already.
    ///
    /// # Errors
    /// Where its folder cannot be written to.
    pub fn packed_file(path: &Path) -> anyhow::Result<Target> {
        Target::open(path, false)
    }

    fn open(path: &Path, compressed: bool) -> anyhow::Result<Target> {
        let failed = || {
            format!(
                "failed to create {}\nhint: the folder must exist, with room, and be writable by this user",
                path.display()
            )
        };
        match std::fs::metadata(path) {
            Ok(there) if there.is_dir() => {
                bail!("failed to create {}: it is a folder\nhint: name a file", path.display())
            }
            // A device or a pipe is written to, not replaced.
            Ok(there) if !there.is_file() => {
                let file = File::options().write(true).open(path).with_context(failed)?;
                return Ok(Target { writer: Writer::over(file, compressed)?, place: None });
            }
            _ => {}
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let temporary = tempfile::Builder::new()
            .prefix(&format!(".{name}."))
            .suffix(".part")
            .tempfile_in(folder)
            .with_context(failed)?;
        let file = temporary.as_file().try_clone().with_context(failed)?;
        Ok(Target { writer: Writer::over(file, compressed)?, place: Some((temporary, path.to_owned())) })
    }

    /// Why it cannot be written, said with the file's name and what to do.
    pub fn failed(error: anyhow::Error, path: &Path) -> anyhow::Error {
        let full = |cause: &(dyn std::error::Error + 'static)| {
            let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
            kind.is_some_and(|kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
        };
        if !error.chain().any(full) {
            return error;
        }
        anyhow!(
            "failed to write {}: the disk is full\nhint: make room or name a file elsewhere, and export again; nothing of this one stays, and what was there before is as it was",
            path.display()
        )
    }

    /// Makes what was written durable and puts it in its place.
    ///
    /// # Errors
    /// Where that fails; what was in its place stays.
    pub fn finish(self) -> anyhow::Result<()> {
        let Target { writer, place } = self;
        writer.finish().context("failed to write the export")?;
        if let Some((temporary, path)) = place {
            temporary.as_file().sync_all().with_context(|| format!("failed to write {}", path.display()))?;
            temporary.persist(&path).map_err(|error| {
                anyhow!(error.error).context(format!("failed to put {} in its place", path.display()))
            })?;
        }
        Ok(())
    }
}

impl Writer {
    fn over(file: File, compressed: bool) -> anyhow::Result<Writer> {
        let file = BufWriter::with_capacity(256 * 1024, file);
        Ok(if compressed {
            let encoder = Encoder::new(file, LEVEL).context("failed to begin compressing")?;
            Writer::Zstd(Box::new(encoder))
        } else {
            Writer::Plain(Box::new(file))
        })
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Writer::Plain(mut out) => out.flush(),
            Writer::Zstd(encoder) => encoder.finish()?.flush(),
        }
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.writer {
            Writer::Plain(out) => out.write(bytes),
            Writer::Zstd(out) => out.write(bytes),
        }
    }

    /// Leaves the buffer as it is: [`Target::finish`] writes it out.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
