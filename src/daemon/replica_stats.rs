//! The row and the figures that a replica writes with each heartbeat.

use std::time::Duration;

use super::app_context::AppContext;
use crate::account::Account;
use crate::broken_answers::BrokenStreak;
use crate::clock::Time;
use crate::db::ReplicaRow;
use crate::health::{BrokenAnswerStats, Finding, FindingCode, MetadataStall, Severity};
use crate::read_progress::Stall;
use crate::ringcx::LoginState;
use crate::status::{AccountStats, ReplicaStats, planning_rules};

/// The replica's row. `released` is set once the replica has released all accounts.
pub(crate) fn replica_row(context: &AppContext, started: Time, released: Option<Time>) -> ReplicaRow {
    ReplicaRow {
        name: context.settings.database.instance.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started,
        heartbeat: context.clock.now(),
        released,
        stats: serde_json::to_string(&replica_stats(context)).unwrap_or_default(),
    }
}

/// The figures that only this process has.
pub(crate) fn replica_stats(context: &AppContext) -> ReplicaStats {
    let (now, tick) = (context.clock.now(), context.clock.tick());
    let max_interval = planning_rules(&context.settings, None).max_live_interval();
    let stalled = |stall: Stall| MetadataStall {
        since: now - stall.duration,
        lasting: stall.blocks_progress,
        reason: stall.reason,
        hint: stall.hint,
    };
    let broken = |streak: BrokenStreak| {
        let (since, reason) = (now - streak.duration, streak.reason.to_owned());
        (streak.artifact.name().to_owned(), BrokenAnswerStats { since, answers: streak.answers, reason })
    };
    let account_stats = |account: &Account| {
        let usage = account.pacer.usage();
        AccountStats {
            running: account.stats.in_flight(),
            requests_last_minute: usage.sent_last_minute,
            refused: usage.refused_total + account.stats.metadata_rate_limited(),
            broken: account.stats.broken_answers.lasting_streaks(tick).into_iter().map(broken).collect(),
            stalled: account.stats.reads.find_stall(tick, max_interval).map(stalled),
            by_lane: account.stats.requests_by_lane(tick).filter(|(_, sent)| *sent > 0).collect(),
            paused_until: usage.paused_until.map(|until| (now + until.since(tick)).rfc3339()),
        }
    };
    let login = login_finding(context.login.state(), now);
    const MINUTE: Duration = Duration::from_secs(60);
    let speed = (MINUTE.as_secs_f64() / context.clock.real(MINUTE).as_secs_f64().max(0.001)).round() as u32;
    ReplicaStats {
        speed: (speed != 1).then_some(speed),
        findings: context.findings.list().into_iter().chain(login).collect(),
        sinks: context.sinks.snapshot().into_iter().collect(),
        accounts: context
            .accounts()
            .iter()
            .map(|account| (account.id.sub.to_string(), account_stats(account)))
            .collect(),
    }
}

/// How long a login may be unreachable before it counts as blocking progress.
const LOGIN_FAILURE_GRACE: Duration = Duration::from_secs(600);

/// The finding of a failing login.
fn login_finding(state: LoginState, now: Time) -> Option<Finding> {
    let LoginState::Failing { since, refused, message, hint, .. } = state else { return None };
    let blocks_progress = refused || now.since(since) >= LOGIN_FAILURE_GRACE;
    let hint = match (hint, refused) {
        (Some(hint), _) => hint,
        (None, true) => "check the credentials in [auth]; credential files are read again automatically",
        (None, false) => {
            "no action needed: the login is retried automatically; if the failure lasts, check the network and [api]"
        }
    };
    let code = if refused { FindingCode::LoginRefused } else { FindingCode::LoginFailing };
    let severity = if blocks_progress { Severity::Trouble } else { Severity::Warning };
    Some(Finding::new(code, severity, since, message, hint).blocking(blocks_progress))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_login_is_trouble_after_ten_minutes_and_a_refused_login_at_once() {
        let failing = |refused, seconds| {
            let message = "failed to log in".to_owned();
            let state = LoginState::Failing { since: Time(0), refused, message, hint: Some("wait"), last_ok: None };
            let finding = login_finding(state, Time::from_secs(seconds)).unwrap();
            (finding.code, finding.severity, finding.blocks_progress)
        };
        assert_eq!(failing(false, 599), (FindingCode::LoginFailing, Severity::Warning, false));
        assert_eq!(failing(false, 600), (FindingCode::LoginFailing, Severity::Trouble, true));
        assert_eq!(failing(true, 0), (FindingCode::LoginRefused, Severity::Trouble, true));
        assert_eq!(login_finding(LoginState::NeverTried, Time(0)), None);
    }
}
