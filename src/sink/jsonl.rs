//! Files of JSON lines, by day or whatever `rotate` says: whole lines only, on the disk before they count as delivered.
//!
//! Touches its folder and nothing else. A line that a crash tore is cut off before anything is appended; a disk that
//! fills up while lines are written leaves the file as it was before them. All of it blocks: call it where that may be.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

use super::{SinkError, of_disk};
use crate::clock::{Time, millis};

const DAY: i64 = 86_400_000;
const MINUTE: i64 = 60_000;
const ENDING: &str = ".jsonl";
/// How many of the newest files are looked at for torn lines: only the one that was being written can hold one.
const LOOKED_AT: usize = 100;
/// How much is read at a time on the way back to the last line break.
const BLOCK: u64 = 64 * 1024;

/// A folder of files of JSON lines.
#[derive(Debug)]
pub struct JsonlSink {
    folder: PathBuf,
    rotate: Duration,
    /// Stands in the names where several replicas may share the folder.
    instance: Option<String>,
    open: Option<Open>,
    /// Whether what an earlier process left has been looked at.
    repaired: bool,
}

#[derive(Debug)]
struct Open {
    name: String,
    file: File,
    length: u64,
}

impl JsonlSink {
    /// In this folder, a new file each `rotate`; touches nothing yet.
    pub fn new(folder: &Path, rotate: Duration, instance: Option<&str>) -> JsonlSink {
        let instance = instance.map(crate::model::path_part);
        JsonlSink { folder: folder.to_owned(), rotate, instance, open: None, repaired: false }
    }

    /// Cuts off what a crash of an earlier process tore, where that can be done now; else the next [`JsonlSink::append`] does.
    pub fn mend(&mut self) {
        self.repaired = self.repaired || (self.folder.is_dir() && self.repair().is_ok());
    }

    /// Appends these lines, each of which ends with a line break, to the file of this time; they are on the disk when it
    /// returns.
    ///
    /// # Errors
    /// Where the disk is full or the folder cannot be written to. Then nothing of them stays, or the next call takes it
    /// away before it writes.
    pub fn append(&mut self, lines: &[u8], now: Time) -> Result<(), SinkError> {
        let name = self.name(now);
        let written = self.ready(&name).and_then(|()| self.write(lines));
        written.map_err(|error| {
            // Whatever state the file is in: it is opened, and mended, anew.
            self.open = None;
            self.repaired = false;
            let (why, hint) = of_disk(&error);
            SinkError::away(format!("failed to write {}: {why}\nhint: {hint}", self.folder.join(&name).display()))
        })
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let Some(open) = &mut self.open else { return Err(io::Error::other("no file is open")) };
        match open.file.write_all(lines).and_then(|()| open.file.sync_data()) {
            Ok(()) => {
                open.length += lines.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Back to the last whole line; should that fail too, the repair before the next write does it.
                let _ = open.file.set_len(open.length).and_then(|()| open.file.sync_data());
                Err(error)
            }
        }
    }

    /// Has the file of this name open, with nothing torn at its end.
    fn ready(&mut self, name: &str) -> io::Result<()> {
        if !self.repaired {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            self.repair()?;
            self.repaired = true;
        }
        let path = self.folder.join(name);
        // A file that was moved away is made anew, so that nothing is written where nobody looks for it.
        if self.open.as_ref().is_some_and(|open| open.name == name) && path.exists() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let is_new = !path.exists();
        let mut file = regular(OpenOptions::new().read(true).append(true).create(true).mode(0o600), &path)?;
        mend(&mut file)?;
        if is_new {
            File::open(&self.folder)?.sync_all()?;
        }
        let length = file.metadata()?.len();
        self.open = Some(Open { name: name.to_owned(), file, length });
        Ok(())
    }

    /// Cuts off what a crash tore.
    fn repair(&self) -> io::Result<()> {
        let mut names: Vec<String> = std::fs::read_dir(&self.folder)?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| self.is_own(name))
            .collect();
        names.sort_unstable();
        for name in names.iter().rev().take(LOOKED_AT) {
            // One that was taken away or over by someone else meanwhile is not ours to mend.
            let Ok(mut file) = regular(OpenOptions::new().read(true).write(true), &self.folder.join(name)) else {
                continue;
            };
            mend(&mut file)?;
        }
        Ok(())
    }

    fn ending(&self) -> String {
        self.instance.as_ref().map_or_else(|| ENDING.to_owned(), |instance| format!(".{instance}{ENDING}"))
    }

    /// Whether a file of this name is one that this sink writes, by any `rotate`.
    fn is_own(&self, name: &str) -> bool {
        let stem = name.strip_suffix(&self.ending()).unwrap_or_default();
        stem.len() >= 10 && stem.bytes().all(|byte| byte.is_ascii_digit() || b"-T".contains(&byte))
    }

    /// The file that is written to at this time: named after the beginning of its period, such that names sort by time.
    fn name(&self, now: Time) -> String {
        let rotate = millis(self.rotate).max(1);
        let start = Time(now.0.div_euclid(rotate) * rotate).timestamp();
        let pattern = match rotate {
            days if days % DAY == 0 => "%Y-%m-%d",
            minutes if minutes % MINUTE == 0 => "%Y-%m-%dT%H-%M",
            _ => "%Y-%m-%dT%H-%M-%S",
        };
        format!("{}{}", start.strftime(pattern), self.ending())
    }
}

