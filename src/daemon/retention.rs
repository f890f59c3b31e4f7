//! Applies retention, now and then, to the accounts that this process owns, and watches the clocks that it depends on.
//!
//! What is past it goes in small transactions with pauses in between, so that results never wait for it; an account where
//! nothing is due costs one look at an index. Nothing goes before the API has answered, where clocks differ, or, for a
//! day, where it would be an unusual share: see `keeping`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::shared::Shared;
use crate::account::Account;
use crate::clock::{Tick, Time};
use crate::db::{DbError, DbFault, Erased};
use crate::health::{Finding, Severity};
use crate::keeping::{
    self, ClockCheck, Cursor, LONGEST_BETWEEN_PASSES, NOTICE_PERIOD, PassDecision, RetentionClocks, RetentionNotice,
};

/// How often retention is looked at while a pass waits.
const WHILE_WAITING: Duration = Duration::from_secs(60);
/// And no more often than that, however short it is.
const SHORTEST: Duration = Duration::from_secs(1);
/// How often the clocks are compared.
const CLOCK_CHECK: Duration = Duration::from_secs(5);
/// An API that tells no time for so long is a finding where retention is wanted, and is not waited for by what erases nothing.
pub(super) const API_TIME_PATIENCE: Duration = Duration::from_secs(3600);
/// A clock that differs from this machine's by more is a finding, and by more than that one that costs something.
const SKEW_WARNING: Duration = Duration::from_secs(60);
const SKEW_TROUBLE: Duration = Duration::from_secs(300);
/// Between two transactions.
const BREATH: Duration = Duration::from_millis(100);
/// How often the index is made to forget for good what retention took.
const FORGET: Duration = Duration::from_secs(24 * 3600);

const CLOCK_SKEW: &str = "clock_skew";
const PAUSED: &str = "retention_paused";
const WAITS: &str = "retention_waits";
const UNREADABLE: &str = "unreadable_on_hold";
/// The findings that are about one account each.
const OF_ACCOUNTS: [&str; 3] = [PAUSED, WAITS, UNREADABLE];
const KEEP_TIME: &str =
    "keep this machine's clock right with NTP (timedatectl set-ntp true); if it is right, the other clock is wrong";

const CLOCKS_DIFFER: &str = "put the clocks right; retention goes on when they agree within 5 minutes";
const NO_DATE: &str = "see whether RingCX answers, and whether a proxy on the way removes the `Date` of its answers or adds an `Age`; \
                       retention goes on once five answers have told the time";
const WRITTEN_AHEAD: &str = "check the clocks; if they are right now, `ringcx-extractor erase --retention-now` lets it run, and what is \
                             dated later than now is no reason to pause any more";

/// Goes on until `stop`.
///
/// # Errors
/// Where waiting will not help.
pub async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut retention = Retention::new(shared);
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ended = retention.work() => ended,
    }
}

struct Retention {
    shared: Arc<Shared>,
    /// When the index last forgot; `None` until it first has.
    forgotten: Option<Tick>,
    /// When each account's waiting pass was last looked at.
    decided: BTreeMap<i64, Tick>,
    /// Whether any pass waits, or clocks are waited for.
    waiting: bool,
    /// Since when the API has not told the time often enough.
    unknown_since: Option<Tick>,
    /// Whether its time was believed when retention was last looked at.
    api_is_believed: bool,
}

/// What all clocks say, where the database answers.
pub(super) async fn read_clocks(shared: &Shared) -> Option<RetentionClocks> {
    let Shared { api, clock, db, .. } = shared;
    let asked = clock.now();
    let database = match db.file() {
        Some(_) => None,
        None => Some(db.here(asked).await.ok()?.0.saturating_sub(asked.0)),
    };
    let (machine, tick) = (clock.now(), clock.tick());
    let database = database.map(|ahead| machine.plus_millis(ahead));
    let api = api.time(machine, tick);
    let told = [api.newest, api.measured, api.believed].into_iter().flatten();
    let told = if api.is_measured() { told.collect() } else { Vec::new() };
    Some(RetentionClocks { machine, api: told, api_is_believed: api.believed.is_some(), database })
}

