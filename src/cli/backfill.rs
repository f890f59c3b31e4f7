//! `backfill`: asks for a stretch of the past.
//!
//! Only queues: whichever daemon works on the database reads it, within its budget, now or when it next runs. Says before
//! how long that takes, and with `--wait` how far it is. `list` shows what is not complete yet, and `cancel` ends one.

mod watch;

use std::time::Duration;

use anyhow::Context as _;

use super::{Context, UsageError, terminal, words};
use crate::clock::{Clock, Time};
use crate::config::{Accounts, Settings};
use crate::coverage::{Pass, Rules, estimate};
use crate::db::{Access, AccountRow, Db};
use crate::model::{AccountId, Stretch, Stretches};
use crate::reading::clean;
use crate::status::{self, rules};

/// A wider range is not queued unasked...
const WIDE: Duration = Duration::from_secs(400 * DAY);
/// ...nor one that takes longer to read.
const LONG: Duration = Duration::from_secs(7 * DAY);

/// What the vendor keeps where it does not say.
const LIKELY_RETENTION: Duration = Duration::from_secs(365 * 86_400);

const DAY: u64 = 86_400;

/// Options of `backfill`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// What to do with those that were queued.
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    request: Option<RequestArgs>,
}

/// What can be done with backfills that were queued.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List backfills that are not complete, with how much of each is read and how long the rest takes
    List(ListArgs),
    /// End a backfill; what it has read so far stays
    Cancel(CancelArgs),
}

/// Options of `backfill list`.
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Print JSON, a backfill a line
    #[arg(long)]
    json: bool,
}

/// Options of `backfill cancel`.
#[derive(Debug, clap::Args)]
struct CancelArgs {
    /// Its number, as `backfill list` shows it
    #[arg(value_name = "ID")]
    id: i64,
}

/// Which range to queue.
#[derive(Debug, clap::Args)]
struct RequestArgs {
    /// What ended at or after: a time, a date, or a span back from now
    #[arg(long, value_name = "T")]
    from: String,
    /// What ended before
    #[arg(long, value_name = "T")]
    to: String,
    /// Only this account: sub-account id or name [default: all]
    #[arg(long, value_name = "SUB|NAME")]
    account: Option<String>,
    /// Read the oldest windows first
    #[arg(long, conflicts_with = "newest_first")]
    oldest_first: bool,
    /// Read the newest windows first; this is the default
    #[arg(long)]
    newest_first: bool,
    /// Wait until it is read, with a progress bar
    #[arg(long)]
    wait: bool,
    /// Do not ask before a range of more than 400 days, or one that takes more than a week
    #[arg(long, short)]
    yes: bool,
}

/// A backfill that was asked for.
#[derive(Debug, Clone)]
struct Queued {
    id: i64,
    account: AccountRow,
    range: Stretch,
    rules: Rules,
}

/// Queues the range for each account; with `--wait` stays until it is read. Or lists, or cancels.
///
/// # Errors
/// Where the range is none, no account is meant, or the database cannot be written.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<u8> {
    match (args.command, args.request) {
        (Some(Command::List(args)), _) => list(&args, context).await,
        (Some(Command::Cancel(args)), _) => cancel(&args, context).await,
        (None, Some(args)) => queue(args, context).await,
        (None, None) => Err(UsageError("--from and --to say what to read".to_owned()).into()),
    }
}

async fn list(args: &ListArgs, context: &Context) -> anyhow::Result<u8> {
    let settings = context.settings()?;
    let db = context.open(Access::Existing).await?;
    let now = context.clock.now();
    let open = status::gather(&db, settings, &settings.database.instance, None, now).await?.backfills;
    db.close().await;
    if args.json {
        for backfill in &open {
            terminal::print(&format!("{}\n", serde_json::to_string(backfill)?))?;
        }
        return Ok(0);
    }
    if open.is_empty() {
        terminal::print("no backfill is open\n")?;
        return Ok(0);
    }
    let header = ["id", "account", "from", "to", "read", "of", "left", "asked for"];
    let mut table = terminal::table(header, 1, terminal::width());
    let span = |seconds| words::span(Duration::from_secs(seconds));
    for backfill in &open {
        let asked = Time::parse(&backfill.requested).map(|asked| words::relative(asked, now)).unwrap_or_default();
        table.add_row([
            backfill.id.to_string(),
            clean(&backfill.sub_account_id),
            backfill.from.clone(),
            backfill.to.clone(),
            span(backfill.read_seconds),
            span(backfill.seconds),
            format!("about {}", span(backfill.left_seconds)),
            asked,
        ]);
    }
    terminal::print(&format!("{}\n", table.trim_fmt()))?;
    Ok(0)
}

