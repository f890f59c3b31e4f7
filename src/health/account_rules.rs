//! The rules about the progress and the completeness of accounts. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::humanize::{format_count, format_duration};
use super::rules::{Rules, about, join_names, severity_by_age};
use super::{AccountStatus, BrokenAnswerStats, EndpointPause, Finding, FindingCode, MetadataStall, Severity};
use crate::clock::Time;
use crate::model::Endpoint;

/// A pause that usually ends by itself becomes trouble at this age.
const PAUSE_ESCALATION_AGE: Duration = Duration::from_secs(600);
/// The shortest wait after a 429 that is reported.
const MIN_REPORTED_WAIT: Duration = Duration::from_secs(30);

/// The endpoints and accounts that are paused for one reason.
struct PauseGroup<'a> {
    /// The longest pause.
    example: &'a EndpointPause,
    endpoints: Vec<Endpoint>,
    accounts: Vec<&'a AccountStatus>,
}

impl<'a> Rules<'a> {
    /// One finding per reason, for all endpoints and accounts that it affects. The most affected
    /// accounts come first.
    pub(super) fn paused_endpoints(&self) -> Vec<Finding> {
        let mut groups: BTreeMap<(&str, Option<i64>), PauseGroup<'a>> = BTreeMap::new();
        for account in self.configured() {
            // A failing login is one finding of its own.
            for pause in account.paused.iter().filter(|pause| !(self.is_login_failing && pause.is_login_failure)) {
                let new = || PauseGroup { example: pause, endpoints: Vec::new(), accounts: Vec::new() };
                let group = groups.entry((&pause.reason, pause.status)).or_insert_with(new);
                if !group.endpoints.contains(&pause.endpoint) {
                    group.endpoints.push(pause.endpoint);
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
        let finding = |PauseGroup { example, endpoints, accounts }: &PauseGroup<'_>| {
            let severity = match example.is_refusal() {
                true => Severity::Trouble,
                false => severity_by_age(self.now.since(example.since), PAUSE_ESCALATION_AGE),
            };
            let endpoints: Vec<String> = endpoints.iter().map(|endpoint| endpoint.name().replace('_', " ")).collect();
            let (endpoints, count) = (join_names(&endpoints), account_count(accounts.len()));
            let sentence = format!("{endpoints} paused for {count}: {}", example.reason);
            let code = FindingCode::EndpointPaused;
            about(accounts, Finding::new(code, severity, example.since, sentence, example.hint()))
        };
        groups.iter().map(finding).collect()
    }

    pub(super) fn missing_accounts(&self) -> Option<Finding> {
        let missing: Vec<_> = self.configured().filter(|account| account.missing_since.is_some()).collect();
        let since = missing.iter().filter_map(|account| account.missing_since).min()?;
        let sentence = format!("the login no longer sees {}", account_count(missing.len()));
        let hint = "give the login's user access again, or remove the account from the settings; stored data stays";
        Some(about(&missing, Finding::new(FindingCode::AccountMissing, Severity::Trouble, since, sentence, hint)))
    }

    /// Metadata that should be read and is not, if no other finding explains it.
    pub(super) fn stalled_metadata(&self) -> Vec<Finding> {
        let mut groups: BTreeMap<(bool, &str), Vec<(&MetadataStall, &AccountStatus)>> = BTreeMap::new();
        for account in self.configured().filter(|account| !self.is_explained(account)) {
            if let Some(stalled) = &account.facts.stalled {
                groups.entry((stalled.lasting, &stalled.reason)).or_default().push((stalled, account));
            }
        }
        let finding = |((lasting, reason), group): ((bool, &str), Vec<(&MetadataStall, &AccountStatus)>)| {
            let severity = if lasting { Severity::Trouble } else { Severity::Warning };
            let since = group.iter().map(|(stalled, _)| stalled.since).min().unwrap_or(self.now);
            let (count, lasts) = (account_count(group.len()), format_duration(self.now.since(since)));
            let sentence = format!("no metadata of {count} was read for {lasts}: {reason}");
            let hint = group.first().map(|(stalled, _)| stalled.hint.as_str()).unwrap_or_default();
            let affected: Vec<&AccountStatus> = group.iter().map(|(_, account)| *account).collect();
            about(&affected, Finding::new(FindingCode::NoMetadataRead, severity, since, sentence, hint))
        };
        groups.into_iter().map(finding).collect()
    }

    /// One finding per kind of broken answer, for all artifacts and accounts that it affects.
    pub(super) fn broken_answers(&self) -> Vec<Finding> {
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
            let since = group.iter().map(|(_, broken, _)| broken.since).min().unwrap_or(self.now);
            let sentence = format!(
                "{} of {}: {} in a row were unusable: {reason}",
                join_names(&artifacts),
                account_count(affected.len()),
                format_count(answers, "answer", "answers"),
            );
            let hint = "`ringcx-extractor queue show SEGMENT_ID` shows how one begins: a proxy or gateway in between may answer \
                        in RingCX's place; they are requested again automatically";
            about(&affected, Finding::new(FindingCode::AnswersBroken, Severity::Trouble, since, sentence, hint))
        };
        groups.into_iter().map(finding).collect()
    }

    pub(super) fn left_out_accounts(&self) -> Option<Finding> {
        let left_out: Vec<_> = self.accounts().filter(|account| account.facts.is_left_out).collect();
        let sentence =
            format!("the settings do not name {}, or exclude it: nothing more is read", account_count(left_out.len()));
        let hint = "stored data stays; add the account to the settings again, and reading continues from there";
        let finding = Finding::new(FindingCode::AccountLeftOut, Severity::Info, self.now, sentence, hint);
        (!left_out.is_empty()).then(|| about(&left_out, finding))
    }

    fn is_explained(&self, account: &AccountStatus) -> bool {
        self.is_login_failing
            || account.missing_since.is_some()
            || account.is_paused(Endpoint::Metadata)
            || self.rate_limited_until(account).is_some()
    }

    /// The end of the account's wait after a 429, if the wait is long.
    fn rate_limited_until(&self, account: &AccountStatus) -> Option<Time> {
        let (at, until) = account.facts.refused?;
        (until > self.now && until.since(at) >= MIN_REPORTED_WAIT).then_some(until)
    }

    pub(super) fn rate_limits(&self) -> Option<Finding> {
        let waiting: Vec<_> = self.accounts().filter(|account| self.rate_limited_until(account).is_some()).collect();
        let until = waiting.iter().filter_map(|account| self.rate_limited_until(account)).max()?;
        let since = waiting.iter().filter_map(|account| Some(account.facts.refused?.0)).min()?;
        let (count, until) = (account_count(waiting.len()), until.rfc3339_secs());
        let sentence = format!("RingCX refused {count} with 429 and asked to wait until {until}");
        let hint = "nothing to do if it passes: another program may use the same limit, or [limits] is set too high; \
                    `ringcx-extractor resume` retries now";
        Some(about(&waiting, Finding::new(FindingCode::RateLimited, Severity::Warning, since, sentence, hint)))
    }

    pub(super) fn failed_items(&self) -> Option<Finding> {
        let failed = self.accounts_by_largest(|account| account.work.failed);
        let items: u64 = failed.iter().map(|account| account.work.failed).sum();
        let since = failed.iter().filter_map(|account| account.facts.failed_since).min().unwrap_or(self.now);
        let sentence = format!("{} failed and will not be retried automatically", format_count(items, "item", "items"));
        let hint = "`ringcx-extractor queue list --state failed` shows why; then use `queue retry` or `queue discard`";
        let finding = Finding::new(FindingCode::ItemsFailed, Severity::Trouble, since, sentence, hint);
        (items > 0).then(|| about(&failed, finding))
    }

    pub(super) fn quarantined_records(&self) -> Option<Finding> {
        let quarantined = self.accounts_by_largest(|account| account.set_aside);
        let records: u64 = quarantined.iter().map(|account| account.set_aside).sum();
        let since = quarantined.iter().filter_map(|account| account.facts.aside_since).min().unwrap_or(self.now);
        let records_were = format_count(records, "metadata record was", "metadata records were");
        let sentence = format!("{records_were} set aside because they could not be understood");
        let hint = "they are kept as received and read again automatically; `ringcx-extractor audit` shows why: if that \
                    does not help, report the reason";
        let finding = Finding::new(FindingCode::RecordsSetAside, Severity::Warning, since, sentence, hint);
        (records > 0).then(|| about(&quarantined, finding))
    }

    pub(super) fn coverage_gaps(&self) -> Option<Finding> {
        let gaps = self.accounts_by_largest(AccountStatus::gap);
        let since = gaps.iter().filter_map(|account| Some(account.gaps.first()?.to)).min()?;
        let all: Duration = gaps.iter().map(|account| account.gap()).sum();
        let sentence = format!("gaps of {} in the metadata of {}", format_duration(all), account_count(gaps.len()));
        let hint = "nothing to do: gaps are read automatically, the newest first, as the metadata limit allows; \
                    `ringcx-extractor audit` lists them";
        Some(about(&gaps, Finding::new(FindingCode::CoverageGaps, Severity::Warning, since, sentence, hint)))
    }

    pub(super) fn unread_accounts(&self) -> Option<Finding> {
        // An audit without an account fails, too: nothing shows that anything was read.
        if self.snapshot.accounts.is_empty() {
            let hint = "start the daemon with `ringcx-extractor run`, or check which sub-accounts the login sees";
            let sentence = "no account is known yet";
            return Some(Finding::new(FindingCode::AccountUnread, Severity::Warning, self.now, sentence, hint));
        }
        // Includes accounts that the settings leave out: an audit reports them as well, and no other
        // finding explains them.
        let has_other_finding = |account: &AccountStatus| {
            !account.facts.is_left_out && (account.facts.stalled.is_some() || self.is_explained(account))
        };
        let unread: Vec<_> = self
            .accounts()
            .filter(|account| account.watermark.is_none() && account.gaps.is_empty() && !has_other_finding(account))
            .collect();
        let sentence = format!("no metadata has been read yet for {}", account_count(unread.len()));
        let hint = "nothing to do at first: a running daemon reads the first window at once";
        let finding = Finding::new(FindingCode::AccountUnread, Severity::Warning, self.now, sentence, hint);
        (!unread.is_empty()).then(|| about(&unread, finding))
    }

    pub(super) fn lagging_accounts(&self) -> Option<Finding> {
        let threshold = self.snapshot.lag_threshold;
        // An account with a gap, a pause or a stall is behind for that reason, which has its own
        // finding.
        let lag = |account: &AccountStatus| {
            let is_excused = account.facts.is_left_out
                || account.facts.stalled.is_some()
                || !account.gaps.is_empty()
                || self.is_explained(account);
            let lag = account.watermark.map(|watermark| self.now.since(watermark));
            lag.filter(|lag| *lag > threshold && !is_excused).unwrap_or_default()
        };
        let lagging = self.accounts_by_largest(lag);
        let worst = lagging.first()?;
        let worst_lag = format_duration(lag(worst));
        let sentence = match lagging.len() {
            1 => format!("{} is {worst_lag} behind", worst.title()),
            many => format!("{} are behind, by {worst_lag} at most", account_count(many)),
        };
        let hint = format!(
            "nothing to do at first: it catches up in wider windows; if it grows, check the log for warnings (up to {} is normal)",
            format_duration(threshold)
        );
        let since = worst.watermark? + threshold;
        Some(about(&lagging, Finding::new(FindingCode::Lagging, Severity::Warning, since, sentence, hint)))
    }
}

fn account_count(number: usize) -> String {
    format_count(u64::try_from(number).unwrap_or(u64::MAX), "account", "accounts")
}
