//! `backfill`: queues a backfill of a past time range.
//!
//! The command only queues the range. A daemon on the same database reads it within its budget, now
//! or at its next run. The command prints an estimate of the duration, and with `--wait` the
//! progress. `list` shows open backfills, and `cancel` cancels one.

mod wait_progress;

use std::time::Duration;

use anyhow::Context as _;
use serde::Serialize;

use super::{CommandContext, human_format, is_daemon_alive, terminal};
use crate::access::{AccessAction, AccessSubject};
use crate::clock::{Clock, Time};
use crate::config::{Accounts, Settings};
use crate::coverage::{PlanningRules, ReadPurpose, estimate_backfill_duration};
use crate::db::{AccountKey, AccountRow, Db, OpenMode};
use crate::error::UserError;
use crate::health::BackfillStatus;
use crate::model::{AccountId, TimeRange, TimeRangeSet};
use crate::operator_actions;
use crate::render::clean_text;
use crate::status::{self, planning_rules};

/// The retention of RingCX that is assumed if the API does not tell it.
const ASSUMED_RETENTION: Duration = Duration::from_secs(365 * 86_400);

const SECONDS_PER_DAY: u64 = 86_400;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct BackfillArgs {
    #[command(subcommand)]
    command: Option<BackfillCommand>,
    #[command(flatten)]
    request: Option<BackfillRequestArgs>,
}

#[derive(Debug, clap::Subcommand)]
enum BackfillCommand {
    /// List open backfills with their progress and the estimated remaining time
    List(BackfillListArgs),
    /// Cancel a backfill; the segments that it has found are kept
    Cancel(BackfillCancelArgs),
}

#[derive(Debug, clap::Args)]
struct BackfillListArgs {
    /// Print JSON, one backfill per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct BackfillCancelArgs {
    /// Number of the backfill, as `backfill list` shows it
    #[arg(value_name = "ID")]
    id: i64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct BackfillRequestArgs {
    /// Segments that ended at or after this time
    #[arg(long, value_name = "T")]
    from: String,
    /// Segments that ended before this time
    #[arg(long, value_name = "T")]
    to: String,
    /// Only this account: sub-account id or name [default: all]
    #[arg(long, value_name = "SUB|NAME")]
    account: Option<String>,
    /// Read the oldest windows first
    #[arg(long, conflicts_with = "newest_first")]
    oldest_first: bool,
    /// Read the newest windows first (the default)
    #[arg(long)]
    newest_first: bool,
    /// Wait until the range is read, and show a progress bar
    #[arg(long)]
    wait: bool,
    /// Skip the confirmation of a range that is wider than 31 days or takes more than a week to read;
    /// required without a terminal
    #[arg(long, short)]
    yes: bool,
    /// Print JSON, one backfill per line
    #[arg(long)]
    json: bool,
}

/// A queued backfill as JSON.
#[derive(Serialize)]
struct QueuedBackfillJson<'a> {
    id: i64,
    rc_account_id: &'a str,
    sub_account_id: &'a str,
    from: String,
    to: String,
    /// The width of the range.
    seconds: u64,
    /// How long reading the metadata takes, alone and with all open backfills of the account.
    estimated_seconds: u64,
    estimated_seconds_of_all: u64,
}

/// A backfill that this command has queued.
#[derive(Debug, Clone)]
struct QueuedBackfill {
    id: i64,
    account: AccountRow,
    range: TimeRange,
    rules: PlanningRules,
}

/// Queues a backfill for each account, or lists or cancels backfills.
pub(crate) async fn run(args: BackfillArgs, context: &CommandContext) -> anyhow::Result<u8> {
    match (args.command, args.request) {
        (Some(BackfillCommand::List(args)), _) => list_backfills(&args, context).await,
        (Some(BackfillCommand::Cancel(args)), _) => cancel_backfill(&args, context).await,
        (None, Some(args)) => queue_backfills(args, context).await,
        (None, None) => Err(UserError::usage("--from and --to are required").into()),
    }
}

