//! What a replica says of itself with each sign of life.

use super::shared::Shared;
use crate::account::Account;
use crate::clock::Time;
use crate::db::ReplicaRow;
use crate::deliver::Resting;
use crate::status::{AccountStats, ReplicaStats, SinkRest};

/// The replica's row; `released` once nothing of it is under way any more.
pub fn row(shared: &Shared, started: Time, released: Option<Time>) -> ReplicaRow {
    ReplicaRow {
        name: shared.settings.database.instance.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started,
        heartbeat: shared.clock.now(),
        released,
        stats: serde_json::to_string(&stats(shared)).unwrap_or_default(),
    }
}

/// The figures that only this process knows.
pub fn stats(shared: &Shared) -> ReplicaStats {
    let (now, tick) = (shared.clock.now(), shared.clock.tick());
    let of = |account: &Account| {
        let usage = account.pacer.usage();
        AccountStats {
            running: account.live.running(),
            requests_last_minute: usage.sent_last_minute,
            refused: usage.refused_total,
            by_lane: account.live.by_lane(tick).filter(|(_, sent)| *sent > 0).collect(),
            paused_until: usage.paused_until.map(|until| (now + until.since(tick)).rfc3339()),
        }
    };
    let rest = |(name, resting): (String, Resting)| {
        let (since, until) = (resting.since.rfc3339_secs(), resting.until.rfc3339_secs());
        (name, SinkRest { since, until, reason: resting.reason })
    };
    ReplicaStats {
        sinks: shared.sinks.resting().into_iter().map(rest).collect(),
        accounts: shared.accounts().iter().map(|account| (account.id.sub.to_string(), of(account))).collect(),
    }
}
