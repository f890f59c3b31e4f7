//! How sinks stand: from rows and what the daemons say of them. Pure.

use std::collections::BTreeMap;

use super::{SinkRest, SinkState, SinkStatus};
use crate::clock::Time;
use crate::config::{Settings, Sink, SinkKind, SinkStart};
use crate::db::{AccountRow, SinkView};

/// Those of the settings, in their order.
pub(super) fn configured(
    settings: &Settings,
    views: &[SinkView],
    accounts: &[AccountRow],
    rests: &BTreeMap<String, SinkRest>,
) -> Vec<SinkStatus> {
    let view = |sink: &Sink| views.iter().find(|view| view.row.name == sink.name);
    settings
        .sinks
        .iter()
        .map(|sink| match view(sink) {
            Some(view) => known(view, Some(sink), rests.get(&sink.name)),
            None => unseen(sink, accounts),
        })
        .collect()
}

/// Those of the settings, then the others.
pub(super) fn all(
    settings: &Settings,
    views: &[SinkView],
    accounts: &[AccountRow],
    rests: &BTreeMap<String, SinkRest>,
) -> Vec<SinkStatus> {
    let mut all = configured(settings, views, accounts, rests);
    let gone = views.iter().filter(|view| settings.sinks.iter().all(|sink| sink.name != view.row.name));
    all.extend(gone.map(|view| known(view, None, None)));
    all
}

/// One that no daemon has seen yet: what it will begin with, where it begins with the archive's first artifact.
fn unseen(sink: &Sink, accounts: &[AccountRow]) -> SinkStatus {
    let wanted = accounts.iter().filter(|account| wants(Some(sink), &account.id.sub));
    let stored: u64 = wanted.map(|account| u64::try_from(account.feed).unwrap_or(0)).sum();
    SinkStatus {
        name: sink.name.clone(),
        kind: Some(type_name(&sink.kind)),
        state: SinkState::New,
        pending: if sink.start == SinkStart::Beginning { stored } else { 0 },
        waiting: 0,
        failed: 0,
        delivered: 0,
        last_delivered: None,
        since: None,
        resting_until: None,
        reason: None,
    }
}

fn known(view: &SinkView, sink: Option<&Sink>, rest: Option<&SinkRest>) -> SinkStatus {
    let waiting: u64 = view.accounts.iter().map(|account| account.waiting).sum();
    let behind = view.accounts.iter().filter(|account| wants(sink, &account.sub)).map(|account| account.behind);
    let (state, since, reason) = match (sink, view.row.stopped, rest) {
        (None, ..) => (SinkState::NotInTheSettings, None, None),
        (_, Some(stopped), _) => (SinkState::Stopped, Some(stopped.rfc3339_secs()), view.row.reason.clone()),
        (_, None, Some(rest)) => (SinkState::Resting, Some(rest.since.clone()), Some(rest.reason.clone())),
        (_, None, None) => (SinkState::Active, None, None),
    };
    SinkStatus {
        name: view.row.name.clone(),
        kind: sink.map(|sink| type_name(&sink.kind)),
        state,
        pending: behind.sum::<u64>() + waiting,
        waiting,
        failed: view.accounts.iter().map(|account| account.failed).sum(),
        delivered: view.accounts.iter().map(|account| account.delivered).sum(),
        last_delivered: view.accounts.iter().filter_map(|account| account.last_delivered).max().map(Time::rfc3339_secs),
        since,
        resting_until: rest.filter(|_| state == SinkState::Resting).map(|rest| rest.until.clone()),
        reason,
    }
}

fn wants(sink: Option<&Sink>, sub: &str) -> bool {
    sink.is_none_or(|sink| sink.accounts.is_empty() || sink.accounts.contains(sub))
}

fn type_name(kind: &SinkKind) -> &'static str {
    match kind {
        SinkKind::Jsonl { .. } => "jsonl",
        SinkKind::Webhook { .. } => "webhook",
        SinkKind::ObjectStore { .. } => "object_store",
    }
}