impl Retention {
    fn new(shared: Arc<Shared>) -> Retention {
        Retention {
            shared,
            forgotten: None,
            decided: BTreeMap::new(),
            waiting: false,
            unknown_since: None,
            api_is_believed: false,
        }
    }

    async fn work(&mut self) -> anyhow::Result<()> {
        while !self.shared.in_session() {
            self.shared.clock.sleep(SHORTEST).await;
        }
        let clock = self.shared.clock.clone();
        let mut rings = self.shared.rings();
        loop {
            let accounts = self.shared.accounts();
            self.turn(&accounts).await?;
            let turned = clock.tick();
            loop {
                let left = (turned + self.pause()).since(clock.tick());
                tokio::select! {
                    () = clock.sleep(left.min(CLOCK_CHECK)) => {}
                    // A person may have approved of what waits.
                    Ok(()) = rings.changed() => break,
                }
                if left <= CLOCK_CHECK {
                    break;
                }
                let clocks = self.compare_clocks().await;
                if self.unknown_since.is_some() && clocks.is_some_and(|clocks| clocks.check() != ClockCheck::Unknown) {
                    break;
                }
            }
        }
    }

    /// Between two turns; shorter at once where an account has come whose retention is.
    fn pause(&self) -> Duration {
        let longest = if self.waiting { WHILE_WAITING } else { LONGEST_BETWEEN_PASSES };
        let accounts = self.shared.accounts();
        let least = accounts.iter().filter_map(|account| account.policy.retention).min();
        least.map_or(LONGEST_BETWEEN_PASSES, |least| keeping::between_passes(least).clamp(SHORTEST, longest))
    }

    async fn turn(&mut self, accounts: &[Arc<Account>]) -> anyhow::Result<()> {
        self.waiting = true;
        // The database that is away is the session's to report.
        let Some(clocks) = self.compare_clocks().await else { return Ok(()) };
        self.clear_of_others(accounts);
        let wanted = accounts.iter().any(|account| account.policy.retention.is_some());
        if !wanted {
            self.shared.findings.clear(PAUSED, None);
        }
        let check = clocks.check();
        if check != ClockCheck::Unknown {
            self.unknown_since = None;
        }
        let now = match check {
            ClockCheck::Agree(now) => now,
            ClockCheck::Differ(sentence) => {
                if wanted {
                    self.paused(None, &sentence, CLOCKS_DIFFER);
                }
                return Ok(());
            }
            ClockCheck::Unknown => {
                let tick = self.shared.clock.tick();
                let since = *self.unknown_since.get_or_insert(tick);
                if wanted && tick.since(since) >= API_TIME_PATIENCE {
                    self.paused(None, "the API's answers tell no time", NO_DATE);
                }
                return Ok(());
            }
        };
        self.api_is_believed = clocks.api_is_believed;
        self.shared.findings.clear(PAUSED, None);
        self.waiting = false;
        let mut sum = Erased::default();
        for account in accounts {
            sum.add(self.retention(account, now).await?);
        }
        self.forget(sum).await;
        Ok(())
    }

    /// What was reported of accounts that this replica does not work on any more is for their owner to report.
    fn clear_of_others(&self, accounts: &[Arc<Account>]) {
        let findings = &self.shared.findings;
        for finding in findings.list().iter().filter(|finding| OF_ACCOUNTS.contains(&finding.code)) {
            if let Some(sub) = &finding.subject
                && !accounts.iter().any(|account| *account.id.sub == **sub)
            {
                findings.clear(finding.code, Some(sub));
            }
        }
    }

