//! Writes slices: reads segments from the archive and writes one Parquet file for each table.
//!
//! The rows come from the archive as it is now, so a file that is written again holds the newest
//! texts, and nothing of what was erased.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::event_builder::{EventFilter, read_events};
use crate::clock::{Clock, Time};
use crate::config::LakeTable;
use crate::db::{AccountKey, Db, DbError, DbFault, LakeFile, SegmentRow, SinkKey, WrittenSlice};
use crate::event::Event;
use crate::export::{SegmentEntry, Table, TableFile};
use crate::sink::SinkError;
use crate::sink::object_store::{EventFile, ObjectStoreSink, escape_path_part};

/// The number of segments whose bodies are held in memory together.
const SEGMENTS_PER_BODY_BATCH: usize = 50;
/// The milliseconds of a day.
const DAY_MS: i64 = 86_400_000;
/// The day of segments whose end is unknown. Their partition is that of 1970-01-01.
const UNKNOWN_DAY: i64 = -1;

/// The day of a segment's rows.
pub(super) fn day_of(ended: Option<Time>) -> i64 {
    ended.map_or(UNKNOWN_DAY, |ended| ended.0.div_euclid(DAY_MS).max(0))
}

/// The partition of an account in each table.
pub(super) fn account_partition(sub: &str) -> String {
    format!("account={}", escape_path_part(sub))
}

/// The folder of an account in a table.
pub(super) fn account_folder(table: LakeTable, sub: &str) -> String {
    format!("{}/{}", table.name(), account_partition(sub))
}

/// The name of a slice's object in a table.
pub(super) fn slice_object_name(table: LakeTable, sub: &str, day: i64, slice: i64) -> String {
    // Not the name that stands for null in Hive: pandas cannot read it beside dates.
    let day = Time(day.max(0).saturating_mul(DAY_MS)).timestamp().strftime("%Y-%m-%d");
    format!("{}/day={day}/part-{slice:016x}.parquet", account_folder(table, sub))
}

/// The slice of an object; `None` if this program gives no such name.
pub(super) fn slice_of_object(name: &str) -> Option<i64> {
    let file = name.rsplit('/').next()?;
    let number = file.strip_prefix("part-")?.strip_suffix(".parquet")?;
    let is_number = number.len() == 16 && number.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_number.then(|| i64::from_str_radix(number, 16).ok()).flatten()
}

/// Whether it is the temporary file of an object that was being written when a program ended.
pub(super) fn is_unfinished_file(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or_default();
    file.starts_with('.') && file.ends_with(".part")
}

/// Why a slice could not be written.
pub(super) enum LakeError {
    Store(SinkError),
    Db(DbError),
}

impl From<DbError> for LakeError {
    fn from(error: DbError) -> LakeError {
        LakeError::Db(error)
    }
}

impl From<SinkError> for LakeError {
    fn from(error: SinkError) -> LakeError {
        LakeError::Store(error)
    }
}

/// Writes the slices of one account.
pub(super) struct SliceWriter<'a> {
    pub(super) db: &'a Db,
    pub(super) clock: &'a Clock,
    pub(super) filter: &'a Arc<EventFilter>,
    pub(super) store: &'a ObjectStoreSink,
    pub(super) tables: &'a [LakeTable],
    pub(super) sink: SinkKey,
    pub(super) account: AccountKey,
    pub(super) sub: &'a str,
    pub(super) account_name: Option<Arc<str>>,
    /// A slice ends when a file has this size.
    pub(super) max_size: u64,
    pub(super) written: Vec<WrittenSlice>,
    /// Segments without rows: erased meanwhile, filtered out, or damaged.
    pub(super) skipped: Vec<i64>,
}

/// A slice whose files are being built.
struct OpenSlice {
    files: Vec<(LakeTable, OpenFile)>,
    segments: Vec<i64>,
    ends: Vec<Option<Time>>,
}

enum OpenFile {
    Rows(Box<TableFile>),
    Events(Box<EventFile>),
}

