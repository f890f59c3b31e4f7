//! `show`: shows one segment or all segments of a dialog, with their history.

mod segment_history;
mod segment_page;

use anyhow::bail;
use serde::Serialize;

use super::{CommandContext, terminal};
use crate::access::{AccessAction, AccessSubject};
use crate::db::{Db, DeletionReason, OpenMode, SegmentRow};
use crate::error::UserError;
use crate::export::{ExportLine, SegmentEntry};
use segment_history::SegmentHistory;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(crate) struct ShowArgs {
    /// Id of the segment
    #[arg(value_name = "SEGMENT_ID", group = "which")]
    pub(crate) segment: Option<String>,
    /// All segments of this dialog
    #[arg(long, value_name = "DIALOG_ID", group = "which")]
    pub(crate) dialog: Option<String>,
    /// Print JSON, one segment per line: the fields of `export` and the history
    #[arg(long)]
    pub(crate) json: bool,
}

/// The line of an export with the history.
#[derive(Serialize)]
struct SegmentJson<'a> {
    #[serde(flatten)]
    line: ExportLine,
    history: &'a SegmentHistory,
}

pub(crate) async fn run(args: ShowArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let db = context.open_database(OpenMode::ReadOnly).await?;
    let segments = find_segments(&db, &args).await?;
    for segment in segments.iter().filter(|_| args.dialog.is_none()) {
        let subject = AccessSubject::Segment { sub: &segment.account.sub, id: &segment.segment_id };
        context.record_access(&db, AccessAction::Read, subject).await?;
    }
    if let Some(dialog) = &args.dialog {
        let subject = AccessSubject::Dialog { id: dialog, segments: segments.len() as u64 };
        context.record_access(&db, AccessAction::Read, subject).await?;
    }
    let slots = db.segment_artifacts(&segments).await?;
    let now = context.clock.now();
    let mut pages = match &args.dialog {
        Some(dialog) if !args.json && segments.len() > 1 => segment_page::render_dialog_header(dialog, &segments),
        _ => String::new(),
    };
    for (i, (segment, slots)) in segments.into_iter().zip(slots).enumerate() {
        let history = SegmentHistory::read(&db, &segment).await?;
        let entry = SegmentEntry { segment, slots };
        if args.json {
            let json = SegmentJson { line: ExportLine::from_entry(&entry), history: &history };
            terminal::print_json(&json)?;
        } else {
            pages.push_str(if i > 0 { "\n\n" } else { "" });
            pages.push_str(&segment_page::render(&entry, &history, now, terminal::width()));
        }
    }
    db.close().await;
    if !args.json {
        terminal::print_paged(&pages)?;
    }
    Ok(0)
}

async fn find_segments(db: &Db, args: &ShowArgs) -> anyhow::Result<Vec<SegmentRow>> {
    const HINT: &str = "ids must match exactly; `ringcx-extractor audit` shows what has been read, and `backfill` reads \
                        more of the past";
    let (segments, what) = match (&args.segment, &args.dialog) {
        (_, Some(dialog)) => (db.segments_of_dialog(dialog).await?, format!("dialog {dialog:?}")),
        (segment, None) => {
            let segment = segment.as_deref().unwrap_or_default();
            (db.segments_by_id(segment).await?, format!("segment {segment:?}"))
        }
    };
    if let (true, Some(segment)) = (segments.is_empty(), &args.segment)
        && let Some(tombstone) = db.tombstone(segment, None).await?
    {
        let why = match tombstone.reason {
            DeletionReason::Erased => "was erased on request, or is excluded from the archive, since",
            DeletionReason::Expired => "was removed by retention at",
        };
        let error = UserError::failed(format!("the {what} {why} {}", tombstone.at.rfc3339_secs()));
        bail!(error.with_hint("`ringcx-extractor erase --journal` shows by whom and why"));
    }
    if segments.is_empty() {
        bail!(UserError::failed(format!("the archive has no {what}")).with_hint(HINT));
    }
    Ok(segments)
}
