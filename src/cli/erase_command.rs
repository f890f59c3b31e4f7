//! `erase`: erases segments by segment, dialog or contact, and shows the journal of erasures and
//! holds.
//!
//! The command first searches and prints the result, then asks for confirmation; without a terminal
//! it needs `--yes`. It keeps and lists what a hold protects, and possible matches that may belong
//! to someone else.

mod copies;
mod journal_table;
mod plan_json;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{CommandContext, human_format, terminal};
use crate::access::{AccessAction, AccessSubject};
use crate::db::{Db, DeletionCounts, ExportRange, OpenMode, QuarantinedText, SegmentRef};
use crate::erasure::{self, Confirmation, ErasurePlan, ErasureRequest};
use crate::error::UserError;
use crate::model::Subject;
use crate::operator_actions;
use crate::recordings::{RecordingStore, sweep};
use crate::render::clean_line;

/// The number of segments that are listed individually.
const MAX_SEGMENTS_SHOWN: usize = 20;

/// The subject of an erasure or a hold: exactly one of these.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct SubjectArgs {
    /// The segment with this id
    #[arg(long, value_name = "ID", group = "about")]
    pub(crate) segment: Option<String>,
    /// All segments of this dialog
    #[arg(long, value_name = "ID", group = "about")]
    pub(crate) dialog: Option<String>,
    /// All segments with this contact: a complete telephone number, address, id or name
    #[arg(long, value_name = "VALUE", group = "about")]
    pub(crate) contact: Option<String>,
}

