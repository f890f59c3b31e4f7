//! Derives findings from a snapshot.
//!
//! Pure. A cause that affects many accounts is one finding. A mere consequence of another finding
//! is not reported.

use std::cmp::Reverse;
use std::time::Duration;

use super::humanize::{format_count, format_duration, format_number};
use super::{AccountStatus, Finding, FindingCategory, FindingCode, Severity, SinkState, SinkStatus, Snapshot};
use crate::clock::Time;

/// The same as `PAUSE_ESCALATION_AGE` for a sink, whose events are not lost meanwhile.
const SINK_PAUSE_ESCALATION_AGE: Duration = Duration::from_secs(3600);
/// A backlog that takes longer, at the full request limit, is reported.
const MAX_BACKLOG_DURATION: Duration = Duration::from_secs(900);
/// An index lag above this is reported: normally it is a few seconds.
const MAX_INDEX_LAG: Duration = Duration::from_secs(900);
/// How many accounts a finding names.
const MAX_NAMED_ACCOUNTS: usize = 3;

/// All findings, worst first. `reported` holds those that the daemons reported.
pub(crate) fn derive_findings(snapshot: &Snapshot, reported: Vec<Finding>) -> Vec<Finding> {
    let is_login_failing = reported.iter().any(|finding| finding.code.category() == FindingCategory::Login);
    let rules = Rules { snapshot, now: snapshot.now, is_login_failing };
    let mut findings = reported;
    findings.extend(rules.no_daemon());
    findings.extend(rules.paused_endpoints());
    findings.extend(rules.missing_accounts());
    findings.extend(rules.stalled_metadata());
    findings.extend(rules.broken_answers());
    findings.extend(rules.rate_limits());
    findings.extend(rules.failed_items());
    findings.extend(rules.quarantined_records());
    findings.extend(rules.open_backfills());
    findings.extend(rules.coverage_gaps());
    findings.extend(rules.unread_accounts());
    findings.extend(rules.lagging_accounts());
    findings.extend(rules.long_backlog());
    findings.extend(snapshot.sinks.iter().flat_map(|sink| rules.sink_findings(sink)));
    findings.extend(rules.index_lag());
    findings.extend(rules.left_out_accounts());
    rules.escalate(&mut findings);
    findings.sort_by_key(|finding| Reverse(finding.severity));
    findings
}

/// The inputs of the rules.
pub(super) struct Rules<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) now: Time,
    pub(super) is_login_failing: bool,
}

