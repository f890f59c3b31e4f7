//! What an operator can have done: backfills, retries, redelivery, erasures and holds. The commands
//! and the API both act through here.
//!
//! It writes `db` and tells running daemons that something changed. Who may do it is decided before.

use std::time::Duration;

use crate::account::{budget_name, metadata_budget_name};
use crate::clock::{Clock, Time};
use crate::config::{Settings, SinkKind};
use crate::coverage::estimate_backfill_duration;
use crate::db::{AccountKey, AccountRow, Db, DbError, QueueFilter, ReplayRequest, SinkRow, WipeOutcome};
use crate::error::UserError;
use crate::model::{TimeRange, TimeRangeSet};
use crate::status::planning_rules;

/// The widest range that is queued without confirmation.
const MAX_UNCONFIRMED_WIDTH: Duration = Duration::from_secs(31 * 86_400);
/// The longest estimate of the reading time that is queued without confirmation.
const MAX_UNCONFIRMED_ESTIMATE: Duration = Duration::from_secs(7 * 86_400);

/// Rounds the range of a backfill to whole seconds and cuts off the part that cannot be read yet.
/// Returns the start of that part too, if there is one.
///
/// # Errors
/// If nothing of the range can be read yet.
pub(crate) fn readable_range(
    from: Time,
    to: Time,
    now: Time,
    offset: Duration,
) -> Result<(TimeRange, Option<Time>), UserError> {
    let horizon = (now - offset).floor_to_second();
    let from = from.floor_to_second();
    let to = to.plus_millis(999).floor_to_second();
    let range = TimeRange::new(from, to.min(horizon)).ok_or_else(|| {
        let (from, horizon) = (from.rfc3339_secs(), horizon.rfc3339_secs());
        let what = format!("the range starts at {from}, but only segments that ended before {horizon} can be read");
        UserError::usage(format!("there is nothing to read yet: {what}"))
            .with_hint("a running daemon reads the range as soon as possible")
    })?;
    Ok((range, (to > horizon).then_some(horizon)))
}

/// How long it takes to read a range of the slowest of these accounts, where a person should confirm
/// that.
pub(crate) fn needs_confirmation(range: TimeRange, accounts: &[AccountRow], settings: &Settings) -> Option<Duration> {
    let estimate = |account: &AccountRow| {
        let rules = planning_rules(settings, account.retention_days);
        estimate_backfill_duration(&TimeRangeSet::from_unsorted(vec![range]), &rules, &settings.discovery.rechecks)
    };
    let longest = accounts.iter().map(estimate).max().unwrap_or_default();
    (range.width() > MAX_UNCONFIRMED_WIDTH || longest > MAX_UNCONFIRMED_ESTIMATE).then_some(longest)
}

/// Queues a backfill of the range for each account; returns their numbers, in the same order.
///
/// # Errors
/// If the database cannot be written.
pub(crate) async fn queue_backfills(
    db: &Db,
    accounts: &[AccountRow],
    range: TimeRange,
    newest_first: bool,
    now: Time,
) -> Result<Vec<i64>, DbError> {
    let mut ids = Vec::with_capacity(accounts.len());
    for account in accounts {
        ids.push(db.request_backfill(account.key, range, newest_first, now).await?);
    }
    db.bump_change_version().await?;
    Ok(ids)
}

/// Cancels an open backfill; `false` if none has this number. What it has found is kept.
///
/// # Errors
/// If the database cannot be written.
pub(crate) async fn cancel_backfill(db: &Db, id: i64, now: Time) -> Result<bool, DbError> {
    let was_open = db.cancel_backfill(id, now).await?;
    if was_open {
        db.bump_change_version().await?;
    }
    Ok(was_open)
}

/// Ends the waits after a 429 and the pauses after failures of these accounts, so that requests are
/// tried again now. The request limits still apply.
///
/// # Errors
/// If the database cannot be written.
pub(crate) async fn resume_accounts(
    db: &Db,
    accounts: &[AccountRow],
    settings: &Settings,
    now: Time,
) -> Result<(), DbError> {
    for account in accounts {
        let sub = &account.id.sub;
        let budgets = [metadata_budget_name(sub), budget_name(&settings.limits, sub)];
        db.request_resume(account.key, &budgets, now).await?;
    }
    db.bump_change_version().await
}

/// Has items tried again now, with their retry limits reset; returns their number.
///
/// # Errors
/// If the database cannot be written.
pub(crate) async fn retry_items(db: &Db, filter: &QueueFilter, now: Time) -> Result<u64, DbError> {
    let items = db.retry_items(filter, now).await?;
    db.bump_change_version().await?;
    Ok(items)
}

/// Discards items; returns their number.
///
/// # Errors
/// If the database cannot be written.
pub(crate) async fn discard_items(db: &Db, filter: &QueueFilter, reason: &str, now: Time) -> Result<u64, DbError> {
    let items = db.discard_items(filter, reason.trim(), now).await?;
    db.bump_change_version().await?;
    Ok(items)
}

/// What a redelivery has started.
#[derive(Debug, Default)]
pub(crate) struct Redelivery {
    /// Events that are sent again.
    pub(crate) events: u64,
    /// Stopped sinks that start again.
    pub(crate) restarted: Vec<String>,
}