impl SubjectArgs {
    /// The subject, if one was given. Rejects an empty value.
    pub(crate) fn subject(&self) -> Result<Option<Subject>, UserError> {
        let subject_of = |value: &Option<String>, of: fn(String) -> Subject| value.clone().map(of);
        let subject = subject_of(&self.segment, Subject::Segment)
            .or(subject_of(&self.dialog, Subject::Dialog))
            .or(subject_of(&self.contact, Subject::Contact));
        match subject {
            Some(subject) if subject.normalized().trim().is_empty() => {
                Err(UserError::usage(format!("--{} is empty", subject.kind())).with_hint("give the complete value"))
            }
            subject => Ok(subject),
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct EraseArgs {
    #[command(flatten)]
    about: SubjectArgs,
    /// Only in this account: sub-account id or name. With --segment, an id that is not in the
    /// archive is permanently excluded from it
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// Reason, for the journal, which is never erased; do not name any person in it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Show what would be erased, without erasing it
    #[arg(long, group = "shown")]
    dry_run: bool,
    /// Skip the confirmation; required without a terminal
    #[arg(long, short)]
    yes: bool,
    /// With --contact, also erase possible matches: a similar number, or a speaker who may be the
    /// agent
    #[arg(long, requires = "contact")]
    include_alike: bool,
    /// With --contact, also erase every segment and record that cannot be read
    #[arg(long, requires = "contact")]
    include_unreadable: bool,
    /// On SQLite, do not rewrite the file; its unused parts may contain erased data until --rewrite
    /// is run
    #[arg(long, conflicts_with = "rewrite")]
    quick: bool,
    /// On SQLite, rewrite the whole file so that it contains no erased data; erases nothing itself
    #[arg(long, conflicts_with_all = ["about", "dry_run", "journal"])]
    rewrite: bool,
    /// Approve the erasures that retention has announced, instead of waiting for the end of the
    /// notice day
    #[arg(long, conflicts_with_all = ["about", "dry_run", "rewrite", "quick", "reason", "journal"])]
    retention_now: bool,
    /// Show the journal of erasures and holds: who, what and when
    #[arg(long, group = "shown", conflicts_with_all = ["dry_run", "yes", "quick", "reason", "account", "include_alike", "include_unreadable"])]
    journal: bool,
    /// Print JSON: with --journal one entry per line, with --dry-run one object
    #[arg(long, requires = "shown")]
    json: bool,
}

/// Runs the command; returns exit status 1 if nothing was found, or if a match or a possible match
/// was kept.
pub(crate) async fn run(args: EraseArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let subject = args.about.subject()?;
    if subject.is_none() && !args.journal && !args.rewrite && !args.retention_now {
        let hint = "use --segment, --dialog or --contact to select what to erase, or --journal to show past erasures";
        bail!(UserError::usage("no subject was given").with_hint(hint));
    }
    if subject.is_some() && !args.journal && !args.dry_run && !args.yes && !terminal::can_confirm() {
        let error = UserError::usage("nothing was erased: there is no terminal for the confirmation");
        bail!(error.with_hint("--dry-run shows what would be erased; --yes erases it"));
    }
    let db = context.open_database(OpenMode::Existing).await?;
    let status = match subject {
        subject if args.journal => journal_table::show_journal(&db, subject.as_ref(), args.json).await?,
        None if args.retention_now => approve_retention(&args, &db, context).await?,
        None => {
            operator_actions::purge_index(&db).await?;
            if wipe_free_pages(&db, true, context).await? {
                terminal::print_stdout("rewrote the database file; it contains no erased data\n")?;
            }
            0
        }
        Some(subject) => erase_subject(&args, subject, &db, context).await?,
    };
    db.close().await;
    Ok(status)
}

/// Approves the announced retention of one account or of all; returns exit status 1 if there is
/// none.
async fn approve_retention(args: &EraseArgs, db: &Db, context: &CommandContext) -> anyhow::Result<u8> {
    let mut pending = Vec::new();
    for account in context.find_accounts(db, args.account.as_deref()).await? {
        if let Some(notice) = erasure::load_notice(db, account.key).await?.filter(|notice| !notice.approved) {
            let count = human_format::format_count(notice.segments, "segment");
            terminal::print_stdout(&format!(
                "retention will erase {count} of account {}\n",
                clean_line(&account.id.sub)
            ))?;
            pending.push(account.key);
        }
    }
    if pending.is_empty() {
        terminal::print_stdout("no retention waits for approval\n")?;
        return Ok(1);
    }
    if !args.yes && !terminal::can_confirm() {
        let error = UserError::usage("nothing was approved: there is no terminal for the confirmation");
        bail!(error.with_hint("give --yes to approve"));
    }
    if !args.yes && !confirm()? {
        bail!(UserError::failed("nothing was approved").with_hint(CONFIRM_HINT));
    }
    let subject = AccessSubject::Other { what: "approved what retention will erase", sub: None };
    context.record_access(db, AccessAction::Erase, subject).await?;
    for key in pending {
        db.approve_retention(key, context.clock.now()).await?;
    }
    db.bump_change_version().await?;
    terminal::print_stdout("approved: the daemon erases the segments as soon as the clocks of all replicas agree\n")?;
    Ok(0)
}

async fn erase_subject(args: &EraseArgs, subject: Subject, db: &Db, context: &CommandContext) -> anyhow::Result<u8> {
    let account = context.find_account(db, args.account.as_deref()).await?.map(|account| account.key);
    let request = ErasureRequest {
        subject,
        account,
        who: current_user(),
        reason: args.reason.clone(),
        include_alike: args.include_alike,
        include_unreadable: args.include_unreadable,
        access_entry: None,
    };
    let found = find_segments(db, &request).await?;
    if args.json {
        terminal::print_json(&plan_json::PlanJson::of(&found))?;
        return Ok(u8::from(found.is_empty() || found.is_incomplete()));
    }
    terminal::print_stdout(&describe_found(&found, args.dry_run))?;
    terminal::print_stdout(&copies::describe_copies(db, context.settings()?, &found.segments).await?)?;
    if found.is_empty() {
        bail!(nothing_found(&request, found.agent_segments));
    }
    if args.dry_run {
        return Ok(u8::from(found.is_incomplete()));
    }
    if !found.has_deletions() && !found.has_holds() {
        let error = UserError::failed("nothing was erased: all matches are uncertain and may belong to someone else");
        bail!(error.with_hint("check each with `ringcx-extractor show`, then erase it by id, or erase all with --include-alike or --include-unreadable"));
    }
    if found.has_deletions() && !args.yes && !confirm()? {
        bail!(UserError::failed("nothing was erased").with_hint(CONFIRM_HINT));
    }
    let access_entry = Some(context.record_erasure(db, &request.subject).await?);
    let request = ErasureRequest { access_entry, ..request };
    let confirmation = if args.yes { Confirmation::Everything } else { Confirmation::Listed };
    let bar = segment_progress_bar(found.segments.len() as u64, "erasing");
    let now = context.clock.now();
    let (erased, found) =
        erasure::execute_plan(db, &request, found, confirmation, now, &mut |count| bar.inc(count)).await?;
    bar.finish_and_clear();
    terminal::print_stdout(&describe_unconfirmed(&found))?;
    if erased != DeletionCounts::default() {
        db.bump_change_version().await?;
        // Printed before another step can fail, because the erasure is final.
        terminal::print_stdout(&describe_erased(&erased))?;
        delete_recordings(db, context).await?;
        operator_actions::purge_index(db).await?;
        wipe_free_pages(db, !args.quick, context).await?;
    }
    Ok(u8::from(found.is_incomplete()))
}

/// Deletes the erased recordings from their store. What it cannot delete, the daemon deletes later.
async fn delete_recordings(db: &Db, context: &CommandContext) -> anyhow::Result<()> {
    if db.count_objects_to_delete().await? == 0 {
        return Ok(());
    }
    let store = RecordingStore::new(&context.settings()?.recordings)?;
    match sweep::delete_unnamed_objects(db, &store, context.clock.now()).await {
        // The daemon was quicker.
        Ok(0) => {}
        Ok(deleted) => {
            let count = human_format::format_count(deleted, "recording");
            terminal::print_stdout(&format!("deleted {count} from {}\n", store.display_name()))?;
        }
        Err(error) => {
            let left = human_format::format_count(db.count_objects_to_delete().await?, "recording");
            let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
            terminal::print_stderr(&format!(
                "warning: {left} could not be deleted from the store yet: {error}{hint}; the daemon deletes them"
            ));
        }
    }
    Ok(())
}

async fn find_segments(db: &Db, request: &ErasureRequest) -> anyhow::Result<ErasurePlan> {
    let bar = match request.subject {
        Subject::Contact(_) => {
            let range = ExportRange { account: request.account, ..ExportRange::default() };
            segment_progress_bar(db.count_segments(range).await?, "searching")
        }
        _ => ProgressBar::hidden(),
    };
    let found = erasure::plan_erasure(db, request, &mut |count| bar.inc(count)).await?;
    bar.finish_and_clear();
    Ok(found)
}

/// Describes what was found, with the segments to erase if `is_dry_run`.
fn describe_found(found: &ErasurePlan, is_dry_run: bool) -> String {
    let mut text = String::new();
    let mut accounts: BTreeMap<&str, u64> = BTreeMap::new();
    for segment in &found.segments {
        *accounts.entry(&segment.sub).or_default() += 1;
    }
    for (sub, count) in accounts {
        text += &format!("to erase: {} of account {}\n", human_format::format_count(count, "segment"), clean_line(sub));
    }
    if is_dry_run {
        text += &list_first_segments(&found.segments);
    }
    if !found.quarantined.is_empty() {
        text += &format!("to erase: {} that were set aside\n", count_of(&found.quarantined, "record"));
    }
    // The user who confirms must see all of them by id.
    let segments = |found: &[SegmentRef]| (count_of(found, "segment"), list_segments(found));
    let records = |found: &[QuarantinedText]| (count_of(found, "record"), list_records(found));
    for ((count, list), what) in [
        (segments(&found.national), "note: {} of them match by the number with or without its country code"),
        (
            segments(&found.alike),
            "possible match: {} with a similar number, or a speaker who may be the agent; kept without --include-alike",
        ),
        (
            records(&found.alike_quarantined),
            "possible match: {} set aside, with a similar number; kept without --include-alike",
        ),
        (
            segments(&found.unreadable),
            "possible match: {} whose metadata or transcript cannot be read; kept without --include-unreadable",
        ),
        (
            records(&found.unreadable_quarantined),
            "possible match: {} set aside that cannot be read; kept without --include-unreadable",
        ),
    ] {
        if !list.is_empty() {
            text += &format!("{}:\n{list}", what.replace("{}", &count));
        }
    }
    if found.unknown_id.is_some() {
        text += "the segment is not in the archive; it will not be stored if RingCX announces it\n";
    }
    for (hold, count) in found.holds() {
        let why = hold.reason.as_deref().map(|reason| format!(" ({})", clean_line(reason))).unwrap_or_default();
        text += &format!("on hold: {}, kept by hold {}{why}\n", human_format::format_count(count, "piece"), hold.id);
    }
    if !found.held_unreadable.is_empty() {
        let count = count_of(&found.held_unreadable, "segment");
        text += &format!("{count} of these cannot be read and may therefore belong to a contact on hold:\n");
        text += &list_segments(&found.held_unreadable);
    }
    if found.has_holds() {
        text += "hint: `ringcx-extractor hold --release NUMBER` releases a hold\n";
    }
    text
}

/// Describes what matches only since the confirmation.
fn describe_unconfirmed(found: &ErasurePlan) -> String {
    if !found.has_unconfirmed() {
        return String::new();
    }
    let parts =
        human_format::format_amounts(found.unconfirmed_segments.len() as u64, found.unconfirmed_records, " set aside");
    format!(
        "kept: {} that matched only after the confirmation\n{}hint: run the command again to erase this, too\n",
        parts.join(" and "),
        list_segments(&found.unconfirmed_segments)
    )
}

fn count_of<T>(found: &[T], noun: &str) -> String {
    human_format::format_count(found.len() as u64, noun)
}

/// Lists segments, one per line.
fn list_segments<'a>(segments: impl IntoIterator<Item = &'a SegmentRef>) -> String {
    let line = |segment: &SegmentRef| {
        let ended = segment.ended.known().map_or_else(|| "end unknown".to_owned(), |end| end.rfc3339_secs());
        format!("  {} of account {}, {ended}\n", clean_line(&segment.segment_id), clean_line(&segment.sub))
    };
    segments.into_iter().map(line).collect()
}

/// Lists quarantined records, one per line.
fn list_records(records: &[QuarantinedText]) -> String {
    let id =
        |record: &QuarantinedText| record.segment_id.as_deref().map_or("without a segment id".to_owned(), clean_line);
    records.iter().map(|record| format!("  {}\n", id(record))).collect()
}

/// Lists the first segments, and the number of further ones.
pub(super) fn list_first_segments(segments: &[SegmentRef]) -> String {
    let more = segments.len().saturating_sub(MAX_SEGMENTS_SHOWN);
    let rest = if more > 0 { format!("  and {more} more\n") } else { String::new() };
    list_segments(segments.iter().take(MAX_SEGMENTS_SHOWN)) + &rest
}

fn nothing_found(request: &ErasureRequest, agents: u64) -> UserError {
    let kind = request.subject.kind();
    let hint = match &request.subject {
        Subject::Segment(_) if request.account.is_none() => {
            "ids must match exactly; with --account, an unknown id is permanently excluded from the archive"
        }
        Subject::Contact(_) if agents > 0 => {
            "an agent has this name or id, but agents are not contacts: erase the segments by id"
        }
        Subject::Contact(_) => {
            "names, addresses and ids must match completely; docs/keeping.md explains how numbers are compared"
        }
        _ => "ids must match exactly",
    };
    UserError::failed(format!("the archive contains nothing of this {kind}; nothing was erased")).with_hint(hint)
}

fn describe_erased(erased: &DeletionCounts) -> String {
    let parts = human_format::format_amounts(erased.segments, erased.records, " set aside");
    if parts.is_empty() {
        return "recorded: the segment will not be stored\n".to_owned();
    }
    format!("erased permanently: {}\n", parts.join(" and "))
}

const CONFIRM_HINT: &str = "answer yes, or give --yes";

/// Asks for confirmation; without a terminal the answer is no.
fn confirm() -> anyhow::Result<bool> {
    let answer = terminal::confirm("Erase permanently? This cannot be undone. [y/N] ");
    Ok(answer.context("failed to ask for confirmation")?.unwrap_or(false))
}

/// Removes erased data from the SQLite files; returns whether they are clean, and otherwise prints
/// the reason.
async fn wipe_free_pages(db: &Db, rewrite: bool, context: &CommandContext) -> anyhow::Result<bool> {
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    spinner.set_message("rewriting the database file to remove erased data");
    spinner.set_style(
        ProgressStyle::with_template("{spinner} {msg} {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    spinner.enable_steady_tick(Duration::from_millis(200));
    let left = operator_actions::wipe_free_pages(db, rewrite, &context.clock).await;
    spinner.finish_and_clear();
    let left = left?;
    if let Some(note) = left {
        terminal::print_stderr(note);
    }
    Ok(left.is_none())
}

/// The current user and host, for the journal.
pub(super) fn current_user() -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|user| !user.trim().is_empty());
    let user = variable("SUDO_USER").or_else(|| variable("USER"));
    let user = user.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = hostname::get().map_or_else(|_| "unknown".to_owned(), |host| host.to_string_lossy().into_owned());
    clean_line(&format!("{user}@{host}"))
}

/// A progress bar over segments.
pub(super) fn segment_progress_bar(total: u64, what: &str) -> ProgressBar {
    let template = format!("{{spinner}} {what} {{wide_bar}} {{human_pos}}/{{human_len}} segments, {{eta}} left");
    terminal::progress_bar(total, &template)
}
