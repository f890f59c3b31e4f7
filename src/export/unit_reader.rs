//! Reads the segments of an export page by page, and groups them into units: a segment, or a whole
//! dialog.
//!
//! A dialog stands where its last segment does, so that each is in one range of time only. One that
//! gets a later segment while the export runs may come twice; the last row is complete.

use std::collections::{HashMap, HashSet};

use super::{Selection, Table};
use crate::db::{AccountKey, Db, DbError, ErasedSegment, SegmentRow};
use crate::render::Metadata;

/// The number of segments per page, whose metadata is held in memory together.
const SEGMENTS_PER_PAGE: usize = 500;

/// The segments that are exported together.
pub(super) type Unit = Vec<SegmentRow>;

/// A page of an export.
pub(super) struct UnitPage {
    /// The number of segments that were examined.
    pub(super) examined: u64,
    pub(super) units: Vec<Unit>,
}

/// The erased segments of an export of changes, and the dialogs that have other segments left.
#[derive(Default)]
pub(super) struct ErasedPage {
    pub(super) erased: Vec<ErasedSegment>,
    pub(super) changed_dialogs: Vec<Unit>,
}

/// Reads the units of a selection, in order.
pub(super) struct UnitReader<'a> {
    db: &'a Db,
    selection: &'a Selection,
    last: Option<SegmentRow>,
    /// How many of the selection's own segments were read.
    read: usize,
    subject: Option<HashSet<i64>>,
    /// Dialogs that were exported already, where a segment other than the last may lead to one. It
    /// grows with the number of changed dialogs.
    exported: HashSet<(AccountKey, String)>,
    last_erased: i64,
}