impl<'a> Rules<'a> {
    pub(super) fn accounts(&self) -> impl Iterator<Item = &'a AccountStatus> {
        self.snapshot.accounts.iter()
    }

    /// The accounts that the settings name. The others stay late, paused or missing, which is no
    /// finding.
    pub(super) fn configured(&self) -> impl Iterator<Item = &'a AccountStatus> {
        self.accounts().filter(|account| !account.facts.is_left_out)
    }

    /// The accounts whose figure is above zero, the largest first.
    pub(super) fn accounts_by_largest<T: Ord + Default>(
        &self,
        figure: impl Fn(&AccountStatus) -> T,
    ) -> Vec<&'a AccountStatus> {
        let mut accounts: Vec<_> = self.accounts().filter(|account| figure(account) > T::default()).collect();
        accounts.sort_by_key(|account| Reverse(figure(account)));
        accounts
    }

    fn no_daemon(&self) -> Option<Finding> {
        if self.snapshot.replicas.iter().any(|replica| replica.alive) {
            return None;
        }
        let last = self.snapshot.replicas.iter().map(|replica| replica.heartbeat).max();
        let age = last.map(|last| format!("; the last heartbeat was {} ago", format_duration(self.now.since(last))));
        let sentence = format!("no daemon is running{}", age.unwrap_or_default());
        let (since, hint) = (last.unwrap_or(self.now), "start it with `ringcx-extractor run`");
        Some(Finding::new(FindingCode::NoDaemon, Severity::Trouble, since, sentence, hint))
    }

    fn open_backfills(&self) -> Option<Finding> {
        let open = &self.snapshot.backfills;
        let first = open.first()?;
        let is_affected =
            |account: &&AccountStatus| open.iter().any(|backfill| backfill.sub_account_id == account.sub_account_id);
        let affected: Vec<_> = self.accounts().filter(is_affected).collect();
        let sum = |of: fn(&super::BackfillStatus) -> u64| seconds(open.iter().map(of).sum());
        let left = open.iter().map(|backfill| backfill.left_seconds).max().unwrap_or_default();
        let what = match open.as_slice() {
            [one] => format!("backfill {}", one.id),
            many => format_count(many.len() as u64, "backfill", "backfills"),
        };
        let sentence = format!(
            "{what}: {} of {} read, about {} left",
            sum(|backfill| backfill.read_seconds),
            sum(|backfill| backfill.seconds),
            seconds(left),
        );
        let hint = "nothing to do: a running daemon reads it as the metadata limit allows; `ringcx-extractor backfill list` \
                    shows each, `backfill cancel` ends one";
        let code = FindingCode::BackfillUnfinished;
        Some(about(&affected, Finding::new(code, Severity::Warning, first.requested, sentence, hint)))
    }

    fn long_backlog(&self) -> Option<Finding> {
        let due = |account: &AccountStatus| match account.facts.is_left_out {
            true => 0,
            false => account.work.ready + account.work.running,
        };
        let drain_time = |items: u64, account: &AccountStatus| {
            Duration::from_secs(items * 60 / u64::from(account.requests_per_minute.max(1)))
        };
        let items: u64 = self.accounts().map(due).sum();
        // If all accounts share a limit, each waits for all of them.
        let drain_time = |account: &AccountStatus| match self.snapshot.is_limit_shared {
            true => drain_time(items, account),
            false => drain_time(due(account), account),
        };
        let longest = self.accounts().map(drain_time).max().filter(|longest| *longest > MAX_BACKLOG_DURATION)?;
        let busy = self
            .accounts_by_largest(|account| if drain_time(account) > MAX_BACKLOG_DURATION { due(account) } else { 0 });
        let oldest = busy.iter().filter_map(|account| account.oldest_unfinished_seconds).max().unwrap_or_default();
        let sentence = format!(
            "{} due; at the limit that takes {} at least",
            format_count(items, "item is", "items are"),
            format_duration(longest)
        );
        let hint = "nothing to do: new items go first; if it never shrinks, ask the vendor for a higher limit";
        let since = self.now - Duration::from_secs(oldest);
        Some(about(&busy, Finding::new(FindingCode::Backlog, Severity::Warning, since, sentence, hint)))
    }

    fn sink_findings(&self, sink: &SinkStatus) -> impl Iterator<Item = Finding> + use<> {
        let (since, now) = (sink.since.unwrap_or(self.now), self.now);
        let reason = sink.reason.as_deref().unwrap_or("no reason is known");
        let new = |code, severity, since, what: String, hint| {
            Finding::new(code, severity, since, format!("sink {} {what}", sink.name), hint).about(sink.name.clone())
        };
        let state = match sink.state {
            SinkState::Stopped => Some(new(
                FindingCode::SinkStopped,
                Severity::Trouble,
                since,
                format!("is stopped: {reason}"),
                STOPPED_SINK_HINT,
            )),
            SinkState::Resting => {
                let severity = severity_by_age(now.since(since), SINK_PAUSE_ESCALATION_AGE);
                let what = format!("is not accepting events: {reason}");
                Some(new(FindingCode::SinkResting, severity, since, what, PAUSED_SINK_HINT))
            }
            SinkState::Active | SinkState::New | SinkState::NotInTheSettings => None,
        };
        let refused = (sink.failed > 0).then(|| {
            let what = format!("permanently refused {}", format_count(sink.failed, "event", "events"));
            let since = sink.failed_since.unwrap_or(now);
            new(FindingCode::SinkEventsFailed, Severity::Warning, since, what, REFUSED_EVENTS_HINT)
        });
        state.into_iter().chain(refused)
    }

    fn index_lag(&self) -> Option<Finding> {
        let index = self.snapshot.search_index;
        let lag = Duration::from_secs(index.lag_seconds);
        let sentence = format!(
            "the full-text index is {} behind the archive, the first for {}",
            format_count(index.lag_changes, "change", "changes"),
            format_duration(lag)
        );
        let hint = "nothing to do while it shrinks: a running daemon updates the index, and only search depends on it; if it \
                    does not shrink, check the log for warnings";
        (lag > MAX_INDEX_LAG)
            .then(|| Finding::new(FindingCode::SearchIndexBehind, Severity::Warning, self.now - lag, sentence, hint))
    }

    /// A finding that explains unread metadata is as severe as the stall. A finding that affects
    /// all accounts of this replica blocks its progress.
    fn escalate(&self, findings: &mut [Finding]) {
        let stalled: Vec<&AccountStatus> = self.accounts().filter(|account| account.has_lasting_stall()).collect();
        let is_own = |account: &&AccountStatus| account.owner.as_deref() == Some(&self.snapshot.instance);
        let mut own = self.accounts().filter(is_own).peekable();
        let is_blocked = own.peek().is_some() && own.all(AccountStatus::is_blocked);
        for finding in findings {
            let of_login = match finding.code.category() {
                FindingCategory::Login => true,
                FindingCategory::Accounts => false,
                _ => continue,
            };
            finding.blocks_progress |= is_blocked;
            let explains_stall =
                stalled.iter().any(|account| of_login || finding.accounts().contains(&account.sub_account_id));
            if finding.blocks_progress || explains_stall {
                finding.severity = Severity::Trouble;
            }
        }
    }
}

/// A finding about these accounts, of which it names the first.
pub(super) fn about(accounts: &[&AccountStatus], finding: Finding) -> Finding {
    let mut names: Vec<String> =
        accounts.iter().take(MAX_NAMED_ACCOUNTS).map(|account| account.title().to_owned()).collect();
    if accounts.len() > MAX_NAMED_ACCOUNTS {
        names.push(format!("{} more", format_number((accounts.len() - MAX_NAMED_ACCOUNTS) as u64)));
    }
    if names.is_empty() {
        return finding;
    }
    finding.about_accounts(join_names(&names), accounts.iter().map(|account| account.sub_account_id.clone()).collect())
}

/// A problem that usually ends by itself is trouble from a certain age.
pub(super) fn severity_by_age(age: Duration, escalation_age: Duration) -> Severity {
    if age >= escalation_age { Severity::Trouble } else { Severity::Warning }
}

/// `one`, `one and two`, `one, two and three`.
pub(super) fn join_names(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn seconds(seconds: u64) -> String {
    format_duration(Duration::from_secs(seconds))
}

/// The hint for a stopped sink.
pub(crate) const STOPPED_SINK_HINT: &str =
    "change its url, remove it from the settings, or start it again with `ringcx-extractor deliver retry`";
const REFUSED_EVENTS_HINT: &str = "`ringcx-extractor deliver status` shows why; `deliver retry` sends them again";
const PAUSED_SINK_HINT: &str = "nothing to do if it passes: delivery is retried automatically and no event is lost; `ringcx-extractor \
                                deliver retry` retries it now";