/// Has failed events sent again, and stopped sinks started; of one sink, or of all in the settings.
/// `waiting_too`: also events that wait for an automatic retry.
///
/// # Errors
/// If the settings do not name the sink, or the database cannot be written.
pub(crate) async fn retry_deliveries(
    db: &Db,
    settings: &Settings,
    sink: Option<&str>,
    waiting_too: bool,
    now: Time,
) -> anyhow::Result<Redelivery> {
    if let Some(name) = sink {
        require_sink(settings, name)?;
    }
    let is_selected = |row: &SinkRow| match sink {
        Some(name) => row.name == name,
        None => settings.sinks.iter().any(|sink| sink.name == row.name),
    };
    let mut done = Redelivery::default();
    for row in db.sinks().await?.into_iter().filter(is_selected) {
        done.events += db.retry_failed_deliveries(row.key, waiting_too, now).await?;
        if row.stopped.is_some() {
            done.restarted.push(row.name);
        }
    }
    db.bump_change_version().await?;
    Ok(done)
}

/// Queues a replay of the events of artifacts that were stored in a range; returns the number of
/// accounts.
///
/// # Errors
/// If the sink has tables, no daemon has started it yet, or the database cannot be written.
pub(crate) async fn replay_deliveries(
    db: &Db,
    settings: &Settings,
    sink: &str,
    request: ReplayRange,
    now: Time,
) -> anyhow::Result<u64> {
    require_sink(settings, sink)?;
    if settings.sinks.iter().any(|one| one.name == sink && matches!(one.kind, SinkKind::Lake(_))) {
        let why = format!("the sink {sink:?} has tables: they always hold what the archive holds");
        let hint = "there is nothing to send again; a file that is missing is written again at the next start";
        return Err(UserError::usage(why).with_hint(hint).into());
    }
    let row = db.sinks().await?.into_iter().find(|row| row.name == sink);
    let row = row.ok_or_else(|| {
        UserError::usage(format!("no daemon has started the sink {sink:?} yet"))
            .with_hint("`ringcx-extractor run` registers it; with start = \"beginning\" it receives everything")
    })?;
    let ReplayRange { account, stored, rate } = request;
    let accounts = db.request_replay(&ReplayRequest { sink: row.key, account, stored, rate }, now).await?;
    db.bump_change_version().await?;
    Ok(accounts)
}

/// What a replay sends again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReplayRange {
    /// Only this account; `None` for all.
    pub(crate) account: Option<AccountKey>,
    /// Only artifacts that were stored in this range.
    pub(crate) stored: TimeRange,
    /// Events per second, at most.
    pub(crate) rate: u32,
}

/// Checks that the settings define this sink.
///
/// # Errors
/// If they do not.
pub(crate) fn require_sink(settings: &Settings, name: &str) -> Result<(), UserError> {
    if settings.sinks.iter().any(|sink| sink.name == name) {
        return Ok(());
    }
    let known: Vec<&str> = settings.sinks.iter().map(|sink| sink.name.as_str()).collect();
    let hint = match known.as_slice() {
        [] => "the settings define no [[sinks]]".to_owned(),
        known => format!("the settings define {}", known.join(", ")),
    };
    Err(UserError::usage(format!("there is no sink named {name:?}")).with_hint(hint))
}

/// Removes the words of erased segments from the search index.
///
/// # Errors
/// If the database cannot be written.
pub(crate) async fn purge_index(db: &Db) -> Result<(), UserError> {
    const FAILED: &str = "failed to purge the search index: the data is erased from the archive, but its words may remain in the database files";
    const HINT: &str = "once the database is writable again, run `ringcx-extractor erase --rewrite`";
    db.purge_words().await.map_err(|error| UserError::failed(FAILED).with_hint(HINT).with_source(error))
}

/// Removes erased data from the free pages of the SQLite file. Says what may be left; `None` if
/// nothing is.
///
/// # Errors
/// If the file cannot be written.
pub(crate) async fn wipe_free_pages(db: &Db, rewrite: bool, clock: &Clock) -> Result<Option<&'static str>, UserError> {
    const FAILED: &str =
        "failed to rewrite the database file: the data is erased from the archive, but may remain in the file";
    const HINT: &str = "make as much space free as the file needs, then run `ringcx-extractor erase --rewrite`";
    let outcome = db.wipe_free_pages(rewrite, clock).await;
    Ok(match outcome.map_err(|error| UserError::failed(FAILED).with_hint(HINT).with_source(error))? {
        WipeOutcome::Clean => None,
        WipeOutcome::NotSqlite => Some(
            "note: Postgres keeps deleted rows in its pages until a vacuum, and in its write-ahead log and backups; see docs/keeping.md",
        ),
        WipeOutcome::NotRewritten => Some(
            "note: unused parts of the database file may contain erased data until `ringcx-extractor erase --rewrite` is run",
        ),
        WipeOutcome::LogInUse => Some(
            "warning: the -wal file of the database may contain erased data, because another process is reading the archive\nhint: run `ringcx-extractor erase --rewrite` later, or restart the daemon",
        ),
    })
}

/// The filter of the unfinished items of one segment.
pub(crate) fn items_of_segment(segment_id: &str, account: Option<AccountKey>) -> QueueFilter {
    let accounts = account.map(|account| vec![account]);
    QueueFilter { accounts, segment_id: Some(segment_id.to_owned()), ..QueueFilter::default() }
}