async fn list_backfills(args: &BackfillListArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let settings = context.settings()?;
    let db = context.open_database(OpenMode::Existing).await?;
    let now = context.clock.now();
    let open = status::gather(&db, settings, &settings.database.instance, None, now).await?.backfills;
    db.close().await;
    if args.json {
        for backfill in &open {
            terminal::print_json(backfill)?;
        }
        return Ok(0);
    }
    if open.is_empty() {
        terminal::print_stdout("no open backfills\n")?;
        return Ok(0);
    }
    let header = ["id", "account", "from", "to", "read", "of", "left", "requested"];
    let duration = |seconds| human_format::format_duration(Duration::from_secs(seconds));
    let row = |backfill: &BackfillStatus| {
        let requested = human_format::format_relative(backfill.requested, now);
        [
            backfill.id.to_string(),
            clean_text(&backfill.sub_account_id),
            backfill.from.rfc3339_secs(),
            backfill.to.rfc3339_secs(),
            duration(backfill.read_seconds),
            duration(backfill.seconds),
            format!("about {}", duration(backfill.left_seconds)),
            requested,
        ]
    };
    terminal::print_stdout(&terminal::format_table(header, 1, 0..0, terminal::width(), open.iter().map(row)))?;
    Ok(0)
}

async fn cancel_backfill(args: &BackfillCancelArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let db = context.open_database(OpenMode::Existing).await?;
    let what = format!("cancel backfill {}", args.id);
    context.record_access(&db, AccessAction::Backfill, AccessSubject::Other { what: &what, sub: None }).await?;
    let was_open = operator_actions::cancel_backfill(&db, args.id, context.clock.now()).await?;
    db.close().await;
    if !was_open {
        let error = UserError::failed(format!("no open backfill has the number {}", args.id));
        anyhow::bail!(error.with_hint("`ringcx-extractor backfill list` shows the open backfills"));
    }
    match args.json {
        true => terminal::print_json(&serde_json::json!({ "cancelled": args.id }))?,
        false => terminal::print_stdout(&format!(
            "cancelled backfill {}; the segments that it has found are kept\n",
            args.id
        ))?,
    }
    Ok(0)
}

async fn queue_backfills(args: BackfillRequestArgs, context: &CommandContext) -> anyhow::Result<u8> {
    let settings = context.settings()?;
    let now = context.clock.now();
    let (from, to) = (context.parse_time("--from", &args.from)?, context.parse_time("--to", &args.to)?);
    if from >= to {
        return Err(super::empty_range(from, to).into());
    }
    let (range, unread_from) = operator_actions::readable_range(from, to, now, settings.discovery.offset)?;
    let db = context.open_database(OpenMode::CreateOrMigrate).await?;
    let accounts = select_accounts(&db, settings, args.account.as_deref(), now).await?;
    if let Some(horizon) = unread_from {
        terminal::print_stderr(&format!(
            "note: segments that ended at {} or later cannot be read yet; the daemon will read them automatically",
            horizon.rfc3339_secs()
        ));
    }
    if let Some(longest) = operator_actions::needs_confirmation(range, &accounts, settings).filter(|_| !args.yes) {
        confirm_large_range(range, longest)?;
    }
    for account in &accounts {
        let what = format!("backfill from {} to {}", range.from.rfc3339_secs(), range.to.rfc3339_secs());
        let subject = AccessSubject::Other { what: &what, sub: Some(&account.id.sub) };
        context.record_access(&db, AccessAction::Backfill, subject).await?;
    }
    let ids = operator_actions::queue_backfills(&db, &accounts, range, !args.oldest_first, now).await?;
    let queued: Vec<QueuedBackfill> = ids
        .into_iter()
        .zip(accounts)
        .map(|(id, account)| {
            let rules = planning_rules(settings, account.retention_days);
            QueuedBackfill { id, account, range, rules }
        })
        .collect();
    for backfill in &queued {
        let open = open_backfills(&db, backfill.account.key).await?;
        match args.json {
            true => terminal::print_json(&queued_json(backfill, &open, settings))?,
            false => terminal::print_stdout(&describe_queued(backfill, &open, settings))?,
        }
        if let Some(warning) = retention_warning(&backfill.account, range.from, now) {
            terminal::print_stderr(&warning);
        }
    }
    let alive = is_daemon_alive(&db, now).await?;
    if !alive {
        terminal::print_stderr(
            "note: no daemon is running on this database; the range will be read when one runs (`ringcx-extractor run`)",
        );
    }
    let status = if args.wait {
        wait_progress::wait(&db, &queued, settings, &context.clock).await?
    } else {
        if alive && !args.json {
            terminal::print_stdout("the running daemon starts at once; `--wait` shows the progress\n")?;
        }
        0
    };
    db.close().await;
    Ok(status)
}

