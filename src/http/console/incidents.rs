//! The incidents: each finding with what is at risk, since when, the last success, the next try, and
//! what to do. Pure.

use std::cmp::Reverse;
use std::time::Duration;

use maud::{Markup, html};
use serde::Serialize;

use super::action::button;
use super::operator_forms::Resume;
use super::viewer::Viewer;
use crate::access::Permission;
use crate::clock::Time;
use crate::health::HealthLevel;
use crate::health::humanize::{format_count, format_duration};
use crate::health::{AccountStatus, Finding, FindingCategory, FindingCode, SinkStatus, rfc3339};
use crate::http::state::VisibleReport;
use crate::http::templates::{readable_time, with_code};
use crate::model::Endpoint;

/// A cause of trouble, with all accounts that it affects.
#[derive(Debug, Serialize)]
pub(in crate::http) struct Incident {
    pub(in crate::http) code: FindingCode,
    pub(in crate::http) level: HealthLevel,
    pub(in crate::http) sentence: String,
    pub(in crate::http) hint: String,
    /// The names of the first accounts, a sink, a host or an endpoint.
    pub(in crate::http) subject: Option<String>,
    #[serde(with = "rfc3339")]
    pub(in crate::http) since: Time,
    pub(in crate::http) at_risk: AtRisk,
    #[serde(with = "rfc3339")]
    pub(in crate::http) last_success: Option<Time>,
    #[serde(with = "rfc3339")]
    pub(in crate::http) next_try: Option<Time>,
    pub(in crate::http) remedy: Remedy,
    /// The accounts concerned, by sub-account id.
    pub(in crate::http) accounts: Vec<String>,
}

/// The data that is not in the archive, or not delivered, because of an incident.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(in crate::http) struct AtRisk {
    /// Conversation time that is not read yet, over all accounts concerned.
    pub(in crate::http) unread_seconds: u64,
    /// Announced items that are not in the archive.
    pub(in crate::http) items: u64,
    /// Events that are not delivered.
    pub(in crate::http) events: u64,
}

/// What a person can do about an incident here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::http) enum Remedy {
    /// End the pauses and waits of the accounts.
    TryNow,
    /// Look at the items, the sinks or the backfills.
    Queue,
    Delivery,
    Backfills,
    /// Nothing here: the hint says what to do elsewhere.
    Elsewhere,
}

/// All incidents of a report, the one with the most data at risk first.
pub(in crate::http) fn incidents(report: &VisibleReport) -> Vec<Incident> {
    let (accounts, sinks) = match &report.status {
        Some(status) => (status.accounts.as_slice(), status.sinks.as_slice()),
        None => Default::default(),
    };
    let is_incident = |finding: &&Finding| HealthLevel::of_finding(finding) > HealthLevel::Healthy;
    let mut incidents: Vec<Incident> = report
        .findings
        .iter()
        .filter(is_incident)
        .map(|finding| Incident::new(finding, accounts, sinks, report.now))
        .collect();
    incidents.sort_by_key(|incident| Reverse((incident.level, incident.at_risk.weight(), Reverse(incident.since))));
    incidents
}

impl AtRisk {
    /// A common measure, for the order alone: an item or event counts as a minute of conversation.
    fn weight(self) -> u64 {
        self.unread_seconds + 60 * (self.items + self.events)
    }

    fn of_account(account: &AccountStatus, now: Time) -> AtRisk {
        let unread = account.lag(now).map_or(0, |lag| lag.as_secs()).max(account.gap().as_secs());
        AtRisk { unread_seconds: unread, items: account.work.unfinished() + account.work.failed, events: 0 }
    }
}

impl std::iter::Sum for AtRisk {
    fn sum<I: Iterator<Item = AtRisk>>(all: I) -> AtRisk {
        all.fold(AtRisk::default(), |sum, one| AtRisk {
            unread_seconds: sum.unread_seconds + one.unread_seconds,
            items: sum.items + one.items,
            events: sum.events + one.events,
        })
    }
}

impl Incident {
    fn new(finding: &Finding, accounts: &[AccountStatus], sinks: &[SinkStatus], now: Time) -> Incident {
        // Without accounts of its own a finding concerns all of them, or a sink.
        let sink = (finding.code.category() == FindingCategory::Sink)
            .then(|| sinks.iter().find(|sink| finding.subject.as_deref() == Some(&*sink.name)))
            .flatten();
        let is_general = finding.code.concerns_every_account();
        let is_affected = |account: &&AccountStatus| is_general || finding.accounts().contains(&account.sub_account_id);
        let affected: Vec<&AccountStatus> = accounts.iter().filter(is_affected).collect();
        let at_risk = match sink {
            Some(sink) => AtRisk { events: sink.pending + sink.failed, ..AtRisk::default() },
            None => at_risk(finding, &affected, now),
        };
        let last_success = match sink {
            Some(sink) => sink.last_delivered,
            None => affected.iter().filter_map(|account| account.watermark).min(),
        };
        Incident {
            code: finding.code.clone(),
            level: HealthLevel::of_finding(finding),
            sentence: finding.sentence.clone(),
            hint: finding.hint.clone(),
            subject: finding.subject.clone(),
            since: finding.since,
            at_risk,
            last_success,
            next_try: next_try(finding, &affected, sink),
            remedy: remedy(&finding.code),
            accounts: finding.accounts().to_vec(),
        }
    }
}