impl SliceWriter<'_> {
    /// Writes these segments of a day, as one slice or more.
    pub(super) async fn write_day(&mut self, day: i64, segments: &[i64]) -> Result<(), LakeError> {
        let mut open: Option<OpenSlice> = None;
        for keys in segments.chunks(SEGMENTS_PER_BODY_BATCH) {
            let (entries, events) = self.read_batch(keys).await?;
            let held: Vec<i64> = entries.iter().map(|entry| entry.segment.key).collect();
            self.skipped.extend(keys.iter().filter(|key| !held.contains(key)));
            if entries.is_empty() {
                continue;
            }
            let slice = match open.take() {
                Some(slice) => slice,
                None => OpenSlice::new(self.tables)?,
            };
            let name = self.account_name.clone();
            // Parsing and compressing need CPU time.
            let pushed = tokio::task::spawn_blocking(move || slice.push(entries, &events, name.as_ref()));
            let slice = pushed.await.map_err(|error| build_failed(&error))??;
            match slice.size() >= self.max_size {
                true => self.finish_slice(day, slice).await?,
                false => open = Some(slice),
            }
        }
        match open {
            Some(slice) => self.finish_slice(day, slice).await,
            None => Ok(()),
        }
    }

    /// The segments that the sink receives, and the versions of their artifacts.
    async fn read_batch(&self, keys: &[i64]) -> Result<(Vec<SegmentEntry>, Vec<Event>), DbError> {
        let mut rows = self.db.segments_by_key(keys).await?;
        let rows: Vec<SegmentRow> = keys.iter().filter_map(|key| rows.remove(key)).collect();
        let entries = self.read_entries(rows).await?;
        let entries: Vec<SegmentEntry> =
            entries.into_iter().filter_map(|entry| self.filter.table_entry(entry)).collect();
        if !self.tables.contains(&LakeTable::Artifacts) {
            return Ok((entries, Vec::new()));
        }
        let held: Vec<i64> = entries.iter().map(|entry| entry.segment.key).collect();
        let versions = self.db.stored_versions(&held).await?;
        let batch = read_events(self.db, self.filter, &versions).await?;
        for ((account, feed), _, why) in &batch.damaged {
            tracing::error!(
                account = account.0,
                feed,
                error = why,
                "a stored artifact is damaged; a table leaves it out"
            );
        }
        Ok((entries, batch.events))
    }

    /// Reads the artifacts. Of a batch with a damaged one, each segment is read alone, and the damaged
    /// one is left out.
    async fn read_entries(&self, rows: Vec<SegmentRow>) -> Result<Vec<SegmentEntry>, DbError> {
        match self.db.segment_artifacts(&rows).await {
            Ok(slots) => {
                return Ok(rows
                    .into_iter()
                    .zip(slots)
                    .map(|(segment, slots)| SegmentEntry { segment, slots })
                    .collect());
            }
            Err(error) if error.fault() == DbFault::Broken => {}
            Err(error) => return Err(error),
        }
        let mut entries = Vec::with_capacity(rows.len());
        for segment in rows {
            match self.db.segment_artifacts(std::slice::from_ref(&segment)).await {
                Ok(slots) => entries.extend(slots.into_iter().next().map(|slots| SegmentEntry { segment, slots })),
                Err(error) if error.fault() == DbFault::Broken => {
                    tracing::error!(segment = segment.key, %error, "a stored segment is damaged; the tables leave it out");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(entries)
    }

    /// Plans the slice and writes its objects. A table without rows gets none.
    async fn finish_slice(&mut self, day: i64, slice: OpenSlice) -> Result<(), LakeError> {
        let built = tokio::task::spawn_blocking(move || slice.finish());
        let (files, segments, ends) = built.await.map_err(|error| build_failed(&error))??;
        let id = self.db.plan_slice(self.sink, self.account, day, self.clock.now()).await?;
        let mut written = Vec::new();
        for BuiltFile { table, rows, content, sha256 } in files {
            let name = slice_object_name(table, self.sub, day, id);
            let (size, footer_size) = (content.len() as u64, footer_size(&content));
            self.store.put_parquet(&name, content).await?;
            written.push(LakeFile { table: table.name(), name, rows, size, footer_size, sha256 });
        }
        self.written.push(WrittenSlice { id, segments, ends, files: written });
        Ok(())
    }
}

/// A file that is complete.
struct BuiltFile {
    table: LakeTable,
    rows: u64,
    content: Bytes,
    sha256: [u8; 32],
}

/// The files of a slice, its segments, and when the first and the last of them ended.
type BuiltSlice = (Vec<BuiltFile>, Vec<i64>, Option<(Time, Time)>);

/// The size of a Parquet file's footer, which stands before the last four bytes.
fn footer_size(file: &[u8]) -> u32 {
    let size = file.len().checked_sub(8).and_then(|at| file.get(at..)?.first_chunk::<4>());
    size.map_or(0, |size| u32::from_le_bytes(*size))
}

impl OpenSlice {
    fn new(tables: &[LakeTable]) -> Result<OpenSlice, SinkError> {
        let open = |table: &LakeTable| -> anyhow::Result<(LakeTable, OpenFile)> {
            let file = match table {
                LakeTable::Segments => OpenFile::Rows(Box::new(TableFile::new(Table::Segments)?)),
                LakeTable::Phrases => OpenFile::Rows(Box::new(TableFile::new(Table::Phrases)?)),
                LakeTable::Artifacts => OpenFile::Events(Box::new(EventFile::new()?)),
            };
            Ok((*table, file))
        };
        let files = tables.iter().map(open).collect::<anyhow::Result<_>>().map_err(|error| build_failed(&error))?;
        Ok(OpenSlice { files, segments: Vec::new(), ends: Vec::new() })
    }

    fn push(
        mut self,
        entries: Vec<SegmentEntry>,
        events: &[Event],
        account_name: Option<&Arc<str>>,
    ) -> Result<OpenSlice, SinkError> {
        self.segments.extend(entries.iter().map(|entry| entry.segment.key));
        self.ends.extend(entries.iter().map(|entry| entry.segment.ended));
        for (_, file) in &mut self.files {
            match file {
                OpenFile::Rows(file) => {
                    for entry in &entries {
                        file.push(entry.clone(), account_name).map_err(|error| build_failed(&error))?;
                    }
                }
                OpenFile::Events(file) => {
                    for event in events {
                        file.push(event).map_err(|error| build_failed(&error))?;
                    }
                }
            }
        }
        Ok(self)
    }

    /// The size of its largest file.
    fn size(&self) -> u64 {
        let size = |(_, file): &(LakeTable, OpenFile)| match file {
            OpenFile::Rows(file) => file.size(),
            OpenFile::Events(file) => file.size(),
        };
        self.files.iter().map(size).max().unwrap_or(0)
    }

    fn finish(self) -> Result<BuiltSlice, SinkError> {
        let ends: Option<Vec<Time>> = self.ends.into_iter().collect();
        let ends = ends.and_then(|ends| Some((*ends.iter().min()?, *ends.iter().max()?)));
        let mut built = Vec::new();
        for (table, file) in self.files {
            let rows = match &file {
                OpenFile::Rows(file) => file.rows(),
                OpenFile::Events(file) => file.rows(),
            };
            if rows == 0 {
                continue;
            }
            let content = match file {
                OpenFile::Rows(file) => file.finish().map_err(|error| build_failed(&error))?,
                OpenFile::Events(file) => file.finish().map_err(|error| build_failed(&error))?,
            };
            let sha256 = Sha256::digest(&content).into();
            built.push(BuiltFile { table, rows, content: Bytes::from(content), sha256 });
        }
        Ok((built, self.segments, ends))
    }
}

fn build_failed(error: &dyn std::fmt::Display) -> SinkError {
    SinkError::unavailable(format!("failed to build a Parquet file: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_named_after_table_account_day_and_slice() {
        let name = slice_object_name(LakeTable::Phrases, "9/9", 20_423, 26);
        assert_eq!(name, "phrases/account=9%2F9/day=2025-12-01/part-000000000000001a.parquet");
        assert_eq!(slice_of_object(&name), Some(26));
        let unknown = slice_object_name(LakeTable::Segments, "1", day_of(None), 1);
        assert!(unknown.contains("/day=1970-01-01/"), "{unknown}");
        for other in ["segments/a.parquet", "part-1.parquet", "part-000000000000001g.parquet", "part-000000000000001a"]
        {
            assert_eq!(slice_of_object(other), None, "{other}");
        }
        assert_eq!((day_of(Some(Time(-5))), day_of(Some(Time(DAY_MS)))), (0, 1));
        assert!(is_unfinished_file("segments/account=1/day=2025-12-01/.aB3.part"));
        assert!(!is_unfinished_file("segments/.hidden/a.part") && !is_unfinished_file("segments/.a.parquet"));
    }
}
