//! What is wrong, from what the status knows: the one judgement that readiness, dashboard, `status`, metrics and `audit` show.
//!
//! Pure. A cause that holds up many accounts is one finding, and what only follows from another finding is none.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::words::{count, number, span};
use super::{AccountStatus, Broken, Pause, SinkState, SinkStatus, Stalled, Status};
use crate::clock::Time;
use crate::config::{LimitScope, Settings};
use crate::health::{Finding, Severity};

/// What passes by itself as a rule and has not for so long needs a person.
const LASTING: Duration = Duration::from_secs(600);
/// The same of a sink, for which nothing is lost meanwhile.
const SINK_LASTING: Duration = Duration::from_secs(3600);
/// A backlog that takes longer, with the whole budget, makes an account late.
const BACKLOG: Duration = Duration::from_secs(900);
/// An index that is behind for longer is said to be: it follows within seconds where all is well.
const INDEX_LATE: Duration = Duration::from_secs(900);
/// A wait of a 429 that is at least so long is told of.
const LONG_WAIT: Duration = Duration::from_secs(30);
/// So many accounts are named.
const NAMED: usize = 3;

/// A finding as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingStatus {
    /// What kind it is: stable, `snake_case`, for programs.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// Since when, RFC 3339.
    pub since: String,
    /// What it is about: the accounts by name, the first of them where they are many; a sink, a host.
    pub subject: Option<String>,
    /// What is wrong, without a final dot.
    pub sentence: String,
    /// What to do.
    pub hint: String,
    /// Whether nothing that this replica works on makes progress while it lasts.
    #[serde(skip)]
    pub blocks_progress: bool,
    /// The sub-accounts that it is about.
    #[serde(skip)]
    pub accounts: Vec<String>,
}

impl From<Finding> for FindingStatus {
    fn from(finding: Finding) -> FindingStatus {
        let found = FindingStatus::new(finding.code, finding.severity, finding.since, finding.sentence, &finding.hint);
        let accounts = finding.subject.iter().cloned().collect();
        FindingStatus { subject: finding.subject, blocks_progress: finding.blocks_progress, accounts, ..found }
    }
}