    /// Reports each clock that differs much from this machine's; what all of them say, where the database answers.
    async fn compare_clocks(&self) -> Option<RetentionClocks> {
        let clocks = read_clocks(&self.shared).await?;
        let (api, machine, tick) = (&self.shared.api, clocks.machine, self.shared.clock.tick());
        for (host, time) in api.times(machine, tick) {
            let told = time.measured.filter(|_| time.is_measured());
            match time.implausible {
                Some(date) => self.report(Finding {
                    code: CLOCK_SKEW,
                    severity: Severity::Trouble,
                    since: machine,
                    subject: Some(host.to_owned()),
                    sentence: format!("answers of {host} are dated {}, which cannot be; the date is not used", date.rfc3339_secs()),
                    hint: "check this machine's clock; if it is right, the server's is wrong, which its operator has to mend".to_owned(),
                    blocks_progress: false,
                }),
                None => self.compare(host, machine, told),
            }
        }
        self.compare("database", machine, clocks.database);
        Some(clocks)
    }

    /// A clock of which too little is known to say that it differs is no finding.
    fn compare(&self, subject: &str, machine: Time, told: Option<Time>) {
        let told = told.unwrap_or(machine);
        let (apart, direction) = match told > machine {
            true => (told.since(machine), "ahead of"),
            false => (machine.since(told), "behind"),
        };
        if apart <= SKEW_WARNING {
            self.shared.findings.clear(CLOCK_SKEW, Some(subject));
            return;
        }
        self.report(Finding {
            code: CLOCK_SKEW,
            severity: if apart > SKEW_TROUBLE { Severity::Trouble } else { Severity::Warning },
            since: machine,
            subject: Some(subject.to_owned()),
            sentence: format!("the clock of {subject} is {} s {direction} this machine's", apart.as_secs()),
            hint: KEEP_TIME.to_owned(),
            blocks_progress: false,
        });
    }

    fn report(&self, finding: Finding) {
        let (sentence, hint) = (finding.sentence.clone(), finding.hint.clone());
        if self.shared.findings.report(finding) {
            tracing::warn!(hint, "{sentence}");
        }
    }

    fn paused(&self, account: Option<&Account>, sentence: &str, hint: &str) {
        self.report(Finding {
            code: PAUSED,
            severity: Severity::Trouble,
            since: self.shared.clock.now(),
            subject: account.map(|account| account.id.sub.to_string()),
            sentence: format!("retention is paused and erases nothing: {sentence}"),
            hint: hint.to_owned(),
            blocks_progress: false,
        });
    }

    /// Takes what is past retention; a database that is away is asked again at the next turn.
    async fn retention(&mut self, account: &Account, now: Time) -> anyhow::Result<Erased> {
        match self.expire(account, now).await {
            Ok(sum) => Ok(sum),
            // Another replica sees to it now.
            Err(error) if error.fault() == DbFault::Lost => Ok(Erased::default()),
            Err(error) if error.is_passing() => {
                tracing::warn!(account = %account.id, %error, "failed to apply retention; trying again later");
                Ok(Erased::default())
            }
            Err(error) => Err(error).with_context(|| format!("failed to apply retention to account {}", account.id)),
        }
    }

    /// `now` is the earliest of all clocks, which agree.
    async fn expire(&mut self, account: &Account, now: Time) -> Result<Erased, DbError> {
        let db = &account.db;
        let mut sum = Erased::default();
        let Some(kept) = account.policy.retention else { return Ok(sum) };
        let cutoff = now - kept;
        let notice = keeping::notice(db, account.owned.account).await?;
        if !keeping::is_due(db, account.owned.account, kept, now).await? {
            self.report_unreadable(account, 0);
            return self.over(account, notice).await.map(|()| sum);
        }
        if !self.may_run(account, kept, cutoff, now, notice.as_ref()).await? {
            return Ok(sum);
        }
        let at = account.clock.now();
        let who = format!("retention@{}", self.shared.settings.database.instance);
        let mut cursor = Cursor::default();
        while let Some(taken) = keeping::expire(db, account.owned, cutoff, &who, at, &mut cursor).await? {
            sum.add(taken);
            account.clock.sleep(BREATH).await;
        }
        self.report_unreadable(account, cursor.unreadable);
        sum.add(keeping::expire_asides(db, account.owned, cutoff, &who, at).await?);
        if sum != Erased::default() {
            tracing::info!(account = %account.id, segments = sum.segments, records = sum.records, "past retention: erased");
        }
        self.over(account, notice).await?;
        Ok(sum)
    }

