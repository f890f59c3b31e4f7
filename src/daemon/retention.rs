//! Applies retention periodically to the accounts that this process owns, and compares the clocks
//! that it depends on.
//!
//! Expired segments are deleted in small transactions with pauses in between, so that results never
//! wait. An account without expired segments costs one index lookup. Nothing is deleted before the
//! API has answered, while clocks differ, or, for a day, if an unusual share would be deleted: see
//! `erasure`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::app_context::AppContext;
use crate::account::Account;
use crate::clock::{Tick, Time};
use crate::db::{AccountKey, DbError, DbFault, DeletionCounts};
use crate::erasure::{
    self, ClockCheck, MAX_PASS_INTERVAL, NOTICE_PERIOD, PassDecision, RetentionClocks, RetentionCursor, RetentionNotice,
};
use crate::health::{Finding, FindingCode, Severity};

/// The longest time between two checks while a pass waits.
const WAITING_CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// The shortest time between two checks, however short the retention is.
const MIN_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often the clocks are compared.
const CLOCK_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// How long an API without a time is waited for. Then it is a finding if retention is enabled, and
/// tasks that delete nothing proceed without it.
pub(super) const API_TIME_TIMEOUT: Duration = Duration::from_secs(3600);
/// A clock that differs from this machine's by more is a finding of severity warning...
const SKEW_WARNING_THRESHOLD: Duration = Duration::from_secs(60);
/// ...and by more than this of severity trouble.
const SKEW_TROUBLE_THRESHOLD: Duration = Duration::from_secs(300);
/// The pause between two transactions.
const TRANSACTION_PAUSE: Duration = Duration::from_millis(100);
/// The time between two purges of deleted segments from the full-text index.
const INDEX_PURGE_INTERVAL: Duration = Duration::from_secs(24 * 3600);

/// The findings that each concern one account.
const ACCOUNT_FINDINGS: [FindingCode; 3] =
    [FindingCode::RetentionPaused, FindingCode::RetentionWaits, FindingCode::UnreadableOnHold];
const NTP_HINT: &str =
    "synchronise this machine's clock with NTP (timedatectl set-ntp true); if it is right, the other clock is wrong";

const CLOCKS_DIFFER_HINT: &str = "correct the clocks; retention continues when they agree within 5 minutes";
const NO_API_TIME_HINT: &str = "check whether RingCX answers, and whether a proxy removes the `Date` of its answers or adds an `Age`; \
                                retention continues once five answers contain the time";
const NEWER_DATA_HINT: &str = "check the clocks; if they are right now, start retention with `ringcx-extractor erase --retention-now`; it \
                             then ignores data that is dated later than now";

/// Runs until `stop`.
///
/// # Errors
/// If the database fails with an error that is not transient.
pub(crate) async fn run(context: Arc<AppContext>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut task = RetentionTask::new(context);
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = task.apply_repeatedly() => ended,
    }
}

struct RetentionTask {
    context: Arc<AppContext>,
    /// When the index was last purged; `None` until the first time.
    last_purge: Option<Tick>,
    /// When the waiting pass of each account was last decided on.
    last_decision: BTreeMap<AccountKey, Tick>,
    /// Whether a pass waits, or the clocks are not known to agree.
    is_waiting: bool,
    /// Since when the API's time has been unknown.
    unknown_since: Option<Tick>,
    /// Whether the API's time was believed at the last pass.
    api_is_believed: bool,
}

/// The readings of all clocks; `None` if the database does not answer.
pub(super) async fn read_clocks(context: &AppContext) -> Option<RetentionClocks> {
    let AppContext { api, clock, db, .. } = context;
    let query_start = clock.now();
    let database = match db.sqlite_path() {
        Some(_) => None,
        None => Some(db.database_now(query_start).await.ok()?.0.saturating_sub(query_start.0)),
    };
    let (machine, tick) = (clock.now(), clock.tick());
    let database = database.map(|ahead| machine.plus_millis(ahead));
    let api = api.api_time(machine, tick);
    let readings = [api.newest, api.measured, api.believed].into_iter().flatten();
    let readings = if api.is_measured() { readings.collect() } else { Vec::new() };
    Some(RetentionClocks { machine, api: readings, is_api_trusted: api.believed.is_some(), database })
}

impl RetentionTask {
    fn new(context: Arc<AppContext>) -> RetentionTask {
        RetentionTask {
            context,
            last_purge: None,
            last_decision: BTreeMap::new(),
            is_waiting: false,
            unknown_since: None,
            api_is_believed: false,
        }
    }

