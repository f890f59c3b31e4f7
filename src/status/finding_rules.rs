//! Derives findings from the status. Readiness, dashboard, `status`, metrics and `audit` all show
//! this list.
//!
//! Pure. A cause that affects many accounts is one finding. A mere consequence of another finding
//! is not reported.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::humanize::{format_count, format_duration, format_number};
use super::{AccountStatus, BrokenAnswerStats, EndpointPause, MetadataStall, SinkState, SinkStatus, Status};
use crate::clock::Time;
use crate::config::{LimitScope, Settings};
use crate::health::{HealthFinding, Severity};

/// A pause that usually ends by itself becomes trouble at this age.
const PAUSE_ESCALATION_AGE: Duration = Duration::from_secs(600);
/// The same for a sink, whose events are not lost meanwhile.
const SINK_PAUSE_ESCALATION_AGE: Duration = Duration::from_secs(3600);
/// A backlog that takes longer, at the full request limit, is reported.
const MAX_BACKLOG_DURATION: Duration = Duration::from_secs(900);
/// An index lag above this is reported: normally it is a few seconds.
const MAX_INDEX_LAG: Duration = Duration::from_secs(900);
/// The shortest wait after a 429 that is reported.
const MIN_REPORTED_WAIT: Duration = Duration::from_secs(30);
/// How many accounts a finding names.
const MAX_NAMED_ACCOUNTS: usize = 3;

/// A finding as `status`, `/readyz` and the heartbeat contain it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingStatus {
    /// Stable identifier in `snake_case`, for programs.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// Since when, RFC 3339.
    pub(crate) since: String,
    /// What it concerns: the names of the first accounts, a sink, or a host.
    pub(crate) subject: Option<String>,
    /// What is wrong, without the full stop.
    pub sentence: String,
    /// The remedy.
    pub(crate) hint: String,
    /// Whether none of this replica's accounts make progress while it lasts.
    #[serde(skip)]
    pub blocks_progress: bool,
    /// The sub-accounts that it concerns.
    #[serde(skip)]
    pub(crate) accounts: Vec<String>,
}

impl From<HealthFinding> for FindingStatus {
    fn from(finding: HealthFinding) -> FindingStatus {
        let found = FindingStatus::new(finding.code, finding.severity, finding.since, finding.sentence, &finding.hint);
        let accounts = finding.subject.iter().cloned().collect();
        FindingStatus { subject: finding.subject, blocks_progress: finding.blocks_progress, accounts, ..found }
    }
}

impl FindingStatus {
    /// Creates a finding without a subject.
    pub(crate) fn new(code: &str, severity: Severity, since: Time, sentence: String, hint: &str) -> FindingStatus {
        FindingStatus {
            code: code.to_owned(),
            severity,
            since: since.rfc3339_secs(),
            subject: None,
            sentence,
            hint: hint.to_owned(),
            blocks_progress: false,
            accounts: Vec::new(),
        }
    }

    fn for_accounts(mut self, accounts: &[&AccountStatus]) -> FindingStatus {
        let mut names: Vec<String> =
            accounts.iter().take(MAX_NAMED_ACCOUNTS).map(|account| account.title().to_owned()).collect();
        if accounts.len() > MAX_NAMED_ACCOUNTS {
            names.push(format!("{} more", format_number((accounts.len() - MAX_NAMED_ACCOUNTS) as u64)));
        }
        self.subject = (!names.is_empty()).then(|| join_names(&names));
        self.accounts = accounts.iter().map(|account| account.sub_account_id.clone()).collect();
        self
    }

    /// Whether it means that the archive lacks something: `audit` exits 1 for the same reason.
    pub fn is_incompleteness(&self) -> bool {
        const CODES: [&str; 6] = [
            "account_unread",
            "backfill_unfinished",
            "coverage_gaps",
            "items_failed",
            "ledger_differs",
            "records_set_aside",
        ];
        CODES.contains(&self.code.as_str())
    }
}

/// How far an account's watermark may be behind normally: a window may be read `offset` after its
/// end, and the next one `interval` later. One repeated read is still no reason for concern.
pub fn lag_threshold(settings: &Settings) -> Duration {
    settings.discovery.offset + settings.discovery.interval * 2 + Duration::from_secs(60)
}