impl<'a> UnitReader<'a> {
    pub(super) fn new(db: &'a Db, selection: &'a Selection) -> UnitReader<'a> {
        let subject = selection.subject.as_ref().map(|keys| keys.iter().copied().collect());
        UnitReader { db, selection, last: None, read: 0, subject, exported: HashSet::new(), last_erased: 0 }
    }

    /// The next page; `None` at the end. A page may have no units.
    pub(super) async fn next_page(&mut self) -> Result<Option<UnitPage>, DbError> {
        let (examined, rows) = match (&self.selection.subject, &self.selection.since) {
            (Some(keys), None) => {
                let page: Vec<i64> =
                    keys.get(self.read..).unwrap_or_default().iter().take(SEGMENTS_PER_PAGE).copied().collect();
                self.read += page.len();
                let mut rows = self.db.segments_by_key(&page).await?;
                (page.len(), page.iter().filter_map(|key| rows.remove(key)).collect::<Vec<_>>())
            }
            _ => {
                let rows = self.read_changed_or_all().await?;
                self.last = rows.last().cloned().or(self.last.take());
                (rows.len(), rows)
            }
        };
        if examined == 0 {
            return Ok(None);
        }
        let is_of_subject = |row: &SegmentRow| self.subject.as_ref().is_none_or(|keys| keys.contains(&row.key));
        let rows: Vec<SegmentRow> = rows.into_iter().filter(is_of_subject).collect();
        let units = match self.selection.table {
            Table::Segments | Table::Phrases => {
                let in_range = rows.into_iter().filter(|row| self.selection.range.contains(row));
                in_range.filter(|row| self.may_match(row)).map(|row| vec![row]).collect()
            }
            Table::Dialogs => self.dialogs_of(rows).await?,
        };
        Ok(Some(UnitPage { examined: examined as u64, units }))
    }

    async fn read_changed_or_all(&self) -> Result<Vec<SegmentRow>, DbError> {
        let (range, last) = (self.selection.range, self.last.as_ref());
        match &self.selection.since {
            // A segment of the dialog may have changed that ended outside the range.
            Some(cursor) if self.selection.table == Table::Dialogs => {
                let all = crate::db::ExportRange { account: range.account, ..Default::default() };
                self.db.segments_changed_after(all, cursor, last, SEGMENTS_PER_PAGE).await
            }
            Some(cursor) => self.db.segments_changed_after(range, cursor, last, SEGMENTS_PER_PAGE).await,
            None => self.db.segments_after(range, last, SEGMENTS_PER_PAGE).await,
        }
    }

    fn may_match(&self, row: &SegmentRow) -> bool {
        let filter = &self.selection.filter;
        filter.is_empty() || filter.may_match(&Metadata::parse(&row.metadata))
    }

    /// The dialogs that these segments stand for, each once.
    async fn dialogs_of(&mut self, rows: Vec<SegmentRow>) -> Result<Vec<Unit>, DbError> {
        let mut dialogs = self.read_dialogs(rows.iter().filter_map(|row| row.dialog_id.clone())).await?;
        // Where all segments are read in order, the last one of a dialog stands for it.
        let every_segment_comes = self.selection.since.is_none() && self.selection.subject.is_none();
        let mut units = Vec::new();
        for row in rows {
            let unit = match row.dialog_id.clone() {
                None => vec![row],
                Some(dialog_id) => {
                    let key = (row.account_key, dialog_id);
                    if every_segment_comes {
                        let is_last = |unit: &Unit| unit.last().is_some_and(|last| last.key == row.key);
                        if !dialogs.get(&key).is_some_and(is_last) {
                            continue;
                        }
                    } else if !self.exported.insert(key.clone()) {
                        continue;
                    }
                    let Some(unit) = dialogs.remove(&key) else { continue };
                    unit
                }
            };
            let is_in_range = unit.last().is_some_and(|last| self.selection.range.contains(last));
            if is_in_range && unit.iter().any(|row| self.may_match(row)) {
                units.push(unit);
            }
        }
        Ok(units)
    }

    /// All segments of these dialogs, by account and dialog.
    async fn read_dialogs(
        &self,
        ids: impl Iterator<Item = String>,
    ) -> Result<HashMap<(AccountKey, String), Unit>, DbError> {
        let ids: Vec<String> = ids.collect::<HashSet<_>>().into_iter().collect();
        let mut dialogs: HashMap<(AccountKey, String), Unit> = HashMap::new();
        for row in self.db.segments_of_dialogs(&ids).await? {
            if let Some(id) = row.dialog_id.clone() {
                dialogs.entry((row.account_key, id)).or_default().push(row);
            }
        }
        Ok(dialogs)
    }

    /// The next page of erased segments, in an export of changes. Filters other than the account do
    /// not apply: what an erased segment was is not known any more.
    pub(super) async fn next_erased(&mut self) -> Result<Option<ErasedPage>, DbError> {
        let Some(cursor) = &self.selection.since else { return Ok(None) };
        let account = self.selection.range.account;
        let erased = self.db.erased_segments_after(cursor, account, self.last_erased, SEGMENTS_PER_PAGE).await?;
        let Some(last) = erased.last() else { return Ok(None) };
        self.last_erased = last.id;
        let mut page = ErasedPage::default();
        if self.selection.table != Table::Dialogs {
            page.erased = erased;
            return Ok(Some(page));
        }
        let selection = self.selection;
        let is_narrowed = selection.subject.is_some()
            || !selection.filter.is_empty()
            || selection.range.from.is_some()
            || selection.range.to.is_some();
        let mut dialogs = self.read_dialogs(erased.iter().filter_map(|segment| segment.dialog_id.clone())).await?;
        for segment in erased {
            let key = segment.dialog_id.clone().map(|id| (segment.account_key, id));
            let Some(key) = key.filter(|key| dialogs.contains_key(key) || self.exported.contains(key)) else {
                page.erased.push(segment);
                continue;
            };
            // The dialog is left, without the segment.
            let unit = dialogs.remove(&key).unwrap_or_default();
            let is_selected = unit.last().is_some_and(|last| selection.range.contains(last))
                && self.subject.as_ref().is_none_or(|keys| unit.iter().any(|row| keys.contains(&row.key)));
            if self.exported.insert(key) && is_selected {
                page.changed_dialogs.push(unit);
            }
            // A filter may leave the dialog out: the copy must learn of the erasure all the same.
            if is_narrowed {
                page.erased.push(segment);
            }
        }
        Ok(Some(page))
    }
}