    /// Whether nothing speaks against a pass: what the archive holds, or how much the pass would take of it.
    async fn may_run(
        &mut self,
        account: &Account,
        kept: Duration,
        cutoff: Time,
        now: Time,
        notice: Option<&RetentionNotice>,
    ) -> Result<bool, DbError> {
        let (db, key, sub) = (&account.db, account.owned.account, &*account.id.sub);
        if notice.is_some_and(|notice| notice.approved) {
            return Ok(true);
        }
        // Where several answers of the API agree with all clocks, a heartbeat that is ahead of them tells of a clock that was.
        let newest = db.newest_stored(key, !self.api_is_believed).await?;
        if let Some(sentence) = keeping::stored_later_than(now, newest) {
            self.paused(Some(account), &sentence, WRITTEN_AHEAD);
            if notice.is_none() {
                // For a person to approve of.
                let segments = db.count_past(key, cutoff).await?.0;
                let (waited, approved) = (Duration::ZERO, false);
                let notice = RetentionNotice { retention: kept, announced: now, waited, segments, approved };
                keeping::keep_notice(db, key, &notice).await?;
            }
            self.waiting = true;
            return Ok(false);
        }
        self.shared.findings.clear(PAUSED, Some(sub));
        let Some(due) = keeping::unusually_due(db, key, kept, cutoff).await? else { return Ok(true) };
        let tick = account.clock.tick();
        // No more than between two looks: another replica may have counted meanwhile.
        let elapsed = self.decided.insert(key, tick).map_or(Duration::ZERO, |last| tick.since(last));
        let elapsed = elapsed.min(WHILE_WAITING * 2);
        let notice = match keeping::decide_pass(due, notice.cloned(), kept, elapsed, now) {
            PassDecision::Run => return Ok(true),
            PassDecision::Wait(notice) => notice,
        };
        keeping::keep_notice(db, key, &notice).await?;
        self.waiting = true;
        let runs = now + NOTICE_PERIOD.saturating_sub(notice.waited);
        self.report(Finding {
            code: WAITS,
            severity: Severity::Warning,
            since: notice.announced,
            subject: Some(sub.to_owned()),
            sentence: format!(
                "retention is about to erase {} of {} segments of account {sub}, more than it usually does; it waits until {}",
                due.due, due.held, runs.rfc3339_secs()
            ),
            hint: "if that is meant, wait, or let it run at once with `ringcx-extractor erase --retention-now`; if not, make retention longer, or place a hold".to_owned(),
            blocks_progress: false,
        });
        Ok(false)
    }

    /// Nothing waits any more, and nothing stands in the way.
    async fn over(&mut self, account: &Account, notice: Option<RetentionNotice>) -> Result<(), DbError> {
        self.decided.remove(&account.owned.account);
        for code in [PAUSED, WAITS] {
            self.shared.findings.clear(code, Some(&account.id.sub));
        }
        if notice.is_some() {
            account.db.drop_retention_notice(account.owned.account).await?;
        }
        Ok(())
    }

    /// What is past retention, cannot be read, and may be of a contact on hold: it stays until a person decides.
    fn report_unreadable(&self, account: &Account, segments: u64) {
        if segments == 0 {
            self.shared.findings.clear(UNREADABLE, Some(&account.id.sub));
            return;
        }
        let finding = Finding {
            code: UNREADABLE,
            severity: Severity::Warning,
            since: account.clock.now(),
            subject: Some(account.id.sub.to_string()),
            sentence: format!(
                "retention keeps {segments} segments that cannot be read, since they may be of a contact on hold"
            ),
            hint: "`ringcx-extractor erase --contact … --dry-run` names them; they go when no hold is on a contact any more"
                .to_owned(),
            blocks_progress: false,
        };
        if self.shared.findings.report(finding) {
            tracing::warn!(account = %account.id, segments, "past retention and kept: they cannot be read, and may be of a contact on hold");
        }
    }