impl FindingStatus {
    /// About nothing in particular.
    pub fn new(code: &str, severity: Severity, since: Time, sentence: String, hint: &str) -> FindingStatus {
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

    fn about(mut self, accounts: &[&AccountStatus]) -> FindingStatus {
        let mut names: Vec<String> = accounts.iter().take(NAMED).map(|account| account.title().to_owned()).collect();
        if accounts.len() > NAMED {
            names.push(format!("{} more", number((accounts.len() - NAMED) as u64)));
        }
        self.subject = (!names.is_empty()).then(|| listed(&names));
        self.accounts = accounts.iter().map(|account| account.sub_account_id.clone()).collect();
        self
    }

    /// Whether it says that the archive lacks something: `audit` exits 1 for the same reason.
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

/// How long an account's watermark may be behind while all is well: a window may be read `offset` after its end, the next
/// one `interval` later; one that had to be read again is no reason for concern yet.
pub fn late_after(settings: &Settings) -> Duration {
    settings.discovery.offset + settings.discovery.interval * 2 + Duration::from_secs(60)
}

/// All findings, the worst first. `reported` are those that the daemons report of themselves.
pub(super) fn findings(
    status: &Status,
    reported: Vec<FindingStatus>,
    settings: &Settings,
    now: Time,
) -> Vec<FindingStatus> {
    let view = View {
        status,
        now,
        late_after: late_after(settings),
        one_budget: settings.limits.scope == LimitScope::Login,
        login_fails: reported.iter().any(is_of_login),
    };
    let mut findings = reported;
    findings.extend(view.no_daemon());
    findings.extend(view.pauses());
    findings.extend(view.missing());
    findings.extend(view.stalls());
    findings.extend(view.broken());
    findings.extend(view.refusals());
    findings.extend(view.failed());
    findings.extend(view.set_aside());
    findings.extend(view.backfills());
    findings.extend(view.gaps());
    findings.extend(view.unread());
    findings.extend(view.lag());
    findings.extend(view.backlog());
    findings.extend(status.sinks.iter().flat_map(|sink| view.sink(sink)));
    findings.extend(view.index());
    findings.extend(view.left_out());
    view.escalate(&mut findings);
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

fn is_of_login(finding: &FindingStatus) -> bool {
    matches!(finding.code.as_str(), "login_refused" | "login_failing")
}

/// What the findings are made of.
struct View<'a> {
    status: &'a Status,
    now: Time,
    late_after: Duration,
    one_budget: bool,
    login_fails: bool,
}

impl<'a> View<'a> {
    fn found(
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

    /// Those that the settings name: whatever is late, paused or missing of others stays so, and nobody waits for it.
    fn configured(&self) -> impl Iterator<Item = &'a AccountStatus> {
        self.accounts().filter(|account| !account.facts.is_left_out)
    }

    /// Those of which the figure is above its least, the largest first.
    fn largest<T: Ord + Default>(&self, figure: impl Fn(&AccountStatus) -> T) -> Vec<&'a AccountStatus> {
        let mut accounts: Vec<_> = self.accounts().filter(|account| figure(account) > T::default()).collect();
        accounts.sort_by_key(|account| std::cmp::Reverse(figure(account)));
        accounts
    }

    fn lasts(&self, since: &str) -> Duration {
        self.now.since(Time::parse(since).unwrap_or(self.now))
    }

    fn no_daemon(&self) -> Option<FindingStatus> {
        if self.status.replicas.iter().any(|replica| replica.alive) {
            return None;
        }
        let last = self.status.replicas.iter().filter_map(|replica| Time::parse(&replica.heartbeat)).max();
        let mut sentence = "no daemon is running".to_owned();
        if let Some(last) = last {
            sentence.push_str(&format!("; one was last heard of {} ago", span(self.now.since(last))));
        }
        Some(self.found("no_daemon", Severity::Trouble, last, sentence, "start it with `ringcx-extractor run`"))
    }

    /// One finding for each reason, however many endpoints and accounts it holds up; what holds up most comes first.
    fn pauses(&self) -> Vec<FindingStatus> {
        let mut groups: BTreeMap<(&str, Option<i64>), Group<'a>> = BTreeMap::new();
        for account in self.configured() {
            for pause in &account.paused {
                // What the login is refused for is one finding, and it is there already.
                if self.login_fails && LOGIN_FAILURES.iter().any(|begin| pause.reason.starts_with(begin)) {
                    continue;
                }
                let group = groups.entry((&pause.reason, pause.status)).or_insert_with(|| Group::of(pause));
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
        let mut groups: Vec<Group<'_>> = groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.accounts.len()));
        let finding = |group: &Group<'_>| {
            let lasting = group.example.is_refusal() || self.lasts(&group.example.since) >= LASTING;
            let severity = if lasting { Severity::Trouble } else { Severity::Warning };
            let endpoints: Vec<String> = group.endpoints.iter().map(|endpoint| endpoint.replace('_', " ")).collect();
            let sentence = format!(
                "{} paused for {}: {}",
                listed(&endpoints),
                accounts(group.accounts.len()),
                group.example.reason
            );
            let since = Time::parse(&group.example.since);
            self.found("endpoint_paused", severity, since, sentence, group.example.hint()).about(&group.accounts)
        };
        groups.iter().map(finding).collect()
    }

    fn missing(&self) -> Option<FindingStatus> {
        let missing: Vec<_> = self.configured().filter(|account| account.missing_since.is_some()).collect();
        let since = missing.iter().filter_map(|account| Time::parse(account.missing_since.as_deref()?)).min()?;
        let sentence = format!("the login no longer sees {}", accounts(missing.len()));
        let hint = "give the login's user access again, or leave the account out in the settings; what is stored stays";
        Some(self.found("account_missing", Severity::Trouble, Some(since), sentence, hint).about(&missing))
    }

    /// Metadata that is not read although it should be, where no other finding says why.
    fn stalls(&self) -> Vec<FindingStatus> {
        let mut groups: BTreeMap<(bool, &str), Vec<(&Stalled, &AccountStatus)>> = BTreeMap::new();
        for account in self.configured().filter(|account| !self.is_explained(account)) {
            if let Some(stalled) = &account.facts.stalled {
                groups.entry((stalled.lasting, &stalled.reason)).or_default().push((stalled, account));
            }
        }
        let finding = |((lasting, reason), group): ((bool, &str), Vec<(&Stalled, &AccountStatus)>)| {
            let severity = if lasting { Severity::Trouble } else { Severity::Warning };
            let since = group.iter().filter_map(|(stalled, _)| Time::parse(&stalled.since)).min();
            let lasts = span(self.now.since(since.unwrap_or(self.now)));
            let sentence = format!("no metadata of {} was read for {lasts}: {reason}", accounts(group.len()));
            let hint = group.first().map(|(stalled, _)| stalled.hint.as_str()).unwrap_or_default();
            let about: Vec<&AccountStatus> = group.iter().map(|(_, account)| *account).collect();
            self.found("no_metadata_read", severity, since, sentence, hint).about(&about)
        };
        groups.into_iter().map(finding).collect()
    }

    /// One finding for each way in which answers are broken, however many artifacts and accounts it concerns.
    fn broken(&self) -> Vec<FindingStatus> {
        let mut groups: BTreeMap<&str, Vec<(&str, &Broken, &AccountStatus)>> = BTreeMap::new();
        for account in self.configured() {
            for (artifact, broken) in &account.facts.broken {
                groups.entry(&broken.reason).or_default().push((artifact, broken, account));
            }
        }
        let finding = |(reason, group): (&str, Vec<(&str, &Broken, &AccountStatus)>)| {
            let artifacts: BTreeSet<&str> = group.iter().map(|(artifact, ..)| *artifact).collect();
            let artifacts: Vec<String> = artifacts.iter().map(|artifact| artifact.replace('_', " ")).collect();
            let mut about: Vec<&AccountStatus> = group.iter().map(|(.., account)| *account).collect();
            about.dedup_by_key(|account| &account.sub_account_id);
            let answers = group.iter().map(|(_, broken, _)| broken.answers).sum();
            let since = group.iter().filter_map(|(_, broken, _)| Time::parse(&broken.since)).min();
            let sentence = format!(
                "{} of {}: {} without one that can be used: {reason}",
                listed(&artifacts),
                accounts(about.len()),
                count(answers, "answer", "answers"),
            );
            let hint = "`ringcx-extractor queue show SEGMENT_ID` shows how one begins: a proxy or gateway on the way may answer \
                        in RingCX's place; they are asked for again by themselves";
            self.found("answers_broken", Severity::Trouble, since, sentence, hint).about(&about)
        };
        groups.into_iter().map(finding).collect()
    }

    fn left_out(&self) -> Option<FindingStatus> {
        let out: Vec<_> = self.accounts().filter(|account| account.facts.is_left_out).collect();
        let sentence = format!("the settings do not name {}, or exclude it: nothing more is read", accounts(out.len()));
        let hint = "what is stored stays; put it into the settings again, and it goes on from there";
        (!out.is_empty()).then(|| self.found("account_left_out", Severity::Info, None, sentence, hint).about(&out))
    }

    fn is_explained(&self, account: &AccountStatus) -> bool {
        self.login_fails
            || account.missing_since.is_some()
            || account.is_paused("metadata")
            || self.waits_until(account).is_some()
    }

    /// Until when a 429 keeps the account waiting, where that is long.
    fn waits_until(&self, account: &AccountStatus) -> Option<Time> {
        let (at, until) = account.facts.refused?;
        (until > self.now && until.since(at) >= LONG_WAIT).then_some(until)
    }

    fn refusals(&self) -> Option<FindingStatus> {
        let waiting: Vec<_> = self.accounts().filter(|account| self.waits_until(account).is_some()).collect();
        let until = waiting.iter().filter_map(|account| self.waits_until(account)).max()?;
        let since = waiting.iter().filter_map(|account| Some(account.facts.refused?.0)).min();
        let sentence = format!(
            "RingCX refused {} with 429 and asked to wait until {}",
            accounts(waiting.len()),
            until.rfc3339_secs()
        );
        let hint = "nothing to do if it passes: another program may use the same limit, or [limits] is set too high; \
                    `ringcx-extractor resume` tries again now";
        Some(self.found("rate_limited", Severity::Warning, since, sentence, hint).about(&waiting))
    }

    fn failed(&self) -> Option<FindingStatus> {
        let failed = self.largest(|account| account.work.failed);
        let items: u64 = failed.iter().map(|account| account.work.failed).sum();
        let since = failed.iter().filter_map(|account| account.facts.failed_since).min();
        let sentence = format!("{} failed and will not work without a person", count(items, "item", "items"));
        let hint = "`ringcx-extractor queue list --state failed` says why; then `queue retry` or `queue discard`";
        (items > 0).then(|| self.found("items_failed", Severity::Trouble, since, sentence, hint).about(&failed))
    }

    fn set_aside(&self) -> Option<FindingStatus> {
        let aside = self.largest(|account| account.set_aside);
        let records: u64 = aside.iter().map(|account| account.set_aside).sum();
        let since = aside.iter().filter_map(|account| account.facts.aside_since).min();
        let sentence = format!(
            "{} set aside because they could not be understood",
            count(records, "metadata record was", "metadata records were")
        );
        let hint = "they are kept as received and read again by themselves; `ringcx-extractor audit` says why: if it does not \
                    help, report the reason";
        (records > 0).then(|| self.found("records_set_aside", Severity::Warning, since, sentence, hint).about(&aside))
    }

    fn backfills(&self) -> Option<FindingStatus> {
        let open = &self.status.backfills;
        let first = open.first()?;
        let about: Vec<_> = self
            .accounts()
            .filter(|account| open.iter().any(|backfill| backfill.sub_account_id == account.sub_account_id))
            .collect();
        let sum = |of: fn(&super::BackfillStatus) -> u64| Duration::from_secs(open.iter().map(of).sum());
        let left = open.iter().map(|backfill| backfill.left_seconds).max().unwrap_or_default();
        let what = match open.as_slice() {
            [one] => format!("backfill {}", one.id),
            many => count(many.len() as u64, "backfill", "backfills"),
        };
        let sentence = format!(
            "{what}: {} of {} read, about {} left",
            span(sum(|backfill| backfill.read_seconds)),
            span(sum(|backfill| backfill.seconds)),
            span(Duration::from_secs(left)),
        );
        let hint = "nothing to do: a running daemon reads it as the metadata budget allows; `ringcx-extractor backfill list` \
                    shows each, `backfill cancel` ends one";
        let since = Time::parse(&first.requested);
        Some(self.found("backfill_unfinished", Severity::Warning, since, sentence, hint).about(&about))
    }

    fn gaps(&self) -> Option<FindingStatus> {
        let gaps = self.largest(AccountStatus::gap);
        let since = gaps.iter().filter_map(|account| Time::parse(&account.gaps.first()?.to)).min()?;
        let all: Duration = gaps.iter().map(|account| account.gap()).sum();
        let sentence = format!("{} of {} never read so far", span(all), accounts(gaps.len()));
        let hint = "nothing to do: gaps are read by themselves, the newest first, as the metadata budget allows; \
                    `ringcx-extractor audit` lists them";
        Some(self.found("coverage_gaps", Severity::Warning, Some(since), sentence, hint).about(&gaps))
    }

    fn unread(&self) -> Option<FindingStatus> {
        // Also of what the settings leave out: an audit misses it all the same.
        let unread: Vec<_> = self
            .accounts()
            .filter(|account| account.watermark.is_none() && account.facts.stalled.is_none())
            .filter(|account| account.gaps.is_empty() && !self.is_explained(account))
            .collect();
        let sentence = format!("nothing has been read yet of {}", accounts(unread.len()));
        let hint = "nothing to do for a while: a running daemon reads the first window at once";
        (!unread.is_empty())
            .then(|| self.found("account_unread", Severity::Warning, None, sentence, hint).about(&unread))
    }

    fn lag(&self) -> Option<FindingStatus> {
        // Whatever has a gap, is paused or stalls is behind for that reason, which has been named.
        let lag = |account: &AccountStatus| match account.lag(self.now) {
            Some(lag)
                if lag > self.late_after
                    && !account.facts.is_left_out
                    && account.gaps.is_empty()
                    && !self.is_explained(account) =>
            {
                lag
            }
            _ => Duration::ZERO,
        };
        let mut late = self.largest(lag);
        late.retain(|account| account.facts.stalled.is_none());
        let worst = late.first()?;
        let sentence = match late.len() {
            1 => format!("{} is {} behind", worst.title(), span(lag(worst))),
            many => format!("{} are behind, by {} at most", accounts(many), span(lag(worst))),
        };
        let hint = format!(
            "nothing to do for a while: it catches up in wider windows; if it grows, look for warnings in the log (up to {} is normal)",
            span(self.late_after)
        );
        let since = worst.watermark().map(|watermark| watermark + self.late_after);
        Some(self.found("lagging", Severity::Warning, since, sentence, &hint).about(&late))
    }

    fn backlog(&self) -> Option<FindingStatus> {
        let due = |account: &AccountStatus| match account.facts.is_left_out {
            true => 0,
            false => account.work.ready + account.work.running,
        };
        let takes = |items: u64, account: &AccountStatus| {
            Duration::from_secs(items * 60 / u64::from(account.requests_per_minute.max(1)))
        };
        let items: u64 = self.accounts().map(due).sum();
        let longest = match self.one_budget {
            true => self.accounts().next().map(|account| takes(items, account)),
            false => self.accounts().map(|account| takes(due(account), account)).max(),
        };
        let longest = longest.filter(|longest| *longest > BACKLOG)?;
        let late = match self.one_budget {
            true => self.largest(due),
            false => self.largest(|account| if takes(due(account), account) > BACKLOG { due(account) } else { 0 }),
        };
        let since = late.iter().filter_map(|account| account.oldest_unfinished_seconds).max();
        let since = since.map(|seconds| self.now - Duration::from_secs(seconds));
        let sentence =
            format!("{} due; at the limit that takes {} at least", count(items, "item is", "items are"), span(longest));
        let hint = "nothing to do: what is new goes first; if it never shrinks, ask the vendor for a higher limit";
        Some(self.found("backlog", Severity::Warning, since, sentence, hint).about(&late))
    }

    fn sink(&self, sink: &SinkStatus) -> Vec<FindingStatus> {
        let mut findings = Vec::new();
        let since = sink.since.as_deref().and_then(Time::parse);
        let reason = sink.reason.as_deref().unwrap_or("no reason is known");
        let mut add = |code, severity, since, what: String, hint| {
            let found = self.found(code, severity, since, format!("sink {} {what}", sink.name), hint);
            findings.push(FindingStatus { subject: Some(sink.name.clone()), ..found });
        };
        match sink.state {
            SinkState::Stopped => {
                add("sink_stopped", Severity::Trouble, since, format!("is stopped: {reason}"), crate::deliver::STOPPED);
            }
            SinkState::Resting => {
                let lasting = since.is_some_and(|since| self.now.since(since) >= SINK_LASTING);
                let severity = if lasting { Severity::Trouble } else { Severity::Warning };
                add("sink_resting", severity, since, format!("takes nothing at present: {reason}"), SINK_RESTS);
            }
            SinkState::Active | SinkState::New | SinkState::NotInTheSettings => {}
        }
        if sink.failed > 0 {
            let what = format!("refused {} for good", count(sink.failed, "event", "events"));
            let since = sink.last_delivered.as_deref().and_then(Time::parse);
            add("sink_events_failed", Severity::Warning, since, what, SINK_REFUSED);
        }
        findings
    }

    fn index(&self) -> Option<FindingStatus> {
        let index = self.status.search_index;
        let lag = Duration::from_secs(index.lag_seconds);
        let sentence = format!(
            "the full-text index is {} behind the archive, the first for {}",
            count(index.lag_changes, "change", "changes"),
            span(lag)
        );
        let hint = "nothing to do while it shrinks: a running daemon indexes by itself, and nothing but search waits for it; if \
                    it does not, look for warnings in the log";
        (lag > INDEX_LATE)
            .then(|| self.found("search_index_behind", Severity::Warning, Some(self.now - lag), sentence, hint))
    }

    /// What explains that no metadata is read is as bad as that; and what holds up all that this replica works on blocks it.
    fn escalate(&self, findings: &mut [FindingStatus]) {
        let stalled: Vec<&str> =
            self.accounts().filter(|account| account.stalls()).map(|account| account.sub_account_id.as_str()).collect();
        let mut own =
            self.accounts().filter(|account| account.owner.as_deref() == Some(&self.status.instance)).peekable();
        let blocked = own.peek().is_some() && own.all(AccountStatus::stands_still);
        for finding in findings {
            let of_login = is_of_login(finding);
            let of_accounts =
                ["account_missing", "answers_broken", "endpoint_paused", "no_metadata_read", "rate_limited"];
            if !of_login && !of_accounts.contains(&finding.code.as_str()) {
                continue;
            }
            let concerns = |sub: &&str| of_login || finding.accounts.iter().any(|about| about == sub);
            finding.blocks_progress |= blocked;
            if finding.blocks_progress || stalled.iter().any(concerns) {
                finding.severity = Severity::Trouble;
            }
        }
    }
}

/// How failures to log in begin.
const LOGIN_FAILURES: [&str; 3] =
    ["failed to log in", "failed to exchange the RingCentral token", "failed to refresh the RingCX token"];

/// What is paused for one reason.
struct Group<'a> {
    /// The one that has lasted longest.
    example: &'a Pause,
    endpoints: Vec<&'a str>,
    accounts: Vec<&'a AccountStatus>,
}

impl<'a> Group<'a> {
    fn of(example: &'a Pause) -> Group<'a> {
        Group { example, endpoints: Vec::new(), accounts: Vec::new() }
    }
}

/// `one`, `one and two`, `one, two and three`.
fn listed(names: &[String]) -> String {
    match names {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn accounts(number: usize) -> String {
    count(u64::try_from(number).unwrap_or(u64::MAX), "account", "accounts")
}

const SINK_REFUSED: &str = "`ringcx-extractor deliver status` says why; `deliver retry` sends them again";
const SINK_RESTS: &str = "nothing to do if it passes: the sink is tried again by itself and nothing is lost; `ringcx-extractor \
                          deliver retry` tries it at once";

impl SinkStatus {
    /// What to do about it, where there is anything.
    pub fn hint(&self) -> Option<&'static str> {
        match self.state {
            SinkState::Stopped => Some(crate::deliver::STOPPED),
            SinkState::Resting => Some(SINK_RESTS),
            SinkState::New => Some("no daemon has seen it yet"),
            SinkState::NotInTheSettings => {
                Some("where it stood is kept; put it back into the settings, and it goes on from there")
            }
            SinkState::Active => (self.failed > 0).then_some(SINK_REFUSED),
        }
    }
}

#[cfg(test)]
mod tests;
