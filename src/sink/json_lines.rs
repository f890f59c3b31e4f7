//! A sink that writes files of JSON lines, one file per day or per `rotate`. Only whole lines are
//! written, and they are synced to disk before they count as delivered.
//!
//! Only the sink's folder is touched. A line that a crash tore is removed before the next append.
//! If the disk fills up during a write, the file is reset to its state before the write. After an
//! erasure, files are written anew without the erased lines. All calls block: use them where
//! blocking is allowed.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use serde::Deserialize;

use super::{SinkError, describe_disk_error};
use crate::clock::{Time, millis};

const DAY_MS: i64 = 86_400_000;
const MINUTE_MS: i64 = 60_000;
const EXTENSION: &str = ".jsonl";
/// How many of the newest files are checked for torn lines: only the file that was being written
/// can hold one.
const MAX_FILES_CHECKED: usize = 100;
/// The end of the name of a file that is being written anew.
const REWRITTEN: &str = ".rewritten";
/// How much is read at a time in the backward search for the last line break.
const READ_BLOCK_BYTES: u64 = 64 * 1024;

/// A folder of files of JSON lines.
#[derive(Debug)]
pub(crate) struct JsonlSink {
    folder: PathBuf,
    rotate: Duration,
    /// Part of the file names if several replicas may share the folder.
    instance: Option<String>,
    open: Option<OpenFile>,
    /// Whether the files of an earlier process were checked.
    is_repaired: bool,
}

#[derive(Debug)]
struct OpenFile {
    name: String,
    file: File,
    length: u64,
}

impl JsonlSink {
    /// Creates a sink for this folder with a new file per `rotate`. Does no I/O.
    pub(crate) fn new(folder: &Path, rotate: Duration, instance: Option<&str>) -> JsonlSink {
        let instance = instance.map(crate::model::encode_path_segment);
        JsonlSink { folder: folder.to_owned(), rotate, instance, open: None, is_repaired: false }
    }

    /// Removes torn lines that a crash of an earlier process left. If that fails, the next
    /// [`JsonlSink::append_lines`] repeats it.
    pub(crate) fn repair_files(&mut self) {
        self.is_repaired = self.is_repaired || (self.folder.is_dir() && self.truncate_torn_lines().is_ok());
    }

    /// Appends lines, each with its line break, to the current file. They are on disk when it
    /// returns.
    ///
    /// # Errors
    /// If the disk is full or the folder cannot be written to. Then none of the lines stay, or the
    /// next call removes them first.
    pub(crate) fn append_lines(&mut self, lines: &[u8], now: Time) -> Result<(), SinkError> {
        let name = self.file_name(now);
        let written = self.ensure_file_open(&name).and_then(|()| self.write_and_sync(lines));
        written.map_err(|error| {
            // The state of the file is unknown: open and repair it again.
            self.open = None;
            self.is_repaired = false;
            let (why, hint) = describe_disk_error(&error);
            SinkError::unavailable(format!("failed to write {}: {why}", self.folder.join(&name).display()))
                .with_hint(hint)
        })
    }

    /// Removes the lines of erased segments (sub-account and segment id) from all files. Each file
    /// is replaced as a whole, so that a crash leaves the old file or the new one.
    ///
    /// # Errors
    /// If a file cannot be read or replaced. The next call repeats it.
    pub(crate) fn remove_segments(&mut self, erased: &BTreeSet<(String, String)>) -> Result<(), SinkError> {
        // A file that is open for appending would be written to after it was replaced.
        self.open = None;
        let names = match self.truncate_torn_lines().and_then(|()| self.own_files()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names,
        };
        let removed = names.and_then(|names| names.iter().try_for_each(|name| self.rewrite_without(name, erased)));
        removed.map_err(|error| {
            let (why, hint) = describe_disk_error(&error);
            let folder = self.folder.display();
            SinkError::unavailable(format!("failed to remove erased lines in {folder}: {why}")).with_hint(hint)
        })
    }

    fn rewrite_without(&self, name: &str, erased: &BTreeSet<(String, String)>) -> io::Result<()> {
        let path = self.folder.join(name);
        let is_erased = |line: &[u8]| serde_json::from_slice::<ErasableLine>(line).is_ok_and(|line| line.is_of(erased));
        let file = open_regular_file(OpenOptions::new().read(true), &path)?;
        let mut is_concerned = false;
        for line in read_lines(&file)? {
            if is_erased(&line?) {
                is_concerned = true;
                break;
            }
        }
        if !is_concerned {
            return Ok(());
        }
        let new_path = self.folder.join(format!("{name}{REWRITTEN}"));
        let mut options = OpenOptions::new();
        let new = open_regular_file(options.write(true).create(true).truncate(true).mode(0o600), &new_path)?;
        let mut new = io::BufWriter::new(new);
        for line in read_lines(&file)? {
            let line = line?;
            if !is_erased(&line) {
                new.write_all(&line)?;
                new.write_all(b"\n")?;
            }
        }
        new.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(&new_path, &path)?;
        File::open(&self.folder)?.sync_all()
    }