    async fn apply_repeatedly(&mut self) -> anyhow::Result<()> {
        while !self.context.is_active() {
            self.context.clock.sleep(MIN_CHECK_INTERVAL).await;
        }
        let clock = self.context.clock.clone();
        let mut changes = self.context.subscribe_changes();
        loop {
            let accounts = self.context.accounts();
            self.run_pass(&accounts).await?;
            let passed_at = clock.tick();
            loop {
                let left = (passed_at + self.check_interval()).since(clock.tick());
                tokio::select! {
                    () = clock.sleep(left.min(CLOCK_CHECK_INTERVAL)) => {}
                    // An operator may have approved the waiting pass.
                    Ok(()) = changes.changed() => break,
                }
                if left <= CLOCK_CHECK_INTERVAL {
                    break;
                }
                let clocks = self.compare_clocks().await;
                if self.unknown_since.is_some() && clocks.is_some_and(|clocks| clocks.check() != ClockCheck::Unknown) {
                    break;
                }
            }
        }
    }

    /// The time between two passes. It is shorter for accounts with a short retention.
    fn check_interval(&self) -> Duration {
        let longest = if self.is_waiting { WAITING_CHECK_INTERVAL } else { MAX_PASS_INTERVAL };
        let accounts = self.context.accounts();
        let least = accounts.iter().filter_map(|account| account.policy.retention).min();
        least.map_or(MAX_PASS_INTERVAL, |least| erasure::pass_interval(least).clamp(MIN_CHECK_INTERVAL, longest))
    }

    async fn run_pass(&mut self, accounts: &[Arc<Account>]) -> anyhow::Result<()> {
        self.is_waiting = true;
        // The supervisor reports an unavailable database.
        let Some(clocks) = self.compare_clocks().await else { return Ok(()) };
        self.clear_foreign_findings(accounts);
        let is_enabled = accounts.iter().any(|account| account.policy.retention.is_some());
        if !is_enabled {
            self.context.findings.clear(FindingCode::RetentionPaused, None);
        }
        let check = clocks.check();
        if check != ClockCheck::Unknown {
            self.unknown_since = None;
        }
        let now = match check {
            ClockCheck::Agree(now) => now,
            ClockCheck::Differ(sentence) => {
                if is_enabled {
                    self.report_paused(None, &sentence, CLOCKS_DIFFER_HINT);
                }
                return Ok(());
            }
            ClockCheck::Unknown => {
                let tick = self.context.clock.tick();
                let since = *self.unknown_since.get_or_insert(tick);
                if is_enabled && tick.since(since) >= API_TIME_TIMEOUT {
                    self.report_paused(None, "the API's answers contain no time", NO_API_TIME_HINT);
                }
                return Ok(());
            }
        };
        self.api_is_believed = clocks.is_api_trusted;
        self.context.findings.clear(FindingCode::RetentionPaused, None);
        self.is_waiting = false;
        let mut total = DeletionCounts::default();
        for account in accounts {
            total.add(self.apply_retention(account, now).await?);
        }
        self.purge_index(total).await;
        // The supervisor reports an unavailable database; the next pass tries again.
        if let Err(error) = self.context.db.forget_export_erasures(now).await {
            tracing::debug!(%error, "failed to delete the ids of segments that were erased long ago; retrying later");
        }
        self.expire_access_log(now).await
    }