/// All findings, worst first. `reported` holds those that the daemons reported.
pub(super) fn collect_findings(
    status: &Status,
    reported: Vec<FindingStatus>,
    settings: &Settings,
    now: Time,
) -> Vec<FindingStatus> {
    let rules = FindingRules {
        status,
        now,
        lag_threshold: lag_threshold(settings),
        is_limit_shared: settings.limits.scope == LimitScope::Login,
        is_login_failing: reported.iter().any(is_login_finding),
    };
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
    findings.extend(status.sinks.iter().flat_map(|sink| rules.sink_findings(sink)));
    findings.extend(rules.index_lag());
    findings.extend(rules.left_out_accounts());
    rules.escalate(&mut findings);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn is_login_finding(finding: &FindingStatus) -> bool {
    matches!(finding.code.as_str(), "login_refused" | "login_failing")
}

/// The inputs of the findings.
struct FindingRules<'a> {
    status: &'a Status,
    now: Time,
    lag_threshold: Duration,
    is_limit_shared: bool,
    is_login_failing: bool,
}

impl<'a> FindingRules<'a> {
    fn new_finding(
        &self,
        code: &str,
        severity: Severity,
        since: Option<Time>,
        sentence: String,
        hint: &str,
    ) -> FindingStatus {
        FindingStatus::new(code, severity, since.unwrap_or(self.now), sentence, hint)
    }