    fn write_and_sync(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Err(io::Error::other("no file is open")) };
        match open.file.write_all(lines).and_then(|()| open.file.sync_data()) {
            Ok(()) => {
                open.length += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Back to the last whole line. If that fails too, the repair before the next write
                // does it.
                let _ = open.file.set_len(open.length).and_then(|()| open.file.sync_data());
                Err(error)
            }
        }
    }

    /// Opens the file of this name, without a torn line at its end.
    fn ensure_file_open(&mut self, name: &str) -> io::Result<()> {
        if !self.is_repaired {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            self.truncate_torn_lines()?;
            self.is_repaired = true;
        }
        let path = self.folder.join(name);
        // A file that was moved away is created again, so that nothing is written to the moved one.
        if self.open.as_ref().is_some_and(|open| open.name == name) && path.exists() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let is_new = !path.exists();
        let mut file = open_regular_file(OpenOptions::new().read(true).append(true).create(true).mode(0o600), &path)?;
        truncate_torn_line(&mut file)?;
        if is_new {
            File::open(&self.folder)?.sync_all()?;
        }
        let length = file.metadata()?.len();
        self.open = Some(OpenFile { name: name.to_owned(), file, length });
        Ok(())
    }

    /// The names of this sink's files, in order.
    fn own_files(&self) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = std::fs::read_dir(&self.folder)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| self.is_own_file_name(name))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Removes torn lines from the newest files of this sink, and files that a crash left while they
    /// were written anew.
    fn truncate_torn_lines(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(REWRITTEN));
            if let Some(name) = name.filter(|name| self.is_own_file_name(name)) {
                std::fs::remove_file(self.folder.join(format!("{name}{REWRITTEN}")))?;
            }
        }
        let names = self.own_files()?;
        for name in names.iter().rev().take(MAX_FILES_CHECKED) {
            // A file that was removed or replaced in the meantime is not ours to repair.
            let Ok(mut file) = open_regular_file(OpenOptions::new().read(true).write(true), &self.folder.join(name))
            else {
                continue;
            };
            truncate_torn_line(&mut file)?;
        }
        Ok(())
    }

    fn extension(&self) -> String {
        self.instance.as_ref().map_or_else(|| EXTENSION.to_owned(), |instance| format!(".{instance}{EXTENSION}"))
    }

    /// Whether this sink writes files of this name, with any `rotate`.
    fn is_own_file_name(&self, name: &str) -> bool {
        let stem = name.strip_suffix(&self.extension()).unwrap_or_default();
        stem.len() >= 10 && stem.bytes().all(|byte| byte.is_ascii_digit() || b"-T".contains(&byte))
    }

    /// The name of the current file: the start of its period, so that names sort by time.
    fn file_name(&self, now: Time) -> String {
        let rotate = millis(self.rotate).max(1);
        let start = Time(now.0.div_euclid(rotate) * rotate).timestamp();
        let pattern = match rotate {
            days if days % DAY_MS == 0 => "%Y-%m-%d",
            minutes if minutes % MINUTE_MS == 0 => "%Y-%m-%dT%H-%M",
            _ => "%Y-%m-%dT%H-%M-%S",
        };
        format!("{}{}", start.strftime(pattern), self.extension())
    }
}

/// Writes a test event to a file that no delivery writes to. Returns its path.
///
/// # Errors
/// If the folder cannot be written to.
pub(crate) fn write_test_file(folder: &Path, line: &[u8]) -> Result<PathBuf, SinkError> {
    let path = folder.join(format!("test{EXTENSION}"));
    let write = || {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut options = OpenOptions::new();
        let mut file = open_regular_file(options.write(true).create(true).truncate(true).mode(0o600), &path)?;
        file.write_all(line).and_then(|()| file.sync_all())
    };
    match write() {
        Ok(()) => Ok(path),
        Err(error) => {
            let (why, hint) = describe_disk_error(&error);
            Err(SinkError::unavailable(format!("failed to write {}: {why}", path.display())).with_hint(hint))
        }
    }
}

/// What identifies the segment of a line.
#[derive(Deserialize)]
struct ErasableLine {
    r#type: String,
    data: ErasableData,
}