    /// The index is made to forget once a day: it costs much, and retention takes something nearly every day.
    async fn forget(&mut self, sum: Erased) {
        let now = self.shared.clock.tick();
        let is_time = self.forgotten.is_none_or(|last| now.since(last) >= FORGET);
        if sum.segments == 0 || !is_time {
            return;
        }
        match self.shared.db.forget_for_good().await {
            Ok(()) => self.forgotten = Some(now),
            Err(error) => {
                tracing::warn!(%error, "failed to have the index forget what retention took; trying again later")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::{Live, PauseLog};
    use crate::clock::Clock;
    use crate::config::Accounts;
    use crate::daemon::shared::{budget_name, metadata_budget};
    use crate::db::{Access, Db, Owned};
    use crate::ringcx::limits::Pacer;

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

    async fn retention(clock: &Clock, folder: &std::path::Path) -> (Retention, Arc<Account>) {
        let file = folder.join("local.toml");
        std::fs::write(&file, SETTINGS).unwrap();
        let settings = crate::config::load(Some(&file), []).unwrap().settings;
        let Accounts::Listed(listed) = settings.accounts.clone() else { panic!("listed") };
        let db = Db::open_sqlite(&folder.join("test.db"), Access::Own).await.unwrap();
        let shared = Shared::new(settings, db.clone(), clock.clone()).unwrap();
        let limits = &shared.settings.limits;
        let row = db.enrol(&listed[0].id, None, NOW).await.unwrap();
        let account = Arc::new(Account {
            id: listed[0].id.clone(),
            name: None,
            policy: listed[0].policy,
            retention_days: None,
            owned: Owned { account: row.key, epoch: 1 },
            db: db.clone(),
            api: shared.api.clone(),
            login: shared.login.clone(),
            pacer: Pacer::new(limits.requests_per_minute, clock.clone()),
            budget: budget_name(limits, "one"),
            metadata: metadata_budget(limits, "one", &db, clock),
            clock: clock.clone(),
            work: tokio::sync::Notify::new(),
            discover: tokio::sync::Notify::new(),
            findings: shared.findings.clone(),
            live: Live::default(),
            pauses: PauseLog::default(),
        });
        (Retention::new(shared), account)
    }

    fn codes(retention: &Retention) -> Vec<&'static str> {
        retention.shared.findings.list().iter().map(|finding| finding.code).collect()
    }

    #[tokio::test]
    async fn an_api_that_tells_no_time_for_an_hour_is_a_finding_where_retention_is_wanted() {
        let (clock, folder) = (Clock::manual(NOW), tempfile::tempdir().unwrap());
        let (mut retention, account) = retention(&clock, folder.path()).await;
        retention.turn(std::slice::from_ref(&account)).await.unwrap();
        clock.advance(API_TIME_PATIENCE - Duration::from_secs(1));
        retention.turn(std::slice::from_ref(&account)).await.unwrap();
        assert!(codes(&retention).is_empty());
        clock.advance(Duration::from_secs(1));
        retention.turn(std::slice::from_ref(&account)).await.unwrap();
        let found = retention.shared.findings.list();
        assert_eq!((found.len(), found[0].code), (1, PAUSED));
        assert!(found[0].sentence.ends_with("the API's answers tell no time"), "{}", found[0].sentence);
        // Nothing that another replica works on now is this one's to report.
        retention.paused(Some(&account), "the archive was written later", WRITTEN_AHEAD);
        retention.turn(&[]).await.unwrap();
        assert!(codes(&retention).is_empty());
    }

    #[tokio::test]
    async fn a_clock_of_which_too_little_is_known_is_no_finding_any_more() {
        let (clock, folder) = (Clock::manual(NOW), tempfile::tempdir().unwrap());
        let (retention, _account) = retention(&clock, folder.path()).await;
        retention.compare("api.example", NOW, Some(NOW + Duration::from_secs(3600)));
        assert_eq!(codes(&retention), [CLOCK_SKEW]);
        retention.compare("api.example", NOW, None);
        assert!(codes(&retention).is_empty());
    }
}