    fn accounts(&self) -> impl Iterator<Item = &'a AccountStatus> {
        self.status.accounts.iter()
    }

    /// The accounts that the settings name. The others stay late, paused or missing, which is no
    /// finding.
    fn configured(&self) -> impl Iterator<Item = &'a AccountStatus> {
        self.accounts().filter(|account| !account.facts.is_left_out)
    }

    /// The accounts whose figure is above zero, the largest first.
    fn accounts_by_largest<T: Ord + Default>(&self, figure: impl Fn(&AccountStatus) -> T) -> Vec<&'a AccountStatus> {
        let mut accounts: Vec<_> = self.accounts().filter(|account| figure(account) > T::default()).collect();
        accounts.sort_by_key(|account| std::cmp::Reverse(figure(account)));
        accounts
    }

    fn age_of(&self, since: &str) -> Duration {
        self.now.since(Time::parse(since).unwrap_or(self.now))
    }

    fn no_daemon(&self) -> Option<FindingStatus> {
        if self.status.replicas.iter().any(|replica| replica.alive) {
            return None;
        }
        let last = self.status.replicas.iter().filter_map(|replica| Time::parse(&replica.heartbeat)).max();
        let mut sentence = "no daemon is running".to_owned();
        if let Some(last) = last {
            sentence.push_str(&format!("; the last heartbeat was {} ago", format_duration(self.now.since(last))));
        }
        Some(self.new_finding("no_daemon", Severity::Trouble, last, sentence, "start it with `ringcx-extractor run`"))
    }

    /// One finding per reason, for all endpoints and accounts that it affects. The most affected
    /// accounts come first.
    fn paused_endpoints(&self) -> Vec<FindingStatus> {
        let mut groups: BTreeMap<(&str, Option<i64>), PauseGroup<'a>> = BTreeMap::new();
        for account in self.configured() {
            for pause in &account.paused {
                // A failing login is one finding of its own.
                if self.is_login_failing && LOGIN_ERROR_PREFIXES.iter().any(|begin| pause.reason.starts_with(begin)) {
                    continue;
                }
                let group = groups.entry((&pause.reason, pause.status)).or_insert_with(|| PauseGroup::of(pause));
                if !group.endpoints.contains(&pause.endpoint.as_str()) {
                    group.endpoints.push(&pause.endpoint);
                }
                if pause.since < group.example.since {
                    group.example = pause;
                }
                if group.accounts.last().is_none_or(|last| last.sub_account_id != account.sub_account_id) {
                    group.accounts.push(account);
                }
            }
        }
        let mut groups: Vec<PauseGroup<'_>> = groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.accounts.len()));
        let finding = |group: &PauseGroup<'_>| {
            let lasting = group.example.is_refusal() || self.age_of(&group.example.since) >= PAUSE_ESCALATION_AGE;
            let severity = if lasting { Severity::Trouble } else { Severity::Warning };
            let endpoints: Vec<String> = group.endpoints.iter().map(|endpoint| endpoint.replace('_', " ")).collect();
            let sentence = format!(
                "{} paused for {}: {}",
                join_names(&endpoints),
                account_count(group.accounts.len()),
                group.example.reason
            );
            let since = Time::parse(&group.example.since);
            self.new_finding("endpoint_paused", severity, since, sentence, group.example.hint())
                .for_accounts(&group.accounts)
        };
        groups.iter().map(finding).collect()
    }

    fn missing_accounts(&self) -> Option<FindingStatus> {
        let missing: Vec<_> = self.configured().filter(|account| account.missing_since.is_some()).collect();
        let since = missing.iter().filter_map(|account| Time::parse(account.missing_since.as_deref()?)).min()?;
        let sentence = format!("the login no longer sees {}", account_count(missing.len()));
        let hint = "give the login's user access again, or remove the account from the settings; stored data stays";
        Some(self.new_finding("account_missing", Severity::Trouble, Some(since), sentence, hint).for_accounts(&missing))
    }

    /// Metadata that should be read and is not, if no other finding explains it.
    fn stalled_metadata(&self) -> Vec<FindingStatus> {
        let mut groups: BTreeMap<(bool, &str), Vec<(&MetadataStall, &AccountStatus)>> = BTreeMap::new();
        for account in self.configured().filter(|account| !self.is_explained(account)) {
            if let Some(stalled) = &account.facts.stalled {
                groups.entry((stalled.lasting, &stalled.reason)).or_default().push((stalled, account));
            }
        }
        let finding = |((lasting, reason), group): ((bool, &str), Vec<(&MetadataStall, &AccountStatus)>)| {
            let severity = if lasting { Severity::Trouble } else { Severity::Warning };
            let since = group.iter().filter_map(|(stalled, _)| Time::parse(&stalled.since)).min();
            let lasts = format_duration(self.now.since(since.unwrap_or(self.now)));
            let sentence = format!("no metadata of {} was read for {lasts}: {reason}", account_count(group.len()));
            let hint = group.first().map(|(stalled, _)| stalled.hint.as_str()).unwrap_or_default();
            let affected: Vec<&AccountStatus> = group.iter().map(|(_, account)| *account).collect();
            self.new_finding("no_metadata_read", severity, since, sentence, hint).for_accounts(&affected)
        };
        groups.into_iter().map(finding).collect()
    }

    /// One finding per kind of broken answer, for all artifacts and accounts that it affects.
    fn broken_answers(&self) -> Vec<FindingStatus> {
        let mut groups: BTreeMap<&str, Vec<(&str, &BrokenAnswerStats, &AccountStatus)>> = BTreeMap::new();
        for account in self.configured() {
            for (artifact, broken) in &account.facts.broken {
                groups.entry(&broken.reason).or_default().push((artifact, broken, account));
            }
        }
        let finding = |(reason, group): (&str, Vec<(&str, &BrokenAnswerStats, &AccountStatus)>)| {
            let artifacts: BTreeSet<&str> = group.iter().map(|(artifact, ..)| *artifact).collect();
            let artifacts: Vec<String> = artifacts.iter().map(|artifact| artifact.replace('_', " ")).collect();
            let mut affected: Vec<&AccountStatus> = group.iter().map(|(.., account)| *account).collect();
            affected.dedup_by_key(|account| &account.sub_account_id);
            let answers = group.iter().map(|(_, broken, _)| broken.answers).sum();
            let since = group.iter().filter_map(|(_, broken, _)| Time::parse(&broken.since)).min();
            let sentence = format!(
                "{} of {}: {} in a row were unusable: {reason}",
                join_names(&artifacts),
                account_count(affected.len()),
                format_count(answers, "answer", "answers"),
            );
            let hint = "`ringcx-extractor queue show SEGMENT_ID` shows how one begins: a proxy or gateway in between may answer \
                        in RingCX's place; they are requested again automatically";
            self.new_finding("answers_broken", Severity::Trouble, since, sentence, hint).for_accounts(&affected)
        };
        groups.into_iter().map(finding).collect()
    }

    fn left_out_accounts(&self) -> Option<FindingStatus> {
        let left_out: Vec<_> = self.accounts().filter(|account| account.facts.is_left_out).collect();
        let sentence =
            format!("the settings do not name {}, or exclude it: nothing more is read", account_count(left_out.len()));
        let hint = "stored data stays; add the account to the settings again, and reading continues from there";
        (!left_out.is_empty())
            .then(|| self.new_finding("account_left_out", Severity::Info, None, sentence, hint).for_accounts(&left_out))
    }

    fn is_explained(&self, account: &AccountStatus) -> bool {
        self.is_login_failing
            || account.missing_since.is_some()
            || account.is_paused("metadata")
            || self.rate_limited_until(account).is_some()
    }

    /// The end of the account's wait after a 429, if the wait is long.
    fn rate_limited_until(&self, account: &AccountStatus) -> Option<Time> {
        let (at, until) = account.facts.refused?;
        (until > self.now && until.since(at) >= MIN_REPORTED_WAIT).then_some(until)
    }

    fn rate_limits(&self) -> Option<FindingStatus> {
        let waiting: Vec<_> = self.accounts().filter(|account| self.rate_limited_until(account).is_some()).collect();
        let until = waiting.iter().filter_map(|account| self.rate_limited_until(account)).max()?;
        let since = waiting.iter().filter_map(|account| Some(account.facts.refused?.0)).min();
        let sentence = format!(
            "RingCX refused {} with 429 and asked to wait until {}",
            account_count(waiting.len()),
            until.rfc3339_secs()
        );
        let hint = "nothing to do if it passes: another program may use the same limit, or [limits] is set too high; \
                    `ringcx-extractor resume` retries now";
        Some(self.new_finding("rate_limited", Severity::Warning, since, sentence, hint).for_accounts(&waiting))
    }

    fn failed_items(&self) -> Option<FindingStatus> {
        let failed = self.accounts_by_largest(|account| account.work.failed);
        let items: u64 = failed.iter().map(|account| account.work.failed).sum();
        let since = failed.iter().filter_map(|account| account.facts.failed_since).min();
        let sentence = format!("{} failed and will not be retried automatically", format_count(items, "item", "items"));
        let hint = "`ringcx-extractor queue list --state failed` shows why; then use `queue retry` or `queue discard`";
        (items > 0)
            .then(|| self.new_finding("items_failed", Severity::Trouble, since, sentence, hint).for_accounts(&failed))
    }

    fn quarantined_records(&self) -> Option<FindingStatus> {
        let quarantined = self.accounts_by_largest(|account| account.set_aside);
        let records: u64 = quarantined.iter().map(|account| account.set_aside).sum();
        let since = quarantined.iter().filter_map(|account| account.facts.aside_since).min();
        let sentence = format!(
            "{} set aside because they could not be understood",
            format_count(records, "metadata record was", "metadata records were")
        );
        let hint = "they are kept as received and read again automatically; `ringcx-extractor audit` shows why: if that \
                    does not help, report the reason";
        (records > 0).then(|| {
            self.new_finding("records_set_aside", Severity::Warning, since, sentence, hint).for_accounts(&quarantined)
        })
    }

    fn open_backfills(&self) -> Option<FindingStatus> {
        let open = &self.status.backfills;
        let first = open.first()?;
        let affected: Vec<_> = self
            .accounts()
            .filter(|account| open.iter().any(|backfill| backfill.sub_account_id == account.sub_account_id))
            .collect();
        let sum = |of: fn(&super::BackfillStatus) -> u64| Duration::from_secs(open.iter().map(of).sum());
        let left = open.iter().map(|backfill| backfill.left_seconds).max().unwrap_or_default();
        let what = match open.as_slice() {
            [one] => format!("backfill {}", one.id),
            many => format_count(many.len() as u64, "backfill", "backfills"),
        };
        let sentence = format!(
            "{what}: {} of {} read, about {} left",
            format_duration(sum(|backfill| backfill.read_seconds)),
            format_duration(sum(|backfill| backfill.seconds)),
            format_duration(Duration::from_secs(left)),
        );
        let hint = "nothing to do: a running daemon reads it as the metadata limit allows; `ringcx-extractor backfill list` \
                    shows each, `backfill cancel` ends one";
        let since = Time::parse(&first.requested);
        Some(self.new_finding("backfill_unfinished", Severity::Warning, since, sentence, hint).for_accounts(&affected))
    }

    fn coverage_gaps(&self) -> Option<FindingStatus> {
        let gaps = self.accounts_by_largest(AccountStatus::gap);
        let since = gaps.iter().filter_map(|account| Time::parse(&account.gaps.first()?.to)).min()?;
        let all: Duration = gaps.iter().map(|account| account.gap()).sum();
        let sentence = format!("gaps of {} in the metadata of {}", format_duration(all), account_count(gaps.len()));
        let hint = "nothing to do: gaps are read automatically, the newest first, as the metadata limit allows; \
                    `ringcx-extractor audit` lists them";
        Some(self.new_finding("coverage_gaps", Severity::Warning, Some(since), sentence, hint).for_accounts(&gaps))
    }

    fn unread_accounts(&self) -> Option<FindingStatus> {
        // Includes accounts that the settings leave out: an audit reports them as well.
        let unread: Vec<_> = self
            .accounts()
            .filter(|account| account.watermark.is_none() && account.facts.stalled.is_none())
            .filter(|account| account.gaps.is_empty() && !self.is_explained(account))
            .collect();
        let sentence = format!("no metadata has been read yet for {}", account_count(unread.len()));
        let hint = "nothing to do at first: a running daemon reads the first window at once";
        (!unread.is_empty())
            .then(|| self.new_finding("account_unread", Severity::Warning, None, sentence, hint).for_accounts(&unread))
    }

    fn lagging_accounts(&self) -> Option<FindingStatus> {
        // An account with a gap, a pause or a stall is behind for that reason, which has its own
        // finding.
        let lag = |account: &AccountStatus| match account.lag(self.now) {
            Some(lag)
                if lag > self.lag_threshold
                    && !account.facts.is_left_out
                    && account.gaps.is_empty()
                    && !self.is_explained(account) =>
            {
                lag
            }
            _ => Duration::ZERO,
        };
        let mut lagging = self.accounts_by_largest(lag);
        lagging.retain(|account| account.facts.stalled.is_none());
        let worst = lagging.first()?;
        let sentence = match lagging.len() {
            1 => format!("{} is {} behind", worst.title(), format_duration(lag(worst))),
            many => format!("{} are behind, by {} at most", account_count(many), format_duration(lag(worst))),
        };
        let hint = format!(
            "nothing to do at first: it catches up in wider windows; if it grows, check the log for warnings (up to {} is normal)",
            format_duration(self.lag_threshold)
        );
        let since = worst.watermark().map(|watermark| watermark + self.lag_threshold);
        Some(self.new_finding("lagging", Severity::Warning, since, sentence, &hint).for_accounts(&lagging))
    }

    fn long_backlog(&self) -> Option<FindingStatus> {
        let due = |account: &AccountStatus| match account.facts.is_left_out {
            true => 0,
            false => account.work.ready + account.work.running,
        };
        let drain_time = |items: u64, account: &AccountStatus| {
            Duration::from_secs(items * 60 / u64::from(account.requests_per_minute.max(1)))
        };
        let items: u64 = self.accounts().map(due).sum();
        let longest = match self.is_limit_shared {
            true => self.accounts().next().map(|account| drain_time(items, account)),
            false => self.accounts().map(|account| drain_time(due(account), account)).max(),
        };
        let longest = longest.filter(|longest| *longest > MAX_BACKLOG_DURATION)?;
        let lagging = match self.is_limit_shared {
            true => self.accounts_by_largest(due),
            false => self.accounts_by_largest(|account| {
                if drain_time(due(account), account) > MAX_BACKLOG_DURATION { due(account) } else { 0 }
            }),
        };
        let since = lagging.iter().filter_map(|account| account.oldest_unfinished_seconds).max();
        let since = since.map(|seconds| self.now - Duration::from_secs(seconds));
        let sentence = format!(
            "{} due; at the limit that takes {} at least",
            format_count(items, "item is", "items are"),
            format_duration(longest)
        );
        let hint = "nothing to do: new items go first; if it never shrinks, ask the vendor for a higher limit";
        Some(self.new_finding("backlog", Severity::Warning, since, sentence, hint).for_accounts(&lagging))
    }

    fn sink_findings(&self, sink: &SinkStatus) -> Vec<FindingStatus> {
        let mut findings = Vec::new();
        let since = sink.since.as_deref().and_then(Time::parse);
        let reason = sink.reason.as_deref().unwrap_or("no reason is known");
        let mut add = |code, severity, since, what: String, hint| {
            let found = self.new_finding(code, severity, since, format!("sink {} {what}", sink.name), hint);
            findings.push(FindingStatus { subject: Some(sink.name.clone()), ..found });
        };
        match sink.state {
            SinkState::Stopped => {
                add(
                    "sink_stopped",
                    Severity::Trouble,
                    since,
                    format!("is stopped: {reason}"),
                    crate::deliver::STOPPED_SINK_HINT,
                );
            }
            SinkState::Resting => {
                let lasting = since.is_some_and(|since| self.now.since(since) >= SINK_PAUSE_ESCALATION_AGE);
                let severity = if lasting { Severity::Trouble } else { Severity::Warning };
                add("sink_resting", severity, since, format!("is not accepting events: {reason}"), PAUSED_SINK_HINT);
            }
            SinkState::Active | SinkState::New | SinkState::NotInTheSettings => {}
        }
        if sink.failed > 0 {
            let what = format!("permanently refused {}", format_count(sink.failed, "event", "events"));
            add("sink_events_failed", Severity::Warning, sink.failed_since, what, REFUSED_EVENTS_HINT);
        }
        findings
    }

    fn index_lag(&self) -> Option<FindingStatus> {
        let index = self.status.search_index;
        let lag = Duration::from_secs(index.lag_seconds);
        let sentence = format!(
            "the full-text index is {} behind the archive, the first for {}",
            format_count(index.lag_changes, "change", "changes"),
            format_duration(lag)
        );
        let hint = "nothing to do while it shrinks: a running daemon updates the index, and only search depends on it; if it \
                    does not shrink, check the log for warnings";
        (lag > MAX_INDEX_LAG)
            .then(|| self.new_finding("search_index_behind", Severity::Warning, Some(self.now - lag), sentence, hint))
    }

    /// A finding that explains unread metadata is as severe as the stall. A finding that affects
    /// all accounts of this replica blocks its progress.
    fn escalate(&self, findings: &mut [FindingStatus]) {
        let stalled: Vec<&str> = self
            .accounts()
            .filter(|account| account.has_lasting_stall())
            .map(|account| account.sub_account_id.as_str())
            .collect();
        let mut own =
            self.accounts().filter(|account| account.owner.as_deref() == Some(&self.status.instance)).peekable();
        let blocked = own.peek().is_some() && own.all(AccountStatus::is_blocked);
        for finding in findings {
            let of_login = is_login_finding(finding);
            let of_accounts =
                ["account_missing", "answers_broken", "endpoint_paused", "no_metadata_read", "rate_limited"];
            if !of_login && !of_accounts.contains(&finding.code.as_str()) {
                continue;
            }
            let concerns = |sub: &&str| of_login || finding.accounts.iter().any(|affected| affected == sub);
            finding.blocks_progress |= blocked;
            if finding.blocks_progress || stalled.iter().any(concerns) {
                finding.severity = Severity::Trouble;
            }
        }
    }
}