async fn cancel(args: &CancelArgs, context: &Context) -> anyhow::Result<u8> {
    let db = context.open(Access::Existing).await?;
    let was_open = db.cancel_backfill(args.id, context.clock.now()).await?;
    if was_open {
        db.ring().await?;
    }
    db.close().await;
    if !was_open {
        anyhow::bail!("no open backfill has the number {}\nhint: `ringcx-extractor backfill list` shows them", args.id);
    }
    terminal::print(&format!("cancelled backfill {}; what it has read so far stays\n", args.id))?;
    Ok(0)
}

async fn queue(args: RequestArgs, context: &Context) -> anyhow::Result<u8> {
    let settings = context.settings()?;
    let now = context.clock.now();
    let (from, to) = (context.when("--from", &args.from)?, context.when("--to", &args.to)?);
    let (range, clipped) = range(from, to, now, settings.discovery.offset)?;
    let db = context.open(Access::Own).await?;
    let accounts = accounts(&db, settings, args.account.as_deref(), now).await?;
    if let Some(note) = clipped {
        terminal::remark(&note);
    }
    let takes = |account: &AccountRow| {
        let alone = Stretches::from_unsorted(vec![range]);
        estimate(&alone, &rules(settings, account.retention_days), &settings.discovery.rechecks)
    };
    let takes = accounts.iter().map(takes).max().unwrap_or_default();
    if (range.width() > WIDE || takes > LONG) && !args.yes {
        agreed(range, takes)?;
    }
    let mut queued = Vec::with_capacity(accounts.len());
    for account in accounts {
        let rules = rules(settings, account.retention_days);
        let id = db.request_backfill(account.key, range, !args.oldest_first, now).await?;
        queued.push(Queued { id, account, range, rules });
    }
    db.ring().await?;
    for one in &queued {
        let open = open(&db, one.account.key).await?;
        terminal::print(&announcement(one, &open, settings))?;
        if let Some(warning) = too_old(&one.account, range.from, now) {
            terminal::remark(&warning);
        }
    }
    let alive = is_alive(&db, now).await?;
    if !alive {
        terminal::remark(
            "note: no daemon is at work on this database; it is read when one runs (`ringcx-extractor run`)",
        );
    }
    let status = if args.wait {
        watch::wait(&db, &queued, settings, &context.clock).await?
    } else {
        if alive {
            terminal::print("a running daemon picks it up at once; `--wait` shows how far it is\n")?;
        }
        0
    };
    db.close().await;
    Ok(status)
}

/// The range in whole seconds, and what had to be left out of it because it cannot be read yet.
fn range(from: Time, to: Time, now: Time, offset: Duration) -> Result<(Stretch, Option<String>), UsageError> {
    if from >= to {
        let (from, to) = (from.rfc3339(), to.rfc3339());
        return Err(UsageError(format!(
            "there is nothing between --from and --to: {from} is not before {to}\nhint: --from is included, --to is not"
        )));
    }
    let horizon = (now - offset).floor_to_second();
    let from = from.floor_to_second();
    let to = to.plus_millis(999).floor_to_second();
    let note = (to > horizon).then(|| {
        format!(
            "note: what ended at {} or later cannot be read yet; the daemon does so by itself",
            horizon.rfc3339_secs()
        )
    });
    let range = Stretch::new(from, to.min(horizon)).ok_or_else(|| {
        UsageError(format!(
            "there is nothing to read yet: --from is {}, and what can be read ended before {}\nhint: a running daemon reads it as soon as it can be",
            from.rfc3339_secs(),
            horizon.rfc3339_secs()
        ))
    })?;
    Ok((range, note))
}

/// The accounts that are meant; those of the settings are entered if they are new.
async fn accounts(db: &Db, settings: &Settings, wanted: Option<&str>, now: Time) -> anyhow::Result<Vec<AccountRow>> {
    let known = match &settings.accounts {
        Accounts::Listed(listed) => listed.iter().map(|account| (account.id.clone(), account.name.clone())).collect(),
        Accounts::Discovered(_) => {
            let rows = db.accounts().await?;
            rows.into_iter().map(|row| (row.id, row.name)).collect::<Vec<_>>()
        }
    };
    let meant = pick(known, wanted)?;
    let mut rows = Vec::with_capacity(meant.len());
    for (id, name) in meant {
        let row =
            db.enrol(&id, name.as_deref(), now).await.with_context(|| format!("failed to enter account {}", id.sub))?;
        rows.push(row);
    }
    Ok(rows)
}

type Named = (AccountId, Option<String>);

