//! What a replica says of itself with each sign of life.

use std::time::Duration;

use super::shared::Shared;
use crate::account::Account;
use crate::broken_answers::BrokenStreak;
use crate::clock::Time;
use crate::db::ReplicaRow;
use crate::deliver::Resting;
use crate::health::{Finding, Severity};
use crate::read_progress::Stall;
use crate::ringcx::LoginState;
use crate::status::{AccountStats, Broken, FindingStatus, ReplicaStats, SinkRest, Stalled, rules};

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
    let pace = rules(&shared.settings, None).live_pace();
    let stalled = |stall: Stall| Stalled {
        since: (now - stall.lasts).rfc3339_secs(),
        lasting: stall.is_lasting,
        reason: stall.reason,
        hint: stall.hint,
    };
    let broken = |streak: BrokenStreak| {
        let (since, reason) = ((now - streak.lasts).rfc3339_secs(), streak.reason.to_owned());
        (streak.artifact.name().to_owned(), Broken { since, answers: streak.answers, reason })
    };
    let of = |account: &Account| {
        let usage = account.pacer.usage();
        AccountStats {
            running: account.live.running(),
            requests_last_minute: usage.sent_last_minute,
            refused: usage.refused_total + account.live.metadata_refused(),
            broken: account.live.broken.lasting(tick).into_iter().map(broken).collect(),
            stalled: account.live.reads.stall(tick, pace).map(stalled),
            by_lane: account.live.by_lane(tick).filter(|(_, sent)| *sent > 0).collect(),
            paused_until: usage.paused_until.map(|until| (now + until.since(tick)).rfc3339()),
        }
    };
    let rest = |(name, resting): (String, Resting)| {
        let (since, until) = (resting.since.rfc3339_secs(), resting.until.rfc3339_secs());
        (name, SinkRest { since, until, reason: resting.reason })
    };
    let login = login_finding(shared.login.state(), now);
    const MINUTE: Duration = Duration::from_secs(60);
    let speed = (MINUTE.as_secs_f64() / shared.clock.real(MINUTE).as_secs_f64().max(0.001)).round() as u32;
    ReplicaStats {
        speed: (speed != 1).then_some(speed),
        findings: shared.findings.list().into_iter().chain(login).map(FindingStatus::from).collect(),
        sinks: shared.sinks.resting().into_iter().map(rest).collect(),
        accounts: shared.accounts().iter().map(|account| (account.id.sub.to_string(), of(account))).collect(),
    }
}

/// A login that is merely out of reach needs a person, or ends what goes on without it, after so long.
const LOGIN_LASTING: Duration = Duration::from_secs(600);

/// What a login that fails is told of as.
fn login_finding(state: LoginState, now: Time) -> Option<Finding> {
    let LoginState::Failing { since, refused, message, hint, .. } = state else { return None };
    let blocks_progress = refused || now.since(since) >= LOGIN_LASTING;
    let hint = match (hint, refused) {
        (Some(hint), _) => hint,
        (None, true) => "check the credentials in [auth]; files are read again by themselves",
        (None, false) => "nothing to do: it is tried again by itself; if it lasts, check the network and [api]",
    };
    Some(Finding {
        code: if refused { "login_refused" } else { "login_failing" },
        severity: if blocks_progress { Severity::Trouble } else { Severity::Warning },
        since,
        subject: None,
        sentence: message,
        hint: hint.to_owned(),
        blocks_progress,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_out_of_reach_is_trouble_after_ten_minutes_and_one_that_is_refused_at_once() {
        let failing = |refused, seconds| {
            let message = "failed to log in".to_owned();
            let state = LoginState::Failing { since: Time(0), refused, message, hint: Some("wait"), last_ok: None };
            let finding = login_finding(state, Time::from_secs(seconds)).unwrap();
            (finding.code, finding.severity, finding.blocks_progress)
        };
        assert_eq!(failing(false, 599), ("login_failing", Severity::Warning, false));
        assert_eq!(failing(false, 600), ("login_failing", Severity::Trouble, true));
        assert_eq!(failing(true, 0), ("login_refused", Severity::Trouble, true));
        assert_eq!(login_finding(LoginState::NeverTried, Time(0)), None);
    }
}
