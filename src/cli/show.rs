//! `show`: one segment, or all of a dialog, with the whole story of how it came to be held.

mod history;
mod page;

use anyhow::bail;
use serde::Serialize;

use super::{Context, terminal};
use crate::db::{Access, Db, Gone, SegmentRow};
use crate::export::{Entry, Line};
use history::History;

/// Options of `show`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub struct Args {
    /// The segment's id
    #[arg(value_name = "SEGMENT_ID", group = "which")]
    pub segment: Option<String>,
    /// All segments of this dialog
    #[arg(long, value_name = "DIALOG_ID", group = "which")]
    pub dialog: Option<String>,
    /// Print JSON, a line a segment: as `export` does, and its history
    #[arg(long)]
    pub json: bool,
}

/// The line of an export, and the history.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    line: Line,
    history: &'a History,
}

/// Prints it.
///
/// # Errors
/// Where there is no such segment or the database cannot be read.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    let db = context.open(Access::Existing).await?;
    let segments = find(&db, &args).await?;
    let slots = db.slots(&segments).await?;
    let now = context.clock.now();
    let mut pages = match &args.dialog {
        Some(dialog) if !args.json && segments.len() > 1 => page::dialog(dialog, &segments),
        _ => String::new(),
    };
    for (i, (segment, slots)) in segments.into_iter().zip(slots).enumerate() {
        let history = History::read(&db, &segment).await?;
        let entry = Entry { segment, slots };
        if args.json {
            let told = Told { line: Line::of(&entry), history: &history };
            terminal::print(&format!("{}\n", serde_json::to_string(&told)?))?;
        } else {
            pages.push_str(if i > 0 { "\n\n" } else { "" });
            pages.push_str(&page::render(&entry, &history, now, terminal::width()));
        }
    }
    db.close().await;
    if !args.json {
        terminal::page(&pages)?;
    }
    Ok(0)
}

async fn find(db: &Db, args: &Args) -> anyhow::Result<Vec<SegmentRow>> {
    const HINT: &str = "hint: ids are opaque, each letter counts; `ringcx-extractor audit` shows what has been read, \
                        `backfill` reads more of the past";
    let (segments, what) = match (&args.segment, &args.dialog) {
        (_, Some(dialog)) => (db.segments_of_dialog(dialog).await?, format!("dialog {dialog:?}")),
        (segment, None) => {
            let segment = segment.as_deref().unwrap_or_default();
            (db.segments_named(segment).await?, format!("segment {segment:?}"))
        }
    };
    if let (true, Some(segment)) = (segments.is_empty(), &args.segment)
        && let Some(stone) = db.tombstone(segment, None).await?
    {
        let why = match stone.gone {
            Gone::Erased => "was erased on request, or is not to be taken in, since",
            Gone::Expired => "went because it was past retention, at",
        };
        bail!(
            "the {what} {why} {}\nhint: `ringcx-extractor erase --journal` tells who and why",
            stone.at.rfc3339_secs()
        );
    }
    if segments.is_empty() {
        bail!("failed to find the {what} in the archive\n{HINT}");
    }
    Ok(segments)
}