/// Selects the accounts; registers those of the settings that are new.
async fn select_accounts(
    db: &Db,
    settings: &Settings,
    wanted: Option<&str>,
    now: Time,
) -> anyhow::Result<Vec<AccountRow>> {
    let known = match &settings.accounts {
        Accounts::Listed(listed) => listed.iter().map(|account| (account.id.clone(), account.name.clone())).collect(),
        Accounts::Discovered(_) => {
            let rows = db.accounts().await?;
            rows.into_iter().map(|row| (row.id, row.name)).collect::<Vec<_>>()
        }
    };
    let selected = select_by_id_or_name(known, wanted)?;
    let mut rows = Vec::with_capacity(selected.len());
    for (id, name) in selected {
        let row = db
            .register_account(&id, name.as_deref(), now)
            .await
            .with_context(|| format!("failed to register account {}", id.sub))?;
        rows.push(row);
    }
    Ok(rows)
}

type NamedAccount = (AccountId, Option<String>);

/// Selects accounts by id first, then by name; all if `wanted` is `None`.
fn select_by_id_or_name(known: Vec<NamedAccount>, wanted: Option<&str>) -> Result<Vec<NamedAccount>, UserError> {
    if known.is_empty() {
        let hint =
            "`ringcx-extractor run` finds the accounts of the login; or list them as [[accounts]] in the settings";
        return Err(UserError::usage("no account is known yet").with_hint(hint));
    }
    let Some(wanted) = wanted.map(str::trim) else { return Ok(known) };
    let subs: Vec<String> = known.iter().map(|(id, _)| id.sub.to_string()).collect();
    let (by_id, others): (Vec<_>, Vec<_>) = known.into_iter().partition(|(id, _)| &*id.sub == wanted);
    if !by_id.is_empty() {
        return Ok(by_id);
    }
    let is_named = |name: &Option<String>| name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
    let named: Vec<NamedAccount> = others.into_iter().filter(|(_, name)| is_named(name)).collect();
    match named.len() {
        1 => Ok(named),
        0 => Err(super::no_such_account(wanted).with_hint(format!("the known accounts are {}", subs.join(", ")))),
        _ => Err(super::ambiguous_account(wanted)),
    }
}

fn retention_of(days: Option<i64>) -> Option<Duration> {
    let days = days.and_then(|days| u64::try_from(days).ok()).filter(|days| *days > 0)?;
    Some(Duration::from_secs(days.saturating_mul(SECONDS_PER_DAY)))
}

/// The open backfills of an account, each with its number and the ranges that are still to be read.
async fn open_backfills(db: &Db, account: AccountKey) -> anyhow::Result<Vec<(i64, TimeRangeSet)>> {
    let covered = db.coverage(account).await?;
    let requests = db.backfills(Some(account), false).await?;
    let left = requests.into_iter().map(|request| {
        let purpose = ReadPurpose::Backfill(request.id).key();
        let done = covered.iter().filter(|(of, _)| *of == purpose).map(|(_, range)| *range).collect();
        (request.id, TimeRangeSet::from_unsorted(vec![request.range]).minus(&TimeRangeSet::from_unsorted(done)))
    });
    Ok(left.collect())
}