/// The part of what its accounts lack that a finding is about.
fn at_risk(finding: &Finding, affected: &[&AccountStatus], now: Time) -> AtRisk {
    let all: AtRisk = affected.iter().map(|account| AtRisk::of_account(account, now)).sum();
    let only_items = AtRisk { unread_seconds: 0, ..all };
    let is_unread =
        affected.iter().any(|account| account.paused.iter().any(|pause| pause.endpoint == Endpoint::Metadata));
    match finding.code {
        FindingCode::ItemsFailed | FindingCode::Backlog | FindingCode::AnswersBroken => only_items,
        FindingCode::EndpointPaused if !is_unread => only_items,
        FindingCode::CoverageGaps => {
            AtRisk { unread_seconds: affected.iter().map(|account| account.gap().as_secs()).sum(), ..AtRisk::default() }
        }
        FindingCode::Lagging | FindingCode::AccountUnread | FindingCode::AccountMissing => AtRisk { items: 0, ..all },
        FindingCode::DatabaseAway
        | FindingCode::DiskFull
        | FindingCode::EndpointPaused
        | FindingCode::LoginFailing
        | FindingCode::LoginRefused
        | FindingCode::NoDaemon
        | FindingCode::NoMetadataRead
        | FindingCode::RateLimited => all,
        _ => AtRisk::default(),
    }
}

fn next_try(finding: &Finding, affected: &[&AccountStatus], sink: Option<&SinkStatus>) -> Option<Time> {
    match finding.code {
        FindingCode::SinkResting => sink?.resting_until,
        FindingCode::EndpointPaused => {
            affected.iter().flat_map(|account| &account.paused).map(|pause| pause.until).min()
        }
        FindingCode::RateLimited => affected.iter().filter_map(|account| Some(account.facts.refused?.1)).min(),
        _ => None,
    }
}

fn remedy(code: &FindingCode) -> Remedy {
    match code {
        FindingCode::EndpointPaused | FindingCode::RateLimited => Remedy::TryNow,
        FindingCode::ItemsFailed | FindingCode::AnswersBroken => Remedy::Queue,
        FindingCode::SinkEventsFailed | FindingCode::SinkResting | FindingCode::SinkStopped => Remedy::Delivery,
        FindingCode::BackfillUnfinished => Remedy::Backfills,
        _ => Remedy::Elsewhere,
    }
}

impl Incident {
    /// Renders it as an item of a list. On a phone only an open one shows more than one line.
    pub(in crate::http) fn markup(&self, viewer: &Viewer, now: Time, is_open: bool) -> Markup {
        let age = format_duration(now.since(self.since));
        html! {
            li.(self.level.css_class()) {
                details #{ "incident-" (self.code) "-" (self.subject.as_deref().unwrap_or_default()) } open[is_open] {
                    summary {
                        span.level.(self.level.css_class()) title=(self.level.display_name()) { (self.level.symbol()) }
                        strong { (self.sentence) }
                        small { "for " (age) @if let Some(risk) = self.at_risk.text() { " · " (risk) } }
                    }
                    dl.when {
                        div { dt { "since" } dd { (readable_time(self.since)) " (" (age) ")" } }
                        @if let Some(risk) = self.at_risk.text() { div { dt { "at risk" } dd { strong { (risk) } } } }
                        @if let Some(last) = self.last_success { div { dt { "last success" } dd { (readable_time(last)) } } }
                        @if let Some(next) = self.next_try { div { dt { "next try" } dd { (readable_time(next)) } } }
                    }
                    p.todo {
                        @if let Some(subject) = self.subject.as_deref().filter(|_| !self.accounts.is_empty()) { strong { (subject) } " · " }
                        (with_code(&self.hint))
                    }
                    (self.remedy(viewer))
                }
            }
        }
    }

    /// A button or a link, where there is something to do here.
    fn remedy(&self, viewer: &Viewer) -> Markup {
        let is_other = |sub: &&String| !viewer.path().starts_with(&super::account_path(sub));
        let other_page = self.accounts.first().filter(|_| self.accounts.len() == 1).filter(is_other);
        let may_look = viewer.may(Permission::Read) || viewer.may(Permission::Operate);
        let operable: Vec<&str> =
            self.accounts.iter().map(String::as_str).filter(|sub| viewer.may_operate(sub)).collect();
        html! {
            @match self.remedy {
                Remedy::TryNow if !operable.is_empty() => (button::<Resume>(viewer, &[("accounts", &operable.join(","))], "Try now")),
                Remedy::Queue if may_look => a href="/queue" { "Show the queue" },
                Remedy::Delivery if may_look => a href="/delivery" { "Show the delivery" },
                Remedy::Backfills => a href="/system#backfills" { "Show the backfills" },
                _ => @if let Some(sub) = other_page { a href=(super::account_path(sub)) { "Show the account" } },
            }
        }
    }
}

impl AtRisk {
    fn text(self) -> Option<String> {
        let unread = format_duration(Duration::from_secs(self.unread_seconds));
        let parts = [
            (self.unread_seconds > 0).then(|| format!("{unread} not read")),
            (self.items > 0).then(|| format_count(self.items, "item", "items")),
            (self.events > 0).then(|| format_count(self.events, "event", "events")),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }
}