#[derive(Deserialize)]
struct ErasableData {
    sub_account_id: String,
    segment_id: String,
}

impl ErasableLine {
    /// Whether it holds content of an erased segment. That the segment was erased is no content.
    fn is_of(&self, erased: &BTreeSet<(String, String)>) -> bool {
        let segment = (self.data.sub_account_id.clone(), self.data.segment_id.clone());
        self.r#type != "com.ringcx.segment.erased" && erased.contains(&segment)
    }
}

/// The lines of a file from its start.
fn read_lines(file: &File) -> io::Result<impl Iterator<Item = io::Result<Vec<u8>>>> {
    let mut file = file.try_clone()?;
    file.rewind()?;
    Ok(io::BufReader::new(file).split(b'\n'))
}

/// Opens a regular file. It never follows a symbolic link, which would make the sink write to, or
/// truncate, another file.
fn open_regular_file(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)
        .map_err(|error| if path.is_symlink() { io::Error::other(NOT_A_REGULAR_FILE) } else { error })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other(NOT_A_REGULAR_FILE)) }
}

const NOT_A_REGULAR_FILE: &str = "it is a symbolic link or not a regular file; remove it";

/// Truncates a file after its last line break.
fn truncate_torn_line(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(READ_BLOCK_BYTES);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            end = start + at as u64 + 1;
            break;
        }
        end = start;
    }
    if end < length {
        tracing::warn!(bytes = length - end, "removed a line that a crash had torn; its event is delivered again");
        file.set_len(end)?;
        file.sync_data()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const DAILY: Duration = Duration::from_secs(86_400);

    fn at(text: &str) -> Time {
        Time::parse(text).unwrap()
    }

    fn read(folder: &Path, name: &str) -> String {
        std::fs::read_to_string(folder.join(name)).unwrap()
    }

    #[test]
    fn names_sort_by_time_whatever_the_period() {
        let name = |rotate: u64, instance| {
            let sink = JsonlSink::new(Path::new("x"), Duration::from_millis(rotate), instance);
            sink.file_name(at("2026-11-26T13:47:59.900Z"))
        };
        assert_eq!(name(86_400_000, None), "2026-11-26.jsonl");
        assert_eq!(name(3_600_000, None), "2026-11-26T13-00.jsonl");
        assert_eq!(name(900_000, None), "2026-11-26T13-45.jsonl");
        assert_eq!(name(2_000, None), "2026-11-26T13-47-58.jsonl");
        assert_eq!(name(86_400_000, Some("host/1")), "2026-11-26.host%2F1.jsonl");
    }

    #[test]
    fn files_and_folder_are_private_to_this_user() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a/out");
        let mut sink = JsonlSink::new(&out, DAILY, None);
        sink.append_lines(b"one\n", at("2026-11-26T10:00:00Z")).unwrap();
        sink.append_lines(b"two\n", at("2026-11-27T10:00:00Z")).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&out), mode(&out.join("2026-11-26.jsonl"))), (0o700, 0o600));
        assert_eq!((read(&out, "2026-11-26.jsonl"), read(&out, "2026-11-27.jsonl")), ("one\n".into(), "two\n".into()));
    }

    #[test]
    fn a_torn_line_is_removed_before_the_next_append() {
        let folder = tempfile::tempdir().unwrap();
        for torn in ["{\"torn", &"x".repeat(200_000), ""] {
            std::fs::write(folder.path().join("2026-11-25.jsonl"), format!("whole\n{torn}")).unwrap();
            std::fs::write(folder.path().join("2026-11-26.jsonl"), torn).unwrap();
            std::fs::write(folder.path().join("notes.jsonl"), "not ours").unwrap();
            let mut sink = JsonlSink::new(folder.path(), DAILY, None);
            sink.append_lines(b"new\n", at("2026-11-26T10:00:00Z")).unwrap();
            assert_eq!(read(folder.path(), "2026-11-25.jsonl"), "whole\n");
            assert_eq!(read(folder.path(), "2026-11-26.jsonl"), "new\n");
            assert_eq!(read(folder.path(), "notes.jsonl"), "not ours");
        }
    }

    fn erased_line(sub: &str, id: &str, kind: &str) -> String {
        let data = serde_json::json!({"sub_account_id": sub, "segment_id": id, "transcript": {"body": "words"}});
        format!("{}\n", serde_json::json!({"type": kind, "data": data}))
    }

    #[test]
    fn erased_segments_are_removed_from_every_file_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let kind = "com.ringcx.transcript";
        let (gone, other) = (erased_line("1", "a\"b", kind), erased_line("2", "a\"b", kind));
        let told = erased_line("1", "a\"b", "com.ringcx.segment.erased");
        std::fs::write(folder.path().join("2026-11-25.jsonl"), format!("{gone}{other}")).unwrap();
        std::fs::write(folder.path().join("2026-11-26.jsonl"), format!("{told}{gone}not json a\\\"b\n")).unwrap();
        std::fs::write(folder.path().join("notes.jsonl"), &gone).unwrap();
        // Left by a crash.
        std::fs::write(folder.path().join("2026-11-24.jsonl.rewritten"), &gone).unwrap();
        let mut sink = JsonlSink::new(folder.path(), DAILY, None);
        sink.append_lines(b"new\n", at("2026-11-26T10:00:00Z")).unwrap();
        let erased = BTreeSet::from([("1".to_owned(), "a\"b".to_owned())]);
        for _ in 0..2 {
            sink.remove_segments(&erased).unwrap();
            assert_eq!(read(folder.path(), "2026-11-25.jsonl"), other);
            assert_eq!(read(folder.path(), "2026-11-26.jsonl"), format!("{told}not json a\\\"b\nnew\n"));
        }
        sink.append_lines(b"newer\n", at("2026-11-26T10:00:00Z")).unwrap();
        assert!(read(folder.path(), "2026-11-26.jsonl").ends_with("new\nnewer\n"));
        assert_eq!(read(folder.path(), "notes.jsonl"), gone, "a file of someone else");
        let mode = std::fs::metadata(folder.path().join("2026-11-25.jsonl")).unwrap().permissions().mode() & 0o777;
        assert_eq!((std::fs::read_dir(folder.path()).unwrap().count(), mode), (3, 0o600));
    }

    #[test]
    fn a_full_disk_is_reported_and_leaves_no_partial_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = JsonlSink::new(folder.path(), DAILY, None);
        sink.append_lines(b"one\n", at("2026-11-26T10:00:00Z")).unwrap();
        // Every write to this device fails with "no space left".
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        sink.open = Some(OpenFile { name: "2026-11-26.jsonl".to_owned(), file, length: 4 });
        let error = sink.append_lines(b"two\n", at("2026-11-26T10:00:00Z")).unwrap_err();
        assert_eq!(error.kind, super::super::SinkErrorKind::Unavailable);
        assert!(error.message.contains("the disk is full"), "{error}");
        sink.append_lines(b"two\n", at("2026-11-26T10:00:00Z")).unwrap();
        assert_eq!(read(folder.path(), "2026-11-26.jsonl"), "one\ntwo\n");
    }

    #[test]
    fn files_elsewhere_are_neither_written_to_nor_truncated() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = elsewhere.path().join("precious");
        std::fs::write(&target, "no line break").unwrap();
        let link = folder.path().join("2026-11-26.jsonl");
        type Obstacle<'a> = (&'a str, &'a dyn Fn(&Path) -> io::Result<()>);
        let absent = elsewhere.path().join("absent");
        let obstacles: [Obstacle<'_>; 3] = [
            ("a symbolic link", &|path| std::os::unix::fs::symlink(&target, path)),
            ("one to nothing", &|path| std::os::unix::fs::symlink(&absent, path)),
            ("a folder", &|path| std::fs::create_dir(path)),
        ];
        for (kind, create) in obstacles {
            create(&link).unwrap();
            let mut sink = JsonlSink::new(folder.path(), DAILY, None);
            sink.repair_files();
            let error = sink.append_lines(b"one\n", at("2026-11-26T10:00:00Z")).unwrap_err();
            assert_eq!(error.kind, super::super::SinkErrorKind::Unavailable, "{kind}");
            assert_eq!(read(elsewhere.path(), "precious"), "no line break", "{kind}");
            assert!(!absent.exists(), "{kind}");
            let removed = if link.is_dir() { std::fs::remove_dir(&link) } else { std::fs::remove_file(&link) };
            removed.unwrap();
            sink.append_lines(b"one\n", at("2026-11-26T10:00:00Z")).unwrap();
            std::fs::remove_file(&link).unwrap();
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_created_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = JsonlSink::new(folder.path(), DAILY, None);
        sink.append_lines(b"one\n", at("2026-11-26T10:00:00Z")).unwrap();
        std::fs::rename(folder.path().join("2026-11-26.jsonl"), folder.path().join("taken")).unwrap();
        sink.append_lines(b"two\n", at("2026-11-26T10:00:00Z")).unwrap();
        assert_eq!(read(folder.path(), "2026-11-26.jsonl"), "two\n");
    }
}
