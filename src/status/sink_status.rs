//! Builds the status of sinks from their rows and from what the daemons report. Pure.

use std::collections::BTreeMap;

use crate::config::{Settings, Sink, SinkKind, SinkStart};
use crate::db::{AccountRow, SinkOverview};
use crate::deliver::SinkPause;
use crate::health::{SinkState, SinkStatus};

/// The sinks of the settings, in their order.
pub(super) fn configured_sinks(
    settings: &Settings,
    views: &[SinkOverview],
    accounts: &[AccountRow],
    pauses: &BTreeMap<String, SinkPause>,
) -> Vec<SinkStatus> {
    let view = |sink: &Sink| views.iter().find(|view| view.row.name == sink.name);
    settings
        .sinks
        .iter()
        .map(|sink| match view(sink) {
            Some(view) => stored_sink(view, Some(sink), pauses.get(&sink.name)),
            None => new_sink(sink, accounts),
        })
        .collect()
}

/// The sinks of the settings, then those that are no longer in them. One whose secret this user cannot read is
/// neither.
pub(super) fn all_sinks(
    settings: &Settings,
    views: &[SinkOverview],
    accounts: &[AccountRow],
    pauses: &BTreeMap<String, SinkPause>,
) -> Vec<SinkStatus> {
    let mut sinks = configured_sinks(settings, views, accounts, pauses);
    let is_named =
        |name: &str| settings.sinks.iter().any(|sink| sink.name == name) || settings.unreadable_sinks.contains(name);
    let removed = views.iter().filter(|view| !is_named(&view.row.name));
    sinks.extend(removed.map(|view| stored_sink(view, None, None)));
    sinks
}

/// A sink that no daemon has seen yet. It starts with all stored artifacts if it starts at the
/// beginning of the archive.
fn new_sink(sink: &Sink, accounts: &[AccountRow]) -> SinkStatus {
    let wanted = accounts.iter().filter(|account| accepts_account(Some(sink), &account.id.sub));
    let stored: u64 = wanted.map(|account| u64::try_from(account.feed).unwrap_or(0)).sum();
    SinkStatus {
        name: sink.name.clone(),
        kind: Some(type_name(&sink.kind)),
        state: SinkState::New,
        pending: if sink.start == SinkStart::Beginning { stored } else { 0 },
        waiting: 0,
        failed: 0,
        failed_since: None,
        delivered: 0,
        last_delivered: None,
        since: None,
        resting_until: None,
        reason: None,
    }
}

fn stored_sink(view: &SinkOverview, sink: Option<&Sink>, pause: Option<&SinkPause>) -> SinkStatus {
    let waiting: u64 = view.accounts.iter().map(|account| account.waiting).sum();
    let behind =
        view.accounts.iter().filter(|account| accepts_account(sink, &account.sub)).map(|account| account.behind);
    let (state, since, reason) = match (sink, view.row.stopped, pause) {
        (None, ..) => (SinkState::NotInTheSettings, None, None),
        (_, Some(stopped), _) => (SinkState::Stopped, Some(stopped), view.row.reason.clone()),
        (_, None, Some(pause)) => (SinkState::Resting, Some(pause.since), Some(pause.reason.clone())),
        (_, None, None) => (SinkState::Active, None, None),
    };
    SinkStatus {
        name: view.row.name.clone(),
        kind: sink.map(|sink| type_name(&sink.kind)),
        state,
        pending: behind.sum::<u64>() + waiting,
        waiting,
        failed: view.accounts.iter().map(|account| account.failed).sum(),
        failed_since: view.accounts.iter().filter_map(|account| account.failed_since).min(),
        delivered: view.accounts.iter().map(|account| account.delivered).sum(),
        last_delivered: view.accounts.iter().filter_map(|account| account.last_delivered).max(),
        since,
        resting_until: pause.filter(|_| state == SinkState::Resting).map(|pause| pause.until),
        reason,
    }
}

fn accepts_account(sink: Option<&Sink>, sub: &str) -> bool {
    sink.is_none_or(|sink| sink.accounts.is_empty() || sink.accounts.contains(sub))
}

fn type_name(kind: &SinkKind) -> &'static str {
    match kind {
        SinkKind::Jsonl { .. } => "jsonl",
        SinkKind::Webhook(_) => "webhook",
        SinkKind::ObjectStore { .. } | SinkKind::Lake(_) => "object_store",
    }
}