/// The union of all open ranges; a range that is requested twice is read once.
fn union_of_open(open: &[(i64, TimeRangeSet)]) -> TimeRangeSet {
    TimeRangeSet::from_unsorted(open.iter().flat_map(|(_, left)| left.as_slice()).copied().collect())
}

fn queued_json<'a>(
    queued: &'a QueuedBackfill,
    open: &[(i64, TimeRangeSet)],
    settings: &Settings,
) -> QueuedBackfillJson<'a> {
    let estimate = |ranges: &TimeRangeSet| {
        estimate_backfill_duration(ranges, &queued.rules, &settings.discovery.rechecks).as_secs()
    };
    QueuedBackfillJson {
        id: queued.id,
        rc_account_id: &queued.account.id.rc,
        sub_account_id: &queued.account.id.sub,
        from: queued.range.from.rfc3339_secs(),
        to: queued.range.to.rfc3339_secs(),
        seconds: queued.range.width().as_secs(),
        estimated_seconds: estimate(&TimeRangeSet::from_unsorted(vec![queued.range])),
        estimated_seconds_of_all: estimate(&union_of_open(open)),
    }
}

fn describe_queued(queued: &QueuedBackfill, open: &[(i64, TimeRangeSet)], settings: &Settings) -> String {
    let rechecks = &settings.discovery.rechecks;
    let alone = estimate_backfill_duration(&TimeRangeSet::from_unsorted(vec![queued.range]), &queued.rules, rechecks);
    let all = estimate_backfill_duration(&union_of_open(open), &queued.rules, rechecks);
    let name = queued.account.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
    let mut text = format!(
        "queued backfill {} of account {}{name}: {} ({})\n  reading the metadata takes about {}",
        queued.id,
        queued.account.id.sub,
        queued.range,
        human_format::format_duration(queued.range.width()),
        human_format::format_duration(alone),
    );
    if open.len() > 1 && all > alone {
        text.push_str(&format!(
            ", or {} together with {} queued before",
            human_format::format_duration(all),
            human_format::format_count(open.len() as u64 - 1, "backfill")
        ));
    }
    let limits = &settings.limits;
    text.push_str(&format!(
        ": RingCX allows {} metadata requests in 15 minutes, and live reads and rechecks use a part of them\n  \
         transcripts and summaries follow at up to {} requests per minute, after those of new segments\n",
        limits.metadata_per_15_minutes, limits.requests_per_minute
    ));
    clean_text(&text)
}

/// A warning if RingCX has probably deleted a part of the range.
fn retention_warning(account: &AccountRow, from: Time, now: Time) -> Option<String> {
    let age = now.since(from);
    let sub = &account.id.sub;
    match retention_of(account.retention_days) {
        Some(kept) if age > kept => Some(format!(
            "warning: RingCX keeps the data of account {sub} for {} days: segments that ended before {} are deleted; the rest is read",
            kept.as_secs() / SECONDS_PER_DAY,
            (now - kept).rfc3339_secs()
        )),
        None if age > ASSUMED_RETENTION => Some(format!(
            "warning: the range goes back {} days; the retention of account {sub} in RingCX is unknown, but data of this age is likely deleted",
            age.as_secs() / SECONDS_PER_DAY
        )),
        _ => None,
    }
}

/// Asks for confirmation of a large range, if there is a terminal.
fn confirm_large_range(range: TimeRange, estimate: Duration) -> anyhow::Result<()> {
    let size = format!(
        "this range is {} wide, and reading it takes about {}",
        human_format::format_duration(range.width()),
        human_format::format_duration(estimate)
    );
    match terminal::confirm(&format!("{size}. Queue it? [y/N] ")).context("failed to ask for confirmation")? {
        Some(true) => Ok(()),
        Some(false) => anyhow::bail!(UserError::failed("nothing was queued").with_hint("answer yes, or give --yes")),
        None => {
            let hint = "give --yes to confirm, or a later --from; RingCX usually keeps data for one or two years";
            anyhow::bail!(UserError::usage(format!("nothing was queued: {size}")).with_hint(hint))
        }
    }
}

#[cfg(test)]
mod tests;