/// Opens a file of this sink's own: never through a symbolic link, which would have it write to, or cut, what lies elsewhere.
fn regular(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default())
        .open(path)
        .map_err(|error| if path.is_symlink() { io::Error::other(NOT_OWN) } else { error })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other(NOT_OWN)) }
}

/// Why a file is not written to.
const NOT_OWN: &str = "it is a symbolic link or no regular file; remove it, and nothing is written elsewhere";

/// Cuts a file back to its last line break.
fn mend(file: &mut File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
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
        tracing::warn!(bytes = length - end, "a line that a crash had torn is cut off; it is delivered again");
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
            sink.name(at("2026-11-26T13:47:59.900Z"))
        };
        assert_eq!(name(86_400_000, None), "2026-11-26.jsonl");
        assert_eq!(name(3_600_000, None), "2026-11-26T13-00.jsonl");
        assert_eq!(name(900_000, None), "2026-11-26T13-45.jsonl");
        assert_eq!(name(2_000, None), "2026-11-26T13-47-58.jsonl");
        assert_eq!(name(86_400_000, Some("host/1")), "2026-11-26.host%2F1.jsonl");
    }

    #[test]
    fn files_and_folder_are_for_this_user_alone() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a/out");
        let mut sink = JsonlSink::new(&out, DAILY, None);
        sink.append(b"one\n", at("2026-11-26T10:00:00Z")).unwrap();
        sink.append(b"two\n", at("2026-11-27T10:00:00Z")).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&out), mode(&out.join("2026-11-26.jsonl"))), (0o700, 0o600));
        assert_eq!((read(&out, "2026-11-26.jsonl"), read(&out, "2026-11-27.jsonl")), ("one\n".into(), "two\n".into()));
    }

    #[test]
    fn a_torn_line_is_cut_off_before_anything_is_appended() {
        let folder = tempfile::tempdir().unwrap();
        for torn in ["{\"torn", &"x".repeat(200_000), ""] {
            std::fs::write(folder.path().join("2026-11-25.jsonl"), format!("whole\n{torn}")).unwrap();
            std::fs::write(folder.path().join("2026-11-26.jsonl"), torn).unwrap();
            std::fs::write(folder.path().join("notes.jsonl"), "not ours").unwrap();
            let mut sink = JsonlSink::new(folder.path(), DAILY, None);
            sink.append(b"new\n", at("2026-11-26T10:00:00Z")).unwrap();
            assert_eq!(read(folder.path(), "2026-11-25.jsonl"), "whole\n");
            assert_eq!(read(folder.path(), "2026-11-26.jsonl"), "new\n");
            assert_eq!(read(folder.path(), "notes.jsonl"), "not ours");
        }
    }

    #[test]
    fn a_full_disk_is_said_and_leaves_no_half_line() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = JsonlSink::new(folder.path(), DAILY, None);
        sink.append(b"one\n", at("2026-11-26T10:00:00Z")).unwrap();
        // Every write to this device fails for want of room.
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        sink.open = Some(Open { name: "2026-11-26.jsonl".to_owned(), file, length: 4 });
        let error = sink.append(b"two\n", at("2026-11-26T10:00:00Z")).unwrap_err();
        assert_eq!(error.kind, super::super::SinkErrorKind::Away);
        assert!(error.message.contains("the disk is full"), "{error}");
        sink.append(b"two\n", at("2026-11-26T10:00:00Z")).unwrap();
        assert_eq!(read(folder.path(), "2026-11-26.jsonl"), "one\ntwo\n");
    }

    #[test]
    fn what_lies_elsewhere_is_neither_written_to_nor_cut() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = elsewhere.path().join("precious");
        std::fs::write(&target, "no line break").unwrap();
        let link = folder.path().join("2026-11-26.jsonl");
        type Lay<'a> = (&'a str, &'a dyn Fn(&Path) -> io::Result<()>);
        let absent = elsewhere.path().join("absent");
        let lays: [Lay<'_>; 3] = [
            ("a symbolic link", &|path| std::os::unix::fs::symlink(&target, path)),
            ("one to nothing", &|path| std::os::unix::fs::symlink(&absent, path)),
            ("a folder", &|path| std::fs::create_dir(path)),
        ];
        for (kind, lay) in lays {
            lay(&link).unwrap();
            let mut sink = JsonlSink::new(folder.path(), DAILY, None);
            sink.mend();
            let error = sink.append(b"one\n", at("2026-11-26T10:00:00Z")).unwrap_err();
            assert_eq!(error.kind, super::super::SinkErrorKind::Away, "{kind}");
            assert_eq!(read(elsewhere.path(), "precious"), "no line break", "{kind}");
            assert!(!absent.exists(), "{kind}");
            let removed = if link.is_dir() { std::fs::remove_dir(&link) } else { std::fs::remove_file(&link) };
            removed.unwrap();
            sink.append(b"one\n", at("2026-11-26T10:00:00Z")).unwrap();
            std::fs::remove_file(&link).unwrap();
        }
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut sink = JsonlSink::new(folder.path(), DAILY, None);
        sink.append(b"one\n", at("2026-11-26T10:00:00Z")).unwrap();
        std::fs::rename(folder.path().join("2026-11-26.jsonl"), folder.path().join("taken")).unwrap();
        sink.append(b"two\n", at("2026-11-26T10:00:00Z")).unwrap();
        assert_eq!(read(folder.path(), "2026-11-26.jsonl"), "two\n");
    }
}
