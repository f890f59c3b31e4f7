//! Lists the newest conversations, for a search without a query.

use std::collections::HashSet;

use serde::Serialize;

use super::Page;
use crate::cli::filter_args::SelectedSegments;
use crate::cli::human_format::format_duration;
use crate::cli::terminal;
use crate::clock::Time;
use crate::db::{Db, DbError, SegmentRow};
use crate::export::{SegmentEntry, SegmentOverview};
use crate::render::clean_line;
use crate::search::ConversationKey;

/// The number of segments that are read together.
const SEGMENTS_PER_READ: usize = 200;

/// A conversation, by its newest segment.
pub(super) struct ConversationOverview {
    segment: SegmentRow,
    overview: SegmentOverview,
}

/// An overview as JSON: the keys of a hit, without a passage.
#[derive(Serialize)]
pub(super) struct OverviewJson<'a> {
    rc_account_id: &'a str,
    sub_account_id: &'a str,
    dialog_id: Option<&'a str>,
    segment_id: &'a str,
    segment_end: Option<String>,
    #[serde(flatten)]
    overview: &'a SegmentOverview,
}

impl ConversationOverview {
    pub(super) fn to_json(&self) -> OverviewJson<'_> {
        let segment = &self.segment;
        OverviewJson {
            rc_account_id: &segment.account.rc,
            sub_account_id: &segment.account.sub,
            dialog_id: segment.dialog_id.as_deref(),
            segment_id: &segment.segment_id,
            segment_end: segment.ended.map(Time::rfc3339),
            overview: &self.overview,
        }
    }
}

/// Reads the page, the newest conversations first; returns also whether there are more.
pub(super) async fn read_newest(
    db: &Db,
    selected: &SelectedSegments,
    page: Page,
) -> Result<(Vec<ConversationOverview>, bool), DbError> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    let mut last: Option<SegmentRow> = None;
    let mut subject = selected.subject.as_deref().map(|segments| segments.rchunks(SEGMENTS_PER_READ));
    while found.len() < page.wanted() {
        let rows = match &mut subject {
            Some(chunks) => {
                let Some(chunk) = chunks.next() else { break };
                let keys: Vec<i64> = chunk.iter().map(|segment| segment.key).collect();
                let mut rows: Vec<SegmentRow> = db.segments_by_key(&keys).await?.into_values().collect();
                rows.sort_by(|a, b| b.export_key().cmp(&a.export_key()));
                rows.retain(|row| selected.range.contains(row));
                rows
            }
            None => {
                let rows = db.segments_before(selected.range, last.as_ref(), SEGMENTS_PER_READ).await?;
                let Some(end) = rows.last().cloned() else { break };
                last = Some(end);
                rows
            }
        };
        let slots = db.segment_artifacts(&rows).await?;
        for (segment, slots) in rows.into_iter().zip(slots) {
            let entry = SegmentEntry { segment, slots };
            if found.len() < page.wanted()
                && entry.passes(&selected.filter)
                && seen.insert(ConversationKey::of(&entry.segment))
            {
                let segment = entry.segment.clone();
                found.push(ConversationOverview { segment, overview: SegmentOverview::new(entry) });
            }
        }
    }
    Ok(page.select(found))
}

/// Formats the conversations as a table, each with the id of its newest segment.
pub(super) fn format_table(conversations: &[ConversationOverview], width: usize) -> String {
    let header = ["ended", "account", "channel", "agent", "contact", "lasted", "disposition", "segment"];
    let row = |one: &ConversationOverview| {
        let (segment, overview) = (&one.segment, &one.overview);
        let text = |text: &Option<String>| text.as_deref().map(clean_line).unwrap_or_default();
        [
            segment.ended.map_or_else(|| "unknown".to_owned(), Time::rfc3339_secs),
            clean_line(&segment.account.sub),
            text(&overview.channel),
            text(&overview.agent),
            text(&overview.contact),
            overview.duration_ms.map(|ms| format_duration(std::time::Duration::from_millis(ms))).unwrap_or_default(),
            text(&overview.disposition),
            clean_line(&segment.segment_id),
        ]
    };
    terminal::format_table(header, 6, 0..0, width, conversations.iter().map(row))
}