    /// Removes entries of the access log that are past its own retention. A replica does not need to
    /// own an account for it.
    async fn expire_access_log(&self, now: Time) -> anyhow::Result<()> {
        let AppContext { db, settings, clock, .. } = &*self.context;
        let cutoff = now - settings.access.log_retention;
        let mut removed = 0;
        loop {
            match db.remove_access_entries(cutoff, clock.now(), &settings.database.instance).await {
                Ok(0) => break,
                Ok(count) => removed += count,
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, hint = error.hint(), "failed to apply the access log's retention; retrying later");
                    break;
                }
                Err(error) => return Err(error).context("failed to apply the access log's retention"),
            }
            clock.sleep(TRANSACTION_PAUSE).await;
        }
        if removed > 0 {
            tracing::info!(entries = removed, "removed entries of the access log that were past access.log_retention");
        }
        Ok(())
    }

    /// Clears findings of accounts that this replica no longer owns. Their owner reports them.
    fn clear_foreign_findings(&self, accounts: &[Arc<Account>]) {
        for code in &ACCOUNT_FINDINGS {
            let is_own = |sub: &str| accounts.iter().any(|account| *account.id.sub == *sub);
            self.context.findings.clear_outdated(code, is_own);
        }
    }

    /// Reports each clock that differs much from this machine's. Returns the readings; `None` if
    /// the database does not answer.
    async fn compare_clocks(&self) -> Option<RetentionClocks> {
        let clocks = read_clocks(&self.context).await?;
        let (api, machine, tick) = (&self.context.api, clocks.machine, self.context.clock.tick());
        for (host, time) in api.api_times(machine, tick) {
            let reading = time.measured.filter(|_| time.is_measured());
            match time.implausible {
                Some(date) => {
                    let date = date.rfc3339_secs();
                    let sentence =
                        format!("answers of {host} are dated {date}, which is impossible; the date is ignored");
                    let hint = "check this machine's clock; if it is right, the server's clock is wrong, and its operator must correct it";
                    self.report(FindingCode::ClockSkew, Severity::Trouble, Some(host), sentence, hint);
                }
                None => self.compare_clock(host, machine, reading),
            }
        }
        self.compare_clock("database", machine, clocks.database);
        Some(clocks)
    }

    /// Reports one clock if it differs much. An unknown clock is no finding.
    fn compare_clock(&self, subject: &str, machine: Time, reading: Option<Time>) {
        let reading = reading.unwrap_or(machine);
        let (difference, direction) = match reading > machine {
            true => (reading.since(machine), "ahead of"),
            false => (machine.since(reading), "behind"),
        };
        if difference <= SKEW_WARNING_THRESHOLD {
            self.context.findings.clear(FindingCode::ClockSkew, Some(subject));
            return;
        }
        let severity = if difference > SKEW_TROUBLE_THRESHOLD { Severity::Trouble } else { Severity::Warning };
        let sentence = format!("the clock of {subject} is {} s {direction} this machine's", difference.as_secs());
        self.report(FindingCode::ClockSkew, severity, Some(subject), sentence, NTP_HINT);
    }

    fn report(&self, code: FindingCode, severity: Severity, subject: Option<&str>, sentence: String, hint: &str) {
        let finding = Finding::new(code, severity, self.context.clock.now(), sentence, hint);
        self.context.findings.report_and_log(match subject {
            Some(subject) => finding.about(subject),
            None => finding,
        });
    }

    fn report_paused(&self, account: Option<&Account>, sentence: &str, hint: &str) {
        let subject = account.map(|account| &*account.id.sub);
        let sentence = format!("retention is paused and deletes nothing: {sentence}");
        self.report(FindingCode::RetentionPaused, Severity::Trouble, subject, sentence, hint);
    }

    /// Applies retention to an account. Transient errors are retried at the next pass.
    async fn apply_retention(&mut self, account: &Account, now: Time) -> anyhow::Result<DeletionCounts> {
        match self.expire_account(account, now).await {
            Ok(total) => Ok(total),
            // The new owner applies retention.
            Err(error) if error.fault() == DbFault::LeaseLost => Ok(DeletionCounts::default()),
            Err(error) if error.is_transient() => {
                tracing::warn!(account = %account.id, %error, hint = error.hint(), "failed to apply retention; retrying later");
                Ok(DeletionCounts::default())
            }
            Err(error) => Err(error).with_context(|| format!("failed to apply retention to account {}", account.id)),
        }
    }

    /// Deletes the expired segments of an account. `now` is the earliest of all clocks, which
    /// agree.
    async fn expire_account(&mut self, account: &Account, now: Time) -> Result<DeletionCounts, DbError> {
        let db = &account.db;
        let mut total = DeletionCounts::default();
        let Some(kept) = account.policy.retention else { return Ok(total) };
        let cutoff = now - kept;
        let notice = erasure::load_notice(db, account.lease.account).await?;
        if !erasure::is_retention_due(db, account.lease.account, kept, now).await? {
            self.report_unreadable(account, 0);
            return self.finish_pass(account, notice).await.map(|()| total);
        }
        if !self.may_delete(account, kept, cutoff, now, notice.as_ref()).await? {
            return Ok(total);
        }
        let who = format!("retention@{}", self.context.settings.database.instance);
        let mut cursor = RetentionCursor::default();
        while let Some(deleted) =
            erasure::delete_expired_segments(db, account.lease, cutoff, &who, account.clock.now(), &mut cursor).await?
        {
            total.add(deleted);
            account.clock.sleep(TRANSACTION_PAUSE).await;
        }
        self.report_unreadable(account, cursor.unreadable);
        let at = account.clock.now();
        total.add(erasure::delete_expired_quarantined(db, account.lease, cutoff, &who, at).await?);
        if total != DeletionCounts::default() {
            tracing::info!(account = %account.id, segments = total.segments, records = total.records, "deleted expired segments");
        }
        self.finish_pass(account, notice).await?;
        Ok(total)
    }

    /// Whether a pass may run: the archive holds no data from the future, and the pass would not
    /// delete an unusual share.
    async fn may_delete(
        &mut self,
        account: &Account,
        kept: Duration,
        cutoff: Time,
        now: Time,
        notice: Option<&RetentionNotice>,
    ) -> Result<bool, DbError> {
        let (db, key, sub) = (&account.db, account.lease.account, &*account.id.sub);
        if notice.is_some_and(|notice| notice.approved) {
            return Ok(true);
        }
        // If the API's time is believed, heartbeats are ignored: one from the future only shows
        // that a clock was ahead.
        let newest = db.latest_stored_time(key, !self.api_is_believed).await?;
        if let Some(sentence) = erasure::describe_future_writes(now, newest) {
            self.report_paused(Some(account), &sentence, NEWER_DATA_HINT);
            if notice.is_none() {
                // A notice that an operator can approve.
                let segments = db.count_ended_before(key, cutoff).await?.0;
                let (waited, approved) = (Duration::ZERO, false);
                let notice = RetentionNotice { retention: kept, announced: now, waited, segments, approved };
                erasure::save_notice(db, key, &notice).await?;
            }
            self.is_waiting = true;
            return Ok(false);
        }
        self.context.findings.clear(FindingCode::RetentionPaused, Some(sub));
        let Some(due) = erasure::find_unusual_pass(db, key, kept, cutoff).await? else { return Ok(true) };
        let tick = account.clock.tick();
        // At most the time between two checks, since another replica may have counted in the
        // meantime.
        let elapsed = self.last_decision.insert(key, tick).map_or(Duration::ZERO, |last| tick.since(last));
        let elapsed = elapsed.min(WAITING_CHECK_INTERVAL * 2);
        let notice = match erasure::decide_pass(due, notice.cloned(), kept, elapsed, now) {
            PassDecision::Run => return Ok(true),
            PassDecision::Wait(notice) => notice,
        };
        erasure::save_notice(db, key, &notice).await?;
        self.is_waiting = true;
        let runs = now + NOTICE_PERIOD.saturating_sub(notice.waited);
        let sentence = format!(
            "retention is about to delete {} of {} segments of account {sub}, more than usual; it waits until {}",
            due.due,
            due.total,
            runs.rfc3339_secs()
        );
        let hint = "if this is intended, wait, or run it now with `ringcx-extractor erase --retention-now`; if not, increase the \
                    retention or place a hold";
        let finding = Finding::new(FindingCode::RetentionWaits, Severity::Warning, notice.announced, sentence, hint);
        self.context.findings.report_and_log(finding.about(sub));
        Ok(false)
    }

    /// Clears the findings and the notice of a pass that is done.
    async fn finish_pass(&mut self, account: &Account, notice: Option<RetentionNotice>) -> Result<(), DbError> {
        self.last_decision.remove(&account.lease.account);
        for code in [FindingCode::RetentionPaused, FindingCode::RetentionWaits] {
            self.context.findings.clear(code, Some(&account.id.sub));
        }
        if notice.is_some() {
            account.db.delete_retention_notice(account.lease.account).await?;
        }
        Ok(())
    }

    /// Reports expired segments that cannot be read and may belong to a contact on hold. They stay
    /// until an operator decides.
    fn report_unreadable(&self, account: &Account, segments: u64) {
        if segments == 0 {
            self.context.findings.clear(FindingCode::UnreadableOnHold, Some(&account.id.sub));
            return;
        }
        let sentence = format!(
            "retention keeps {segments} expired segments that cannot be read, because they may belong to a contact on hold"
        );
        let hint = "list them with `ringcx-extractor erase --contact … --dry-run`; they are deleted once no contact is on hold";
        let (code, sub) = (FindingCode::UnreadableOnHold, Some(&*account.id.sub));
        self.report(code, Severity::Warning, sub, sentence, hint);
    }

    /// Purges deleted segments from the index, at most once a day, since the purge is expensive.
    async fn purge_index(&mut self, total: DeletionCounts) {
        let now = self.context.clock.tick();
        let is_time = self.last_purge.is_none_or(|last| now.since(last) >= INDEX_PURGE_INTERVAL);
        if total.segments == 0 || !is_time {
            return;
        }
        match self.context.db.purge_deleted().await {
            Ok(()) => self.last_purge = Some(now),
            Err(error) => {
                tracing::warn!(%error, hint = error.hint(), "failed to purge deleted segments from the index; retrying later")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{PauseLog, RuntimeStats};
    use crate::clock::Clock;
    use crate::config::Accounts;
    use crate::daemon::app_context::{budget_name, metadata_budget};
    use crate::db::{Db, Lease, OpenMode};
    use crate::ringcx::rate_limit::Pacer;

    const NOW: Time = Time(1_800_000_000_000);

    const SETTINGS: &str = r#"
[api]
platform_url = "http://127.0.0.1:1"
ringcx_url = "http://127.0.0.1:1"
summary_url = "http://127.0.0.1:1"
[auth]
api_token = "planted-secret"
[[accounts]]
rc_account_id = "1"
sub_account_id = "one"
retention = "30d"
[database]
instance = "host-1"
"#;

    async fn retention_task(clock: &Clock, folder: &std::path::Path) -> (RetentionTask, Arc<Account>) {
        let file = folder.join("local.toml");
        std::fs::write(&file, SETTINGS).unwrap();
        let settings = crate::config::load(Some(&file), []).unwrap().settings;
        let Accounts::Listed(listed) = settings.accounts.clone() else { panic!("listed") };
        let db = Db::open_sqlite(&folder.join("test.db"), OpenMode::CreateOrMigrate).await.unwrap();
        let context = AppContext::new(settings, db.clone(), clock.clone()).unwrap();
        let limits = &context.settings.limits;
        let row = db.register_account(&listed[0].id, None, NOW).await.unwrap();
        let account = Arc::new(Account {
            id: listed[0].id.clone(),
            policy: listed[0].policy,
            retention_days: None,
            lease: Lease { account: row.key, epoch: 1 },
            db: db.clone(),
            api: context.api.clone(),
            login: context.login.clone(),
            pacer: Pacer::new(limits.requests_per_minute, clock.clone()),
            budget_name: budget_name(limits, "one"),
            metadata_budget: metadata_budget(limits, "one", &db, clock),
            recordings: context.recordings.clone(),
            clock: clock.clone(),
            work_queued: tokio::sync::Notify::new(),
            reads_requested: tokio::sync::Notify::new(),
            findings: context.findings.clone(),
            stats: RuntimeStats::default(),
            pauses: PauseLog::default(),
        });
        (RetentionTask::new(context), account)
    }

    fn codes(task: &RetentionTask) -> Vec<FindingCode> {
        task.context.findings.list().iter().map(|finding| finding.code.clone()).collect()
    }

    #[tokio::test]
    async fn an_api_without_a_time_for_an_hour_is_a_finding_if_retention_is_enabled() {
        let (clock, folder) = (Clock::manual(NOW), tempfile::tempdir().unwrap());
        let (mut task, account) = retention_task(&clock, folder.path()).await;
        task.run_pass(std::slice::from_ref(&account)).await.unwrap();
        clock.advance(API_TIME_TIMEOUT - Duration::from_secs(1));
        task.run_pass(std::slice::from_ref(&account)).await.unwrap();
        assert!(codes(&task).is_empty());
        clock.advance(Duration::from_secs(1));
        task.run_pass(std::slice::from_ref(&account)).await.unwrap();
        let found = task.context.findings.list();
        assert_eq!((found.len(), &found[0].code), (1, &FindingCode::RetentionPaused));
        assert!(found[0].sentence.ends_with("the API's answers contain no time"), "{}", found[0].sentence);
        // Findings of accounts of another replica are cleared.
        task.report_paused(Some(&account), "the archive was written later", NEWER_DATA_HINT);
        task.run_pass(&[]).await.unwrap();
        assert!(codes(&task).is_empty());
    }

    #[tokio::test]
    async fn the_finding_of_a_clock_is_cleared_once_the_clock_is_unknown() {
        let (clock, folder) = (Clock::manual(NOW), tempfile::tempdir().unwrap());
        let (task, _account) = retention_task(&clock, folder.path()).await;
        task.compare_clock("api.example", NOW, Some(NOW + Duration::from_secs(3600)));
        assert_eq!(codes(&task), [FindingCode::ClockSkew]);
        task.compare_clock("api.example", NOW, None);
        assert!(codes(&task).is_empty());
    }
}