/// Ids come before names.
fn pick(known: Vec<Named>, wanted: Option<&str>) -> Result<Vec<Named>, UsageError> {
    if known.is_empty() {
        return Err(UsageError(
            "no account is known yet\nhint: `ringcx-extractor run` finds out which the login can see; or list them in [[accounts]]"
                .to_owned(),
        ));
    }
    let Some(wanted) = wanted.map(str::trim) else { return Ok(known) };
    let subs: Vec<String> = known.iter().map(|(id, _)| id.sub.to_string()).collect();
    let (by_id, others): (Vec<_>, Vec<_>) = known.into_iter().partition(|(id, _)| &*id.sub == wanted);
    if !by_id.is_empty() {
        return Ok(by_id);
    }
    let is_named = |name: &Option<String>| name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
    let named: Vec<Named> = others.into_iter().filter(|(_, name)| is_named(name)).collect();
    match named.len() {
        1 => Ok(named),
        0 => Err(UsageError(format!("no account has the id or name {wanted:?}\nhint: there are {}", subs.join(", ")))),
        _ => Err(UsageError(format!("several accounts are named {wanted:?}\nhint: give the sub-account id"))),
    }
}

fn days(days: Option<i64>) -> Option<Duration> {
    let days = days.and_then(|days| u64::try_from(days).ok()).filter(|days| *days > 0)?;
    Some(Duration::from_secs(days.saturating_mul(DAY)))
}

/// What is left to be read of each open backfill of an account, by number.
async fn open(db: &Db, account: i64) -> anyhow::Result<Vec<(i64, Stretches)>> {
    let covered = db.coverage(account).await?;
    let requests = db.backfills(Some(account), false).await?;
    let left = requests.into_iter().map(|request| {
        let pass = Pass::Backfill(request.id).key();
        let done = covered.iter().filter(|(of, _)| *of == pass).map(|(_, stretch)| *stretch).collect();
        (request.id, Stretches::from_unsorted(vec![request.range]).minus(&Stretches::from_unsorted(done)))
    });
    Ok(left.collect())
}

/// All of them as one: what is asked for twice is read once.
fn together(open: &[(i64, Stretches)]) -> Stretches {
    Stretches::from_unsorted(open.iter().flat_map(|(_, left)| left.as_slice()).copied().collect())
}

fn announcement(queued: &Queued, open: &[(i64, Stretches)], settings: &Settings) -> String {
    let rechecks = &settings.discovery.rechecks;
    let alone = estimate(&Stretches::from_unsorted(vec![queued.range]), &queued.rules, rechecks);
    let all = estimate(&together(open), &queued.rules, rechecks);
    let name = queued.account.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
    let mut text = format!(
        "queued backfill {} of account {}{name}: {} ({})\n  reading what there is takes about {}",
        queued.id,
        queued.account.id.sub,
        queued.range,
        words::span(queued.range.width()),
        words::span(alone),
    );
    if open.len() > 1 && all > alone {
        text.push_str(&format!(
            ", {} together with the {} that {} before it",
            words::span(all),
            words::count(open.len() as u64 - 1, "backfill"),
            if open.len() == 2 { "was asked for" } else { "were asked for" }
        ));
    }
    let limits = &settings.limits;
    text.push_str(&format!(
        ": RingCX allows {} metadata requests in 15 minutes, of which live reads and rechecks need their share\n  \
         transcripts and summaries follow at no more than {} requests a minute, after those of today\n",
        limits.metadata_per_15_minutes, limits.requests_per_minute
    ));
    clean(&text)
}

/// What to say where the vendor has probably deleted some of the range.
fn too_old(account: &AccountRow, from: Time, now: Time) -> Option<String> {
    let age = now.since(from);
    let sub = &account.id.sub;
    match days(account.retention_days) {
        Some(kept) if age > kept => Some(format!(
            "warning: RingCX keeps what account {sub} has for {} days: what ended before {} is gone; whatever is left is read",
            kept.as_secs() / DAY,
            (now - kept).rfc3339_secs()
        )),
        None if age > LIKELY_RETENTION => Some(format!(
            "warning: the range goes back {} days; how long RingCX keeps what account {sub} has is not known here, but so old data is likely gone",
            age.as_secs() / DAY
        )),
        _ => None,
    }
}

async fn is_alive(db: &Db, now: Time) -> anyhow::Result<bool> {
    let (replicas, here) = (db.replicas().await?, db.here(now).await?);
    Ok(replicas.iter().any(|replica| status::is_alive(replica, here)))
}

/// Asks whether so much is meant, where there is someone to answer.
fn agreed(range: Stretch, takes: Duration) -> anyhow::Result<()> {
    let much =
        format!("this range is {} wide, and reading it takes about {}", words::span(range.width()), words::span(takes));
    match terminal::confirm(&format!("{much}. Queue it? [y/N] ")).context("failed to ask")? {
        Some(true) => Ok(()),
        Some(false) => anyhow::bail!("nothing was queued\nhint: answer yes, or give --yes"),
        None => Err(UsageError(format!(
            "nothing was queued: {much}\nhint: give --yes if that is meant, or a later --from; RingCX keeps data for a year or two as a rule"
        ))
        .into()),
    }
}

#[cfg(test)]
mod tests;
