//! `recording`: writes the recording of a segment to a file, or to standard output.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::terminal::{self, Stdout};
use super::{CommandContext, human_format};
use crate::access::{AccessAction, AccessSubject};
use crate::db::{Db, OpenMode, SegmentRow};
use crate::error::UserError;
use crate::export::{Target, outcome_name, recording_of};
use crate::model::RecordingReference;
use crate::proof::hex;
use crate::recordings::{RecordingStore, StoreError};

#[derive(Debug, clap::Args)]
pub(crate) struct RecordingArgs {
    /// Id of the segment
    #[arg(value_name = "SEGMENT_ID")]
    segment: String,
    /// The account, by sub-account id or name, where several have a segment with this id
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Write to this file, atomically; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

pub(crate) async fn run(args: RecordingArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let file = Some(args.output.as_path()).filter(|path| *path != Path::new("-"));
    if file.is_none() && terminal::is_terminal() {
        let error = UserError::usage("refusing to write audio to a terminal");
        bail!(error.with_hint("name a file with --output, or redirect standard output"));
    }
    let store = RecordingStore::new(&context.settings()?.recordings).map_err(store_failed)?;
    let db = context.open_database(OpenMode::ReadOnly).await?;
    let segment = find_segment(&db, &args, context).await?;
    let reference = stored_recording(&db, &segment).await?;
    let subject = AccessSubject::Segment { sub: &segment.account.sub, id: &segment.segment_id };
    context.record_access(&db, AccessAction::Listen, subject).await?;
    db.close().await;
    let target = match file {
        Some(path) => Target::precompressed_file(path)?,
        None => Target::stream(Stdout),
    };
    // An interrupt must not leave an incomplete file.
    tokio::select! {
        written = write_audio(&store, &reference, target) => match file {
            Some(path) => written.map_err(|error| Target::explain_error(error, path))?,
            None => written?,
        },
        _ = tokio::signal::ctrl_c() => bail!("interrupted: the recording is not complete"),
    }
    let place = file.map_or_else(|| "standard output".to_owned(), |path| path.display().to_string());
    terminal::print_stderr(&format!("wrote {place}: {}", describe(&reference)));
    Ok(0)
}

/// What a recording is: `4m 12s, 4.0 MB, audio/wav, sha256 ab…`.
fn describe(reference: &RecordingReference) -> String {
    let lasts = reference.duration_ms.map(|millis| human_format::format_duration(Duration::from_millis(millis)));
    let size = human_format::format_bytes(reference.bytes);
    let facts = [size, reference.media_type.clone(), format!("sha256 {}", reference.sha256)];
    lasts.into_iter().chain(facts).collect::<Vec<_>>().join(", ")
}

/// The segment; the one of the account, if an account is given.
async fn find_segment(db: &Db, args: &RecordingArgs, context: &CommandContext) -> anyhow::Result<SegmentRow> {
    let account = context.find_account(db, args.account.as_deref()).await?;
    let mut segments = db.segments_by_id(&args.segment).await?;
    segments.retain(|segment| account.as_ref().is_none_or(|account| account.key == segment.account_key));
    match (segments.pop(), segments.is_empty()) {
        (Some(segment), true) => Ok(segment),
        (Some(_), false) => {
            let error = UserError::usage(format!("several accounts have a segment {:?}", args.segment));
            bail!(error.with_hint("choose one with --account"))
        }
        (None, _) => {
            let error = UserError::failed(format!("the archive has no segment {:?}", args.segment));
            bail!(error.with_hint("ids must match exactly; `ringcx-extractor erase --journal` shows what was erased"))
        }
    }
}

async fn stored_recording(db: &Db, segment: &SegmentRow) -> anyhow::Result<RecordingReference> {
    let slots = db.segment_artifacts(std::slice::from_ref(segment)).await?;
    let slot = slots.into_iter().next().map(|[.., recording]| recording);
    if let Some(reference) = slot.as_ref().and_then(recording_of) {
        return Ok(reference);
    }
    let why = slot.as_ref().map_or("not_requested", |slot| outcome_name(&slot.status)).replace('_', " ");
    let error = UserError::failed(format!("the archive has no recording of this segment: {why}"));
    bail!(
        error.with_hint(
            "recordings are requested for accounts whose artifacts name \"recording\", where RingCX has one"
        )
    )
}

/// Writes the audio, and compares it with its hash.
async fn write_audio(store: &RecordingStore, reference: &RecordingReference, mut target: Target) -> anyhow::Result<()> {
    let mut audio = store.read(&reference.object, None).await.map_err(store_failed)?;
    let mut digest = Sha256::new();
    while let Some(chunk) = audio.next().await {
        let chunk = chunk.map_err(store_failed)?;
        digest.update(&chunk);
        target.write_all(&chunk)?;
    }
    if hex(&digest.finalize()) != reference.sha256 {
        let error = UserError::failed("the audio in the recording store is not what was stored there");
        bail!(error.with_hint("someone changed or cut it: run `ringcx-extractor verify`"));
    }
    target.finish()
}

fn store_failed(error: StoreError) -> UserError {
    let failed = UserError::failed(error.message);
    match error.hint {
        Some(hint) => failed.with_hint(hint),
        None => failed,
    }
}