/// How the messages of login failures begin.
const LOGIN_ERROR_PREFIXES: [&str; 3] =
    ["failed to log in", "failed to exchange the RingCentral token", "failed to refresh the RingCX token"];

/// The endpoints and accounts that are paused for one reason.
struct PauseGroup<'a> {
    /// The longest pause.
    example: &'a EndpointPause,
    endpoints: Vec<&'a str>,
    accounts: Vec<&'a AccountStatus>,
}

impl<'a> PauseGroup<'a> {
    fn of(example: &'a EndpointPause) -> PauseGroup<'a> {
        PauseGroup { example, endpoints: Vec::new(), accounts: Vec::new() }
    }
}

/// `one`, `one and two`, `one, two and three`.
fn join_names(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn account_count(number: usize) -> String {
    format_count(u64::try_from(number).unwrap_or(u64::MAX), "account", "accounts")
}

const REFUSED_EVENTS_HINT: &str = "`ringcx-extractor deliver status` shows why; `deliver retry` sends them again";
const PAUSED_SINK_HINT: &str = "nothing to do if it passes: delivery is retried automatically and no event is lost; `ringcx-extractor \
                                deliver retry` retries it now";

impl SinkStatus {
    /// The remedy, if there is one.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self.state {
            SinkState::Stopped => Some(crate::deliver::STOPPED_SINK_HINT),
            SinkState::Resting => Some(PAUSED_SINK_HINT),
            SinkState::New => Some("no daemon has seen it yet"),
            SinkState::NotInTheSettings => {
                Some("its cursors are kept; add it to the settings again, and delivery continues from there")
            }
            SinkState::Active => (self.failed > 0).then_some(REFUSED_EVENTS_HINT),
        }
    }
}

#[cfg(test)]
mod tests;
